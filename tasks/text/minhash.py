"""MinHash signatures, band keys and exact shingle sets of a whole shard, straight from its UTF-8 bytes.

A document becomes its normal form (see `normalise`), the normal form becomes shingles of words or characters, a shingle becomes one
xxh64, and that (or its low 32 bits) is permuted. Signatures equal `datasketch.MinHash` 2.0 (schemes affine32 and affine64) value for
value when it is given `element_hash` (`element_hash64`) and the same seed. Equal band keys only propose a pair: `shared_counts` decides on
the 64-bit shingle sets.

Cost on one core of a 2.6 GHz Zen 4 server, 112 hashes of word 5-grams: 21 ns per word, 300 MB/s of English, 130 to 290 of other
languages. The limit is every byte read once, and one multiplication, addition and comparison per shingle and hash, which AVX-512 does
for 16 hashes at once: 3.4 ns of the 21. The normal form takes 7, the xxh64 of overlapping shingles 7.4, the rest is once per document;
with 9,000 hashes the permutations are 80 % (see benchmarks/minhash.py). Memory: the result, and at most 7 times the longest document (11
for characters); for `shingle_hashes` 15 (27). Little-endian machines only.
"""

from __future__ import annotations

import re
import string
import unicodedata
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from llvmlite import ir
from numba import int64, njit, types, uint32, uint64
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tasks.text.buffers import string_buffers

__all__ = [
    "PRESETS",
    "Preset",
    "Sketch",
    "SketchConfig",
    "band_keys",
    "candidate_probability",
    "compile_kernels",
    "element_hash",
    "element_hash64",
    "jaccard_pairs",
    "normalise",
    "shared_counts",
    "shingle_hashes",
    "signatures",
    "sketch",
]

Bytes = NDArray[np.uint8]
Actions = NDArray[np.uint64]
Ints = NDArray[np.int64]
Counts = NDArray[np.int32]
Values = NDArray[np.uint32]
Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]

Preset = Literal["careful", "fineweb", "nemo", "redpajama", "lee2022"]
PRESETS: dict[Preset, dict[str, Any]] = {
    # FineWeb's shingles and bands, but texts that differ in numbers or accents differ
    "careful": {},
    # Penedo et al. 2024 (arXiv 2406.17557), 3.4: word 5-grams, 112 hashes; datatrove 0.10's `simplify_text` for the normal form
    "fineweb": {"digits": "number", "accents": "strip"},
    # NeMo Curator's guide to fuzzy deduplication: 24-character n-grams of the text as it is, 20 bands of 13 rows, seed 42
    "nemo": {
        **{"shingle_unit": "characters", "shingle_length": 24, "num_bands": 20, "rows_per_band": 13, "seed": 42},
        **{"lower_case": False, "punctuation": "keep"},
    },
    # RedPajama-Data-v2, configs/rp_v2.0.conf and app/src/utilities/text/normalization.py; 9 × 13 is its division for 0.8, that for
    # 0.7 is 14 × 9 and that for 0.9 is 5 × 25. It decomposes accents (NFD), and gives short documents no shingle.
    "redpajama": {"shingle_length": 13, "num_bands": 9, "rows_per_band": 13, "punctuation": "drop_ascii"},
    # Lee et al. 2022 (arXiv 2107.06499), A: space-tokenised 5-grams, 9,000 hashes
    "lee2022": {
        **{"num_bands": 450, "rows_per_band": 20},
        **{"lower_case": False, "punctuation": "keep"},
    },
}
"""What each preset sets besides the fields' defaults, which are those of `careful`."""


class SketchConfig(BaseModel):
    """How documents become normal forms, shingles and signatures.

    A preset is a set of values; fields that are given besides it override it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset = "careful"
    """Settings to begin with. `careful`: as `fineweb`, but numbers and accents count: tables and forms that differ in numbers only are no
    duplicates of one another. `fineweb`: word 5-grams, 14 × 8 hashes, text simplified as datatrove does. `nemo`: 24
    characters of the text as it is, 20 × 13. `redpajama`: 13 words, 9 × 13, which is for a similarity of 0.8; give 14 × 9 for 0.7
    and 5 × 25 for 0.9. `lee2022`: 5 words between white space, 450 × 20; Lee et al. remove pairs whose similarity is above 0.8."""
    shingle_unit: Literal["words", "characters"] = "words"
    """What a shingle consists of: words of the normal form, or its code points, spaces included."""
    shingle_length: int = Field(5, ge=1)
    """Words or characters per shingle. A shorter document has one shingle: all of it. An empty normal form has none."""
    num_bands: int = Field(14, ge=1)
    """Bands of a signature; more bands propose more pairs."""
    rows_per_band: int = Field(8, ge=1)
    """Hashes per band; more rows propose fewer pairs."""
    seed: int = Field(1, ge=0, lt=2**32)
    """Seed of datasketch's permutations. Signatures of different seeds cannot be compared."""
    scheme: Literal["affine32", "affine64"] = "affine32"
    """Width in bits of hashes and permutations, as in datasketch 2.0. 64 bits are for documents of 100 million shingles, at a third
    of the speed."""
    lower_case: bool = True
    """Whether letters become lower case, one by one (simple mapping, no final sigma)."""
    digits: Literal["keep", "zero", "number", "drop"] = "keep"
    """Decimal digits of every script: as they are; each becomes 0; a run of them, with one decimal mark and more of them behind it,
    becomes one 0 (datatrove); none stays. Unless kept, documents that differ in numbers only are the same content."""
    punctuation: Literal["separate", "keep", "drop_ascii"] = "separate"
    """Punctuation marks and symbols separate words as white space does; or stay as characters of words; or those of ASCII go without
    separating and the others stay, as RedPajama has it."""
    accents: Literal["keep", "strip"] = "keep"
    """As they are (no Unicode normal form either); or each character is replaced by its canonical decomposition without the
    nonspacing marks (category Mn), as datatrove does: é is e, and so is e with a combining accent; vowel signs go too."""

    @model_validator(mode="before")
    @classmethod
    def _begin_with_preset(cls, given: Any) -> Any:
        preset = given.get("preset") if isinstance(given, dict) else None
        return {**PRESETS[preset], **given} if isinstance(preset, str) and preset in PRESETS else given

    @property
    def num_hashes(self) -> int:
        """Values per signature."""
        return self.num_bands * self.rows_per_band


