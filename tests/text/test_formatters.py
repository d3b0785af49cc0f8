"""Rows of each format as turns: what they become, and what is refused and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.text.conversations import ConversationSource
from tasks.text.formatters import FORMATS, at_path, problem_of
from tasks.text.turns import Unusable


def made(form: str, row: dict[str, Any], **source: Any) -> list[tuple[str, str]]:
    """The turns of a row as (first letter of the role, content)."""
    one = ConversationSource.model_validate({"kind": "folder", "path": "rows.jsonl", "format": form, **source})
    shape = FORMATS[one.format]
    values = {name: at_path(row, one.fields.get(name, usual)) for name, usual in shape.fields.items()}
    return [(turn["role"][0], turn["content"]) for turn in shape.make(values, one.wording)]


TOPICS = {"labels": {"0": "sports", "1": "politics"}}
KINDS = {"labels": {"PER": "person", "LOC": "place"}}


@pytest.mark.parametrize(
    ("form", "row", "source", "turns"),
    [
        ("prompt_response", {"prompt": "a", "response": "b", "system": "s"}, {}, [("s", "s"), ("u", "a"), ("a", "b")]),
        (
            "prompt_response",
            {"q": {"text": "a"}, "a": "b"},
            {"fields": {"prompt": "q.text", "response": "a"}},
            [("u", "a"), ("a", "b")],
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            {},
            [("u", "ab")],
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {},
            [("u", "a"), ("a", "b")],
        ),
        ("alpaca", {"instruction": "Do", "input": "this", "output": "done"}, {}, [("u", "Do\n\nthis"), ("a", "done")]),
        ("alpaca", {"instruction": "Do", "input": " ", "output": "done"}, {}, [("u", "Do"), ("a", "done")]),
        (
            "sentiment",
            {"text": "fine", "label": "positive"},
            {},
            [
                ("u", "Is the sentiment of this text negative, neutral, positive? Answer with one of these words.\n\nfine"),
                ("a", "positive"),
            ],
        ),
        (
            "classification",
            {"text": "t", "label": 1},
            {**TOPICS, "template": "{labels}: {text}"},
            [("u", "sports, politics: t"), ("a", "politics")],
        ),
        (
            "ner",
            {"text": "Ada in Rome", "entities": [{"start": 0, "end": 3, "label": "PER"}, {"text": "Rome", "type": "LOC"}]},
            {**KINDS, "template": "{text}"},
            [("u", "Ada in Rome"), ("a", "person: Ada\nplace: Rome")],
        ),
        (
            "ner",
            {"tokens": ["Ada", "Lovelace", "in", "Rome"], "tags": ["B-PER", "I-PER", "O", "I-LOC"]},
            {**KINDS, "template": "{text}"},
            [("u", "Ada Lovelace in Rome"), ("a", "person: Ada Lovelace\nplace: Rome")],
        ),
        (
            "ner",
            {"text": "it rains", "entities": []},
            {**KINDS, "template": "{text}", "nothing": "no"},
            [("u", "it rains"), ("a", "no")],
        ),
        (
            "qa",
            {"context": "c", "question": "q", "answers": {"text": ["x", "y"], "answer_start": [0, 1]}},
            {"template": "{question}|{context}"},
            [("u", "q|c"), ("a", "x")],
        ),
        (
            "qa",
            {"context": "c", "question": "q", "answers": {"text": []}},
            {"template": "{question} {context}", "nothing": "?"},
            [("u", "q c"), ("a", "?")],
        ),
        ("qa", {"question": "q", "answers": "x"}, {}, [("u", "q"), ("a", "x")]),
        ("summary", {"document": "d", "summary": "s"}, {}, [("u", "Summarise this text.\n\nd"), ("a", "s")]),
        (
            "translation",
            {"translation": {"en": "mill", "de": "Mühle"}},
            {"template": "In German: {text}", "fields": {"text": "translation.en", "translation": "translation.de"}},
            [("u", "In German: mill"), ("a", "Mühle")],
        ),
    ],
)
def test_a_row_becomes_turns(form: str, row: dict[str, Any], source: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    assert made(form, row, **source) == turns


@pytest.mark.parametrize(
    ("form", "row", "source", "rule"),
    [
        ("prompt_response", {"prompt": "a"}, {}, "no_field"),
        ("prompt_response", {"prompt": "a", "response": 3}, {}, "not_text"),
        ("messages", {"messages": "hello"}, {}, "not_a_list"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, {}, "not_text"),
        ("sharegpt", {"conversations": [{"from": "bing", "value": "a"}]}, {}, "unknown_role"),
        ("sentiment", {"text": "t", "label": "great"}, {}, "unknown_label"),
        ("classification", {"text": "t"}, TOPICS, "no_field"),
        ("ner", {"text": "Ada", "entities": [{"text": "Rome", "label": "LOC"}]}, KINDS, "entity_not_in_text"),
        ("ner", {"text": "Ada", "entities": [{"start": 1, "end": 9, "label": "PER"}]}, KINDS, "entity_not_in_text"),
        ("ner", {"tokens": ["a", "b"], "tags": ["O"]}, KINDS, "tokens_without_tags"),
        ("ner", {"tokens": ["a"], "tags": ["X-PER"]}, KINDS, "unknown_label"),
        ("ner", {"tokens": ["a"], "tags": ["B-ORG"]}, KINDS, "unknown_label"),
        ("qa", {"question": "q"}, {}, "no_field"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_rule(form: str, row: dict[str, Any], source: dict[str, Any], rule: str) -> None:
    with pytest.raises(Unusable) as refused:
        made(form, row, **source)
    assert refused.value.rule == rule


TURN = st.tuples(st.sampled_from(("system", "user", "assistant", "tool")), st.sampled_from(("a", " ", "b\0", "\ud800")))


@given(st.lists(TURN, max_size=6))
def test_turns_are_a_conversation_exactly_if_a_plain_rule_says_so(drawn: list[tuple[str, str]]) -> None:
    turns = [{"role": role, "content": content} for role, content in drawn]
    roles = "".join(role[0] if role != "assistant" else "a" for role, _ in drawn)
    good_roles = roles.removeprefix("s") in {"ua" * times for times in range(1, 4)}
    assert (problem_of(turns) is None) == (good_roles and all(content == "a" for _, content in drawn))


@pytest.mark.parametrize(
    ("turns", "rule"),
    [
        ("", "no_turns"),
        ("s", "no_turns"),
        ("u", "assistant_is_not_last"),
        ("uau", "assistant_is_not_last"),
        ("uua", "roles_do_not_alternate"),
        ("aua", "roles_do_not_alternate"),
        ("usua", "roles_do_not_alternate"),
        ("ut", "unknown_role"),
    ],
)
def test_the_rule_says_what_is_wrong(turns: str, rule: str) -> None:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    found = problem_of([{"role": names[one], "content": "x"} for one in turns])
    assert found is not None and found[0] == rule


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"format": "classification"}, "labels: a source of format classification must name them"),
        ({"format": "translation"}, "template: a source of format translation must have one"),
        ({"format": "summary", "template": "short"}, r"template: lacks \{text\}"),
        ({"format": "summary", "template": "{text} {labels}"}, r"template: \{labels\} is no name of summary; these are: text"),
        ({"format": "summary", "template": "{text"}, "template: .* a brace that is meant as one is written twice"),
        ({"format": "alpaca", "template": "{text}"}, "template: a source of format alpaca has none"),
        ({"format": "alpaca", "labels": {"a": "b"}}, "labels: a source of format alpaca has none"),
        (
            {"format": "alpaca", "fields": {"prompt": "p"}},
            "fields: 'prompt' is no field of alpaca; these are: instruction, input",
        ),
        ({"format": "alpaca", "dataset": "a/b"}, "a source of kind folder has path and no dataset"),
    ],
)
def test_a_source_that_does_not_fit_together_is_an_error(source: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ConversationSource.model_validate({"kind": "folder", "path": "rows.jsonl", **source})
