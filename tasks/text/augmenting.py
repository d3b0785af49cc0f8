"""Texts made of texts: identity words swapped for their counterparts, letters of words mistyped, contractions written out and back.

`swap_words` and `add_noise` are kernels over the bytes of a shard, `paraphrase` is Arrow's RE2; all give the texts and how often each was
changed, and leave a text in which nothing matches byte for byte. A word is a run of letters, digits, "_" and of all that is neither
white space nor punctuation outside ASCII; a word must match whole, in lower case, Capitalised or in CAPITALS, and keeps its case.

What a swap cannot do: given names stay ("Mary lost his key"), so do facts (a pregnant "he"), and whether "her" and "his" stand before a
noun is told by the next word alone. A Capitalised word one space behind another word is taken for part of a name or title ("Isle of
Man") and stays, unless its list says that it always has a capital; at a sentence's begin "Lady Gaga" cannot be told from "Lady".
A swap twice gives the text back where a word's counterpart leads back to it, as all of `pairs` do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numba import njit, types
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.text.buffers import string_buffers
from tasks.text.kernels import PUNCTUATION, SPACE, character_classes
from tasks.text.tables import open_table

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Smalls = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Classes = npt.NDArray[np.uint16]

SWAPS = Path(__file__).with_name("swaps_data")
MIN_NOISY_LETTERS = 4  # a shorter word mistyped is often another word
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # neighbours in a row are pressed for one another
_VERBS = (
    "[Dd]o|[Dd]oes|[Dd]id|[Ii]s|[Aa]re|[Ww]as|[Ww]ere|[Hh]as|[Hh]ave|[Hh]ad|[Ww]ould|[Ss]hould|[Cc]ould|[Mm]ust|[Nn]eed|[Mm]ight"
)
WRITTEN_OUT = (
    (rf"\b({_VERBS})n['’]t\b", r"\1 not"),
    (r"\b([Cc])an['’]t\b", r"\1annot"),
    (r"\b([Ww])on['’]t\b", r"\1ill not"),
    (r"\b([Ll])et['’]s\b", r"\1et us"),
    (r"\bI['’]m\b", "I am"),
    (r"\b([Yy]ou|[Ww]e|[Tt]hey)['’]re\b", r"\1 are"),
    (r"\b(I|[Yy]ou|[Ww]e|[Tt]hey)['’]ve\b", r"\1 have"),
    (r"\b(I|[Yy]ou|[Hh]e|[Ss]he|[Ii]t|[Ww]e|[Tt]hey)['’]ll\b", r"\1 will"),
)
"""(pattern, replacement) of English contractions that stand for one thing alone; "'s" (is, has) and "'d" (had, would) do not. After any
grammar; RE2 as Arrow speaks it."""
CONTRACTED = (
    (rf"\b({_VERBS}) not( [a-z])", r"\1n't\2"),
    (r"\b([Cc])annot( [a-z])", r"\1an't\2"),
    (r"\b([Ww])ill not( [a-z])", r"\1on't\2"),
)
"""The same for negations, before a small word only: "I do not." ends on its stress. "They are" stays: not "as strong as they're"."""
ASKING = rf"(?i)\b({_VERBS}|ca|wo)(n['’]t (?:i|you|he|she|it|we|they|this|that|these|those|there|one)\b)"
"""A contraction before a pronoun, most often a question, in which both words do not stand together: "Why do not you" is wrong. It stays.
Before a noun ("Doesn't the man know?") it cannot be told from "isn't the man" and is written out."""
_MARK = "\ufffe"  # no character; stands within a contraction that stays
_PRIME, _SEED = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)  # FNV-1a, 64 bits
_GOLDEN, _MIX, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64
_NO_WORD = 1 << 0 | 1 << 4  # of kernels.py; a constant of this file, because numba's cache looks at no other
assert _NO_WORD == SPACE | PUNCTUATION


class Choice(BaseModel):
    """The counterparts of a word that stands for two: by whether a noun (or its adjective) follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before_a_noun: str
    """Where another word follows closely that is not of `not_before`."""
    otherwise: str
    """Before those words, marks, and at the end."""

    def words(self) -> tuple[str, str]:
        """Both."""
        return self.before_a_noun, self.otherwise


