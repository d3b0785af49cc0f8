"""Which documents hold evaluation items, and which items are contaminated, from the needles that a search found.

Three kinds of evidence, each per document and passage of an item: the whole passage (`exact`), a shared n-gram (`ngram`, as GPT-3 did with
13 words; Brown et al. 2020, appendix C), and the share of the passage's n-grams that one document has (`containment`), which a changed word
here and there leaves high. All are measured at every configured length; those that are asked for decide. What stands in many documents is
everybody's phrase and no evidence (GPT-3 ignored 13-grams in more than 10 documents), but for long passages: one that stands as a whole, or
with enough of its n-grams, in one document is found wherever else these stand. An item that only this guard hides is `common`, not clean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.text.evaluation_sets import EvaluationSet, Items
from tasks.text.needles import NONE, Needles

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

EXACT, NGRAM, CONTAINMENT = "exact", "ngram", "containment"
METHODS = (EXACT, CONTAINMENT, NGRAM)
"""The strongest first: a document's reject names the first of these."""
CLEAN, COMMON, CONTAMINATED, TOO_SHORT = "clean", "common", "contaminated", "too_short"
"""States of an item. `common`: no document is a hit, but a whole passage, or as large a share of its n-grams as would be a hit in one
document, stands in so many documents that it was no evidence."""
MAX_WORDS = 40
"""Words of a match that are told."""
PROPOSED_AT_ONCE = 1_000_000
"""n-grams of proposed passages that are looked up together."""


class DecontaminateConfig(BaseModel):
    """Which evaluation items no document may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sets: tuple[EvaluationSet, ...] = ()
    """What the model will be measured on; without any, nothing is looked for, and the cards say so."""
    action: Literal["remove", "mark"] = "remove"
    """`remove`: a document with an item is a reject of rule `contaminated`; `mark`: it stays, with the names of the sets in a column
    `contaminated`."""
    ngram_words: tuple[int, ...] = (8, 10, 13)
    """Lengths of n-grams, in words, that overlap is measured at."""
    exact: bool = True
    """Whether a whole passage in a document is a hit."""
    any_ngram: tuple[int, ...] = (13,)
    """Lengths at which one shared n-gram is a hit. GPT-3's is 13."""
    min_containment: dict[int, float] = Field(default_factory=lambda: {8: 0.8})
    """By length: share of a passage's n-grams that makes a document which has them a hit (above 0, at most 1)."""
    min_words: int = Field(5, ge=1)
    """Passages of fewer words are too short to look for, which the certificate counts; those too short for an n-gram are looked for as a
    whole."""
    max_documents: int = Field(10, ge=1)
    """What stands in more documents than this is no evidence; but a passage as long as the longest n-gram is, that stands as a whole in a
    document, or with `min_containment` of its n-grams."""

    @model_validator(mode="after")
    def _lengths_are_measured(self) -> DecontaminateConfig:
        if not self.ngram_words or min(self.ngram_words) < 2 or max(self.ngram_words) > 100:
            raise ValueError(
                f"ngram_words: lengths of 2 to 100 words are possible, and one at least (got {list(self.ngram_words)})"
            )
        known = ", ".join(map(str, sorted(self.ngram_words)))
        for key, lengths in (("any_ngram", self.any_ngram), ("min_containment", tuple(self.min_containment))):
            if wrong := [one for one in lengths if one not in self.ngram_words]:
                raise ValueError(f"{key}: {wrong[0]} is none of ngram_words ({known}); add it there, or take it out here")
        for length, share in self.min_containment.items():
            if not 0 < share <= 1:
                raise ValueError(f"min_containment: {length}: a share is above 0 and at most 1 (got {share:g})")
        if self.min_words > min(self.ngram_words):
            raise ValueError(f"min_words: at most the shortest n-gram, {min(self.ngram_words)} (got {self.min_words})")
        if not (self.exact or self.any_ngram or self.min_containment):
            raise ValueError("nothing would be a hit: set `exact`, `any_ngram` or `min_containment`, or leave the sets out")
        names = [one.name for one in self.sets]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"sets: two are called {twice[0]!r}; give each its own name")
        return self


