"""Stop words of 42 languages, counted in one pass: per language, and for the language that a document is in.

The lists are those of `stop_words.yaml`: 16 to 41 words of grammar each, which hardly a text of that language does without. A word is one
of UAX #29, compared in any case (see `words.py`). Chinese and Japanese, written without spaces, are counted by single ideographs and
hiragana: 的 counts within 目的 too, so their counts run high. Thai, Lao, Khmer and Burmese have no list, because their words are not told
apart. Where the document's language is unknown or has no list, nothing is said (null) and no rule asks.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import BaseModel, ConfigDict, Field

from tasks.text.buffers import string_buffers
from tasks.text.groups import COUNT, SHARE, Columns, Signal, ratio
from tasks.text.tables import open_table
from tasks.text.words import Hashes, Smalls, boundaries, count_stop_words, folds, word_hashes, word_table

FILE = Path(__file__).with_name("stop_words.yaml")


class StopLists(BaseModel):
    """Stop words by language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...] = Field(min_length=1)
    """Where they are from, and under which licence."""
    lists: dict[str, tuple[str, ...]] = Field(min_length=1)
    """By ISO 639 code, as the language model gives it; each word one of UAX #29, in any case."""

    def hashes(self) -> list[list[int]]:
        """The hashes of the words of every list; ValueError for what is no single word, or is named twice."""
        found = []
        for language, words in self.lists.items():
            hashes, ends = word_hashes(list(words))
            for word, place, end in zip(words, range(1, len(words) + 1), ends, strict=True):
                if boundaries(word) != [0, len(word)] or end != place:
                    raise ValueError(f"{language}: {word!r} is not one word of UAX #29")
            found.append(hashes[: len(words)].tolist())
            if len(set(found[-1])) < len(words):
                raise ValueError(f"{language}: a word is named twice")
        return found


@lru_cache(maxsize=1)
def stop_lists() -> StopLists:
    """The lists that ship."""
    return StopLists.model_validate(yaml.load(FILE.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


LANGUAGES = tuple(stop_lists().lists)
SIGNALS = (
    *(
        Signal(f"stop_words_{language}", COUNT, f"occurrences of the stop words of {language}: {', '.join(words[:4])} …")
        for language, words in stop_lists().lists.items()
    ),
    Signal("num_stop_words_own", COUNT, "different stop words of the document's own language; null where it has no list"),
    Signal("stop_word_fraction_own", SHARE, "occurrences of these ÷ UAX #29 words; null where there is no list"),
)


def measure(text: pa.Array, language: pa.Array | None) -> Columns:
    """The columns of SIGNALS; where nobody has identified the languages, none is known."""
    data, offsets = string_buffers(text)
    if language is None:
        language = pa.nulls(len(text), pa.string())
    own = pc.fill_null(pc.index_in(language, pa.array(LANGUAGES)), -1).to_numpy(zero_copy_only=False).astype(np.int32)
    counts, totals = np.zeros((len(text), len(LANGUAGES)), np.int32), np.zeros((len(text), 2), np.int32)
    count_stop_words(data, offsets, *word_table(), folds(), *_table(), own, counts, totals)
    listed = own >= 0
    own_counts = np.where(listed, counts[np.arange(len(text)), own], 0)
    return {
        **{f"stop_words_{name}": column for name, column in zip(LANGUAGES, counts.T, strict=True)},
        "num_stop_words_own": pa.array(totals[:, 1], mask=~listed),
        "stop_word_fraction_own": pa.array(ratio(own_counts, totals[:, 0]), mask=~listed),
    }


@lru_cache(maxsize=1)
def _table() -> tuple[Hashes, Smalls, Smalls, Smalls]:
    """The words for `count_stop_words`: keys, their numbers, and by number the lists that have the word."""
    lists_of: dict[int, list[int]] = {}
    for place, keys in enumerate(stop_lists().hashes()):
        for key in keys:
            lists_of.setdefault(key, []).append(place)
    starts = np.cumsum([0, *map(len, lists_of.values())]).astype(np.int32)
    places = np.array([place for places in lists_of.values() for place in places], np.int32)
    return *open_table({key: number for number, key in enumerate(lists_of)}), starts, places
