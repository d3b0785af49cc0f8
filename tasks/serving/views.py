"""How a guard reads a text: code point by code point in simpler signs, with where each came from, so that a match can be masked.

`given` is the text itself, for the rule that looks for what is hidden. `plain` undoes what hides a secret: NFKD (full-width and styled
letters, ligatures), no marks (strike-through, Zalgo), no invisible characters (zero width, direction, soft hyphens), tag characters as the
ASCII that they smuggle. `folded` is plain in lower case, with Latin letters for those of other scripts that look like them (`CONFUSABLES`:
a short list of ours, not all of UTS #39), and "_" as a space. Every code point is mapped alone, so a text gives the same in any pieces;
only a run of invisible ones is counted: from MAX_HIDDEN on it ends a word. Cost: 10 ns a character of ASCII, 0.2 µs of others.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

ViewName = Literal["given", "plain", "folded"]

MAX_HIDDEN = 64
"""Invisible characters in a row that are looked through; a longer run is one sign that no rule matches."""
HIDDEN_RUN = "\ufffe"
MAX_CACHED = 20_000
"""Code points whose reading is kept; a hostile text has a million."""
KEPT_BEHIND = 128
"""Characters before the first undecided one that stay, so that a rule can ask what stands before a match."""

_LOOKALIKES = {
    "a": "аɑαᴀ",
    "b": "ЬВВʙᏼ",
    "c": "сϲᴄⅽ",
    "d": "ԁɗᴅⅾ",
    "e": "еєεᴇҽ",
    "f": "ғꜰ",
    "g": "ɡɢ",
    "h": "һнʜԋ",
    "i": "іıɩιɪ",
    "j": "јϳᴊ",
    "k": "кκᴋ",
    "l": "ӏʟⅼ",
    "m": "мᴍⅿ",
    "n": "пոηɴ",
    "o": "оοσօᴏ",
    "p": "рρᴘ",
    "q": "ԛ",
    "r": "гʀ",
    "s": "ѕꜱ",
    "t": "тτᴛ",
    "u": "υսᴜ",
    "v": "ѵνᴠⅴ",
    "w": "ԝωᴡ",
    "x": "хχⅹ",
    "y": "уγʏ",
    "z": "ᴢ",
}
CONFUSABLES = {sign.lower(): letter for letter, signs in _LOOKALIKES.items() for sign in signs}
"""Letter of another script, in lower case → the Latin letter that it looks like."""


def plain_sign(char: str) -> str:
    """What `plain` has for a code point; "" for one that is not seen."""
    point = ord(char)
    if 0xE0020 <= point <= 0xE007E:  # tag characters: invisible, and models read them
        return chr(point - 0xE0000)
    if point in (0xFFFE, 0xFFFF) or 0xD800 <= point <= 0xDFFF:  # no characters; half a surrogate pair comes from a JSON escape
        return "\ufffd"
    return "".join(part for part in unicodedata.normalize("NFKD", char) if unicodedata.category(part) not in ("Mn", "Me", "Cf"))


def folded_sign(char: str) -> str:
    """What `folded` has for a code point."""
    if 0x1F1E6 <= ord(char) <= 0x1F1FF:  # letters that are shown as flags
        return chr(ord(char) - 0x1F1E6 + ord("a"))
    small = "".join(CONFUSABLES.get(sign, sign) for sign in plain_sign(char).casefold())
    return "".join(part for part in unicodedata.normalize("NFKD", small) if unicodedata.category(part) != "Mn").replace("_", " ")


class _Signs(dict[str, str]):
    """Signs of code points, worked out when they are first met."""

    def __init__(self, view: ViewName) -> None:
        super().__init__()
        signs: dict[ViewName, Callable[[str], str]] = {"given": str, "plain": plain_sign, "folded": folded_sign}
        self._sign = signs[view]

    def __missing__(self, char: str) -> str:
        sign = self._sign(char)
        if len(self) < MAX_CACHED:
            self[char] = sign
        return sign


_SIGNS: dict[ViewName, _Signs] = {name: _Signs(name) for name in get_args(ViewName)}


class View:
    """What one text has become so far, from the first character on that somebody still asks about."""

    def __init__(self, name: ViewName) -> None:
        self.text = ""
        self.base = 0
        """How many signs were before `text`."""
        self._name = name
        self._origins: list[int] = []
        self._read = 0
        self._hidden = 0

    def extend(self, piece: str) -> None:
        """Read on."""
        start = self._read
        self._read += len(piece)
        if piece.isascii():
            self._hidden = 0 if piece else self._hidden
            self.text += piece.lower().replace("_", " ") if self._name == "folded" else piece
            self._origins += range(start, self._read)
            return
        signs, origins, hidden, table = [], self._origins, self._hidden, _SIGNS[self._name]
        for at, char in enumerate(piece, start):
            sign = table[char]
            if sign:
                hidden = 0
            else:
                hidden += 1
                if hidden != MAX_HIDDEN:
                    continue
                sign = HIDDEN_RUN
            signs.append(sign)
            origins += [at] * len(sign)
        self._hidden = hidden
        self.text += "".join(signs)

    def origin(self, at: int) -> int:
        """The place in the original of the sign `at` of `text`; the end of what was read where there is none."""
        return self._origins[at] if at < len(self._origins) else self._read

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The characters of the original that the signs text[start:end] came from."""
        return self._origins[start], self._origins[end - 1] + 1

    def forget(self, before: int) -> None:
        """Drop signs more than KEPT_BEHIND before sign `before`, counted from the text's beginning."""
        gone = before - KEPT_BEHIND - self.base
        if gone > 0:
            self.text, self._origins, self.base = self.text[gone:], self._origins[gone:], self.base + gone


def read(text: str, name: ViewName) -> str:
    """A whole text as this view has it."""
    view = View(name)
    view.extend(text)
    return view.text
