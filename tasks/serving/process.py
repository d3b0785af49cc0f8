"""A replica as the gateway holds it: the process, the socket to it, and what it says as events.

The gateway's end of the socket is the leash: when it closes, for whatever reason, the replica ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import GristmillError
from infra.settings import PROJECT, child_environment
from tasks.serving.config import ServeConfig, Served
from tasks.serving.replica_logs import opened
from tasks.serving.requests import Wanted
from tasks.serving.wire import MAX_LINE_BYTES, Job, read_line, write_line

MODULE = "tasks.serving.replica"
TOLD_LINES = 8
"""Of the log of a replica that ended."""


class ReplicaFailed(GristmillError):
    """A replica that could not start."""


@dataclass(frozen=True)
class Began:
    """A replica reads a request."""

    request: str
    prompt_tokens: int


@dataclass(frozen=True)
class Wrote:
    """More of an answer."""

    request: str
    tokens: Sequence[int]
    """New ones, where the engine tells them."""
    text: str
    ended: str
    """Why it is over: stop, length; empty while it goes on."""
    num_tokens: int | None = None
    """Of the whole answer, where the engine tells only that, at its end."""


@dataclass(frozen=True)
class Unfit:
    """A request that the model cannot answer."""

    request: str
    code: str
    words: str


Event = Began | Wrote | Unfit


class Replica:
    """A process of ours around transformers' continuous batching."""

    resumes = True
    """Whether it goes on with an answer that another one began."""

    def __init__(self, name: str, served: Served, config: ServeConfig, threads: int, log: Path, code_version: str) -> None:
        self.name, self.served = name, served
        self.heard_s = time.monotonic()
        """When it last gave a sign of life."""
        self._config, self._threads, self._log, self._code_version = config, threads, log, code_version
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._pings = 0
        self.fatal = ""
        """What it said of its end."""

    async def start(self, hear: Callable[[Event], None]) -> dict[str, Any]:
        """Start it and wait until it is ready: what it says of the model.

        Raises:
            ReplicaFailed: it ended, or was not ready in time.
        """
        ours, theirs = socket.socketpair()
        job = Job(
            socket=theirs.fileno(),
            folder=self.served.folder,
            slots=self._config.slots,
            threads=self._threads,
            device=self._config.device,
            context_length=self._config.context_length,
            prefill_tokens=self._config.prefill_tokens,
            code_version=self._code_version,
        )
        command = (sys.executable, "-m", MODULE, json.dumps(dataclasses.asdict(job)))
        offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(self._threads)}
        try:
            with theirs, opened(self._log) as log:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    env=child_environment(**offline),
                    cwd=PROJECT,
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the gateway, which lets running requests end
                )
        except OSError as error:  # no memory, no file handles: the next try may have some
            ours.close()
            raise ReplicaFailed(f"{self.name}: cannot be started: {error}") from error
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        try:
            first = await asyncio.wait_for(read_line(self._reader), self._config.start_timeout_s)
        except TimeoutError:
            self.kill()
            raise ReplicaFailed(f"{self.name}: was not ready after {self._config.start_timeout_s:g} s") from None
        if first is None or "ready" not in first:
            self.kill()
            why = (first or {}).get("fatal") or self._last_lines()
            raise ReplicaFailed(f"{self.name}: did not start: {why}")
        self.heard_s = time.monotonic()
        self._hearing = asyncio.create_task(self._hear(hear))
        facts: dict[str, Any] = first["ready"]
        return facts

    @property
    def pid(self) -> int:
        """Of the process; 0 before it has started."""
        return self._process.pid if self._process else 0

    def begin(self, request: str, wanted: Wanted, resume: Sequence[int], *, stream: bool) -> None:
        """Let it write an answer, of which these tokens are written already, and tell each new one, or some at a time."""
        self._say({"op": "generate", "id": request, "stream": stream, "resume": list(resume), **dataclasses.asdict(wanted)})

    def cancel(self, request: str) -> None:
        """Nobody waits for this answer."""
        self._say({"op": "cancel", "id": request})

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._pings += 1
        self._say({"op": "ping", "number": self._pings})

    def kill(self) -> None:
        """End it now."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    self._process.pid, signal.SIGKILL
                )  # Process.kill() takes the return code away from the one who waits for it

    async def gone(self) -> str:
        """Wait for its end: why, as far as it is known."""
        assert self._process is not None
        await self._hearing  # its socket closes with it, or it closed that itself
        self.kill()
        code = await self._process.wait()
        assert self._writer is not None
        self._writer.close()
        return self.fatal or f"ended with code {code}"

    async def _hear(self, hear: Callable[[Event], None]) -> None:
        assert self._reader is not None
        while (message := await read_line(self._reader)) is not None:
            self.heard_s = time.monotonic()
            if "wrote" in message:
                for request, tokens, text, ended in message["wrote"]:
                    hear(Wrote(request, tokens, text, ended))
            elif "began" in message:
                hear(Began(*message["began"]))
            elif "unfit" in message:
                hear(Unfit(*message["unfit"]))
            elif "fatal" in message:
                self.fatal = message["fatal"]
                return

    def _say(self, message: dict[str, Any]) -> None:
        assert self._writer is not None
        if not self._writer.is_closing():
            write_line(self._writer, message)

    def _last_lines(self) -> str:
        lines = self._log.read_text("utf-8", errors="replace").splitlines()[-TOLD_LINES:]
        return "\n".join(lines) or "it said nothing"