CAREFUL = SketchConfig()
"""The settings of who gives none."""

# --- normalisation ---------------------------------------------------------------------------------------------------

_TABLE_SIZE = 0x30000
# What becomes of a code point: the UTF-8 bytes in bits 0 to 31 (or their place in the pool), how many in bits 32 to 35, and these.
_ALONE, _SEPARATES, _VANISHES, _POOLED, _DIGIT, _DECIMAL_MARK = (1 << bit for bit in range(36, 42))
# Below _ALONE an action is one character that goes on with the word, from there below _SEPARATES one that is a word.
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
_DECIMAL_MARKS = ".,،٫⎖⎗⎘"  # datatrove 0.10, utils/text.py
_NUMBER = re.compile(rf"\d+(?:[{_DECIMAL_MARKS}]\d+)?")


def _fold(char: str, config: SketchConfig) -> str:
    """One character's part of the normal form: "" vanishes, " " separates, " x " is a word of its own."""
    code = ord(char)
    category = unicodedata.category(char) if code < 0x20000 else "Lo"
    if code >= 0x40000:
        return " "
    if category == "Nd" and config.digits != "keep":
        return "" if config.digits == "drop" else "0"
    if category == "Cf" or 0xFE00 <= code <= 0xFE0F:  # soft hyphen, joiners, variation selectors
        return ""
    if config.punctuation == "drop_ascii" and char in string.punctuation:
        return ""
    if category[0] not in ("LMN" if config.punctuation == "separate" else "LMNPS"):
        return " "
    if config.lower_case:
        char = char.lower()[0]
    if config.accents == "strip":
        char = "".join(part for part in unicodedata.normalize("NFD", char) if unicodedata.category(part) != "Mn")
    is_word = config.shingle_unit == "words" and (code in _UNSPACED or code >= 0x20000)
    return f" {char} " if char and is_word else char


def normalise(text: str, config: SketchConfig = CAREFUL) -> str:
    """The normal form of `text` as the kernels see it, words joined by single spaces: the plain reference, slow.

    Letters, marks and numbers stay, changed one by one as `config` says; format characters and variation selectors vanish; white
    space, controls, unassigned code points and private use separate words, punctuation marks and symbols too unless they are kept;
    each character of a script without spaces is a word, unless shingles are of characters. Categories are those of the running
    Python's Unicode version below U+20000.
    """
    if config.digits == "number":
        text = _NUMBER.sub("0", text)
    return " ".join("".join(_fold(char, config) for char in text).split())


class _Folds(NamedTuple):
    """`_fold` of every code point, as the kernels read it."""

    table: Actions
    """u64[_TABLE_SIZE]"""
    pool: Bytes
    """Where what is longer than four bytes lies, and room to read beyond it."""
    flags: int
    """How ASCII is normalised: bits from _BY_WORDS on."""


def _folds(config: SketchConfig) -> _Folds:
    """One table for all configurations that normalise alike."""
    return _fold_all(
        SketchConfig(**config.model_dump(include={"shingle_unit", "lower_case", "digits", "punctuation", "accents"}))
    )


@lru_cache(maxsize=16)
def _fold_all(config: SketchConfig) -> _Folds:
    table, pool = np.empty(_TABLE_SIZE, np.uint64), bytearray()
    for code in range(_TABLE_SIZE):
        char = chr(code)
        fold = _fold(char, config)
        out = fold.strip(" ").encode()
        action = len(out) << 32
        if len(out) > 4:
            action |= _POOLED | len(pool)
            pool += out
        else:
            action |= int.from_bytes(out, "little")
        if not fold:
            action |= _VANISHES
        elif fold[0] == " ":
            action |= _ALONE if out else _SEPARATES
        if config.digits == "number" and code < 0x20000:
            if char in _DECIMAL_MARKS:
                action |= _DECIMAL_MARK
            elif unicodedata.category(char) == "Nd":
                action |= _DIGIT
        table[code] = action
    flags = (
        _BY_WORDS * (config.shingle_unit == "words")
        | _LOWER_CASE * config.lower_case
        | _KEEP_SIGNS * (config.punctuation == "keep")
        | _DROP_SIGNS * (config.punctuation == "drop_ascii")
        | _ZERO_DIGITS * (config.digits == "zero")
        | _CAREFUL * (config.digits in ("number", "drop"))
    )
    return _Folds(table, np.frombuffer(bytes(pool) + bytes(16), np.uint8), flags)


def element_hash(shingle: bytes) -> int:
    """The 32-bit hash of one shingle (UTF-8, words joined by single spaces); pass it to datasketch as `hashfunc` for affine32."""
    return xxhash.xxh64_intdigest(shingle) & 0xFFFFFFFF


