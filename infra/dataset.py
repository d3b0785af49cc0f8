"""Dataset versions: immutable folders of Parquet shards whose `manifest.json` is written last, so "exists" means "complete".

A version is named by its recipe (inputs, config, code, libraries); its `digest` is the hash of its shard digests, so equal
bytes have equal digests whoever made them. Each finished shard leaves a receipt (counts, digest), which is what a resume
after a kill reads. Between steps travels a `ShardSet`, a small frozen description, never the data. Reading a shard checks its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from blake3 import blake3
from pydantic import BaseModel, ConfigDict

from infra import storage
from infra.errors import GristmillError, InputError
from infra.ids import digest_of
from infra.settings import settings

MANIFEST = "manifest.json"
RUN = "run.json"
"""When, where and by which code a version was made: beside the manifest, and no part of its digest."""
GUARD: dict[str, Any] = {"guard": True}
"""As `json_schema_extra` of a field of a step's configuration: it is no part of the recipe, for it decides only whether the step may begin,
or by what means and for what money it is made."""
SETTINGS = "settings"
"""Key of RUN: the fields that GUARD marks, as they were when the version was finished."""
ELSEWHERE = "elsewhere"
"""Key there: the folders of inputs that are not below the storage root, by the names that the recipe has for them."""
REJECTS = "rejects"
MANIFEST_FORMAT = 1
# zstd level 3: the knee of size against time; Arrow's default row group would hold a whole shard in memory at once
PARQUET_OPTIONS: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "row_group_size": 16_384}
EXCERPT_CHARS = 300
DIGEST_BYTES = 16

REJECTS_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
        ("excerpt", pa.string()),
    ]
)


class ShardCorrupt(GristmillError):
    """A shard whose bytes are not those its manifest names: (path, what is wrong)."""

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.args[1]}; remove the version's folder and run again: only this step and what follows is rebuilt"
        )

    @property
    def path(self) -> str:
        """The shard's file."""
        return str(self.args[0])


class VersionConflict(InputError):
    """A folder that already holds a version made by another recipe."""


class Counts(BaseModel):
    """What a step did with its rows: `total` = `kept` + the sum of `dropped`, which is keyed by rule."""

    model_config = ConfigDict(frozen=True)

    total: int = 0
    kept: int = 0
    dropped: dict[str, int] = {}

    @classmethod
    def summed(cls, many: Iterable[Counts]) -> Counts:
        """The counts of several shards together; rules in alphabetical order."""
        total = kept = 0
        dropped: dict[str, int] = {}
        for one in many:
            total, kept = total + one.total, kept + one.kept
            for rule, count in one.dropped.items():
                dropped[rule] = dropped.get(rule, 0) + count
        return cls(total=total, kept=kept, dropped=dict(sorted(dropped.items())))


class FileEntry(BaseModel):
    """A file of a version that is not a Parquet shard: a tokeniser, model weights, a page."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    num_bytes: int


class Receipt(BaseModel):
    """What one finished shard holds; written after the shard's files."""

    model_config = ConfigDict(frozen=True)

    index: int
    digest: str
    num_bytes: int
    num_rows: int
    counts: Counts
    rejects_digest: str | None = None
    facts: dict[str, float] = {}
    files: tuple[FileEntry, ...] = ()
    """What belongs to the shard beside its table: if one of them is lost, the shard is made again."""

    @property
    def name(self) -> str:
        """The shard's file name."""
        return part_name(self.index)


class Manifest(BaseModel):
    """Everything that follows from the recipe alone; times, hosts and energy are in `run.json`."""

    model_config = ConfigDict(frozen=True)

    format: int = MANIFEST_FORMAT
    step: str
    version: str
    digest: str
    schema_name: str
    recipe: dict[str, Any]
    counts: Counts
    shards: tuple[Receipt, ...] = ()
    files: tuple[FileEntry, ...] = ()
    facts: dict[str, Any] = {}


@dataclass(frozen=True)
class Outcome:
    """What a worker makes of one shard: rows kept, rows rejected (REJECTS_SCHEMA), and summable facts."""

    kept: pa.Table
    rejects: pa.Table | None = None
    facts: dict[str, float] = field(default_factory=dict)
    rows_per_group: int | None = None
    """Rows in one row group of the shard's file, where it is read in parts; by default those of all files."""
    hashes: tuple[str, ...] = ()
    """Columns that no compression makes smaller, as Parquet calls them: they are written as they are."""
    files: tuple[FileEntry, ...] = ()
    """Files that the worker has written into the shard's folder, and that belong to it as its table does."""


