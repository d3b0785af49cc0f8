"""What the gate asks about: the warnings of the corpus and of every stage before it, and nothing that it has no warning about."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from expectations.verdict import CheckResult, Sample
from flows import approval
from flows.approval import GateRefused
from flows.config import RunConfig
from infra import storage
from infra.dataset import ShardSet

from .made_store import make


def result(column: str, *, success: bool, severity: str = "warning") -> dict[str, Any]:
    return asdict(
        CheckResult(
            expectation="expect_column_values_to_not_be_null",
            column=column,
            severity=severity,
            scope="shard",
            success=success,
            evaluated=True,
            observed=0.75,
            threshold="mostly 1",
            unexpected_count=1,
            unexpected_percent=25.0,
            samples=(Sample("d0c", "null"),),
        )
    )


def checked(corpus: list[dict[str, Any]], **stages: list[dict[str, Any]]) -> ShardSet:
    """A version of the step `validate` that found this of the corpus and of the versions before it."""
    checks = make("validate", None, schema="checks", config={"corpus": corpus, "stages": stages})
    found = {
        "facts": {"dataset": "redact, version 12"},
        "checks": corpus,
        "stages": [{"dataset": name, "checks": results} for name, results in stages.items()],
    }
    storage.write_json(checks.file("validation.json"), found)
    return checks


def configured(on_warning: str) -> RunConfig:
    return RunConfig.model_validate({"approval": {"on_warning": on_warning}})


def test_warnings_of_the_corpus_and_of_all_stages_are_told_and_what_stops_or_holds_is_not(home: Path) -> None:
    corpus = [result("text", success=False), result("url", success=True)]
    checks = checked(corpus, crawl=[result("payload", success=False)], signals=[result("words", success=True)])
    told = approval.describe(checks).splitlines()
    assert told[0] == "The gate has 2 warnings:" and told[-1] == f"The page: {checks.file('validation.html')}"
    assert told[1].startswith("  redact, version 12: expect_column_values_to_not_be_null on 'text': 1 values (25 %)")
    assert told[2].startswith("  crawl: ") and "on 'payload'" in told[2] and "'null' in document d0c" in told[2]
    assert len(told) == 4


def test_a_corpus_without_warnings_passes_whatever_is_to_follow_from_one(home: Path) -> None:
    checks = checked([result("text", success=True)], crawl=[result("payload", success=True)])
    assert approval.describe(checks) == ""
    for on_warning in ("ask", "go", "stop"):
        approval.approve(checks, configured(on_warning))


def test_a_warning_of_a_stage_alone_stops_a_run_that_is_told_so(home: Path) -> None:
    checks = checked([result("text", success=True)], crawl=[result("payload", success=False)])
    with pytest.raises(GateRefused, match=r"1 warnings:\n  crawl: .*\n.*\n.*approval\.on_warning"):
        approval.approve(checks, configured("stop"))


def test_without_a_flow_run_nobody_is_asked_and_the_log_says_so(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    checks = checked([result("text", success=False)])
    with caplog.at_level("WARNING", logger="gristmill"):
        approval.approve(checks, configured("ask"))
        approval.approve(checks, configured("go"))
    assert "Nobody is asked: there is no flow run to wait in" in caplog.text
    assert "Nobody is asked: approval.on_warning=go" in caplog.text
