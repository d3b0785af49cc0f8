"""A step or rule that removes more of a source than it may stops the run, and says of what, by what, and what to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from flows.budget import BudgetConfig, BudgetExceeded, within_budget
from flows.config import RunConfig
from flows.prepare import prepare
from infra import ledger
from infra.dataset import ShardSet

from .made_store import make


def filtered(kept: Mapping[str, int], removed: Mapping[tuple[str, str], int]) -> ShardSet:
    """A version of `filter`: documents kept by source, and removed by source and rule."""
    rows = [{"doc_id": f"{source}-{n}", "source": source, "url": ""} for source, count in kept.items() for n in range(count)]
    rejects = [
        {"doc_id": f"{source}-{rule}-{n:04d}", "url": f"http://{source}.example/{rule}/{n}", "source": source, "rule": rule}
        for (source, rule), count in removed.items()
        for n in range(count)
    ]
    schema = pa.schema([("doc_id", pa.string()), ("source", pa.string()), ("url", pa.string())])
    return make("filter", pa.Table.from_pylist(rows, schema), rejects, schema="verdicts")


BUDGET = BudgetConfig(max_removed=0.8, max_removed_by_rule=0.5, min_documents=100)


def test_what_is_within_its_budget_goes_on_to_the_very_document(home: Path) -> None:
    for removed in (50, 51):
        version = filtered({"web": 100 - removed}, {("web", "short"): removed})
        if removed == 50:
            assert within_budget(version, BUDGET) is version
            continue
        with pytest.raises(BudgetExceeded) as stopped:
            within_budget(version, BUDGET)
        told = str(stopped.value)
        assert told.startswith(
            "filter: rule short removed 51 of 100 documents of source web (51.0%), more than its budget of 50.0%."
        )
        assert "http://web.example/short/0, http://web.example/short/1, http://web.example/short/2 (gristmill trace URL)" in told
        assert told.endswith("budget.rules.short or budget.sources.web")


def test_a_step_is_asked_for_all_its_rules_together_and_each_source_by_itself(home: Path) -> None:
    removed = {("web", "short"): 45, ("web", "long"): 40, ("books", "short"): 1}
    version = filtered({"web": 15, "books": 900}, removed)
    with pytest.raises(
        BudgetExceeded, match=r"removed 85 of 100 documents of source web .* most by short 45, long 40"
    ) as stopped:
        within_budget(version, BUDGET)
    assert "books" not in str(stopped.value) and "budget.steps.filter" in str(stopped.value)


@pytest.mark.parametrize(
    "allowed",
    [
        {"steps": {"filter": 0.9}, "rules": {"short": 1.0}},
        {"sources": {"web": 0.9}},
        {"min_documents": 101},
        {"max_removed": 1, "max_removed_by_rule": 1},
    ],
)
def test_each_key_that_is_said_to_allow_it_allows_it(home: Path, allowed: dict[str, object]) -> None:
    version = filtered({"web": 15}, {("web", "short"): 85})
    with pytest.raises(BudgetExceeded):
        within_budget(version, BUDGET)
    assert within_budget(version, BudgetConfig.model_validate({**BUDGET.model_dump(), **allowed})) is version


def test_a_source_that_is_lost_whole_is_seen_though_nothing_of_it_is_left(home: Path) -> None:
    version = filtered({"web": 500}, {("forum", "language"): 200})
    with pytest.raises(BudgetExceeded, match=r"removed 200 of 200 documents of source forum \(100.0%\)"):
        within_budget(version, BudgetConfig())


def test_a_run_stops_where_its_filter_empties_a_source(home: Path) -> None:
    rows = home / "rows"
    rows.mkdir(parents=True)
    german = "Dies ist ein Satz über nichts Besonderes, der nur zeigen soll, dass dieser Text auf Deutsch geschrieben ist. "
    lines = [json.dumps({"text": f"{number}. {german * 5}", "source": "forum"}) for number in range(120)]
    (rows / "rows.jsonl").write_text("\n".join(lines))
    raw = {"dask": {"kind": "none"}, "ingest": {"sources": [{"kind": "folder", "path": str(rows)}]}}
    config = RunConfig.model_validate(raw)
    with ledger.run("first"), pytest.raises(BudgetExceeded, match=r"filter: removed 120 of 120 documents of source forum"):
        prepare.fn(config)
    assert {entry.step for entry in ledger.entries("first")} >= {"signals", "filter"}  # finished, so the next try loads them
    assert "rewrite" not in {entry.step for entry in ledger.entries("first")}