@dataclass(frozen=True)
class ShardRef:
    """One shard of a version: where it is and which bytes it must hold."""

    path: str
    digest: str
    index: int
    num_rows: int
    left_out: frozenset[str] = frozenset()
    """Ids of documents that `read` leaves out: those that ended every worker that took them."""

    def read(self, columns: Sequence[str] | None = None, *, without: Collection[str] = ()) -> pa.Table:
        """The shard's rows.

        Args:
            columns: those to read; by default all.
            without: those that are not read, where `columns` names none.

        Raises:
            ShardCorrupt: the file is gone, its bytes are not those of the manifest, or a column is missing.
        """
        data = self._bytes()
        try:
            if columns is None and without:
                columns = [name for name in pq.read_schema(pa.BufferReader(data)).names if name not in without]
            table = pq.read_table(pa.BufferReader(data), columns=list(columns) if columns is not None else None)
        except (KeyError, pa.ArrowInvalid) as error:
            raise ShardCorrupt(self.path, str(error)) from error
        return self.beside(table)

    def beside(self, table: pa.Table) -> pa.Table:
        """The rows of a table that lies row by row beside the whole shard, without those of documents that are left out."""
        if not self.left_out:
            return table
        ids = pq.read_table(pa.BufferReader(self._bytes()), columns=["doc_id"])["doc_id"]
        return table.filter(pc.invert(pc.is_in(ids, pa.array(sorted(self.left_out), pa.string()))))

    def _bytes(self) -> bytes:
        return _checked(self.path, self.digest)


def _checked(path: str, digest: str) -> bytes:
    """A file's bytes, if they are those of the manifest."""
    try:
        data = storage.read_bytes(path)
    except storage.StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise  # a store that does not answer says nothing about the file
        raise ShardCorrupt(path, "no such file, though the manifest names it") from error
    if (found := bytes_digest(data)) != digest and _older_digest(data) != digest:
        raise ShardCorrupt(path, f"digest {found} where the manifest says {digest}")
    return data


class ShardSet(BaseModel):
    """A dataset version as it travels between steps, flows and machines: a name and its facts, never the data."""

    model_config = ConfigDict(frozen=True)

    step: str
    version: str
    path: str
    """Folder of the version: below the storage root, or absolute."""
    schema_name: str
    digest: str
    counts: Counts
    num_shards: int

    @property
    def folder(self) -> str:
        """The folder as this machine reaches it."""
        return folder_of(self.path)

    def manifest(self) -> Manifest:
        """The version's manifest, read afresh."""
        return read_manifest(self.folder)

    def shards(self) -> list[ShardRef]:
        """Its shards in order."""
        return shard_refs(self.folder, self.manifest().shards)

    def file(self, name: str) -> str:
        """Path of one of its files that is not a shard."""
        return storage.join(self.folder, name)

    def read_file(self, name: str) -> bytes:
        """The bytes of one of its files that is not a shard.

        Raises:
            KeyError: its manifest names no such file.
            ShardCorrupt: the file is gone, or its bytes are not those of the manifest.
        """
        return _checked(self.file(name), {entry.name: entry.digest for entry in self.manifest().files}[name])


def shard_refs(folder: str, receipts: Sequence[Receipt]) -> list[ShardRef]:
    """The shards that these receipts describe."""
    return [ShardRef(storage.join(folder, one.name), one.digest, one.index, one.num_rows) for one in receipts]


def folder_of(path: str) -> str:
    """Where this machine reaches a version whose path travelled: below its own storage root, unless it is absolute."""
    return path if path.startswith("/") or "://" in path else storage.join(settings().store, path)


def part_name(index: int) -> str:
    """File name of shard `index`."""
    return f"part-{index:05d}.parquet"


def bytes_digest(data: bytes | memoryview) -> str:
    """32 hex characters over a file's bytes: BLAKE3, which goes through them six times as fast as what Python comes with."""
    return blake3(data).hexdigest(length=DIGEST_BYTES)


