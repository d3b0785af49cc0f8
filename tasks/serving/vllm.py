"""A replica that is `vllm serve`, asked over its own OpenAI API.

It applies the model's chat template, counts and draws by itself, and its tokens are not told one by one: an answer of which the reader
has a part does not go on elsewhere. Not run on a GPU here; what is tested is this client, against an OpenAI-compatible server.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from infra.errors import InputError
from infra.settings import PROJECT, child_environment
from tasks.serving.config import ServeConfig, Served
from tasks.serving.process import Began, Event, ReplicaFailed, Unfit, Wrote
from tasks.serving.replica_logs import opened
from tasks.serving.requests import Wanted

POLL_S = 0.5


def require() -> None:
    """Raises InputError where there is no vLLM."""
    if shutil.which("vllm") is None:
        raise InputError(
            "engine: vllm is not installed (no command `vllm`); install it on a machine with a GPU, or take transformers"
        )


class Vllm:
    """One `vllm serve`."""

    resumes = False

    def __init__(self, name: str, served: Served, config: ServeConfig, log: Path) -> None:
        self.name, self.served = name, served
        self.heard_s = time.monotonic()
        self._config, self._log = config, log
        self._process: asyncio.subprocess.Process | None = None
        self._client: httpx.AsyncClient | None = None
        self._leash: socket.socket | None = None
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._hear: Callable[[Event], None] = lambda event: None

    @property
    def pid(self) -> int:
        """Of the process that holds it."""
        return self._process.pid if self._process else 0

    async def start(self, hear: Callable[[Event], None]) -> dict[str, Any]:
        """Start it and wait until it answers.

        Raises:
            ReplicaFailed: it ended, or did not answer in time.
        """
        self._hear, port = hear, _free_port()
        key = secrets.token_urlsafe(32)  # else whoever is on this machine could ask it, past our keys and guardrails
        self._leash, theirs = socket.socketpair()
        command = [
            "vllm",
            "serve",
            self.served.folder,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--served-model-name",
            "served",
        ]
        command += ["--max-num-seqs", str(self._config.slots)]
        if self._config.context_length:
            command += ["--max-model-len", str(self._config.context_length)]
        with theirs, opened(self._log) as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tasks.serving.leash", str(theirs.fileno()), *command),
                env=child_environment(HF_HUB_OFFLINE="1", VLLM_API_KEY=key),
                cwd=PROJECT,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=None,
            trust_env=False,
            limits=httpx.Limits(),
        )
        end_s = time.monotonic() + self._config.start_timeout_s
        while not await self._healthy():
            if self._process.returncode is not None:
                raise ReplicaFailed(f"{self.name}: vllm ended with code {self._process.returncode}; see {self._log}")
            if time.monotonic() > end_s:
                self.kill()
                raise ReplicaFailed(f"{self.name}: did not answer after {self._config.start_timeout_s:g} s; see {self._log}")
            await asyncio.sleep(POLL_S)
        return {"engine": "vllm"}

    def begin(self, request: str, wanted: Wanted, resume: Sequence[int], *, stream: bool) -> None:
        """Let it write an answer from its beginning."""
        assert not resume  # it tells no tokens
        del stream  # it tells every piece
        self._writing[request] = asyncio.create_task(self._write(request, wanted))

    def cancel(self, request: str) -> None:
        """Close the stream: vLLM ends what nobody reads."""
        if (task := self._writing.pop(request, None)) is not None:
            task.cancel()

    def ping(self) -> None:
        """Ask whether it is well."""
        self._pinging = asyncio.create_task(self._healthy())

    def kill(self) -> None:
        """End it now: without its leash the program is killed."""
        if self._leash is not None:
            self._leash.close()

    async def gone(self) -> str:
        """Wait for its end."""
        assert self._process is not None and self._client is not None
        code = await self._process.wait()
        for task in self._writing.values():
            task.cancel()
        await self._client.aclose()
        return f"ended with code {code}; see {self._log}"

    async def _healthy(self) -> bool:
        assert self._client is not None
        try:
            good = (await self._client.get("/health", timeout=self._config.silent_after_s)).status_code == 200
        except httpx.HTTPError:
            return False
        self.heard_s = time.monotonic() if good else self.heard_s
        return good

    async def _write(self, request: str, wanted: Wanted) -> None:
        """Ask for one answer, and tell it as events; where the connection breaks, the process is taken for lost and says the rest."""
        assert self._client is not None
        route, body = _body(wanted)
        try:
            async with self._client.stream("POST", route, json=body) as response:
                if response.status_code >= 400:
                    self._refuse(request, response.status_code, await response.aread())
                    return
                await self._read(request, response)
        except (httpx.HTTPError, ValueError, KeyError):
            self.kill()  # half an answer, or none that is understood: only a new process is known to be sound
        finally:
            self._writing.pop(request, None)

    async def _read(self, request: str, response: httpx.Response) -> None:
        ended, begun = "", False
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if (usage := event.get("usage")) is not None and not event["choices"]:
                self._hear(Began(request, usage["prompt_tokens"]))
                self._hear(Wrote(request, (), "", ended or "stop", usage["completion_tokens"]))
                return
            for choice in event["choices"]:
                text = choice.get("text") or choice.get("delta", {}).get("content") or ""
                ended = choice.get("finish_reason") or ended
                if text or not begun:
                    begun = True
                    self._hear(Wrote(request, (), text, ""))
        raise httpx.RemoteProtocolError("the stream ended without its numbers of tokens")

    def _refuse(self, request: str, status: int, body: bytes) -> None:
        if status >= 500:
            raise httpx.RemoteProtocolError(f"answered {status}")
        told = json.loads(body)
        error = told.get("error", told)
        self._hear(Unfit(request, str(error.get("code") or "invalid_value"), str(error.get("message", ""))))


def _body(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    common = {
        "model": "served",
        "max_tokens": wanted.new_tokens or wanted.default_new_tokens,
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "seed": wanted.seed,
        "stop": list(wanted.stop),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if wanted.messages is None:
        return "/v1/completions", {**common, "prompt": wanted.prompt}
    return "/v1/chat/completions", {**common, "messages": list(wanted.messages)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
