"""The store of votes: what is kept, what is never kept, and what happens to it after kill -9."""

from __future__ import annotations

import random
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.errors import InputError
from infra.settings import child_environment
from tasks.serving.votes import FILE, VOTES, WORDINGS, Consent, Message, VoteError, VotesConfig, VoteStore

from .said import AGREED, rater, said

PROJECT = Path(__file__).resolve().parents[2]
DAY_S = 86400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VoteStore]:
    opened = VoteStore(tmp_path / "votes")
    yield opened
    opened.close()


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


@pytest.mark.parametrize(
    ("kind", "vote", "answers"),
    [(kind, vote, ("one",) if kind == "thumb" else ("one", "two")) for kind, votes in VOTES.items() for vote in votes],
)
def test_a_vote_is_read_back_as_it_was_kept(store: VoteStore, kind: str, vote: str, answers: tuple[str, ...]) -> None:
    kept = store.keep(said(kind, vote, answers, text="“so” \x00 – 字"))
    assert store.votes() == [kept]
    assert (kept.kind, kept.vote, kept.answers, kept.text) == (kind, vote, answers, "“so” \x00 – 字")


def test_without_consent_nothing_but_the_bare_vote_touches_the_disk(store: VoteStore) -> None:
    given = said(
        "thumb", "down", ("secret answer",), "secret prompt", text="secret words", consent=Consent(), template="secret template"
    )
    kept = store.keep(given)
    assert (kept.messages, kept.answers, kept.text, kept.template) == (None, None, None, "")
    assert (kept.rater, kept.vote, kept.models) == (given.rater, "down", given.models)
    assert store.votes() == [kept]
    assert b"secret" not in bytes_of(store.path.parent)


def test_personal_data_and_secrets_are_masked_before_they_touch_the_disk(store: VoteStore) -> None:
    turns = (Message(role="system", content="You are jane@mill.org"), Message(role="user", content="mail bob@corn.de at 8.8.4.4"))
    words = "I am al@oats.it, +49 30 901820, key AKIAIOSFODNN7EXAMPLE"
    kept = store.keep(said("correction", "corrected", ("no", "ask eve@rye.fr"), messages=turns, text=words))
    assert kept.redacted == {"email": 4, "ip": 1, "phone": 1, "aws_key": 1}
    assert [one.content for one in kept.messages or ()] == ["You are [e-mail address]", "mail [e-mail address] at [IP address]"]
    assert kept.answers == ("no", "ask [e-mail address]") and kept.text == "I am [e-mail address], [phone number], key [AWS key]"
    hidden = (b"jane", b"bob", b"eve", b"al@", b"8.8.4.4", b"901820", b"AKIA")
    assert not [name for name in hidden if name in bytes_of(store.path.parent)]


def test_another_redaction_may_be_given_and_sees_every_text(tmp_path: Path) -> None:
    seen: list[str] = []

    def shout(texts: object) -> tuple[list[str], dict[str, int]]:
        seen.extend(texts)  # type: ignore[call-overload]
        return [text.upper() for text in texts], {"shouted": len(seen)}  # type: ignore[attr-defined]

    kept = VoteStore(tmp_path, redact=shout).keep(said("choice", "tie", ("a", "b"), "p", text="t"))
    assert seen == ["p", "a", "b", "t"]
    assert (kept.messages, kept.answers, kept.text) == ((Message(role="user", content="P"),), ("A", "B"), "T")
    assert kept.redacted == {"shouted": 4}


def test_the_same_id_from_the_same_rater_replaces_what_was_said_and_from_another_is_refused(store: VoteStore) -> None:
    first = store.keep(said("thumb", "up", ("an answer to regret",)))
    store.keep(said("thumb", "down", ("an answer to regret",), vote_id=first.vote_id, consent=Consent()))
    [left] = store.votes()
    assert (left.vote, left.answers) == ("down", None)
    with pytest.raises(VoteError, match=f"{first.vote_id}: another vote has this id"):
        store.keep(said("thumb", "up", ("mine",), by=2, vote_id=first.vote_id))
    assert store.votes() == [left]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "p" * 90, "answers": ("a" * 20,)}, "conversation: 110 characters .* at most 100"),
        ({"text": "t" * 11}, "text: 11 characters .* at most 10"),
        ({"messages": (Message(role="user", content=""),) * 4}, "messages: 4 turns .* at most 3"),
        ({"consent": Consent(training=True, wording="2001")}, "wording: no such version .*'2001'.*2026-11"),
    ],
)
def test_what_is_too_long_or_agrees_to_unknown_words_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    store = VoteStore(tmp_path, VotesConfig(max_chars=100, max_text_chars=10, max_messages=3))
    given = {"answers": ("a",), **change}
    with pytest.raises(VoteError, match=words):
        store.keep(said("thumb", "up", given.pop("answers"), **given))  # type: ignore[arg-type]
    assert not store.votes()