def _older_digest(data: bytes | memoryview) -> str:
    """The same as versions have it that were made before: BLAKE2b."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def file_entry(folder: str, name: str) -> FileEntry:
    """Describe a file of a version by its bytes, read in blocks of 4 MiB."""
    state = blake3()
    num_bytes = _feed(state, storage.join(folder, name))
    return FileEntry(name=name, digest=state.hexdigest(length=DIGEST_BYTES), num_bytes=num_bytes)


def _feed(state: Any, path: str) -> int:
    """Give a file to a hash; its size in bytes."""
    num_bytes = 0
    with storage.open_read(path) as handle:
        while block := handle.read(1 << 22):
            state.update(block)
            num_bytes += len(block)
    return num_bytes


def write_table(path: str, table: pa.Table, rows_per_group: int | None = None, hashes: Sequence[str] = ()) -> tuple[str, int]:
    """Write one Parquet file atomically; returns its digest and size in bytes. For the options see `Outcome`."""
    data = encoded(table, rows_per_group, hashes)
    storage.write_bytes(path, data)
    return bytes_digest(data), len(data)


def encoded(table: pa.Table, rows_per_group: int | None = None, hashes: Sequence[str] = ()) -> memoryview:
    """The bytes of a table as a Parquet file of a version. For the options see `Outcome`."""
    sink = pa.BufferOutputStream()
    options = {**PARQUET_OPTIONS, **({"row_group_size": rows_per_group} if rows_per_group else {})}
    if hashes:
        others = [name for name in table.column_names if name not in {column.partition(".")[0] for column in hashes}]
        options |= {"compression": {**dict.fromkeys(others, "zstd"), **dict.fromkeys(hashes, "none")}, "use_dictionary": others}
        options["compression_level"] = dict.fromkeys(others, PARQUET_OPTIONS["compression_level"])
    # pandas metadata and the like would put volatile words into the bytes
    pq.write_table(table.replace_schema_metadata(None), sink, **options)
    return memoryview(sink.getvalue())


def write_shard(folder: str, index: int, outcome: Outcome) -> Receipt:
    """Write a shard's rows, its rejects, and last its receipt."""
    digest, num_bytes = write_table(storage.join(folder, part_name(index)), outcome.kept, outcome.rows_per_group, outcome.hashes)
    dropped: dict[str, int] = {}
    rejects_digest = None
    if outcome.rejects is not None and outcome.rejects.num_rows:
        rejects = outcome.rejects.cast(REJECTS_SCHEMA)
        rejects_digest, _ = write_table(storage.join(folder, REJECTS, part_name(index)), rejects)
        for entry in pc.value_counts(rejects["rule"]).to_pylist():
            dropped[str(entry["values"])] = int(entry["counts"])
    kept = outcome.kept.num_rows
    receipt = Receipt(
        index=index,
        digest=digest,
        num_bytes=num_bytes,
        num_rows=kept,
        counts=Counts(total=kept + sum(dropped.values()), kept=kept, dropped=dict(sorted(dropped.items()))),
        rejects_digest=rejects_digest,
        facts=dict(sorted(outcome.facts.items())),
        files=outcome.files,
    )
    storage.write_json(_receipt_path(folder, index), receipt.model_dump())
    return receipt


def finished_shards(folder: str, num_shards: int) -> dict[int, Receipt]:
    """Receipts of the shards that are complete: receipt there, files there, sizes as written."""
    finished: dict[int, Receipt] = {}
    for name in storage.list_folder(storage.join(folder, "shards")):
        if name.startswith(".") or not name.endswith(".json"):
            continue  # a kill can leave a receipt under its temporary name
        receipt = Receipt.model_validate(storage.read_json(storage.join(folder, "shards", name)))
        sizes = {receipt.name: receipt.num_bytes, **{file.name: file.num_bytes for file in receipt.files}}
        if receipt.index < num_shards and all(
            storage.size_bytes(storage.join(folder, name)) == num_bytes for name, num_bytes in sizes.items()
        ):
            finished[receipt.index] = receipt
    return finished


def guards(config: type[BaseModel]) -> set[str]:
    """The fields of a step's configuration that GUARD marks; who keeps several steps' together asks for each."""
    return {name for name, field in config.model_fields.items() if field.json_schema_extra == GUARD}


def version_of(recipe: dict[str, Any]) -> str:
    """16 hex characters over a recipe."""
    return digest_of("recipe", json.dumps(recipe, sort_keys=True, ensure_ascii=False))[:16]


