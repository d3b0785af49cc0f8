"""Evaluation sets as the passages to look for: files of rows as lm-eval reads them, its task files, and held-out splits of our own.

A row is an item, a field of it a passage, a list of texts one passage each. Which fields make an item is configured, or known from the
names of the others (`SHAPES`); a prompt's own words ("Question:", "Answer:") are none of it, for no web page has them. Sets are small
beside a corpus: they are read whole, row by row.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra import storage
from infra.dataset import MANIFEST, ShardSet, bytes_digest, open_version
from infra.errors import InputError
from infra.ids import digest_of
from infra.storage import LocalPath

ROWS = (".jsonl", ".ndjson", ".json", ".parquet")
TASKS = (".yaml", ".yml")
KEYS = ("doc_id", "id", "question_id", "task_id", "pairID", "idx", "ind")
"""Fields by which a row may be called, the first that is there."""
SHAPES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("sentence_good", "sentence_bad"), ("sentence_good", "sentence_bad")),  # BLiMP
    (("context", "question", "answers"), ("question",)),  # SQuAD: its contexts are Wikipedia's
    (("passage", "question"), ("question",)),  # BoolQ, likewise
    (("question", "choices"), ("question",)),  # ARC, MMLU, CommonsenseQA; choices alone are often common words
    (("query", "choices"), ("query",)),
    (("ctx", "endings"), ("ctx",)),  # HellaSwag
    (("ctx", "choices"), ("ctx",)),
    (("question", "answer"), ("question", "answer")),  # GSM8K
    (("problem", "solution"), ("problem", "solution")),  # MATH
    (("prompt", "canonical_solution"), ("prompt", "canonical_solution")),  # HumanEval
    (("premise", "hypothesis"), ("premise", "hypothesis")),  # MNLI, CB
    (("premise", "choice1", "choice2"), ("premise",)),  # COPA
    (("sentence1", "sentence2"), ("sentence1", "sentence2")),  # RTE, MRPC
    (("goal", "sol1", "sol2"), ("goal",)),  # PIQA
    (("sentence", "option1", "option2"), ("sentence",)),  # WinoGrande
    (("query",), ("query",)),
    (("question",), ("question",)),
    (("ctx",), ("ctx",)),
    (("text",), ("text",)),
)
"""(fields that a row must have, fields that are its passages): the first that fits a set's first row is its shape."""
_BRACES = re.compile(r"\{([^{}]+)\}")
_JINJA = re.compile(r"\{\{-?(.*?)-?\}\}", re.DOTALL)
_FIELD = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\.\w+(?:\([^()]*\))?\s*|\[[^][]*\]\s*|\|\s*\w+(?:\([^()]*\))?\s*)*", re.ASCII)
"""An expression that is one field, with what is done to it: `.x`, `.method(…)`, `[…]`, `|filter(…)`."""


class EvaluationSet(BaseModel):
    """Items that a model will be measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What marks, rejects and certificates call it; best the name of the task."""
    path: LocalPath
    """A file of rows (.jsonl, .ndjson, .json, .parquet; .gz and .zst too), a folder of such, an lm-eval task file (.yaml) with local
    `data_files`, or the folder of a dataset version of ours. A URL of a store works as well."""
    fields: tuple[str, ...] = ()
    """Fields that are the passages of an item; `a.b` is b within a, `{a} {b}` the texts of both as one passage. Empty: as the set's shape,
    or its task file, says."""
    split: str = Field("test", min_length=1)
    """Which split of a version of ours is held out; one that is not split is looked for as a whole."""


@dataclass(frozen=True)
class Items:
    """An evaluation set, read."""

    name: str
    files: Mapping[str, str]
    """Digest of each of its files, by name."""
    fields: tuple[str, ...]
    """Which fields are its passages."""
    keys: tuple[str, ...]
    """What each item is called: a field of KEYS, or its place from 0 on."""
    item: tuple[int, ...]
    """The item of each passage."""
    field: tuple[str, ...]
    """The field of each passage."""
    passages: tuple[str, ...]
    held_out: str = ""
    """Of a version of ours: the split whose documents these items are, each called by its doc_id; empty for files of rows."""

    @property
    def digest(self) -> str:
        """One digest over its files."""
        return digest_of("evaluation set", *(part for name in sorted(self.files) for part in (name, self.files[name])))


