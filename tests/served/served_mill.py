"""A mill of the tests' own: servers, workers and store in a temporary home, driven through the `gristmill` command as a user would.

What a test looks at are the files of the store and the answers of the
Prefect and MLflow servers, never the objects of this process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from mlflow import MlflowClient

from infra.orchestration import STEP_KEY

PROJECT = Path(__file__).resolve().parents[2]
CURATED = ("crawl", "extract", "ingest", "signals", "filter", "audit", "rewrite", "index", "dedup", "redact")
PUBLISHED = ("split", "publish")
AFTER_GATE = (*PUBLISHED, "tokenise", "pretrain", "evaluate", "register", "report")
STEPS = (*CURATED, "validate", *AFTER_GATE)
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# what the machine around the tests has set must not reach into a mill of theirs
FOREIGN = ("GRISTMILL_", "PREFECT_", "MLFLOW_", "AWS_", "FSSPEC_")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], Any], patience_s: float, what: str) -> Any:
    """Poll until `holds()` is truthy; gives its value."""
    deadline = time.monotonic() + patience_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.05)
    return value


@dataclass
class Mill:
    """One home with its servers."""

    home: Path
    config: Path
    prefect_port: int
    mlflow_port: int
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The environment of every command."""
        own = {
            "GRISTMILL_HOME": str(self.home),
            "GRISTMILL_PREFECT_PORT": str(self.prefect_port),
            "GRISTMILL_MLFLOW_PORT": str(self.mlflow_port),
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return clean | own | self.extra

    def cli(self, *words: str, patience_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `gristmill …` and wait for it."""
        command = [str(Path(sys.executable).with_name("gristmill")), *words]
        return subprocess.run(
            command, env=self.env, cwd=self.home.parent, capture_output=True, text=True, timeout=patience_s, check=False
        )

    def run(self, *overrides: str, flow: str = "pipeline", patience_s: float = 300) -> subprocess.CompletedProcess[str]:
        """`gristmill run` to its end."""
        return self.cli("run", flow, *self._words(overrides), patience_s=patience_s)

    def submit(self, *overrides: str, flow: str = "pipeline") -> str:
        """`gristmill run --detach`; gives the flow run's id."""
        done = self.cli("run", flow, "--detach", *self._words(overrides))
        assert done.returncode == 0, done.stdout + done.stderr
        return self.newest_run()

    def _words(self, overrides: Sequence[str]) -> list[str]:
        return ["--config", str(self.config), *(word for one in overrides for word in ("--set", one))]

    def retry(self, run_id: str) -> None:
        """`prefect flow-run retry`, as the failed run's last words say; some seconds after a crash, which a worker reports twice."""
        state = self.flow_run(run_id)["state"]
        if state["type"] == "CRASHED":
            since = datetime.now(UTC) - datetime.fromisoformat(state["timestamp"])
            time.sleep(max(0.0, 15 - since.total_seconds()))
        command = [sys.executable, "-m", "prefect", "flow-run", "retry", run_id]
        done = subprocess.run(command, env=self.env | {"PREFECT_API_URL": self.api}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def api(self) -> str:
        """The Prefect API."""
        return f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def mlflow_url(self) -> str:
        """The MLflow server."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password of the servers, where they ask for them."""
        path = self.extra.get("GRISTMILL_AUTH_FILE")
        user, _, password = Path(path).read_text().strip().partition(":") if path else ("", "", "")
        return (user, password) if path else None

    def ask(self, path: str, **body: Any) -> Any:
        """POST to the Prefect API, or GET without a body."""
        with httpx.Client(base_url=self.api, trust_env=False, timeout=90, auth=self.login) as client:
            answer = client.post(path, json=body) if body else client.get(path)
            answer.raise_for_status()
            return answer.json()

    def newest_run(self) -> str:
        """Id of the newest flow run that no other flow started."""
        runs = self.ask("/flow_runs/filter", sort="START_TIME_DESC", flow_runs={"parent_task_run_id": {"is_null_": True}})
        return str(max(runs, key=lambda run: run["created"])["id"])

    def flow_run(self, run_id: str) -> dict[str, Any]:
        """A flow run as the Prefect API tells it."""
        return dict(self.ask(f"/flow_runs/{run_id}"))

    def ended(self, run_id: str, patience_s: float = 280, attempt: int = 1) -> dict[str, Any]:
        """Wait for the end of a flow run's `attempt`."""

        def done() -> dict[str, Any] | None:
            run = self.flow_run(run_id)
            return run if run["state_type"] in FINAL and run["run_count"] >= attempt else None

        return dict(wait_until(done, patience_s, f"the end of attempt {attempt} of flow run {run_id}; {self.logs()}"))

    def below(self, run_id: str) -> list[dict[str, Any]]:
        """A flow run and all that run for it."""
        found = [self.flow_run(run_id)]
        for run in found:  # grows while it is read
            found += self.ask("/flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [run["id"]]}})
        return found

    def flow_name(self, run: Mapping[str, Any]) -> str:
        """The flow that a flow run is of."""
        return str(self.ask(f"/flows/{run['flow_id']}")["name"])

    def flow_below(self, run_id: str, flow: str, patience_s: float = 120) -> str:
        """Id of the run of `flow` that runs for a run, or of that run itself, as soon as there is one."""

        def found() -> str:
            names = {self.flow_name(run): run["id"] for run in self.below(run_id)}
            return str(names.get(flow, ""))

        return str(wait_until(found, patience_s, f"a run of {flow}; {self.logs()}"))

    def step_runs(self, run_id: str) -> list[dict[str, Any]]:
        """All task runs of a run that are steps, oldest first."""
        ids = [run["id"] for run in self.below(run_id)]
        runs = [
            run for run in self.ask("/task_runs/filter", flow_runs={"id": {"any_": ids}}) if run["task_key"].startswith(STEP_KEY)
        ]
        return sorted(runs, key=lambda run: run["start_time"] or "9")

    def states(self, run_id: str, since: str = "") -> dict[str, str]:
        """{step: state of its last task run}, of those that began at or after `since`."""
        return {run["name"]: run["state_name"] for run in self.step_runs(run_id) if (run["start_time"] or "9") >= since}

    @property
    def mlflow(self) -> MlflowClient:
        """A client of the MLflow server."""
        return MlflowClient(self.mlflow_url)

    def tracked(self, run_id: str) -> list[Any]:
        """All MLflow runs of a run."""
        experiment = self.mlflow.get_experiment_by_name("gristmill")
        assert experiment is not None
        return list(self.mlflow.search_runs([experiment.experiment_id], f"tags.`gristmill.root` = '{run_id}'", max_results=500))

    @property
    def store(self) -> Path:
        """Root of the dataset versions."""
        return Path(self.extra.get("GRISTMILL_STORAGE", str(self.home / "store")))

    def entries(self, run_id: str) -> dict[str, Any]:
        """{step: ledger entry} of a run."""
        files = [path for path in (self.store / "runs" / run_id).glob("*.json") if path.stem in STEPS]
        return {path.stem: json.loads(path.read_text()) for path in files}

    def digests(self, run_id: str) -> dict[str, str]:
        """{step: digest} of a run; without those of the page and the registration, which name the run."""
        return {step: entry["digest"] for step, entry in self.entries(run_id).items() if step not in ("report", "register")}

    def manifest(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest of a ledger entry's version."""
        return dict(json.loads((self.store / entry["path"] / "manifest.json").read_text()))

    def forget(self, run_id: str, first: str, last: str = STEPS[-1]) -> None:
        """Remove the versions of a run's steps, as if they had never been made; the flow that makes them again makes the same."""
        for step in STEPS[STEPS.index(first) : STEPS.index(last) + 1]:
            shutil.rmtree(self.store / self.entries(run_id)[step]["path"], ignore_errors=True)

    def server(self, name: str) -> psutil.Process:
        """The process of a server or worker that `up` started."""
        return psutil.Process(json.loads((self.home / "servers.json").read_text())[name]["pid"])

    def folder(self, run_id: str, step: str) -> Path:
        """The folder of a run's version."""
        return self.store / str(self.entries(run_id)[step]["path"])

    def logs(self) -> str:
        """The last words of every log, for a failure's message."""
        tails = [(path.name, path.read_text(errors="replace")[-1500:]) for path in sorted((self.home / "logs").glob("*.log"))]
        return "\n".join(f"--- {name}\n{text}" for name, text in tails)

    def flow_process(self, run_id: str) -> psutil.Process:
        """The process in which a flow run is executed."""

        def found() -> psutil.Process | None:
            for process in psutil.process_iter(["environ", "cmdline"]):
                words, environ = process.info["cmdline"] or (), process.info["environ"] or {}
                if "prefect.engine" in " ".join(words) and environ.get("PREFECT__FLOW_RUN_ID", "").replace(
                    "-", ""
                ) == run_id.replace("-", ""):
                    return process
            return None

        return wait_until(found, 60, f"a process of flow run {run_id}")


# runs at the start of every Python process that finds it on its path; a datagram's connect sends nothing, it only asks for a route
WATCHER = """
import socket, sys

def watch(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    elif event == "socket.connect" and args[0].type != socket.SOCK_DGRAM and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and host not in ("localhost", "::1", "0.0.0.0", socket.gethostname()) and not host.startswith("127."):
        with open({log!r}, "a") as file:
            print(event, host, " ".join(sys.orig_argv)[:200], file=file)

sys.addaudithook(watch)
"""


def watch_the_network(folder: Path) -> dict[str, str]:
    """Variables under which every Python process writes the outside hosts that it asks for into `NETWORK_LOG`."""
    log = folder / "network.log"
    log.touch()
    (folder / "sitecustomize.py").write_text(WATCHER.format(log=str(log)))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, "NETWORK_LOG": str(log)}


def tiny_config(folder: Path, demo_port: int, **changes: Any) -> Path:
    """A configuration of every step at its smallest: about 150 pages, 50 documents, a model of 40,000 parameters."""
    raw = yaml.safe_load((PROJECT / "flows" / "configs" / "demo.yaml").read_text())
    raw["dask"] = {"workers": 1}  # each of them imports Great Expectations for some seconds
    raw["crawl"]["sources"] = [{"kind": "demo", "services": 6, "num_hosts": 4, "port": demo_port}]
    raw["crawl"]["shard_pages"] = 40
    raw["tokenise"] = {"vocab_size": 512}
    raw["pretrain"] = {
        "model": {"preset": "nano", "hidden_size": 32, "num_layers": 1, "intermediate_size": 64, "context_length": 64},
        "max_steps": 300,
        "warmup_steps": 10,
        "batch_size": 4,
        "eval_batches": 1,
        "log_every_steps": 20,
        "checkpoint_every_steps": 30,
        "num_threads": 1,
        "precision": "fp32",
    }
    raw["evaluate"] = {
        "max_documents": 10,
        "num_threads": 1,
        "samples": {"prompts": ["The"], "max_new_tokens": 8},
        "robustness": {"max_documents": 2},
        "suite": None,  # Great Expectations takes seconds to import
    }
    # minutes of every run here; the demo has them
    raw |= dict.fromkeys(("question", "contrast", "quantise", "smoke", "benchmark", "probe"))
    del raw["sft"], raw["dpo"]  # their lengths are those of the demo's model
    for step, values in changes.items():
        raw[step] = {**raw.get(step, {}), **values}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


IMPOSSIBLE = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "num_rows", "min_value": 10**9},
    "severity": "critical",
    "scope": "dataset",
    "note": "No corpus of this test is that big.",
}


def strict_suite(folder: Path) -> Path:
    """A suite file with one expectation that cannot hold."""
    path = folder / "strict.json"
    raw = json.loads((PROJECT / "expectations" / "published.json").read_text())
    path.write_text(json.dumps({**raw, "name": "strict", "expectations": [*raw["expectations"], IMPOSSIBLE]}))
    return path