def seal(
    folder: str,
    *,
    step: str,
    schema_name: str,
    recipe: dict[str, Any],
    receipts: Sequence[Receipt],
    files: Sequence[FileEntry],
    facts: dict[str, Any],
    counts: Counts | None = None,
) -> Manifest:
    """Complete a version: write its manifest, the last file of all."""
    ordered = sorted(receipts, key=lambda receipt: receipt.index)
    named = sorted(files, key=lambda entry: entry.name)
    manifest = Manifest(
        step=step,
        version=version_of(recipe),
        digest=digest_of("version", *(r.digest for r in ordered), *(part for e in named for part in (e.name, e.digest))),
        schema_name=schema_name,
        recipe=recipe,
        counts=counts or Counts.summed(receipt.counts for receipt in ordered),
        shards=tuple(ordered),
        files=tuple(named),
        facts=facts,
    )
    storage.write_json(storage.join(folder, MANIFEST), manifest.model_dump())
    return manifest


def read_manifest(folder: str) -> Manifest:
    """The manifest of a complete version.

    Raises:
        StorageError: none there, or of a format this code does not know.
    """
    path = storage.join(folder, MANIFEST)
    raw = storage.read_json(path)
    if not isinstance(raw, dict) or raw.get("format") != MANIFEST_FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else None
        raise storage.StorageError(f"{path}: manifest format {found!r}; this code reads {MANIFEST_FORMAT}")
    return Manifest.model_validate(raw)


def find(folder: str, version: str) -> Manifest | None:
    """The manifest of `version` in `folder` when it is complete with every file at its size; None when work is left.

    Raises:
        VersionConflict: the folder holds a complete version of another recipe.
    """
    if not storage.exists(storage.join(folder, MANIFEST)):
        return None
    manifest = read_manifest(folder)
    if manifest.version != version:
        raise VersionConflict(
            f"{folder}: holds {manifest.step} version {manifest.version}, made by another recipe than this one ({version}); "
            "give another folder or remove this one"
        )
    sizes = {entry.name: entry.num_bytes for entry in manifest.shards} | {entry.name: entry.num_bytes for entry in manifest.files}
    whole = all(storage.size_bytes(storage.join(folder, name)) == num_bytes for name, num_bytes in sizes.items())
    return manifest if whole else None


def damaged(folder: str, manifest: Manifest) -> list[str]:
    """Names of a version's files whose bytes are not those of its manifest, missing ones among them; reads all of them."""
    wanted = {
        **{shard.name: shard.digest for shard in manifest.shards},
        **{f"{REJECTS}/{shard.name}": shard.rejects_digest for shard in manifest.shards if shard.rejects_digest},
        **{file.name: file.digest for file in manifest.files},
    }
    with ThreadPoolExecutor() as threads:  # the hash leaves Python's lock
        sound = threads.map(lambda name: is_sound(folder, name, wanted[name]), wanted)
        return [name for name, holds in zip(wanted, sound, strict=True) if not holds]


def is_whole(version: ShardSet, name: str) -> bool:
    """Whether a version is complete, with the digest by which it is known, and one of its files has the bytes of its manifest."""
    if not storage.exists(storage.join(version.folder, MANIFEST)):
        return False
    manifest = version.manifest()
    wanted = {shard.name: shard.digest for shard in manifest.shards} | {file.name: file.digest for file in manifest.files}
    return manifest.digest == version.digest and name in wanted and is_sound(version.folder, name, wanted[name])


def is_sound(folder: str, name: str, digest: str) -> bool:
    """Whether a file is there and has this digest."""
    try:
        if file_entry(folder, name).digest == digest:
            return True
        older = hashlib.blake2b(digest_size=DIGEST_BYTES)
        _feed(older, storage.join(folder, name))
        return older.hexdigest() == digest
    except storage.StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise  # as in `ShardRef.read`: what is taken for damaged is removed
        return False


def reopen(folder: str, names: Iterable[str] = ()) -> None:
    """Take a version for unfinished: its manifest goes, and these files with their receipts, so that a step makes just them again."""
    storage.remove(storage.join(folder, MANIFEST))  # first: from here on it is not complete, whatever happens
    for name in names:
        if shard := re.fullmatch(rf"(?:{REJECTS}/)?part-(\d{{5,}})\.\w+", name):  # its table, its rejects, or a file beside it
            storage.remove(_receipt_path(folder, int(shard[1])))
        storage.remove(storage.join(folder, name))


def shard_set(folder: str, manifest: Manifest) -> ShardSet:
    """Describe a complete version; its path is relative where it lies below the storage root."""
    root = settings().store + "/"
    return ShardSet(
        step=manifest.step,
        version=manifest.version,
        path=folder[len(root) :] if folder.startswith(root) else folder,
        schema_name=manifest.schema_name,
        digest=manifest.digest,
        counts=manifest.counts,
        num_shards=len(manifest.shards),
    )


