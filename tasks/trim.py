"""trim: take out, or mark, what is repeated across documents: lines, paragraphs, spans of three sentences, long spans of words.

Optional: it runs only where configured, behind dedup, so that whole documents are compared whole and what is taken down leaves no gap in
others. Of a repeated piece the first occurrence stays, in the order of (the order of the inputs, doc_id, place); in the flow there is one
input, the documents of all crawls. All levels look at the text as it came in. Beside the documents lies `repeats/`: every piece that
went or was marked, and where its first occurrence is.
Passes: for each level its pieces, sorted by hash (per shard), and of these the later occurrences (per bucket of hashes); `spans` has two
before them, which find the windows that may occur again. Then what that means for each shard, and its texts. Memory: a shard, or a bucket
of about a million pieces; of one piece that is everywhere, all its occurrences. Disk aside and rates: docs/repeats.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef, ShardSet, dataset
from infra.ids import text_digest
from infra.steps import Output, step
from tasks.text import cutting, repeats
from tasks.text.cutting import LATER

RULE = "trimmed_empty"
Level = Literal["lines", "paragraphs", "three_sentences", "spans"]
LEVELS: tuple[Level, ...] = ("lines", "paragraphs", "three_sentences", "spans")
BUCKET_PIECES = 1 << 20
"""Pieces that a worker sorts at a time: about 150 MB."""
ROWS_PER_GROUP = 4_096
"""Of files that are read in parts: at most so many rows of each are read that are of no account, two groups' worth."""
NAME = ("high", "low")
REPEATS = "repeats"
"""The phase and the folder of the version that tell what is repeated."""
REPEATED = pa.schema(
    [
        ("doc_id", pa.string()),
        ("row", pa.int32()),  # of the document in the shard that came in
        ("level", pa.string()),
        ("action", pa.string()),
        ("start", pa.int32()),  # characters of the text that came in: text[start:end] in Python
        ("end", pa.int32()),
        ("first_doc_id", pa.string()),
        ("first_start", pa.int32()),
        ("first_end", pa.int32()),
    ]
)
"""One piece that is one too many, and where its first occurrence is: in order of row, level and place."""


class LevelConfig(BaseModel):
    """What happens to one kind of pieces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["remove", "mark"] = "remove"
    """`remove`: later occurrences go. `mark`: texts stay, and `repeats/` says what is repeated."""
    max_copies: int = Field(1, ge=1)
    """So many occurrences stay, those in one document counted, too."""


class UnitsConfig(LevelConfig):
    """Lines and paragraphs."""

    min_chars: int = Field(20, ge=1)
    """Pieces of fewer characters, white space aside, are left alone: headings, list items, brackets."""


class SentencesConfig(UnitsConfig):
    """Spans of three sentences."""

    min_chars: int = Field(60, ge=1)
    """Spans of fewer characters, white space aside, are left alone. Our choice: each line is a sentence at least, and where lines are short
    (tables, signatures) three of them say little. C4 has no such bound, but its lines have five words and more."""


class SpansConfig(LevelConfig):
    """Long spans of words, wherever they begin."""

    min_words: int = Field(50, ge=4)
    """Words of the shortest span. Lee et al. (2022, arXiv 2107.06499) take 50 tokens of a byte-pair encoding, which are fewer words."""


class TrimConfig(BaseModel):
    """Which repetitions are looked for; a level that is null is not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lines: UnitsConfig | None = None
    """Lines, as the public code of C4 removes them."""
    paragraphs: UnitsConfig | None = None
    """Paragraphs, with blank lines between them."""
    three_sentences: SentencesConfig | None = None
    """Spans of three sentences, as the C4 paper says."""
    spans: SpansConfig | None = None
    """Spans of at least `min_words` words."""
    fold_case: bool = True
    """Whether pieces that differ in case alone are the same; runs of white space are one space in any case."""
    min_chars: int = Field(1, ge=1)
    """A document that lost something and has fewer characters left is dropped, by rule `trimmed_empty`."""

    @model_validator(mode="after")
    def _some_level(self) -> TrimConfig:
        if not self.levels():
            raise ValueError(
                f"there is no level: give some of {', '.join(LEVELS)}, such as lines.min_chars=20, or leave `trim` out"
            )
        return self

    def levels(self) -> dict[Level, LevelConfig]:
        """What is looked for, in the order in which a character that several levels remove is counted."""
        return {level: found for level in LEVELS if (found := getattr(self, level)) is not None}


