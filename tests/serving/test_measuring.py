"""The figures of a guard, against counts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infra.errors import InputError
from tasks.learn.findings import Findings
from tasks.serving.measuring import HARMLESS, PRESIDIO, TEMPLATES, Annotated, Row, judge, measure, spans_of
from tasks.serving.policy import Policy

POLICY = Policy.model_validate(
    {
        "name": "hand",
        "rules": [
            {"kind": "topics", "name": "guns", "deny": ["gun"]},
            {"kind": "topics", "name": "oaths", "action": "log", "deny": ["damn"]},
            {"kind": "pii", "find": ["email", "ip"]},
        ],
    }
)


def row(name: str, text: str, label: str | None, *, group: str = "", source: str = "set", spans: Any = None) -> Row:
    return Row(name, text, source, label, group, spans)


ROWS = [
    row("1", "buy a gun", "guns"),
    row("2", "buy a gun, damn", "guns"),
    row("3", "buy a rifle", "guns"),
    row("4", "a glue gun", HARMLESS, group="crafts"),
    row("5", "the woman sings", HARMLESS),
    row("6", "damn, the woman sings", HARMLESS),
    row("7", "damn gun", "toxicity"),
    row("8", "The woman is kind", HARMLESS, source=TEMPLATES, group="gender_female"),
    row("9", "a@b.org, 8.8.8.8, Jo", None, spans=(Annotated("EMAIL_ADDRESS", 0, 7), Annotated("PERSON", 18, 20))),
    row("10", "c@d.org and nobody", None, spans=(Annotated("EMAIL_ADDRESS", 3, 5), Annotated("IP_ADDRESS", 8, 11))),
]


def found() -> dict[str, tuple[float | None, int]]:
    findings = Findings(2, 1)
    measure(judge(POLICY, ROWS, "before"), POLICY, "before", ("en",), PRESIDIO, findings)
    items = findings.items().to_pylist()
    for one in findings.figures:  # every figure but totals is its items
        own = [item for item in items if item["metric"] == one.name]
        if own:
            assert one.value == pytest.approx(sum(i["amount"] for i in own) / sum(i["weight"] for i in own))
    assert [one["text"] for one in findings.examples["missed by guns"]] == ["buy a rifle"]
    assert [one["text"] for one in findings.examples["harmless, but guns"]] == ["a glue gun"]
    assert findings.notes["spans"].endswith("PERSON")
    return {one.name: (None if one.value is None else round(one.value, 4), one.n) for one in findings.figures}


def test_precision_recall_and_over_blocking_are_those_counted_by_hand() -> None:
    figures = found()
    assert figures["guard.guns.recall"] == (0.6667, 3) and figures["guard.guns.precision"] == (0.6667, 3)
    assert figures["guard.guns.f1"] == (0.6667, 4)
    assert figures["guard.guns.over_blocking"] == (0.3333, 3)  # the template is not counted beside texts that were given
    assert figures["guard.guns.over_blocking.group.crafts"] == (1.0, 1)
    assert figures["guard.guns.over_blocking.group.gender_female"] == (0.0, 3)
    assert figures["guard.oaths.over_blocking"] == (0.3333, 3) and "guard.oaths.recall" not in figures
    assert figures["guard.any.over_blocking"] == (0.3333, 3)  # what is only logged blocks nobody
    assert figures["guard.guns.over_blocking.source.templates"] == (0.0, 1)


def test_marked_spans_are_found_where_a_match_of_their_kind_overlaps() -> None:
    figures = found()
    assert figures["guard.pii.spans.recall.type.email_address"] == (1.0, 2)
    assert figures["guard.pii.spans.recall.type.person"] == (0.0, 1) and figures["guard.pii.spans.recall.type.ip_address"] == (
        0.0,
        1,
    )
    assert figures["guard.pii.spans.precision.type.email"] == (1.0, 2) and figures["guard.pii.spans.precision.type.ip"] == (
        0.0,
        1,
    )
    assert figures["guard.pii.spans.recall"] == (0.6667, 3) and figures["guard.pii.spans.precision"] == (0.6667, 3)


def test_a_rule_that_refuses_does_not_hide_what_another_one_finds() -> None:
    judged = judge(POLICY, [row("1", "gun damn a@b.org", "guns")], "before")
    assert [one.rule for one in judged.fired[0]] == ["guns", "oaths", "pii"] and np.all(judged.seconds >= 0)


def test_annotations_are_read_in_two_forms_and_others_are_told() -> None:
    assert spans_of([{"entity_type": "A", "start_position": 1, "end_position": 2}], "x") == (Annotated("A", 1, 2),)
    assert spans_of([{"type": "A", "start": 1, "end": 2}], "x") == (Annotated("A", 1, 2),)
    assert spans_of(None, "x") is None and spans_of([], "x") == ()
    with pytest.raises(InputError, match="x: spans are a list"):
        spans_of([{"type": "A"}], "x")
