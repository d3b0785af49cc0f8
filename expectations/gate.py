"""The gate: judges a dataset by a suite of expectations, and the one door of Great Expectations.

Rows are judged shard by shard into counts that sum exactly (`counts.combine`): by the kernels where they give what Great Expectations
would give, else by itself over pandas. What no shard knows alone is judged on the profile row. An expectation that cannot be evaluated
is never mixed with one that failed. Great Expectations is imported where it is needed, once per process (6-10 s); it loads and checks
every suite.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads

from expectations import kernels
from expectations.counts import ShardCheck, ShardResult, combine, identity, not_applicable
from expectations.numbers import unmeasured
from expectations.page import Section
from expectations.profile import profile
from expectations.schemas import OPTIONAL
from expectations.suites import Expectation, Suite, SuiteError, did_you_mean, examined, read_suite, suite_names, suite_path
from expectations.verdict import MAX_SAMPLES, SAMPLE_CHARS, CheckResult, Sample

# map expectations whose verdict on a row depends on other rows, or that give no counts: their shards cannot be summed
UNSUMMABLE = frozenset(
    {
        "expect_column_value_z_scores_to_be_less_than",
        "expect_column_values_to_be_decreasing",
        "expect_column_values_to_be_in_type_list",
        "expect_column_values_to_be_increasing",
        "expect_column_values_to_be_of_type",
        "expect_column_values_to_be_unique",
        "expect_column_values_to_not_be_outliers",
        "expect_compound_columns_to_be_unique",
    }
)
# one context and one batch slot per process: two threads in it would judge each other's rows
_LOCK = threading.Lock()


def load_suite(name: str) -> Suite:
    """Read a suite and check each expectation's type and arguments against Great Expectations itself.

    Raises:
        SuiteError: with every problem found: file, index, key, value and the nearest valid type or argument.
    """
    suite, problems = examined(name)
    problems += [
        f"{suite_path(name)}: expectations[{index}].{problem}"
        for index, expectation in enumerate(suite.expectations if suite else ())
        for problem in _problems(expectation)
    ]
    if suite is None or problems:
        raise SuiteError("\n".join(problems))
    return suite


def judged(
    title: str,
    rows: pads.Dataset,
    suite_name: str,
    judge_rows: Callable[[Suite, list[str]], Iterable[ShardResult]],
    *,
    facts: Mapping[str, float] | None = None,
    inapplicable: Mapping[str, str] | None = None,
    whole: bool = True,
) -> Section:
    """Hold a dataset against a suite.

    Args:
        title: name of the dataset for people.
        rows: the dataset.
        suite_name: the suite, as `load_suite` takes it.
        judge_rows: gives the results of `validate_shard` for all parts of the rows, read in these columns.
        facts: numbers measured elsewhere; see `profile`.
        inapplicable: numbers that it cannot have; see `check_dataset`.
        whole: profile all that the columns allow, not only what the suite asks for.
    """
    suite = read_suite(suite_name)
    with ThreadPoolExecutor(1) as beside:  # DuckDB works without Python: while Great Expectations is imported and workers start
        measured = beside.submit(profile, rows, facts, asked=suite.numbers, whole=whole)
        suite = load_suite(suite_name)
        able, without = _able(suite, rows.schema.names)
        results = list(judge_rows(able, _columns(able.on_rows.values(), rows.schema.names)))
        numbers = measured.result()
    checks = [*combine(results, able), *without, *check_dataset(numbers, suite, inapplicable)]
    return Section(title, suite, checks, numbers)


def judged_table(title: str, table: pa.Table, suite_name: str, facts: Mapping[str, float]) -> Section:
    """Hold a small table in memory, and numbers measured elsewhere, against a suite; a figure that was not measured is not asked for.

    Great Expectations is imported only for a suite of somebody's own, or for what the kernels leave to it.
    """
    suite = read_suite(suite_name) if suite_name in suite_names() else load_suite(suite_name)
    numbers = profile(pads.dataset(table), facts, asked=suite.numbers, whole=False)
    checks = combine([validate_shard(table, suite)], suite)
    return Section(title, suite, [*checks, *check_dataset(numbers, suite, unmeasured(suite.numbers, facts))], numbers)


def _able(suite: Suite, names: Iterable[str]) -> tuple[Suite, list[CheckResult]]:
    """The suite without expectations on rows that lack an optional column, and the results of these."""
    absent = {name: reason for name, reason in OPTIONAL.get(suite.schema_name, {}).items() if name not in names}
    without = {index: absent[e.column] for index, e in suite.on_rows.items() if e.column in absent}
    able = tuple(e for index, e in enumerate(suite.expectations) if index not in without)
    return suite.model_copy(update={"expectations": able}), [
        not_applicable(suite.expectations[index], reason) for index, reason in without.items()
    ]


def validate_shard(table: pa.Table, suite: Suite) -> ShardResult:
    """Judge the rows of one shard; a column that is not there is an error of its expectations, never an exception."""
    checks: dict[int, ShardCheck | None] = {}
    for index, expectation in suite.on_rows.items():
        error = _missing(expectation, table.column_names, "the table")
        nothing_to_judge = error or not table.num_rows
        checks[index] = ShardCheck(index, error=error) if nothing_to_judge else kernels.check(index, expectation, table)
    left = {index: suite.expectations[index] for index, check in checks.items() if check is None}
    checks |= by_great_expectations(table, left) if left else {}
    return ShardResult(table.num_rows, tuple(check for check in checks.values() if check is not None))


def by_great_expectations(table: pa.Table, asked: Mapping[int, Expectation]) -> dict[int, ShardCheck]:
    """The same by Great Expectations alone, over pandas: for what the kernels leave to it, and what they are held against."""
    results = _evaluate(_frame(table, asked.values()), asked)
    return {index: _shard_check(index, asked[index], results[index]) for index in asked}


def check_dataset(
    numbers: Mapping[str, float | int | None], suite: Suite, inapplicable: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Judge the profile row and its facts by the suite's expectations of scope `dataset`.

    Args:
        numbers: the profile.
        suite: the suite.
        inapplicable: numbers that this dataset cannot have, each with the reason: they are neither asked for nor missed.
    """
    without = {index: (inapplicable or {}).get(e.column) for index, e in enumerate(suite.expectations)}
    asked = {index: e for index, e in enumerate(suite.expectations) if e.scope == "dataset"}
    errors = {index: _missing(e, numbers, "the profile") or _empty(e, numbers) for index, e in asked.items()}
    able = {index: e for index, e in asked.items() if errors[index] is None}
    quick = {index: kernels.check(index, e, pa.table({e.column: [numbers[e.column]]})) for index, e in able.items()}
    left = {index: e for index, e in able.items() if quick[index] is None}
    results = _evaluate(pd.DataFrame([dict(numbers)]), left) if left else {}
    checks = []
    for index, expectation in asked.items():
        if (reason := without[index]) and errors[index]:
            checks.append(not_applicable(expectation, reason))
            continue
        known = quick.get(index)
        error = errors[index] or (None if known else _error(results[index]))
        holds = error is None and (not known.unexpected_count if known else bool(results[index].success))
        checks.append(
            CheckResult(
                **identity(expectation),
                success=holds,
                evaluated=error is None,
                observed=numbers.get(expectation.column),
                error=error,
            )
        )
    return checks


