"""The text of an answer as its tokens come: whole characters only, and nothing behind a stop string.

What is handed out never has to be taken back: half a character waits for its other half, and what may be the beginning of a stop string
waits until it is one or is none. All pieces together are what the tokeniser makes of all tokens at once, cut before the stop string that
was whole first (of several, the longest). How much was handed out hangs on the tokens so far alone and not on how they came, so that
another replica can go on where one stopped. A token costs the decoding of a few around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]
HALF = "\ufffd"
"""What a tokeniser makes of bytes that are no whole character."""


class Pieces:
    """One answer."""

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, [one for one in stop if one]
        self._ids: list[int] = []
        self._begin = self._told = 0  # tokens before `_begin` are no context any more, those before `_told` are text already
        self._kept = ""
        self.stopped = False
        """Whether a stop string was met."""

    def feed(self, ids: Sequence[int]) -> str:
        """More tokens; gives the text that is certain now."""
        if self.stopped:
            return ""
        text = ""
        for one in ids:
            self._ids.append(one)
            text += self._new_text(last=False)
        return self._certain(text)

    def finish(self) -> str:
        """There are no more tokens; gives the rest of the text."""
        if self.stopped:
            return ""
        certain = self._certain(self._new_text(last=True))
        rest, self._kept = ("", "") if self.stopped else (self._kept, "")
        return certain + rest

    def _new_text(self, *, last: bool) -> str:
        before = self._decode(self._ids[self._begin : self._told])
        now = self._decode(self._ids[self._begin :])
        if len(now) <= len(before) or (now.endswith(HALF) and not last):
            return ""
        self._begin, self._told = self._told, len(self._ids)
        return now[len(before) :]

    def _certain(self, more: str) -> str:
        text = self._kept + more
        ends = [(place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._kept = True, ""
            return text[: min(ends)[1]]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._kept = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
