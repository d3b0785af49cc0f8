from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expectations.counts import combine
from expectations.gate import check_dataset, load_suite, validate_shard
from expectations.profile import profile
from expectations.proposal import as_text, propose
from expectations.suites import suite_names, suite_path
from expectations.verdict import Verdict, judge
from infra.errors import InputError

KINDS = {
    "id": (pa.string(), st.uuids().map(str)),
    "word": (pa.string(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)),
    "language": (pa.string(), st.sampled_from(["en", "de"])),
    "number": (pa.int64(), st.integers(-(2**62), 2**62)),
    "share": (pa.float64(), st.floats(allow_nan=True, allow_infinity=True)),
    "odd \"name'": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "flag": (pa.bool_(), st.booleans()),
    "many": (pa.list_(pa.int8()), st.lists(st.integers(0, 3), max_size=2)),
}
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in KINDS.items()])
ROWS = st.lists(
    st.fixed_dictionaries({name: st.one_of(st.none(), value) for name, (_, value) in KINDS.items()}), min_size=1, max_size=40
)


def judged(rows: pa.Table, folder: Path) -> tuple[dict[str, Any], Verdict]:
    drafted = propose(pads.dataset(rows), "mine", "here")
    path = folder / "mine.json"
    path.write_text(as_text(drafted))
    suite = load_suite(str(path))
    found = combine([validate_shard(rows, suite)], suite)
    found += check_dataset(profile(pads.dataset(rows), asked=suite.numbers, whole=False), suite)
    assert all(one.evaluated and one.applicable for one in found), [one for one in found if not one.evaluated]
    return drafted, judge(found)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_a_draft_loads_holds_on_its_data_and_says_what_was_seen(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    drafted, verdict = judged(pa.Table.from_pylist(rows, SCHEMA), tmp_path)
    assert verdict is Verdict.PASSED
    assert all(one["note"] for one in drafted["expectations"])


@pytest.mark.parametrize("share", [5e-324, -2e-308, 1.7976931348623157e308, 0.0])
def test_numbers_at_the_ends_of_what_a_float_can_be_are_bounds_too(tmp_path: Path, share: float) -> None:
    rows = pa.table({"share": [share, share / 2]})
    drafted, verdict = judged(rows, tmp_path)
    assert verdict is Verdict.PASSED and drafted["expectations"]


def test_a_draft_asks_for_what_a_person_would_see(tmp_path: Path) -> None:
    count = 400
    rows = pa.table(
        {
            "doc_id": [f"{n:032x}" for n in range(count)],
            "url": [f"https://a.example/{n}" for n in range(count)],
            "language": ["en"] * 300 + ["de"] * 100,
            "title": [None if n % 4 == 0 else f"Title {'x' * (n % 50)}" for n in range(count)],
            "score": [math.sin(n) for n in range(count)],
            "size": [n % 97 for n in range(count)],
        }
    )
    drafted, verdict = judged(rows, tmp_path)
    assert verdict is Verdict.PASSED and drafted["schema"] == "any"
    asked = {(one["type"].removeprefix("expect_column_"), one["kwargs"]["column"]): one for one in drafted["expectations"]}
    assert asked[("values_to_match_regex", "doc_id")]["kwargs"]["regex"] == "^[0-9a-f]{32}$"
    assert asked[("values_to_match_regex", "url")]["kwargs"]["regex"] == "^https?://"
    assert asked[("values_to_be_in_set", "language")]["kwargs"]["value_set"] == ["de", "en"]
    assert asked[("values_to_not_be_null", "title")]["kwargs"]["mostly"] == 0.73
    assert asked[("values_to_be_between", "duplicate_values_doc_id")]["severity"] == "critical"
    assert asked[("values_to_be_between", "language_share_en")]["kwargs"] == {
        "column": "language_share_en",
        "min_value": 0.65,
        "max_value": 0.85,
    }
    low, high = (asked[("values_to_be_between", "size")]["kwargs"][name] for name in ("min_value", "max_value"))
    assert low == 0 and 96 < high < 130
    assert ("values_to_be_in_set", "title") not in asked and ("values_to_be_between", "duplicate_values_size") not in asked


def test_a_score_or_fraction_that_stayed_within_1_is_asked_for_no_more_than_1(tmp_path: Path) -> None:
    values = [n / 400 for n in range(401)]
    rows = pa.table(
        {"language_score": values, "dup_line_fraction": values, "loss": values, "wild_score": [3 * one for one in values]}
    )
    drafted, verdict = judged(rows, tmp_path)
    assert verdict is Verdict.PASSED
    highest = {
        one["kwargs"]["column"]: one["kwargs"]["max_value"]
        for one in drafted["expectations"]
        if one["type"] == "expect_column_values_to_be_between" and one["kwargs"]["column"] in rows.column_names
    }
    assert (highest["language_score"], highest["dup_line_fraction"]) == (1, 1)
    assert highest["loss"] > 1.2 and highest["wild_score"] > 3.5


def test_columns_of_a_stage_give_a_suite_of_that_stage() -> None:
    columns = ("doc_id", "source", "offset", "num_tokens", "num_bytes")
    rows = pa.table({name: ["a"] if name in ("doc_id", "source") else [1] for name in columns})
    assert propose(pads.dataset(rows), "mine", "here")["schema"] == "token_documents"


def test_nothing_is_drafted_from_nothing() -> None:
    with pytest.raises(InputError, match="here: has no rows"):
        propose(pads.dataset(SCHEMA.empty_table()), "mine", "here")


@pytest.mark.parametrize("name", suite_names())
def test_a_draft_looks_like_the_suites_that_ship(name: str) -> None:
    text = suite_path(name).read_text()
    assert as_text(json.loads(text)) == text
