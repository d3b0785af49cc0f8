"""The engine `vllm` without a GPU: in place of its command a gateway of ours, which speaks the same API; the client is the real one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from infra.errors import InputError
from infra.settings import PROJECT

from .made_server import alive, make_model, running, served, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
STAND_IN = """#!{python}
import hashlib, json, os, pathlib, sys
words = sys.argv[1:]
assert words[0] == "serve", words
given = dict(zip(words[2::2], words[3::2]))
command = ["-m", "flows", "serve", given["--served-model-name"] + "=" + words[1], "--port", given["--port"]]
command += ["--set", "slots=" + given["--max-num-seqs"], "--set", "guard=off"]
key = hashlib.sha256(os.environ["VLLM_API_KEY"].encode()).hexdigest()  # as vLLM does, it answers to this key alone
folder = pathlib.Path({home!r}, "serving")
folder.mkdir(parents=True, exist_ok=True)
(folder / "keys.json").write_text(json.dumps(dict(keys=[dict(name="gateway", digest=key)])))
os.environ["PYTHONPATH"] = {project!r}
os.environ["GRISTMILL_HOME"] = {home!r}
os.execv(sys.executable, [sys.executable, *command])
"""


def test_vllm_is_started_asked_balanced_and_ended_like_a_replica_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(tmp_path / "made")
    with running({"tiny": lambda: served(folder)}, tmp_path / "ours") as gateway:
        body = {"model": "tiny", "prompt": "read the file", "max_tokens": 20, "seed": 4, "temperature": 0.8}
        expected = httpx.post(f"{gateway.url}/v1/completions", json=body, timeout=60, trust_env=False).json()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "vllm"
    program.write_text(STAND_IN.format(python=sys.executable, project=str(PROJECT), home=str(tmp_path / "theirs")))
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(InputError, match="vllm is not installed"):
            patch.setenv("PATH", str(tmp_path))
            with running({"tiny": lambda: served(folder)}, tmp_path / "none", engine="vllm"):
                pass
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with running({"tiny": lambda: served(folder)}, tmp_path / "outer", engine="vllm", restart_after_s=0.2) as gateway:
        found = httpx.post(f"{gateway.url}/v1/completions", json=body, timeout=60, trust_env=False).json()
        assert found["choices"] == expected["choices"] and found["usage"] == expected["usage"]
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
            chat = list(
                client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "read"}], max_tokens=9, seed=1, stream=True
                )
            )
            assert sum(bool(event.choices[0].delta.content) for event in chat if event.choices) > 2
            with pytest.raises(openai.BadRequestError) as caught:
                client.completions.create(model="tiny", prompt="read", max_tokens=4000)
            assert caught.value.code == "context_length_exceeded"
        leash = gateway.replicas()[0]["pid"]
        below = psutil.Process(leash).children(recursive=True)
        assert len(below) == 2  # the program, and what it started
        os.kill(below[0].pid, signal.SIGKILL)
        until(lambda: gateway.replicas()[0]["pid"] not in (0, leash) and gateway.replicas()[0]["state"] == "ready")
        again = httpx.post(f"{gateway.url}/v1/completions", json=body, timeout=60, trust_env=False).json()
        assert again["choices"] == expected["choices"]
        last = psutil.Process(gateway.replicas()[0]["pid"]).children(recursive=True)
    until(lambda: not any(alive(one.pid) for one in [*below, *last]), 20)