def open_version(folder: str) -> ShardSet:
    """The version in a folder, by its manifest."""
    return shard_set(folder, read_manifest(folder))


def opened(names: Any, elsewhere: Mapping[str, str] | None = None) -> Any:
    """The versions that a recipe names as inputs of a step, in the same lists.

    Args:
        elsewhere: folders of those that are not below the storage root, by name.

    Raises:
        StorageError: one is not there.
        InputError: one is there with other bytes.
    """
    if not isinstance(names, str):
        return [opened(one, elsewhere) for one in names]
    path, _, digest = names.partition("@")
    found = open_version((elsewhere or {}).get(names) or folder_of(path))
    if found.digest != digest:
        raise InputError(f"{found.folder}: has digest {found.digest} and not {digest}, which it was made from")
    return found


def opened_inputs(version: ShardSet) -> dict[str, Any]:
    """What a version was made from, by the names of its step's parameters: versions, or lists of them.

    Raises:
        StorageError, InputError: as `opened`.
    """
    elsewhere = _elsewhere(version)
    return {name: opened(names, elsewhere) for name, names in version.manifest().recipe["inputs"].items()}


def line_of(model: ShardSet) -> list[ShardSet]:
    """The models that a model was made from, each as the `model` of the next one: the first one first, itself last.

    Raises:
        StorageError, InputError: as `opened`.
    """
    line = [model]
    while isinstance(names := line[0].manifest().recipe["inputs"].get("model"), str):
        line.insert(0, opened(names, _elsewhere(line[0])))
    return line


def inputs_there(version: ShardSet) -> Iterator[ShardSet]:
    """The versions that a version was made from, as far as they are still there, whatever their digest is now."""
    elsewhere = _elsewhere(version)
    for given in version.manifest().recipe["inputs"].values():
        for name in [given] if isinstance(given, str) else given:
            with contextlib.suppress(storage.StorageError):
                yield open_version(elsewhere.get(name) or folder_of(name.partition("@")[0]))


def _elsewhere(version: ShardSet) -> Mapping[str, str]:
    run = version.file(RUN)
    found: Mapping[str, str] = storage.read_json(run).get(ELSEWHERE, {}) if storage.exists(run) else {}
    return found


def name_of(version: ShardSet) -> str:
    """How a recipe names a version."""
    return f"{version.step}/{version.version}@{version.digest}"


def flattened(inputs: Sequence[ShardSet | Sequence[ShardSet]]) -> Iterator[ShardSet]:
    """The versions among a step's inputs, one by one."""
    for given in inputs:
        if isinstance(given, ShardSet):
            yield given
        else:
            yield from given


def named(what: ShardSet | str) -> ShardSet:
    """A version given as such, or by its path below the storage root, as in `publish/0123456789abcdef`.

    Raises:
        StorageError: none there.
    """
    return what if isinstance(what, ShardSet) else open_version(folder_of(what))


def dataset(folder: str, *, rejects: bool = False) -> pads.Dataset | None:
    """All shards of a folder as one lazy Arrow dataset, for look-ups and reports; None where there are none."""
    where = storage.join(folder, REJECTS) if rejects else folder
    return of_files(part_paths(where))


def part_paths(folder: str) -> list[str]:
    """The shards of a folder that are there, in order."""
    names = storage.list_folder(folder)
    return [storage.join(folder, name) for name in names if name.startswith("part-") and name.endswith(".parquet")]


def of_files(paths: Sequence[str]) -> pads.Dataset | None:
    """Parquet files of one store as one lazy Arrow dataset; None where there are none."""
    if not paths:
        return None
    if storage.is_local(paths[0]):
        return pads.dataset(list(paths), format="parquet")
    system, _ = storage.locate(paths[0])
    return pads.dataset([storage.locate(path)[1] for path in paths], format="parquet", filesystem=system)


def rejects_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Reject rows from dictionaries; missing fields are null, excerpts are cut to EXCERPT_CHARS."""
    full = [{name: row.get(name) for name in REJECTS_SCHEMA.names} for row in rows]
    for row in full:
        row["excerpt"] = row["excerpt"][:EXCERPT_CHARS] if row["excerpt"] else None
    return pa.Table.from_pylist(full, schema=REJECTS_SCHEMA)


def _receipt_path(folder: str, index: int) -> str:
    return storage.join(folder, "shards", f"{index:05d}.json")
