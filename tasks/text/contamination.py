"""Which documents hold evaluation items, and which items are contaminated, from the needles that a search found.

Three kinds of evidence, each per document and passage of an item: the whole passage (`exact`), a shared n-gram (`ngram`, as GPT-3 did with
13 words; Brown et al. 2020, appendix C), and the share of the passage's n-grams that one document has (`containment`), which a changed word
here and there leaves high. All are measured at every configured length; those that are asked for decide. What stands in many documents is
everybody's phrase and no evidence (GPT-3 ignored 13-grams in more than 10 documents): it is counted as not found, and told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
CLEAN, CONTAMINATED, TOO_SHORT = "clean", "contaminated", "too_short"
MAX_WORDS = 40
"""Words of a match that are told."""


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
    """What stands in more documents than this is no evidence, unless it is a whole passage as long as the longest n-gram."""

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


@dataclass(frozen=True)
class Looked:
    """Evaluation sets as they were looked for: passages numbered through all sets, and so are items."""

    sets: Sequence[Items]
    needles: Needles

    @cached_property
    def item_at(self) -> Ints:
        """First item of each set, and the number of all."""
        return np.cumsum([0, *(len(one.keys) for one in self.sets)])

    @cached_property
    def item_of(self) -> Ints:
        """The item of each passage."""
        starts = self.item_at
        return np.concatenate(
            [np.zeros(0, np.int64), *(np.array(one.item, np.int64) + starts[i] for i, one in enumerate(self.sets))]
        )

    @cached_property
    def fields(self) -> list[str]:
        """The field of each passage."""
        return [field for one in self.sets for field in one.field]

    @cached_property
    def keys(self) -> list[str]:
        """What each item is called."""
        return [key for one in self.sets for key in one.keys]

    def set_of(self, items: Ints) -> Ints:
        """The set of each of these items."""
        return np.searchsorted(self.item_at, items, side="right") - 1


@dataclass(frozen=True)
class Evidence:
    """One row for each document, passage, method and length: what was found, whether or not it decides."""

    document: Ints
    passage: Ints
    method: Ints
    """Index into METHODS."""
    ngram_words: Ints
    """0 for a whole passage."""
    value: Floats
    """1 for a whole passage, n-grams shared, or the share of the passage's n-grams."""
    threshold: Floats
    """From which value on it is a hit; NaN where the configuration does not ask for it."""
    start: Ints
    """First word, counted through all passages, of the longest run of words that both have."""
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


def weigh(looked: Looked, document: Ints, needle: Ints, documents: Ints, config: DecontaminateConfig) -> Evidence:
    """The evidence of what was found.

    Args:
        document, needle: pairs, each once; documents may have any numbers.
        documents: in how many documents each needle stands.
    """
    needles = looked.needles
    common = documents > config.max_documents
    parts = [_wholes(needles, document, needle, common, config)]
    for k in range(len(needles.lengths)):
        parts += _ngrams(needles, k, document, needle, common, config)
    found = Evidence(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in Evidence.__dataclass_fields__})
    return found.take(np.lexsort((found.ngram_words, found.method, found.document, found.passage)))


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
    owner = document[pair]
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


def item_table(looked: Looked, found: Evidence, config: DecontaminateConfig) -> pa.Table:
    """One row for each item, in order: whether it is contaminated, and how near the nearest document came at each length."""
    needles, item_of = looked.needles, looked.item_of
    num_items = int(looked.item_at[-1])
    hits = found.take(found.is_hit)
    tested = np.zeros(num_items, bool)
    tested[item_of[needles.whole_of != NONE]] = True
    dirty = np.zeros(num_items, bool)
    dirty[item_of[hits.passage]] = True
    owners = np.unique(np.stack([item_of[hits.passage], hits.document]), axis=1)
    columns: dict[str, Any] = {
        "set": pa.array([looked.sets[i].name for i in looked.set_of(np.arange(num_items))], pa.string()),
        "index": pa.array(np.arange(num_items) - looked.item_at[looked.set_of(np.arange(num_items))]),
        "id": pa.array(looked.keys, pa.string()),
        "state": pa.array(np.where(dirty, CONTAMINATED, np.where(tested, CLEAN, TOO_SHORT)).tolist(), pa.string()),
        "documents": pa.array(np.bincount(owners[0], minlength=num_items)),
    }
    for method in (EXACT, CONTAINMENT, NGRAM):
        for length in [0] if method == EXACT else needles.lengths.tolist():
            rows = found.take((found.method == METHODS.index(method)) & (found.ngram_words == length))
            most = np.zeros(num_items)
            np.maximum.at(most, item_of[rows.passage], rows.value)
            name = method if method == EXACT else f"{method}_{length}"
            columns[name] = (
                pa.array(most > 0) if method == EXACT else pa.array(most if method == CONTAINMENT else most.astype(np.int64))
            )
    return pa.table(columns)


def hit_table(looked: Looked, hits: Evidence, doc_ids: Sequence[str], urls: Sequence[str]) -> pa.Table:
    """Every hit in order of set, item, passage, document and method, with the words that both have, cut to MAX_WORDS."""
    items = looked.item_of[hits.passage]
    sets, fields, keys = looked.set_of(items), looked.fields, looked.keys
    table = pa.table(
        {
            "set": pa.array([looked.sets[one].name for one in sets], pa.string()),
            "index": pa.array(items - looked.item_at[sets]),
            "id": pa.array([keys[one] for one in items], pa.string()),
            "field": pa.array([fields[one] for one in hits.passage], pa.string()),
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
    places = pa.table({"passage": hits.passage, "doc_id": table["doc_id"], "method": hits.method, "length": hits.ngram_words})
    return table.take(pc.sort_indices(places, [(name, "ascending") for name in ("passage", "doc_id", "method", "length")]))