def element_hash64(shingle: bytes) -> int:
    """The 64-bit hash of one shingle; pass it to datasketch as `hashfunc` for affine64."""
    return xxhash.xxh64_intdigest(shingle)


# --- kernels ---------------------------------------------------------------------------------------------------------
# data u8[num_bytes], starts i64[num_docs + 1]: document d is data[starts[d]:starts[d + 1]], UTF-8.


def _frozen(dtype: types.Type, ndim: int = 1) -> types.Array:
    """Arrow buffers are read-only; a kernel argument of this type takes writable arrays too."""
    return types.Array(dtype, ndim, "C", readonly=True)


_U8, _U32, _U64, _I64 = _frozen(types.uint8), _frozen(types.uint32), _frozen(types.uint64), _frozen(types.int64)
_P1, _P2, _P3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_P4, _P5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)


_OUT_U8, _OUT_U32, _OUT_U64, _OUT_I64 = types.uint8[::1], types.uint32[::1], types.uint64[::1], types.int64[::1]
_INT = types.int64


def _loader(num_bits: int) -> Any:
    """An unaligned load, at an index that is known not to be negative: composing a lane from single bytes takes twice as long."""

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


def _storer(num_bits: int) -> Any:
    """An unaligned store of the low bits, at an index that is known not to be negative."""

    @intrinsic
    def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            view = context.make_array(signature.args[0])(context, builder, args[0])
            address = builder.bitcast(builder.gep(view.data, [args[1]]), ir.IntType(num_bits).as_pointer())
            builder.store(builder.trunc(args[2], ir.IntType(num_bits)) if num_bits < 64 else args[2], address, align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.uint64), generate

    return store


_store32, _store64 = _storer(32), _storer(64)


@intrinsic
def _count_ones(typing_context: Any, value: Any) -> Any:
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


@intrinsic
def _count_low_zeros(typing_context: Any, value: Any) -> Any:
    """64 of 0."""
    return types.uint64(types.uint64), lambda context, builder, signature, args: builder.cttz(
        args[0], ir.Constant(ir.IntType(1), 0)
    )


@njit(nogil=True)
def _rotate(lane: Any, bits: int) -> Any:
    return (lane << uint64(bits)) | (lane >> uint64(64 - bits))


@njit(nogil=True)
def _round(accumulator: Any, lane: Any) -> Any:
    return _rotate(accumulator + lane * _P2, 31) * _P1


@njit(nogil=True)
def _stripes(data: Bytes, at: int, end: int, seed: Any) -> tuple[Any, int]:
    """What xxh64 makes of the whole stripes of 32 bytes of data[at:end], one at least, and where they end."""
    one, two, three, four = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
    while at + 32 <= end:
        one, two = _round(one, _load64(data, at)), _round(two, _load64(data, at + 8))
        three, four = _round(three, _load64(data, at + 16)), _round(four, _load64(data, at + 24))
        at += 32
    value = _rotate(one, 1) + _rotate(two, 7) + _rotate(three, 12) + _rotate(four, 18)
    for lane in (one, two, three, four):
        value = (value ^ _round(uint64(0), lane)) * _P1 + _P4
    return value, at


@njit(nogil=True)
def _merge(value: Any, lane: Any) -> Any:
    return _rotate(value ^ _round(uint64(0), lane), 27) * _P1 + _P4


@njit(types.uint64(_U8, _INT, _INT, types.uint64), cache=True, nogil=True)
def _xxh64(data: Bytes, at: int, end: int, seed: Any) -> Any:
    """xxh64 of data[at:end], as specified in xxHash's doc/xxhash_spec.md."""
    value, size = seed + _P5, uint64(end - at)
    if end - at >= 32:
        value, at = _stripes(data, at, end, seed)
    value += size
    while at + 8 <= end:
        value = _merge(value, _load64(data, at))
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
    lead = int64(data[at])
    if lead < 0x80:
        return lead, at + 1
    if lead < 0xE0:
        return (lead & 0x1F) << 6 | (data[at + 1] & 0x3F), at + 2
    if lead < 0xF0:
        return (lead & 0x0F) << 12 | (data[at + 1] & 0x3F) << 6 | (data[at + 2] & 0x3F), at + 3
    tail = (data[at + 1] & 0x3F) << 12 | (data[at + 2] & 0x3F) << 6 | (data[at + 3] & 0x3F)
    return (lead & 0x07) << 18 | tail, at + 4


@njit(nogil=True)
def _action(code: int, table: Actions, by_words: bool) -> Any:
    """What becomes of `code`: see _ALONE. Above the table are ideographs, and then nothing that stays."""
    if code < _TABLE_SIZE:
        return table[code]
    if code >= 0x40000:
        return uint64(_SEPARATES)
    utf8 = (
        0xF0 | code >> 18 | (0x80 | (code >> 12 & 0x3F)) << 8 | (0x80 | (code >> 6 & 0x3F)) << 16 | (0x80 | (code & 0x3F)) << 24
    )
    return uint64(utf8) | uint64(4 << 32) | uint64(_ALONE if by_words else 0)


_ONES, _HIGHS, _SPACES = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080), np.uint64(0x2020202020202020)
_BY_WORDS, _LOWER_CASE, _KEEP_SIGNS, _DROP_SIGNS, _ZERO_DIGITS, _CAREFUL = (
    1 << bit for bit in range(6)
)  # how ASCII is normalised


@njit(nogil=True)
def _within(eight: Any, first: int, last: int) -> Any:
    """The high bits of those of eight ASCII bytes that are first … last; a byte that is not ASCII spoils those above it."""
    return (eight + _ONES * uint64(0x80 - first)) & ~(eight + _ONES * uint64(0x7F - last)) & _HIGHS


