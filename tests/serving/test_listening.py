"""The routes of a gateway that listens, asked as a page asks them; answers are those of real tiny models."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.learn.scorer import Scorer
from tasks.serving.blind import BlindPair, Pending, Piece, drawn, together
from tasks.serving.listening import FILES, MAX_BODY_BYTES, PAGES
from tasks.serving.requests import Refused
from tasks.serving.scoreboard import scoreboard
from tasks.serving.votes import WORDING, Message, Speaker, VoteStore

from .said import rater, said
from .tiny_gateway import TinyGateway, talker

AGREED = {"training": True, "wording": WORDING}
QUESTION = "Which grain?"
OLD, NEW = "Wheat is ground here.", "Rye, of course."


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scorer]:
    answers = {"old": OLD, "new": NEW}
    return {name: talker({QUESTION: text}, tmp_path_factory.mktemp(name), steps=60) for name, text in answers.items()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VoteStore]:
    opened = VoteStore(tmp_path / "votes")
    yield opened
    opened.close()


class Asker:
    """Asks an app in this process."""

    def __init__(self, gateway: TinyGateway) -> None:
        self.gateway = gateway

    def get(self, path: str, **headers: str) -> httpx.Response:
        return asyncio.run(self._send("GET", path, headers=headers))

    def post(self, path: str, body: Mapping[str, Any] | bytes, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return asyncio.run(self._send("POST", path, content, {"content-type": "application/json", **headers}))

    async def _send(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://mill.test") as client:
            return await client.request(method, path, content=content, headers=headers)

    def compared(self, by: int = 1) -> tuple[str, dict[str, str]]:
        """The id of a new pair, and what each side says."""
        answer = self.post("/ab/answer", {"rater": rater(by), "messages": [{"role": "user", "content": QUESTION}]})
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
        assert list(events[0]) == ["pair"] and events[-1] == {"ready": True}, events
        texts = {side: "".join(one.get("text", "") for one in events if one.get("side") == side) for side in ("left", "right")}
        return events[0]["pair"], texts


@pytest.fixture
def ask(talkers: dict[str, Scorer], store: VoteStore) -> Asker:
    return Asker(TinyGateway(talkers, store))


def thumb(**more: Any) -> dict[str, Any]:
    return {
        "vote_id": f"{1:032x}",
        "rater": rater(1),
        "model": "old",
        "vote": "up",
        "messages": [{"role": "user", "content": QUESTION}],
        "answer": OLD,
        "consent": AGREED,
        **more,
    }


def test_a_thumb_with_consent_is_kept_with_its_conversation_and_model(ask: Asker, store: VoteStore) -> None:
    told = ask.post("/feedback", thumb(text="right, says al@oats.it"))
    assert told.status_code == 201, told.text
    assert told.json() == {"vote_id": f"{1:032x}", "kept": ["vote", "conversation", "text"], "masked": {"email": 1}}
    [vote] = store.votes()
    assert vote.models == (Speaker(name="old", version="mill:1", digest="d1"),)
    assert (vote.answers, vote.text) == ((OLD,), "right, says [e-mail address]")
    assert (vote.template, vote.consent.wording) == ("t1", WORDING)


def test_without_consent_the_page_is_told_that_only_the_vote_is_kept(ask: Asker, store: VoteStore) -> None:
    told = ask.post("/feedback", thumb(text="words", consent={"training": False}))
    assert told.json()["kept"] == ["vote"]
    assert store.votes()[0].answers is None


def test_a_correction_is_kept_with_both_answers(ask: Asker, store: VoteStore) -> None:
    assert ask.post("/feedback", thumb(vote="corrected", correction="Rye.")).status_code == 201
    [vote] = store.votes()
    assert (vote.kind, vote.answers) == ("correction", (OLD, "Rye."))


def test_an_answer_of_a_model_that_was_replaced_meanwhile_is_not_the_new_ones(ask: Asker, store: VoteStore) -> None:
    ask.post("/feedback", thumb(version="of yesterday"))
    assert store.votes()[0].models == (Speaker(name="old", version="of yesterday"),)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 422, "JSON"),
        (b"", 422, "JSON"),
        (b'{"rater": "\\ud800"}', 422, ""),
        (b"[" * 100_000, 422, ""),
        (thumb(model="newest"), 422, "'newest' is not served here; these are: old, new"),
        (thumb(vote="sideways"), 422, "vote"),
        (thumb(rater="Jane"), 422, "rater"),
        (thumb(vote_id="1"), 422, "vote_id"),
        (thumb(messages=[]), 422, "messages"),
        (thumb(messages=[{"role": "assistant", "content": "a"}]), 422, "the last turn before an answer is the user's"),
        (thumb(vote="corrected"), 422, "correction"),
        (thumb(correction="not asked for"), 422, "correction"),
        (thumb(text="t" * 4001), 422, "text: 4 001 characters"),
        (thumb(consent={"training": True, "wording": "none"}), 422, "consent.wording"),
        (thumb(admin=True), 422, "admin"),
        (b" " * (MAX_BODY_BYTES + 1), 413, "longer"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_reason(
    ask: Asker, store: VoteStore, body: Mapping[str, Any] | bytes, status: int, words: str
) -> None:
    told = ask.post("/feedback", body)
    assert (told.status_code, store.votes()) == (status, [])
    assert words in told.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/feedback", "/feedback/forget", "/ab/answer", "/ab/again", "/ab/vote"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://mill.test:81"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"origin": "http://mill.test", "sec-fetch-site": "same-origin"}, 422),
    ],
)
def test_pages_of_others_may_not_post(ask: Asker, path: str, headers: dict[str, str], status: int) -> None:
    assert ask.post(path, {}, **headers).status_code == status


def test_who_has_no_key_or_asks_too_often_is_told_so(talkers: dict[str, Scorer], store: VoteStore) -> None:
    ask = Asker(TinyGateway(talkers, store, key="secret", max_requests=1))
    assert ask.post("/feedback", thumb()).status_code == 401
    known = {"authorization": "Bearer secret"}
    assert ask.post("/feedback", thumb(), **known).status_code == 201
    late = ask.post("/feedback", thumb(), **known)
    assert (late.status_code, late.headers["retry-after"], late.json()["error"]["type"]) == (429, "7", "rate_limit_error")


def test_scores_are_told_to_who_has_a_key_and_their_page_to_all(talkers: dict[str, Scorer], store: VoteStore) -> None:
    ask = Asker(TinyGateway(talkers, store, key="secret"))
    refused = ask.get("/ab/scores")
    assert refused.status_code == 401 and "<h2>" not in refused.text
    assert "<h2>" in ask.get("/ab/scores", authorization="Bearer secret").text
    assert ask.get("/scores").status_code == 200


def test_a_choice_is_blind_until_it_is_kept(ask: Asker, store: VoteStore) -> None:
    pair, texts = ask.compared()
    assert sorted(texts.values()) == sorted([OLD, NEW])  # they were learnt by heart
    told = ask.post("/ab/vote", {"rater": rater(1), "pair": pair, "vote": "left", "consent": AGREED})
    assert told.status_code == 201, told.text
    names = {OLD: "old = mill:1", NEW: "new = mill:2"}
    assert (told.json()["left"], told.json()["right"]) == (names[texts["left"]], names[texts["right"]])
    [vote] = store.votes()
    assert (vote.kind, vote.vote, vote.answers) == ("choice", "left", (texts["left"], texts["right"]))
    assert [one.label for one in vote.models] == [told.json()["left"], told.json()["right"]]
    assert ask.post("/ab/vote", {"rater": rater(1), "pair": pair, "vote": "right"}).status_code == 410
    assert store.votes() == [vote]


def test_nothing_but_texts_is_told_before_the_vote_and_either_side_may_be_either_model(
    talkers: dict[str, Scorer], store: VoteStore
) -> None:
    ask = Asker(TinyGateway(talkers, store))
    lefts = set()
    for _ in range(6):
        answer = ask.post("/ab/answer", {"rater": rater(1), "messages": [{"role": "user", "content": QUESTION}]})
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
        assert {key for one in events for key in one} == {"pair", "side", "text", "ended", "ready"}
        assert not [name for name in ("old", "new", "d1", "d2") if re.search(rf"\b{name}\b", answer.text + str(answer.headers))]
        lefts.add("".join(one.get("text", "") for one in events if one.get("side") == "left"))
    assert lefts == {OLD, NEW}


def test_a_pair_is_its_raters_alone_and_waits_for_whole_answers(ask: Asker, store: VoteStore) -> None:
    pair, _ = ask.compared(by=1)
    assert ask.post("/ab/vote", {"rater": rater(2), "pair": pair, "vote": "left"}).status_code == 410
    assert ask.post("/ab/vote", {"rater": rater(1), "pair": "f" * 32, "vote": "left"}).status_code == 410
    too_long = ask.post("/ab/vote", {"rater": rater(1), "pair": pair, "vote": "left", "text": "t" * 5000})
    assert too_long.status_code == 422 and "characters" in too_long.json()["error"]["message"]
    assert ask.post("/ab/vote", {"rater": rater(1), "pair": pair, "vote": "left"}).status_code == 201  # it waited


def test_an_error_of_a_model_is_told_without_its_name(ask: Asker) -> None:
    answer = ask.post("/ab/answer", {"rater": rater(1), "messages": [{"role": "user", "content": "be busy"}]})
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert events[-1]["error"]["message"] == "No place is free." and {"ready": True} not in events
    assert ask.post("/ab/vote", {"rater": rater(1), "pair": events[0]["pair"], "vote": "left"}).status_code == 409


def test_with_one_model_a_comparison_says_what_it_needs(talkers: dict[str, Scorer], store: VoteStore) -> None:
    ask = Asker(TinyGateway({"old": talkers["old"]}, store))
    told = ask.post("/ab/answer", {"rater": rater(1), "messages": [{"role": "user", "content": QUESTION}]})
    assert told.status_code == 409 and "gristmill serve" in told.json()["error"]["message"]


def test_what_one_person_judged_is_judged_again_by_another_and_they_agree_or_not(ask: Asker, store: VoteStore) -> None:
    pair, texts = ask.compared(by=1)
    assert ask.post("/ab/again", {"rater": rater(2)}).status_code == 404
    ask.post("/ab/vote", {"rater": rater(1), "pair": pair, "vote": "left", "consent": AGREED})
    assert ask.post("/ab/again", {"rater": rater(1)}).status_code == 404
    found = ask.post("/ab/again", {"rater": rater(2)}).json()
    assert found["messages"] == [{"role": "user", "content": QUESTION}]
    assert {found["left"], found["right"]} == set(texts.values())
    side = "left" if found["left"] == texts["left"] else "right"
    told = ask.post("/ab/vote", {"rater": rater(2), "pair": found["pair"], "vote": side, "consent": AGREED})
    assert told.status_code == 201, told.text
    page = ask.get("/ab/scores").text
    assert "On 1 choices of several people each, 100 %" in page
    ask.post("/feedback/forget", {"rater": rater(1)})
    assert store.votes() == []


def test_what_a_rater_said_is_forgotten_at_the_raters_word(ask: Asker, store: VoteStore) -> None:
    ask.post("/feedback", thumb())
    ask.post("/feedback", thumb(vote_id=f"{2:032x}", rater=rater(2)))
    assert ask.post("/feedback/forget", {"rater": rater(1)}).json() == {"votes": 1, "exported_before": 0}
    assert [vote.rater for vote in store.votes()] == [rater(2)]


def test_the_terms_are_those_of_the_store(ask: Asker) -> None:
    terms = ask.get("/feedback").json()
    assert terms["wording"] == WORDING and "after 365 days" in terms["text"] and "{" not in terms["text"]


def test_the_page_of_scores_shows_them_with_names_as_text(ask: Asker, store: VoteStore) -> None:
    assert "no two models were compared yet" in ask.get("/ab/scores").text
    evil = "<script>alert(1)</script>"
    for number in range(30):
        store.keep(said("choice", "left" if number % 5 else "tie", ("a", str(number)), by=number, models=("good", evil)))
    page = ask.get("/ab/scores")
    assert page.text.count("<svg") == 1 and "30 blind choices by 30 people" in page.text
    assert "<script" not in page.text and "&lt;script&gt;" in page.text
    assert (
        "script-src" not in page.headers["content-security-policy"]
        and "default-src 'none'" in page.headers["content-security-policy"]
    )


def test_the_page_of_scores_is_drawn_anew_after_each_vote_of_whatever_process(ask: Asker, store: VoteStore) -> None:
    other = VoteStore(store.path.parent)
    for number, to in enumerate((store, other, store)):
        to.keep(said("choice", "left", ("a", str(number)), by=number))
        assert f"{number + 1} blind choices" in ask.get("/ab/scores").text
    assert ask.get("/ab/scores").text == ask.get("/ab/scores").text
    other.forget(rater(1))
    assert "2 blind choices" in ask.get("/ab/scores").text


def test_a_vote_for_which_there_is_no_room_is_not_acknowledged_and_the_next_one_is_kept(ask: Asker, store: VoteStore) -> None:
    ask.post("/feedback", thumb())
    [pages] = store._base.execute("PRAGMA page_count").fetchone()
    store._base.execute(f"PRAGMA max_page_count={pages + 2}")
    full = ask.post("/feedback", thumb(vote_id=f"{2:032x}", answer="long " * 20_000))
    assert (full.status_code, full.headers["retry-after"]) == (503, "30") and "full" in full.json()["error"]["message"]
    assert ask.post("/feedback", thumb(vote_id=f"{3:032x}")).status_code == 201
    assert {vote.vote_id for vote in store.votes()} == {f"{1:032x}", f"{3:032x}"}


def test_a_store_that_cannot_be_used_now_is_no_fault_of_the_server(ask: Asker, store: VoteStore) -> None:
    store._base.execute("PRAGMA busy_timeout=1")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = ask.post("/feedback/forget", {"rater": rater(1)})
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "no_room" and answer.headers["retry-after"]
        other.execute("ROLLBACK")
    assert ask.post("/feedback/forget", {"rater": rater(1)}).status_code == 200


def test_a_question_longer_than_what_can_be_kept_is_not_compared(ask: Asker) -> None:
    told = ask.post("/ab/answer", {"rater": rater(1), "messages": [{"role": "user", "content": "q" * 200_001}]})
    assert told.status_code == 413


def test_pages_run_only_their_own_scripts_and_load_nothing_from_elsewhere(ask: Asker) -> None:
    for path in ("/", "/ab", "/scores"):
        page = ask.get(path)
        policy = page.headers["content-security-policy"]
        styled = path == "/scores"  # what it shows has colours in attributes
        assert page.status_code == 200 and policy.count("unsafe") == policy.count("style-src 'self' 'unsafe-inline'") == styled
        assert all(
            part in policy for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'")
        )
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"""(src|href)=["']?(https?:)?//|\son\w+=|style=|<script(?![^>]*src=)""", page.text)
        for name in re.findall(r'(?:src|href)="/pages/([^"]+)"', page.text):
            assert name in FILES
    for name, kind in FILES.items():
        file = ask.get(f"/pages/{name}")
        assert (file.status_code, file.headers["content-type"].split(";")[0], file.content) == (
            200,
            kind,
            (PAGES / name).read_bytes(),
        )
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|https?://", file.text
        ), name
    for name in ("scores.html", "../votes.py", "%2e%2e/votes.py", ""):
        assert ask.get(f"/pages/{name}").status_code == 404


