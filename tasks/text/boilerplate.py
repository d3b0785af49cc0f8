"""The share of a text's lines that are boilerplate: a crude measure, of our own.

A line is called boilerplate when it holds one of the phrases of `boilerplate_phrases.yaml`: what pages say around their text ("all rights
reserved", "sign in", "read more"), in twelve languages, word by word (UAX #29, see `words.py`) and in any case. It judges no line: an
article on privacy law has such lines, and menus that say none of this are not seen.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml
from pydantic import TypeAdapter

from tasks.text import kernels
from tasks.text.buffers import string_buffers
from tasks.text.groups import SHARE, Columns, Signal, ratio
from tasks.text.tables import open_table
from tasks.text.words import (
    MAX_PHRASE_WORDS,
    Hashes,
    Smalls,
    branch,
    count_phrase_lines,
    folds,
    word_hashes,
    word_table,
)

SIGNALS = (
    Signal("boilerplate_line_fraction", SHARE, "lines that hold a phrase of boilerplate_phrases.yaml ÷ lines; crude, of our own"),
)
FILE = Path(__file__).with_name("boilerplate_phrases.yaml")


@lru_cache(maxsize=1)
def phrases() -> dict[str, tuple[str, ...]]:
    """The phrases that ship, by language."""
    raw = yaml.load(FILE.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return TypeAdapter(dict[str, tuple[str, ...]]).validate_python(raw)


def measure(text: pa.Array, language: pa.Array | None) -> Columns:
    """The column of SIGNALS; phrases of all languages are asked of every text, whatever its own."""
    data, offsets = string_buffers(text)
    counts = np.zeros((len(text), 2), np.int64)
    classes = kernels.character_classes()
    count_phrase_lines(data, offsets, *word_table(), folds(), classes, kernels.SPACE, *_tree(), counts)
    return {"boilerplate_line_fraction": ratio(counts[:, 1], counts[:, 0])}


@lru_cache(maxsize=1)
def _tree() -> tuple[Hashes, Smalls, npt.NDArray[np.bool_]]:
    """The phrases as a tree of words, for `count_phrase_lines`: keys and nodes of its steps, and at which nodes a phrase ends."""
    listed = [phrase for some in phrases().values() for phrase in some]
    hashes, ends = word_hashes(listed)
    steps: dict[int, int] = {}
    last_nodes = []
    for phrase, start, end in zip(listed, [0, *ends], ends, strict=False):
        if not 1 <= end - start <= MAX_PHRASE_WORDS:
            raise ValueError(f"{FILE.name}: {phrase!r} has {end - start} words; 1 to {MAX_PHRASE_WORDS} are possible")
        node = 0
        for word in hashes[start:end].tolist():
            node = steps.setdefault(int(branch(node, word)), len(steps) + 1)
        last_nodes.append(node)
    is_end = np.zeros(len(steps) + 1, bool)
    is_end[last_nodes] = True
    return *open_table(steps), is_end