@njit(nogil=True)
def _without_first(eight: Any, stay: Any, drop: Any, count: int) -> tuple[Any, Any, Any, int]:
    """Takes the lowest byte that `drop` marks, if there is one, out of eight bytes and their marks."""
    above = uint64(0) - ((drop & (uint64(0) - drop)) >> uint64(7))
    eight = (eight & ~above) | (eight >> uint64(8) & above)
    stay = (stay & ~above) | (stay >> uint64(8) & above)
    return eight, stay, drop >> uint64(8) & above, count - int64(drop != 0)


@njit(nogil=True, forceinline=True)
def _put_ascii(
    eight: Any, blocked: Any, taken: int, flags: int, out: Bytes, units: Ints, size: int, num_units: int, in_word: int
) -> tuple[int, int, int]:
    """Puts the first `taken` of eight bytes, ASCII and below `blocked`, in their normal form: (size, num_units, in_word) then.

    No branch unless two that separate follow one another; what is written too much is overwritten.
    """
    letters, digits = _within(eight | _SPACES, 97, 122), _within(eight, 48, 57)
    below = ((blocked & (uint64(0) - blocked)) >> uint64(7)) - uint64(1)
    stay = (_within(eight, 33, 126) if flags & _KEEP_SIGNS else letters | digits) & below
    part = ~stay & _HIGHS & below
    if flags & _LOWER_CASE:
        eight |= letters >> uint64(2)
    if flags & _ZERO_DIGITS:
        eight &= ~((digits >> uint64(7)) * uint64(15))
    parting = (part >> uint64(7)) * uint64(255)
    eight = (eight & ~parting) | (_SPACES & parting)
    at_word = uint64((in_word ^ 1) << 7)
    in_word = int64(stay >> uint64(8 * taken - 1)) & 1
    drop = part & (part << uint64(8) | at_word)
    eight, stay, drop, taken = _without_first(eight, stay, drop, taken)  # mostly the only one: no branch for it
    while drop:
        eight, stay, drop, taken = _without_first(eight, stay, drop, taken)
    _store64(out, size, eight)
    if flags & _BY_WORDS:
        begins = stay & ((~stay & _HIGHS) << uint64(8) | at_word)
        following = num_units + int64(_count_ones(begins))
        _store64(units, num_units, uint64(size) + (_count_low_zeros(begins) >> uint64(3)))
        begins &= begins - uint64(1)
        _store64(units, num_units + 1, uint64(size) + (_count_low_zeros(begins) >> uint64(3)))
        for place in range(num_units + 2, following):
            begins &= begins - uint64(1)
            _store64(units, place, uint64(size) + (_count_low_zeros(begins) >> uint64(3)))
        return size + taken, following, in_word
    for place in range(8):
        _store64(units, num_units + place, uint64(size + place))
    return size + taken, num_units + taken, in_word


@njit(nogil=True, forceinline=True)
def _put_special(
    action: Any, pool: Bytes, by_words: bool, out: Bytes, units: Ints, size: int, num_units: int, in_word: int
) -> tuple[int, int, int]:
    """Puts what is rare: a separator that is not ASCII, nothing, a digit, several characters, as a word of their own or not."""
    length, each = int64(action >> uint64(32)) & 15, int64(0 if by_words else 1)
    alone = action & uint64(_ALONE) != 0
    if in_word and (alone or action & uint64(_SEPARATES)):
        out[size] = 32
        _store64(units, num_units, uint64(size))
        num_units += each
        size += 1
        in_word = 0
    if length == 0:
        return size, num_units, in_word
    _store64(units, num_units, uint64(size))
    if action & uint64(_POOLED):
        first = int64(action & uint64(0xFFFFFFFF))
        _store64(out, size, _load64(pool, first))
        _store64(out, size + 8, _load64(pool, first + 8))
        for place in range(0 if by_words else length):
            _store64(units, num_units, uint64(size + place))
            num_units += int64(out[size + place] & 0xC0 != 0x80)
    else:
        _store32(out, size, action)
        num_units += each
    size += length
    if by_words:
        num_units += in_word ^ 1
    if alone:
        out[size] = 32
        return size + 1, num_units, 0
    return size, num_units, 1


