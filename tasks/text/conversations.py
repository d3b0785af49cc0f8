"""Conversations of many sources in one shape: read, put into turns, named, and divided into train and test.

Each row keeps where it came from: its address, its own key, or file and row. Rows are named by source, key and content, never by a place.
The side of a row follows from what is asked in it alone, so equal questions are on one side. What is no conversation is a reject with its
rule, and so is one whose turns another one has, too: the first in reading order stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from expectations.schemas import CONVERSATIONS
from infra.dataset import Outcome, ShardRef, rejects_table
from infra.errors import InputError
from infra.ids import digest_of
from infra.storage import LocalPath
from tasks.text.formatters import FORMATS, FormatName, Wording, at_path, problem_of
from tasks.text.given_rows import file_of
from tasks.text.readers import DatasetSource, FolderSource, IngestConfig, Piece, numbered_rows, plan
from tasks.text.turns import Message, Unusable, side_of

CANDIDATES = pa.schema([*CONVERSATIONS, ("key", pa.string()), ("rule", pa.string()), ("detail", pa.string())])
"""Conversations before it is known which are doubles: `key` is equal for equal turns; `rule` and `detail` of rows that are none."""


TOLD_BY_FIELDS: tuple[FormatName, ...] = ("messages", "sharegpt", "alpaca", "prompt_response")
"""Formats that no other is taken for, by the names of their fields."""


class ConversationSource(BaseModel):
    """Rows of one format in one place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["folder", "dataset"]
    """folder: JSONL (plain, .gz, .zst), .json (a row a line or one array) or Parquet. dataset: whatever `datasets` loads."""
    name: str = ""
    """Name of this source, part of every row's id; empty: its format."""
    path: LocalPath = ""
    """folder: file or folder, searched with its sub-folders."""
    dataset: str = ""
    """dataset: hub name (owner/name) or local folder."""
    subset: str | None = None
    """dataset: its configuration, where it has several."""
    split: str = "train"
    """dataset: which split to read."""
    format: FormatName
    """What a row is: prompt_response; messages (OpenAI's); sharegpt (from, value); alpaca (instruction, input, output); or a task, which is
    put into words: sentiment, classification, ner, qa, summary, translation."""
    fields: dict[str, str] = {}
    """The format's fields → what the rows call them, where it is another name; a dot leads into objects (`translation.de`)."""
    id_field: str = "id"
    """Field with the source's own key of the row, where it has one."""
    url_field: str = "url"
    """Field with the address that the row came from, where it has one."""
    system: str = ""
    """Words of the system before every conversation that has none of its own."""
    template: str = ""
    """How a task is put to the model, with the format's names in braces; empty: its usual words. A translation must have one, for it says
    between which languages."""
    labels: dict[str, str] = {}
    """Labels as the rows write them → as the model is to say them; rows with others are rejected. sentiment has usual ones."""
    nothing: str = ""
    """What the model is to say where there is no entity, or no answer; empty: the usual words."""

    @field_validator("dataset")
    @classmethod
    def _absolute_if_local(cls, dataset: str) -> str:
        return str(Path(dataset).absolute()) if dataset and Path(dataset).exists() else dataset

    @model_validator(mode="after")
    def _belongs_together(self) -> ConversationSource:
        shape = FORMATS[self.format]
        wanted, other = ("path", "dataset") if self.kind == "folder" else ("dataset", "path")
        if not getattr(self, wanted) or getattr(self, other):
            raise ValueError(f"a source of kind {self.kind} has {wanted} and no {other}")
        if unknown := sorted(self.fields.keys() - shape.fields.keys()):
            raise ValueError(f"fields: {unknown[0]!r} is no field of {self.format}; these are: {', '.join(shape.fields)}")
        for name, given, has in (
            ("template", self.template, bool(shape.slots)),
            ("labels", self.labels, shape.labels is not None),
            ("nothing", self.nothing, bool(shape.nothing)),
        ):
            if given and not has:
                raise ValueError(f"{name}: a source of format {self.format} has none")
        if shape.slots:
            _check_template(self.template or shape.template, shape.slots, self.format)
        if shape.labels == () and not self.labels:
            raise ValueError(f"labels: a source of format {self.format} must name them, as in {{0: sports, 1: politics}}")
        return self

    @property
    def called(self) -> str:
        """The source's name."""
        return self.name or self.format

    @property
    def wording(self) -> Wording:
        """How its task is put into words."""
        shape = FORMATS[self.format]
        return Wording(
            template=self.template or shape.template,
            labels=self.labels or {label: label for label in shape.labels or ()},
            nothing=self.nothing or shape.nothing,
        )


