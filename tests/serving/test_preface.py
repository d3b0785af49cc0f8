"""The gateway's own system prompt: said where a client says none, told in logs, fingerprints and votes, followed, and kept secret."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows import serve as serving
from infra.errors import InputError
from models.loading import load_causal
from tasks.serving.config import ServeConfig
from tasks.serving.guardrails import Guard
from tasks.serving.judge import Judge
from tasks.serving.metrics import Metrics
from tasks.serving.policy import Policy, load_policy
from tasks.serving.preface import Preface, SystemPrompt, fingerprint, taken_apart
from tasks.serving.prompts import Prompt
from tasks.serving.request_log import RequestLog, Told
from tasks.serving.requests import ChatRequest, misread, wanted
from tasks.serving.votes import WORDING, VoteStore

from .made_server import Gateway, make_model, running, served, until
from .said import rater

SECRET = "read the list of the key and write the value"
ASKED = [{"role": "user", "content": "what is in the file?"}]
POLICY = "rules: [{kind: leak, num_words: 3, action: refuse, message: That is mine.}]"


class Registry:
    """What a name means, as a test moves it."""

    def __init__(self) -> None:
        self.prompt = Prompt("{{verb}} the list of the key and write the value", "library", "1")

    def __call__(self) -> Prompt:
        return self.prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry()


@pytest.fixture(scope="module")
def gateway(folder: str, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("home")
    (home / "policy.yaml").write_text(POLICY)
    values = {"system_prompt": "library@live", "system_prompt_values": {"verb": "read"}, "poll_s": 0.1, "log_texts": True}
    with running({"tiny": lambda: served(folder)}, home, registry, guard=str(home / "policy.yaml"), **values) as found:
        yield found


def ask(gateway: Gateway, messages: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 12, **more}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_it_is_said_where_the_client_says_none_and_nowhere_else(gateway: Gateway, folder: str) -> None:
    own = {"role": "system", "content": SECRET}
    bare = ask(gateway, ASKED)
    assert said(bare) == said(ask(gateway, [own, *ASKED])) != said(ask(gateway, [{**own, "content": "open"}, *ASKED]))
    words = load_causal(folder)[1]
    ids = words.apply_chat_template([own, *ASKED], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert bare["usage"]["prompt_tokens"] == len(ids)
    first, given = gateway.lines()[-3:-1]
    digest = Prompt(Registry().prompt.template).digest
    assert (first["system_prompt"]["prompt"], first["system_prompt"]["prompt_version"]) == ("library", "1")
    assert first["system_prompt"]["prompt_digest"] == digest != first["system_prompt"]["text_digest"]
    assert first["prompt"] == ASKED and SECRET not in json.dumps(first)  # the texts of the client, and not ours
    assert "system_prompt" not in given and given["prompt"] == [own, *ASKED]
    body = {"model": "tiny", "prompt": "read the file", "max_tokens": 3}
    text = httpx.post(f"{gateway.url}/v1/completions", json=body, timeout=60, trust_env=False).json()
    assert text["system_fingerprint"] == "v1" and "system_prompt" not in gateway.lines()[-1]


def test_health_and_fingerprint_tell_which_it_is_and_a_vote_keeps_it(gateway: Gateway) -> None:
    told = gateway.health()["system_prompt"]
    assert (told["prompt"], told["prompt_version"], told["note"]) == ("library", "1", "") and SECRET not in json.dumps(told)
    answer = ask(gateway, ASKED)
    label = f"library:1 {told['text_digest'][:12]}"
    assert taken_apart(answer["system_fingerprint"]) == ("v1", label)
    vote = {"vote_id": "a" * 32, "rater": rater(1), "model": "tiny", "vote": "up", "messages": ASKED, "answer": said(answer)}
    vote["consent"] = {"training": True, "wording": WORDING}  # type: ignore[assignment]
    own = [{"role": "system", "content": "open"}, *ASKED]
    for number, (more, kept) in enumerate(
        (
            ({"version": answer["system_fingerprint"]}, label),
            ({"version": f"v1 + prompt library:0 {'0' * 12}"}, f"library:0 {'0' * 12}"),  # it moved since
            ({"version": "v1"}, ""),
            ({}, label),
            ({"messages": own}, ""),
        )
    ):
        body = {**vote, **more, "vote_id": f"{number:032x}"}
        assert httpx.post(f"{gateway.url}/feedback", json=body, trust_env=False).status_code == 201, more
        store = VoteStore(gateway.log.parent / "votes", expires=False)
        found = next(one for one in store.votes() if one.vote_id == body["vote_id"])
        store.close()
        assert (found.template, found.models[0].version) == (kept, "v1"), more
    wrong = {**vote, "version": "v1 <b>\x1b[2J"}
    assert httpx.post(f"{gateway.url}/feedback", json=wrong, trust_env=False).status_code == 422


def judged(system_prompt: str) -> tuple[str, str]:
    """What is sent of an answer with all of SECRET in it, and why it is over."""

    async def parts() -> AsyncGenerator[tuple[str, str]]:
        for word in SECRET.split():
            yield f"{word} ", ""
        yield "", "stop"

    async def read() -> list[tuple[str, str]]:
        return [one async for one in judge.answer(parts(), Told("r", "/"), system_prompt)]

    judge = Judge(Guard(Policy.model_validate({"name": "p", **yaml.safe_load(POLICY)})), Metrics())
    pieces = asyncio.run(read())
    return "".join(text for text, _ in pieces), pieces[-1][1]


def test_its_words_are_kept_from_answers_and_a_clients_own_are_not() -> None:
    assert judged(SECRET) == ("That is mine.", "content_filter")
    assert judged("") == (f"{SECRET} ", "stop")
    told: list[str] = []
    own = [{"role": "system", "content": SECRET}, *ASKED]
    for messages in (ASKED, own):  # what the gateway has judged: its own prompt, or none
        asked = ChatRequest.model_validate({"model": "tiny", "messages": messages})
        found = SystemPrompt(Registry(), {"verb": "read"}, Metrics()).of(one.role for one in asked.messages)
        told.append(found.text if found else "")
    assert told == [SECRET, ""]


def test_it_follows_its_alias_and_stays_where_the_new_one_cannot_be_said(gateway: Gateway, registry: Registry) -> None:
    before = registry.prompt
    reloads = gateway.metric("gristmill_prompt_reloads_total")
    try:
        registry.prompt = Prompt("{{verb}} and {{town}}", "library", "2")
        note = until(lambda: gateway.health()["system_prompt"]["note"], 10)
        assert "give system_prompt_values.town" in note
        assert gateway.health()["system_prompt"]["prompt_version"] == "1"
        registry.prompt = Prompt("{{verb}} less", "library", "3")
        until(lambda: gateway.health()["system_prompt"]["prompt_version"] == "3", 10)
        assert gateway.health()["system_prompt"]["note"] == "" and "library:3" in ask(gateway, ASKED)["system_fingerprint"]
        assert gateway.metric("gristmill_prompt_reloads_total") == reloads + 2
    finally:
        registry.prompt = before
        until(lambda: gateway.health()["system_prompt"]["prompt_version"] == "1", 10)


@pytest.mark.parametrize(
    ("template", "values", "problem"),
    [
        ("Speak {{language}} to {{who}}", {}, r"give system_prompt_values\.language, system_prompt_values\.who"),
        ("Speak", {"language": "x"}, "system_prompt_values: language: no variable of this template; it has none"),
        (" \n", {}, "says nothing"),
        ("\ud800", {}, "half a surrogate pair"),
    ],
)
def test_what_cannot_be_said_is_an_error_at_the_start(template: str, values: dict[str, str], problem: str) -> None:
    with pytest.raises(InputError, match=f"^system_prompt: .*{problem}"):
        SystemPrompt(lambda: Prompt(template), values, Metrics())


def test_a_file_is_read_once_and_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRISTMILL_MLFLOW_URL", raising=False)
    path = tmp_path / "kind.md"
    path.write_text("Be kind.\n")
    ask_now = serving._prompter(str(path))
    assert ask_now is not None
    path.write_text("")
    assert ask_now() == Prompt("Be kind.", "kind") and serving._prompter("") is None
    with pytest.raises(InputError, match=r"system_prompt: .*nowhere\.md: cannot be read"):
        serving._prompter(str(tmp_path / "nowhere.md"))
    missing = serving._prompter("library@live")
    assert missing is not None
    with pytest.raises(InputError, match="system_prompt: no MLflow server is named"):
        SystemPrompt(missing, {}, Metrics())
    with pytest.raises(ValueError, match="there is no system_prompt with year"):
        ServeConfig(system_prompt_values={"year": "2026"})
    assert ServeConfig.model_validate({"system_prompt": "a", "system_prompt_values": {"year": 2026}}).system_prompt_values == {
        "year": "2026"
    }


def test_a_fingerprint_is_taken_apart_as_it_was_made() -> None:
    one = Preface(Prompt("a", "library", "3"), "a")
    for version in ("v1", "odd + prompt name", ""):
        assert taken_apart(fingerprint(version, one)) == (version, one.label)
    assert taken_apart(fingerprint("v1", None)) == ("v1", "")
    assert Preface(Prompt("{{a}}"), "x").label != Preface(Prompt("{{a}}"), "y").label


@pytest.mark.soak
def test_a_client_that_reads_nothing_holds_no_place(folder: str, tmp_path: Path) -> None:
    """Its answer is written to the end and waits in the gateway's memory; others are served in its place."""
    long = served(folder, version="v" * 600_000)  # each event has it, so that no buffer of the system takes the whole stream
    with running({"tiny": lambda: long}, tmp_path, slots=4) as gateway, socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = gateway.url.removeprefix("http://").split(":")
        lazy.connect((host, int(port)))
        body = json.dumps({"model": "tiny", "messages": ASKED, "stream": True, "max_tokens": 150, "seed": 1}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        lazy.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: gateway.metric("gristmill_in_flight") == 1, 20)
        until(lambda: gateway.metric("gristmill_in_flight") == 0, 20)
        assert not gateway.lines()  # the request is not over