def file_digests(wanted: EvaluationSet) -> dict[str, str]:
    """{file: digest} of everything that decides what the items are.

    Raises:
        InputError: there is no such file, or nothing to read in the folder.
    """
    if _is_version(wanted):
        return {MANIFEST: _version(wanted).digest}
    return _digests(list(_files(wanted)), wanted)


def read_set(wanted: EvaluationSet) -> Items:
    """The items of a set.

    Raises:
        InputError: a file is missing or damaged, a field is in no row, or there are no items; the message says what to do.
    """
    if _is_version(wanted):
        files, fields = {MANIFEST: _version(wanted).digest}, wanted.fields or ("text",)
        rows: list[tuple[str, dict[str, Any]]] = [(wanted.path, row) for row in _version_rows(wanted)]
        if not rows:
            raise _error(wanted, wanted.path, f"no document of this version is in split {wanted.split!r}; mend `split`")
    else:
        read = list(_files(wanted))
        files = _digests(read, wanted)
        fields = wanted.fields or _task_fields(wanted)
        rows = [(path, row) for path, raw in read if _is_rows(path) for row in _rows(path, raw, wanted)]
    if not rows:
        raise _error(wanted, wanted.path, "there is no item in it; give a file with a row for each, or take the set out")
    fields = fields or _shape(*rows[0], wanted)
    keys: list[str] = []
    item: list[int] = []
    field: list[str] = []
    passages: list[str] = []
    key_field = next((key for key in KEYS if all(row.get(key) not in (None, "") for _, row in rows)), "")
    for number, (path, row) in enumerate(rows):
        keys.append(_whole(str(row[key_field]), key_field, number, path, wanted) if key_field else str(number))
        for name in fields:
            for passage in _passages(row, name, number, path, wanted):
                item.append(number)
                field.append(name)
                passages.append(_whole(passage, name, number, path, wanted))
    held_out = wanted.split if _is_version(wanted) and key_field == "doc_id" else ""
    return Items(wanted.name, files, tuple(fields), tuple(keys), tuple(item), tuple(field), tuple(passages), held_out)


def _error(wanted: EvaluationSet, path: str, problem: str) -> InputError:
    return InputError(f"decontaminate.sets: {wanted.name}: {path}: {problem}")


def _whole(text: str, field: str, number: int, path: str, wanted: EvaluationSet) -> str:
    """The text, if it is one: JSON can name half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"row {number + 1}, {field}: {text[error.start]!a} is half a character (a lone surrogate); mend it, or take the row out"
        raise _error(wanted, path, problem) from error
    return text


def _is_version(wanted: EvaluationSet) -> bool:
    return storage.exists(storage.join(wanted.path, MANIFEST))


def _version(wanted: EvaluationSet) -> ShardSet:
    try:
        return open_version(wanted.path)
    except (storage.StorageError, ValidationError) as error:
        if isinstance(error, storage.StorageError) and not isinstance(error.__cause__, ValueError | None):
            raise  # a store that does not answer
        path, told = storage.join(wanted.path, MANIFEST), " ".join(str(error).split())
        raise _error(
            wanted,
            path,
            f"no manifest of a version of ours ({told}); where the folder holds rows, give these, or take this file out",
        ) from error


def _version_rows(wanted: EvaluationSet) -> Iterator[dict[str, Any]]:
    """The held-out documents of a version of ours, or all of one that is not split."""
    version = _version(wanted)
    splits = version.manifest().facts.get("splits")
    for shard in version.shards():
        if isinstance(splits, dict) and shard.index not in splits.get(wanted.split, ()):
            continue
        table = shard.read()
        if "split" in table.column_names:
            table = table.filter(pa.array([one == wanted.split for one in table["split"].to_pylist()], pa.bool_()))
        yield from table.to_pylist()


def _suffix(path: str) -> str:
    name = path.rstrip("/").lower()
    for end in (".gz", ".zst"):
        name = name.removesuffix(end)
    return Path(name).suffix


def _is_rows(path: str) -> bool:
    return _suffix(path) in ROWS


def _digests(files: Sequence[tuple[str, bytes]], wanted: EvaluationSet) -> dict[str, str]:
    """{name: digest} for recipes and certificates: names go from the set's folder on, else they are those of the files, made unique."""
    folder = wanted.path.rpartition("/")[0] if _is_rows(wanted.path) or _suffix(wanted.path) in TASKS else wanted.path.rstrip("/")
    names: dict[str, str] = {}
    for path, _ in files:
        base = path.removeprefix(f"{folder}/")
        base = base.rpartition("/")[2] if base == path else base
        same = sum(name == base or name.startswith(f"{base} (") for other, name in names.items() if other != path)
        names.setdefault(path, f"{base} ({same + 1})" if same else base)
    return {names[path]: bytes_digest(raw) for path, raw in files}