class InstructConfig(BaseModel):
    """Sources of conversations that a model is tuned on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot: str = "first"
    """Label of this import; another label is another snapshot of the same files."""
    sources: tuple[ConversationSource, ...] = ()
    """What to import."""
    test_share: float = Field(0.1, ge=0, lt=1)
    """Part of the conversations that is held out for measuring: by a hash of the user's first words, so equal ones are on one side."""
    shard_bytes: int = Field(64_000_000, ge=1)
    """Bytes of input per shard: bounds a worker's memory to some times this. A compressed file is one shard, however big."""

    def places(self) -> IngestConfig:
        """Where the sources are, as readers know it."""
        return IngestConfig(
            snapshot=self.snapshot, sources=tuple(_place(one) for one in self.sources), shard_bytes=self.shard_bytes
        )


def candidates(pieces: Sequence[Piece], config: InstructConfig) -> Outcome:
    """The rows of some pieces in the columns of CANDIDATES, in their order."""
    places = config.places().sources
    rows = [row for piece in pieces for row in _rows(piece, config.sources[piece.source], places[piece.source], config)]
    return Outcome(pa.Table.from_pylist(rows, schema=CANDIDATES))


def doubles(shards: Sequence[ShardRef]) -> list[dict[int, str]]:
    """For each shard of candidates the rows whose turns an earlier row has, and the id of that one.

    Memory: about 150 bytes for each different conversation.
    """
    first: dict[bytes, str] = {}
    found: list[dict[int, str]] = []
    for shard in shards:
        table = shard.read(["row_id", "key", "rule"])
        found.append({})
        columns = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        for place, (row_id, key, rule) in enumerate(columns):
            if rule is not None:
                continue
            if (turns := bytes.fromhex(key)) in first:
                found[-1][place] = first[turns]
            else:
                first[turns] = row_id
    return found


def keep(job: tuple[ShardRef, Mapping[int, str]]) -> Outcome:
    """The conversations of one shard of candidates in the order of their ids, and the others as rejects."""
    shard, double_of = job
    kept: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for place, row in enumerate(shard.read().to_pylist()):
        if place in double_of:
            row |= {"rule": "double", "detail": f"has the turns of row {double_of[place]}"}
        (kept if row["rule"] is None else rejects).append(row)
    table = pa.Table.from_pylist([{name: row[name] for name in CONVERSATIONS.names} for row in kept], schema=CONVERSATIONS)
    facts: dict[str, float] = {}
    for row in kept:
        for name in (f"rows.{row['split']}", f"rows.task.{row['task']}"):
            facts[name] = facts.get(name, 0) + 1
    return Outcome(table.sort_by("row_id"), rejects_table(map(_reject, rejects)), facts)


def _rows(
    piece: Piece, source: ConversationSource, place: FolderSource | DatasetSource, config: InstructConfig
) -> Iterator[dict[str, Any]]:
    shape, words = FORMATS[source.format], source.wording
    names = {name: source.fields.get(name, usual) for name, usual in shape.fields.items()}
    tops = {part for name in names.values() for part in (name, name.partition(".")[0])}
    file = file_of(piece, place)
    for number, row in numbered_rows(piece, place, sorted({*tops, source.id_field, source.url_field})):
        key = _word(row.get(source.url_field)) or _word(row.get(source.id_field))
        base = {"source": source.called, "origin": key or f"{file}:{number}", "task": source.format}
        if "broken" in row:
            yield {**base, "row_id": digest_of("row", row["raw"]), "rule": row["broken"], "detail": row["detail"]}
            continue
        values = {name: at_path(row, path) for name, path in names.items()}
        try:
            turns = shape.make(values, words)
        except Unusable as error:
            raw = json.dumps(values, sort_keys=True, default=str)
            yield {
                **base,
                "row_id": digest_of("row", source.called, key, raw),
                "rule": error.rule,
                "detail": _word(error.detail),
            }
            continue
        if source.system and turns and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": source.system}, *turns]
        yield {**base, **_named(turns, source.called, key, config.test_share)}


