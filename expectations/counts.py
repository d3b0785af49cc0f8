"""What a suite says of the parts of a table, as counts that sum exactly to the answer of the whole.

`mostly` is applied to the sums, so any cut into parts gives the same answer. Plain values that pickle and cross processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from expectations.suites import Expectation, Suite
from expectations.verdict import MAX_SAMPLES, CheckResult, Sample


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


def combine(results: Iterable[ShardResult], suite: Suite) -> list[CheckResult]:
    """Sum the counts of all shards and apply `mostly` to the sums; the order of the shards does not matter."""
    by_index: dict[int, list[ShardCheck]] = {index: [] for index in suite.on_rows}
    for result in results:
        for check in result.checks:
            by_index[check.index].append(check)
    return [_combined(suite.expectations[index], checks) for index, checks in by_index.items()]


def summed(results: Sequence[ShardResult], suite: Suite) -> ShardResult:
    """The results of the pieces of one shard, in their order, as that of the shard."""
    by_index: dict[int, list[ShardCheck]] = {index: [] for index in suite.on_rows}
    for result in results:
        for check in result.checks:
            by_index[check.index].append(check)
    checks = []
    for index, pieces in by_index.items():
        checks.append(
            ShardCheck(
                index,
                element_count=sum(piece.element_count for piece in pieces),
                missing_count=sum(piece.missing_count for piece in pieces),
                unexpected_count=sum(piece.unexpected_count for piece in pieces),
                samples=tuple(sample for piece in pieces for sample in piece.samples)[:MAX_SAMPLES],
                error=next((piece.error for piece in pieces if piece.error), None),
            )
        )
    return ShardResult(sum(result.num_rows for result in results), tuple(checks))


def identity(expectation: Expectation) -> dict[str, Any]:
    """What a result repeats of its expectation."""
    return {
        "expectation": expectation.type,
        "column": expectation.column,
        "severity": expectation.severity,
        "scope": expectation.scope,
        "threshold": _threshold(expectation),
        "note": expectation.note,
    }


def not_applicable(expectation: Expectation, reason: str) -> CheckResult:
    """The result of an expectation that this dataset has nothing for; it neither asks nor stops."""
    return CheckResult(**identity(expectation), success=True, evaluated=True, observed=None, applicable=False, error=reason)


def _combined(expectation: Expectation, checks: Sequence[ShardCheck]) -> CheckResult:
    errors = sorted({check.error for check in checks if check.error})
    if errors or not checks:
        where = f" (in {sum(check.error is not None for check in checks)} of {len(checks)} shards)" if errors else ""
        error = f"{errors[0]}{where}" if errors else "no shard was judged"
        return CheckResult(**identity(expectation), success=False, evaluated=False, observed=None, error=error)
    judged = sum(check.element_count - check.missing_count for check in checks)
    unexpected = sum(check.unexpected_count for check in checks)
    # as GX: no value to judge is no failure; and the same division, so that `mostly` cuts at the same count
    held = (float(judged) - float(unexpected)) / float(judged) if judged else 1.0
    samples = sorted({sample for check in checks for sample in check.samples}, key=lambda s: (s.doc_id or "", s.value))
    return CheckResult(
        **identity(expectation),
        success=held >= float(expectation.kwargs.get("mostly", 1.0)),
        evaluated=True,
        observed=held,
        unexpected_count=unexpected,
        unexpected_percent=100.0 * unexpected / judged if judged else 0.0,
        samples=tuple(samples[:MAX_SAMPLES]),
    )


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
