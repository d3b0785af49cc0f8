"""Rows that are text already, as documents: JSONL (plain, gzip, zstd), Parquet, text files, and anything `datasets` loads.

The plan cuts big files into pieces and gathers small ones, from names and sizes alone, so that the same files give the same shards on
any number of workers. A row without usable text is a reject with its reason, a broken line too; a file without the column, or one that
cannot be decompressed to its end, is an error that names it. JSONL costs about 4 ms a megabyte to parse, the ids of its texts 25 ms.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, field_validator

from expectations.schemas import DOCUMENTS
from infra.dataset import rejects_table
from infra.errors import InputError
from infra.ids import content_id, doc_id, payload_digest, text_digest
from infra.storage import LocalPath
from tasks.web.urls import UrlError, canonical, host_of

JSONL = (".jsonl", ".ndjson", ".json")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
TEXT = (".txt", ".md")


class Fields(BaseModel):
    """Names of the fields that a row brings; all but the text may be absent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = "text"
    """Field with the document's text."""
    url: str = "url"
    """Field with the address the text came from."""
    id: str = "id"
    """Field with the source's own key of the row."""
    source: str = "source"
    """Field with the name of the row's source; where absent, the source's name of this configuration."""


class FolderSource(BaseModel):
    """A file or a folder of JSONL (plain, .gz, .zst), .json (a row a line or one array), Parquet, .txt or .md files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["folder"]
    name: str = "folder"
    """Name of this source; part of every document's id."""
    path: LocalPath
    """File or folder, searched with its sub-folders."""
    fields: Fields = Fields()
    """Which fields of a row are used."""


class DatasetSource(BaseModel):
    """A dataset that `datasets.load_dataset` loads, by its hub name or from a local path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dataset"]
    name: str = "dataset"
    """Name of this source; part of every document's id."""
    dataset: str
    """Hub name (owner/name) or local folder."""
    subset: str | None = None
    """Configuration of the dataset, where it has several."""
    split: str = "train"
    """Split to read."""
    fields: Fields = Fields()
    """Which fields of a row are used."""

    @field_validator("dataset")
    @classmethod
    def _absolute_if_local(cls, dataset: str) -> str:
        return str(Path(dataset).absolute()) if Path(dataset).exists() else dataset


Source = Annotated[FolderSource | DatasetSource, Field(discriminator="kind")]


class IngestConfig(BaseModel):
    """Sources whose rows are text already."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot: str = "first"
    """Label of this import; another label is another snapshot of the same files."""
    sources: tuple[Source, ...] = ()
    """What to import."""
    shard_bytes: int = Field(64_000_000, ge=1)
    """Bytes of input per shard: bounds a worker's memory to about five times this. A compressed file is one shard, however big."""


@dataclass(frozen=True)
class Piece:
    """A part of a source: bytes `start` to `stop` of a JSONL file, row groups of Parquet, rows of a dataset, or a whole file."""

    source: int
    path: str
    start: int
    stop: int
    num_bytes: int


def files_of(path: str) -> list[Path]:
    """The usable files of a file or folder, in order of their names.

    Raises:
        InputError: no such file or folder, or nothing usable in it.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise InputError(f"{path}: no such file or folder")
    found = [root] if root.is_file() else sorted(one for one in root.rglob("*") if one.is_file() and _kind(one))
    if not found or not _kind(found[0]):
        kinds = ", ".join((*JSONL, *(JSONL[0] + end for end in COMPRESSED), ".parquet", *TEXT))
        raise InputError(f"{path}: no file that can be read; these kinds can: {kinds}")
    for file in found:
        if _word(file) != str(file):
            raise InputError(f"{_word(file)}: a file name that is not UTF-8; rename it")
    return found


def other_files(path: str) -> list[Path]:
    """The files of a folder that no reader takes, hidden ones aside, in order of their names."""
    root = Path(path).expanduser()
    found = sorted(one for one in root.rglob("*") if one.is_file() and not _kind(one))
    return [one for one in found if not any(part.startswith(".") for part in one.relative_to(root).parts)]


def fingerprint(config: IngestConfig) -> dict[str, str]:
    """{file: size and time} of every local file, so that a changed folder is another version."""
    seen = {}
    for source in config.sources:
        local = source.path if isinstance(source, FolderSource) else source.dataset
        if isinstance(source, FolderSource) or Path(local).exists():
            root = Path(local).expanduser()
            files = (
                files_of(local) if isinstance(source, FolderSource) else sorted(one for one in root.rglob("*") if one.is_file())
            )
            for file in files or [root]:
                facts = file.stat()
                seen[f"{source.name}:{file}"] = f"{facts.st_size}:{facts.st_mtime_ns}"
            if isinstance(source, FolderSource):
                seen |= {f"{source.name}:{_word(file)}": "not read" for file in other_files(local)}
    return seen


def plan(config: IngestConfig) -> list[list[Piece]]:
    """The pieces of each shard."""
    shards: list[list[Piece]] = []
    for index, source in enumerate(config.sources):
        pieces = (
            _file_pieces(index, source, config.shard_bytes) if isinstance(source, FolderSource) else _rows(index, source, config)
        )
        filled = config.shard_bytes + 1  # so that even an empty first file opens a shard
        for piece in pieces:
            if filled + piece.num_bytes > config.shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append(piece)
            filled += piece.num_bytes
    return shards


def read_piece(pieces: Sequence[Piece], config: IngestConfig) -> tuple[pa.Table, pa.Table]:
    """The documents and the rejects of one shard.

    Raises:
        InputError: a file lacks the text column.
    """
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for piece in pieces:
        for _, good in read_rows(piece, config):
            (rejects if "rule" in good else rows).append(good)
    return pa.Table.from_pylist(rows, schema=DOCUMENTS), rejects_table(rejects)


def read_rows(piece: Piece, config: IngestConfig) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every row of a piece, by the names of its source's `fields`, and what it is as a document, or as a reject with its `rule`.

    Raises:
        InputError: a file lacks the text column.
    """
    source = config.sources[piece.source]
    for row in _read(piece, source, source.fields.model_dump(), source.fields.text):
        yield row, _document(row, source, piece)


