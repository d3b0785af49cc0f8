"""Rejects to read: how many documents each rule of a version dropped, and some of them, drawn by a seed, with their text.

What is drawn has the smallest hashes of (seed, doc_id, url, detail, excerpt) of its rule, so it is the same for any shards and their order,
a rare rule is drawn from as a common one is, and other draws come with other seeds. Costs one pass over the rejects, a million a few
seconds, and one over the ids of the documents where the step carried no text; some thousand rows are in memory at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra import dataset
from infra.dataset import EXCERPT_CHARS, ShardSet

FORGOTTEN = "forgotten"
"""The rule of documents that were taken down: their text is shown nowhere."""
BATCH_ROWS = 10_000
RANKED_BYTES = 512
_MIX = np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's finaliser


@dataclass(frozen=True)
class Reject:
    """A dropped document: by which rule, what was measured and compared with what, and the beginning of its text."""

    step: str
    rule: str
    doc_id: str
    url: str
    source: str
    value: float | None
    threshold: float | None
    detail: str
    text: str = ""


@dataclass
class Dropped:
    """What one rule of a version dropped, altogether and by source, and some of it."""

    step: str
    rule: str
    count: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
    samples: list[Reject] = field(default_factory=list)


def draw(
    version: ShardSet,
    num: int,
    *,
    seed: int = 0,
    rule: str = "",
    source: str = "",
    read: Callable[[ShardSet, Sequence[Reject]], Mapping[str, str]] | None = None,
    hidden: Callable[[Reject], bool] = lambda reject: False,
) -> list[Dropped]:
    """What the rules of a version dropped, the most first, with at most `num` documents of each in the order in which they are drawn.

    `rule` and `source` leave out all others. The text is what the step carried along of it, else what `read(version, drawn)` finds by
    doc_id (`beginnings` where there is none), else "". It is not shown of what is `hidden`, nor of what was forgotten.
    """
    rows = dataset.dataset(version.folder, rejects=True)
    if rows is None:
        return []
    wanted = [pc.field(name) == value for name, value in (("rule", rule), ("source", source)) if value]
    found: dict[str, Dropped] = {}
    drawn: dict[str, list[dict[str, Any]]] = {}
    for batch in rows.to_batches(
        filter=wanted[0] & wanted[-1] if wanted else None, batch_size=BATCH_ROWS, batch_readahead=1, fragment_readahead=1
    ):
        table = pa.table(batch)
        _count(found, table, version.step)
        for name, some in _smallest(table, num, seed):
            drawn[name] = heapq.nsmallest(num, [*drawn.get(name, []), *some], key=lambda row: (row["rank"], str(row["detail"])))
    chosen = [_reject(version.step, row) for some in drawn.values() for row in some]
    shown = [one.rule != FORGOTTEN and not hidden(one) for one in chosen]
    untold = [one for one, is_shown in zip(chosen, shown, strict=True) if is_shown and not one.text]
    texts = (read or beginnings)(version, untold)
    for one, is_shown in zip(chosen, shown, strict=True):
        found[one.rule].samples.append(replace(one, text=(one.text or texts.get(one.doc_id, "")) if is_shown else ""))
    return sorted(found.values(), key=lambda one: (-one.count, one.rule))


def beginnings(version: ShardSet, drawn: Sequence[Reject]) -> dict[str, str]:
    """doc_id → the first EXCERPT_CHARS characters of the text that the step was given, where it is still there."""
    ids = {one.doc_id for one in drawn}
    return {doc: text[:EXCERPT_CHARS] for doc, text in texts_of(ids, texts_behind(version))}


def texts_of(ids: Collection[str], versions: Iterable[ShardSet]) -> Iterator[tuple[str, str]]:
    """(doc_id, text) of those of the documents that the versions hold."""
    for version in versions if ids else ():
        rows = dataset.dataset(version.folder)
        assert rows is not None
        batches = rows.to_batches(
            columns=["doc_id", "text"],
            filter=pc.field("doc_id").isin(pa.array(list(ids), pa.string())),
            batch_size=BATCH_ROWS,
            batch_readahead=1,
            fragment_readahead=1,
        )
        for batch in batches:
            yield from zip(batch["doc_id"].to_pylist(), pc.fill_null(batch["text"], "").to_pylist(), strict=True)


def texts_behind(version: ShardSet) -> Iterator[ShardSet]:
    """The nearest versions with texts that a version was made of, as far as they are still there."""
    todo, seen = [version], {version.folder}
    while todo:
        for given in dataset.inputs_there(todo.pop(0)):
            if given.folder in seen:
                continue
            seen.add(given.folder)
            rows = dataset.dataset(given.folder)
            if rows is not None and {"doc_id", "text"} <= set(rows.schema.names):
                yield given
            else:
                todo.append(given)


def _count(found: dict[str, Dropped], table: pa.Table, step: str) -> None:
    for row in table.group_by(["rule", "source"]).aggregate([([], "count_all")]).to_pylist():
        one = found.setdefault(row["rule"], Dropped(step, row["rule"]))
        one.count += row["count_all"]
        source = row["source"] or ""
        one.by_source[source] = one.by_source.get(source, 0) + row["count_all"]


def _smallest(table: pa.Table, num: int, seed: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """For each rule the `num` rows that have the smallest ranks, with their `rank`."""
    table = table.append_column("rank", pa.array(_ranks(table, seed)))
    rules = table["rule"].combine_chunks().dictionary_encode()
    codes = rules.indices.to_numpy()
    order = np.lexsort((table["rank"].to_numpy(), codes))
    starts = np.searchsorted(codes[order], np.arange(len(rules.dictionary) + 1))
    for name, start, end in zip(rules.dictionary.to_pylist(), starts[:-1], starts[1:], strict=True):
        yield name, table.take(pa.array(order[start : min(end, start + num)])).to_pylist()


def _ranks(table: pa.Table, seed: int) -> npt.NDArray[np.uint64]:
    """A hash of (seed, doc_id, url, detail, excerpt) of every row: those of a file's bad lines all have the id of the file.

    An id is 32 characters of ASCII, and of the others RANKED_BYTES count.
    """
    ranks = np.full(table.num_rows, seed % (1 << 64), np.uint64)
    for name, num_bytes in (("doc_id", 32), ("url", RANKED_BYTES), ("detail", RANKED_BYTES), ("excerpt", RANKED_BYTES)):
        beginnings = pc.binary_slice(pc.fill_null(table[name], "").cast(pa.binary()), 0, num_bytes).to_numpy()
        width = -(-max(map(len, beginnings), default=0) // 8) * 8  # zeros behind, which change no hash of another row
        for word in beginnings.astype(f"S{width}").view(np.uint64).reshape(table.num_rows, -1).T if width else ():
            ranks = np.where(word > 0, (ranks ^ word) * _MIX, ranks)
            ranks ^= np.where(word > 0, ranks >> np.uint64(33), np.uint64(0))
    return ranks


def _reject(step: str, row: dict[str, Any]) -> Reject:
    words = {name: row[name] or "" for name in ("doc_id", "url", "source", "detail")}
    return Reject(step=step, rule=row["rule"], value=row["value"], threshold=row["threshold"], text=row["excerpt"] or "", **words)
