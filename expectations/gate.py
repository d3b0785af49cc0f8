"""The gate: judges a dataset by a suite of expectations, and the one door of Great Expectations.

Rows are judged shard by shard (pandas, on Dask workers) into counts that sum exactly; `combine` applies `mostly` to the sums, so
the answer is that of the whole table for any cut into shards. What no shard knows alone is judged on the profile row.
An expectation that cannot be evaluated is never mixed with one that failed. Great Expectations is imported once per
worker (6-10 s) and then takes about 0.4 s for 100,000 rows and four expectations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import pyarrow as pa

from expectations.suites import Expectation, Suite, SuiteError, did_you_mean, read_suite, suite_path
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


@dataclass(frozen=True)
class ShardCheck:
    """One expectation on one shard: counts that sum, up to MAX_SAMPLES failing rows, or why it could not be evaluated."""

    index: int
    element_count: int = 0
    missing_count: int = 0
    unexpected_count: int = 0
    samples: tuple[Sample, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class ShardResult:
    """What a suite's shard expectations say of one shard."""

    num_rows: int
    checks: tuple[ShardCheck, ...]


def load_suite(name: str) -> Suite:
    """Read a suite and check each expectation's type and arguments against Great Expectations itself.

    Raises:
        SuiteError: with every problem found: file, index, key, value and the nearest valid type or argument.
    """
    suite = read_suite(name)
    problems = [
        f"{suite_path(name)}: expectations[{index}].{problem}"
        for index, expectation in enumerate(suite.expectations)
        for problem in _problems(expectation)
    ]
    if problems:
        raise SuiteError("\n".join(problems))
    return suite


def validate_shard(table: pa.Table, suite: Suite) -> ShardResult:
    """Judge the rows of one shard; a column that is not there is an error of its expectations, never an exception."""
    asked = {index: e for index, e in enumerate(suite.expectations) if e.scope == "shard"}
    errors = {index: _missing(e, table.column_names, "the table") for index, e in asked.items()}
    able = {index: e for index, e in asked.items() if errors[index] is None}
    results = _evaluate(_frame(table, able.values()), able) if table.num_rows and able else {}
    checks = []
    for index, expectation in asked.items():
        if index in results:
            checks.append(_shard_check(index, expectation, results[index]))
        else:
            checks.append(ShardCheck(index, error=errors[index]))
    return ShardResult(table.num_rows, tuple(checks))


def combine(results: Iterable[ShardResult], suite: Suite) -> list[CheckResult]:
    """Sum the counts of all shards and apply `mostly` to the sums; the order of the shards does not matter."""
    by_index: dict[int, list[ShardCheck]] = {i: [] for i, e in enumerate(suite.expectations) if e.scope == "shard"}
    for result in results:
        for check in result.checks:
            by_index[check.index].append(check)
    return [_combined(suite.expectations[index], checks) for index, checks in by_index.items()]


def check_dataset(profile: Mapping[str, float | int | None], suite: Suite) -> list[CheckResult]:
    """Judge the profile row and its facts by the suite's expectations of scope `dataset`."""
    asked = {index: e for index, e in enumerate(suite.expectations) if e.scope == "dataset"}
    errors = {index: _missing(e, profile, "the profile") or _empty(e, profile) for index, e in asked.items()}
    able = {index: e for index, e in asked.items() if errors[index] is None}
    results = _evaluate(pd.DataFrame([dict(profile)]), able) if able else {}
    checks = []
    for index, expectation in asked.items():
        error = errors[index] or _error(results[index])
        checks.append(
            CheckResult(
                **_identity(expectation),
                success=error is None and bool(results[index].success),
                evaluated=error is None,
                observed=profile.get(expectation.column),
                error=error,
            )
        )
    return checks


@lru_cache(maxsize=1)
def _batches() -> tuple[Any, Any]:
    import great_expectations as gx

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


