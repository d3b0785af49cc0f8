"""How long work tells that it is alive: one callable, `report(done, total, what, note)`, set by whoever watches.

A flow shows it as a Prefect progress artifact, the command line as a bar, a test not at all. Reports are cheap to make: watchers
thin them out themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[int, int, str, str], None]


def _unwatched(done: int, total: int, what: str, note: str) -> None:
    return None


_watcher: ContextVar[Watcher] = ContextVar("watcher", default=_unwatched)


def report(done: int, total: int, what: str, note: str = "") -> None:
    """Tell the current watcher that `done` of `total` units of `what` are finished, and how it goes in a few words."""
    _watcher.get()(done, total, what, note)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Send the reports of this block to `watcher`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
