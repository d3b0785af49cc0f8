"""How much a key may ask for: never more than its requests and tokens in any 60 seconds. No clock: every call says what time it is.

A request counts when it comes, with the tokens that it may need at most; when it is over, with those that it needed. So what was
promised to running requests cannot be promised again, and what they did not need is free at once. A call costs a constant on average.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

WINDOW_S = 60.0


class Limit(NamedTuple):
    """What a key may use in any 60 seconds; 0: as much as it likes."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass
class Use:
    """A request that was let in."""

    at_s: float
    tokens: int


class Allowed(NamedTuple):
    """An answer: the use to settle, or when to ask again."""

    use: Use | None
    wait_s: float = 0.0
    """Seconds until it would be let in, if nothing else happens; infinite where it never would."""
    reason: str = ""
    """Which limit stands against it: requests or tokens."""


@dataclass
class Meter:
    """What one key has used lately."""

    limit: Limit
    _uses: deque[Use] = field(default_factory=deque)
    _tokens: int = 0

    def ask(self, tokens: int, now_s: float) -> Allowed:
        """Let a request in that may need so many tokens, if the limits have room for it."""
        self._forget(now_s)
        requests, most = self.limit
        if most and tokens > most:
            return Allowed(None, float("inf"), "tokens")
        waits = [(0.0, "")]
        if requests and len(self._uses) >= requests:
            waits.append((self._uses[len(self._uses) - requests].at_s + WINDOW_S - now_s, "requests"))
        if most and self._tokens + tokens > most:
            waits.append((self._until_free(self._tokens + tokens - most) + WINDOW_S - now_s, "tokens"))
        wait_s, reason = max(waits)
        if reason:
            return Allowed(None, wait_s, reason)
        use = Use(now_s, tokens)
        self._uses.append(use)
        self._tokens += tokens
        return Allowed(use)

    def settle(self, use: Use, tokens: int, now_s: float) -> None:
        """A request is over and needed so many tokens."""
        self._forget(now_s)
        if use.at_s + WINDOW_S > now_s:  # else it is forgotten already
            self._tokens += tokens - use.tokens
        use.tokens = tokens

    def _forget(self, now_s: float) -> None:
        while self._uses and self._uses[0].at_s + WINDOW_S <= now_s:
            self._tokens -= self._uses.popleft().tokens

    def _until_free(self, tokens: int) -> float:
        """When the use was that, once forgotten, frees so many."""
        for use in self._uses:
            tokens -= use.tokens
            if tokens <= 0:
                return use.at_s
        return self._uses[-1].at_s
