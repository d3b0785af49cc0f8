"""The one door of Dask: shards go to a pool of worker processes and come back as receipts, in whatever order they finish.

A pool starts its cluster when the first shard needs it, so that a run which finds everything done starts none. A shard that has its receipt
is never computed again; one that ends its workers is searched for the document that does it. Workers report the version of the code they
run, and another version than ours is an error. One shard costs about 4 ms beside its work.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import psutil
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra import dataset, poison, storage
from infra.batch import KubernetesConfig, SlurmConfig, kubernetes_cluster, slurm_cluster
from infra.dataset import Outcome, Receipt
from infra.errors import GristmillError
from infra.poison import Poisoned
from infra.progress import report
from infra.versions import code_version

log = logging.getLogger("gristmill")

Item = TypeVar("Item")


class CodeMismatch(GristmillError):
    """A worker that runs other code than the flow that feeds it."""


class ShardKilledWorkers(GristmillError):
    """A shard that ended every worker that took it; the message names the documents in it that do so, where they could be found."""


@dataclass(frozen=True)
class Killed:
    """In the place of a result: the item ended every worker that took it."""

    why: str


class DaskConfig(BaseModel):
    """Where shards are computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local", "address", "slurm", "kubernetes", "none"] = "local"
    """`local`: worker processes on this machine; `address`: a Dask scheduler that runs already; `slurm`, `kubernetes`: workers asked of
    them; `none`: in this process."""
    workers: int = Field(0, ge=0)
    """Number of local worker processes, one thread each, or of jobs or pods; 0: one per local core, or one job or pod."""
    address: str = ""
    """Scheduler address for kind `address`, for example tcp://10.0.0.5:8786."""
    memory_limit: str = "auto"
    """Memory of one local worker before Dask spills and then restarts it, for example 4GiB."""
    skip_poisoned: bool = False
    """Leave out documents that end every worker that takes them, as rejects of rule `poisoned`; else they stop the run, by name."""
    slurm: SlurmConfig = SlurmConfig()
    """A job of kind `slurm`."""
    kubernetes: KubernetesConfig = KubernetesConfig()
    """A pod of kind `kubernetes`."""

    @model_validator(mode="after")
    def _knows_its_scheduler(self) -> DaskConfig:
        if self.kind == "address" and not self.address:
            raise ValueError("kind address needs `address`, for example tcp://10.0.0.5:8786")
        return self