@lru_cache(maxsize=1)
def _batches() -> tuple[Any, Any]:
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)  # it tells of every folder that it makes
    context = gx.get_context(mode="ephemeral")
    # GX reads a mapping here; without one it draws a progress bar for every batch
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batches = context.data_sources.add_pandas("shards").add_dataframe_asset("rows")
    return gx, batches.add_batch_definition_whole_dataframe("all")


def _evaluate(frame: pd.DataFrame, asked: Mapping[int, Expectation]) -> dict[int, Any]:
    with _LOCK:
        gx, batches = _batches()
        # results come back in another order: `meta` brings our index home
        configs = [{"type": e.type, "kwargs": dict(e.kwargs), "meta": {"index": index}} for index, e in asked.items()]
        suite = gx.ExpectationSuite(name="asked", expectations=configs)
        # the rows themselves and not their index list: GX builds that list in Python, 20 s for 100,000 failing rows
        form = {"result_format": "BASIC", "partial_unexpected_count": MAX_SAMPLES, "include_unexpected_rows": True}
        outcome = batches.get_batch(batch_parameters={"dataframe": frame}).validate(suite, result_format=form)
        return {one.expectation_config.meta["index"]: one for one in outcome.results}


def _columns(asked: Iterable[Expectation], names: Iterable[str]) -> list[str]:
    expectations = list(asked)
    wanted = {"doc_id", *(name for e in expectations for name in e.columns)}
    filtered = any(e.kwargs.get("row_condition") for e in expectations)
    return [name for name in names if filtered or name in wanted]


