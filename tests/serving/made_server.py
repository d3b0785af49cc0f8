"""A tiny model whose every prompt has an answer of its own, and a gateway in a thread, with real replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

from models import presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.serving.config import Resolve, ServeConfig, Served
from tasks.serving.preface import PromptNow
from tasks.serving.server import Server, serve

WORDS = ["read", "write", "open", "close", "file", "folder", "error", "value", "returns", "list", "of", "the", "a", "key"]
WORDS += ["secret", "of", "and", "in", "it", "is", "this", "that", "where", "what"]
CONTEXT = 192


def make_model(folder: Path, seed: int = 3, family: str = "llama") -> str:
    """A folder with random weights, large enough that what comes next hangs on all that came before."""
    texts = [f"{one} {other}, {number}" for number, one in enumerate(WORDS * 4) for other in WORDS]
    words = str(folder / "words")
    tokeniser.save(tokeniser.train_bpe(texts, TokeniserConfig(vocab_size=400)), words)
    shape = ModelConfig(
        family=family,  # type: ignore[arg-type]
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        intermediate_size=64,
        context_length=CONTEXT,
        tie_embeddings=False,  # else a model without training mostly repeats itself
    )
    model = presets.build(shape, tokeniser.roles(words), seed=seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(16)
    made = folder / "model"
    model.save_pretrained(made)
    for file in Path(words).iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    return str(made)


@dataclass
class Gateway:
    """One that runs."""

    url: str
    server: Server
    log: Path

    def health(self) -> dict[str, Any]:
        """What it says of itself."""
        return httpx.get(f"{self.url}/health", timeout=30, trust_env=False).json()

    def replicas(self, model: str = "tiny") -> list[dict[str, Any]]:
        """The replicas of a model."""
        return self.health()["models"][model]["replicas"]

    def metric(self, name: str) -> float:
        """The sum of a metric over all labels."""
        page = httpx.get(f"{self.url}/metrics", timeout=30, trust_env=False).text
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{")))

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]


def served(folder: str, name: str = "tiny", version: str = "v1") -> Served:
    """A folder as a model."""
    return Served(name, version, folder, f"{folder} {version}")


@contextlib.contextmanager
def running(resolves: Mapping[str, Resolve], home: Path, prompt_now: PromptNow | None = None, **config: Any) -> Iterator[Gateway]:
    """A gateway in a thread of this process; it is stopped at the end."""
    own = {"keys_file": home / "keys.json", "log_file": home / "requests.jsonl", "guard": "off"}
    made = ServeConfig.model_validate({"port": 0, "threads": 1, "slots": 8, **own, **config})
    ready, found, failed = threading.Event(), list[Gateway](), list[BaseException]()
    before = os.environ.get("GRISTMILL_HOME")
    os.environ["GRISTMILL_HOME"] = str(home)

    def announce(url: str, server: Server) -> None:
        found.append(Gateway(url, server, home / "requests.jsonl"))
        ready.set()

    def work() -> None:
        try:
            asyncio.run(serve(resolves, made, announce, prompt_now))
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            failed.append(error)
        ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(300)
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        if found:
            found[0].server.should_exit = True
        thread.join(60)
        if before is None:
            del os.environ["GRISTMILL_HOME"]
        else:
            os.environ["GRISTMILL_HOME"] = before
    assert not thread.is_alive()


def until(reached: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Wait for something to be true, and give it."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := reached():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not reached in {timeout_s:g} s")


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
