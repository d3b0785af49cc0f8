from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from expectations import kernels
from expectations.counts import ShardCheck
from expectations.gate import by_great_expectations
from expectations.schemas import SCHEMAS
from expectations.suites import Expectation, read_suite

TEXTS = ["", "a", "ab", "abc", "a\n", "A1", "1", "ä", "日本", "\0", "x\ufffdy", "a" * 200]
COLUMNS = {
    "text": (pa.string(), st.sampled_from(TEXTS)),
    "large": (pa.large_string(), st.sampled_from(TEXTS)),
    "small": (pa.int32(), st.integers(-4, 4)),
    "big": (pa.int64(), st.one_of(st.integers(-4, 4), st.sampled_from([2**53 + 1, -(2**60)]))),
    "byte": (pa.uint8(), st.integers(0, 5)),
    "single": (pa.float32(), st.one_of(st.sampled_from([0.1, float("nan"), float("inf")]), st.floats(-4, 4, width=32))),
    "double": (pa.float64(), st.one_of(st.sampled_from([0.1, float("nan"), float("-inf")]), st.floats(-4, 4))),
    "flag": (pa.bool_(), st.booleans()),
    "doc_id": (pa.string(), st.sampled_from(["p", "q"])),
}
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])
ROWS = st.lists(
    st.fixed_dictionaries({name: st.one_of(st.none(), value) for name, (_, value) in COLUMNS.items()}), min_size=1, max_size=12
)
PATTERNS = ["a", "^a$", "^[0-9a-f]+$", r"\d", r"\w$", "(?i)A", "\0", "\ufffd", "^(?=a)", "(?P<x>b)", r"a\Z", "", "b|1", "[^a]"]
NUMBERS = ("small", "big", "byte", "single", "double")
BOUND = st.one_of(st.none(), st.integers(-4, 4), st.sampled_from([0.1, 2.5, -0.0]))


def expectation(kind: str, **kwargs: Any) -> Expectation:
    return Expectation(type=f"expect_column_{kind}", kwargs=kwargs)


@st.composite
def asked(draw: st.DrawFn) -> Expectation:
    column = draw(st.sampled_from(list(COLUMNS)))
    texts = draw(st.sampled_from(["text", "large"]))
    low, high, strict = draw(BOUND), draw(BOUND), draw(st.sampled_from([{}, {"strict_min": True}, {"strict_max": True}]))
    if low is None and high is None:
        low = 1
    bounds = {**({} if low is None else {"min_value": low}), **({} if high is None else {"max_value": high}), **strict}
    values = draw(st.lists(st.sampled_from(TEXTS), max_size=3))
    return draw(
        st.sampled_from(
            [
                expectation("values_to_not_be_null", column=column, mostly=0.5),
                expectation("values_to_be_null", column=column),
                expectation("values_to_match_regex", column=texts, regex=draw(st.sampled_from(PATTERNS))),
                expectation("values_to_not_match_regex", column=texts, regex=draw(st.sampled_from(PATTERNS))),
                expectation("values_to_be_in_set", column=texts, value_set=values),
                expectation("values_to_not_be_in_set", column=texts, value_set=values),
                expectation("values_to_be_between", column=draw(st.sampled_from(NUMBERS)), **bounds),
                expectation("value_lengths_to_be_between", column=texts, **bounds),
                expectation("value_lengths_to_equal", column=texts, value=draw(st.integers(0, 3))),
            ]
        )
    )


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


EMPTY = dict.fromkeys(COLUMNS)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.lists(asked(), min_size=1, max_size=9))
@example([EMPTY, {**EMPTY, "text": "a\n"}], [expectation("values_to_match_regex", column="text", regex="^a$")])
@example([EMPTY, {**EMPTY, "small": 3}], [expectation("values_to_be_between", column="small", max_value=1)])
@example([EMPTY, {**EMPTY, "single": 0.1}], [expectation("values_to_be_between", column="single", max_value=0.1)])
def test_counts_samples_nulls_and_nans_are_those_of_great_expectations(
    rows: list[dict[str, Any]], many: list[Expectation]
) -> None:
    ours = {index: kernels.check(index, one, table(rows)) for index, one in enumerate(many)}
    known = {index: one for index, one in enumerate(many) if ours[index] is not None}
    theirs = by_great_expectations(table(rows), known) if known else {}
    assert {index: ours[index] for index in known} == theirs


def test_the_kernels_know_every_expectation_on_rows_of_the_suite_that_is_timed() -> None:
    suite = read_suite("published")
    rows = SCHEMAS[suite.schema_name].empty_table()
    assert len(suite.on_rows) > 5
    for index, asked in suite.on_rows.items():
        assert isinstance(kernels.check(index, asked, rows), ShardCheck), asked


@pytest.mark.parametrize(
    "left",
    [
        expectation("values_to_be_between", column="text", min_value=1),
        expectation("values_to_be_between", column="small", min_value=3, max_value=1),
        expectation("values_to_be_between", column="small", min_value=2**60),
        expectation("values_to_be_between", column="flag", min_value=0),
        expectation("values_to_be_in_set", column="small", value_set=[1]),
        expectation("values_to_be_in_set", column="text", value_set=["a", None]),
        expectation("values_to_not_be_null", column="text", row_condition="small > 1", condition_parser="pandas"),
        expectation("values_to_match_regex", column="text", regex="(a"),
        expectation("values_to_match_like_pattern", column="text", like_pattern="a%"),
    ],
)
def test_what_the_kernels_do_not_know_exactly_is_left_to_great_expectations(left: Expectation) -> None:
    assert kernels.check(0, left, table([{**EMPTY, "text": "a", "small": 1, "flag": True}])) is None