def test_both_answers_come_as_they_are_written_and_the_other_stops_with_a_broken_one() -> None:
    stopped = []

    async def writes(*texts: str, ends: bool = True) -> AsyncGenerator[str]:
        try:
            for text in texts:
                await asyncio.sleep(0)
                yield text
            if not ends:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(texts)
            raise

    async def breaks() -> AsyncGenerator[str]:
        yield "b"
        await asyncio.sleep(0.01)
        raise Refused(504, "too slow", "slow")

    async def read(left: AsyncGenerator[str], right: AsyncGenerator[str]) -> list[Piece]:
        return [piece async for piece in together(left, right)]

    pieces = asyncio.run(read(writes("a", "", "b"), writes("c")))
    assert [text for side, text in pieces if side == "left"] == ["a", "b", ""]
    assert [text for side, text in pieces if side == "right"] == ["c", ""]
    with pytest.raises(Refused, match="too slow"):
        asyncio.run(read(writes("a", ends=False), breaks()))
    assert stopped == [("a",)]


def test_a_model_has_one_score_whatever_it_was_called_and_two_of_one_name_have_two(ask: Asker, store: VoteStore) -> None:
    yesterday = (
        Speaker(name="champion", version="mill:1", digest="d1"),
        Speaker(name="challenger", version="mill:2", digest="d2"),
    )
    today = (Speaker(name="champion", version="mill:2", digest="d2"), Speaker(name="challenger", version="mill:3", digest="d3"))
    for number, speakers in enumerate((yesterday, today)):
        store.keep(said("choice", "right", ("a", str(number)), by=number).model_copy(update={"models": speakers}))
    assert set(scoreboard(store.votes()).games.items()) == {("mill:1", 1), ("mill:2", 2), ("mill:3", 1)}
    folders = (Speaker(name="mine", version="model", digest="e1"), Speaker(name="yours", version="model", digest="e2"))
    store.keep(said("choice", "right", ("a", "c")).model_copy(update={"models": folders}))
    store.keep(said("choice", "tie", ("a", "d")).model_copy(update={"models": (yesterday[0], yesterday[0])}))  # says nothing
    assert set(scoreboard(store.votes()).games) == {"mill:1", "mill:2", "mill:3", "mine = model", "yours = model"}


