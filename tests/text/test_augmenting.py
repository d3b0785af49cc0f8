"""Swaps, noise and paraphrases against texts by hand and slow references on arbitrary Unicode; the lists that ship are sound."""

from __future__ import annotations

import csv
import itertools
import re
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.ids import digest_of
from tasks.text.augmenting import (
    KEYBOARD,
    Axis,
    SwapLists,
    _room,
    _table,
    add_noise,
    load_swaps,
    paraphrase,
    shipped_swaps,
    swap_kernel,
    swap_words,
)
from tasks.text.buffers import string_buffers
from tasks.text.kernels import character_classes
from tasks.text.sampling import hashes

SHARED = Path(__file__).parents[3] / "shared" / "data" / "bias"
GENDER = [axis for axis in load_swaps("en").axes if axis.name == "gender"]
TRIAL = [
    Axis.model_validate(
        {
            "name": "trial",
            "sources": ["x"],
            "pairs": [["he", "she"], ["été", "ß"], ["man", "woman"]],
            "by_next_word": {"her": {"before_a_noun": "his", "otherwise": "him"}},
            "not_before": ["and", "to"],
            "capitals": ["man"],
        }
    )
]


def swapped(text: str, axes: list[Axis] = GENDER) -> str:
    [made], _ = swap_words(pa.array([text]), axes)
    return str(made.as_py())


# --- swaps ---------------------------------------------------------------------------------------------------------------------


def is_word(char: str) -> bool:
    return (char.isascii() and (char.isalnum() or char == "_")) or not (
        char.isascii() or char.isspace() or unicodedata.category(char)[0] == "P"
    )


def reference(text: str, axes: list[Axis]) -> tuple[str, int]:
    """The same over str: word by word, each looked up in its three cases."""
    words: dict[str, tuple[str, str, bool]] = {}
    stops: set[str] = set()
    cases = (str, lambda word: word[:1].upper() + word[1:], str.upper)
    for axis in axes:
        for at, case in enumerate(cases):
            for word, choice in axis.counterparts():
                name = at == 1 and word not in axis.capitals
                words.setdefault(case(word), (case(choice.before_a_noun), case(choice.otherwise), name))
            stops |= {case(word) for word in axis.not_before}
    pieces = ["".join(run) for run in _runs(text)]
    made, count = [], 0
    for at, piece in enumerate(pieces):
        within = at > 1 and pieces[at - 1] == " "
        if piece in words and not (within and words[piece][2]):
            follows = pieces[at + 2] if at + 2 < len(pieces) and pieces[at + 1] in (" ", "\n") else ""
            made.append(words[piece][0 if follows and follows not in stops else 1])
            count += 1
        else:
            made.append(piece)
    return "".join(made), count


def _runs(text: str) -> list[list[str]]:
    runs: list[list[str]] = []
    for char in text:
        if runs and is_word(char) == is_word(runs[-1][0]):
            runs[-1].append(char)
        else:
            runs.append([char])
    return runs


WORDS = [
    "he",
    "she",
    "He",
    "SHE",
    "man",
    "Man",
    "woman",
    "Woman",
    "HER",
    "Her",
    "her",
    "été",
    "ÉTÉ",
    "ß",
    "and",
    "to",
    "dog",
    "xhe",
    "he_",
    "é",
]
WORDS += [" ", "  ", "\n", ".", "'", "’", "-", "«"]
TEXTS = st.lists(
    st.sampled_from(WORDS) | st.text(max_size=4),
    max_size=20,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=4))