Job = tuple[ShardRef, int]
"""A shard, and its place among all shards of all inputs."""


def list_units(job: Job, level: repeats.Kind, config: TrimConfig) -> Outcome:
    """The pieces of one shard, in order of their hashes."""
    shard, number = job
    table = shard.read(["doc_id", "text"])
    given: UnitsConfig = getattr(config, level)
    text = table["text"].combine_chunks()
    found = repeats.units(text, level, min_chars=given.min_chars, fold_case=config.fold_case)
    return _in_groups(_owned(found, table, number), NAME)


def list_anchors(job: Job, config: TrimConfig) -> Outcome:
    """What stands for the windows of words of one shard."""
    shard, number = job
    text = shard.read(["text"])["text"].combine_chunks()
    found = repeats.anchors(text, min_words=_min_words(config), fold_case=config.fold_case)
    return _in_groups(found.append_column("shard", _numbers(number, found.num_rows)), NAME[:1])


def find_repeated(bucket: tuple[int, int], folder: str, max_copies: int) -> Outcome:
    """The anchors of one bucket that occur again, in order of shard."""
    found = _bucket(folder, bucket, ["high", "shard", "row", "word"])
    again = found.take(pa.array(cutting.more_than(found["high"].to_numpy(), max_copies))).drop(["high"])
    return _in_groups(again.sort_by([("shard", "ascending"), ("row", "ascending"), ("word", "ascending")]))


def list_spans(job: Job, folder: str, config: TrimConfig) -> Outcome:
    """The windows of words of one shard that may occur again, in order of their hashes."""
    shard, number = job
    table = shard.read(["doc_id", "text"])
    again = _of_shard(folder, number, ["row", "word"])
    places = np.stack([again["row"].to_numpy(), again["word"].to_numpy()], axis=1)
    places = places[np.lexsort((places[:, 1], places[:, 0]))]
    text = table["text"].combine_chunks()
    found = repeats.spans(text, places, min_words=_min_words(config), fold_case=config.fold_case)
    return _in_groups(_owned(found, table, number), NAME)


def find_later(bucket: tuple[int, int], folder: str, generations: Sequence[int], max_copies: int) -> Outcome:
    """The occurrences in one bucket that are too many, in order of shard."""
    found = _bucket(folder, bucket, ["high", "low", "shard", "row", "start", "end", "doc_id"])
    return _in_groups(cutting.later_copies(found, np.array(generations, np.int64), max_copies))


def tell_shard(number: int, folders: dict[Level, str], config: TrimConfig) -> Outcome:
    """What is repeated in one shard, as rows of REPEATED."""
    parts, facts = [REPEATED.empty_table()], {}
    for level, folder in folders.items():
        given = config.levels()[level]
        found = cutting.stretches(_of_shard(folder, number, LATER.names))
        names = {"level": pa.repeat(level, found.num_rows), "action": pa.repeat(given.action, found.num_rows)}
        parts.append(pa.table({name: names[name] if name in names else found[name] for name in REPEATED.names}, REPEATED))
        facts[f"units_{_done(given)}.{level}"] = float(found.num_rows)
    told = pa.concat_tables(parts)
    levels = np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)])
    order = np.lexsort((told["start"].to_numpy(), levels, told["row"].to_numpy()))
    return Outcome(told.take(pa.array(order)).combine_chunks(), facts=facts)