@njit(
    types.UniTuple(_INT, 2)(_U8, _INT, _INT, _U64, _U8, _INT, _OUT_U8, _OUT_I64),
    cache=True,
    nogil=True,
)
def _normalise(
    data: Bytes, at: int, end: int, table: Actions, pool: Bytes, flags: int, out: Bytes, units: Ints
) -> tuple[int, int]:
    """Writes the normal form into `out` and where its words (or characters) begin into `units`: (how many, bytes).

    Unit u is out[units[u]:units[u + 1] - 1] if it is a word, else out[units[u]:units[u + 1]]. Text is taken by eight bytes: at once
    if they, or the first three of them at least, are ASCII, else character by character.
    """
    by_words = flags & _BY_WORDS != 0
    size, num_units, in_word, number = 0, 0, 0, 0  # number: 1 within its whole part, 2 behind its decimal mark
    each = int64(0 if by_words else 1)
    while at < end:
        stop = min(end, at + 8)
        if at + 8 <= end:
            eight, taken = _load64(data, at), 8
            blocked = eight & _HIGHS | (_within(eight, 48, 57) if flags & _CAREFUL else uint64(0))
            if flags & _DROP_SIGNS:
                blocked |= _within(eight, 33, 126) & ~_within(eight | _SPACES, 97, 122) & ~_within(eight, 48, 57)
            if blocked != 0:
                taken = int64(_count_low_zeros(blocked) >> uint64(3))
            if taken >= 3:
                size, num_units, in_word = _put_ascii(eight, blocked, taken, flags, out, units, size, num_units, in_word)
                at += taken
                number = 0
                continue
        while at < stop:
            code, at = _decode(data, at)
            action = _action(code, table, by_words)
            if action < uint64(_ALONE):
                _store32(out, size, action)
                _store64(units, num_units, uint64(size))
                num_units += each | (in_word ^ 1)
                size += int64(action >> uint64(32))
                in_word, number = 1, 0
                continue
            if action < uint64(_SEPARATES):
                out[size] = 32
                size += in_word
                _store64(units, num_units, uint64(size))
                num_units += 1
                _store32(out, size, action)
                size += int64(action >> uint64(32)) & 15
                out[size] = 32
                size += 1
                in_word, number = 0, 0
                continue
            if action & uint64(_DIGIT):
                if number > 0:
                    continue
                number = 1
            elif number == 1 and action & uint64(_DECIMAL_MARK) and at < end:
                following, _ = _decode(data, at)
                number = 2 if _action(following, table, by_words) & uint64(_DIGIT) else 0
                if number > 0:
                    continue
            else:
                number = 0
            size, num_units, in_word = _put_special(action, pool, by_words, out, units, size, num_units, in_word)
    if by_words:
        units[num_units] = size + in_word
        return num_units, max(0, size + in_word - 1)
    if num_units > 0 and in_word == 0:
        num_units -= 1
        size -= 1
    units[num_units] = size
    return num_units, size


_BLOCK = 256  # shingles at a time, so that all that is known of them stays in the first-level cache


@njit(nogil=True)
def _pick(yes: bool, value: Any, otherwise: Any) -> Any:
    """`value if yes else otherwise`, without the branch that would keep LLVM from vectorising."""
    return otherwise ^ ((value ^ otherwise) & (uint64(0) - uint64(yes)))


@njit(nogil=True)
def _finish(value: Any, size: Any, a: Any, b: Any, c: Any, rest: Any) -> Any:
    """xxh64 from behind its stripes of 32 bytes: a, b and c are the next 24 bytes, `rest` is what follows the last whole eight."""
    size &= uint64(31)
    value = _pick(size >= uint64(8), _merge(value, a), value)
    value = _pick(size >= uint64(16), _merge(value, b), value)
    value = _pick(size >= uint64(24), _merge(value, c), value)
    four, odd = size & uint64(4) != 0, size & uint64(3)
    value = _pick(four, _rotate(value ^ ((rest & uint64(0xFFFFFFFF)) * _P1), 23) * _P2 + _P3, value)
    rest = _pick(four, rest >> uint64(32), rest)
    value = _pick(odd > uint64(0), _rotate(value ^ ((rest & uint64(255)) * _P5), 11) * _P1, value)
    value = _pick(odd > uint64(1), _rotate(value ^ ((rest >> uint64(8) & uint64(255)) * _P5), 11) * _P1, value)
    value = _pick(odd > uint64(2), _rotate(value ^ ((rest >> uint64(16) & uint64(255)) * _P5), 11) * _P1, value)
    value = (value ^ (value >> uint64(33))) * _P2
    value = (value ^ (value >> uint64(29))) * _P3
    return value ^ (value >> uint64(32))


@njit(types.void(_U8, _I64, _INT, _INT, _INT, _INT, _OUT_U64, _OUT_U64), cache=True, nogil=True)
def _hash_block(normal: Bytes, units: Ints, first: int, count: int, span: int, gap: int, lanes: Hashes, out: Hashes) -> None:
    """Writes the xxh64 of shingles first … first + count, in text order, into `out`; lanes u64[6 * _BLOCK] is scratch.

    What goes on behind the stripes of 32 bytes is laid out side by side, and then done for eight shingles at a time on AVX-512:
    one after the other they took 16 ns each, by mispredicted branches and the latency of multiplications.
    """
    for place in range(count):
        at, stop = units[first + place], units[first + place + span] - gap
        size, value = uint64(stop - at), _P5
        if stop - at >= 32:
            value, at = _stripes(normal, at, stop, uint64(0))
        lanes[place] = value + size
        lanes[_BLOCK + place] = _load64(normal, at)
        lanes[2 * _BLOCK + place] = _load64(normal, at + 8)
        lanes[3 * _BLOCK + place] = _load64(normal, at + 16)
        lanes[4 * _BLOCK + place] = _load64(normal, at + (stop - at & ~7))
        lanes[5 * _BLOCK + place] = size
    for place in range(count):
        a, b, c = lanes[_BLOCK + place], lanes[2 * _BLOCK + place], lanes[3 * _BLOCK + place]
        out[place] = _finish(lanes[place], lanes[5 * _BLOCK + place], a, b, c, lanes[4 * _BLOCK + place])


@njit(nogil=True)
def _mix32(hashes: Hashes, count: int, mixed: Values) -> int:
    """datasketch._fmix(…, 32), MurmurHash3's finaliser, of the low halves; the last is repeated up to a multiple of eight."""
    for place in range(count):
        value = uint32(hashes[place])
        value = uint32((value ^ (value >> uint32(16))) * uint32(0x85EBCA6B))
        value = uint32((value ^ (value >> uint32(13))) * uint32(0xC2B2AE35))
        mixed[place] = value ^ (value >> uint32(16))
    while count & 7:
        mixed[count] = mixed[count - 1]
        count += 1
    return count


