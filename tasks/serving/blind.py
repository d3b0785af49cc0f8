"""Two answers to one prompt whose models are not told before the vote: kept in memory until then, and written together as they come.

What is pending here has nobody's consent yet, so it never touches the disk: after a restart the page is told to ask again.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from tasks.serving.requests import Refused
from tasks.serving.votes import Message, Speaker

MAX_PENDING = 200
KEEP_S = 3600.0

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")


@dataclass
class BlindPair:
    """Two answers that wait for a vote."""

    rater: str
    messages: tuple[Message, ...]
    models: tuple[Speaker, Speaker]
    """The left one first."""
    answers: dict[Side, str] = field(default_factory=lambda: {"left": "", "right": ""})
    ended: bool = False
    """Whether both answers are whole."""
    copied_from: str | None = None
    """Id of the vote that judged them first."""
    template: str = ""
    """The system prompt that both were asked with."""
    pair_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    since_s: float = 0.0


class Pending:
    """The pairs that wait, of each key its own, so that nobody throws out another's: at most `max_pending`, none longer than `keep_s` s."""

    def __init__(
        self, max_pending: int = MAX_PENDING, keep_s: float = KEEP_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_pending, self.keep_s, self._clock = max_pending, keep_s, clock
        self._pairs: dict[str, OrderedDict[str, BlindPair]] = {}

    def add(self, pair: BlindPair, key: str) -> None:
        """Let it wait; the oldest ones of this key make room, and all that are too old."""
        pair.since_s = self._clock()
        own = self._pairs.setdefault(key, OrderedDict())
        own[pair.pair_id] = pair
        if len(own) > self.max_pending:
            own.popitem(last=False)
        for name, pairs in list(self._pairs.items()):
            while pairs and next(iter(pairs.values())).since_s + self.keep_s < self._clock():
                pairs.popitem(last=False)
            if not pairs:
                del self._pairs[name]

    def take(self, pair_id: str, rater: str, key: str) -> BlindPair:
        """The pair, which waits no longer.

        Raises:
            Refused: it is not there, another person's, or still being written.
        """
        own = self._pairs.get(key, OrderedDict())
        pair = own.get(pair_id)
        if pair is None or pair.rater != rater or pair.since_s + self.keep_s < self._clock():
            words = "this pair was voted on already, or it is too old, or the server was started again: ask anew"
            raise Refused(410, words, "pair_is_gone")
        if not pair.ended:
            raise Refused(409, "both answers must have ended before a vote", "answers_not_ended")
        return own.pop(pair_id)

    def put_back(self, pair: BlindPair, key: str) -> None:
        """It waits again, before all others: its vote could not be kept."""
        own = self._pairs.setdefault(key, OrderedDict())
        own[pair.pair_id] = pair
        own.move_to_end(pair.pair_id, last=False)


def drawn(models: Sequence[Speaker], chance: random.Random) -> tuple[Speaker, Speaker]:
    """Two models that differ, in random order.

    Raises:
        Refused: there are no two.
    """
    different = list({one.identity: one for one in models}.values())
    if len(different) < 2:
        raise Refused(
            409,
            "only one model is served here, and a comparison needs two that differ: "
            "start the gateway with two, as in `gristmill serve NAME@champion NAME@challenger`",
            "one_model",
        )
    left, right = chance.sample(different, 2)
    return left, right


class Piece(NamedTuple):
    """What one side wrote; empty at its end."""

    side: Side
    text: str


async def together(left: AsyncGenerator[str], right: AsyncGenerator[str]) -> AsyncGenerator[Piece]:
    """What both write, in the order in which it comes; what either raises is raised, and the other is stopped."""
    queue: asyncio.Queue[Piece | BaseException] = asyncio.Queue(maxsize=16)

    async def read(side: Side, answer: AsyncGenerator[str]) -> None:
        try:
            async with aclosing(answer):
                async for text in answer:
                    if text:
                        await queue.put(Piece(side, text))
            await queue.put(Piece(side, ""))
        except Exception as error:  # noqa: BLE001 - raised in the reader of both
            await queue.put(error)

    tasks = [asyncio.create_task(read(side, answer)) for side, answer in zip(SIDES, (left, right), strict=True)]
    try:
        running = 2
        while running:
            piece = await queue.get()
            if isinstance(piece, BaseException):
                raise piece
            running -= not piece.text
            yield piece
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
