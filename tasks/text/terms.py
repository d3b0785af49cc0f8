"""Identity terms and dialect proxies: how often each group of a word list occurs in every text, in one pass over its bytes.

Words are those of UAX #29 in short: runs of letters, marks, digits and "_", with an apostrophe between two of them ("ain’t" is
"ain't"); ideographs and kana one by one; format characters vanish, but for the tags and variation selectors of plane 14, which end a
word as all there does. Compared without regard to case, code point by code point, and not normalised: NFD "é" is not NFC "é". A term of
several words has nothing but white space (one newline) or hyphens between them. Cost: 1 MB of table; 115 MB/s of English on one 2.5 GHz
core, more of other scripts.

What lists cannot show: a mention is not an author and says nothing of what is said; homographs count ("Christian" the name);
who is described in other words is not seen; the dialect proxies are spellings of informal writing, not grammar (habitual "be" needs a
parser), used by others too, and absent from most of what speakers of the dialect write. They find a disparity; they rule out none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numba import njit, types
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from infra.ids import payload_digest
from tasks.text.buffers import string_buffers
from tasks.text.groups import COUNT, Columns, Signal
from tasks.text.tables import open_table

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Smalls = npt.NDArray[np.int32]
Folds = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]

LISTS = Path(__file__).with_name("terms_data")
FILES = tuple(sorted(LISTS.glob("*.yaml")))
MAX_GROUPS = 64  # bits of a mask
MAX_WORDS = 4  # of a term; so many may be open at a time

# What a code point is: a value of the fold table. From "0" on it is the folded code point of a word character itself.
_OTHER, _SPACE, _NEWLINE, _APOSTROPHE, _VANISHES = range(5)
_FIRST_WORD = ord("0")
_ALONE = 1 << 30
_MAX_FOLDED = 0x40000  # as in kernels.py: nothing above is a letter
_APOSTROPHES = "'’"
_HYPHENS = "-\u2010\u2011"
_SEED, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, 64 bits
_MIX, _GOLDEN = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0x9E3779B97F4A7C15)  # MurmurHash3's finaliser; 2^64 / phi
# UAX #29 breaks around each of these (Unicode blocks); katakana it keeps together, as letters
_ALONE_RANGES = ((0x3040, 0x309F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))


class TermGroup(BaseModel):
    """The terms that stand for one group of people, or for one dialect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """As in `terms_<name>`; the same in every language."""
    kind: Literal["identity", "dialect"] = "identity"
    """Whether the terms name people, or are spellings by which a dialect shows."""
    sources: tuple[str, ...] = Field(min_length=1)
    """Keys of the list's `sources`, from which the terms are."""
    terms: tuple[str, ...] = Field(min_length=1)
    """Words, or up to MAX_WORDS words; case, and hyphen or space between words, are one."""