class Pool:
    """A place to compute shards; the cluster behind it is started at the first use and closed with the pool."""

    def __init__(self, config: DaskConfig) -> None:
        self.config = config
        self._client: Any = None
        self._cluster: Any = None

    @property
    def num_workers(self) -> int:
        """Worker processes that this pool has or would start."""
        if self.config.kind == "none":
            return 1
        if self.config.kind == "address":
            return max(1, len(self._connect().scheduler_info()["workers"]))
        if self.config.kind in ("slurm", "kubernetes"):
            return max(1, self.config.workers) * (self.config.slurm.cores if self.config.kind == "slurm" else 1)
        return self.config.workers or os.cpu_count() or 1

    def run(self, work: Callable[[Item], Any], items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
        """Yield (position in `items`, work(item)) as items finish; the first error is raised after the others are called off.

        An item that ends every worker that takes it comes back as `Killed`.
        """
        if self.config.kind == "none" or not items:
            yield from ((position, work(item)) for position, item in enumerate(items))
            return
        from distributed import KilledWorker, as_completed

        client = self._connect()
        futures = client.map(_checked, [work] * len(items), items, [code_version()] * len(items), pure=False, retries=2)
        position = {future.key: index for index, future in enumerate(futures)}
        try:
            for future in as_completed(futures, loop=client.loop):
                index = position[future.key]
                try:
                    result = future.result()
                except KilledWorker as error:
                    result = Killed(str(error))
                future.release()
                if isinstance(result, GristmillError):
                    raise result
                yield index, result
        finally:
            client.cancel(futures, force=True)

    def run_while_due(
        self, work: Callable[[Item], Any], due: Callable[[Sequence[Item]], Sequence[Item]], poll_s: float = 0.25
    ) -> Iterator[tuple[Item, Any]]:
        """Yield (item, work(item)) as items finish; `due`, given those that run, says again and again which others are to run now.

        It ends when nothing runs and nothing is due. An item that ends every worker that takes it comes back as `Killed`.
        """
        if self.config.kind == "none":
            while items := due([]):
                yield from ((item, work(item)) for item in items)
            return
        from distributed import KilledWorker, wait

        client = self._connect()
        running: dict[Any, Item] = {}
        try:
            while True:
                for item in due(list(running.values())):
                    running[client.submit(_checked, work, item, code_version(), pure=False, retries=2)] = item
                if not running:
                    return
                try:
                    with client.as_current():
                        done = wait(list(running), timeout=poll_s, return_when="FIRST_COMPLETED").done
                except TimeoutError:
                    continue
                for future in done:
                    try:
                        result = future.result()
                    except KilledWorker as error:
                        result = Killed(str(error))
                    if isinstance(result, GristmillError):
                        raise result
                    yield running.pop(future), result
        finally:
            client.cancel(list(running), force=True)

    def max_worker_bytes(self) -> int:
        """Memory at which a worker is ended: Dask's nanny does so at 95 % of its limit."""
        from distributed.worker_memory import parse_memory_limit

        share = psutil.virtual_memory().total // self.num_workers
        limit = self.config.memory_limit
        return int(0.95 * (share if limit == "auto" else parse_memory_limit(limit, 1, 1, logger=log) or share))

    def close(self) -> None:
        """Stop the cluster if one was started here."""
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        self._client = self._cluster = None

    def _connect(self) -> Any:
        if self._client is None:
            from distributed import Client, LocalCluster

            logging.getLogger("tornado.application").addFilter(_no_mishap_of_an_interrupt)
            if self.config.kind == "local":
                with _deaf_to_interrupts():
                    self._cluster = LocalCluster(
                        n_workers=self.num_workers,
                        threads_per_worker=1,
                        memory_limit=self.config.memory_limit,
                        dashboard_address=None,
                        preload=["infra.local_worker"],
                        # without a dashboard its server still asks for port 8787, and every second cluster would warn
                        scheduler_kwargs={"dashboard_address": ":0"},
                    )
            elif self.config.kind == "slurm":
                self._cluster = slurm_cluster(self.config.slurm, max(1, self.config.workers))
            elif self.config.kind == "kubernetes":
                self._cluster = kubernetes_cluster(self.config.kubernetes, max(1, self.config.workers))
            self._client = Client(self._cluster or self.config.address, set_as_default=False)
        return self._client


def _no_mishap_of_an_interrupt(record: logging.LogRecord) -> bool:
    """Whether a record is worth telling: Ctrl-C at the very start of a call makes Dask cancel what it has not begun, with a traceback."""
    return "sync.<locals>.cancel" not in record.getMessage()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Children started in this block do not hear Ctrl-C, which a terminal sends to all: this process stops them in good order."""
    if threading.current_thread() is not threading.main_thread():  # only there can a signal be set, and only there is it heard
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_pool: ContextVar[Pool | None] = ContextVar("pool", default=None)


@contextmanager
def pool(config: DaskConfig) -> Iterator[Pool]:
    """Give the steps of this block a place to compute their shards."""
    opened = Pool(config)
    token = _pool.set(opened)
    try:
        yield opened
    finally:
        _pool.reset(token)
        opened.close()


SMALL_CORPUS_DOCUMENTS = 200_000
"""Rows that this process is done with before workers have started: a cluster takes 3 to 5 s, an import of Great Expectations 4 to 10 s."""


@contextmanager
def at_hand(num_documents: int) -> Iterator[None]:
    """Compute the shards of this block in this process if there are few documents: for light work that cannot end its process."""
    if num_documents > SMALL_CORPUS_DOCUMENTS:
        yield
        return
    token = _pool.set(None)
    try:
        yield
    finally:
        _pool.reset(token)


def current() -> Pool:
    """The pool of the surrounding block; in this process when there is none."""
    return _pool.get() or Pool(DaskConfig(kind="none"))


def map_shards(
    work: Callable[[Item], Outcome], items: Sequence[Item], folder: str, what: str, *, by_document: bool = False
) -> list[Receipt]:
    """Write shard i of `folder` from `work(items[i])`, for every i that has no receipt yet; all receipts, in order.

    `work` and the items travel to worker processes: a module-level function or a `functools.partial` of one.

    Args:
        by_document: whether the work goes document by document, so that one of them can be left out without harm to the others.

    Raises:
        ShardKilledWorkers: after all other shards are done.
    """
    storage.make_folder(folder)
    finished = dataset.finished_shards(folder, len(items))
    missing = [index for index in range(len(items)) if index not in finished]
    killed: dict[int, str] = {}
    report(len(finished), len(items), what)
    jobs = [(work, items[index], folder, index, ()) for index in missing]
    for position, receipt in current().run(_write_shard, jobs):
        if isinstance(receipt, Killed):
            killed[missing[position]] = receipt.why
            continue
        finished[receipt.index] = receipt
        report(len(finished), len(items), what)
    if killed:
        again, refused = [], []
        for index, why in killed.items():
            try:
                again.append((work, items[index], folder, index, _poison(work, items[index], why, by_document)))
            except ShardKilledWorkers as error:  # told when those that only sat beside it are done
                refused.append(error)
        for position, receipt in current().run(_write_shard, again):
            if isinstance(receipt, Killed):
                raise ShardKilledWorkers(
                    _words(again[position][1], "once more, though no document of it did so alone", receipt.why)
                )
            finished[receipt.index] = receipt
        if refused:
            raise refused[0]
    return [finished[index] for index in range(len(items))]


def _poison(work: Callable[[Any], Any], item: Any, why: str, by_document: bool) -> tuple[Poisoned, ...]:
    """The documents to leave out of an item that ended its workers; none if it only sat beside another such item.

    Raises:
        ShardKilledWorkers: they may not be left out, or cannot be found.
    """
    if not by_document or poison.shard_of(item) is None:
        raise ShardKilledWorkers(_words(item, "", why))
    log.warning("%s ended every worker that took it; looking for the document", _name(item))
    try:
        found = poison.find(work, item, current().max_worker_bytes())
    except poison.Unfound as error:
        raise ShardKilledWorkers(_words(item, str(error), why)) from error
    named = "; ".join(f"document {one.doc_id} ({one.url or one.source}) {one.how}" for one in found)
    if found and not current().config.skip_poisoned:
        raise ShardKilledWorkers(
            f"{_name(item)} ended every worker that took it: {named}. To go on without {'it' if len(found) == 1 else 'them'}: "
            "`gristmill rerun RUN --skip-poisoned` (or dask.skip_poisoned=true); each is then a reject of rule `poisoned`"
        )
    if found:
        log.warning("%s: left out as poisoned: %s", _name(item), named)
    return tuple(found)


def _words(item: Any, found: str, why: str) -> str:
    return (
        f"{_name(item)} ended every worker that took it{f' ({found})' if found else ''}, most likely for want of memory: give workers more "
        f"(dask.memory_limit), use fewer (dask.workers) or smaller shards. {why}"
    )


def _name(item: Any) -> str:
    shard = poison.shard_of(item)
    return f"shard {shard.path}" if shard else f"a shard made of {item!r:.200}"


def _write_shard(job: tuple[Callable[[Any], Outcome], Any, str, int, tuple[Poisoned, ...]]) -> Receipt:
    work, item, folder, index, left_out = job
    outcome = work(poison.without(item, [one.doc_id for one in left_out]))
    if left_out:
        rows = [
            {"doc_id": one.doc_id, "url": one.url, "source": one.source, "rule": "poisoned", "detail": one.how}
            for one in left_out
        ]
        rejects = [
            dataset.rejects_table(rows),
            *([outcome.rejects.cast(dataset.REJECTS_SCHEMA)] if outcome.rejects is not None else []),
        ]
        outcome = replace(outcome, rejects=pa.concat_tables(rejects).sort_by("doc_id"))
    return dataset.write_shard(folder, index, outcome)


def _checked(work: Callable[[Any], Any], item: Any, expected: str) -> Any:
    if (found := code_version()) != expected:
        raise CodeMismatch(f"Dask worker runs code {found}, the flow {expected}; restart the workers from the same checkout")
    try:
        return work(item)
    except GristmillError as error:
        # raised in the worker it would be tried again and logged with its traceback, for what the user alone can mend
        return error
