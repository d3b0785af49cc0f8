from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text.overlap import MAX_DOCUMENTS, documents_with, overlapping, runs_of


def grams(text: str, length: int) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


def dirty(held_out: list[str], training: list[str], length: int) -> tuple[list[bool], list[bool]]:
    runs = runs_of(pa.array(held_out, pa.string()), length)
    counts = documents_with(pa.array(training, pa.string()), runs)
    found, long = overlapping(runs, counts)
    return found.tolist(), long.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_dirty_texts_are_those_that_share_a_run_as_sets_of_words_say(seed: int) -> None:
    chance = random.Random(seed)
    texts = [" ".join(chance.choices("abcd", k=chance.randrange(9))) for _ in range(12)]
    held_out, training = texts[:6], texts[6:]
    shared = [any(grams(one, 4) & grams(other, 4) for other in training) for one in held_out]
    assert dirty(held_out, training, 4) == (shared, [len(one.split()) >= 4 for one in held_out])


@pytest.mark.parametrize(("copies", "expected"), [(1, True), (MAX_DOCUMENTS, True), (MAX_DOCUMENTS + 1, False)])
def test_what_stands_in_many_documents_is_no_evidence(copies: int, expected: bool) -> None:
    frame = "all rights are reserved by whoever it was that wrote this very page here"
    training = [f"{number} {frame}" for number in range(copies)]
    assert dirty([f"a text of its own, then: {frame.upper()}!"], training, 13)[0] == [expected]


def test_without_texts_there_is_nothing_dirty() -> None:
    assert dirty(["one two three four", ""], [], 3) == ([False, False], [True, False])
    assert dirty([], ["one two three"], 3) == ([], [])
