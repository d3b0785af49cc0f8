"""A conversation in the terminal with a real tiny model behind a real server."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from flows.chat import _on_this_machine, chat, printable
from infra.errors import InputError
from infra.settings import settings
from tasks.learn.scorer import Scorer
from tasks.serving.votes import VoteStore

from .running import Running
from .tiny_gateway import TinyGateway, talker

ANSWERS = {"Which grain?": "Rye, ground at mail@mill.org.", "And then?": "Bread."}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return talker(ANSWERS, tmp_path_factory.mktemp("model"), steps=80)


@pytest.fixture
def store(home: Path) -> Iterator[VoteStore]:
    opened = VoteStore(settings().votes)
    yield opened
    opened.close()


def talk(url: str, *lines: str, model: str = "") -> str:
    """What the terminal shows when these lines are typed."""
    typed, shown = iter(lines), io.StringIO()
    asked = []

    def read(prompt: str) -> str:
        asked.append(prompt)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    chat(url, model, Console(file=shown, width=200), read)
    assert not list(typed), "lines were left"
    return shown.getvalue() + "".join(one for one in asked if one != "> ")


def test_a_conversation_is_judged_with_consent_asked_once(model: Scorer, store: VoteStore) -> None:
    with Running(TinyGateway({"mill": model}, store).app) as url:
        shown = talk(url, "Which grain?", "/up nice", "/down by mistake", "y", "And then?", "/down", "/down too short", "/quit")
        assert "Rye, ground at mail@mill.org." in shown and "Bread." in shown
        assert shown.count("[y/N]") == 2 and shown.count("y or n?") == 1 and "kept with the conversation" in shown
        first, second = store.votes()
        assert (first.vote, first.text, first.answers) == ("up", "nice", ("Rye, ground at [e-mail address].",))
        assert (second.vote, second.text) == ("down", "too short")  # the second word on an answer counts
        assert [turn.role for turn in second.messages or ()] == ["user", "assistant", "user"]
        assert first.rater == second.rater and first.models[0].version == "mill:1"
        assert "[y/N]" not in talk(url, "Which grain?", "/up")
        assert stat.S_IMODE(settings().chat.stat().st_mode) == 0o600


def test_without_consent_only_the_vote_is_sent_to_the_disk(model: Scorer, store: VoteStore) -> None:
    with Running(TinyGateway({"mill": model}, store).app) as url:
        shown = talk(url, "/up", "/nonsense", "/system Be brief.", "Which grain?", "/up", "", "/new", "/down")
    assert shown.count("there is no answer to judge yet") == 2 and "kept without any text" in shown and "/system" in shown
    [vote] = store.votes()
    assert (vote.vote, vote.answers, vote.consent.training) == ("up", None, False)
    assert json.loads(settings().chat.read_text())["refused"] == "2026-11"
    with Running(TinyGateway({"mill": model}, store).app) as url:
        talk(url, "/consent", "yes", "Which grain?", "/up")
    assert store.votes()[-1].consent.training and json.loads(settings().chat.read_text())["refused"] == ""


def test_errors_say_what_to_do(model: Scorer, store: VoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(TinyGateway({"mill": model}, store, key="secret", max_requests=1).app) as url:
        with pytest.raises(InputError, match="GRISTMILL_API_KEY"):
            talk(url)
        monkeypatch.setenv("GRISTMILL_API_KEY", "secret")
        shown = talk(url, "Which grain?", "Which grain?", "/up", "y", "/up")
        assert shown.count("one request too many") == 3 and "try again in 7" in shown
        talk(url, "/system", "Which grain?", "/up")  # the input ends
        assert not store.votes()
    with pytest.raises(InputError, match=r"no gateway answers there.*gristmill serve"):
        talk(url)


def test_a_gateway_on_this_machine_is_asked_without_the_proxy_of_others(
    model: Scorer, store: VoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Running(TinyGateway({"mill": model}, store).app) as url:
        shown = talk(url, "Which grain?", "/up", "n", model="mill")
    assert "Rye, ground at" in shown and "kept without any text" in shown


def test_only_this_machine_is_asked_without_a_proxy() -> None:
    near = {"http://127.0.0.1:8080", "http://127.9.9.9", "http://localhost:1", "http://[::1]:8080"}
    far = {"http://mill.example:8080", "http://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example"}
    assert {one for one in near | far if _on_this_machine(one)} == near


def test_control_characters_of_a_model_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b]52;c;ZXZpbA==\x07b\x9b2Jc\r\n\td\x00\x7f字") == "a]52;c;ZXZpbA==b2Jc\n\td字"
