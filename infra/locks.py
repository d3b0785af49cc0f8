"""One maker per dataset version: a second run that needs the same version waits, then finds it complete.

On a local or network file system the lock is `flock`, which the system takes back however its holder ends. On an object store it is a
lease: an object created only if absent, renewed by its holder every RENEW_S. A waiter that sees the lease unrenewed for LEASE_S, by its own
clock, takes it over; a holder that finds its lease taken over stops with `LockLost`. Costs two requests per version that is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra import storage
from infra.errors import GristmillError

NAME = ".lock"
POLL_S = 0.5
RENEW_S = 5.0
LEASE_S = 30.0
"""Six missed renewals: longer than the time-outs and retries of one request."""


class LockLost(GristmillError):
    """This process did not renew its lease in time and another one took it over."""


@contextmanager
def held(folder: str, who: str, waiting: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the lock of a version's folder for this block; gives a function that raises `LockLost` if it was lost since.

    Args:
        folder: the version's folder, which need not exist.
        who: what other runs are told of the holder.
        waiting: called once with the holder's words if another process has the lock.
    """
    path = storage.join(folder, NAME)
    words = {"who": who, "host": socket.gethostname(), "pid": os.getpid()}
    with _flock(path, words, waiting) if storage.is_local(path) else _lease(path, words, waiting) as check:
        yield check


@contextmanager
def _flock(path: str, words: dict[str, Any], waiting: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    file = Path(storage.locate(path)[1])
    told = False
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    handle.seek(0)
                    waiting(_described(handle.read()))
                    told = True
                time.sleep(POLL_S)
                continue
            if not _same_file(file, handle.fileno()):
                continue  # the folder was removed while this process waited for its lock
            handle.truncate(0)
            handle.write(json.dumps(words))
            handle.flush()
            try:
                yield lambda: None
            finally:
                file.unlink(missing_ok=True)  # still locked: who waits for this file sees that it is gone and looks again
            return


def _same_file(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def _lease(path: str, words: dict[str, Any], waiting: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    lease = _Lease(path, words)
    lease.take(waiting)
    ended, lost = threading.Event(), threading.Event()
    renewed = time.monotonic()

    def renew() -> bool:
        """Whether the lease is still this process's, as far as the store answers."""
        nonlocal renewed
        try:
            if not lease.renew():
                lost.set()
            renewed = time.monotonic()
        except storage.driver_errors(path):
            return False
        return not lost.is_set()

    def keep() -> None:
        while not ended.wait(RENEW_S) and not lost.is_set():
            renew()  # one that does not get through may be followed by one that does

    def check() -> None:
        if lost.is_set() or (time.monotonic() - renewed > LEASE_S and not renew()):
            raise LockLost(
                f"{path}: this process could not renew its lease for {LEASE_S:.0f} s and another run may have taken over; run again"
            )

    keeper = threading.Thread(target=keep, daemon=True, name="lease")
    keeper.start()
    try:
        yield check
    finally:
        ended.set()
        keeper.join()
        if not lost.is_set():
            with contextlib.suppress(*storage.driver_errors(path)):
                lease.release()  # else it ends by itself


class _Lease:
    """An object that its holder rewrites again and again; every change is conditional on what is there."""

    def __init__(self, path: str, words: dict[str, Any]) -> None:
        self.system, self.name = storage.locate(path)
        self.words = words | {"lease": uuid.uuid4().hex}
        self.beat = 0
        self.tag = ""

    def take(self, waiting: Callable[[str], None]) -> None:
        seen, since, told = b"", time.monotonic(), False
        while not self._put(mode="create"):
            try:
                tag, there = self._read()
            except FileNotFoundError:
                continue  # released in this moment
            if there != seen:
                seen, since = there, time.monotonic()
            if self._is_mine(there) or (time.monotonic() - since > LEASE_S and self._put(IfMatch=tag)):
                break
            if not told:
                waiting(_described(there.decode()))
                told = True
            time.sleep(POLL_S)
        self.tag, _ = self._read()

    def renew(self) -> bool:
        """False if the lease is somebody else's now."""
        self.beat += 1
        renewed = self._put(IfMatch=self.tag)
        tag, there = self._read()  # a renewal whose answer was lost was one
        self.tag = tag
        return renewed or self._is_mine(there)

    def release(self) -> None:
        if self._is_mine(self._read()[1]):
            self.system.rm_file(self.name)

    def _is_mine(self, there: bytes) -> bool:
        return bool(json.loads(there)["lease"] == self.words["lease"])

    def _put(self, **condition: str) -> bool:
        """Write the lease if the condition holds; False if it does not."""
        data = json.dumps(self.words | {"beat": self.beat}).encode()
        try:
            self.system.pipe_file(self.name, data, **condition)
        except FileExistsError:
            return False
        except OSError as error:
            # 412, or 409 where two conditional writes meet
            if any(word in str(error) for word in ("pre-condition", "PreconditionFailed", "ConditionalRequestConflict")):
                return False
            raise
        return True

    def _read(self) -> tuple[str, bytes]:
        tag = str(self.system.info(self.name, refresh=True)["ETag"])
        return tag, self.system.cat_file(self.name)


def _described(there: str) -> str:
    try:
        words = json.loads(there)
    except json.JSONDecodeError:
        return "another process"  # which has the lock and is just about to write who it is
    return f"{words['who']} (process {words['pid']} on {words['host']})"
