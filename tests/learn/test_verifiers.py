"""Checks of answers: right ones pass, wrong ones do not, thoughts are taken off, and nothing that an answer or a row holds can hang one."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tasks.learn.verifiers import BadCheck, last_number, parts, reward, usable, verify


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("42", 1.0),
        ("The answer is 42.", 1.0),
        ("6 x 7 = 42. The answer is 42, not 41.", 1.0),
        ("It is $42.00", 1.0),
        ("42 or 41", 0.0),
        ("The answer is 41. I also like 42", 0.0),
        ("-42", 0.0),
        ("forty-two", 0.0),
        ("", 0.0),
    ],
)
def test_the_number_of_an_answer_is_its_last_or_the_one_it_calls_the_answer(text: str, right: float) -> None:
    assert verify("number", "42", text) == right


@given(st.decimals(-(10**9), 10**9, allow_nan=False, allow_infinity=False, places=2), st.text(alphabet="abc .,=", max_size=20))
@settings(deadline=None)
def test_a_number_is_found_behind_any_words(value: Decimal, words: str) -> None:
    assert last_number(f"{words} {value:,}") == value
    assert verify("number", f"{value:f}", f"7 {words} the answer is {value:f}. {words}") == 1.0
    assert verify("number", f"{value + 1:f}", f"{value:f}") == 0.0


@given(st.text(alphabet="ab ", max_size=12), st.text(alphabet="ab ", max_size=12))
@settings(deadline=None)
def test_exact_is_equality_of_words(wanted: str, text: str) -> None:
    assert verify("exact", wanted, text) == float(bool(text.strip()) and wanted.split() == text.split())


@given(st.from_regex(r"(?:[ab](?:[*+?]|\{1,2\})?|\|){1,6}"), st.text(alphabet="ab", min_size=1, max_size=8))
@settings(deadline=None)
def test_patterns_match_whole_answers_as_pythons_engine_does(pattern: str, text: str) -> None:
    pattern = pattern.strip("\n")
    try:
        usable("regex", pattern)
    except BadCheck:
        return
    assert verify("regex", pattern, text) == float(re.fullmatch(pattern, text) is not None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=3), one, max_size=3),
    max_leaves=8,
)


@given(JSON)
@settings(deadline=None)
def test_an_answer_is_of_the_schema_that_names_it(value: object) -> None:
    assert verify("json_schema", json.dumps({"const": value}), json.dumps(value)) == 1.0
    assert verify("json_schema", json.dumps({"not": {}}), json.dumps(value)) == 0.0
    assert verify("json_schema", "{}", json.dumps(value)[:-1] + "}{") == 0.0


@given(st.lists(JSON | st.sampled_from([0, 1, 0.0, 1.0, 1.5]), max_size=4))
@settings(deadline=None)
def test_items_are_unique_exactly_where_jsonschema_says_so(items: list[object]) -> None:
    unique = {"uniqueItems": True}
    assert verify("json_schema", json.dumps(unique), json.dumps(items)) == Draft202012Validator(unique).is_valid(items)


@pytest.mark.parametrize(
    ("check", "answer", "text"),
    [
        ("regex", "(a+)+b", "a" * 50_000),
        ("regex", "(?:a|a)*b", "a" * 50_000),
        ("json_schema", '{"type": "string", "pattern": "^(a+)+$"}', json.dumps("a" * 50_000 + "b")),
        ("json_schema", "{}", "[" * 40_000 + "]" * 40_000),
        ("json_schema", '{"$ref": "#"}', "1"),
        (
            "json_schema",
            '{"type": "array", "minItems": 1, "items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}',
            "[" * 60 + "]" * 60,
        ),
        ("json_schema", '{"multipleOf": 0.1}', "1" + "0" * 4000),
        ("json_schema", '{"uniqueItems": true}', json.dumps([*({"a": number} for number in range(6000)), {"a": 5999}])),
        ("json_schema", '{"type": "number"}', "NaN"),
        ("json_schema", "{}", "1" * 90_000),
        ("number", "1", "9" * 99_999),
        ("exact", "a", "a " * 200_000),
    ],
)
def test_a_hostile_answer_or_pattern_costs_no_time_and_gets_no_reward(check: str, answer: str, text: str) -> None:
    usable(check, answer)
    began = time.process_time()
    assert verify(check, answer, text) == 0.0
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("check", "answer", "why"),
    [
        ("taste", "good", "none of number"),
        ("number", "none", "no number"),
        ("exact", " ", "blank"),
        ("regex", "(", "RE2"),
        ("regex", r"(a)\1", "RE2"),
        ("regex", "a)|(b", "RE2"),
        ("regex", r"\Qa", "RE2"),
        ("regex", "", "blank"),
        ("json_schema", "{", "no JSON"),
        ("json_schema", '{"type": "thing"}', "no JSON schema"),
        ("json_schema", '{"$ref": "https://example.org/schema"}', "not in it"),
        ("json_schema", '{"$ref": "#/$defs/missing"}', "not in it"),
        ("json_schema", '{"patternProperties": {"(a+)+$": true}}', "no time can be promised"),
        ("json_schema", '{"properties": {"a": {"pattern": "(?=a)"}}}', "RE2"),
    ],
)
def test_what_nothing_can_be_checked_against_is_refused(check: str, answer: str, why: str) -> None:
    with pytest.raises(BadCheck, match=re.escape(why)):
        usable(check, answer)


@pytest.mark.parametrize(
    ("text", "answer", "well_formed"),
    [
        ("<think>2 and 2</think> 4", "4", True),
        ("  <think>\n2\n</think>\n\n4\n", "4", True),
        ("4", "4", False),
        ("<think></think> 4", "4", False),
        ("<think>2</think>", "", False),
        ("<think>2 4", "", False),
        ("so <think>2</think> 4", "4", False),
        ("<think>1</think><think>2</think> 4", "4", False),
        ("2</think> 4", "4", False),
        ("<think>2</think> 4 <think>5", "", False),
    ],
)
def test_a_thought_is_taken_off_its_answer(text: str, answer: str, well_formed: bool) -> None:
    found = parts(text)
    assert (found.answer, found.well_formed) == (answer, well_formed)


@given(st.text(alphabet="ab1 \n", min_size=1).filter(str.strip), st.text(alphabet="ab1 \n", min_size=1).filter(str.strip))
@settings(deadline=None)
def test_a_thought_and_an_answer_put_together_come_apart_again(thought: str, answer: str) -> None:
    found = parts(f"<think>{thought}</think>{answer}")
    assert (found.thought, found.answer, found.well_formed) == (thought.strip(), answer.strip(), True)


def test_a_number_in_an_open_thought_earns_nothing() -> None:
    assert reward("number", "4", "<think>4", thinking=True) == (0.0, 0.0)
    assert reward("number", "4", "<think>3</think>4", thinking=True) == (1.0, 1.0)
    assert reward("number", "4", "4", thinking=True) == (1.0, 0.0)
    assert reward("number", "4", "<think>4", thinking=False) == (1.0, 0.0)
