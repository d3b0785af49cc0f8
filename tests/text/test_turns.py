"""Turns of every known shape become messages, and what is none says why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text.turns import Unusable, answer_of, prompt_key, prompt_of, turns_of

ASKED = [{"role": "user", "content": "Why?"}]
SAID = [*ASKED, {"role": "assistant", "content": "So."}]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("Why?", ASKED),
        (ASKED, ASKED),
        ([{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}], SAID),
        ("\n\nHuman: Why?\n\nAssistant: So.", SAID),
        ([{"role": "system", "content": "Be short."}, *SAID], [{"role": "system", "content": "Be short."}, *SAID]),
    ],
)
def test_every_shape_becomes_messages(value: Any, wanted: Any) -> None:
    assert turns_of(value, "prompt") == wanted


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, "no_prompt"),
        ("  ", "no_prompt"),
        (7, "no_prompt"),
        ([], "no_prompt"),
        (["Why?"], "no_prompt"),
        ([{"role": "user"}], "no_prompt"),
        ([{"role": "user", "content": "a\0b"}], "broken_text"),
        ("half \ud800", "broken_text"),
        (SAID, "wrong_roles"),
        (SAID[1:], "wrong_roles"),
        ([*ASKED, *ASKED], "wrong_roles"),
        ([{"role": "system", "content": "Be short."}], "wrong_roles"),
        ([*ASKED, {"role": "system", "content": "Be short."}, *ASKED], "wrong_roles"),
        ([{"role": "judge", "content": "Why?"}], "wrong_roles"),
    ],
)
def test_what_is_no_prompt_says_why(value: Any, rule: str) -> None:
    with pytest.raises(Unusable) as caught:
        prompt_of(value)
    assert caught.value.rule == rule
    assert caught.value.detail


@pytest.mark.parametrize("value", ["So.", {"role": "assistant", "content": "So."}, [{"from": "gpt", "value": "So."}]])
def test_an_answer_is_a_text_or_a_message_of_the_assistant(value: Any) -> None:
    assert answer_of(value, "chosen") == "So."


def test_an_answer_of_the_user_is_none() -> None:
    with pytest.raises(Unusable, match="wrong_roles"):
        answer_of(ASKED, "chosen")


@given(st.text(), st.text())
@settings(deadline=None)
def test_keys_are_equal_for_equal_turns_only(one: str, other: str) -> None:
    keys = [prompt_key([{"role": "user", "content": text}]) for text in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert prompt_key([{"role": "user", "content": one + other}]) != prompt_key(
        [{"role": "user", "content": one}, {"role": "assistant", "content": other}]
    )
