"""MinHash signatures, band keys and exact shingle sets of a whole shard, straight from its UTF-8 bytes.

A document becomes normalised words (see `normalise`), the words become shingles of `ngram_words`, a shingle becomes one
xxh64, and the low 32 bits of that are permuted. Signatures equal `datasketch.MinHash` 2.0 (scheme affine32) value for value
when it is given `element_hash` and the same seed; the permutations are datasketch's own. Equal band keys only propose a
pair: `jaccard_pairs` decides on the 64-bit shingle sets. Cost for 112 hashes on one core: about 80 ns per word (75 MB/s);
memory: the result and 22 times the longest document. Little-endian machines only.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from datasketch import MinHash
from llvmlite import ir
from numba import njit, types, uint32, uint64
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from tasks.text.buffers import string_buffers

__all__ = [
    "DedupConfig",
    "band_keys",
    "candidate_probability",
    "compile_kernels",
    "element_hash",
    "jaccard_pairs",
    "normalise",
    "shingle_hashes",
    "signatures",
]

Bytes = NDArray[np.uint8]
Actions = NDArray[np.int32]
Ints = NDArray[np.int64]
Values = NDArray[np.uint32]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]


class SketchConfig(BaseModel):
    """Near-duplicate settings; the defaults are FineWeb's (arXiv 2406.17557): word 5-grams, 112 hashes = 14 bands × 8 rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ngram_words: int = Field(5, ge=1)
    """Words per shingle. A document of fewer words has one shingle: all its words. One without words has none."""
    num_bands: int = Field(14, ge=1)
    """Bands of a signature; more bands propose more pairs."""
    rows_per_band: int = Field(8, ge=1)
    """Hashes per band; more rows propose fewer pairs."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Seed of datasketch's permutations. Signatures of different seeds cannot be compared."""

    @property
    def num_hashes(self) -> int:
        """Values per signature."""
        return self.num_bands * self.rows_per_band


class DedupConfig(SketchConfig):
    """x"""

    min_jaccard: float = Field(0.8, gt=0, le=1)


class Sketch(NamedTuple):
    """SHIM"""

    content: Any
    num_shingles: Any
    keys: Any


def sketch(text: pa.Array, config: SketchConfig) -> Sketch:
    """SHIM"""
    normal = [normalise(t) for t in text.to_pylist()]
    content = np.array(
        [[xxhash.xxh64_intdigest(n.encode()), xxhash.xxh64_intdigest(n.encode(), 7)] for n in normal], np.uint64
    ).reshape(-1, 2)
    counts = np.array([max(min(1, len(n.split())), len(n.split()) - config.ngram_words + 1) for n in normal], np.int32)
    return Sketch(content, counts, band_keys(signatures(text, config), config))


def shared_counts(values: Any, offsets: Any, left: Any, right: Any) -> Any:
    """SHIM"""
    sets = [set(values[offsets[i] : offsets[i + 1]].tolist()) for i in range(len(offsets) - 1)]
    return np.array([len(sets[a] & sets[b]) for a, b in zip(left, right)], np.int64)


# --- normalisation ---------------------------------------------------------------------------------------------------

