"""Which versions a run is made of: one small file per step below `runs/<run>/`, on the shared storage.

A run is one execution of the outermost flow, named by its Prefect id (or by its time, outside Prefect). Flows that run for it on other
machines enter their steps in the same folder. `report`, `trace`, `lineage` and the closing table of `gristmill run` read it.
What a corpus has published so far is listed below `corpora/<name>/`, one file per version.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra import storage
from infra.dataset import MANIFEST, ShardSet, folder_of, open_version
from infra.errors import InputError
from infra.settings import settings
from infra.versions import code_version

_run: ContextVar[str] = ContextVar("run", default="")

FAILURE = "failure.txt"
ABOUT = "about.json"
DECISIONS = "decisions.json"


class About(BaseModel):
    """What a run is: written when its outermost flow begins, and again when it is tried again."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str
    flow: str
    corpus: str
    started: str
    """When the last try began, ISO 8601 in UTC."""
    host: str
    code_version: str
    config: dict[str, Any]


class Published(BaseModel):
    """A version that a corpus published, and when it did so first."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    digest: str
    path: str
    published: str
    run: str

    def shards(self) -> ShardSet:
        """The version itself."""
        return open_version(folder_of(self.path))


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
            finished=_now(),
            host=socket.gethostname(),
            code_version=code_version(),
        )

    def shards(self) -> ShardSet:
        """The version this step ended with.

        Raises:
            InputError: it is no longer there, or not there yet again.
        """
        try:
            return open_version(folder_of(self.path))
        except storage.StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise  # a store that does not answer says nothing about the version
            raise InputError(
                f"{self.step}/{self.version}: is not whole any more: another run makes it again, or its files were removed. "
                "`gristmill rerun RUN` makes what a run has lost"
            ) from error

    @property
    def is_made(self) -> bool:
        """Whether the version is there, by its manifest."""
        return storage.exists(storage.join(folder_of(self.path), MANIFEST))


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


def begin(name: str, flow: str, corpus: str, config: dict[str, Any]) -> None:
    """Note what a run is."""
    about = About(
        run=name, flow=flow, corpus=corpus, started=_now(), host=socket.gethostname(), code_version=code_version(), config=config
    )
    storage.write_json(storage.join(_folder(name), ABOUT), about.model_dump())


def about(name: str) -> About | None:
    """What a run is; None for one that an older release made."""
    path = storage.join(_folder(name), ABOUT)
    return About.model_validate(storage.read_json(path)) if storage.exists(path) else None


def announce(corpus: str, shards: ShardSet) -> None:
    """List a version as published by a corpus; where it is listed already, the first publication stays."""
    if not announced(corpus, shards):
        first = Published(version=shards.version, digest=shards.digest, path=shards.path, published=_now(), run=_run.get())
        storage.write_json(_announcement(corpus, shards), first.model_dump())


def announced(corpus: str, shards: ShardSet) -> bool:
    """Whether a version is listed as published by a corpus, under whatever run."""
    return storage.exists(_announcement(corpus, shards))


def withdraw(corpus: str, listed: Published) -> None:
    """List a version no longer."""
    storage.remove(storage.join(_corpus(corpus), f"{listed.version}-{listed.digest}.json"))


def published(corpus: str) -> list[Published]:
    """What a corpus published, oldest first."""
    folder = _corpus(corpus)
    files = [name for name in storage.list_folder(folder) if name.endswith(".json") and not name.startswith(".")]
    found = [Published.model_validate(storage.read_json(storage.join(folder, name))) for name in files]
    return sorted(found, key=lambda one: (one.published, one.version))


def enter(entry: Entry) -> None:
    """Note a finished step; nothing is noted outside a run."""
    if name := _run.get():
        storage.write_json(storage.join(_folder(name), f"{entry.step}.json"), entry.model_dump())


def strike(name: str, step: str) -> None:
    """Take a step out of a run: it is going to be made again."""
    storage.remove(storage.join(_folder(name), f"{step}.json"))


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


def decide(name: str, said: dict[str, str]) -> None:
    """Note what a human answered at a run's gate."""
    storage.write_json(storage.join(_folder(name), DECISIONS), [*decisions(name), said])


def decisions(name: str) -> list[dict[str, str]]:
    """The answers given at a run's gate, oldest first."""
    path = storage.join(_folder(name), DECISIONS)
    return list(storage.read_json(path)) if storage.exists(path) else []


def newest(corpus: str, *steps: str) -> dict[str, ShardSet]:
    """The versions of these steps from the newest run of a corpus that has them all, by step.

    Raises:
        InputError: no run has.
    """
    for name in reversed(runs()):
        known = about(name)
        made = {entry.step: entry for entry in entries(name)} if known and known.corpus == corpus else {}
        if set(steps) <= set(made):
            return {step: made[step].shards() for step in steps}
    raise InputError(f"corpus {corpus}: no run of it has {' and '.join(steps)} yet; run the flow before it, or name a version")


def entries(name: str) -> list[Entry]:
    """The steps of a run in the order in which they finished."""
    folder = _folder(name)
    found = [
        Entry.model_validate(storage.read_json(storage.join(folder, file)))
        for file in storage.list_folder(folder)
        if file.endswith(".json") and file not in (ABOUT, DECISIONS) and not file.startswith(".")
    ]
    return sorted(found, key=lambda entry: entry.finished)


def runs() -> list[str]:
    """All runs, the latest last."""
    names = storage.list_folder(storage.join(settings().store, "runs"))
    return sorted(names, key=last_sign)


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


def last_sign(name: str) -> str:
    """When a run was last heard of, ISO 8601 in UTC; empty if never."""
    known = about(name)
    return max([entry.finished for entry in entries(name)] + ([known.started] if known else [""]))


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _announcement(corpus: str, shards: ShardSet) -> str:
    return storage.join(_corpus(corpus), f"{shards.version}-{shards.digest}.json")


def _corpus(name: str) -> str:
    return storage.join(settings().store, "corpora", name)


def _folder(name: str) -> str:
    return storage.join(settings().store, "runs", name)
