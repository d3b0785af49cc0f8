"""`gristmill serve NAME` beside a real MLflow registry: its champion answers, and the next one takes over when the alias moves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from infra import dataset, storage, tracking
from infra.dataset import Outcome, ShardSet
from infra.settings import PROJECT, child_environment, settings

from .made_server import make_model, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an MLflow server of this test's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in (("GRISTMILL_HOME", str(tmp_path / "home")), ("GRISTMILL_MLFLOW_PORT", str(port))):
        monkeypatch.setenv(name, value)
    (tmp_path / "home").mkdir()
    with (tmp_path / "mlflow.log").open("wb") as log:
        command = [sys.executable, "-m", "flows", "host", "mlflow"]
        process = subprocess.Popen(command, env=child_environment(), cwd=PROJECT, stdout=log, stderr=log, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            monkeypatch.setenv("GRISTMILL_MLFLOW_URL", url)
            until(tracking.reachable, 200)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def stored(model: str, step: str) -> ShardSet:
    """A version of the store with this model, by its own name."""
    folder = storage.join(settings().store, step, "unnamed")
    names = sorted(path.name for path in Path(model).iterdir())
    for name in names:
        storage.write_bytes(storage.join(folder, "model", name), Path(model, name).read_bytes())
    receipt = dataset.write_shard(folder, 0, Outcome(pa.table({"doc_id": pa.array(["0" * 32])})))
    recipe = {"step": step, "inputs": {}, "config": {}, "files": {}, "code": "0" * 12, "libraries": {}}
    entries = [dataset.file_entry(folder, f"model/{name}") for name in names]
    storage.write_json(storage.join(folder, dataset.RUN), {})
    dataset.seal(folder, step=step, schema_name="model", recipe=recipe, receipts=[receipt], files=entries, facts={})
    made = dataset.open_version(folder)
    place = Path(settings().store, step, made.version)
    Path(folder).rename(place)
    return dataset.open_version(str(place))


def register(version: ShardSet, model: str) -> str:
    """Its next version in the registry, as the step `register` makes it."""
    with tracking.run("register", tags={}, key={"of": version.version}):
        made = tracking.register_model(
            name="mine",
            folder=Path(model),
            trained_on=version,
            evaluated_on=None,
            params={"model_digest": version.digest},
            metrics={},
            tags={"model.version": version.version},
        )
    return made["version"]


def test_the_champion_answers_and_the_next_one_takes_over_when_the_alias_moves(registry: str, tmp_path: Path) -> None:
    models = [make_model(tmp_path / str(seed), seed=seed) for seed in (2, 3)]
    versions = [stored(model, step) for model, step in zip(models, ("sft", "dpo"), strict=True)]
    assert [register(version, model) for version, model in zip(versions, models, strict=True)] == ["1", "2"]
    for text in ("Speak {{language}}.", "Speak {{language}}, briefly."):
        tracking.register_prompt("library", text)
    tracking.set_prompt_alias("library", "live", "1")
    command = [sys.executable, "-m", "flows", "serve", "mine", "mine@challenger", "--port", "0", "--set", "poll_s=0.5"]
    command += ["--set", "system_prompt=library@live", "--set", "system_prompt_values.language=English"]
    environment = child_environment(OMP_NUM_THREADS="1")
    process = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("serving mine, mine@challenger on http://"), line + process.stderr.read()
        url = line.split()[4].rstrip(";")

        def told() -> list[str]:
            return [one["version"] for one in httpx.get(f"{url}/v1/models", timeout=30, trust_env=False).json()["data"]]

        def prompt() -> tuple[str, ...]:
            said = httpx.get(f"{url}/health", timeout=30, trust_env=False).json()["system_prompt"]
            return said["prompt"], said["prompt_version"], said["note"]

        def ask(model: str) -> str:
            body = {"model": model, "prompt": "read the file", "max_tokens": 20, "temperature": 0}
            answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60, trust_env=False)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["choices"][0]["text"])

        assert told() == [f"mine:1 (sft/{versions[0].version})", f"mine:2 (dpo/{versions[1].version})"]
        champion, challenger = ask("mine"), ask("mine@challenger")
        assert champion != challenger
        tracking.set_alias("mine", tracking.CHAMPION, "2")
        found: list[str] = []
        end = threading.Event()

        def keep_asking() -> None:
            while not end.is_set():
                found.append(ask("mine"))

        asking = threading.Thread(target=keep_asking)
        asking.start()
        until(lambda: told()[0] == f"mine:2 (dpo/{versions[1].version})", 300)
        end.set()
        asking.join()
        assert prompt() == ("library", "1", "")
        tracking.set_prompt_alias("library", "live", "2")
        until(lambda: prompt() == ("library", "2", ""), 60)
        assert ask("mine") == challenger and set(found) <= {champion, challenger}
    finally:
        process.terminate()
        assert process.wait(60) == 0