class Axis(BaseModel):
    """Words of one trait that are swapped for each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """What configurations call it."""
    sources: tuple[str, ...] = Field(min_length=1)
    """Keys of the list's `sources`, from which the words are."""
    pairs: tuple[tuple[str, str], ...] = Field(min_length=1)
    """Each the other's counterpart; no word is in two pairs."""
    one_way: dict[str, str] = Field(default_factory=dict)
    """Words whose counterpart has another counterpart."""
    by_next_word: dict[str, Choice] = Field(default_factory=dict)
    """Words with two counterparts."""
    not_before: tuple[str, ...] = ()
    """Words that cannot begin what a possessive stands before."""
    capitals: tuple[str, ...] = ()
    """Words that have a capital within a sentence too; any other with one there is taken for part of a name."""

    def counterparts(self) -> Iterator[tuple[str, Choice]]:
        """(word, its counterparts), all in lower case."""
        for one, other in self.pairs:
            yield one, Choice(before_a_noun=other, otherwise=other)
            yield other, Choice(before_a_noun=one, otherwise=one)
        for one, other in self.one_way.items():
            yield one, Choice(before_a_noun=other, otherwise=other)
        yield from self.by_next_word.items()

    @model_validator(mode="after")
    def _each_word_once(self) -> Axis:
        words = [word for word, _ in self.counterparts()]
        if twice := sorted({word for word in words if words.count(word) > 1}):
            raise ValueError(f"{self.name}: words with more than one counterpart: {', '.join(twice)}")
        if bad := [word for word in (*words, *self.not_before) if word != word.lower() or not _is_one_word(word)]:
            raise ValueError(f"{self.name}: {bad[0]!r} is not one word in lower case")
        if unknown := sorted(set(self.capitals) - set(words)):
            raise ValueError(f"{self.name}: capitals: no counterpart is given for: {', '.join(unknown)}")
        return self


class SwapLists(BaseModel):
    """The axes of one language, with where their words are from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str
    """ISO 639 code, as the language model gives it."""
    sources: tuple[str, ...]
    """Each as `key: citation`."""
    axes: tuple[Axis, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> SwapLists:
        known = {source.partition(":")[0] for source in self.sources}
        for axis in self.axes:
            if unknown := sorted(set(axis.sources) - known):
                raise ValueError(f"{axis.name}: sources that the list does not name: {', '.join(unknown)}")
        words = [word for axis in self.axes for word, _ in axis.counterparts()]
        if twice := sorted({word for word in words if words.count(word) > 1}):
            raise ValueError(f"words on two axes: {', '.join(twice)}")
        return self


def shipped_swaps() -> list[str]:
    """The languages of which swap lists ship."""
    return sorted(path.stem for path in SWAPS.glob("*.yaml"))


def swaps_path(name: str) -> Path:
    """The file of swap lists that ship, by language, or of one's own, by path. Raises ValueError for a name that is neither."""
    path = SWAPS / f"{name}.yaml" if name in shipped_swaps() else Path(name)
    if not path.is_file():
        raise ValueError(f"no swap lists {name!r}: neither a file nor one of {', '.join(shipped_swaps())}")
    return path


def load_swaps(name: str) -> SwapLists:
    """The swap lists of `swaps_path(name)`. Raises ValueError (pydantic's) that says what is wrong with the file."""
    return _checked(swaps_path(name).read_text(encoding="utf-8"))


@lru_cache(maxsize=16)
def _checked(text: str) -> SwapLists:
    return SwapLists.model_validate(yaml.safe_load(text))


def swap_words(text: pa.Array, axes: Sequence[Axis]) -> tuple[pa.Array, Ints]:
    """(texts with every word of these axes swapped for its counterpart, (D,) how many words were); nulls read as empty."""
    data, offsets = string_buffers(text)
    ends, counts = np.zeros(len(text) + 1, np.int64), np.zeros(len(text), np.int64)
    swapped = np.empty(_room(data.size, axes), np.uint8)
    swap_kernel(data, offsets, character_classes(), *_table(axes), swapped, ends, counts)
    return _array(swapped, ends, text.type), counts


