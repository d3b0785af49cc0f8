"""smoke: serve a model for a moment as `gristmill serve` does, and ask it over HTTP as its users will, all at once."""

from __future__ import annotations

import asyncio
import queue
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from expectations.verdict import GateFailed
from infra import scratch, storage
from infra.dataset import Counts, ShardSet
from infra.errors import GristmillError
from infra.steps import BESIDE, Output, step
from tasks.learn.config import MODEL
from tasks.serving import policy as policies
from tasks.serving.config import ServeConfig, Served

if TYPE_CHECKING:
    # what the replica's process runs is code of this step; nothing of it is imported here
    from tasks.serving import replica  # noqa: F401

ANSWERS = "answers.json"
NAME = "model"
"""By which the model is asked."""
TIMEOUT_S = 120.0


class SmokeConfig(BaseModel):
    """What the model is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[str, ...] = Field(("Hello! What can you do?", "Tell me about yourself."), min_length=1)
    """What users say; each is one conversation of one turn."""
    max_new_tokens: int = Field(48, ge=1)
    """Tokens of an answer at most."""


def files_read(config: SmokeConfig) -> dict[str, str]:
    """The guard's policy, by which what is asked and answered here is judged, is part of the recipe."""
    return policies.policy_files(ServeConfig().guard)


@step(schema="smoke", fingerprint=files_read)
def smoke(model: ShardSet, config: SmokeConfig, out: Output) -> None:
    """Start a replica and the gateway, ask all prompts side by side in streams, and stop them; every prompt must be answered.

    Raises:
        GateFailed: a request failed.
        InputError: the model cannot be served.
    """
    with (
        storage.local_folder(model.file(MODEL)) as folder,
        scratch.folder("smoke") as own,
        _served(folder, model, Path(own)) as (url, start_s),
    ):
        began = time.monotonic()
        with ThreadPoolExecutor(len(config.prompts)) as users:
            answers = list(users.map(lambda prompt: _asked(url, prompt, config), config.prompts))
        seconds = time.monotonic() - began
    if failed := [f"  {one['prompt']!r}: {one['error']}" for one in answers if one["error"]]:
        raise GateFailed("\n".join([f"smoke: {len(failed)} of {len(answers)} requests failed:", *failed]))
    name = f"{BESIDE}/{ANSWERS}"
    storage.write_json(storage.join(out.folder, name), answers)
    out.keep_beside(name)
    out.counts = Counts(total=len(answers), kept=len(answers))
    out.facts = {"num_requests": len(answers)}
    out.volatile |= {
        "start_s": round(start_s, 2),
        "first_token_s": round(statistics.median(one["first_token_s"] for one in answers), 3),
        "tokens_per_s": round(sum(one["num_tokens"] for one in answers) / seconds, 1),
    }


@contextmanager
def _served(folder: str, model: ShardSet, own: Path) -> Iterator[tuple[str, float]]:
    """The address of a gateway with one replica, for the time of the block, and the seconds that it took to start.

    Keys and log are in `own`: users' keys shut nobody out of it, and what is asked here is not in their log.
    """
    from tasks.serving.server import serve

    began = time.monotonic()
    opened: queue.Queue[tuple[str, Any] | GristmillError] = queue.Queue()
    served = Served(NAME, f"{model.step}/{model.version}", folder, model.digest)
    config = ServeConfig(port=0, keys_file=own / "keys.json", log_file=own / "requests.jsonl")

    def run() -> None:
        try:
            asyncio.run(serve({NAME: lambda: served}, config, lambda url, server: opened.put((url, server))))
        except GristmillError as error:
            opened.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while opened.empty() and thread.is_alive():
        time.sleep(0.05)
    if opened.empty():
        raise GateFailed("smoke: the gateway ended before it was ready; the log of the run has its last words")
    told = opened.get()
    if isinstance(told, GristmillError):
        raise told
    url, server = told
    try:
        yield url, time.monotonic() - began
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_S)


def _asked(url: str, prompt: str, config: SmokeConfig) -> dict[str, Any]:
    """One request with its answer, tokens and times; or its error."""
    import openai

    began, first_token_s, text, num_tokens = time.monotonic(), 0.0, "", 0
    try:
        with openai.OpenAI(
            base_url=f"{url}/v1",
            api_key="none",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False, timeout=TIMEOUT_S),
        ) as client:
            chunks = client.chat.completions.create(
                model=NAME,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=config.max_new_tokens,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
            for chunk in chunks:
                if chunk.choices and chunk.choices[0].delta.content:
                    first_token_s = first_token_s or time.monotonic() - began
                    text += chunk.choices[0].delta.content
                num_tokens = chunk.usage.completion_tokens if chunk.usage else num_tokens
    except openai.OpenAIError as error:
        return {"prompt": prompt, "error": str(error)}
    return {
        "prompt": prompt,
        "error": "",
        "text": text,
        "num_tokens": num_tokens,
        "first_token_s": first_token_s or time.monotonic() - began,
    }