def _files(wanted: EvaluationSet) -> list[tuple[str, bytes]]:
    """(path, bytes) of the files of a set, in order of their names; a task file is one of its own files."""
    path = wanted.path
    if _suffix(path) in TASKS:
        chain = list(_task_chain(path, wanted))
        return [*((one, storage.read_bytes(one)) for one, _ in chain), *_data_files(path, _merged(chain), wanted)]
    if _is_rows(path):
        return [(path, _bytes(path, wanted))]
    names = [name for name in storage.list_folder(path) if _is_rows(name) and not name.startswith(".")]
    if names:
        return [(storage.join(path, name), _bytes(storage.join(path, name), wanted)) for name in names]
    kinds = ", ".join((*ROWS, *TASKS))
    if not storage.exists(path):
        raise _error(wanted, path, "no such file or folder; mend `path`, or take the set out")
    raise _error(
        wanted, path, f"nothing in it that can be read ({kinds}; .gz and .zst of them), and no {MANIFEST} of a version of ours"
    )


def _bytes(path: str, wanted: EvaluationSet) -> bytes:
    try:
        return storage.read_bytes(path)
    except (storage.StorageError, IsADirectoryError) as error:
        if isinstance(error, IsADirectoryError) or isinstance(error.__cause__, IsADirectoryError):
            raise _error(wanted, path, "a folder, which is called as a file of rows; give it another name") from error
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise _error(wanted, path, "no such file; mend `path`, or take the set out") from error


def _rows(path: str, raw: bytes, wanted: EvaluationSet) -> Iterator[dict[str, Any]]:
    try:
        if path.lower().endswith(".gz"):
            raw = gzip.decompress(raw)
        elif path.lower().endswith(".zst"):
            raw = _frames(raw)
        if _suffix(path) == ".parquet":
            yield from pq.read_table(pa.BufferReader(raw)).to_pylist()
            return
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        raise _error(wanted, path, f"damaged ({error}); copy it again") from error
    text = raw.decode("utf-8-sig", "replace")
    if _suffix(path) == ".json" and text.lstrip().startswith("["):
        lines: Sequence[tuple[int, str]] = [(1, text)]
    else:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    for number, line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _error(
                wanted, path, f"line {number} is not JSON ({error}); write a row a line, or one array in a .json"
            ) from error
        for row in found if isinstance(found, list) else [found]:
            if not isinstance(row, dict):
                raise _error(wanted, path, f"line {number} is no object of fields (got {str(row)[:60]!r})")
            yield row


def _frames(raw: bytes) -> bytes:
    """What is in all frames of a .zst, each to its end."""
    parts = []
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(raw))
        if not frame.eof:
            raise zstandard.ZstdError("it ends in the middle of a frame")
        raw = frame.unused_data
    return b"".join(parts)


def _shape(path: str, row: Mapping[str, Any], wanted: EvaluationSet) -> tuple[str, ...]:
    for needed, passages in SHAPES:
        if all(name in row for name in needed):
            return passages
    names = ", ".join(row) or "none"
    raise _error(wanted, path, f"which fields are an item? Name them in `fields` (its first row has: {names})")