def add_noise(text: pa.Array, keys: Hashes, rate: float) -> tuple[pa.Array, Ints]:
    """(texts with words mistyped, (D,) how many words were).

    Each word of MIN_NOISY_LETTERS ASCII letters and more is changed with the chance `rate`, in one place behind its first letter: two
    letters change places, one is left out, doubled, or replaced by its neighbour on the keyboard. (D,) `keys` decide which and how.
    """
    data, offsets = string_buffers(text)
    ends, counts = np.zeros(len(text) + 1, np.int64), np.zeros(len(text), np.int64)
    # a changed word grows by one byte at most
    noisy = np.empty(data.size + data.size // MIN_NOISY_LETTERS + 1, np.uint8)
    noise_kernel(data, offsets, character_classes(), _neighbours(), keys, rate, noisy, ends, counts)
    return _array(noisy, ends, text.type), counts


def paraphrase(text: pa.Array, contract: npt.NDArray[np.bool_]) -> tuple[pa.Array, Ints]:
    """(English texts with contractions written out, or words contracted where (D,) `contract` says so, (D,) how many were).

    Those that ASKING finds stay; so does a text that holds the noncharacter U+FFFE.
    """
    counts = np.zeros(len(text), np.int64)
    given, text = text, pc.replace_substring_regex(text, ASKING, rf"\1{_MARK}\2")
    for asked, templates in ((~contract, WRITTEN_OUT), (contract, CONTRACTED)):
        for pattern, replacement in templates:
            found = pc.and_(pa.array(asked), pc.fill_null(pc.match_substring_regex(text, pattern), False))
            rows = np.flatnonzero(found.to_numpy(zero_copy_only=False))
            if len(rows):
                some = text.take(pa.array(rows))
                counts[rows] += pc.count_substring_regex(some, pattern).to_numpy()
                text = pc.replace_with_mask(text, found, pc.replace_substring_regex(some, pattern, replacement))
    as_it_was = pc.match_substring(given, _MARK)
    counts[pc.fill_null(as_it_was, False).to_numpy(zero_copy_only=False)] = 0
    return pc.if_else(as_it_was, given, pc.replace_substring(text, _MARK, "")), counts


# --- tables --------------------------------------------------------------------------------------------------------------------


def _is_one_word(word: str) -> bool:
    return bool(word) and all(char.isalnum() or char == "_" for char in word)


def _cased(word: str) -> tuple[str, ...]:
    """The word in lower case, Capitalised and in CAPITALS."""
    return word, word[:1].upper() + word[1:], word.upper()


def _room(num_bytes: int, axes: Sequence[Axis]) -> int:
    """So many bytes hold any text of `num_bytes` with its words swapped.

    In capitals a word may have other bytes than in lower case: "kız" has four, "KIZ" three.
    """
    growth = max(
        len(to.encode()) / len(form.encode())
        for axis in axes
        for word, two in axis.counterparts()
        for other in two.words()
        for form, to in zip(_cased(word), _cased(other), strict=True)
    )
    return int(num_bytes * max(growth, 1)) + 1


def _hash(word: str) -> int:
    state = int(_SEED)
    for byte in word.encode():
        state = ((state ^ byte) * int(_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return state or 1


def _table(axes: Sequence[Axis]) -> tuple[Hashes, Smalls, npt.NDArray[np.bool_], Hashes, Smalls, Bytes, Ints]:
    """(words: keys, entry; by entry whether it is a name within a sentence; `not_before`: keys, 1; bytes of all counterparts, where those
    of entry e begin: two each, and the end)."""
    words: list[tuple[int, int]] = []  # of forms that are equal, as of one letter, the first counts
    names: list[bool] = []
    parts: list[bytes] = []
    for axis in axes:
        for word, choice in axis.counterparts():
            names += [False, word not in axis.capitals, False]
            for form, noun, other in zip(_cased(word), _cased(choice.before_a_noun), _cased(choice.otherwise), strict=True):
                words.append((_hash(form), len(parts) // 2))
                parts += [noun.encode(), other.encode()]
    stops = {_hash(form) for axis in axes for word in axis.not_before for form in _cased(word)}
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    others = open_table(dict.fromkeys(sorted(stops), 1), min_bits=6)
    return (
        *open_table(dict(reversed(words)), min_bits=6),
        np.array(names),
        *others,
        np.frombuffer(b"".join(parts), np.uint8).copy(),
        starts,
    )


@lru_cache(maxsize=1)
def _neighbours() -> Bytes:
    """(256, 2) the letters left and right of each ASCII letter on the keyboard, in its case; at the end of a row one of them twice."""
    table = np.zeros((256, 2), np.uint8)
    for row in (*KEYBOARD, *(row.upper() for row in KEYBOARD)):
        for at, letter in enumerate(row):
            near = [row[k] for k in (at - 1, at + 1) if 0 <= k < len(row)]
            table[ord(letter)] = ord(near[0]), ord(near[-1])
    return table


def _array(data: Bytes, ends: Ints, kind: pa.DataType) -> pa.Array:
    made = pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(data[: int(ends[-1])].tobytes()))
    return made.cast(kind)


# --- kernels -------------------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True, inline="always")
def _word_byte(data: Bytes, pos: int, end: int, classes: Classes) -> int:
    """The width of the code point at `pos` if it belongs to a word, else 0; a broken sequence does not."""
    lead = np.int64(data[pos])
    if lead < 128:
        small = lead | 32
        return 1 if (97 <= small <= 122) or (48 <= lead <= 57) or lead == 95 else 0
    if lead < 0xC2 or lead > 0xF4:
        return 0
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if pos + width > end:
        return 0
    point = lead & (0x7F >> width)
    for k in range(1, width):
        point = (point << 6) | (np.int64(data[pos + k]) & 0x3F)
    return 0 if point < classes.size and classes[point] & _NO_WORD else width


@njit(cache=True, nogil=True, inline="always")
def _word(data: Bytes, pos: int, end: int, classes: Classes) -> tuple[int, np.uint64]:
    """(byte behind, hash) of the word at `pos`; the byte is `pos` where there is none."""
    state = _SEED
    width = _word_byte(data, pos, end, classes)
    while width > 0:
        for _ in range(width):
            state = (state ^ np.uint64(data[pos])) * _PRIME
            pos += 1
        width = _word_byte(data, pos, end, classes) if pos < end else 0
    return pos, max(state, np.uint64(1))


@njit(cache=True, nogil=True, inline="always")
def _find(keys: Hashes, values: Smalls, key: np.uint64) -> np.int64:
    """The value of `key`, or -1."""
    mask = np.uint64(keys.size - 1)
    slot = key & mask
    while keys[slot] != np.uint64(0):
        if keys[slot] == key:
            return np.int64(values[slot])
        slot = (slot + np.uint64(1)) & mask
    return np.int64(-1)


_DATA = types.Array(types.uint8, 1, "C", readonly=True)
_CLASSES = types.uint16[::1]


@njit(
    types.void(
        *(
            _DATA,
            types.int64[::1],
            _CLASSES,
            types.uint64[::1],
            types.int32[::1],
            types.boolean[::1],
            types.uint64[::1],
            types.int32[::1],
        ),
        *(types.uint8[::1], types.int64[::1], types.uint8[::1], types.int64[::1], types.int64[::1]),
    ),
    cache=True,
    nogil=True,
)
def swap_kernel(
    data: Bytes,
    offsets: Ints,
    classes: Classes,
    words: Hashes,
    entries: Smalls,
    names: npt.NDArray[np.bool_],
    stops: Hashes,
    ones: Smalls,
    parts: Bytes,
    starts: Ints,
    out: Bytes,
    ends: Ints,
    counts: Ints,
) -> None:
    """Writes the swapped texts into `out`, their ends into ends[1:] and how many words were swapped into counts[d], zeros before."""
    at = np.int64(0)
    for d in range(offsets.size - 1):
        pos, end, copied = offsets[d], offsets[d + 1], offsets[d]
        last = np.int64(-2)  # the byte behind the last word; none is before a text's first
        while pos < end:
            behind, key = _word(data, pos, end, classes)
            if behind == pos:
                pos += 1
                continue
            entry = _find(words, entries, key)
            within = last == pos - 1 and data[pos - 1] == 32
            last = behind
            if entry >= 0 and not (within and names[entry]):
                choice = np.int64(1)
                if behind + 1 < end and (data[behind] == 32 or data[behind] == 10):
                    next_end, next_key = _word(data, behind + 1, end, classes)
                    if next_end > behind + 1 and _find(stops, ones, next_key) < 0:
                        choice = np.int64(0)
                for k in range(copied, pos):
                    out[at] = data[k]
                    at += 1
                for k in range(starts[2 * entry + choice], starts[2 * entry + choice + 1]):
                    out[at] = parts[k]
                    at += 1
                copied = behind
                counts[d] += 1
            pos = behind
        for k in range(copied, end):
            out[at] = data[k]
            at += 1
        ends[d + 1] = at


@njit(cache=True, nogil=True, inline="always")
def _mixed(state: np.uint64) -> np.uint64:
    """The output function of splitmix64 (Steele et al. 2014)."""
    state = (state ^ (state >> np.uint64(30))) * _MIX
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


@njit(cache=True, nogil=True, inline="always")
def _mistype(data: Bytes, pos: int, behind: int, luck: np.uint64, neighbours: Bytes, out: Bytes, at: int) -> int:
    """Writes the word of ASCII letters at `pos` with one change; gives the byte behind it in `out`."""
    kind = np.int64(luck >> np.uint64(62))
    place = pos + 1 + int((luck & np.uint64(0xFFFFFFFF)) % np.uint64(behind - pos - 1))
    if kind == 0:  # two letters change places; the last one has none behind it
        place = min(place, behind - 2)
        if data[place] == data[place + 1]:
            kind = np.int64(2)
    for k in range(pos, behind):
        letter = data[k]
        if k == place:
            if kind == 0:
                letter = data[k + 1]
            elif kind == 1:
                continue
            elif kind == 2:
                out[at] = letter
                at += 1
            else:
                letter = neighbours[letter, np.int64((luck >> np.uint64(40)) & np.uint64(1))]
        elif kind == 0 and k == place + 1:
            letter = data[place]
        out[at] = letter
        at += 1
    return at


@njit(
    types.void(
        *(_DATA, types.int64[::1], _CLASSES, types.uint8[:, ::1], types.uint64[::1], types.float64),
        *(types.uint8[::1], types.int64[::1], types.int64[::1]),
    ),
    cache=True,
    nogil=True,
)
def noise_kernel(
    data: Bytes,
    offsets: Ints,
    classes: Classes,
    neighbours: Bytes,
    keys: Hashes,
    rate: float,
    out: Bytes,
    ends: Ints,
    counts: Ints,
) -> None:
    """Writes the noisy texts into `out`, their ends into ends[1:], and how many words were changed into counts[d], zeros before."""
    at = np.int64(0)
    for d in range(offsets.size - 1):
        pos, end, number = offsets[d], offsets[d + 1], np.uint64(0)
        while pos < end:
            behind, _ = _word(data, pos, end, classes)
            if behind == pos:
                out[at] = data[pos]
                at += 1
                pos += 1
                continue
            plain = behind - pos >= MIN_NOISY_LETTERS
            for k in range(pos, behind):
                small = data[k] | np.uint8(32)
                plain = plain and np.uint8(97) <= small and small <= np.uint8(122) and data[k] < np.uint8(128)
            number += np.uint64(1)
            luck = _mixed(keys[d] + number * _GOLDEN)
            if plain and np.float64(luck >> np.uint64(11)) * 2.0**-53 < rate:
                at = _mistype(data, pos, behind, _mixed(luck + _GOLDEN), neighbours, out, at)
                counts[d] += 1
            else:
                for k in range(pos, behind):
                    out[at] = data[k]
                    at += 1
            pos = behind
        ends[d + 1] = at


def compile_kernels() -> None:
    """Compiles the kernels into numba's cache beside this file (importing does most of it) and runs each once."""
    axis = Axis(name="x", sources=("x",), pairs=(("a", "b"),))
    swap_words(pa.array(["A b."]), (axis,))
    add_noise(pa.array(["Some words."]), np.ones(1, np.uint64), 0.5)
