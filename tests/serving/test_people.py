"""A real gateway with real replicas, and people who chat, compare and vote."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.settings import child_environment
from tasks.serving.keys import Keys
from tasks.serving.votes import WORDING, VoteStore

from .made_server import Gateway, make_model, running, served, until
from .said import rater

pytestmark = pytest.mark.soak  # two gateways with replicas: half a minute
PROJECT = Path(__file__).resolve().parents[2]
AGREED = {"training": True, "wording": WORDING}
ASKED = [{"role": "user", "content": "read the file"}]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    folders = {name: make_model(tmp_path_factory.mktemp(name), seed=seed) for name, seed in (("old", 3), ("new", 4))}
    resolves = {name: lambda name=name: served(folders[name], name, f"mill:{name}") for name in folders}
    with running(resolves, home, default_new_tokens=8) as one:
        yield one


@pytest.fixture
def votes(gateway: Gateway) -> Iterator[VoteStore]:
    store = VoteStore(gateway.log.parent / "votes")
    yield store
    for one in {vote.rater for vote in store.votes()}:
        store.forget(one)
    store.close()


def post(gateway: Gateway, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{gateway.url}{path}", json=body, headers=headers, timeout=60, trust_env=False)


def compared(gateway: Gateway, by: int, **headers: str) -> tuple[str, list[dict[str, Any]]]:
    answer = post(gateway, "/ab/answer", {"rater": rater(by), "messages": ASKED}, **headers)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert events[-1] == {"ready": True}, events
    return events[0]["pair"], events


def test_the_pages_are_served_and_noted_by_their_routes(gateway: Gateway) -> None:
    for path in ("/", "/ab", "/scores", "/ab/scores", "/pages/chat.js", "/feedback"):
        assert httpx.get(f"{gateway.url}{path}", timeout=30, trust_env=False).status_code == 200, path
    page = httpx.get(f"{gateway.url}/metrics", timeout=30, trust_env=False).text
    assert 'route="/ab/scores"' in page and 'route="/pages/{name}"' in page
    missing = httpx.get(f"{gateway.url}/pages/nothing", timeout=30, trust_env=False)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


def test_an_answer_is_judged_with_the_version_that_gave_it(gateway: Gateway, votes: VoteStore) -> None:
    body = {"model": "old", "messages": ASKED, "temperature": 0, "seed": 1}
    answer = post(gateway, "/v1/chat/completions", body).json()
    said = {
        "vote_id": "a" * 32,
        "rater": rater(1),
        "model": "old",
        "version": answer["system_fingerprint"],
        "vote": "up",
        "messages": ASKED,
        "answer": answer["choices"][0]["message"]["content"],
        "consent": AGREED,
    }
    assert post(gateway, "/feedback", said).status_code == 201
    [vote] = votes.votes()
    assert vote.models[0].version == "mill:old" and vote.models[0].digest and vote.answers == (said["answer"],)
    assert post(gateway, "/feedback", {**said, "rater": "Jane"}).json()["error"]["code"] == "invalid_value"


def test_two_models_are_compared_blindly(gateway: Gateway, votes: VoteStore) -> None:
    pair, events = compared(gateway, 2)
    texts = {side: "".join(one.get("text", "") for one in events if one.get("side") == side) for side in ("left", "right")}
    assert texts["left"] and texts["right"] and not [one for one in events if "mill" in str(one)]
    told = post(gateway, "/ab/vote", {"rater": rater(2), "pair": pair, "vote": "right", "consent": AGREED})
    assert told.status_code == 201 and {told.json()["left"], told.json()["right"]} == {"old = mill:old", "new = mill:new"}
    [vote] = votes.votes()
    assert vote.answers == (texts["left"], texts["right"]) and len({one.digest for one in vote.models}) == 2


def test_what_a_model_refuses_ends_the_comparison_with_its_words(gateway: Gateway) -> None:
    long = {"rater": rater(3), "messages": [{"role": "user", "content": "read the file " * 2000}]}
    events = [json.loads(line.removeprefix("data: ")) for line in post(gateway, "/ab/answer", long).text.splitlines() if line]
    assert "error" in events[-1] and events[-1]["error"]["message"]


def test_with_keys_all_that_is_posted_needs_one_and_its_limits_hold(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    keys = Keys(tmp_path / "keys.json")
    key = keys.add("ann", requests_per_minute=2, tokens_per_minute=0)
    resolves = {name: lambda name=name: served(folder, name, name) for name in ("one", "two")}
    with running(resolves, tmp_path, default_new_tokens=4) as gateway:
        for path in ("/feedback", "/feedback/forget", "/ab/answer", "/ab/again", "/ab/vote"):
            assert post(gateway, path, {"rater": rater(1)}).status_code == 401, path
        open_to_all = {"/": 200, "/scores": 200, "/ab/scores": 401}
        assert {
            path: httpx.get(f"{gateway.url}{path}", timeout=30, trust_env=False).status_code for path in open_to_all
        } == open_to_all
        known = {"authorization": f"Bearer {key}"}
        assert [post(gateway, "/feedback/forget", {"rater": rater(1)}, **known).status_code for _ in range(3)] == [200, 200, 429]


def typed(folder: str, home: Path, lines: str) -> subprocess.Popen[str]:
    """`gristmill chat FOLDER` in a process, after these lines were typed."""
    child = subprocess.Popen(
        [sys.executable, "-m", "flows", "chat", folder, "--url", "http://127.0.0.1:9"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT,
        env=child_environment(GRISTMILL_HOME=str(home), PYTHONPATH=str(PROJECT)),
    )  # fmt: skip
    assert child.stdin is not None
    child.stdin.write(lines)
    child.stdin.flush()
    return child


def related(folder: str) -> list[str]:
    """Command lines of the processes that work for a folder."""
    found = []
    for one in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(one.info["cmdline"] or [])
        if folder in words and one.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(words)
    return found


def test_chat_with_a_folder_starts_a_gateway_that_ends_with_it(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    child = typed(folder, tmp_path / "home", "read the file\n/up clear\ny\n/quit\n")
    shown, errors = child.communicate(timeout=120)
    assert child.returncode == 0 and "kept with the conversation" in shown, shown + errors
    [vote] = VoteStore(tmp_path / "home" / "votes").votes()
    assert (vote.vote, vote.text, vote.models[0].name) == ("up", "clear", "model") and vote.answers and vote.answers[0]
    until(lambda: not related(folder))


def test_a_killed_chat_leaves_no_gateway_behind(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    child = typed(folder, tmp_path / "home", "read the file\n")
    until(lambda: len(related(folder)) >= 4, 90)  # chat, leash, gateway, replica
    child.kill()
    child.wait()
    until(lambda: not related(folder), 30)


def test_chat_with_what_is_no_model_says_why_no_gateway_starts(tmp_path: Path) -> None:
    child = typed("rye", tmp_path / "home", "")
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 2 and "rye: no gateway could be started for it: rye: is no folder and no version" in errors