def numbered_rows(
    piece: Piece, source: FolderSource | DatasetSource, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row of a piece with its number in the file or dataset, from 0 and blank lines not counted: the columns named, as far as it has
    them, or {broken, raw, detail} where it cannot be read.
    """
    yield from enumerate(_read(piece, source, {name: name for name in columns}, None), _rows_before(piece, source))


def _document(row: dict[str, Any], source: FolderSource | DatasetSource, piece: Piece) -> dict[str, Any]:
    """A row as a document, or as a reject with its rule."""
    name = _word(row.get("source")) or source.name
    url, host = _address(row.get("url"))
    key = url or _word(row.get("id"))
    base = {"source": name, "url": key or piece.path}
    if "broken" in row:
        return {**base, "doc_id": payload_digest(row["raw"]), "rule": row["broken"], "detail": row["detail"]}
    text: Any = row.get("text")
    if problem := _unusable(text):
        payload = payload_digest(json.dumps(row, sort_keys=True, default=str).encode())
        return {**base, "doc_id": doc_id(name, key, payload), "rule": problem[0], "detail": f"{piece.path}: {problem[1]}"}
    payload = payload_digest(text.encode())
    return {
        "doc_id": doc_id(name, key or payload, payload),
        "content_id": content_id(text),
        "source": name,
        "url": key or f"{name}:{payload}",
        "host": host or name,
        "text": text,
        "text_digest": text_digest(text),
    }


def _unusable(text: Any) -> tuple[str, str] | None:
    """(rule, detail) where a row's text is none; a JSON escape can name half a surrogate pair, which no UTF-8 holds."""
    if not isinstance(text, str):
        return "no_text", "no text" if text is None else f"text is a {type(text).__name__}"
    if not text.strip():
        return "no_text", "blank text"
    if "\0" in text:
        return "broken_text", "text holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return "broken_text", f"text holds half a surrogate pair (character {error.start})"
    return None


def _word(value: Any) -> str:
    """A row's key, address or source as a string that UTF-8 holds."""
    return "" if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def _address(value: Any) -> tuple[str, str]:
    """(canonical URL, host) of a row's address, or the words that stand in its place."""
    given = _word(value)
    try:
        clean = canonical(given)
        return clean, host_of(clean)
    except UrlError:
        return given, ""


def _kind(path: Path) -> str:
    suffixes = [one.lower() for one in path.suffixes]
    last = suffixes[-1] if suffixes else ""
    if last in COMPRESSED and len(suffixes) > 1 and suffixes[-2] in JSONL:
        return "jsonl" + last
    return "jsonl" if last in JSONL else "parquet" if last == ".parquet" else "text" if last in TEXT else ""


def _file_pieces(index: int, source: FolderSource, shard_bytes: int) -> Iterator[Piece]:
    for file in files_of(source.path):
        size, kind = file.stat().st_size, _kind(file)
        if kind == "jsonl" and not _is_array(file):
            for start in range(0, max(size, 1), shard_bytes):
                stop = min(start + shard_bytes, size)
                yield Piece(index, str(file), start, stop, stop - start)
        elif kind == "parquet":
            facts = _parquet(file).metadata
            for group in range(facts.num_row_groups):
                yield Piece(index, str(file), group, group + 1, facts.row_group(group).total_byte_size)
        else:
            yield Piece(index, str(file), 0, size, size)
    for file in other_files(source.path):
        yield Piece(index, _word(file), 0, 0, 0)


def _rows(index: int, source: DatasetSource, config: IngestConfig) -> Iterator[Piece]:
    dataset = _load(source)
    num_rows = len(dataset)
    per_row = max(1, (dataset.data.nbytes if num_rows else 0) // max(num_rows, 1))
    step = max(1, config.shard_bytes // per_row)
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        yield Piece(index, source.dataset, start, stop, (stop - start) * per_row)


def _load(source: DatasetSource) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(source.dataset, source.subset, split=source.split)
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        why = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            f"ingest.sources: dataset {source.dataset!r}, split {source.split!r}: {why}; check the name, the split and the network, "
            "or give a local folder"
        ) from error


def _rows_before(piece: Piece, source: FolderSource | DatasetSource) -> int:
    """Rows of a file or dataset before those of a piece."""
    if not piece.start or isinstance(source, DatasetSource):
        return piece.start
    if _kind(Path(piece.path)) == "parquet":
        facts = _parquet(Path(piece.path)).metadata
        return sum(facts.row_group(group).num_rows for group in range(piece.start))
    return sum(1 for line in _lines(replace(piece, start=0, stop=piece.start), "jsonl") if line.strip())


def _read(
    piece: Piece, source: FolderSource | DatasetSource, wanted: Mapping[str, str], required: str | None
) -> Iterator[dict[str, Any]]:
    """Rows by the keys of `wanted`, whose values are the names of their fields, or {broken, raw, detail} where a row cannot be read."""
    if isinstance(source, DatasetSource):
        table = _load(source).select(range(piece.start, piece.stop)).with_format("arrow")[:]
        _require(required, table.column_names, piece.path)
        yield from _table_rows(table, wanted)
        return
    kind = _kind(Path(piece.path))
    if kind == "parquet":
        opened = _parquet(Path(piece.path))
        names = [name for name in wanted.values() if name in opened.schema_arrow.names]
        _require(required, opened.schema_arrow.names, piece.path)
        try:
            table = opened.read_row_groups(range(piece.start, piece.stop), columns=names)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{piece.path}: damaged Parquet file ({error}); copy it again or leave it out") from error
        yield from _table_rows(table, wanted)
    elif not kind:
        relative = Path(piece.path).relative_to(Path(source.path).expanduser()).as_posix()
        yield {
            "broken": "unknown_kind",
            "raw": _word(relative).encode(),
            "detail": f"no reader for {Path(piece.path).suffix or 'it'}",
        }
    elif kind == "text":
        raw = Path(piece.path).read_bytes()
        try:
            relative = Path(piece.path).relative_to(Path(source.path).expanduser()).as_posix()
            yield {"text": raw.decode("utf-8-sig"), "id": relative if relative != "." else Path(piece.path).name}
        except UnicodeDecodeError as error:
            yield {"broken": "not_utf8", "raw": raw, "detail": f"{piece.path}: {error}", "id": piece.path}
    else:
        yield from _json_rows(_lines(piece, kind), wanted, piece.path)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file ({error})") from error


def _require(text: str | None, names: Sequence[str], path: str) -> None:
    if text is not None and text not in names:
        raise InputError(f"{path}: no column {text!r}; it has {', '.join(names)}; name the one with the text in `fields.text`")


def _table_rows(table: pa.Table, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    columns = {key: name for key, name in wanted.items() if name in table.column_names}
    for batch in table.select(list(columns.values())).to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield {key: row[name] for key, name in columns.items()}


def _is_array(path: Path) -> bool:
    """Whether a `.json` file is one array of rows, as such sets are often published, and not a row a line."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".json" and file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _lines(piece: Piece, kind: str) -> Iterator[bytes]:
    """The whole lines that begin in the piece; of an array, its rows.

    Raises:
        InputError: a compressed file that is damaged or ends early, or an array that is no JSON.
    """
    if compression := COMPRESSED.get(kind.removeprefix("jsonl")):
        try:
            with pa.input_stream(piece.path, compression=compression) as stream:
                yield from io.BufferedReader(stream)
        except OSError as error:
            raise InputError(f"{piece.path}: cannot be decompressed ({error}); copy it again or leave it out") from error
    elif _is_array(Path(piece.path)):
        try:
            yield from (json.dumps(row).encode() for row in json.loads(Path(piece.path).read_bytes()))
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{piece.path}: begins as an array, but is no JSON ({error}); mend it, or write a row a line"
            ) from error
    else:
        with Path(piece.path).open("rb") as file:
            if piece.start:
                file.seek(piece.start - 1)
                file.readline()
            at = file.tell()
            while at < piece.stop and (line := file.readline()):
                at += len(line)
                yield line


def _json_rows(lines: Iterable[bytes], wanted: Mapping[str, str], path: str) -> Iterator[dict[str, Any]]:
    # not Arrow's reader: 25.0 takes two objects on a line for two rows, crashes on a line `null`, and is slower beside `_document`
    for raw in lines:
        line = raw.removesuffix(b"\n")
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            yield {"broken": "not_utf8", "raw": line, "detail": f"{path}: {error}"}
            continue
        except (ValueError, RecursionError) as error:  # also a number of too many digits
            yield {"broken": "broken_json", "raw": line, "detail": f"{path}: {error}: {line[:80]!r}"}
            continue
        if not isinstance(row, dict):
            yield {"broken": "not_an_object", "raw": line, "detail": f"{path}: {line[:80]!r}"}
            continue
        yield {key: row.get(name) for key, name in wanted.items()}