class TermLists(BaseModel):
    """The groups of one language, with where their terms are from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str
    """ISO 639 code, as the language model gives it."""
    sources: tuple[str, ...]
    """Each as `key: citation`."""
    prefixes: tuple[str, ...] = ()
    """What may stand before a term in one word with it: French "l'", for "l'homme" is one word."""
    suffixes: tuple[str, ...] = ()
    """What may stand behind it: English "'s"."""
    groups: tuple[TermGroup, ...] = Field(min_length=1, max_length=MAX_GROUPS)

    def forms(self, group: TermGroup) -> list[str]:
        """The terms of a group with every prefix and suffix, and without."""
        return [
            f"{before}{term}{behind}"
            for term in group.terms
            for before in ("", *self.prefixes)
            for behind in ("", *self.suffixes)
        ]

    @model_validator(mode="after")
    def _consistent(self) -> TermLists:
        names = [group.name for group in self.groups]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"groups named twice: {', '.join(twice)}")
        known = {source.partition(":")[0] for source in self.sources}
        for group in self.groups:
            if unknown := sorted(set(group.sources) - known):
                raise ValueError(f"{group.name}: sources that the list does not name: {', '.join(unknown)}")
            _check_terms(group)
            forms = self.forms(group)
            for form, num_words in zip(forms, np.diff(_words_of(forms)[1], prepend=0).tolist(), strict=True):
                if num_words > MAX_WORDS:
                    raise ValueError(
                        f"{group.name}: {form!r}, with its prefix and suffix, has {num_words} words, above {MAX_WORDS}"
                    )
        return self


def _check_terms(group: TermGroup) -> None:
    """A term must have words, and must not stand in another one of its group: it would be counted twice."""
    hashes, ends = _words_of(group.terms)
    words = [tuple(hashes[start:end].tolist()) for start, end in zip([0, *ends], ends, strict=False)]
    for term, own in zip(group.terms, words, strict=True):
        if not 1 <= len(own) <= MAX_WORDS:
            raise ValueError(f"{group.name}: {term!r} has {len(own)} words; 1 to {MAX_WORDS} are possible")
        for other, longer in zip(group.terms, words, strict=True):
            if other is not term and any(longer[at : at + len(own)] == own for at in range(len(longer) - len(own) + 1)):
                raise ValueError(f"{group.name}: {term!r} stands in {other!r} and would be counted twice")


def shipped_lists() -> list[str]:
    """The languages of which lists ship."""
    return sorted(path.stem for path in LISTS.glob("*.yaml"))


def lists_path(name: str) -> Path:
    """The file of lists that ship, by language, or of one's own, by path.

    Raises ValueError for a name that is neither.
    """
    path = LISTS / f"{name}.yaml" if name in shipped_lists() else Path(name)
    if not path.is_file():
        raise ValueError(f"no term lists {name!r}: neither a file nor one of {', '.join(shipped_lists())}")
    return path


def load_lists(name: str) -> TermLists:
    """The term lists of `lists_path(name)`. Raises ValueError (pydantic's) that says what is wrong with the file."""
    return _checked(lists_path(name).read_text(encoding="utf-8"))


@lru_cache(maxsize=16)
def _checked(text: str) -> TermLists:
    return TermLists.model_validate(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def checked_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of term lists with paths made absolute. Raises ValueError for one that is none, and for two of one language."""
    languages = [load_lists(name).language for name in names]
    if twice := sorted({one for one in languages if languages.count(one) > 1}):
        raise ValueError(f"more than one list of {', '.join(twice)}")
    return tuple(name if name in shipped_lists() else str(lists_path(name).absolute()) for name in names)


ListNames = Annotated[tuple[str, ...], AfterValidator(checked_names)]
"""What configurations take: languages of which lists ship, or paths of own files, one of a language."""


def list_files(names: Sequence[str]) -> Mapping[str, str]:
    """Digests of the files of these lists, by language, as part of a recipe."""
    return {f"terms {load_lists(name).language}": payload_digest(lists_path(name).read_bytes()) for name in names}


@lru_cache(maxsize=1)
def _shipped() -> dict[str, TermLists]:
    """The lists that ship, by language."""
    return {name: load_lists(name) for name in shipped_lists()}


def _signals() -> tuple[Signal, ...]:
    """A column for every group of any list that ships, in the order of English, which has the most."""
    languages: dict[tuple[str, str], list[str]] = {}
    for language, lists in sorted(_shipped().items(), key=lambda pair: -len(pair[1].groups)):
        for group in lists.groups:
            languages.setdefault((group.name, group.kind), []).append(language)
    return tuple(
        Signal(
            f"terms_{name}",
            COUNT,
            f"{'identity terms' if kind == 'identity' else 'dialect proxies'} of the group, by the list of the document's language "
            f"({', '.join(sorted(own))}); 0 in other languages and in unknown ones",
        )
        for (name, kind), own in languages.items()
    )


def measure(text: pa.Array, language: pa.Array | None) -> Columns:
    """SIGNALS of every text, int32, by the list of its own language; `language` as in `groups.SignalGroup.measure`."""
    assert language is not None
    columns = {signal.name: np.zeros(len(text), np.int32) for signal in SIGNALS}
    for name, lists in _shipped().items():
        rows = np.flatnonzero(pc.equal(language, name).to_numpy(zero_copy_only=False))
        if len(rows):
            counts = count_terms(text.take(pa.array(rows)), lists)
            for group in lists.groups:
                columns[f"terms_{group.name}"][rows] = counts[f"terms_{group.name}"].to_numpy()
    return columns


def tables(language: str) -> tuple[Folds, Hashes, Smalls, npt.NDArray[np.bool_]]:
    """What `near_kernel` needs for the identity terms of a language that ships: (folds, keys, nodes, whether one ends at each node)."""
    lists = _shipped().get(language)
    if lists is None:
        return _folds(), np.zeros(1, np.uint64), np.zeros(1, np.int32), np.zeros(1, np.bool_)
    keys, nodes, masks = _table(lists)
    identity = sum(1 << bit for bit, group in enumerate(lists.groups) if group.kind == "identity")
    return _folds(), keys, nodes, (masks & np.uint64(identity)) > 0


def count_terms(text: pa.Array | pa.ChunkedArray, lists: TermLists) -> pa.Table:
    """Occurrences of the terms of every group in every text, as int32 columns `terms_<group>`, and `num_words` in front.

    A null text counts as "". Every occurrence of every term counts, in each group that has it; so a term within a longer one of another
    group counts for both. Raises ValueError for an array that is not string or large_string.
    """
    chunks = text.chunks if isinstance(text, pa.ChunkedArray) else [text]
    keys, nodes, masks = _table(lists)
    names = ["num_words", *(f"terms_{group.name}" for group in lists.groups)]
    counts = np.zeros((sum(map(len, chunks)), len(names)), np.int32)
    row = 0
    for chunk in chunks:
        data, offsets = string_buffers(chunk)
        count_kernel(data, offsets, _folds(), keys, nodes, masks, counts[row : row + len(chunk)])
        row += len(chunk)
    return pa.table({name: np.ascontiguousarray(column) for name, column in zip(names, counts.T, strict=True)})


@lru_cache(maxsize=1)
def _folds() -> Folds:
    """The fold table (uint32) of every code point below _MAX_FOLDED, from this Python's Unicode tables; built in 0.2 s."""
    folds = np.zeros(_MAX_FOLDED, np.uint32)
    for point, char in enumerate(map(chr, range(_MAX_FOLDED))):
        category = unicodedata.category(char)
        if category[0] in "LM" or category == "Nd" or char == "_":
            folds[point] = _folded(char)
        elif char.isspace() or char in _HYPHENS or char == "\u200b":  # zero width space: made to separate words
            folds[point] = _NEWLINE if char == "\n" else _SPACE
        elif char in _APOSTROPHES:
            folds[point] = _APOSTROPHE
        elif category == "Cf":
            folds[point] = _VANISHES
    for first, last in _ALONE_RANGES:
        span = folds[first : last + 1]
        span[span >= _FIRST_WORD] |= _ALONE
    return folds


def _folded(char: str) -> int:
    """The code point that stands for `char` in any case; one that folds to several ("ß") stays."""
    for folded in (char.casefold(), char.lower()):
        if len(folded) == 1:
            return ord(folded)
    return ord(char)


def _words_of(terms: Sequence[str]) -> tuple[Hashes, list[int]]:
    """The hashes of the words of all terms, and for each term where its words end in them; read as texts are."""
    data, offsets = string_buffers(pa.array(terms, pa.string()))
    hashes, ends = np.zeros(data.size + 1, np.uint64), np.zeros(len(terms), np.int64)
    hash_kernel(data, offsets, _folds(), hashes, ends)
    return hashes, ends.tolist()


@lru_cache(maxsize=16)
def _table(lists: TermLists) -> tuple[Hashes, Smalls, Hashes]:
    """(key per slot or 0, node per slot, groups that end at each node as bits): the terms as a tree of words from node 0 on."""
    tree: dict[tuple[int, int], int] = {}
    masks = [0]
    for bit, group in enumerate(lists.groups):
        hashes, ends = _words_of(lists.forms(group))
        for start, end in zip([0, *ends], ends, strict=False):
            node = 0
            for word in hashes[start:end].tolist():
                if (node, word) not in tree:
                    tree[node, word] = len(masks)
                    masks.append(0)
                node = tree[node, word]
            masks[node] |= 1 << bit
    steps = {(word ^ (node * int(_GOLDEN))) & 0xFFFFFFFFFFFFFFFF: target for (node, word), target in tree.items()}
    return *open_table(steps), np.array(masks, np.uint64)


@njit(cache=True, nogil=True, inline="always")
def _point(data: Bytes, pos: int, end: int, folds: Folds) -> tuple[np.int64, int]:
    """(value of the fold table, width in bytes) at `pos`; a broken sequence is one byte of another kind."""
    lead = np.int64(data[np.uint64(pos)])
    if lead < 128:
        return np.int64(folds[np.uint64(lead)]), 1
    if lead < 0xC2 or lead > 0xF4:
        return np.int64(_OTHER), 1
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if pos + width > end:
        return np.int64(_OTHER), 1
    point = lead & (0x7F >> width)
    for k in range(1, width):
        point = (point << 6) | (np.int64(data[np.uint64(pos + k)]) & 0x3F)
    return (np.int64(folds[np.uint64(point)]) if point < _MAX_FOLDED else np.int64(_OTHER)), width


@njit(cache=True, nogil=True, inline="always")
def _next_word(data: Bytes, pos: int, end: int, folds: Folds) -> tuple[np.uint64, bool, int]:
    """(hash or 0 where no word is left, whether it follows the last one closely, byte behind it) of the first word from `pos` on."""
    close, newlines = True, 0
    kind, width = np.int64(0), 0
    while pos < end:
        kind, width = _point(data, pos, end, folds)
        if kind >= _FIRST_WORD:
            break
        newlines += kind == _NEWLINE
        close = close and kind != _OTHER and kind != _APOSTROPHE and newlines < 2
        pos += width
    if pos >= end:
        return np.uint64(0), False, pos
    fingerprint = (_SEED ^ np.uint64(kind)) * _PRIME
    pos += width
    if kind < _ALONE:
        while pos < end:
            kind, width = _point(data, pos, end, folds)
            if kind == _APOSTROPHE and pos + width < end:
                ahead = pos + width
                after, more = _point(data, ahead, end, folds)
                while after == _VANISHES and ahead + more < end:
                    ahead += more
                    after, more = _point(data, ahead, end, folds)
                if after < _FIRST_WORD or after >= _ALONE:
                    break
                fingerprint = (fingerprint ^ np.uint64(kind)) * _PRIME
                kind, pos, width = after, ahead, more
            if kind >= _ALONE or (kind < _FIRST_WORD and kind != _VANISHES):
                break
            if kind != _VANISHES:
                fingerprint = (fingerprint ^ np.uint64(kind)) * _PRIME
            pos += width
    fingerprint = (fingerprint ^ (fingerprint >> np.uint64(33))) * _MIX
    fingerprint ^= fingerprint >> np.uint64(33)
    return max(fingerprint, np.uint64(1)), close, pos


@njit(cache=True, nogil=True, inline="always")
def _find(keys: Hashes, nodes: Smalls, node: int, word: np.uint64) -> np.int64:
    """The node that `word` leads to from `node`, or 0."""
    key = word ^ (np.uint64(node) * _GOLDEN)
    mask = np.uint64(keys.size - 1)
    slot = key & mask
    while keys[slot] != np.uint64(0):
        if keys[slot] == key:
            return np.int64(nodes[slot])
        slot = (slot + np.uint64(1)) & mask
    return np.int64(0)


_DATA = types.Array(types.uint8, 1, "C", readonly=True)
_FOLDS = types.uint32[::1]


@njit(types.void(_DATA, types.int64[::1], _FOLDS, types.uint64[::1], types.int64[::1]), cache=True, nogil=True)
def hash_kernel(data: Bytes, offsets: Ints, folds: Folds, hashes: Hashes, ends: Ints) -> None:
    """Writes the hash of every word of every text, and for text d the number of words up to its end into ends[d]."""
    num = 0
    for d in range(offsets.size - 1):
        pos, end = offsets[d], offsets[d + 1]
        while pos < end:
            word, _, pos = _next_word(data, pos, end, folds)
            if word != np.uint64(0):
                hashes[num] = word
                num += 1
        ends[d] = num


@njit(
    types.void(
        *(_DATA, types.int64[::1], _FOLDS, types.uint64[::1], types.int32[::1], types.uint64[::1], types.int32[:, ::1]),
    ),
    cache=True,
    nogil=True,
)
def count_kernel(
    data: Bytes, offsets: Ints, folds: Folds, keys: Hashes, nodes: Smalls, masks: Hashes, counts: npt.NDArray[np.int32]
) -> None:
    """Fills counts[d], zeros before: the words of document d, then the occurrences of each group; see `_table` for the rest."""
    begun = np.zeros(MAX_WORDS + 1, np.int64)  # nodes of the terms that the last words may be the beginning of
    for d in range(offsets.size - 1):
        pos, end, num_begun = offsets[d], offsets[d + 1], 0
        while pos < end:
            word, close, pos = _next_word(data, pos, end, folds)
            if word == np.uint64(0):
                break
            counts[d, 0] += 1
            going_on = 0
            for k in range(num_begun if close else 0):
                node = _find(keys, nodes, begun[k], word)
                if node > 0:
                    begun[going_on] = node
                    going_on += 1
            node = _find(keys, nodes, 0, word)
            if node > 0:
                begun[going_on] = node
                going_on += 1
            num_begun = going_on
            for k in range(num_begun):
                mask, group = masks[begun[k]], 1
                while mask != np.uint64(0):
                    if mask & np.uint64(1):
                        counts[d, group] += 1
                    mask >>= np.uint64(1)
                    group += 1


@njit(cache=True, nogil=True)
def _mark_words(
    data: Bytes,
    start: int,
    end: int,
    folds: Folds,
    keys: Hashes,
    nodes: Smalls,
    wanted: npt.NDArray[np.bool_],
    word_ends: Smalls,
    marked: npt.NDArray[np.bool_],
) -> int:
    """Writes where each word of data[start:end] ends, in bytes from `start`, and marks those of terms that end at a wanted node.

    Returns the number of words; `marked` is False before.
    """
    begun, lengths = np.zeros(MAX_WORDS + 1, np.int64), np.zeros(MAX_WORDS + 1, np.int64)
    pos, num_begun, num_words = start, 0, 0
    while pos < end:
        word, close, pos = _next_word(data, pos, end, folds)
        if word == np.uint64(0):
            break
        word_ends[num_words] = pos - start
        num_words += 1
        going_on = 0
        for k in range(num_begun if close else 0):
            node = _find(keys, nodes, begun[k], word)
            if node > 0:
                begun[going_on], lengths[going_on] = node, lengths[k] + 1
                going_on += 1
        node = _find(keys, nodes, 0, word)
        if node > 0:
            begun[going_on], lengths[going_on] = node, 1
            going_on += 1
        num_begun = going_on
        for k in range(num_begun):
            if wanted[begun[k]]:
                marked[num_words - lengths[k] : num_words] = True
    return num_words


@njit(cache=True, nogil=True)
def _num_near(places: Smalls, ends: Smalls, marked: npt.NDArray[np.bool_], num_words: int, near_words: int) -> int:
    """How many of the byte places have a marked word at most `near_words` from the word there, or the next one."""
    word, near = 0, 0
    for k in range(places.size):
        while word < num_words and ends[word] <= places[k]:
            word += 1
        for other in range(max(0, word - near_words), min(num_words, word + near_words + 1)):
            if marked[other]:
                near += 1
                break
    return near


@njit(
    types.void(
        *(_DATA, types.int64[::1], types.int64[::1], types.int32[::1], types.int64[::1], types.int64),
        *(_FOLDS, types.uint64[::1], types.int32[::1], types.boolean[::1], types.int32[::1]),
    ),
    cache=True,
    nogil=True,
)
def near_kernel(
    data: Bytes,
    offsets: Ints,
    rows: Ints,
    places: Smalls,
    place_ends: Ints,
    near_words: int,
    folds: Folds,
    keys: Hashes,
    nodes: Smalls,
    wanted: npt.NDArray[np.bool_],
    counts: Smalls,
) -> None:
    """Writes into counts[k] how many places of document rows[k] are within `near_words` words of a term that ends at a wanted node.

    Its places, places[place_ends[k - 1]:place_ends[k]], are byte offsets in it, in order. Memory: 5 bytes for each byte of a document.
    """
    first = 0
    for k in range(rows.size):
        start, end, last = offsets[rows[k]], offsets[rows[k] + 1], place_ends[k]
        if last > first and wanted.size > 1:
            word_ends, marked = np.empty(end - start, np.int32), np.zeros(end - start, np.bool_)
            num_words = _mark_words(data, start, end, folds, keys, nodes, wanted, word_ends, marked)
            counts[k] = _num_near(places[first:last], word_ends, marked, num_words, near_words)
        first = last


SIGNALS = _signals()


def compile_kernels() -> None:
    """Compiles the kernels into numba's cache beside this file (importing does most of it) and runs each once."""
    lists = TermLists(language="en", sources=("x: none",), groups=(TermGroup(name="x", sources=("x",), terms=("a word",)),))
    count_terms(pa.array(["A word."]), lists)