def distinct_passages(sets: Sequence[Items]) -> pa.DictionaryArray:
    """The passages of all sets, each text once, in order of where it is first."""
    return pa.array([text for one in sets for text in one.passages], pa.string()).dictionary_encode()


@dataclass(frozen=True)
class Looked:
    """Evaluation sets as they were looked for. Passages are distinct texts, which several items may *use*; items are numbered through all
    sets."""

    sets: Sequence[Items]
    needles: Needles
    """Of the `distinct_passages`."""

    @cached_property
    def item_at(self) -> Ints:
        """First item of each set, and the number of all."""
        return np.cumsum([0, *(len(one.keys) for one in self.sets)])

    @cached_property
    def passage_of(self) -> Ints:
        """The passage of each use."""
        return distinct_passages(self.sets).indices.to_numpy().astype(np.int64)

    @cached_property
    def item_of(self) -> Ints:
        """The item of each use."""
        starts = self.item_at
        return np.concatenate(
            [np.zeros(0, np.int64), *(np.array(one.item, np.int64) + starts[i] for i, one in enumerate(self.sets))]
        )

    @cached_property
    def fields(self) -> list[str]:
        """The field of each use."""
        return [field for one in self.sets for field in one.field]

    @cached_property
    def keys(self) -> list[str]:
        """What each item is called."""
        return [key for one in self.sets for key in one.keys]

    @cached_property
    def first_uses(self) -> tuple[Ints, Ints, Ints]:
        """(passage, its first use in a set, items of that set that use it), in order of passage and set."""
        order = np.argsort(self.passage_of, kind="stable")
        passage, item = self.passage_of[order], self.item_of[order]
        first = np.flatnonzero(_changes(passage, self.set_of(item)))
        items = np.add.reduceat(_changes(passage, item).astype(np.int64), first) if len(first) else first
        return passage[first], order[first], items

    def first_uses_of(self, passages: Ints) -> tuple[Ints, Ints, Ints]:
        """(place in `passages`, first use in a set, items of that set that use it): one for each set that has the passage."""
        passage, use, items = self.first_uses
        size = int(self.needles.passage_at.size - 1)
        place, which = _joined(passages, np.ones(size, bool), passage, np.arange(len(passage)), size)
        return place, use[which], items[which]

    def most(self, passages: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Of something 0 or more that is known of each passage, the most in each item."""
        found = np.zeros(int(self.item_at[-1]), passages.dtype)
        np.maximum.at(found, self.item_of, passages[self.passage_of])
        return found

    def set_of(self, items: Ints) -> Ints:
        """The set of each of these items."""
        return np.searchsorted(self.item_at, items, side="right") - 1


@dataclass(frozen=True)
class Evidence:
    """One row for each document, passage, method and length: what was found, whether or not it decides."""

    document: Ints
    passage: Ints
    """Among the distinct ones."""
    method: Ints
    """Index into METHODS."""
    ngram_words: Ints
    """0 for a whole passage."""
    value: Floats
    """1 for a whole passage, n-grams shared, or the share of the passage's n-grams."""
    threshold: Floats
    """From which value on it is a hit; NaN where the configuration does not ask for it."""
    start: Ints
    """First word, counted through all passages, of the longest run of the passage's words of which every n-gram stands in the document,
    in one place or another."""
    run_words: Ints

    @property
    def is_hit(self) -> Mask:
        """Whether it makes the document a hit, and the item contaminated."""
        return self.value >= self.threshold - 1e-12

    def __len__(self) -> int:
        return len(self.document)

    def take(self, rows: npt.NDArray[Any]) -> Evidence:
        """Some of the rows, by number or mask."""
        return Evidence(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def long_wholes(needles: Needles) -> Mask:
    """Which needles are whole passages so long that they are evidence wherever they stand."""
    found = np.zeros(needles.size, bool)
    found[needles.whole_of[needles.passage_words() >= needles.lengths[-1]]] = True
    return found


def contained(needles: Needles, document: Ints, needle: Ints, config: DecontaminateConfig) -> Evidence:
    """The containment that makes documents hits of long passages, which counts n-grams that are common, too.

    Args:
        document, needle: all pairs of some documents, each pair once, in order of documents.
    """
    parts = [_contained(needles, k, document, needle, config) for k in range(len(needles.lengths))]
    return _concatenated(parts)


def _contained(needles: Needles, k: int, document: Ints, needle: Ints, config: DecontaminateConfig) -> Evidence:
    length = int(needles.lengths[k])
    share = config.min_containment.get(length, np.inf)
    num_grams = np.maximum(needles.passage_words() - length + 1, 0)
    long = needles.passage_words() >= needles.lengths[-1]
    places = np.flatnonzero(needles.gram_of[k] != NONE)
    passage = np.searchsorted(needles.passage_at, places, side="right") - 1
    if not np.isfinite(share):
        places, passage = places[:0], passage[:0]
    # a document with enough of a passage's n-grams has one of the rarest few of them: only these propose it
    spread = np.bincount(needle, minlength=needles.size) * np.bincount(needles.gram_of[k][places], minlength=needles.size)
    order = np.lexsort((spread[needles.gram_of[k][places]], passage))
    rank = np.arange(len(order)) - np.searchsorted(passage[order], passage[order])
    few = num_grams - np.ceil(num_grams * share - 1e-9) + 1 if np.isfinite(share) else num_grams
    proposing = order[(rank < few[passage[order]]) & long[passage[order]]]
    usable = np.ones(needles.size, bool)
    pair, at = _joined(needle, usable, needles.gram_of[k][places[proposing]], proposing, needles.size)
    proposed = np.unique(np.stack([document[pair], passage[at]]), axis=1)
    known = document * needles.size + needle
    known.sort()
    parts = []
    for rows in _blocks(num_grams[proposed[1]], PROPOSED_AT_ONCE):
        owner, of = proposed[0, rows], proposed[1, rows]
        counts = num_grams[of]
        word = np.repeat(needles.passage_at[of] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        wanted = np.repeat(owner, counts) * needles.size + needles.gram_of[k][word]
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        has = known[at] == wanted
        found = _overlaps(needles, length, np.repeat(owner, counts)[has], word[has], config)[1]
        parts.append(found.take(found.is_hit))
    return _concatenated(parts)


def _blocks(sizes: Ints, most: int) -> list[slice]:
    """Slices of rows whose sizes add up to about `most` each."""
    if not len(sizes):
        return []
    starts = np.flatnonzero(_changes(np.cumsum(sizes) // most)).tolist()
    return [slice(start, end) for start, end in pairwise([*starts, len(sizes)])]


def _concatenated(parts: Sequence[Evidence]) -> Evidence:
    kinds = {"value": np.float64, "threshold": np.float64}
    return Evidence(
        **{
            name: np.concatenate([np.zeros(0, kinds.get(name, np.int64)), *(getattr(part, name) for part in parts)])
            for name in Evidence.__dataclass_fields__
        }
    )


def weigh(
    needles: Needles, document: Ints, needle: Ints, documents: Ints, long: Evidence, config: DecontaminateConfig
) -> Evidence:
    """The evidence of what was found.

    Args:
        document, needle: pairs, each once; documents may have any numbers. Those of needles that are common may be left out, but for
            `long_wholes`.
        documents: in how many documents each needle stands.
        long: what `contained` gives for the same documents.
    """
    common = documents > config.max_documents
    parts = [long, _wholes(needles, document, needle, common, config)]
    for k in range(len(needles.lengths)):
        parts += _ngrams(needles, k, document, needle, common, config)
    found = _concatenated(parts)
    found = found.take(np.lexsort((found.ngram_words, found.method, found.document, found.passage)))  # stable: long ones first
    return found.take(_changes(found.passage, found.document, found.method, found.ngram_words))


def common_passages(needles: Needles, documents: Ints, config: DecontaminateConfig) -> Mask:
    """Which passages may have leaked into so many documents that it was taken for no evidence: as a whole, or so many of their n-grams that
    these would be a hit in one document."""
    common = np.append(documents > config.max_documents, False)  # NONE is the last
    found = common[needles.whole_of]
    for k, length in enumerate(needles.lengths.tolist()):
        share = config.min_containment.get(length, 1.0 if length in config.any_ngram else None)
        if share is None:
            continue
        before = np.concatenate([[0], np.cumsum(common[needles.gram_of[k]])])
        many = before[needles.passage_at[1:]] - before[needles.passage_at[:-1]]
        found |= (many > 0) & (many >= share * (needles.passage_words() - length + 1) - 1e-9)
    return found


def _wholes(needles: Needles, document: Ints, needle: Ints, common: Mask, config: DecontaminateConfig) -> Evidence:
    usable = ~common | long_wholes(needles)
    passages = np.flatnonzero(needles.whole_of != NONE)
    pair, passage = _joined(needle, usable, needles.whole_of[passages], passages, needles.size)
    some = np.ones(len(pair))
    return Evidence(
        document=document[pair],
        passage=passage,
        method=np.full(len(pair), METHODS.index(EXACT)),
        ngram_words=np.zeros(len(pair), np.int64),
        value=some,
        threshold=some * (1.0 if config.exact else np.nan),
        start=needles.passage_at[passage],
        run_words=needles.passage_words()[passage],
    )


def _ngrams(needles: Needles, k: int, document: Ints, needle: Ints, common: Mask, config: DecontaminateConfig) -> list[Evidence]:
    """Shared n-grams of one length, and the share of the passage that they are."""
    length = int(needles.lengths[k])
    words = np.flatnonzero(needles.gram_of[k] != NONE)
    pair, word = _joined(needle, ~common, needles.gram_of[k][words], words, needles.size)
    return _overlaps(needles, length, document[pair], word, config)


def _overlaps(needles: Needles, length: int, owner: Ints, word: Ints, config: DecontaminateConfig) -> list[Evidence]:
    """The n-grams shared and their share, of (document, word at which one of its n-grams begins) pairs."""
    order = np.lexsort((word, owner))
    owner, word = owner[order], word[order]
    passage = np.searchsorted(needles.passage_at, word, side="right") - 1
    new = _changes(owner, passage)  # of document or passage
    first = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    shared = np.bincount(group, minlength=len(first))
    # runs of places that follow on one another are one run of words
    run_first = np.flatnonzero(new | _changes(word - np.arange(len(word))))
    run_places = np.diff(np.append(run_first, len(word)))
    longest = np.lexsort((run_first, -run_places, group[run_first]))
    longest = longest[_changes(group[run_first][longest])]
    start, run_words = word[run_first[longest]], run_places[longest] + length - 1
    owner, passage = owner[first], passage[first]
    share = shared / np.maximum(needles.passage_words()[passage] - length + 1, 1)
    kinds = (
        (NGRAM, shared.astype(float), 1.0 if length in config.any_ngram else np.nan),
        (CONTAINMENT, share, config.min_containment.get(length, np.nan)),
    )
    return [
        Evidence(
            document=owner,
            passage=passage,
            method=np.full(len(owner), METHODS.index(method)),
            ngram_words=np.full(len(owner), length),
            value=value,
            threshold=np.full(len(owner), threshold),
            start=start,
            run_words=run_words,
        )
        for method, value, threshold in kinds
    ]


def _joined(needle: Ints, usable: Mask, of: npt.NDArray[Any], places: Ints, size: int) -> tuple[Ints, Ints]:
    """(pair, place) for every pair whose needle is usable, and every place where that needle stands: `of` is the needle of each place."""
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(size + 1))
    pairs = np.flatnonzero(usable[needle])
    counts = (starts[1:] - starts[:-1])[needle[pairs]]
    ends = np.cumsum(counts)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    return np.repeat(pairs, counts), places[order][np.repeat(starts[:-1][needle[pairs]], counts) + within]


def _changes(*columns: npt.NDArray[Any]) -> Mask:
    """Whether each row is the first, or differs from the one before in a column."""
    new = np.ones(len(columns[0]), bool)
    if len(new):
        new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return new


def item_table(looked: Looked, found: Evidence, documents: Ints, config: DecontaminateConfig) -> pa.Table:
    """One row for each item, in order: whether it is contaminated, and how near the nearest document came at each length.

    Args:
        documents: in how many documents each needle stands.
    """
    needles = looked.needles
    num_items, num_passages = int(looked.item_at[-1]), len(needles.whole_of)
    hits = found.take(found.is_hit)
    tested = looked.most(needles.whole_of != NONE)
    common = looked.most(common_passages(needles, documents, config))
    dirty = np.zeros(num_passages, bool)
    dirty[hits.passage] = True
    state = np.where(looked.most(dirty), CONTAMINATED, np.where(common, COMMON, np.where(tested, CLEAN, TOO_SHORT)))
    sets = looked.set_of(np.arange(num_items))
    columns: dict[str, Any] = {
        "set": pa.array([looked.sets[i].name for i in sets], pa.string()),
        "index": pa.array(np.arange(num_items) - looked.item_at[sets]),
        "id": pa.array(looked.keys, pa.string()),
        "state": pa.array(state.tolist(), pa.string()),
        "documents": pa.array(_documents_of(looked, hits)),
    }
    for method in (EXACT, CONTAINMENT, NGRAM):
        for length in [0] if method == EXACT else needles.lengths.tolist():
            rows = found.take((found.method == METHODS.index(method)) & (found.ngram_words == length))
            of_passage = np.zeros(num_passages)
            np.maximum.at(of_passage, rows.passage, rows.value)
            most = looked.most(of_passage)
            name = method if method == EXACT else f"{method}_{length}"
            columns[name] = (
                pa.array(most > 0) if method == EXACT else pa.array(most if method == CONTAINMENT else most.astype(np.int64))
            )
    return pa.table(columns)


def _documents_of(looked: Looked, hits: Evidence) -> Ints:
    """In how many documents each item was found. Passages that many items use are never multiplied by the documents that have them."""
    passage, document = np.unique(np.stack([hits.passage, hits.document]), axis=1)
    starts = np.searchsorted(passage, np.arange(len(looked.needles.whole_of) + 1))
    sizes = np.diff(starts)
    item, used = np.unique(np.stack([looked.item_of, looked.passage_of]), axis=1)
    item, used = item[sizes[used] > 0], used[sizes[used] > 0]
    counts = np.bincount(item, sizes[used], int(looked.item_at[-1])).astype(np.int64)
    first = np.flatnonzero(_changes(item))
    for start, end in pairwise([*first.tolist(), len(item)]):
        if end - start > 1:  # several passages, perhaps in the same documents
            together = [document[starts[one] : starts[one + 1]] for one in used[start:end].tolist()]
            counts[item[start]] = len(np.unique(np.concatenate(together)))
    return counts


def hit_table(looked: Looked, hits: Evidence, doc_ids: Sequence[str], urls: Sequence[str]) -> pa.Table:
    """Every hit in order of set, item, passage, document and method, with the words of its longest run, cut to MAX_WORDS.

    A passage that several items of a set use is told once, with the first of these and their number (`items`).
    """
    place, use, num_items = looked.first_uses_of(hits.passage)
    hits, items = hits.take(place), looked.item_of[use]
    sets, fields, keys = looked.set_of(items), looked.fields, looked.keys
    table = pa.table(
        {
            "set": pa.array([looked.sets[one].name for one in sets], pa.string()),
            "index": pa.array(items - looked.item_at[sets]),
            "id": pa.array([keys[one] for one in items], pa.string()),
            "items": pa.array(num_items),
            "field": pa.array([fields[one] for one in use], pa.string()),
            "doc_id": pa.array([doc_ids[one] for one in hits.document], pa.string()),
            "url": pa.array([urls[one] for one in hits.document], pa.string()),
            "method": pa.array([METHODS[one] for one in hits.method], pa.string()),
            "ngram_words": pa.array(hits.ngram_words),
            "value": pa.array(hits.value),
            "threshold": pa.array(hits.threshold),
            "words": pa.array(
                [
                    looked.needles.words(start, min(size, MAX_WORDS)) + (" …" if size > MAX_WORDS else "")
                    for start, size in zip(hits.start.tolist(), hits.run_words.tolist(), strict=True)
                ],
                pa.string(),
            ),
        }
    )
    places = pa.table({"use": use, "doc_id": table["doc_id"], "method": hits.method, "length": hits.ngram_words})
    return table.take(pc.sort_indices(places, [(name, "ascending") for name in ("use", "doc_id", "method", "length")]))