def test_pending_pairs_are_bounded_in_number_and_time() -> None:
    now = [0.0]
    pending = Pending(max_pending=3, keep_s=10, clock=lambda: now[0])
    speakers = (Speaker(name="a"), Speaker(name="b"))
    pairs = [BlindPair(rater(1), (Message(role="user", content="q"),), speakers, ended=True) for _ in range(4)]
    for pair in pairs:
        pending.add(pair, "ann")
    with pytest.raises(Refused):
        pending.take(pairs[0].pair_id, rater(1), "ann")
    assert pending.take(pairs[1].pair_id, rater(1), "ann") is pairs[1]
    now[0] = 11
    with pytest.raises(Refused):
        pending.take(pairs[2].pair_id, rater(1), "ann")
    pending.add(BlindPair(rater(1), pairs[0].messages, speakers, ended=True), "bob")
    assert list(pending._pairs) == ["bob"]  # nothing is kept of who asks no more


def test_one_key_throws_out_no_pair_of_another_and_votes_on_none() -> None:
    pending = Pending(max_pending=3)
    made = [
        BlindPair(rater(1), (Message(role="user", content="q"),), (Speaker(name="a"), Speaker(name="b")), ended=True)
        for _ in range(9)
    ]
    first, *others = made
    pending.add(first, "ann")
    for pair in others:
        pending.add(pair, "bob")
    with pytest.raises(Refused, match="ask anew"):
        pending.take(first.pair_id, rater(1), "bob")
    assert pending.take(first.pair_id, rater(1), "ann") is first
    pending.put_back(first, "ann")
    assert pending.take(first.pair_id, rater(1), "ann") is first


def test_pairs_wait_by_the_key_that_asked_for_them(ask: Asker, store: VoteStore) -> None:
    body = {"rater": rater(1), "messages": [{"role": "user", "content": QUESTION}]}
    pair = json.loads(ask.post("/ab/answer", body, **{"x-who": "ann"}).text.split("\n")[0].removeprefix("data: "))["pair"]
    vote = {"rater": rater(1), "pair": pair, "vote": "left"}
    assert ask.post("/ab/vote", vote, **{"x-who": "bob"}).status_code == 410
    assert ask.post("/ab/vote", vote, **{"x-who": "ann"}).status_code == 201


def test_equal_models_under_two_names_are_no_comparison() -> None:
    same = [Speaker(name="champion", digest="d"), Speaker(name="challenger", digest="d")]
    with pytest.raises(Refused, match="two that differ"):
        drawn(same, random.Random(1))
    three = [*same, Speaker(name="other", digest="e")]
    assert {frozenset(one.digest for one in drawn(three, random.Random(seed))) for seed in range(9)} == {frozenset("de")}
