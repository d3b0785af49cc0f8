"""One answer on its way: what came of it so far, and how its reader waits for more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tasks.serving.config import ServeConfig
from tasks.serving.requests import Refused, Wanted


@dataclass
class Ticket:
    """An answer that was asked for."""

    name: str
    model: str
    wanted: Wanted
    streaming: bool
    """Whether the reader wants each piece, or all at the end."""
    arrived_s: float = field(default_factory=time.monotonic)
    waits_since_s: float = field(default_factory=time.monotonic)
    """Since when it waits for a place; later than its arrival where it lost its replica."""
    begun_s: float = 0.0
    """When a replica took it; 0: it waits."""
    first_token_s: float = 0.0
    digest: str = ""
    """Of the model that began it."""
    version: str = ""
    prompt_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    num_tokens: int = 0
    ended: str = ""
    error: Refused | None = None
    handed: bool = False
    """Whether text of it was given to the reader."""
    _text: list[str] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, tokens: Sequence[int], text: str, ended: str, num_tokens: int | None = None) -> None:
        """More of it came."""
        if not self.first_token_s:
            self.first_token_s = time.monotonic()
            self._wake.set()
        self.tokens += tokens
        self.num_tokens = len(self.tokens) if num_tokens is None else num_tokens
        self._text.append(text)
        self.ended = ended
        if self.streaming or ended:
            self._wake.set()

    def fail(self, error: Refused) -> None:
        """There will be no more of it."""
        self.error = self.error or error
        self._wake.set()

    def again(self) -> None:
        """It begins anew: nothing of it was given to anybody."""
        self.tokens, self.num_tokens, self._text, self.digest, self.first_token_s = [], 0, [], "", 0.0

    async def next(self, config: ServeConfig) -> str:
        """The text that came since the last time; empty and `ended` at the end.

        Raises:
            Refused: there is no more, for this reason: it failed, or took too long.
        """
        while True:
            if self.error is not None:
                raise self.error
            if self._text and (self.streaming or self.ended):
                text, self._text = "".join(self._text), []
                if text or self.ended:
                    self.handed = self.handed or bool(text)
                    return text
            deadline, _ = self._deadline(config)
            self._wake.clear()
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                deadline, late = self._deadline(config)
                if deadline <= time.monotonic():  # else what it waits for is another thing by now
                    raise late from None

    def _deadline(self, config: ServeConfig) -> tuple[float, Refused]:
        """When the reader's patience ends, and in which words."""
        total = self.arrived_s + config.total_timeout_s
        whole = Refused(504, f"The answer took longer than {config.total_timeout_s:g} s", "total_timeout")
        if not self.begun_s:
            wait = Refused(
                503,
                f"No replica had a free place for {config.queue_timeout_s:g} s; try again later",
                "queue_timeout",
                retry_after_s=config.queue_timeout_s,
            )
            return min((self.waits_since_s + config.queue_timeout_s, wait), (total, whole), key=lambda one: one[0])
        if not self.first_token_s:
            first = Refused(504, f"There was no first token after {config.first_token_timeout_s:g} s", "first_token_timeout")
            return min((self.begun_s + config.first_token_timeout_s, first), (total, whole), key=lambda one: one[0])
        return total, whole
