"""Versions are made by one process at a time, and a file whose bytes are not those of its manifest is made again.

A damaged file is found in two ways: a retry reads all files of what it loads (`verified_loads`), any other run the shards that its steps
take. Either way the version is taken for unfinished, so that its own step makes just that file again, which must have the digest of before.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from infra import dataset, ledger, locks, storage
from infra.dataset import Manifest, ShardCorrupt, ShardSet
from infra.errors import GristmillError, InputError
from infra.progress import report

log = logging.getLogger("gristmill")

_verify: ContextVar[bool] = ContextVar("verify", default=False)


@contextmanager
def verified_loads(on: bool = True) -> Iterator[None]:
    """Load a version in this block only after all its files were read and compared with their digests."""
    token = _verify.set(on)
    try:
        yield
    finally:
        _verify.reset(token)


def only_maker(folder: str, step: str) -> AbstractContextManager[Callable[[], None]]:
    """Hold the lock of a version while it is made; who waits for it says so, in the log and as progress."""

    def tell(holder: str) -> None:
        log.warning("%s: waits for %s, which makes the same version", step, holder)
        report(0, 1, f"waiting for {holder}, which makes the same version")

    run = ledger.current_run()
    return locks.held(folder, f"run {run}" if run else "`gristmill step`", tell)


def complete(folder: str, version: str, *, mend: bool = False) -> Manifest | None:
    """The manifest of a complete version; None when work is left.

    Args:
        mend: take a version with missing or damaged files for unfinished, so that they are made again; needs the lock.
    """
    manifest = dataset.find(folder, version)
    bad = dataset.damaged(folder, manifest) if manifest is not None and _verify.get() else []
    if manifest is not None and not bad:
        return manifest
    if mend:
        for name in bad:
            log.warning("%s: not the bytes of its manifest; it is made again", storage.join(folder, name))
        dataset.reopen(folder, bad)
    return None


def mend(corrupt: ShardCorrupt, folder: str, inputs: Sequence[ShardSet], remake: Callable[[ShardSet], None]) -> None:
    """Have a damaged file made again: an intermediate one of the version in `folder`, one of its inputs, or of what these came from.

    Raises:
        ShardCorrupt: it is none of these.
        InputError: it cannot be made again.
    """
    where, name = posixpath.split(corrupt.path)
    log.warning("%s: %s; it is made again", corrupt.path, corrupt.args[1])
    if where == folder or where.startswith(f"{folder}/"):
        dataset.reopen(where, [name])
        return
    damaged = next((one for one in _with_those_behind(inputs) if corrupt.path.startswith(f"{one.folder}/")), None)
    if damaged is None:
        raise corrupt
    where, name = damaged.folder, corrupt.path.removeprefix(f"{damaged.folder}/")
    try:
        with only_maker(where, damaged.step):
            if dataset.is_whole(damaged, name):
                return  # another run had found it too, and made it again
            dataset.reopen(where, [name])
        remake(damaged)
    except GristmillError as error:
        raise InputError(f"{corrupt.path}: {corrupt.args[1]}, and it cannot be made again: {error}") from error


def _with_those_behind(versions: Sequence[ShardSet]) -> Iterator[ShardSet]:
    """The versions, and those that they came from, as far as they are there: an index is read with all before it."""
    todo, seen = list(versions), set()
    while todo:
        version = todo.pop(0)
        if version.folder in seen:
            continue
        seen.add(version.folder)
        yield version
        todo += dataset.inputs_there(version)


def forget(folder: str, step: str) -> None:
    """Take a version for not made at all; what cannot be made again, the pages that a crawl has fetched, stays beside it."""
    with only_maker(folder, step):
        dataset.reopen(folder)
        phases = [name for name in storage.list_folder(folder) if storage.exists(storage.join(folder, name, "shards"))]
        for name in ("shards", dataset.REJECTS, "aside", *phases):
            storage.remove(storage.join(folder, name))