def _passages(row: Mapping[str, Any], name: str, number: int, path: str, wanted: EvaluationSet) -> list[str]:
    """The texts of one field, or the one of a template; a null is none."""

    def texts(field: str) -> list[str]:
        values: list[Any] = [row]
        for part in field.split("."):
            inside = [one for value in values for one in (value if isinstance(value, list) else [value])]
            if missing := [one for one in inside if not isinstance(one, dict) or part not in one]:
                there = ", ".join(missing[0]) if isinstance(missing[0], dict) else "no fields"
                raise _error(wanted, path, f"row {number + 1} has no field {field!r} (it has: {there}); mend `fields`")
            values = [one[part] for one in inside]
        flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
        if any(isinstance(one, dict) for one in flat):
            inner = next(one for one in flat if isinstance(one, dict))
            raise _error(
                wanted,
                path,
                f"{field!r} is no text, but has fields of its own; name one in `fields`: {field}.{next(iter(inner), '')}",
            )
        return [str(one) for one in flat if one is not None]

    if "{" not in name:
        return texts(name)
    return [_BRACES.sub(lambda found: " ".join(texts(found[1].strip())), name)]


# --- lm-eval's task files --------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML whose `!function` names are words: nothing is imported."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: f"{{% {suffix} %}}")


def _task_chain(path: str, wanted: EvaluationSet, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """A task file, and the ones that it includes, from the outermost on."""
    try:
        task = yaml.load(_bytes(path, wanted), _Loader)
    except yaml.YAMLError as error:
        raise _error(wanted, path, f"not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(task, dict):
        raise _error(wanted, path, "no task file of lm-eval: it has no keys")
    if isinstance(base := task.get("include"), str) and depth < 10:
        yield from _task_chain(_beside(path, base), wanted, depth + 1)
    yield path, task


def _merged(chain: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {key: value for _, task in chain for key, value in task.items()}


def _beside(path: str, name: str) -> str:
    """A file that another one names: as it stands if absolute, else in that one's folder."""
    return name if "://" in name or name.startswith("/") else storage.join(path.rpartition("/")[0], name)


def _data_files(path: str, task: Mapping[str, Any], wanted: EvaluationSet) -> list[tuple[str, bytes]]:
    """The files with the rows that a task measures: its `test_split`, else its `validation_split`."""
    kwargs = task.get("dataset_kwargs")
    given = kwargs.get("data_files") if isinstance(kwargs, dict) else None
    if task.get("dataset_path") not in ("json", "parquet") or not given:
        raise _error(
            wanted,
            path,
            "only tasks with local rows can be read (dataset_path json or parquet, dataset_kwargs.data_files); give the rows "
            f"themselves as `path` (got dataset_path {task.get('dataset_path')!r})",
        )
    if isinstance(given, dict):
        split = task.get("test_split") or task.get("validation_split") or "test"
        if not isinstance(split, str) or split not in given:
            raise _error(wanted, path, f"data_files has no split {split!r} (it has: {', '.join(map(str, given))})")
        given = given[split]
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _error(wanted, path, f"data_files: give the path of a file, or a list of such (got {str(given)[:60]!r})")
    return [(one, _bytes(one, wanted)) for one in (_beside(path, name) for name in names)]


def _task_fields(wanted: EvaluationSet) -> tuple[str, ...]:
    """The fields that a task file's prompt and target are made of; none for other files."""
    if _suffix(wanted.path) not in TASKS:
        return ()
    task = _merged(list(_task_chain(wanted.path, wanted)))
    if task.get("process_docs"):
        raise _error(
            wanted,
            wanted.path,
            "process_docs is a program, which is not run; name the fields of an item, as the rows have them, in `fields`",
        )
    found: dict[str, None] = {}
    for key in ("doc_to_text", "doc_to_target"):
        words = task.get(key)
        if not isinstance(words, str):
            continue  # the number of a choice
        if "{%" in words or "{#" in words:
            raise _error(wanted, wanted.path, f"{key} is a program, which is not run; name the fields of an item in `fields`")
        if "{{" in words:
            for expression in _JINJA.findall(words):
                if (one := _FIELD.fullmatch(expression)) is None:
                    raise _error(
                        wanted,
                        wanted.path,
                        f"{key}: {{{{{expression}}}}} is more than a field, which is not worked out; name the fields of an item in "
                        "`fields`",
                    )
                found[one[1]] = None
        elif words.strip() and " " not in words.strip():
            found[words.strip()] = None
    if not found:
        raise _error(wanted, wanted.path, "doc_to_text and doc_to_target name no field; name those of an item in `fields`")
    return tuple(found)