_TABLE_SIZE = 0x20000
_SEPARATES, _VANISHES, _ALONE = -1, -2, 1 << 21
# Scripts written without spaces: each character is a word, as UAX #29 has it for ideographs (words proper would need
# a dictionary). Thai, Lao, Tibetan, Myanmar, Khmer, kana, CJK; planes 2 and 3 are ideographs throughout.
_UNSPACED = frozenset(
    point
    for first, last in (
        (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
        (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    )
    for point in range(first, last + 1)
)  # fmt: skip


def _fold(char: str) -> str:
    """One character's part of the normal form: "" vanishes, " " separates, " x " is a word of its own."""
    code = ord(char)
    if code >= _TABLE_SIZE:
        return f" {char} " if code < 0x40000 else " "
    category = unicodedata.category(char)
    if category == "Cf" or 0xFE00 <= code <= 0xFE0F:  # soft hyphen, joiners, variation selectors
        return ""
    if category[0] not in "LMN":
        return " "
    lower = char.lower()[0]
    return f" {lower} " if code in _UNSPACED else lower


def normalise(text: str) -> str:
    """The words of `text` as the kernels see them, joined by single spaces: the plain reference, slow.

    Letters, marks and numbers stay, lower-cased one by one (simple mapping: no final sigma, accents and digits kept, no
    Unicode normal form); format characters and variation selectors vanish; everything else (white space, punctuation,
    symbols, controls, private use) separates words; each character of a script without spaces is a word. Categories
    are those of the running Python's Unicode version below U+20000.
    """
    return " ".join("".join(map(_fold, text)).split())


@lru_cache(maxsize=1)
def _fold_table() -> Actions:
    """`_fold` of every code point below U+20000 as int32: the lower-case code point, with a flag, or a negative action."""
    table = np.empty(_TABLE_SIZE, np.int32)
    for code in range(_TABLE_SIZE):
        fold = _fold(chr(code))
        if fold in ("", " "):
            table[code] = _SEPARATES if fold else _VANISHES
        else:
            table[code] = ord(fold.strip()) | (_ALONE if len(fold) == 3 else 0)
    return table


def element_hash(shingle: bytes) -> int:
    """The 32-bit hash of one shingle (UTF-8, words joined by single spaces); pass it to datasketch as `hashfunc`."""
    return xxhash.xxh64_intdigest(shingle) & 0xFFFFFFFF


# --- kernels ---------------------------------------------------------------------------------------------------------
# data u8[num_bytes], starts i64[num_docs + 1]: document d is data[starts[d]:starts[d + 1]], UTF-8.


def _frozen(dtype: types.Type, ndim: int = 1) -> types.Array:
    """Arrow buffers are read-only; a kernel argument of this type takes writable arrays too."""
    return types.Array(dtype, ndim, "C", readonly=True)


_U8, _U32, _U64, _I64 = _frozen(types.uint8), _frozen(types.uint32), _frozen(types.uint64), _frozen(types.int64)
_I32 = _frozen(types.int32)
_P1, _P2, _P3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_P4, _P5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)


def _loader(num_bits: int) -> Any:
    """An unaligned load: composing a lane from single bytes took 35 ns per shingle, this takes 15 (measured)."""

    @intrinsic
    def load(typing_context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            view = context.make_array(signature.args[0])(context, builder, args[0])
            address = builder.bitcast(builder.gep(view.data, [args[1]]), ir.IntType(num_bits).as_pointer())
            lane = builder.load(address, align=1)
            return builder.zext(lane, ir.IntType(64)) if num_bits < 64 else lane

        return types.uint64(array, types.int64), generate

    return load


_load32, _load64 = _loader(32), _loader(64)


@njit(nogil=True)
def _rotate(lane: Any, bits: int) -> Any:
    return (lane << uint64(bits)) | (lane >> uint64(64 - bits))


@njit(nogil=True)
def _round(accumulator: Any, lane: Any) -> Any:
    return _rotate(accumulator + lane * _P2, 31) * _P1


@njit(nogil=True)
def _xxh64(data: Bytes, at: int, end: int) -> Any:
    """xxh64 with seed 0 of data[at:end], as specified in xxHash's doc/xxhash_spec.md."""
    size = end - at
    value = _P5
    if size >= 32:
        lanes = (_P1 + _P2, _P2, uint64(0), uint64(0) - _P1)
        while at + 32 <= end:
            lanes = (
                _round(lanes[0], _load64(data, at)),
                _round(lanes[1], _load64(data, at + 8)),
                _round(lanes[2], _load64(data, at + 16)),
                _round(lanes[3], _load64(data, at + 24)),
            )
            at += 32
        value = _rotate(lanes[0], 1) + _rotate(lanes[1], 7) + _rotate(lanes[2], 12) + _rotate(lanes[3], 18)
        for lane in lanes:
            value = (value ^ _round(uint64(0), lane)) * _P1 + _P4
    value += uint64(size)
    while at + 8 <= end:
        value = _rotate(value ^ _round(uint64(0), _load64(data, at)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= end:
        value = _rotate(value ^ (_load32(data, at) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        value = _rotate(value ^ (uint64(data[at]) * _P5), 11) * _P1
        at += 1
    value = (value ^ (value >> uint64(33))) * _P2
    value = (value ^ (value >> uint64(29))) * _P3
    return value ^ (value >> uint64(32))


@njit(nogil=True)
def _decode(data: Bytes, at: int) -> tuple[np.int64, int]:
    """(code point, position after it) at a lead byte of valid UTF-8, which Arrow strings are."""
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, at + 1
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (data[at + 1] & 0x3F), at + 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | (data[at + 1] & 0x3F) << 6 | (data[at + 2] & 0x3F), at + 3
    tail = (data[at + 1] & 0x3F) << 12 | (data[at + 2] & 0x3F) << 6 | (data[at + 3] & 0x3F)
    return (lead & 0x07) << 18 | tail, at + 4


@njit(nogil=True)
def _encode(code: int, out: Bytes, at: int) -> int:
    """Writes `code` as UTF-8 at out[at:]; the position after it."""
    if code < 0x80:
        out[at] = code
        return at + 1
    if code < 0x800:
        out[at] = 0xC0 | code >> 6
    else:
        if code < 0x10000:
            out[at] = 0xE0 | code >> 12
        else:
            out[at] = 0xF0 | code >> 18
            at += 1
            out[at] = 0x80 | (code >> 12 & 0x3F)
        at += 1
        out[at] = 0x80 | (code >> 6 & 0x3F)
    out[at + 1] = 0x80 | (code & 0x3F)
    return at + 2


@njit(nogil=True)
def _normalise(data: Bytes, start: int, end: int, table: Actions, out: Bytes, words: Ints) -> int:
    """Writes the normal form into `out`; word w is out[words[w]:words[w + 1] - 1]. The number of words."""
    at, size, num_words, in_word = start, 0, 0, False
    while at < end:
        code, at = _decode(data, at)
        action = np.int64(_SEPARATES)
        if code < _TABLE_SIZE:
            action = np.int64(table[code])
        elif code < 0x40000:
            action = code | _ALONE
        if action < 0:
            in_word = in_word and action == _VANISHES
            continue
        alone = action & _ALONE != 0
        if alone or not in_word:
            if num_words > 0:
                out[size] = 32
                size += 1
            words[num_words] = size
            num_words += 1
        in_word = not alone
        size = _encode(action & (_ALONE - 1), out, size)
    words[num_words] = size + 1
    return num_words


@njit(nogil=True)
def _hash_shingles(normal: Bytes, words: Ints, num_words: int, ngram_words: int, out: Hashes) -> int:
    """Writes the xxh64 of every shingle, in text order, into `out`; their number."""
    if num_words == 0:
        return 0
    span = min(ngram_words, num_words)
    num_shingles = num_words - span + 1
    for shingle in range(num_shingles):
        out[shingle] = _xxh64(normal, words[shingle], words[shingle + span] - 1)
    return num_shingles


@njit(nogil=True)
def _scratch(starts: Ints) -> tuple[Bytes, Ints, Hashes]:
    """Room for the longest document: its normal form (a character at most doubles), word starts and shingle hashes."""
    longest = 0
    for doc in range(starts.size - 1):
        longest = max(longest, starts[doc + 1] - starts[doc])
    return (np.empty(2 * longest + 2, np.uint8), np.empty(longest + 2, np.int64), np.empty(longest + 1, np.uint64))


@njit(types.uint32[:, ::1](_U8, _I64, _I32, types.int64, _U32, _U32), cache=True, nogil=True)
def _signature_kernel(data: Bytes, starts: Ints, table: Actions, ngram_words: int, factors: Values, offsets: Values) -> Values:
    normal, words, shingles = _scratch(starts)
    mixed = np.empty(shingles.size, np.uint32)
    values = np.empty((starts.size - 1, factors.size), np.uint32)
    for doc in range(starts.size - 1):
        num_words = _normalise(data, starts[doc], starts[doc + 1], table, normal, words)
        num_shingles = _hash_shingles(normal, words, num_words, ngram_words, shingles)
        for shingle in range(num_shingles):  # MurmurHash3 finaliser, datasketch._fmix(…, 32)
            value = uint32(shingles[shingle])
            value = uint32((value ^ (value >> uint32(16))) * uint32(0x85EBCA6B))
            value = uint32((value ^ (value >> uint32(13))) * uint32(0xC2B2AE35))
            mixed[shingle] = value ^ (value >> uint32(16))
        for k in range(factors.size):  # permutations outside: the inner loop is one vectorised reduction
            factor, offset, least = factors[k], offsets[k], uint32(0xFFFFFFFF)
            for shingle in range(num_shingles):
                least = min(least, uint32(factor * mixed[shingle] + offset))
            values[doc, k] = least
    return values


@njit(types.Tuple((types.uint64[::1], types.int64[::1]))(_U8, _I64, _I32, types.int64), cache=True, nogil=True)
def _shingle_kernel(data: Bytes, starts: Ints, table: Actions, ngram_words: int) -> tuple[Hashes, Ints]:
    normal, words, shingles = _scratch(starts)
    values, used = np.empty(1024, np.uint64), 0
    offsets = np.zeros(starts.size, np.int64)
    for doc in range(starts.size - 1):
        num_words = _normalise(data, starts[doc], starts[doc + 1], table, normal, words)
        num_shingles = _hash_shingles(normal, words, num_words, ngram_words, shingles)
        if used + num_shingles > values.size:
            larger = np.empty(max(2 * values.size, used + num_shingles), np.uint64)
            larger[:used] = values[:used]
            values = larger
        shingles[:num_shingles].sort()
        for shingle in range(num_shingles):
            if shingle == 0 or shingles[shingle] != shingles[shingle - 1]:
                values[used] = shingles[shingle]
                used += 1
        offsets[doc + 1] = used
    return values[:used].copy(), offsets


@njit(types.uint64[:, ::1](_frozen(types.uint8, 2), types.int64), cache=True, nogil=True)
def _band_kernel(rows: Bytes, bytes_per_band: int) -> Hashes:
    keys = np.empty((rows.shape[0], rows.shape[1] // bytes_per_band), np.uint64)
    for doc in range(keys.shape[0]):
        for band in range(keys.shape[1]):
            keys[doc, band] = _xxh64(rows[doc], band * bytes_per_band, (band + 1) * bytes_per_band)
    return keys


@njit(types.float64[::1](_U64, _I64, _I64, _I64), cache=True, nogil=True)
def _jaccard_kernel(values: Hashes, offsets: Ints, left: Ints, right: Ints) -> Floats:
    similarity = np.empty(left.size, np.float64)
    for pair in range(left.size):
        i, i_end = offsets[left[pair]], offsets[left[pair] + 1]
        j, j_end = offsets[right[pair]], offsets[right[pair] + 1]
        total, shared = (i_end - i) + (j_end - j), 0
        while i < i_end and j < j_end:
            a, b = values[i], values[j]
            shared += a == b
            i += a <= b
            j += b <= a
        similarity[pair] = shared / (total - shared) if total > 0 else 0.0
    return similarity


# --- what a step calls -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _permutations(num_hashes: int, seed: int) -> tuple[Values, Values]:
    factors, offsets = MinHash(num_perm=num_hashes, seed=seed, scheme="affine32").permutations
    return np.ascontiguousarray(factors), np.ascontiguousarray(offsets)


def signatures(text: pa.Array, config: SketchConfig) -> Values:
    """uint32 (num_docs, num_hashes); a document without words has 2**32 - 1 everywhere, like datasketch's empty set."""
    data, starts = string_buffers(text)
    factors, offsets = _permutations(config.num_hashes, config.seed)
    return _signature_kernel(data, starts, _fold_table(), config.ngram_words, factors, offsets)


def shingle_hashes(text: pa.Array, config: SketchConfig) -> tuple[Hashes, Ints]:
    """(values, offsets): the xxh64 of document d's distinct shingles, ascending, are values[offsets[d]:offsets[d + 1]]."""
    data, starts = string_buffers(text)
    return _shingle_kernel(data, starts, _fold_table(), config.ngram_words)


def band_keys(signature_values: Values, config: SketchConfig) -> Hashes:
    """uint64 (num_docs, num_bands): the xxh64 of each band's little-endian rows. Equal keys in one band make a candidate.

    Raises ValueError when the signatures have another number of hashes than the config.
    """
    if signature_values.ndim != 2 or signature_values.shape[1] != config.num_hashes:
        raise ValueError(f"signatures of {config.num_hashes} hashes expected, got shape {signature_values.shape}")
    rows = np.ascontiguousarray(signature_values, np.uint32).view(np.uint8)
    return _band_kernel(rows, 4 * config.rows_per_band)


def jaccard_pairs(values: Hashes, offsets: Ints, left: Ints, right: Ints) -> Floats:
    """Exact Jaccard similarity (0 to 1) of the shingle sets of documents left[p] and right[p], for every pair p.

    Two documents without words have similarity 0: they share nothing that could prove a duplicate.
    Raises ValueError for columns of unequal length and IndexError for a document that is not there.
    """
    if len(left) != len(right):
        raise ValueError(f"{len(left)} left and {len(right)} right documents do not make pairs")
    ends = np.concatenate([left, right]) if len(left) else np.zeros(0, np.int64)
    if ends.size and not 0 <= ends.min() <= ends.max() < len(offsets) - 1:
        raise IndexError(f"pairs name documents {ends.min()} to {ends.max()}, there are {len(offsets) - 1}")
    return _jaccard_kernel(values, offsets, np.ascontiguousarray(left, np.int64), np.ascontiguousarray(right, np.int64))


def candidate_probability(jaccard: ArrayLike, config: SketchConfig) -> Floats:
    """1 - (1 - s**rows)**bands: how likely a pair of similarity `jaccard` (0 to 1) shares at least one band key."""
    similarity = np.asarray(jaccard, np.float64)
    return 1.0 - (1.0 - similarity**config.rows_per_band) ** config.num_bands


def compile_kernels() -> None:
    """Runs every kernel once, so that later processes load them from numba's cache (import alone compiles them)."""
    config, text = DedupConfig(), pa.array(["one document"])
    values, offsets = shingle_hashes(text, config)
    band_keys(signatures(text, config), config)
    jaccard_pairs(values, offsets, np.zeros(1, np.int64), np.zeros(1, np.int64))
