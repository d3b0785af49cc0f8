"""What the gate found and what follows from it: check results, the verdict over them, and the words for people.

Plain values that pickle and cross processes; no Great Expectations here. A critical expectation that failed *or could not be
evaluated* stops the flow, any other is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from infra import storage
from infra.errors import GristmillError

MAX_SAMPLES = 5
SAMPLE_CHARS = 160


class Verdict(StrEnum):
    """What the gate says of a dataset."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"


class GateFailed(GristmillError):
    """A critical expectation failed or could not be evaluated; the message says which, on what, and what to do."""


@dataclass(frozen=True)
class Sample:
    """A value that an expectation did not expect, cut to SAMPLE_CHARS, and the document it is in."""

    doc_id: str | None
    value: str


@dataclass(frozen=True)
class CheckResult:
    """One expectation on the whole dataset; `unexpected_percent` (0 to 100) is of the values that are not null."""

    expectation: str
    column: str
    severity: str
    scope: str
    success: bool
    evaluated: bool
    observed: float | str | None
    """Scope shard: the share (0 to 1) of values that hold. Scope dataset: the number itself."""
    threshold: str
    unexpected_count: int | None = None
    unexpected_percent: float | None = None
    samples: tuple[Sample, ...] = ()
    error: str | None = None
    """Why it could not be evaluated, or why it is not applicable."""
    note: str = ""
    applicable: bool = True
    """False: the dataset has nothing that it could speak of, such as drift where there is no earlier version."""


def read_sections(path: str) -> list[tuple[str, list[CheckResult]]]:
    """The results that the step `validate` left in its `validation.json`: of the corpus, then of each version before it, by dataset."""
    raw = storage.read_json(path)
    corpus = (str(raw["facts"].get("dataset", "corpus")), _results(raw["checks"]))
    return [corpus, *((stage["dataset"], _results(stage["checks"])) for stage in raw["stages"])]


def _results(checks: Iterable[dict[str, Any]]) -> list[CheckResult]:
    return [CheckResult(**{**one, "samples": tuple(Sample(**sample) for sample in one["samples"])}) for one in checks]


def judge(checks: Sequence[CheckResult]) -> Verdict:
    """`failed` when a critical expectation did not succeed, `warning` when another did not, else `passed`."""
    severities = {check.severity for check in checks if not check.success}
    return Verdict.FAILED if "critical" in severities else Verdict.WARNING if severities else Verdict.PASSED


def problems(judged: Iterable[tuple[str, str, Sequence[CheckResult]]]) -> str:
    """What stops the flow, in words; empty where the gate lets the datasets through.

    Args:
        judged: name of the dataset, name of the suite, what the suite says of it.
    """
    lines, suites = [], []
    for dataset, suite, checks in judged:
        stopping = [check for check in checks if check.severity == "critical" and not check.success]
        if stopping:
            suites.append(repr(suite))
            lines.append(f"suite {suite!r}: {len(stopping)} of {len(checks)} expectations stop {dataset}")
            lines += [f"  {check.expectation} on {check.column!r}: {describe(check)}" for check in stopping]
    if not lines:
        return ""
    return "\n".join(
        [
            *lines,
            f"Nothing was published. Read the failing rows in the validation page; then mend the step that made them and run again, or, "
            f"if the data is right, change `mostly`, the bounds or the severity in the suite file of {', '.join(suites)}.",
        ]
    )


def describe(check: CheckResult) -> str:
    """One line for people: what was observed, what was asked, an example and the suite's note."""
    if not check.applicable:
        said = f"not applicable: {check.error}"
    elif not check.evaluated:
        said = f"could not be evaluated: {check.error}"
    elif check.unexpected_count is not None:
        said = f"{check.unexpected_count:,} values ({check.unexpected_percent:.3g} %) are not as asked ({check.threshold})"
    else:
        said = f"observed {check.observed!r}, asked {check.threshold}"
    example = ""
    if check.samples:
        shown = check.samples[0]
        example = f"; for example {shown.value!r}" + (f" in document {shown.doc_id}" if shown.doc_id else "")
    line = f"{said}{example}"
    return f"{line}{'' if line.endswith('?') else '.'} {check.note}".rstrip()