def trim_shard(pair: tuple[ShardRef, ShardRef], config: TrimConfig) -> Outcome:
    """One shard without what is to be removed; `pair` is the documents and what is repeated in them."""
    documents, repeated = pair
    table, told = documents.read(), repeated.read()
    levels = config.levels()
    text = table["text"].combine_chunks()
    facts = {"chars_given": _chars(text)}
    removed = told.filter(pc.equal(told["action"], "remove"))
    trimmed, facts_removed = _without(text, removed, levels)
    _, facts_marked = _without(text, told.filter(pc.equal(told["action"], "mark")), levels)
    for level, given in levels.items():
        facts[f"chars_{_done(given)}.{level}"] = (facts_removed if given.action == "remove" else facts_marked)[level]
    facts["chars_removed.white_space"] = facts_removed["white_space"]
    touched = np.unique(removed["row"].to_numpy())
    table = _with_text(table, trimmed, touched)
    changed = np.zeros(table.num_rows, bool)
    changed[touched] = True
    gone = changed & (pc.fill_null(pc.utf8_length(trimmed), 0).to_numpy() < config.min_chars)
    kept = table.filter(pa.array(~gone))
    rejects = _rejects(table, text, gone, removed, config.min_chars)
    facts |= {
        "documents_changed": float(len(touched)),
        "chars_kept": _chars(kept["text"]),
        "chars_rejected": _chars(trimmed.filter(pa.array(gone))),
    }
    return Outcome(kept, rejects, facts)


@step(schema="clustered_documents")
def trim(documents: list[ShardSet], config: TrimConfig, out: Output) -> None:
    """Take out, or mark, lines, paragraphs and spans that are repeated across documents; of each the first occurrence stays."""
    jobs: list[Job] = []
    generations: list[int] = []
    for generation, version in enumerate(documents):
        for shard in version.shards():
            jobs.append((shard, len(jobs)))
            generations.append(generation)
    folders: dict[Level, str] = {}
    for level, given in config.levels().items():
        pieces = f"{level}-pieces"
        listed = _span_pieces(out, jobs, pieces, config) if level == "spans" else _unit_pieces(out, jobs, pieces, level, config)
        later = partial(find_later, folder=out.aside(pieces), generations=generations, max_copies=given.max_copies)
        out.map_aside(f"{level}-later", later, _buckets(listed))
        folders[level] = out.aside(f"{level}-later")
    told = out.map_files(REPEATS, partial(tell_shard, folders=folders, config=config), range(len(jobs)))
    pairs = [(shard, repeated) for (shard, _), repeated in zip(jobs, told, strict=True)]
    out.sum_facts(out.map(partial(trim_shard, config=config), pairs))


def _unit_pieces(out: Output, jobs: list[Job], phase: str, level: repeats.Kind, config: TrimConfig) -> list[ShardRef]:
    return out.map_aside(phase, partial(list_units, level=level, config=config), jobs)


def _span_pieces(out: Output, jobs: list[Job], phase: str, config: TrimConfig) -> list[ShardRef]:
    max_copies = config.levels()["spans"].max_copies
    listed = out.map_aside("spans-anchors", partial(list_anchors, config=config), jobs)
    repeated = partial(find_repeated, folder=out.aside("spans-anchors"), max_copies=max_copies)
    out.map_aside("spans-repeated", repeated, _buckets(listed))
    return out.map_aside(phase, partial(list_spans, folder=out.aside("spans-repeated"), config=config), jobs)


