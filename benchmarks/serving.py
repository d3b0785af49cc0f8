"""Served models under load, beside `transformers serve --continuous-batching` asked directly, in one run.

    python -m benchmarks.serving [--preset micro] [--seconds 3] [--rounds 8]

A model with random weights answers each client's next request as soon as it has the one before: 1, 8 and 32 clients, each for so many
seconds, a prompt of some 20 tokens and 32 tokens to write, greedy, whole answers. All servers are up and are asked in turn, within
seconds of one another, each first in its turn, so that other work on the machine meets all alike; figures are medians over the rounds,
ratios those of one turn. The client is one process of plain sockets. Every process that computes has one thread. The first round is not
counted, for the peer's first request takes it seconds; nor is anybody's start, which is shown by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.settings import PROJECT, child_environment
from models import presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig

CLIENTS = (1, 8, 32)
NEW_TOKENS = 32
PROMPT = "Say what the file holds, and where it is kept."
START_S = 180
THREADS = 1
"""Of each process that computes: on two cores that client and gateway need, too, two were 10 times slower (they spin for one another)."""


@dataclass(frozen=True)
class Load:
    """What so many clients saw."""

    requests_per_s: float
    tokens_per_s: float
    latencies_s: Sequence[float]
    cpu_ms: float
    """Of the server's processes, per request: the figure that other load on the machine changes least."""

    def percentile_ms(self, share: float) -> float:
        """Of the latencies."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="micro", choices=["nano", "micro", "small"])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as all_up:
        model = make_model(Path(folder), given.preset)
        commands = {
            "transformers serve": peer_command(model),
            "gristmill, 1 replica": our_command(model, 1),
            "gristmill, 2 replicas": our_command(model, 2),
        }
        servers = {name: all_up.enter_context(running(command, Path(folder, name))) for name, command in commands.items()}
        found: dict[tuple[str, int], list[Load]] = {(name, clients): [] for name in servers for clients in CLIENTS}
        for place in range(-1, given.rounds):
            for clients in CLIENTS:
                for name in [*servers][place % len(servers) :] + [*servers][: place % len(servers)]:
                    port, tree, _ = servers[name]
                    called = model if name.startswith("transformers") else "mine"
                    one = asyncio.run(load(port, tree, called, clients, given.seconds if place >= 0 else 0.5))
                    found[name, clients] += [one] if place >= 0 else []  # the first round warms up
        starts = {name: start_s for name, (_, _, start_s) in servers.items()}
    show(found, starts)


def make_model(folder: Path, preset: str) -> str:
    """A folder with a model of random weights."""
    words = [f"{one} {other}" for one in PROMPT.split() for other in PROMPT.split()] * 20
    tokens, made = folder / "tokeniser", folder / "model"
    tokeniser.save(tokeniser.train(words, TokeniserConfig(vocab_size=400)), str(tokens))
    shape = ModelConfig(preset=preset, context_length=256)  # type: ignore[arg-type]
    presets.build(shape, tokeniser.roles(str(tokens)), seed=1).save_pretrained(made)
    for file in tokens.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    return str(made)


def our_command(model: str, replicas: int) -> list[str]:
    """`gristmill serve`."""
    keys = ("slots=32", "poll_s=1000", "guard=off", f"threads={THREADS}")
    given = [word for key in keys for word in ("--set", key)]
    return [sys.executable, "-m", "flows", "serve", f"mine={model}", "--replicas", str(replicas), *given, "--port"]


def peer_command(model: str) -> list[str]:
    """`transformers serve`, with the model given, so that it is loaded at the start."""
    own = Path(sys.executable).with_name("transformers")
    return [str(own), "serve", model, "--continuous-batching", "--port"]


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[tuple[int, list[psutil.Process], float]]:
    """A server on a free port, its processes, and the seconds until it answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "hub").mkdir(parents=True)
    extra = {"GRISTMILL_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub")}
    began = time.monotonic()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(port)],
            env=child_environment(**extra, OMP_NUM_THREADS=str(THREADS)),
            cwd=PROJECT,
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(port, process, folder / "server.log")
            own = psutil.Process(process.pid)
            yield port, [own, *own.children(recursive=True)], time.monotonic() - began
        finally:
            process.terminate()
            process.wait(60)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server takes connections."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"a server did not start:\n{log.read_text()[-2000:]}")


async def load(port: int, tree: Sequence[psutil.Process], model: str, clients: int, seconds: float) -> Load:
    """So many clients for so many seconds."""
    body = json.dumps(
        {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": NEW_TOKENS, "temperature": 0}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request, latencies, tokens = head.encode() + body, list[float](), [0]

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            sent = time.monotonic()
            writer.write(request)
            answer = await read_answer(reader)
            latencies.append(time.monotonic() - sent)
            tokens[0] += answer["usage"]["completion_tokens"]
        writer.close()

    began, before = time.monotonic(), cpu_s(tree)
    end = began + seconds
    await asyncio.gather(*(client() for _ in range(clients)))
    lasted = time.monotonic() - began
    cpu_ms = 1000 * (cpu_s(tree) - before) / len(latencies)
    return Load(len(latencies) / lasted, tokens[0] / lasted, latencies, cpu_ms)


def cpu_s(tree: Sequence[psutil.Process]) -> float:
    """Processor time that these processes have used."""
    times = [one.cpu_times() for one in tree]
    return sum(one.user + one.system for one in times)


async def read_answer(reader: asyncio.StreamReader) -> dict[str, dict[str, int]]:
    """The body of one response with a Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].split("\r\n")[0])
    body: dict[str, dict[str, int]] = json.loads(await reader.readexactly(length))
    if " 200 " not in head.split("\r\n")[0]:
        raise SystemExit(f"a request failed: {body}")
    return body


def show(found: dict[tuple[str, int], list[Load]], starts: dict[str, float]) -> None:
    """The table, and the load of the machine meanwhile."""
    peer = next(iter(starts))
    print(
        f"load average {os.getloadavg()[1]:.1f} on {len(os.sched_getaffinity(0))} CPUs; medians of {len(found[peer, 1])} rounds"
    )
    for name, seconds in starts.items():
        print(f"start of {name}: {seconds:.1f} s")
    print("| server | clients | requests/s | tokens/s | p50 ms | p95 ms | p99 ms | CPU ms | requests/s by the peer's |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (name, clients), loads in found.items():
        ratios = [one.requests_per_s / other.requests_per_s for one, other in zip(loads, found[peer, clients], strict=True)]
        middle = [statistics.median(getattr(one, key) for one in loads) for key in ("requests_per_s", "tokens_per_s")]
        times = [statistics.median(one.percentile_ms(share) for one in loads) for share in (0.5, 0.95, 0.99)]
        print(f"| {name} | {clients} | {middle[0]:.1f} | {middle[1]:.0f} | " + " | ".join(f"{one:.0f}" for one in times), end="")
        print(f" | {statistics.median(one.cpu_ms for one in loads):.1f}", end="")
        print(f" | {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
