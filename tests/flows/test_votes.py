"""`gristmill votes`, as a person types it, on a store with votes in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import __main__ as command
from flows import votes
from infra.errors import InputError
from infra.ids import payload_digest
from infra.settings import settings
from tasks.rate import rate
from tasks.serving.votes import Consent, VoteStore
from tasks.text.rated import RateConfig
from tests.serving.said import rater, said


def run(*words: str) -> str:
    done = CliRunner().invoke(command.app, ["votes", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def store(home: Path) -> VoteStore:
    store = VoteStore(settings().votes)
    for number in range(12):
        store.keep(said("choice", "right" if number % 6 else "left", ("plain", "better"), f"question {number}", by=number))
    store.keep(said("thumb", "up", ("good",), "p", by=1, text="clear"))
    store.keep(said("thumb", "down", ("bad",), "p", by=2))
    store.keep(said("thumb", "up", ("secret",), "q", by=3, consent=Consent()))
    store.keep(said("choice", "both_bad", ("a", "b"), "q", by=3))
    return store


def test_votes_are_listed_and_scored(store: VoteStore) -> None:
    listed = run("list", "--num", "4")
    assert "16 votes by 12 raters, 15 of them with conversation and consent" in listed
    assert "both_bad" in listed and "clear" in listed and "(not kept)" in listed and "question" not in listed.split("why")[1]
    scores = run("scores")
    assert scores.index("new:1") < scores.index("old:1")
    assert "new:1 before old:1" in scores and "both called bad: 1 of 13" in scores
    assert "67% (21% to 94%)" in scores  # 2 of 3 thumbs of the old one


def test_what_raters_wrote_cannot_steer_the_terminal(home: Path) -> None:
    VoteStore(settings().votes).keep(said("thumb", "up", ("a",), "\x1b]52;c;cm0=\x07 which\x9b2J?", text="\x1b[2Jgood"))
    listed = run("list")
    assert "which" in listed and "good" in listed and not [one for one in listed if one in "\x1b\x07\x9b"]


def test_an_export_has_its_rows_its_digest_and_a_count_for_each_reason(store: VoteStore, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "pairs.jsonl"
    told = run("export", "--output", str(file))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(row["chosen"], row["rejected"]) for row in rows} == {("better", "plain"), ("plain", "better"), ("good", "bad")}
    assert len(rows) == 13 and "13 rows from 14 of 16 votes" in told
    assert "1 dropped: no consent" in told and "1 dropped: both bad" in told
    assert payload_digest(file.read_bytes()) in told
    assert "secret" not in file.read_text()
    first = file.read_bytes()
    run("export", "--output", str(file))
    assert file.read_bytes() == first and [path.name for path in file.parent.iterdir()] == ["pairs.jsonl"]


def test_conversations_are_exported_too(store: VoteStore, tmp_path: Path) -> None:
    told = run("export", "-o", str(tmp_path / "liked.jsonl"), "--form", "conversations")
    [row] = [json.loads(line) for line in (tmp_path / "liked.jsonl").read_text().splitlines()]
    assert [turn["content"] for turn in row["messages"]] == ["p", "good"]
    assert "12 dropped: only compared" not in told and "13 dropped: only compared" in told


def test_thumbs_alone_are_exported_as_rows_of_the_step_that_reads_them(store: VoteStore, tmp_path: Path) -> None:
    told = run("export", "-o", str(tmp_path / "thumbs.jsonl"), "--form", "ratings")
    assert "2 rows from 2 of 16 votes" in told and "13 dropped: only compared" in told
    config = RateConfig.model_validate({"sources": [{"kind": "folder", "path": str(tmp_path / "thumbs.jsonl")}]})
    version = rate.run([], config, str(tmp_path / "rated")).shards
    rows = [row for shard in version.shards() for row in shard.read().to_pylist()]
    votes = {vote.answers[0]: vote.vote_id for vote in store.votes() if vote.kind == "thumb" and vote.answers}
    assert {(row["answer"], row["good"], row["source"], row["origin"]) for row in rows} == {
        ("good", True, "votes", votes["good"]),
        ("bad", False, "votes", votes["bad"]),
    }


def test_who_is_forgotten_is_gone_and_told_where_copies_are(store: VoteStore, tmp_path: Path) -> None:
    run("export", "-o", str(tmp_path / "pairs.jsonl"))
    told = run("forget", rater(3))
    assert f"3 votes of {rater(3)} removed" in told and str(tmp_path / "pairs.jsonl") in told.replace("\n", "")
    assert not store.votes(rater(3))
    for wrong, words in (("rater-", "12 raters|11 raters"), ("nobody", "no such rater"), ("", "at least 4 characters")):
        with pytest.raises(InputError, match=words):
            run("forget", wrong)


def test_without_votes_it_says_where_to_vote(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nobody has voted here yet"):
        run("list")
    assert not home.exists() or not any(home.rglob("*.sqlite"))  # asking makes no store
    VoteStore(settings().votes).keep(said("choice", "tie", ("a", "b")))
    with pytest.raises(InputError, match="none of 1 votes gives a row"):
        run("export", "-o", str(tmp_path / "none.jsonl"))
    assert not (tmp_path / "none.jsonl").exists()


def test_every_form_of_export_has_its_words() -> None:
    assert set(votes.FORMS) == {one.value for one in command.ExportForm}
