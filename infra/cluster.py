"""The one door of Dask: shards go to a pool of worker processes and come back as receipts, in whatever order they finish.

A pool starts its cluster when the first shard needs it, so that a run which finds everything done starts none. A shard that has its receipt
is never computed again. Workers report the version of the code they run, and another version than ours is an error. One shard costs about
4 ms beside its work.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra import dataset, storage
from infra.batch import KubernetesConfig, SlurmConfig, kubernetes_cluster, slurm_cluster
from infra.dataset import Outcome, Receipt
from infra.errors import GristmillError
from infra.progress import report
from infra.versions import code_version

Item = TypeVar("Item")


class CodeMismatch(GristmillError):
    """A worker that runs other code than the flow that feeds it."""


class ShardKilledWorkers(GristmillError):
    """A shard that ended every worker that took it."""


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
        """Yield (position in `items`, work(item)) as items finish; the first error is raised after the others are called off."""
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
                    raise ShardKilledWorkers(
                        f"shard {index} of {len(items)} ended every worker that took it, most likely for want of memory: "
                        f"give workers more (dask.memory_limit), use fewer (dask.workers) or smaller shards. {error}"
                    ) from error
                future.release()
                if isinstance(result, GristmillError):
                    raise result
                yield index, result
        finally:
            client.cancel(futures, force=True)

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

            if self.config.kind == "local":
                with _deaf_to_interrupts():
                    self._cluster = LocalCluster(
                        n_workers=self.num_workers,
                        threads_per_worker=1,
                        memory_limit=self.config.memory_limit,
                        dashboard_address=None,
                        # without a dashboard its server still asks for port 8787, and every second cluster would warn
                        scheduler_kwargs={"dashboard_address": ":0"},
                    )
            elif self.config.kind == "slurm":
                self._cluster = slurm_cluster(self.config.slurm, max(1, self.config.workers))
            elif self.config.kind == "kubernetes":
                self._cluster = kubernetes_cluster(self.config.kubernetes, max(1, self.config.workers))
            self._client = Client(self._cluster or self.config.address, set_as_default=False)
        return self._client


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


@contextmanager
def in_this_process() -> Iterator[None]:
    """Compute the shards of this block here: for work that is done sooner than workers import what it needs."""
    token = _pool.set(None)
    try:
        yield
    finally:
        _pool.reset(token)


def current() -> Pool:
    """The pool of the surrounding block; in this process when there is none."""
    return _pool.get() or Pool(DaskConfig(kind="none"))


def map_shards(work: Callable[[Item], Outcome], items: Sequence[Item], folder: str, what: str) -> list[Receipt]:
    """Write shard i of `folder` from `work(items[i])`, for every i that has no receipt yet; all receipts, in order.

    `work` and the items travel to worker processes: a module-level function or a `functools.partial` of one.
    """
    storage.make_folder(folder)
    finished = dataset.finished_shards(folder, len(items))
    missing = [index for index in range(len(items)) if index not in finished]
    report(len(finished), len(items), what)
    jobs = [(work, items[index], folder, index) for index in missing]
    for _, receipt in current().run(_write_shard, jobs):
        finished[receipt.index] = receipt
        report(len(finished), len(items), what)
    return [finished[index] for index in range(len(items))]


def _write_shard(job: tuple[Callable[[Any], Outcome], Any, str, int]) -> Receipt:
    work, item, folder, index = job
    return dataset.write_shard(folder, index, work(item))


def _checked(work: Callable[[Any], Any], item: Any, expected: str) -> Any:
    if (found := code_version()) != expected:
        raise CodeMismatch(f"Dask worker runs code {found}, the flow {expected}; restart the workers from the same checkout")
    try:
        return work(item)
    except GristmillError as error:
        # raised in the worker it would be tried again and logged with its traceback, for what the user alone can mend
        return error