def _frame(table: pa.Table, asked: Iterable[Expectation]) -> pd.DataFrame:
    return table.select(_columns(asked, table.column_names)).to_pandas()


def _shard_check(index: int, expectation: Expectation, result: Any) -> ShardCheck:
    if error := _error(result):
        return ShardCheck(index, error=error)
    counts, rows = result.result, result.result.get("unexpected_rows")
    samples: list[Sample] = []
    for row in [] if rows is None else rows.head(MAX_SAMPLES).to_dict("records"):
        value = ", ".join("null" if _is_null(row[name]) else str(row[name]) for name in expectation.columns)
        doc_id = row.get("doc_id")
        samples.append(Sample(None if _is_null(doc_id) else str(doc_id), value[:SAMPLE_CHARS]))
    return ShardCheck(
        index,
        element_count=int(counts["element_count"]),
        # the expectations about nulls count a null as unexpected or as right, never as missing
        missing_count=int(counts.get("missing_count", 0)),
        unexpected_count=int(counts["unexpected_count"]),
        samples=tuple(samples),
    )


def _is_null(value: Any) -> bool:
    return value is None or bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _missing(expectation: Expectation, columns: Iterable[str], where: str) -> str | None:
    have = list(columns)
    for name in expectation.columns:
        if name not in have:
            return f"{where} has no column {name!r}{did_you_mean(name, have)}"
    return None


def _empty(expectation: Expectation, numbers: Mapping[str, Any]) -> str | None:
    # GX calls a null vacuously right; a number that could not be measured is not right
    nothing = [name for name in expectation.columns if pd.isna(numbers[name])]
    return f"{nothing[0]} has no value: the dataset has no row to measure it on" if nothing else None


def _error(result: Any) -> str | None:
    info = result.exception_info or {}
    raised = [info] if "raised_exception" in info else [one for one in info.values() if isinstance(one, dict)]
    messages = sorted(str(one.get("exception_message")) for one in raised if one.get("raised_exception"))
    return messages[0].strip() if messages else None


def _problems(expectation: Expectation) -> list[str]:
    _batches()
    from great_expectations.expectations import expectation as kinds
    from great_expectations.expectations import registry

    names = registry.list_registered_expectation_implementations()
    row_wise = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    summable = [name for name in names if issubclass(registry.get_expectation_impl(name), row_wise) and name not in UNSUMMABLE]
    if expectation.type not in names:
        return [f"type: no expectation {expectation.type!r}{did_you_mean(expectation.type, names)}"]
    if expectation.scope == "shard" and expectation.type not in summable:
        return [
            f"type: {expectation.type!r} cannot be summed over shards; ask the profile instead (scope 'dataset', "
            f"a column such as 'duplicate_doc_ids'){did_you_mean(expectation.type, summable)}"
        ]
    kind = registry.get_expectation_impl(expectation.type)
    if expectation.scope == "dataset" and "column" not in expectation.kwargs:
        return ["kwargs.column: missing; a dataset expectation names one number of the profile or one fact"]
    try:
        kind(**expectation.kwargs)
    except ValueError as error:
        return _argument_problems(expectation, kind, error)
    return []


def _argument_problems(expectation: Expectation, kind: Any, error: ValueError) -> list[str]:
    # GX answers with a pydantic v1 error: a list of {"loc", "msg"}, several per argument for its unions
    problems: dict[str, str] = {}
    for one in getattr(error, "errors", list)():
        key = str(one["loc"][0])
        got = f" (got {expectation.kwargs[key]!r})" if key in expectation.kwargs else ""
        near = did_you_mean(key, kind.__fields__) if one["type"] == "value_error.extra" else ""
        problems.setdefault(key, f"kwargs{'' if key == '__root__' else f'.{key}'}: {one['msg']}{got}{near}")
    return list(problems.values()) or [f"kwargs: {error}"]
