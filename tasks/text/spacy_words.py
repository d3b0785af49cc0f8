"""The words of spaCy's English tokeniser, as places in the text: a compiled kernel over UTF-8 bytes that makes no strings.

`tokenize` gives what `spacy.blank("en")` of spaCy 3.8 gives, token for token: white-space spans, special cases ("don't", "e.g.", ":)"),
prefixes and suffixes from both ends, URLs, infixes, and the second look for special cases among the finished tokens (tokenizer.pyx).
What it knows of English is in datatrove_data/english.json, written out of spaCy by benchmarks/spacy_english.py. Not as in spaCy: in
IP addresses and ports of URLs a digit is one of 0 to 9. About 30 MB/s on one core of a 2.5 GHz server; memory is at most 17 bytes per
byte of the texts and 46 per byte of the longest, touched as far as there are tokens.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Smalls = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Classes = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]
Room = tuple[Smalls, Smalls, Flags]

DATA = Path(__file__).with_name("datatrove_data") / "english.json"
MAX_CLASSED = 0x40000  # nothing above is of any class; `english` looks

# What a code point is: bits of the class table. The first line and DECIMAL are from Python's Unicode tables, the rest from english.json.
SPACE, WORD, LETTER, PUNCTUATION = (1 << bit for bit in range(4))
PREFIX, SUFFIX, INFIX, ALPHA, LOWER, UPPER, QUOTE, BEFORE_DOT, CURRENCY = (1 << bit for bit in range(4, 13))
SENTENCE_END, SYMBOL, TERMINAL, DECIMAL = (1 << bit for bit in range(13, 17))
_BITS = {
    **{"prefix": PREFIX, "suffix": SUFFIX, "infix": INFIX, "alpha": ALPHA, "lower": LOWER, "upper": UPPER, "quote": QUOTE},
    **{"before_dot": BEFORE_DOT, "currency": CURRENCY, "sentence_end": SENTENCE_END, "punctuation": SYMBOL, "terminal": TERMINAL},
}
# What the bytes of a span between white space are: bits that are or-ed together.
_S_LETTER, _S_DIGIT, _S_DOT, _S_INFIX, _S_OTHER, _S_SPACE = (1 << bit for bit in range(6))
_INFIX_BYTES = b".,+-*^:<>=/~"

_DOT, _PLUS, _APOSTROPHE, _DOLLAR, _HYPHEN, _COMMA, _COLON, _SLASH, _AT, _TILDE, _UNDERSCORE = b".+'$-,:/@~_"
_ELLIPSIS, _EN_DASH, _EM_DASH, _DEGREE, _RIGHT_QUOTE = (ord(char) for char in "…–—°’")
_MIX, _PRIME = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0x100000001B3)
_REPLACEMENT = np.int64(0xFFFD)
_MAX_LABEL_CHARS, _MAX_TLD_CHARS = 64, 63


class Strings(NamedTuple):
    """A set of short strings that compiled code can look up, told apart by 64-bit hashes; each has a number."""

    hashes: Hashes
    """Of the string in each slot; open addressing."""
    numbers: Smalls
    """Its number, or -1 where the slot is free."""
    maybe: Flags
    """[256 * length in bytes + first byte]: whether there is such a string."""


class English(NamedTuple):
    """Everything the kernel knows."""

    classes: Classes
    """(MAX_CLASSED,) class bits of every code point."""
    spans: Bytes
    """(256,) bits of _S_LETTER … of every byte."""
    cases: Strings
    """The special cases."""
    case_parts: Ints
    """(cases, 3): the lengths in bytes of the tokens of each, 0 behind the last."""
    units: Strings
    vocabulary: Strings
    """The tokens of which the patterns are made."""
    after: Smalls
    """(states, words of the vocabulary): the state that a word leads to; 0: none, 1: the first."""
    accepts: Flags
    """(states,): whether a pattern ends here."""


class Tokens(NamedTuple):
    """The tokens of several texts, one after the other, without those that are white space."""

    offsets: Ints
    """(texts + 1,): those of text n are offsets[n] to offsets[n + 1]."""
    starts: Ints
    ends: Ints
    """Token t is data[starts[t]:ends[t]]."""
    after_white: Flags
    """Whether a token of white space stands before it: anything but one space."""


@njit(cache=True, nogil=True)
def _hash(data: Bytes, start: int, end: int) -> np.uint64:
    value = np.uint64(0xCBF29CE484222325)
    for pos in range(start, end):
        value = (value ^ np.uint64(data[pos])) * _PRIME
    value = (value ^ (value >> np.uint64(33))) * _MIX
    return value ^ (value >> np.uint64(33))


@njit(cache=True, nogil=True)
def _look_up(data: Bytes, start: int, end: int, hashes: Hashes, numbers: Smalls) -> int:
    mask = hashes.size - 1
    value = _hash(data, start, end)
    slot = np.int64(value & np.uint64(mask))
    while numbers[slot] >= 0 and hashes[slot] != value:
        slot = (slot + 1) & mask
    return numbers[slot]


@njit(cache=True, nogil=True)
def _find(data: Bytes, start: int, end: int, strings: Strings) -> int:
    """The number of data[start:end] among `strings`, or -1."""
    at = (end - start) << 8
    if at == 0 or at >= strings.maybe.size or not strings.maybe[at + data[start]]:
        return -1
    return _look_up(data, start, end, strings.hashes, strings.numbers)


def _strings(texts: Iterable[str]) -> Strings:
    encoded = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    size = 1 << (4 * len(encoded)).bit_length()
    hashes, numbers = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    maybe = np.zeros(256 * (max(map(len, encoded)) + 1), np.bool_)
    for number, text in enumerate(encoded):
        value = _hash(text, 0, len(text))
        slot = int(value) & (size - 1)
        while numbers[slot] >= 0:
            assert hashes[slot] != value
            slot = (slot + 1) % size
        hashes[slot], numbers[slot] = value, number
        maybe[256 * len(text) + int(text[0])] = True
    return Strings(hashes, numbers, maybe)


def _class_table(classes: Mapping[str, list[list[int]]]) -> Classes:
    table = np.zeros(MAX_CLASSED, np.uint32)
    for point, char in enumerate(map(chr, range(MAX_CLASSED))):
        category = unicodedata.category(char)
        table[point] = (
            SPACE * char.isspace()
            | WORD * (char.isalnum() or char == "_")
            | LETTER * char.isalpha()
            | PUNCTUATION * (category[0] == "P")
            | DECIMAL * (category == "Nd")
        )
    for name, ranges in classes.items():
        for first, last in ranges:
            assert last < MAX_CLASSED, (name, last)
            table[first : last + 1] |= _BITS[name]
    return table


def _automaton(patterns: Iterable[list[str]], number_of: Mapping[str, int]) -> tuple[Smalls, Flags]:
    """The patterns as a tree of states: see `English`."""
    edges: dict[tuple[int, int], int] = {}
    accepting = set()
    for pattern in patterns:
        state = 1
        for word in pattern:
            state = edges.setdefault((state, number_of[word]), len(edges) + 2)
        accepting.add(state)
    after, accepts = np.zeros((len(edges) + 2, len(number_of)), np.int32), np.zeros(len(edges) + 2, np.bool_)
    for (state, number), following in edges.items():
        after[state, number] = following
    accepts[list(accepting)] = True
    return after, accepts


@lru_cache(maxsize=1)
def english() -> English:
    """The tables, read from english.json once; 0.2 s."""
    told: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    assert told["currencies"] == ["US$", "C$", "A$"], "these three are in the kernel"
    cases: dict[str, list[str]] = told["special_cases"]
    parts = np.zeros((len(cases), 3), np.int64)
    for number, tokens in enumerate(cases.values()):
        parts[number, : len(tokens)] = [len(token.encode()) for token in tokens]
    # patterns of one token are that token again
    patterns = [pattern for pattern in told["patterns"].values() if len(pattern) > 1]
    vocabulary = sorted({word for pattern in patterns for word in pattern})
    spans = np.full(256, _S_OTHER, np.uint8)
    spans[[*range(65, 91), *range(97, 123)]] = _S_LETTER
    spans[48:58] = _S_DIGIT
    spans[list(_INFIX_BYTES)] |= _S_INFIX
    spans[128:] |= _S_INFIX
    spans[_DOT] |= _S_DOT
    spans[[byte for byte in range(128) if chr(byte).isspace()]] = _S_SPACE
    return English(
        *(_class_table(told["classes"]), spans, _strings(cases), parts, _strings(told["units"]), _strings(vocabulary)),
        *_automaton(patterns, {word: number for number, word in enumerate(vocabulary)}),
    )


@njit(cache=True, nogil=True)
def _point(data: Bytes, pos: int, end: int) -> tuple[np.int64, int]:
    """(code point, width in bytes) at `pos`; of a broken sequence U+FFFD and one byte."""
    lead = np.int64(data[pos])
    if lead < 0x80:
        return lead, 1
    if lead < 0xC2 or lead > 0xF4:
        return _REPLACEMENT, 1
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if pos + width > end:
        return _REPLACEMENT, 1
    point = lead & (0x7F >> width)
    for k in range(1, width):
        point = (point << 6) | (np.int64(data[pos + k]) & 0x3F)
    return point, width


@njit(cache=True, nogil=True)
def _last_point(data: Bytes, start: int, end: int) -> tuple[np.int64, int]:
    """(code point, width in bytes) of the last character of data[start:end], which is not empty."""
    pos = end - 1
    while pos > start and end - pos < 4 and data[pos] & 0xC0 == 0x80:
        pos -= 1
    point, width = _point(data, pos, end)
    return (point, width) if pos + width == end else (_REPLACEMENT, 1)


@njit(cache=True, nogil=True)
def _kind(point: int, classes: Classes) -> np.int64:
    return np.int64(classes[point]) if point < MAX_CLASSED else np.int64(0)


@njit(cache=True, nogil=True)
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@njit(cache=True, nogil=True)
def _digit_before(data: Bytes, start: int, pos: int) -> bool:
    return pos > start and _is_digit(data[pos - 1])


@njit(cache=True, nogil=True)
def _prefix(data: Bytes, start: int, end: int, classes: Classes) -> int:
    """Length in bytes of what TOKENIZER_PREFIXES takes from the front of data[start:end]."""
    byte = data[start]
    if byte >= 128:
        point, width = _point(data, start, end)
        return width if _kind(point, classes) & PREFIX else 0
    following = data[start + 1] if start + 1 < end else 0
    if byte == _DOT:
        pos = start
        while pos < end and data[pos] == _DOT:
            pos += 1
        return pos - start if pos - start > 1 else 0
    if byte == _PLUS:
        return 0 if _is_digit(following) else 1
    if (byte == ord("C") or byte == ord("A")) and following == _DOLLAR:
        return 2
    if byte == ord("U") and following == ord("S") and start + 2 < end and data[start + 2] == _DOLLAR:
        return 3
    return 1 if classes[byte] & PREFIX else 0


@njit(cache=True, nogil=True)
def _suffix_dot(data: Bytes, start: int, end: int, classes: Classes) -> int:
    """`_suffix` of what ends with a dot."""
    pos = end
    while pos > start and data[pos - 1] == _DOT:
        pos -= 1
    if end - pos > 1:
        return end - pos
    if pos == start:
        return 0
    point, width = _last_point(data, start, pos)
    kind = _kind(point, classes)
    if kind & BEFORE_DOT:
        return 1
    if pos - width == start:
        return 0
    before, _ = _last_point(data, start, pos - width)
    if kind & UPPER and _kind(before, classes) & UPPER:
        return 1
    return 1 if before == _DEGREE and (point == ord("F") or point == ord("C") or point == ord("K")) else 0


@njit(cache=True, nogil=True)
def _currency(data: Bytes, start: int, end: int, width: int) -> int:
    """Length of the currency mark, whose last character is `width` long, if a digit stands before it."""
    pos = end - width
    if data[pos] == _DOLLAR and pos > start:
        if data[pos - 1] == ord("S") and pos - 1 > start and data[pos - 2] == ord("U") and _digit_before(data, start, pos - 2):
            return 3
        if (data[pos - 1] == ord("C") or data[pos - 1] == ord("A")) and _digit_before(data, start, pos - 1):
            return 2
    return width if _digit_before(data, start, pos) else 0


@njit(cache=True, nogil=True)
def _unit(data: Bytes, start: int, end: int, units: Strings) -> int:
    """Length of the unit between the last digit and the end."""
    pos, longest = end, (units.maybe.size >> 8) - 1
    while pos > start and end - pos <= longest and not _is_digit(data[pos - 1]):
        pos -= 1
    return end - pos if _digit_before(data, start, pos) and _find(data, pos, end, units) >= 0 else 0


@njit(cache=True, nogil=True)
def _suffix(data: Bytes, start: int, end: int, digits: bool, classes: Classes, units: Strings) -> int:
    """Length in bytes of what TOKENIZER_SUFFIXES takes from the back of data[start:end]: the longest that fits."""
    if start >= end:
        return 0
    byte = data[end - 1]
    if byte == _DOT:
        return _suffix_dot(data, start, end, classes)
    if byte == ord("s") or byte == ord("S"):
        if end - start > 1 and data[end - 2] == _APOSTROPHE:
            return 2
        if end - start > 3 and _last_point(data, start, end - 1)[0] == _RIGHT_QUOTE:
            return 4
    if byte < 128 and not digits:
        return 1 if classes[byte] & SUFFIX else 0
    if byte == _PLUS:
        return 1 if _digit_before(data, start, end - 1) else 0
    point, width = _last_point(data, start, end)
    kind = _kind(point, classes)
    longest = 0
    if kind & SUFFIX:
        longest = width
        if point == _ELLIPSIS and end - width > start and _last_point(data, start, end - width)[0] == _ELLIPSIS:
            longest = 2 * width
    if kind & CURRENCY:
        longest = max(longest, _currency(data, start, end, width))
    return max(longest, _unit(data, start, end, units)) if digits else longest


@njit(cache=True, nogil=True)
def _octet(data: Bytes, pos: int, end: int) -> tuple[int, int]:
    """(value, digits) of at most three digits at `pos`; without a digit or with more (-1, 0)."""
    value, start = 0, pos
    while pos < end and _is_digit(data[pos]) and pos - start < 4:
        value = 10 * value + data[pos] - 48
        pos += 1
    return (value, pos - start) if 0 < pos - start < 4 else (-1, 0)


@njit(cache=True, nogil=True)
def _is_public_address(data: Bytes, start: int, end: int) -> bool:
    """Whether data[start:end] is an IPv4 address as URL_PATTERN has it."""
    first, second, pos = 0, 0, start
    for place in range(4):
        value, digits = _octet(data, pos, end)
        inner = place == 1 or place == 2
        if value < 0 or value > 255 or (digits == 3 and value < 100) or (not inner and data[pos] == 48):
            return False
        if (place == 0 and value > 223) or (place == 3 and value > 254):
            return False
        if place == 0:
            first = value
        if place == 1:
            second = value if digits > 1 else -1
        pos += digits
        if place < 3:
            if pos >= end or data[pos] != _DOT:
                return False
            pos += 1
    if first == 10 or first == 127 or (first == 169 and second == 254) or (first == 192 and second == 168):
        return False
    return pos == end and not (first == 172 and 16 <= second <= 31)


@njit(cache=True, nogil=True)
def _ends_host(data: Bytes, pos: int, end: int) -> bool:
    """Whether what follows a host is as URL_PATTERN has it: a port, a path, or nothing."""
    if pos < end and data[pos] == _COLON:
        first = pos + 1
        pos = first
        while pos < end and _is_digit(data[pos]):
            pos += 1
        if not 2 <= pos - first <= 5:
            return False
    return pos == end or data[pos] == _SLASH or data[pos] == ord("?") or data[pos] == ord("#")


@njit(cache=True, nogil=True)
def _is_host(data: Bytes, start: int, end: int, classes: Classes, spans: Bytes) -> bool:
    """Whether data[start:end] is a host, as URL_PATTERN has it, with or without port and path."""
    pos, num_labels, label_chars = start, 0, 0
    good, lower, begins, ends = True, True, False, False  # of the label so far: its characters, its first, its last
    while pos < end:
        byte = data[pos]
        if byte in (_COLON, _SLASH) or byte == ord("?") or byte == ord("#"):
            break
        point, width = _point(data, pos, end)
        if byte == _DOT:
            if not (good and begins and ends and 1 <= label_chars <= _MAX_LABEL_CHARS):
                return False
            num_labels += 1
            label_chars, good, lower, begins, ends = 0, True, True, False, False
        else:
            kind = _kind(point, classes)
            strong = spans[byte] & (_S_LETTER | _S_DIGIT) != 0 if point < 128 else 0xA1 <= point <= 0xFFFF
            inner = strong or byte in (_UNDERSCORE, _HYPHEN)
            if not inner and not kind & LOWER:
                return False
            begins = begins or (label_chars == 0 and strong)
            good, ends, lower = good and inner, strong, lower and kind & LOWER != 0
            label_chars += 1
        pos += width
    named = num_labels > 0 and lower and 2 <= label_chars <= _MAX_TLD_CHARS
    return (named or (num_labels == 3 and _is_public_address(data, start, pos))) and _ends_host(data, pos, end)


@njit(cache=True, nogil=True)
def _is_url(data: Bytes, start: int, end: int, classes: Classes, spans: Bytes) -> bool:
    """Whether URL_PATTERN matches: a host at the front, behind a scheme, or behind an @."""
    if _is_host(data, start, end, classes, spans):
        return True
    pos, chars, scheme = start, 0, True
    while pos < end:
        point, width = _point(data, pos, end)
        if scheme and point == _COLON:
            scheme = False
            behind = chars > 1 and pos + 2 < end and data[pos + 1] == _SLASH and data[pos + 2] == _SLASH
            if behind and _is_host(data, pos + 3, end, classes, spans):
                return True
        elif scheme and not (_kind(point, classes) & WORD or point in (_PLUS, _HYPHEN, _DOT)):
            scheme = False
        if point == _AT and pos > start and _is_host(data, pos + 1, end, classes, spans):
            return True
        pos += width
        chars += 1
    return False


@njit(cache=True, nogil=True)
def _dashes(data: Bytes, pos: int, end: int, point: int, width: int, classes: Classes) -> int:
    """Length of the HYPHENS at `pos` that a letter follows, the first of "-", "--", "---"; "–"; "—", "——"; "~"."""
    most = 3 if point == _HYPHEN else 2 if point == _EM_DASH else 1
    behind = pos
    for _ in range(most):
        behind += width
        if behind >= end:
            return 0
        following, _ = _point(data, behind, end)
        if _kind(following, classes) & ALPHA:
            return behind - pos
        if following != point:
            return 0
    return 0


@njit(cache=True, nogil=True)
def _infix(data: Bytes, pos: int, end: int, before: int, classes: Classes) -> tuple[int, int]:
    """(length of the infix at `pos`, or 0, width of the character there); `before` is the code point before, -1 at the front."""
    point, width = _point(data, pos, end)
    if _kind(point, classes) & INFIX:
        return width, width
    kind_before = _kind(before, classes) if before >= 0 else 0
    digit_before = 48 <= before <= 57
    following, _ = _point(data, pos + width, end) if pos + width < end else (0, 1)
    kind_after = _kind(following, classes)
    if point == _DOT:
        behind = pos
        while behind < end and data[behind] == _DOT:
            behind += 1
        if behind - pos > 1:
            return behind - pos, width
        return (1 if kind_before & (LOWER | QUOTE) and kind_after & (UPPER | QUOTE) else 0), width
    if point == _COMMA:
        return (1 if kind_before & ALPHA and kind_after & ALPHA else 0), width
    between_digits = digit_before and (following == _HYPHEN or 48 <= following <= 57)
    if between_digits and (point in (_PLUS, _HYPHEN) or point == ord("*") or point == ord("^")):
        return 1, width
    if not (kind_before & ALPHA or digit_before):
        return 0, width
    if point in (_HYPHEN, _EN_DASH, _EM_DASH, _TILDE):
        return _dashes(data, pos, end, point, width, classes), width
    if point in (_COLON, _SLASH) or point == ord("<") or point == ord(">") or point == ord("="):
        return (1 if kind_after & ALPHA else 0), width
    return 0, width


@njit(cache=True, nogil=True)
def _split_infixes(data: Bytes, start: int, end: int, classes: Classes, spans: Bytes, starts: Ints, ends: Ints, num: int) -> int:
    """Adds the tokens of data[start:end], to which neither a special case nor a URL applies; returns their new number."""
    pos, token, before = start, start, -1
    while pos < end:
        byte = data[pos]
        if byte < 128 and not spans[byte] & _S_INFIX:
            before = byte
            pos += 1
            continue
        length, width = _infix(data, pos, end, before, classes)
        if length and pos > start:
            if pos > token:
                starts[num], ends[num] = token, pos
                num += 1
            token = pos + length
            starts[num], ends[num] = pos, token
            num += 1
        pos += max(length, width)
        before, _ = _last_point(data, start, pos)
    if token < end:
        starts[num], ends[num] = token, end
        num += 1
    return num


@njit(cache=True, nogil=True)
def _add_case(case: int, start: int, parts: Ints, starts: Ints, ends: Ints, num: int) -> int:
    """Adds the tokens of a special case that stands at `start`."""
    for part in range(parts.shape[1]):
        length = parts[case, part]
        if length == 0:
            break
        starts[num], ends[num] = start, start + length
        start += length
        num += 1
    return num


@njit(cache=True, nogil=True)
def _split_span(data: Bytes, start: int, end: int, seen: int, e: English, starts: Ints, ends: Ints, cuts: Ints, num: int) -> int:
    """Adds the tokens of a span without white space (`Tokenizer._split_affixes`, `_attach_tokens`); `seen` has the bits of its bytes."""
    last_end, num_cuts, size = end, 0, -1
    case = _find(data, start, end, e.cases)
    while case < 0 and start < end and end - start != size:
        size = end - start
        prefix = _prefix(data, start, end, e.classes)
        if prefix:
            case = _find(data, start + prefix, end, e.cases)
            if case >= 0:
                starts[num], ends[num] = start, start + prefix
                num, start = num + 1, start + prefix
                break
        suffix = _suffix(data, start + prefix, end, seen & _S_DIGIT != 0, e.classes, e.units)
        if suffix:
            case = _find(data, start, end - suffix, e.cases)
            if case >= 0:
                end -= suffix
                cuts[num_cuts] = end
                num_cuts += 1
                break
            end -= suffix
            cuts[num_cuts] = end
            num_cuts += 1
        if prefix:
            starts[num], ends[num] = start, start + prefix
            num, start = num + 1, start + prefix
        if start < end:
            case = _find(data, start, end, e.cases)
    if case >= 0:
        num = _add_case(case, start, e.case_parts, starts, ends, num)
    elif start < end:
        if not seen & _S_INFIX or (seen & _S_DOT and _is_url(data, start, end, e.classes, e.spans)):
            starts[num], ends[num] = start, end
            num += 1
        else:
            num = _split_infixes(data, start, end, e.classes, e.spans, starts, ends, num)
    for cut in range(num_cuts - 1, -1, -1):
        starts[num], ends[num] = cuts[cut], cuts[cut - 1] if cut > 0 else last_end
        num += 1
    return num


@njit(cache=True, nogil=True)
def _tokenize_text(data: Bytes, start: int, end: int, e: English, t: Tokens, cuts: Ints) -> int:
    """Fills `t` with the tokens of one text (`Tokenizer._tokenize_affixes`); returns their number."""
    pos, num = start, 0
    while pos < end:
        first, seen = pos, 0
        point, width = _point(data, pos, end)
        while _kind(point, e.classes) & SPACE:
            pos += width
            if pos >= end:
                return num
            point, width = _point(data, pos, end)
        # one space between two spans is no token; at the front of the text it is
        white = pos > first and not (pos - first == 1 and data[first] == 32 and first > start)
        begin = pos
        while pos < end:
            byte = data[pos]
            if byte < 128:
                bits = e.spans[byte]
                if bits & _S_SPACE:
                    break
                seen |= bits
                pos += 1
                continue
            point, width = _point(data, pos, end)
            if _kind(point, e.classes) & SPACE:
                break
            seen |= e.spans[byte]
            pos += width
        before = num
        if seen == _S_LETTER:
            case = _find(data, begin, pos, e.cases)
            if case < 0:
                t.starts[num], t.ends[num] = begin, pos
                num += 1
            else:
                num = _add_case(case, begin, e.case_parts, t.starts, t.ends, num)
        else:
            num = _split_span(data, begin, pos, seen, e, t.starts, t.ends, cuts, num)
        t.after_white[before] = white
        for token in range(before + 1, num):
            t.after_white[token] = False
    return num


@njit(cache=True, nogil=True)
def _match_run(run: int, words: Smalls, after: Smalls, accepts: Flags, lengths: Smalls, chosen: Smalls, seen: Flags) -> bool:
    """Fills chosen[:run], the number of tokens of the special case that begins at each, or 0; whether there is one.

    As `Tokenizer._filter_special_spans` does: longest first, then from the left; what is left out bars others all the same.
    """
    longest = 0
    for start in range(run):
        lengths[start], chosen[start], seen[start] = 0, 0, False
        state, pos = 1, start
        while pos < run:
            state = after[state, words[pos]]
            if state == 0:
                break
            pos += 1
            if accepts[state]:
                lengths[start] |= 1 << (pos - start)
                longest = max(longest, pos - start)
    for length in range(longest, 1, -1):
        for start in range(run - length + 1):
            if lengths[start] >> length & 1:
                if not seen[start] and not seen[start + length - 1]:
                    chosen[start] = length
                for k in range(start, start + length):
                    seen[k] = True
    return longest > 0


@njit(cache=True, nogil=True)
def _case_of(data: Bytes, token: int, length: int, cases: Strings, starts: Ints, ends: Ints) -> int:
    """The special case that these tokens are, or -1: where white space parts them, they are none."""
    for k in range(token + 1, token + length):
        if starts[k] != ends[k - 1]:
            return -1
    return _find(data, starts[token], ends[token + length - 1], cases)


@njit(cache=True, nogil=True)
def _write_run(
    data: Bytes, token: int, run: int, cases: Strings, parts: Ints, chosen: Smalls, found: Tokens, t: Tokens, num: int
) -> int:
    """Adds a run of tokens to `t`, with its special cases in place of what they replace."""
    k = 0
    while k < run:
        length = chosen[k]
        case = _case_of(data, token + k, length, cases, found.starts, found.ends) if length else -1
        if case >= 0:
            before = num
            num = _add_case(case, found.starts[token + k], parts, t.starts, t.ends, num)
            t.after_white[before] = found.after_white[token + k]
            for j in range(before + 1, num):
                t.after_white[j] = False
            k += length
            continue
        for _ in range(max(length, 1)):
            t.starts[num], t.ends[num] = found.starts[token + k], found.ends[token + k]
            t.after_white[num] = found.after_white[token + k]
            num += 1
            k += 1
    return num


@njit(cache=True, nogil=True)
def _merge_cases(data: Bytes, last: int, e: English, found: Tokens, words: Smalls, room: Room, t: Tokens, num: int) -> int:
    """Adds the tokens found[:last] of one text to `t`, with the special cases among them (`Tokenizer._apply_special_cases`)."""
    lengths, chosen, seen = room
    maybe, starts, ends, after_white = e.vocabulary.maybe, found.starts, found.ends, found.after_white
    token = 0
    while token < last:
        run = 0
        while token + run < last and (run == 0 or not after_white[token + run]):
            start, end = starts[token + run], ends[token + run]
            at = (end - start) << 8 | np.int64(data[start])
            if at >= maybe.size or not maybe[at]:
                break
            words[run] = _look_up(data, start, end, e.vocabulary.hashes, e.vocabulary.numbers)
            if words[run] < 0:
                break
            run += 1
        if run > 1 and _match_run(run, words, e.after, e.accepts, lengths, chosen, seen):
            num = _write_run(data, token, run, e.cases, e.case_parts, chosen, found, t, num)
            token += run
            continue
        for _ in range(max(run, 1)):
            t.starts[num], t.ends[num], t.after_white[num] = starts[token], ends[token], after_white[token]
            num += 1
            token += 1
    return num


@njit(cache=True, nogil=True)
def _tokenize_all(data: Bytes, offsets: Ints, e: English, t: Tokens) -> int:
    """Fills `t`, which has room for a token a byte; returns the number of tokens."""
    longest = 0
    for d in range(offsets.size - 1):
        longest = max(longest, offsets[d + 1] - offsets[d])
    cuts, words = np.empty(longest, np.int64), np.empty(longest, np.int32)
    room = (np.empty(longest, np.int32), np.empty(longest, np.int32), np.empty(longest, np.bool_))
    found = Tokens(offsets, np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.bool_))
    num = 0
    for d in range(offsets.size - 1):
        t.offsets[d] = num
        last = _tokenize_text(data, offsets[d], offsets[d + 1], e, found, cuts)
        num = _merge_cases(data, last, e, found, words, room, t, num)
    t.offsets[offsets.size - 1] = num
    return num


def tokenize(data: Bytes, offsets: Ints) -> Tokens:
    """The tokens of the texts data[offsets[n]:offsets[n + 1]], valid UTF-8."""
    data = data.view()
    data.flags.writeable = False  # one compiled kernel for both
    room = int(offsets[-1] - offsets[0])
    tokens = Tokens(
        np.zeros(len(offsets), np.int64), np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.bool_)
    )
    num = _tokenize_all(data, offsets, english(), tokens)
    return Tokens(tokens.offsets, tokens.starts[:num], tokens.ends[:num], tokens.after_white[:num])
