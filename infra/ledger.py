"""Which versions a run is made of: one small file per step below `runs/<run>/`, on the shared storage.

A run is one execution of the outermost flow, named by its Prefect id (or by its time, outside Prefect). Flows that run for it on other
machines enter their steps in the same folder. `report`, `trace` and the closing table of `gristmill run` read it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from infra import storage
from infra.dataset import ShardSet, folder_of, open_version
from infra.settings import settings
from infra.versions import code_version

_run: ContextVar[str] = ContextVar("run", default="")

FAILURE = "failure.txt"


class Entry(BaseModel):
    """One step of one run."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: str
    path: str
    version: str
    digest: str
    loaded: bool
    seconds: float
    finished: str
    host: str
    code_version: str
    flow_run_id: str = ""
    mlflow_url: str = ""

    @classmethod
    def of(cls, shards: ShardSet, *, loaded: bool, seconds: float) -> Entry:
        """The entry of a step that has just finished here."""
        return cls(
            step=shards.step,
            path=shards.path,
            version=shards.version,
            digest=shards.digest,
            loaded=loaded,
            seconds=round(seconds, 3),
            finished=datetime.now(UTC).isoformat(),
            host=socket.gethostname(),
            code_version=code_version(),
        )

    def shards(self) -> ShardSet:
        """The version this step ended with."""
        return open_version(folder_of(self.path))


@contextmanager
def run(name: str) -> Iterator[None]:
    """Enter the steps of this block under run `name`."""
    token = _run.set(name)
    try:
        yield
    finally:
        _run.reset(token)


def current_run() -> str:
    """The run of the surrounding block, empty outside one."""
    return _run.get()


def enter(entry: Entry) -> None:
    """Note a finished step; nothing is noted outside a run."""
    if name := _run.get():
        storage.write_json(storage.join(_folder(name), f"{entry.step}.json"), entry.model_dump())


def fail(name: str, why: str) -> None:
    """Note why a run failed; of flows inside one another the innermost, which is told of first, has the cause."""
    path = storage.join(_folder(name), FAILURE)
    if not storage.exists(path):
        storage.write_bytes(path, why.encode())


def failure(name: str) -> str:
    """Why a run's last try failed; empty if it did not."""
    path = storage.join(_folder(name), FAILURE)
    return storage.read_bytes(path).decode() if storage.exists(path) else ""


def forgive(name: str) -> None:
    """Forget the failure of an earlier try."""
    storage.remove(storage.join(_folder(name), FAILURE))


def entries(name: str) -> list[Entry]:
    """The steps of a run in the order in which they finished."""
    folder = _folder(name)
    found = [
        Entry.model_validate(storage.read_json(storage.join(folder, file)))
        for file in storage.list_folder(folder)
        if file.endswith(".json") and not file.startswith(".")
    ]
    return sorted(found, key=lambda entry: entry.finished)


def runs() -> list[str]:
    """All runs, the latest last."""
    names = storage.list_folder(storage.join(settings().store, "runs"))
    return sorted(names, key=lambda name: max((entry.finished for entry in entries(name)), default=""))


def find_run(prefix: str) -> str:
    """The run whose name starts with `prefix`; `latest` is the last one.

    Raises:
        StorageError: none, or more than one.
    """
    known = runs()
    if prefix == "latest" and known:
        return known[-1]
    matching = [name for name in known if name.startswith(prefix)]
    if len(matching) == 1:
        return matching[0]
    what = "no run" if not matching else f"{len(matching)} runs"
    raise storage.StorageError(
        f"run {prefix!r}: {what} of that name in {settings().store}/runs; known: {', '.join(known[-5:]) or 'none'}"
    )


def _folder(name: str) -> str:
    return storage.join(settings().store, "runs", name)
