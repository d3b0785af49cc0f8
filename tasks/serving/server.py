"""Runs the gateway: replicas up, then the address is open; asked to stop, it takes no more requests and lets running ones end."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import uvicorn

from infra.errors import InputError
from infra.settings import settings
from infra.versions import code_version
from tasks.serving import drift, vllm
from tasks.serving.config import Resolve, ServeConfig, Served
from tasks.serving.crew import Worker
from tasks.serving.door import LOOPBACK
from tasks.serving.fleet import Fleet
from tasks.serving.gateway import build
from tasks.serving.keys import Keys
from tasks.serving.metrics import Metrics
from tasks.serving.preface import PromptNow, SystemPrompt
from tasks.serving.process import Replica
from tasks.serving.replica_logs import ReplicaLogs
from tasks.serving.request_log import RequestLog
from tasks.serving.votes import VoteStore

BACKLOG = 1024


class Server(uvicorn.Server):
    """uvicorn's, which ends with its fleet."""

    def __init__(self, config: uvicorn.Config, fleet: Fleet) -> None:
        super().__init__(config)
        self._fleet = fleet

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new requests; running ones have `stop_s` to end, then their readers are told."""
        self._fleet.stopping = True
        timer = asyncio.get_running_loop().call_later(self._fleet.config.stop_s, self._fleet.give_up)
        await super().shutdown(sockets)
        timer.cancel()


async def serve(
    resolves: Mapping[str, Resolve],
    config: ServeConfig,
    announce: Callable[[str, Server], None],
    prompt_now: PromptNow | None = None,
) -> None:
    """Serve models until asked to stop.

    Args:
        announce: called once the address is open, with it.
        prompt_now: what `config.system_prompt` means; None where there is none.

    Raises:
        InputError: the port is taken, an address is open to others while there are no keys, or a model or the system prompt is not
            what it must be.
    """
    assert (prompt_now is None) == (not config.system_prompt)
    keys = Keys(keys_file(config))
    if config.host not in LOOPBACK and not keys:
        raise InputError(
            f"host: {config.host} is open to others, and there are no keys in {keys.path}; `gristmill keys add NAME` makes one"
        )
    if config.engine == "vllm":
        vllm.require()
    with _bound(config) as listening:
        metrics = Metrics()
        prompt = await asyncio.to_thread(SystemPrompt, prompt_now, config.system_prompt_values, metrics)
        fleet = Fleet(resolves, config, _maker(config, len(resolves)), metrics)
        store = VoteStore(settings().votes, config.votes)
        app = build(fleet, config, keys, metrics, RequestLog(log_file(config)), prompt, store)
        following = [
            asyncio.create_task(prompt.follow(config.poll_s)),
            asyncio.create_task(drift.follow(log_file(config), config.drift, metrics)),
        ]
        try:
            await fleet.start()
            listening.listen(BACKLOG)
            server = Server(
                uvicorn.Config(
                    app,
                    log_level="warning",
                    access_log=False,
                    lifespan="off",
                    timeout_graceful_shutdown=int(config.stop_s) + 5,
                    server_header=False,
                ),
                fleet,
            )
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises what it caught once more at its end
                    signal.signal(number, lambda *_: None)
            host, port = listening.getsockname()[:2]
            announce(f"http://{f'[{host}]' if ':' in host else host}:{port}", server)
            await server.serve(sockets=[listening])
        finally:
            for one in following:
                one.cancel()
            await fleet.stop()
            store.close()


def keys_file(config: ServeConfig) -> Path:
    """Where the keys are."""
    return config.keys_file or settings().home / "serving" / "keys.json"


def log_file(config: ServeConfig) -> Path:
    """Where requests are noted."""
    return config.log_file or settings().home / "serving" / "requests.jsonl"


def _bound(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # with its protocol named, as asyncio looks at it: else the body of each answer waits 40 ms until the client acknowledges the head
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise InputError(f"port: {config.host}:{config.port}: {error.strerror}; give another one with --port") from error
    return listening


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _maker(config: ServeConfig, num_models: int) -> Callable[[Served, int], Worker]:
    """What makes a replica; each start has a name of its own."""
    threads = config.threads or max(1, (_cpus() - 1) // (config.replicas * num_models))
    logs, numbers, code = ReplicaLogs(settings().home / "serving" / "logs"), itertools.count(), code_version()

    def make(served: Served, place: int) -> Worker:
        number = next(numbers)
        name = f"{served.name} {served.version} {place} #{number}"
        log = logs.path(f"{served.name}-{place}", number)
        if config.engine == "vllm":
            return vllm.Vllm(name, served, config, log)
        return Replica(name, served, config, threads, log, code)

    return make