@example(["Woman "])  # the first word, in a shard that ends with a space
@example(["he", " Woman"])
def test_swaps_are_those_of_a_plain_reference(texts: list[str]) -> None:
    made, counts = swap_words(pa.array(texts, pa.string()), TRIAL)
    want = [reference(text, TRIAL) for text in texts]
    assert (made.to_pylist(), counts.tolist()) == ([text for text, _ in want], [count for _, count in want])


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*(word for pair in GENDER[0].pairs for word in pair), "dog", "the", ". "]), max_size=12),
    st.booleans(),
)
def test_pairs_swapped_twice_give_the_text_back(words: list[str], capital: bool) -> None:
    text = "  ".join(
        word.capitalize() if capital else word for word in words
    )  # one space before a Capitalised word makes it a name
    once = swapped(text)
    assert swapped(once) == text
    assert (once != text) == any(word not in ("dog", "the", ". ") for word in words)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("He gave her book to him.", "She gave his book to her."),
        ("I saw her. HER dog saw him and his.", "I saw him. HIS dog saw her and hers."),
        ("They told her to go; the book is hers, not his.", "They told him to go; the book is his, not hers."),
        ("The woman's son, a policeman’s nephew", "The man's daughter, a policewoman’s niece"),
        ("Sheila's heroine met Mrs. Hill in Manchester; hE left.", "Sheila's heroine met Mr. Hill in Manchester; hE left."),
        ("The theme of human women", "The theme of human men"),
        ("Stephen King left the Isle of Man. Man and wife.", "Stephen King left the Isle of Man. Woman and husband."),
        ("She said to Mother: He is a king\nHe", "He said to Mother: She is a king\nShe"),
        ("THE MAN WHO met Mr Hill and Aunt May", "THE WOMAN WHO met Ms Hill and Aunt May"),
    ],
)
def test_swaps_by_hand(text: str, want: str) -> None:
    assert swapped(text) == want


def test_a_word_whose_capitals_have_fewer_bytes_has_room_for_its_counterpart() -> None:
    axis = Axis.model_validate({"name": "x", "sources": ["x"], "pairs": [["kız", "oğlan"]]})
    text = "KIZ " * 10
    data, offsets = string_buffers(pa.array([text]))
    out, ends = np.full(200, 255, np.uint8), np.zeros(2, np.int64)
    swap_kernel(data, offsets, character_classes(), *_table([axis]), out, ends, np.zeros(1, np.int64))
    assert ends[1] == len(("OĞLAN " * 10).encode()) == 70
    made, counts = swap_words(pa.array([text]), [axis])
    assert (made.to_pylist(), counts.tolist()) == (["OĞLAN " * 10], [10])
    assert _room(data.size, [axis]) >= 70


def test_words_on_the_border_of_buffers_and_nulls_are_read_right() -> None:
    text = pa.array(["xx", "he", None, "", "she", "man", "xx"]).slice(1, 5)
    made, counts = swap_words(text, GENDER)
    assert (made.to_pylist(), counts.tolist()) == (["she", "", "", "he", "woman"], [1, 0, 0, 1, 1])
    assert made.type == pa.string() and swap_words(text.cast(pa.large_string()), GENDER)[0].type == pa.large_string()


@pytest.mark.skipif(not SHARED.exists(), reason="Winogender's sentences are not on this machine")
def test_winogenders_sentences_become_those_of_the_other_gender() -> None:
    with (SHARED / "winogender_all.tsv").open() as file:
        sentences = {row["sentid"]: row["sentence"] for row in csv.DictReader(file, delimiter="\t")}
    pairs = [(text, sentences[name.replace(".male.", ".female.")]) for name, text in sentences.items() if ".male." in name]
    assert len(pairs) == 240
    assert [swapped(he) for he, _ in pairs] == [she for _, she in pairs]
    assert [swapped(she) for _, she in pairs] == [he for he, _ in pairs]


def test_lists_that_contradict_themselves_are_refused() -> None:
    assert shipped_swaps() == ["en"] and {axis.name for axis in load_swaps("en").axes} == {"gender", "religion"}
    raw = {"name": "x", "sources": ["x"], "pairs": [["a", "b"]]}
    for changed, said in (
        ({"pairs": [["a", "b"], ["b", "c"]]}, "words with more than one counterpart: b"),
        ({"pairs": [["a", "B"]]}, "'B' is not one word in lower case"),
        ({"one_way": {"two words": "a"}}, "'two words' is not one word"),
        ({"capitals": ["c"]}, "capitals: no counterpart is given for: c"),
    ):
        with pytest.raises(ValidationError, match=said):
            Axis.model_validate({**raw, **changed})
    with pytest.raises(ValidationError, match="sources that the list does not name: x"):
        SwapLists.model_validate({"language": "en", "sources": ["y: none"], "axes": [raw]})
    with pytest.raises(ValidationError, match="words on two axes: a, b"):
        SwapLists.model_validate({"language": "en", "sources": ["x: none"], "axes": [raw, {**raw, "name": "y"}]})