def _named(turns: list[Message], source: str, key: str, test_share: float) -> dict[str, Any]:
    """Turns with their id and side, or with the rule that they break."""
    content = digest_of("turns", *(part for turn in turns for part in (turn["role"], turn["content"])))
    named = {"row_id": digest_of("row", source, key, content), "key": content}
    if problem := problem_of(turns):
        return {**named, "rule": problem[0], "detail": _word(problem[1])}
    return {**named, "split": side_of(turns, test_share), "messages": turns}


def _reject(row: Mapping[str, Any]) -> dict[str, Any]:
    said = row["messages"] or []
    return {
        "doc_id": row["row_id"],
        "url": row["origin"],
        "source": row["source"],
        "rule": row["rule"],
        "detail": row["detail"],
        "excerpt": said[0]["content"] if said else None,
    }


def _place(source: ConversationSource) -> FolderSource | DatasetSource:
    if source.kind == "folder":
        return FolderSource(kind="folder", name=source.called, path=source.path)
    return DatasetSource(kind="dataset", name=source.called, dataset=source.dataset, subset=source.subset, split=source.split)


def _check_template(template: str, slots: Sequence[str], form: str) -> None:
    """Raises: ValueError: it lacks a text, or has names that the format does not know."""
    if not template:
        raise ValueError(f"template: a source of format {form} must have one, such as 'Translate into German:\\n\\n{{text}}'")
    try:
        named = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"template: {error}; a brace that is meant as one is written twice") from error
    if unknown := sorted(named - set(slots)):
        raise ValueError(f"template: {{{unknown[0]}}} is no name of {form}; these are: {', '.join(slots)}")
    if missing := [slot for slot in slots if slot != "labels" and slot not in named]:
        raise ValueError(f"template: lacks {{{missing[0]}}}")


def _word(value: Any) -> str:
    """What a row says of itself, as a string that UTF-8 holds."""
    return "" if value is None else str(value).encode("utf-8", "backslashreplace").decode()


def guessed(path: str) -> FormatName:
    """The format of files whose first row has the usual fields of one that its fields tell.

    Raises:
        InputError: they tell none.
    """
    places = IngestConfig(sources=(FolderSource(kind="folder", path=path),))
    names = sorted({name for form in TOLD_BY_FIELDS for name in FORMATS[form].fields.values()})
    pieces = (piece for shard in plan(places) for piece in shard)
    row = next((row for piece in pieces for _, row in numbered_rows(piece, places.sources[0], names)), {})
    for form in TOLD_BY_FIELDS:
        if all(row.get(usual) is not None for name, usual in FORMATS[form].fields.items() if name not in FORMATS[form].optional):
            return form
    raise InputError(
        f"{path}: its first row has the fields of none of {', '.join(TOLD_BY_FIELDS)}; name format and fields instead of --input: --set "
        f"'sources=[{{kind: folder, path: {path}, format: …, fields: {{…}}}}]'"
    )


def none_usable(total: int, dropped: Mapping[str, int], rejects: str) -> InputError:
    """The error of sources without one conversation."""
    reasons = ", ".join(f"{rule} {count:,}" for rule, count in dropped.items())
    return InputError(
        f"instruct.sources: none of {total:,} rows can be used ({reasons}); is the format right, and are the fields called otherwise? Name "
        f"them in `fields`. The rows are in {rejects}"
    )