@pytest.mark.parametrize(
    "change",
    [
        {"vote": "sideways"},
        {"answers": ("a", "b")},
        {"models": ("old", "new")},
        {"messages": (Message(role="assistant", content="hello"),)},
        {"messages": ()},
        {"rater": "Jane Doe"},
        {"vote_id": "1"},
    ],
)
def test_a_vote_that_does_not_fit_together_is_none(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        said("thumb", **{"vote": "up", "answers": ("a",), **change})  # type: ignore[arg-type]


def test_a_forgotten_raters_words_are_overwritten_on_the_disk_and_exports_of_them_are_told(store: VoteStore) -> None:
    mine = [store.keep(said("thumb", "up", (f"unrepeatable {number} " * 400,), by=1)) for number in range(20)]
    theirs = store.keep(said("thumb", "up", ("another answer",), by=2))
    store.note_export("d1", "pairs.jsonl", "pairs", [mine[0].vote_id, theirs.vote_id])
    store.note_export("d2", "others.jsonl", "pairs", [theirs.vote_id])
    assert b"unrepeatable 3" in bytes_of(store.path.parent)
    forgotten = store.forget(rater(1))
    assert (forgotten.votes, forgotten.exports) == (20, (("d1", "pairs.jsonl"),))
    assert store.votes() == [theirs]
    assert b"unrepeatable" not in bytes_of(store.path.parent)
    assert store.forget(rater(1)).votes == 0


def test_what_others_judged_again_goes_with_what_they_judged(store: VoteStore) -> None:
    first = store.keep(said("choice", "left", ("unrepeatable a", "unrepeatable b"), by=1))
    assert store.to_judge_again(rater(1)) is None  # one's own
    assert store.to_judge_again(rater(2)) == first
    again = said("choice", "right", ("unrepeatable b", "unrepeatable a"), by=2, copied_from=first.vote_id)
    assert store.keep(again).item == first.item
    assert store.to_judge_again(rater(2)) is None
    assert store.to_judge_again(rater(3)) == first
    store.keep(said("choice", "tie", ("bare", "vote"), by=1, consent=Consent()))
    store.keep(said("thumb", "up", ("no choice",), by=1))
    assert store.to_judge_again(rater(3)) == first
    store.forget(rater(1))
    assert not store.votes() and b"unrepeatable" not in bytes_of(store.path.parent)
    with pytest.raises(VoteError, match="taken back"):
        store.keep(again)


def test_a_choice_is_not_replaced_by_a_vote_of_another_kind(store: VoteStore) -> None:
    first = store.keep(said("choice", "left", ("a", "b")))
    with pytest.raises(VoteError, match="another kind"):
        store.keep(said("thumb", "up", ("a",), vote_id=first.vote_id))
    assert store.votes() == [first]


def test_votes_are_removed_after_their_days(tmp_path: Path) -> None:
    now = [1e9]
    store = VoteStore(tmp_path, VotesConfig(retention_days=10), clock=lambda: now[0])
    old = store.keep(said("thumb", "up", ("the old answer",)))
    now[0] += 9 * DAY_S
    new = store.keep(said("thumb", "up", ("the new answer",)))
    assert store.votes() == [old, new]
    now[0] += 2 * DAY_S
    newest = store.keep(said("thumb", "up", ("the newest answer",)))  # a server that is never started again forgets, too
    assert store.votes() == [new, newest]
    assert b"the old answer" not in bytes_of(tmp_path)
    now[0] += 30 * DAY_S
    store.close()
    assert not VoteStore(tmp_path, VotesConfig(retention_days=10), clock=lambda: now[0]).votes()


def test_an_acknowledged_vote_survives_kill_and_half_a_vote_is_never_there(tmp_path: Path) -> None:
    chance, told = random.Random(1), set()
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("voter.py")), str(tmp_path)],
            stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=child_environment(PYTHONPATH=str(PROJECT)),
        )  # fmt: skip
        assert child.stdout is not None
        told.add(child.stdout.readline().strip())
        time.sleep(chance.random() / 4)
        child.kill()
        # what was written into the pipe before the kill was acknowledged; a line that was cut off was not
        told |= {line.strip() for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")}
        child.wait()
    assert len(told) > 10
    store = VoteStore(tmp_path)
    votes = store.votes()  # every row is a valid vote
    assert told <= {vote.vote_id for vote in votes}
    assert len(votes) <= len(told) + 3  # of each child one may have been kept and not told
    for vote in votes:
        assert vote.is_whole and (vote.answers or ("",))[0].count("answer") == 200
    assert sqlite3.connect(store.path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_threads_and_a_second_process_may_write_at_the_same_time(store: VoteStore) -> None:
    other = VoteStore(store.path.parent)
    votes = [said("thumb", "up", ("a",), by=number) for number in range(40)]
    threads = [
        threading.Thread(target=lambda part=part, to=to: [to.keep(one) for one in part])
        for part, to in ((votes[::4], store), (votes[1::4], store), (votes[2::4], other), (votes[3::4], other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.vote_id for one in store.votes()} == {one.vote_id for one in votes}


def test_only_the_owner_may_read_the_file(store: VoteStore) -> None:
    store.keep(said("thumb", "up", ("a",)))
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()} == {0o600}


def test_a_file_that_is_no_store_and_one_of_a_newer_release_are_named_and_left(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database, but the notes of somebody " * 50)
    with pytest.raises(InputError, match=FILE):
        VoteStore(tmp_path)
    assert b"the notes of somebody" in (tmp_path / FILE).read_bytes()
    newer = tmp_path / "newer"
    VoteStore(newer).close()
    with sqlite3.connect(newer / FILE) as base:
        base.execute("PRAGMA user_version=99")
    with pytest.raises(InputError, match="newer release"):
        VoteStore(newer)


def test_the_words_that_one_agrees_to_say_what_the_store_does() -> None:
    for words in WORDINGS.values():
        assert "{retention_days}" in words
        for promise in ("random number", "masked", "other people", "train", "Forget"):
            assert promise in words
    assert AGREED.wording in WORDINGS