def _frame(table: pa.Table, asked: Iterable[Expectation]) -> pd.DataFrame:
    expectations = list(asked)
    wanted = {"doc_id", *(name for e in expectations for name in e.columns)}
    filtered = any(e.kwargs.get("row_condition") for e in expectations)
    return table.select([name for name in table.column_names if filtered or name in wanted]).to_pandas()


def _shard_check(index: int, expectation: Expectation, result: Any) -> ShardCheck:
    if error := _error(result):
        return ShardCheck(index, error=error)
    counts, rows = result.result, result.result.get("unexpected_rows")
    samples: list[Sample] = []
    for row in [] if rows is None else rows.head(MAX_SAMPLES).to_dict("records"):
        value = ", ".join("null" if pd.isna(row[name]) else str(row[name]) for name in expectation.columns)
        doc_id = row.get("doc_id")
        samples.append(Sample(None if pd.isna(doc_id) else str(doc_id), value[:SAMPLE_CHARS]))
    return ShardCheck(
        index,
        element_count=int(counts["element_count"]),
        # the expectations about nulls count a null as unexpected or as right, never as missing
        missing_count=int(counts.get("missing_count", 0)),
        unexpected_count=int(counts["unexpected_count"]),
        samples=tuple(samples),
    )


def _combined(expectation: Expectation, checks: Sequence[ShardCheck]) -> CheckResult:
    errors = sorted({check.error for check in checks if check.error})
    if errors or not checks:
        where = f" (in {sum(check.error is not None for check in checks)} of {len(checks)} shards)" if errors else ""
        error = f"{errors[0]}{where}" if errors else "no shard was judged"
        return CheckResult(**_identity(expectation), success=False, evaluated=False, observed=None, error=error)
    judged = sum(check.element_count - check.missing_count for check in checks)
    unexpected = sum(check.unexpected_count for check in checks)
    # as GX: no value to judge is no failure; and the same division, so that `mostly` cuts at the same count
    held = (float(judged) - float(unexpected)) / float(judged) if judged else 1.0
    samples = sorted({sample for check in checks for sample in check.samples}, key=lambda s: (s.doc_id or "", s.value))
    return CheckResult(
        **_identity(expectation),
        success=held >= float(expectation.kwargs.get("mostly", 1.0)),
        evaluated=True,
        observed=held,
        unexpected_count=unexpected,
        unexpected_percent=100.0 * unexpected / judged if judged else 0.0,
        samples=tuple(samples[:MAX_SAMPLES]),
    )


def _identity(expectation: Expectation) -> dict[str, Any]:
    return {
        "expectation": expectation.type,
        "column": expectation.column,
        "severity": expectation.severity,
        "scope": expectation.scope,
        "threshold": _threshold(expectation),
        "note": expectation.note,
    }


def _threshold(expectation: Expectation) -> str:
    no = "not " if "_not_" in expectation.type else ""
    said = []
    for key, value in expectation.kwargs.items():
        if key in ("column", "column_A", "column_B", "column_list", "mostly"):
            continue
        number = f"{value:,}" if isinstance(value, int) else value
        words = {
            "min_value": f"at least {number}",
            "max_value": f"at most {number}",
            # ascii: a replacement character or a NUL must be seen to be read
            "regex": f"{no}matching {value!a}",
            "value_set": f"{no}one of {value}",
        }
        said.append(words.get(key, f"{key} {value}"))
    if expectation.scope == "shard":
        said.append(f"for {100 * float(expectation.kwargs.get('mostly', 1.0)):g} % of values")
    return ", ".join(said)


def _missing(expectation: Expectation, columns: Iterable[str], where: str) -> str | None:
    have = list(columns)
    for name in expectation.columns:
        if name not in have:
            return f"{where} has no column {name!r}{did_you_mean(name, have)}"
    return None


def _empty(expectation: Expectation, profile: Mapping[str, Any]) -> str | None:
    # GX calls a null vacuously right; a number that could not be measured is not right
    nothing = [name for name in expectation.columns if pd.isna(profile[name])]
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