@njit(nogil=True)
def _mix64(hashes: Hashes, count: int, mixed: Hashes) -> int:
    """datasketch._fmix(…, 64)."""
    for place in range(count):
        value = hashes[place]
        value = (value ^ (value >> uint64(33))) * uint64(0xFF51AFD7ED558CCD)
        value = (value ^ (value >> uint64(33))) * uint64(0xC4CEB9FE1A85EC53)
        mixed[place] = value ^ (value >> uint64(33))
    while count & 7:
        mixed[count] = mixed[count - 1]
        count += 1
    return count


@njit(types.void(_U32, _INT, _U32, _U32, _OUT_U32), cache=True, nogil=True)
def _lower32(mixed: Values, count: int, factors: Values, offsets: Values, least: Values) -> None:
    """Lowers every minimum to that of its permutation over mixed[:count]: permutations inside, which are the lanes of a vector."""
    for at in range(0, count, 8):
        h0, h1, h2, h3 = mixed[at], mixed[at + 1], mixed[at + 2], mixed[at + 3]
        h4, h5, h6, h7 = mixed[at + 4], mixed[at + 5], mixed[at + 6], mixed[at + 7]
        for k in range(least.size):
            factor, offset = factors[k], offsets[k]
            a = min(uint32(factor * h0 + offset), uint32(factor * h1 + offset))
            b = min(uint32(factor * h2 + offset), uint32(factor * h3 + offset))
            c = min(uint32(factor * h4 + offset), uint32(factor * h5 + offset))
            d = min(uint32(factor * h6 + offset), uint32(factor * h7 + offset))
            least[k] = min(least[k], min(min(a, b), min(c, d)))


@njit(types.void(_U64, _INT, _U64, _U64, _OUT_U64), cache=True, nogil=True)
def _lower64(mixed: Hashes, count: int, factors: Hashes, offsets: Hashes, least: Hashes) -> None:
    for at in range(0, count, 4):
        h0, h1, h2, h3 = mixed[at], mixed[at + 1], mixed[at + 2], mixed[at + 3]
        for k in range(least.size):
            factor, offset = factors[k], offsets[k]
            a = min(factor * h0 + offset, factor * h1 + offset)
            b = min(factor * h2 + offset, factor * h3 + offset)
            least[k] = min(least[k], min(a, b))


