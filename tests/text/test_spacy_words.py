"""spaCy's English tokens: against those that spaCy itself gave, golden cases, and what holds of any text.

spacy_tokens.jsonl was written by benchmarks/spacy_english.py with spaCy 3.8.18; `python -m benchmarks.datatrove_agreement --tokens`
compares whole pages.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text.buffers import string_buffers
from tasks.text.datatrove import num_sentences
from tasks.text.spacy_words import english, tokenize

RECORDED = [json.loads(line) for line in Path(__file__).with_name("spacy_tokens.jsonl").read_text(encoding="utf-8").splitlines()]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.lists(st.sampled_from([row["text"] for row in RECORDED[::7]]), max_size=3).map(" ".join),
    st.text("aB1.,:;-'()/°CF$+ \n\t\u00a0", max_size=40),
)


def tokens(*texts: str) -> list[list[str]]:
    data, offsets = string_buffers(pa.array(texts, pa.large_string()))
    found, raw = tokenize(data, offsets), data.tobytes()
    every = [raw[start:end].decode() for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)]
    return [every[first:last] for first, last in zip(found.offsets[:-1].tolist(), found.offsets[1:].tolist(), strict=True)]


def test_the_tokens_are_those_that_spacy_gave() -> None:
    assert len(RECORDED) == 1500
    found = tokens(*(row["text"] for row in RECORDED))
    assert [(row["text"], one) for row, one in zip(RECORDED, found, strict=True)] == [
        (row["text"], row["tokens"]) for row in RECORDED
    ]


def test_the_sentences_are_those_that_spacy_gave() -> None:
    rows = [row for row in RECORDED if row["tokens"] and row["text"] == row["text"].strip()]
    assert len(rows) > 500
    data, offsets = string_buffers(pa.array([row["text"] for row in rows]))
    t, classes = tokenize(data, offsets), english().classes
    for row, first, last in zip(rows, t.offsets[:-1], t.offsets[1:], strict=True):
        assert num_sentences(data, first, last, t.starts, t.ends, t.after_white, classes) == row["num_sentences"], row["text"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't panic, Mr. O'Neill.", "Do n't panic , Mr. O'Neill ."),
        ('("Hello!")', '( " Hello ! " )'),
        ("I'd've said it's his dog's.", "I 'd 've said it 's his dog 's ."),
        ("e.g. in the U.S. or U.S.A.", "e.g. in the U.S. or U.S.A."),
        ("See www.example.com/a?b=1, or write to me@example.org!", "See www.example.com/a?b=1 , or write to me@example.org !"),
        ("10km at 5% cost $3.50, 7€ or US$9", "10 km at 5 % cost $ 3.50 , 7 € or US$ 9"),
        ("well-known and/or 3-4 a=b ab.Y x.Y", "well - known and/or 3 - 4 a = b ab . Y x. Y"),
        # a smiley that only the finished tokens have: infix and suffix stand side by side
        ("call(f(x)):", "call(f(x ) ):"),
        ("(1-8)", "( 1 - 8)"),
        # not over a space
        ("f(x) :", "f(x ) :"),
        ("wait... what…?", "wait ... what … ?"),
        ("20°C. -5°F.", "20 ° C . -5 ° F ."),
        ("http://10.0.0.1/x http://8.8.8.8/x", "http://10.0.0.1 / x http://8.8.8.8/x"),
    ],
)
def test_golden_texts(text: str, expected: str) -> None:
    assert tokens(text) == [expected.split(" ")]


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_tokens_are_the_text_without_its_white_space(text: str) -> None:
    assert "".join(tokens(text)[0]) == "".join(text.split())


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS)
def test_lines_and_texts_do_not_touch_each_other(one: str, other: str) -> None:
    apart = tokens(one, other)
    assert tokens(f"{one}\n{other}") == [apart[0] + apart[1]]


def test_no_text_and_white_space_have_no_tokens() -> None:
    assert tokens("", "  \n", "", "a", " ") == [[], [], [], ["a"], []]
    assert tokens() == []
