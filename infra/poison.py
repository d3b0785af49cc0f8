"""Which document of a shard ends the process that handles it: found by halving, each half tried in a process of its own.

A worker that is killed by what it works on (a crash in a C library, more memory than there is) cannot say why. Here the same work is
done on ever fewer of the shard's documents, in a child that may die, until one is left. A child is kept until it dies: finding one of
1,000 documents takes about fifteen tries, and as many starts of Python as tries that died.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from infra.dataset import ShardRef
from infra.progress import report

MAX_POISONED = 10
"""Documents named per shard; a shard with more is broken as a whole."""
POLL_S = 0.1


@dataclass(frozen=True)
class Poisoned:
    """A document that ends its process, and how."""

    doc_id: str
    url: str
    source: str
    how: str


class Unfound(Exception):
    """The shard ends its process, or did on a worker, but no single document of it does."""


def shard_of(item: Any) -> ShardRef | None:
    """The first shard in a work item, whose documents can be left out one by one."""
    parts = item if isinstance(item, tuple) else (item,)
    return next((part for part in parts if isinstance(part, ShardRef)), None)


def without(item: Any, doc_ids: Sequence[str]) -> Any:
    """The work item with these documents left out of every shard in it."""
    if isinstance(item, ShardRef):
        return dataclasses.replace(item, left_out=frozenset(doc_ids) | item.left_out)
    if not isinstance(item, tuple):
        return item
    parts = tuple(without(part, doc_ids) for part in item)
    return item._make(parts) if hasattr(item, "_make") else parts  # a named one keeps its names


def find(work: Callable[[Any], Any], item: Any, max_bytes: int) -> list[Poisoned]:
    """The documents of a work item that end the process handling them; empty if the whole of it does no harm.

    Args:
        work: what the worker did with the item; must be importable.
        item: a shard, or a tuple with shards in it.
        max_bytes: resident memory at which a child counts as ended.

    Raises:
        Unfound: it does harm only as a whole, or has more than MAX_POISONED such documents.
    """
    shard = shard_of(item)
    assert shard is not None
    rows = {row["doc_id"]: row for row in shard.read(["doc_id", "url", "source"]).to_pylist()}
    everything = list(rows)
    found: list[Poisoned] = []
    with _Taster(work, max_bytes) as taster:

        def harm(some: Sequence[str]) -> str:
            keep = set(some)
            return taster.harm(without(item, [one for one in everything if one not in keep]))

        left = everything
        while left and harm(left):
            if len(found) == MAX_POISONED:
                raise Unfound(f"more than {MAX_POISONED} of its {len(everything):,} documents do")
            suspects = left
            while len(suspects) > 1:
                report(len(everything) - len(suspects), len(everything), "documents cleared of ending their worker")
                half = len(suspects) // 2
                suspects = next((part for part in (suspects[:half], suspects[half:]) if harm(part)), [])
            if not suspects:
                raise Unfound("no single document of it does, only several together")
            row = rows[suspects[0]]
            found.append(Poisoned(row["doc_id"], row["url"] or "", row["source"] or "", harm(suspects)))
            left = [one for one in left if one != suspects[0]]
    return found


class _Taster:
    """A child process that does the work on what it is given, and is replaced when that ends it."""

    def __init__(self, work: Callable[[Any], Any], max_bytes: int) -> None:
        self.work = work
        self.max_bytes = max_bytes
        self.context = multiprocessing.get_context("spawn")
        self.child: Any = None
        self.pipe: Connection | None = None

    def __enter__(self) -> _Taster:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def harm(self, item: Any) -> str:
        """How the child ended over this item; empty if it did not."""
        if self.child is None:
            ours, theirs = self.context.Pipe()
            self.child = self.context.Process(target=_serve, args=(theirs, self.work), daemon=True)
            self.child.start()
            theirs.close()  # else its end would not be noticed here
            self.pipe = ours
        assert self.pipe is not None
        try:
            self.pipe.send(item)
            with _limited(self.child.pid, self.max_bytes) as over:
                self.pipe.recv()
            return ""
        except (EOFError, ConnectionError):
            self.child.join()
            how = f"takes more than {self.max_bytes / 1e9:.1f} GB of memory" if over.is_set() else _how(self.child.exitcode)
            self._drop()
            return how

    def _drop(self) -> None:
        if self.child is not None:
            assert self.pipe is not None
            self.pipe.close()
            self.child.kill()
            self.child.join()
        self.child = self.pipe = None


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    with contextlib.suppress(EOFError):
        while True:
            item = pipe.recv()
            # an ordinary error is not what is looked for: the worker would have told it
            with contextlib.suppress(Exception):
                work(item)
            pipe.send(None)


@contextlib.contextmanager
def _limited(pid: int, max_bytes: int) -> Iterator[threading.Event]:
    """End a process when it takes more memory than this, as the nanny of a Dask worker does."""
    done, over = threading.Event(), threading.Event()

    def watch() -> None:
        process = psutil.Process(pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            while not done.wait(POLL_S):
                if process.memory_info().rss > max_bytes:
                    over.set()
                    process.kill()
                    return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield over
    finally:
        done.set()
        watcher.join()


def _how(exit_code: int) -> str:
    return f"ends it with {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ends it with exit code {exit_code}"