def test_many_short_messages_are_judged_while_others_are_served() -> None:
    """Each costs a millisecond; the loop that serves all others must go on meanwhile."""
    asked = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": ""}] * 300})

    async def served_meanwhile() -> int:
        judging = asyncio.create_task(judge.asked(wanted(asked, ServeConfig()), Told("r", "/")))
        turns = 0
        while not judging.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    judge = Judge(Guard(load_policy("default")), Metrics())
    assert asyncio.run(served_meanwhile()) > 3


def test_an_unknown_field_is_named_however_it_is_called() -> None:
    for name in ("tools", "top-k", "a b"):
        refused = misread([{"type": "extra_forbidden", "loc": ("body", name), "msg": ""}])
        assert refused.message.startswith(f"{name}: this server does not support it") and refused.param == name


def test_a_line_that_cannot_be_kept_takes_no_answer_back(gateway: Gateway) -> None:
    """A folder in the log's place stands for a disk that takes nothing."""
    path, aside = gateway.log, gateway.log.with_suffix(".aside")
    path.rename(aside)
    path.mkdir()
    try:
        assert said(ask(gateway, ASKED))
        assert gateway.metric("gristmill_unwritten_lines_total") == 1
    finally:
        path.rmdir()
        aside.rename(path)
    assert RequestLog(path).path == path and said(ask(gateway, ASKED))
