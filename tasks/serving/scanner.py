"""One text read piece by piece: what a policy's detectors find, and the text with what must go masked, as early as it is certain.

Held back is only what a rule can still complete: everything before the first place that some detector has not decided. So a text gives the
same in any pieces as in one, and no sign of a match is let out before its end. Overlapping matches are masked as one, by the mask of the
first (then longest, then first in the policy). A rule that only logs holds nothing back. Memory: a block, what is held back, KEPT_BEHIND.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tasks.serving.detectors import Detector
from tasks.serving.policy import Action
from tasks.serving.views import View, ViewName

BLOCK = 8192
"""Characters that are read at a time."""
MAX_TOLD = 100
"""Matches of a text that are told one by one; what is masked is masked however many there are."""
MASK = "[removed]"
"""What stands for a match whose kind has no mask of its own."""
ALLOWED = "allowed"
"""Kind of a match that lets through what its rule finds inside it."""


@dataclass(frozen=True)
class Watch:
    """A detector at work for a rule."""

    rule: str
    order: int
    """Of its rule in the policy."""
    action: Action
    view: ViewName
    detector: Detector
    masks: dict[str, str]
    """What stands for a match, by kind."""


class Found(NamedTuple):
    """A match, by characters of the text as it was given."""

    start: int
    end: int
    watch: Watch
    kind: str
    score: float
    text: str

    @property
    def rank(self) -> tuple[int, int, int]:
        """Its place in the order of matches."""
        return self.start, -self.end, self.watch.order


class Scanner:
    """Reads one text. `found` fills with what is certain, in order, the first MAX_TOLD; `refused` is the match at which it ended."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self.found: list[Found] = []
        self.num_found = 0
        self.changed = False
        """Whether anything was masked."""
        self.refused: Found | None = None
        self._watches = list(watches)
        self._views = {name: View(name) for name in {watch.view for watch in watches}}
        self._places = [0] * len(self._watches)
        self._pending: list[Found] = []
        self._allowed: list[Found] = []
        self._text, self._base, self._sent, self._read = "", 0, 0, 0

    def feed(self, piece: str) -> str:
        """Read on; gives what may be sent now."""
        return "".join(self._step(piece[at : at + BLOCK], final=False) for at in range(0, len(piece), BLOCK))

    def finish(self) -> str:
        """The text is at its end; gives the rest."""
        return self._step("", final=True)

    def _step(self, piece: str, final: bool) -> str:
        if self.refused is not None:
            return ""
        self._text += piece
        self._read += len(piece)
        for view in self._views.values():
            view.extend(piece)
        held, seen = self._detect(final)
        self._pending.sort(key=lambda one: one.rank)
        self._allow(seen)
        sent = self._send(held)
        self._log(seen)
        gone = min(seen, self._sent) - self._base
        self._text, self._base = self._text[gone:], self._base + gone
        return sent

    def _detect(self, final: bool) -> tuple[int, int]:
        """Let every detector look; gives (where the text is decided to by all that change it, where by all), in characters of it."""
        held = seen = self._read
        least: dict[ViewName, int] = {}
        for number, watch in enumerate(self._watches):
            view = self._views[watch.view]
            matches, place = watch.detector.find(view.text, self._places[number] - view.base, final)
            for match in matches:
                start, end = view.span(match.start, match.end)
                self._pending.append(Found(start, end, watch, match.kind, match.score, self._cut(start, end)))
            self._places[number] = place + view.base
            least[watch.view] = min(least.get(watch.view, place + view.base), place + view.base)
            decided = view.origin(place)
            seen = min(seen, decided)
            held = held if watch.action == "log" else min(held, decided)
        for name, place in least.items():
            self._views[name].forget(place)
        return held, seen

    def _allow(self, seen: int) -> None:
        """Take matches out of `pending` that lie in an allowed one of their rule, and allowed ones that nothing can lie in any more."""
        allowed = [one for one in self._pending if one.kind == ALLOWED] + self._allowed
        if not allowed:
            return
        self._pending = [
            one
            for one in self._pending
            if one.kind != ALLOWED
            and not any(
                other.watch.order == one.watch.order and other.start <= one.start and one.end <= other.end for other in allowed
            )
        ]
        self._allowed = [one for one in allowed if one.end > seen]

    def _send(self, held: int) -> str:
        """What is decided of the text, from where it was sent to up to `held`, with every whole group of overlapping matches masked."""
        parts, changing = [], [one for one in self._pending if one.watch.action != "log"]
        at, done = self._sent, 0
        while done < len(changing) and changing[done].start < held:
            first, end, last = changing[done], changing[done].end, done + 1
            while last < len(changing) and changing[last].start < end:
                end = max(end, changing[last].end)
                last += 1
            if end > held:
                held = first.start
                break
            group = changing[done:last]
            parts.append(self._cut(at, first.start))
            at, done = end, last
            self._tell(self._united(group))
            refusing = [one for one in group if one.watch.action == "refuse"]
            if refusing:
                self.refused = min(refusing, key=lambda one: (one.watch.order, one.rank))
                return "".join(parts)
            self.changed = True
            parts.append(first.watch.masks.get(first.kind, MASK))
        gone = {id(one) for one in changing[:done]}
        self._pending = [one for one in self._pending if id(one) not in gone]
        stop = max(at, held)
        parts.append(self._cut(at, stop))
        self._sent = stop
        return "".join(parts)

    def _cut(self, start: int, end: int) -> str:
        return self._text[start - self._base : end - self._base]

    def _tell(self, matches: Sequence[Found]) -> None:
        self.num_found += len(matches)
        self.found += matches[: max(0, MAX_TOLD - len(self.found))]

    def _united(self, group: Sequence[Found]) -> list[Found]:
        """What overlaps, with what one rule found of one kind as one."""
        united: dict[tuple[int, str], Found] = {}
        for one in group:
            known = united.get((one.watch.order, one.kind), one)
            end = max(known.end, one.end)
            united[one.watch.order, one.kind] = known._replace(
                end=end, score=max(known.score, one.score), text=self._cut(known.start, end)
            )
        return list(united.values())

    def _log(self, seen: int) -> None:
        """Tell what only logs, once nothing can allow it any more."""
        certain = [one for one in self._pending if one.watch.action == "log" and one.start < seen]
        if certain:
            self._tell(certain)
            told = {id(one) for one in certain}
            self._pending = [one for one in self._pending if id(one) not in told]
