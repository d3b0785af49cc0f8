"""A Dask cluster that runs elsewhere: a scheduler and workers as processes of their own, with clean environments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.cluster import CodeMismatch, DaskConfig, Pool
from infra.settings import PROJECT

from .processes import start
from .site import served
from .test_curate import NUM_HOSTS, NUM_PAGES, _config, _done, _entries, _sources

pytestmark = [pytest.mark.soak, pytest.mark.timeout(400, func_only=True)]
RUNNER = str(Path(__file__).with_name("curating.py"))


class Cluster:
    """A scheduler and its workers, each started as `env -i PATH=… HOME=… dask …` in the root of a checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, {}
        self._start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(folder / "it.json"))
        self._until(lambda: (folder / "it.json").exists())
        self.address = str(json.loads((folder / "it.json").read_text())["address"])

    def worker(self, name: str, checkout: Path = PROJECT) -> None:
        words = ("worker", self.address, "--name", name, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        self._start(name, *words, "--local-directory", str(self.folder), checkout=checkout)
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            self._until(lambda: name in {one["name"] for one in client.scheduler_info()["workers"].values()})

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def _start(self, name: str, *words: str, checkout: Path = PROJECT) -> None:
        # the checkout is found as an installed one would be
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": str(checkout)}
        with (self.folder / f"{name}.log").open("w") as log:
            command = [str(Path(sys.executable).with_name("dask")), *words]
            self.processes[name] = subprocess.Popen(command, env=clean, cwd=checkout, stdout=log, stderr=log)

    def _until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, "\n".join(path.read_text() for path in self.folder.glob("*.log"))
            time.sleep(0.1)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "dask"
    folder.mkdir()
    with ExitStack() as stack:
        made = Cluster(folder)
        stack.callback(made.close)
        yield made


def test_curation_on_it_gives_what_one_process_gives_also_when_a_worker_dies(elsewhere: Cluster, tmp_path: Path) -> None:
    elsewhere.worker("one")
    elsewhere.worker("two")
    with served(NUM_HOSTS, NUM_PAGES) as site:
        sources = _sources(tmp_path / "sources")
        alone = _config(tmp_path / "alone.yaml", sources, site, 1)
        shared = _config(tmp_path / "shared.yaml", sources, site, 1, dask={"kind": "address", "address": elsewhere.address})
        _done(start(tmp_path / "alone", RUNNER, "first", alone))
        curating = start(tmp_path / "shared", RUNNER, "first", shared)
        signals = tmp_path / "shared" / "store" / "signals"
        elsewhere._until(lambda: curating.poll() is not None or list(signals.glob("*/shards/*.json")))
        assert curating.poll() is None
        elsewhere.kill("one")
        _done(curating)
    digests = [{step: one.digest for step, one in _entries(tmp_path / home, "first").items()} for home in ("alone", "shared")]
    assert digests[0] == digests[1] and "publish" in digests[0]
    assert elsewhere.processes["two"].poll() is None


def test_a_worker_of_another_checkout_is_refused(elsewhere: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("flows", "tasks", "models", "expectations", "infra"):
        shutil.copytree(PROJECT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "tasks" / "filter.py").open("a") as file:
        file.write("\n# of another branch\n")
    elsewhere.worker("other", other)
    pool = Pool(DaskConfig(kind="address", address=elsewhere.address))
    try:
        with pytest.raises(CodeMismatch, match=r"Dask worker runs code \w{16}, the flow \w{16}; restart the workers"):
            list(pool.run(abs, [-1]))
    finally:
        pool.close()
