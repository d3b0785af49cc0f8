"""Needles are found exactly where a slow search over plain words finds them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text.minhash import normalise
from tasks.text.needles import NONE, fold_table, needles_of, search

# few words, so that texts share runs of them; some change their bytes when folded, vanish or stand alone
WORDS = st.sampled_from(
    ["the", "Mill", "mill.", "a", "ÉTÉ", "so\u00adft", "漢字", "ไทย", "12,5", "don't", "-", "\n", "𠀀a", "İ", "❤\ufe0f"]
)
TEXT = st.one_of(st.text(max_size=30), st.lists(WORDS, max_size=25).map(" ".join))
LENGTHS = st.sets(st.integers(2, 6), min_size=1, max_size=3)


def runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}


def found_plainly(texts: list[str], passages: list[str], lengths: set[int], min_words: int) -> set[tuple[int, tuple[str, ...]]]:
    """(text, words) of every n-gram and every whole passage of enough words that stands in a text."""
    wanted: set[tuple[str, ...]] = set()
    for passage in passages:
        words = normalise(passage).split()
        for length in lengths:
            wanted |= runs(words, length)
        if len(words) >= min_words:
            wanted.add(tuple(words))
    found = set()
    for number, text in enumerate(texts):
        words = normalise(text).split()
        found |= {(number, one) for one in wanted if one in runs(words, len(one))}
    return found


@settings(deadline=None, max_examples=300)
@given(st.lists(TEXT, max_size=5), st.lists(TEXT, max_size=5), LENGTHS, st.integers(1, 6))
def test_what_is_found_is_what_a_plain_search_finds(texts: list[str], passages: list[str], lengths: set[int], least: int) -> None:
    least = min(least, *lengths)
    needles = needles_of(pa.array(passages, pa.string()), sorted(lengths), least)
    docs, found = search(pa.array(texts, pa.string()), needles)
    pairs = [
        (doc, tuple(needles.words(int(needles.at[one]), int(needles.num_words[one])).split()))
        for doc, one in zip(docs.tolist(), found.tolist(), strict=True)
    ]
    assert len(pairs) == len(set(pairs)) and docs.tolist() == sorted(docs.tolist())
    assert set(pairs) == found_plainly(texts, passages, lengths, least)


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_the_words_of_a_passage_are_those_of_the_normal_form(passages: list[str]) -> None:
    needles = needles_of(pa.array(passages, pa.string()), (8,), 1)
    for number, passage in enumerate(passages):
        start, end = needles.passage_at[number : number + 2].tolist()
        assert needles.words(start, end - start) == normalise(passage)


def test_every_code_point_is_folded_as_the_normal_form_folds_it() -> None:
    table = fold_table()
    codes = np.flatnonzero(table >= 0)
    folded = "".join(map(chr, table[codes] & ((1 << 21) - 1)))
    assert folded == "".join(normalise(chr(code)) for code in codes.tolist())
    gone = [code for code in np.flatnonzero(table < 0).tolist() if not 0xD800 <= code < 0xE000]
    assert not any(normalise(chr(code)) for code in gone)


def test_equal_runs_are_one_needle_whatever_passage_they_are_of() -> None:
    needles = needles_of(pa.array(["One two three.", "(one) TWO, three?", "zero one two three", "two"]), (2,), 2)
    # one two · two three · one two three · zero one · zero one two three
    assert needles.size == 5
    assert needles.whole_of[0] == needles.whole_of[1] != needles.whole_of[2] and needles.whole_of[3] == NONE
    assert needles.gram_of[0, 0] == needles.gram_of[0, 3] == needles.gram_of[0, 7]
    assert needles.gram_of[0].tolist().count(NONE) == 4  # the last word of each passage


def test_neither_words_run_together_nor_words_of_two_passages_are_a_match() -> None:
    needles = needles_of(pa.array(["ab cd ef", "gh ij kl"]), (2, 3), 2)
    for text in ("abcd ef", "ab c d ef gh", "ef gh", "cd", "ab", ""):
        assert [len(one) for one in search(pa.array([text]), needles)] == [0, 0], text
    docs, _ = search(pa.array(["", "x ab\n\ncd, EF.", None], pa.string()), needles)
    assert docs.tolist() == [1, 1, 1]  # ab cd · cd ef · ab cd ef


def test_runs_of_equal_hash_and_other_words_are_told_apart() -> None:
    needles = needles_of(pa.array(["ab cd", "ef gh"]), (2,), 2)
    home = {int(needles.first[slot]): slot for slot in np.flatnonzero(needles.slots).tolist()}
    text = pa.array(["x ab cd y"])
    # as if both had the hash of the first
    needles.first[home[0]], needles.chain[1], needles.chain[0] = 1, 0, NONE
    assert [one.tolist() for one in search(text, needles)] == [[0], [0]]
    needles.first[home[0]], needles.chain[0], needles.chain[1] = 0, 1, NONE
    assert [one.tolist() for one in search(text, needles)] == [[0], [0]]
    # as if the second alone had it
    needles.first[home[0]], needles.chain[1] = 1, NONE
    assert [one.tolist() for one in search(text, needles)] == [[], []]
