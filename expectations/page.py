"""The validation page: what the gate found, as one HTML file that needs no network and reads on a phone.

Great Expectations' own Data Docs load a dozen files from elsewhere and are unstyled without them; this replaces them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from expectations.suites import Suite
from expectations.verdict import CheckResult, judge
from infra.report import Validation, ValidationRow, page_environment

FOLDER = Path(__file__).resolve().parent


def render(results: Sequence[CheckResult], suite: Suite, facts: Mapping[str, str]) -> str:
    """The page as text: verdict, `facts` (label → text: dataset, digest, rows), and every expectation, failures first."""
    order = {"failed": 0, "not evaluated": 1, "passed": 2}
    ranked = sorted(results, key=lambda one: (order[outcome(one)], one.severity != "critical"))
    template = page_environment(FOLDER).get_template("validation.html")
    return template.render(
        suite=suite,
        facts=facts,
        verdict=str(judge(results)),
        rows=[(check, _row(check)) for check in ranked],
        tally={name: sum(outcome(one) == name for one in results) for name in ("passed", "failed", "not evaluated")},
    )


def for_report(results: Sequence[CheckResult], suite: Suite) -> Validation:
    """The same as the run report shows it: no samples, in the suite's order."""
    return Validation(suite=suite.name, verdict=judge(results).value, rows=tuple(_row(check) for check in results))


def outcome(check: CheckResult) -> Literal["passed", "failed", "not evaluated"]:
    """Failed and could-not-be-evaluated are two things."""
    return "not evaluated" if not check.evaluated else "passed" if check.success else "failed"


def _row(check: CheckResult) -> ValidationRow:
    return ValidationRow(
        expectation=check.expectation,
        column=check.column,
        outcome=outcome(check),
        severity="critical" if check.severity == "critical" else "warning",
        observed=_observed(check),
        threshold=check.threshold,
        unexpected_percent=check.unexpected_percent,
    )


def _observed(check: CheckResult) -> str:
    if check.observed is None:
        return "–"
    if isinstance(check.observed, str):
        return check.observed
    if check.scope == "shard":
        # rounding up would call one bad value in a million "100 %"
        return "100 %" if check.observed == 1.0 else f"{min(100 * check.observed, 99.99):.2f} %"
    return f"{check.observed:,}" if isinstance(check.observed, int) else f"{check.observed:,.4g}"