@njit(nogil=True)
def _scratch(starts: Ints, by_words: bool) -> tuple[Bytes, Ints]:
    """Room for the longest document's normal form, which has at most three times its bytes (a test looks), and for where its
    units begin: a word takes two bytes at least; what is read or written too much stays within the rest."""
    longest = 0
    for doc in range(starts.size - 1):
        longest = max(longest, starts[doc + 1] - starts[doc])
    return np.empty(3 * longest + 48, np.uint8), np.empty((longest // 2 if by_words else longest) + 16, np.int64)


_TEXT = (_U8, _I64, _U64, _U8, _INT, _INT)  # data, starts, table, pool, flags, shingle_length


@njit(
    types.void(
        *_TEXT,
        _U32,
        _U32,
        _U64,
        _U64,
        types.uint64[:, ::1],
        types.int32[::1],
        types.uint64[:, ::1],
        types.uint32[:, ::1],
        types.uint64[:, ::1],
    ),
    cache=True,
    nogil=True,
)
def _sketch_kernel(
    data: Bytes,
    starts: Ints,
    table: Actions,
    pool: Bytes,
    flags: int,
    shingle_length: int,
    factors32: Values,
    offsets32: Values,
    factors64: Hashes,
    offsets64: Hashes,
    content: Hashes,
    num_shingles: Counts,
    keys: Hashes,
    values32: Values,
    values64: Hashes,
) -> None:
    """Fills the outputs that have rows. One of the two schemes has no permutations: one kernel for both compiles in half the time."""
    by_words = flags & _BY_WORDS != 0
    normal, units = _scratch(starts, by_words)
    lanes, hashes = np.empty(6 * _BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    mixed32, mixed64 = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint64)
    least32, least64 = np.empty(factors32.size, np.uint32), np.empty(factors64.size, np.uint64)
    rows = least32.view(np.uint8) if least32.size else least64.view(np.uint8)
    bytes_per_band, gap = rows.size // keys.shape[1], int64(by_words)
    for doc in range(starts.size - 1):
        num_units, size = _normalise(data, starts[doc], starts[doc + 1], table, pool, flags, normal, units)
        span = min(shingle_length, num_units)
        total = num_units - span + 1 if num_units > 0 else 0
        least32[:] = uint32(0xFFFFFFFF)
        least64[:] = uint64(0xFFFFFFFFFFFFFFFF)
        for first in range(0, total, _BLOCK):
            count = min(_BLOCK, total - first)
            _hash_block(normal, units, first, count, span, gap, lanes, hashes)
            if least32.size > 0:
                _lower32(mixed32, _mix32(hashes, count, mixed32), factors32, offsets32, least32)
            else:
                _lower64(mixed64, _mix64(hashes, count, mixed64), factors64, offsets64, least64)
        if keys.shape[0] > 0:
            num_shingles[doc] = total
            content[doc, 0] = _xxh64(normal, 0, size, uint64(0))
            content[doc, 1] = _xxh64(normal, 0, size, uint64(1))
            for band in range(keys.shape[1]):
                keys[doc, band] = _xxh64(rows, band * bytes_per_band, (band + 1) * bytes_per_band, uint64(0))
        if values32.shape[0] > 0:
            values32[doc] = least32
        if values64.shape[0] > 0:
            values64[doc] = least64


_MANY = 32  # of one bucket: more are no accident of hashes, and are not sorted by insertion


@njit(types.int64(_U64, _INT, _OUT_I64, _OUT_U64, _INT), cache=True, nogil=True)
def _sort_distinct(hashes: Hashes, count: int, ends: Ints, out: Hashes, begin: int) -> int:
    """Writes hashes[:count] ascending, each once, to out[begin:]; the end. They go to about `count` buckets by their high bits."""
    bits = 1
    while 2 << bits <= count:
        bits += 1
    shift = uint64(64 - bits)
    ends[: 1 << bits] = 0
    for place in range(count):
        ends[int64(hashes[place] >> shift)] += 1
    total, most = begin, 0
    for bucket in range(1 << bits):
        most = max(most, ends[bucket])
        total += ends[bucket]
        ends[bucket] = total
    for place in range(count):
        bucket = int64(hashes[place] >> shift)
        ends[bucket] -= 1
        out[ends[bucket]] = hashes[place]
    if most > _MANY:
        out[begin : begin + count].sort()
    used = begin
    for place in range(begin, begin + count):
        value, at = out[place], used
        while at > begin and out[at - 1] > value:
            at -= 1
        if at > begin and out[at - 1] == value:
            continue
        for moved in range(used, at, -1):
            out[moved] = out[moved - 1]
        out[at] = value
        used += 1
    return used


@njit(types.Tuple((types.uint64[::1], types.int64[::1]))(*_TEXT), cache=True, nogil=True)
def _shingle_kernel(
    data: Bytes, starts: Ints, table: Actions, pool: Bytes, flags: int, shingle_length: int
) -> tuple[Hashes, Ints]:
    by_words = flags & _BY_WORDS != 0
    normal, units = _scratch(starts, by_words)
    lanes, hashes, ends = np.empty(6 * _BLOCK, np.uint64), np.empty(units.size, np.uint64), np.empty(units.size, np.int64)
    values, used = np.empty(1024, np.uint64), 0
    offsets = np.zeros(starts.size, np.int64)
    for doc in range(starts.size - 1):
        num_units, _ = _normalise(data, starts[doc], starts[doc + 1], table, pool, flags, normal, units)
        span = min(shingle_length, num_units)
        total = num_units - span + 1 if num_units > 0 else 0
        for first in range(0, total, _BLOCK):
            count = min(_BLOCK, total - first)
            _hash_block(normal, units, first, count, span, int64(by_words), lanes, hashes[first : first + count])
        if used + total > values.size:
            larger = np.empty(max(2 * values.size, used + total), np.uint64)
            larger[:used] = values[:used]
            values = larger
        used = _sort_distinct(hashes, total, ends, values, used)
        offsets[doc + 1] = used
    return values[:used].copy(), offsets


@njit(types.uint64[:, ::1](_frozen(types.uint8, 2), _INT), cache=True, nogil=True)
def _band_kernel(rows: Bytes, bytes_per_band: int) -> Hashes:
    keys = np.empty((rows.shape[0], rows.shape[1] // bytes_per_band), np.uint64)
    for doc in range(keys.shape[0]):
        for band in range(keys.shape[1]):
            keys[doc, band] = _xxh64(rows[doc], band * bytes_per_band, (band + 1) * bytes_per_band, uint64(0))
    return keys


_GALLOP = 16  # times as many: from there on looking up beats walking through


@njit(nogil=True)
def _gallop(values: Hashes, at: int, end: int, wanted: Any) -> int:
    """The first place from `at` on whose value is not below `wanted`: by strides that double, then by halving."""
    stride = 1
    while at + stride < end and values[at + stride] < wanted:
        at += stride
        stride *= 2
    end = min(end, at + stride)
    while at < end:
        middle = (at + end) // 2
        if values[middle] < wanted:
            at = middle + 1
        else:
            end = middle
    return at


@njit(types.int64[::1](_U64, _I64, _I64, _I64), cache=True, nogil=True)
def _shared_kernel(values: Hashes, offsets: Ints, left: Ints, right: Ints) -> Ints:
    counts = np.empty(left.size, np.int64)
    for pair in range(left.size):
        i, i_end = offsets[left[pair]], offsets[left[pair] + 1]
        j, j_end = offsets[right[pair]], offsets[right[pair] + 1]
        if i_end - i > j_end - j:
            i, i_end, j, j_end = j, j_end, i, i_end
        shared = 0
        if j_end - j >= _GALLOP * (i_end - i):
            for place in range(i, i_end):
                j = _gallop(values, j, j_end, values[place])
                if j == j_end:
                    break
                shared += values[j] == values[place]
        else:
            while i < i_end and j < j_end:
                a, b = values[i], values[j]
                shared += a == b
                i += a <= b
                j += b <= a
        counts[pair] = shared
    return counts


# --- what a step calls -----------------------------------------------------------------------------------------------


class Sketch(NamedTuple):
    """What is known of every document of a shard after one pass over its text."""

    content: Hashes
    """uint64 (num_docs, 2): xxh64 of the normal form's UTF-8 with seeds 0 and 1. Equal normal forms, and but for an accident of
    2^-128 only these, have equal values; a text that is made to collide may have them too."""
    num_shingles: Counts
    """int32 (num_docs,): shingles of the document, repeats included."""
    keys: Hashes
    """uint64 (num_docs, num_bands): as `band_keys` gives them."""


@lru_cache(maxsize=8)
def _permutations(num_hashes: int, seed: int, scheme: str) -> tuple[Values, Values, Hashes, Hashes]:
    """Factors and offsets of both schemes; those of the other one are empty. As `datasketch.MinHash` draws them: importing that for
    three lines takes half a second of every process."""
    dtype: Any = np.uint32 if scheme == "affine32" else np.uint64
    draws, width = np.random.RandomState(seed), 8 * np.dtype(dtype).itemsize
    factors = draws.randint(0, 1 << (width - 1), num_hashes, dtype=dtype) * dtype(2) + dtype(1)
    offsets = draws.randint(0, 1 << width, num_hashes, dtype=dtype)
    no32, no64 = np.empty(0, np.uint32), np.empty(0, np.uint64)
    return (factors, offsets, no64, no64) if scheme == "affine32" else (no32, no32, factors, offsets)


def sketch(text: pa.Array, config: SketchConfig) -> Sketch:
    """Content hashes and band keys of every document in one pass; signatures are not kept. A null text is empty."""
    data, starts = string_buffers(text)
    found = Sketch(
        np.empty((len(text), 2), np.uint64), np.empty(len(text), np.int32), np.empty((len(text), config.num_bands), np.uint64)
    )
    permutations = _permutations(config.num_hashes, config.seed, config.scheme)
    none = np.empty((0, 0), np.uint32), np.empty((0, 0), np.uint64)
    _sketch_kernel(data, starts, *_folds(config), config.shingle_length, *permutations, *found, *none)
    return found


def signatures(text: pa.Array, config: SketchConfig) -> Values | Hashes:
    """uint32 (affine32) or uint64 (affine64) of (num_docs, num_hashes); a document without shingles has the greatest number
    everywhere, like datasketch's empty set."""
    data, starts = string_buffers(text)
    permutations = _permutations(config.num_hashes, config.seed, config.scheme)
    rows32, rows64 = (len(text), 0) if config.scheme == "affine32" else (0, len(text))
    values32, values64 = np.empty((rows32, config.num_hashes), np.uint32), np.empty((rows64, config.num_hashes), np.uint64)
    none = np.empty((0, 2), np.uint64), np.empty(0, np.int32), np.empty((0, config.num_bands), np.uint64)
    _sketch_kernel(data, starts, *_folds(config), config.shingle_length, *permutations, *none, values32, values64)
    return values32 if config.scheme == "affine32" else values64


def shingle_hashes(text: pa.Array, config: SketchConfig) -> tuple[Hashes, Ints]:
    """(values, offsets): the xxh64 of document d's distinct shingles, ascending, are values[offsets[d]:offsets[d + 1]]."""
    data, starts = string_buffers(text)
    return _shingle_kernel(data, starts, *_folds(config), config.shingle_length)


def band_keys(signature_values: Values | Hashes, config: SketchConfig) -> Hashes:
    """uint64 (num_docs, num_bands): the xxh64 of each band's little-endian rows. Equal keys in one band make a candidate.

    Raises ValueError when the signatures have another number of hashes, or another width, than the config.
    """
    width = np.dtype(np.uint32 if config.scheme == "affine32" else np.uint64)
    if signature_values.ndim != 2 or signature_values.shape[1] != config.num_hashes or signature_values.dtype != width:
        raise ValueError(
            f"signatures of {config.num_hashes} hashes in {width} expected, got {signature_values.dtype} {signature_values.shape}"
        )
    return _band_kernel(np.ascontiguousarray(signature_values).view(np.uint8), width.itemsize * config.rows_per_band)


def shared_counts(values: Hashes, offsets: Ints, left: Ints, right: Ints) -> Ints:
    """int64 (num_pairs,): how many distinct shingles documents left[p] and right[p] share, by their sets from `shingle_hashes`.

    Raises ValueError for columns of unequal length and IndexError for a document that is not there.
    """
    if len(left) != len(right):
        raise ValueError(f"{len(left)} left and {len(right)} right documents do not make pairs")
    ends = np.concatenate([left, right]) if len(left) else np.zeros(0, np.int64)
    if ends.size and not 0 <= ends.min() <= ends.max() < len(offsets) - 1:
        raise IndexError(f"pairs name documents {ends.min()} to {ends.max()}, there are {len(offsets) - 1}")
    return _shared_kernel(values, offsets, np.ascontiguousarray(left, np.int64), np.ascontiguousarray(right, np.int64))


def jaccard_pairs(values: Hashes, offsets: Ints, left: Ints, right: Ints) -> Floats:
    """Exact Jaccard similarity (0 to 1) of the shingle sets of documents left[p] and right[p], for every pair p.

    Two documents without shingles have similarity 0: they share nothing that could prove a duplicate. Raises what
    `shared_counts` does.
    """
    shared, sizes = shared_counts(values, offsets, left, right), np.diff(offsets)
    united = sizes[left] + sizes[right] - shared
    return np.divide(shared, united, out=np.zeros(len(shared)), where=united > 0)


def candidate_probability(jaccard: ArrayLike, config: SketchConfig) -> Floats:
    """1 - (1 - s**rows)**bands: how likely a pair of similarity `jaccard` (0 to 1) shares at least one band key."""
    similarity = np.asarray(jaccard, np.float64)
    return 1.0 - (1.0 - similarity**config.rows_per_band) ** config.num_bands


def compile_kernels() -> None:
    """Runs every kernel once, so that later processes load them from numba's cache (import alone compiles them)."""
    config, text = SketchConfig(), pa.array(["one document"])
    sketch(text, config)
    band_keys(signatures(text, config), config)
    jaccard_pairs(*shingle_hashes(text, config), np.zeros(1, np.int64), np.zeros(1, np.int64))