# --- noise ---------------------------------------------------------------------------------------------------------------------


def keys(num: int, seed: int = 0) -> np.ndarray:
    return hashes(pa.array([digest_of(str(n)) for n in range(num)]), seed, "test")


def is_one_typo(word: str, made: str) -> bool:
    """Whether `made` is `word` with one change behind its first letter."""
    rows = [*KEYBOARD, *(row.upper() for row in KEYBOARD)]
    beside = {pair for row in rows for a, b in itertools.pairwise(row) for pair in ((a, b), (b, a))}
    ways = set()
    for at in range(1, len(word)):
        ways |= {word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]}
        ways |= {word[:at] + b + word[at + 1 :] for a, b in beside if a == word[at]}
        if at + 1 < len(word):
            ways.add(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    return made in ways - {word}


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(0, 50))
def test_at_a_rate_of_1_every_word_of_four_letters_has_one_typo_and_nothing_else_changes(texts: list[str], seed: int) -> None:
    made, counts = add_noise(pa.array(texts), keys(len(texts), seed), 1.0)
    for text, noisy, count in zip(texts, made.to_pylist(), counts.tolist(), strict=True):
        before, after = _runs(text), _runs(noisy)
        assert len(before) == len(after)
        pairs = [("".join(one), "".join(other)) for one, other in zip(before, after, strict=True)]
        words = [(one, other) for one, other in pairs if re.fullmatch(r"[A-Za-z]{4,}", one)]
        assert all(is_one_typo(one, other) for one, other in words) and len(words) == count
        assert all(one == other for one, other in pairs if (one, other) not in words)


def test_the_rate_is_kept_whatever_the_cut_and_the_seed_decides() -> None:
    texts = pa.array(["Several quite ordinary words stand here together for counting purposes. " * 100] * 20)
    for rate in (0.03, 0.5):
        made, counts = add_noise(texts, keys(20), rate)
        expected = 9 * 100 * 20 * rate  # words of four letters and more
        assert abs(counts.sum() - expected) < 4 * (expected * (1 - rate)) ** 0.5
        again, _ = add_noise(texts.slice(7, 3), keys(20)[7:10], rate)
        assert again.to_pylist() == made.slice(7, 3).to_pylist()
        assert add_noise(texts, keys(20, seed=1), rate)[0].to_pylist() != made.to_pylist()
    untouched, none = add_noise(pa.array(["To be or not to be 1234 naïve"]), keys(1), 1.0)
    assert untouched.to_pylist() == ["To be or not to be 1234 naïve"] and none.tolist() == [0]


# --- paraphrases ---------------------------------------------------------------------------------------------------------------


def test_contractions_are_written_out_or_made_by_hand() -> None:
    texts = [
        "I don't know. Can't fly? They’re here, it's so; DON'T. Weren't I've she'll, let's 'm",
        "I do not know. You cannot go. They do not. Is not it?",
        "None.",
        "Why don't you, Won’t he, CAN'T I, can't it? He isn't young; don't youths?",
        "They don't \ufffe",
    ]
    made, counts = paraphrase(pa.array(texts), np.array([False, True, False, False, False]))
    assert made.to_pylist() == [
        "I do not know. Cannot fly? They are here, it's so; DON'T. Weren't I have she will, let us 'm",
        "I don't know. You can't go. They do not. Isn't it?",
        "None.",
        "Why don't you, Won’t he, CAN'T I, can't it? He is not young; do not youths?",
        "They don't \ufffe",
    ]
    assert counts.tolist() == [6, 3, 0, 2, 0]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["John does not ", "dogs cannot ", "Is not ", "word ", "will not ", "are ", "theirs "]), max_size=10)
)
def test_what_is_contracted_is_written_out_again(words: list[str]) -> None:
    text = "".join(words) + "end"
    short, _ = paraphrase(pa.array([text]), np.array([True]))
    assert paraphrase(short, np.array([False]))[0].to_pylist() == [text]