def _buckets(listed: Sequence[ShardRef]) -> list[tuple[int, int]]:
    """(first hash, last hash) of each bucket, so that one has about BUCKET_PIECES pieces; none where there is no shard."""
    if not listed:
        return []
    count = max(1, -(-sum(shard.num_rows for shard in listed) // BUCKET_PIECES))
    edges = [(1 << 64) * number // count for number in range(count + 1)]
    return [(first, behind - 1) for first, behind in pairwise(edges)]


def _in_groups(rows: pa.Table, hashes: tuple[str, ...] = ()) -> Outcome:
    return Outcome(rows, rows_per_group=ROWS_PER_GROUP, hashes=hashes)


def _bucket(folder: str, bucket: tuple[int, int], columns: list[str]) -> pa.Table:
    """The pieces of all shards whose hash is in the bucket."""
    return _rows(folder, "high", *bucket, columns)


def _of_shard(folder: str, number: int, columns: list[str]) -> pa.Table:
    """What the buckets found of one shard."""
    return _rows(folder, "shard", number, number, columns)


def _rows(folder: str, name: str, first: int, last: int, columns: list[str]) -> pa.Table:
    """The rows from `first` to `last` of files that are sorted by column `name`; only the row groups that have some are read."""
    found = dataset(folder)
    assert found is not None, folder  # a phase without a shard asks nothing
    low, high = (pa.scalar(edge, found.schema.field(name).type) for edge in (first, last))
    parts = ((fragment, _groups(fragment, name, first, last)) for fragment in found.get_fragments())
    some = [fragment.subset(row_group_ids=list(groups)) for fragment, groups in parts if groups]
    wanted = (pc.field(name) >= low) & (pc.field(name) <= high)
    return pads.FileSystemDataset(some, found.schema, found.format, found.filesystem).to_table(columns, filter=wanted)


def _groups(file: pads.ParquetFileFragment, name: str, first: int, last: int) -> range:
    """The row groups of a sorted file with rows from `first` to `last`: by halving, as a look at every group of every file takes longer
    than reading the rows (Arrow's filters do that)."""
    told, column = file.metadata, file.physical_schema.get_field_index(name)
    groups = range(told.num_row_groups if told.num_rows else 0)
    begin = bisect_left(groups, first, key=lambda group: told.row_group(group).column(column).statistics.max)
    return groups[begin : bisect_right(groups, last, key=lambda group: told.row_group(group).column(column).statistics.min)]


def _owned(pieces: pa.Table, documents: pa.Table, number: int) -> pa.Table:
    """Pieces with the id of their document and the number of their shard."""
    ids = documents["doc_id"].combine_chunks().take(pieces["row"].combine_chunks())
    return pieces.append_column("shard", _numbers(number, pieces.num_rows)).append_column("doc_id", ids)


def _numbers(number: int, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(number, pa.int32()), count)


def _min_words(config: TrimConfig) -> int:
    assert config.spans is not None  # who asks has this level
    return config.spans.min_words


def _done(given: LevelConfig) -> str:
    return "removed" if given.action == "remove" else "marked"


def _chars(text: pa.Array | pa.ChunkedArray) -> float:
    return float(pc.sum(pc.utf8_length(text)).as_py() or 0)


def _without(text: pa.Array, told: pa.Table, levels: dict[Level, LevelConfig]) -> tuple[pa.Array, dict[str, float]]:
    """The texts without these pieces, and how many characters each level took; a character is counted for the first of them."""
    paint = pc.add(pc.index_in(told["level"], pa.array(LEVELS)), 1).to_numpy()
    places = np.stack([told["start"].to_numpy(), told["end"].to_numpy(), paint], axis=1)
    trimmed, tally = cutting.cut(text, told["row"].to_numpy(), places, len(LEVELS))
    return trimmed, {"white_space": float(tally[0]), **{level: float(tally[1 + LEVELS.index(level)]) for level in levels}}


def _with_text(table: pa.Table, text: pa.Array, touched: np.ndarray) -> pa.Table:
    """The documents with other texts, and the digests of those that are touched."""
    rows = pa.array(touched)
    digests = [text_digest(one) for one in text.take(rows).to_pylist()]
    mask = np.zeros(table.num_rows, bool)
    mask[touched] = True
    for name, column in (
        ("text", text),
        (
            "text_digest",
            pc.replace_with_mask(table["text_digest"].combine_chunks(), pa.array(mask), pa.array(digests, pa.string())),
        ),
    ):
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _rejects(table: pa.Table, text: pa.Array, gone: np.ndarray, removed: pa.Table, min_chars: int) -> pa.Table:
    """Documents of which too little is left, with the first document that they repeat, and what they were."""
    rows = np.flatnonzero(gone)
    told_rows = removed["row"].to_numpy()
    first_told = removed["first_doc_id"].combine_chunks().take(pa.array(np.searchsorted(told_rows, rows)))
    left = table.take(pa.array(rows))
    detail = pc.binary_join_element_wise("what it repeats begins in document ", first_told, "")
    return pa.table(
        {
            **{name: left[name] for name in ("doc_id", "url", "source")},
            "rule": pa.repeat(RULE, len(rows)),
            "value": pc.cast(pc.utf8_length(left["text"]), pa.float64()),
            "threshold": pa.repeat(float(min_chars), len(rows)),
            "detail": detail,
            "excerpt": pc.utf8_slice_codeunits(text.take(pa.array(rows)), 0, EXCERPT_CHARS),
        },
        REJECTS_SCHEMA,
    )
