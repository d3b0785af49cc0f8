"""The validation page: what the gate found, as one HTML file that needs no network and reads on a phone.

Great Expectations' own Data Docs load a dozen files from elsewhere and are unstyled without them; this replaces them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from expectations.suites import Suite
from expectations.verdict import CheckResult, judge
from infra.report import Validation, ValidationRow, page_environment

FOLDER = Path(__file__).resolve().parent
OUTCOMES = ("failed", "not evaluated", "passed", "not applicable")
"""In the order in which they ask for a reader; what stops a flow comes before what only warns."""


@dataclass(frozen=True)
class Section:
    """What one suite says of one dataset."""

    title: str
    """Name of the dataset for people: a step, a folder."""
    suite: Suite
    results: Sequence[CheckResult]
    numbers: Mapping[str, float | int | None] = field(default_factory=dict)
    """The profile that its expectations of scope `dataset` were held against."""


def render(
    corpus: Section,
    stages: Sequence[Section] = (),
    facts: Mapping[str, object] | None = None,
    *,
    stops: str = "the flow stopped here and nothing was published",
) -> str:
    """The page as text: verdict, facts, and every expectation, failures first.

    Args:
        corpus: what is judged.
        stages: the versions that it was made from, judged by suites of their own.
        facts: label → what the page is about: dataset, digest, numbers.
        stops: what follows from a critical failure.
    """
    everything = [one for section in (corpus, *stages) for one in section.results]
    template = page_environment(FOLDER).get_template("validation.html")
    return template.render(
        suite=corpus.suite,
        facts={label: _fact(value) for label, value in (facts or {}).items()},
        verdict=str(judge(everything)),
        stops=stops,
        sections=[(section, str(judge(section.results)), _ranked(section.results)) for section in (corpus, *stages)],
        tally=tally(everything),
    )


def as_json(corpus: Section, stages: Sequence[Section], facts: Mapping[str, object]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "suite": corpus.suite.name,
        "verdict": judge([one for section in (corpus, *stages) for one in section.results]).value,
        "facts": {**facts, **corpus.numbers},
        "checks": [asdict(check) for check in corpus.results],
        "stages": [
            {"dataset": stage.title, "suite": stage.suite.name, "checks": [asdict(check) for check in stage.results]}
            for stage in stages
        ],
    }


def tally(results: Sequence[CheckResult]) -> dict[str, int]:
    """How many results there are of each outcome."""
    return {name: sum(outcome(one) == name for one in results) for name in OUTCOMES}


def for_report(
    suite: str, results: Sequence[CheckResult], stages: Sequence[tuple[str, Sequence[CheckResult]]] = ()
) -> Validation:
    """The same as the run report shows it: no samples, in the suite's order; of the versions before it only what did not hold."""
    before = [(dataset, check) for dataset, checks in stages for check in checks if not check.success]
    rows = [row(check) for check in results]
    rows += [replace(row(check), expectation=f"{dataset}: {check.expectation}") for dataset, check in before]
    return Validation(suite, judge([*results, *(check for _, check in before)]).value, tuple(rows))


def table(sections: Sequence[Section]) -> list[dict[str, str]]:
    """The same as rows of words, for a terminal and for Prefect; in each section failures come first."""
    return [
        {
            "dataset": section.title,
            "expectation": shown.expectation,
            "column": shown.column,
            "severity": shown.severity,
            "outcome": shown.outcome,
            "observed": shown.observed,
            "asked": shown.threshold,
            "unexpected %": "–" if shown.unexpected_percent is None else f"{shown.unexpected_percent:.3g}",
        }
        for section in sections
        for _, shown in _ranked(section.results)
    ]


def outcome(check: CheckResult) -> Literal["passed", "failed", "not evaluated", "not applicable"]:
    """Failed, could not be evaluated and has nothing to speak of are three things."""
    if not check.applicable:
        return "not applicable"
    return "not evaluated" if not check.evaluated else "passed" if check.success else "failed"


def row(check: CheckResult) -> ValidationRow:
    """One result in words."""
    return ValidationRow(
        expectation=check.expectation,
        column=check.column,
        outcome=outcome(check),
        severity="critical" if check.severity == "critical" else "warning",
        observed=_observed(check),
        threshold=check.threshold,
        unexpected_percent=check.unexpected_percent,
    )


def _ranked(results: Sequence[CheckResult]) -> list[tuple[CheckResult, ValidationRow]]:
    ranked = sorted(
        results, key=lambda one: (one.success, one.severity != "critical" and not one.success, OUTCOMES.index(outcome(one)))
    )
    return [(check, row(check)) for check in ranked]


def _fact(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _observed(check: CheckResult) -> str:
    if check.observed is None:
        return "–"
    if isinstance(check.observed, str):
        return check.observed
    if check.scope == "shard":
        # rounding up would call one bad value in a million "100 %"
        return "100 %" if check.observed == 1.0 else f"{min(100 * check.observed, 99.99):.2f} %"
    return f"{check.observed:,}" if isinstance(check.observed, int) else f"{check.observed:,.4g}"
