"""From votes to rows for training: which pairs there are, and that no vote is lost without a reason."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.serving.pairs import PERSON, REASONS, USED, as_lines, liked_answers, preference_pairs, rated_answers
from tasks.serving.votes import VOTES, Consent, Vote

from .said import said


def pairs_of(*votes: Vote) -> list[tuple[str, str]]:
    return [(row["chosen"], row["rejected"]) for row in preference_pairs(votes).rows]


def test_a_choice_gives_a_pair_with_its_vote_its_raters_and_its_models() -> None:
    vote = said("choice", "right", ("bad", "good"), "Which mill?")
    found = preference_pairs([vote])
    assert found.rows == [
        {
            "prompt": [{"role": "user", "content": "Which mill?"}],
            "chosen": "good",
            "rejected": "bad",
            "source": "votes",
            "origin": vote.vote_id,
            "votes": [vote.vote_id],
            "kind": "choice",
            "raters": 1,
            "against": 0,
            "chosen_model": {"name": "new", "version": "new:1", "digest": ""},
            "rejected_model": {"name": "old", "version": "old:1", "digest": ""},
        }
    ]
    assert (found.used, found.dropped) == ([vote.vote_id], {})
    [line] = as_lines(found.rows).splitlines()
    assert json.loads(line) == found.rows[0]


def test_a_correction_is_chosen_over_the_answer() -> None:
    vote = said("correction", "corrected", ("2+2=5", "2+2=4"))
    [row] = preference_pairs([vote]).rows
    assert (row["chosen"], row["rejected"]) == ("2+2=4", "2+2=5")
    assert (row["chosen_model"]["name"], row["rejected_model"]["name"]) == (PERSON.name, "old")


def test_a_thumb_up_beats_a_thumb_down_on_the_same_prompt_only() -> None:
    votes = [
        said("thumb", "up", ("good",), "p"),
        said("thumb", "down", ("bad",), "p"),
        said("thumb", "down", ("worse",), "p"),
        said("thumb", "up", ("alone",), "another prompt"),
    ]
    assert sorted(pairs_of(*votes)) == [("good", "bad"), ("good", "worse")]
    found = preference_pairs(votes)
    assert found.dropped == {"no counterpart": 1} and len(found.used) == 3
    assert {row["raters"] for row in found.rows} == {1}


def test_a_prompt_that_all_ask_does_not_give_pairs_by_the_square() -> None:
    ups = [said("thumb", "up", (f"good {number}",), "hello") for number in range(30)]
    downs = [said("thumb", "down", (f"bad {number}",), "hello") for number in range(20)]
    found = preference_pairs([*ups, *downs])
    assert len(found.rows) == 30 and len(found.used) == 50


@pytest.mark.parametrize(
    ("votes", "dropped"),
    [
        ([said("choice", "tie", ("a", "b"))], {"tie": 1}),
        ([said("choice", "both_bad", ("a", "b"))], {"both bad": 1}),
        ([said("choice", "left", ("a", "a"))], {"same text": 1}),
        ([said("correction", "corrected", ("a", "a"))], {"same text": 1}),
        ([said("choice", "left", ("a", "b"), consent=Consent())], {"no consent": 1}),
        ([said("choice", "left", ("a", "b"), by=1), said("choice", "left", ("b", "a"), by=2)], {"contradicting": 2}),
        ([said("thumb", "up", ("a",), by=1), said("thumb", "down", ("a",), by=2)], {"contradicting": 2}),
    ],
)
def test_what_says_nothing_is_dropped_with_its_reason(votes: list[Vote], dropped: dict[str, int]) -> None:
    found = preference_pairs(votes)
    assert (found.rows, found.dropped) == ([], dropped)


def test_a_majority_of_raters_decides_however_often_one_of_them_votes() -> None:
    votes = [
        *(said("choice", "left", ("a", "b"), by=1) for _ in range(5)),
        said("choice", "right", ("a", "b"), by=2),
        said("choice", "left", ("b", "a"), by=3),
    ]
    found = preference_pairs(votes)
    [row] = found.rows
    assert (row["chosen"], row["raters"], row["against"]) == ("b", 2, 1)
    assert found.dropped == {"said again": 4, "outvoted": 1}


def test_what_a_rater_says_last_counts() -> None:
    assert pairs_of(said("choice", "left", ("a", "b")), said("choice", "left", ("b", "a"))) == [("b", "a")]
    first, last = said("thumb", "up", ("a",), "p"), said("thumb", "down", ("a",), "p")
    assert liked_answers([last, first]).fates == {first.vote_id: "said again", last.vote_id: "not liked"}


def test_thumbs_that_say_the_same_as_a_choice_join_its_pair_and_others_give_way() -> None:
    choice = said("choice", "left", ("a", "b"), "p")
    agreeing = [said("thumb", "up", ("a",), "p", by=2), said("thumb", "down", ("b",), "p", by=2)]
    [row] = preference_pairs([choice, *agreeing]).rows
    assert len(row["votes"]) == 3
    opposed = [said("thumb", "up", ("b",), "p", by=2), said("thumb", "down", ("a",), "p", by=2)]
    found = preference_pairs([choice, *opposed])
    assert [(row["chosen"], row["votes"]) for row in found.rows] == [("a", [choice.vote_id])]
    assert found.dropped == {"outvoted": 2}


def test_liked_and_corrected_answers_become_conversations() -> None:
    votes = [
        said("thumb", "up", ("liked",), "p", by=1),
        said("thumb", "up", ("liked",), "p", by=2),
        said("thumb", "down", ("liked",), "p", by=3),
        said("thumb", "down", ("disliked",), "p"),
        said("correction", "corrected", ("disliked", "mended"), "p"),
        said("choice", "left", ("compared", "other"), "p"),
    ]
    found = liked_answers(votes)
    assert {(row["messages"][-1]["content"], row["model"]["name"], row["raters"]) for row in found.rows} == {
        ("liked", "old", 2),
        ("mended", PERSON.name, 1),
    }
    assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in found.rows)
    assert found.dropped == {"outvoted": 1, "not liked": 1, "only compared": 1}


def test_single_thumbs_are_rated_answers_by_their_majority() -> None:
    votes = [
        *(said("thumb", way, ("liked",), "p", by=by) for by, way in enumerate(("up", "up", "down"))),
        said("thumb", "down", ("disliked",), "q"),
        *(said("thumb", way, ("disputed",), "q", by=by) for by, way in enumerate(("up", "down"))),
        said("choice", "left", ("compared", "other"), "p"),
        said("correction", "corrected", ("a", "b"), "p"),
    ]
    found = rated_answers(votes)
    assert [(row["prompt"][0]["content"], row["answer"], row["good"], row["raters"]) for row in found.rows] == [
        ("p", "liked", True, 2),
        ("q", "disliked", False, 1),
    ]
    assert {row["source"] for row in found.rows} == {"votes"} and found.rows[1]["origin"] == votes[3].vote_id
    assert found.dropped == {"contradicting": 2, "outvoted": 1, "only compared": 2}


some_votes = st.lists(
    st.one_of(
        *(
            st.builds(
                lambda vote, answers, prompt, by, agreed, kind=kind: said(
                    kind, vote, answers, prompt, by, **({} if agreed else {"consent": Consent()})
                ),
                st.sampled_from(VOTES[kind]),
                st.tuples(*[st.sampled_from("abc")] * (1 if kind == "thumb" else 2)),
                st.sampled_from("pq"),
                st.integers(1, 3),
                st.integers(0, 9).map(bool),
            )
            for kind in VOTES
        )
    ),
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(some_votes, st.randoms(use_true_random=False))
def test_every_vote_has_one_fate_and_rows_are_the_same_for_any_order(votes: list[Vote], chance: object) -> None:
    for make in (preference_pairs, liked_answers, rated_answers):
        found = make(votes)
        assert set(found.fates) == {vote.vote_id for vote in votes}
        assert set(found.fates.values()) <= {USED, *REASONS}
        assert len(found.used) + sum(found.dropped.values()) == len(votes)
        assert set(found.used) == {one for row in found.rows for one in row["votes"]}
        assert make(chance.sample(votes, len(votes))) == found  # type: ignore[attr-defined]
        agreed = [vote for vote in votes if vote.consent.training]
        assert make(agreed).rows == found.rows
    keys = Counter(
        (row["prompt"][0]["content"], *sorted((row["chosen"], row["rejected"]))) for row in preference_pairs(votes).rows
    )
    assert not [key for key, count in keys.items() if count > 1 or key[1] == key[2]]


@settings(max_examples=30, deadline=None)
@given(some_votes)
def test_a_pair_of_choices_says_what_counting_says(votes: list[Vote]) -> None:
    """By brute force: for each pair of answers to a prompt, the last choice of each rater, counted."""
    choices = [vote for vote in votes if vote.kind == "choice" and vote.consent.training]
    last: dict[tuple[str, frozenset[str]], dict[str, str]] = {}
    for vote in choices:
        answers, prompt = vote.answers or ("", ""), (vote.messages or ())[0].content
        if len(set(answers)) == 2:
            said_last = {"left": answers[0], "right": answers[1]}.get(vote.vote, "")
            last.setdefault((prompt, frozenset(answers)), {})[vote.rater] = said_last
    wanted = set()
    for (prompt, both), by_rater in last.items():
        one, other = sorted(both)
        counts = Counter(by_rater.values())
        if counts[one] != counts[other]:
            wanted.add((prompt, *((one, other) if counts[one] > counts[other] else (other, one))))
    found = preference_pairs(choices).rows
    assert {(row["prompt"][0]["content"], row["chosen"], row["rejected"]) for row in found} == wanted
