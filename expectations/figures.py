"""What was measured of a model, held against a suite by the step that measured it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from expectations.numbers import is_figure
from expectations.suites import suite_digest
from expectations.verdict import GateFailed, describe, judge

logger = logging.getLogger("gristmill")


def suite_file(suite: str | None) -> dict[str, str]:
    """The content of the suite is part of the recipe."""
    return {suite: suite_digest(suite)} if suite else {}


def judged(step: str, table: pa.Table, facts: Mapping[str, Any], suite: str | None) -> dict[str, Any]:
    """What the suite says of figures (SCORES) and of the facts that are figures, as facts; nothing where there is neither.

    Raises:
        GateFailed: a critical expectation did not hold.
    """
    if suite is None or not table.num_rows:
        return {}
    from expectations import gate

    numbers = {name: value for name, value in facts.items() if is_figure(name)}
    section = gate.judged_table(step, table, suite, numbers)
    failed = [check for check in section.results if not check.success]
    if stopping := [check for check in failed if check.severity == "critical"]:
        lines = "\n".join(f"  {check.expectation} on {check.column!r}: {describe(check)}" for check in stopping)
        raise GateFailed(f"{step}: the figures are not what suite {section.suite.name!r} asks for ({step}.suite):\n{lines}")
    for check in failed:
        logger.warning("%s: suite %s: %s on %r: %s", step, section.suite.name, check.expectation, check.column, describe(check))
    return {"suite": section.suite.name, "verdict": judge(section.results).value, "num_warnings": len(failed)}
