"""validate: judge the corpus by an expectation suite; a critical failure stops the flow, and the page says why.

The rows are judged shard by shard and their counts summed exactly; numbers that no shard knows alone (duplicates, quantiles, removal
rates) are computed over the whole. The page is written before the gate decides, so it is there to read when the flow stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, field_validator

from expectations.suites import Suite, suite_digest
from infra import dataset, storage
from infra.cluster import in_this_process
from infra.dataset import Counts, Outcome, ShardRef, ShardSet
from infra.errors import InputError
from infra.steps import Output, step

PAGE = "validation.html"
# each worker imports Great Expectations in 4 to 10 s, in which this process judges a million rows
SMALL_CORPUS_DOCUMENTS = 200_000
RESULTS = "validation.json"


class ValidateConfig(BaseModel):
    """Which suite the corpus must pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str = "published"
    """Name of a suite in `expectations/`, or path of a suite file."""

    @field_validator("suite")
    @classmethod
    def _absolute_if_a_file(cls, suite: str) -> str:
        return str(Path(suite).absolute()) if Path(suite).is_file() else suite


def suite_file(config: ValidateConfig) -> dict[str, str]:
    """The suite's content is part of the recipe."""
    return {config.suite: suite_digest(config.suite)}


def validate_shard(shard: ShardRef, suite: Suite) -> Outcome:
    """What the suite's expectations on rows say of one shard, as one row of JSON."""
    from expectations import gate  # Great Expectations takes 6 to 10 s to import: only where it is used

    result = gate.validate_shard(shard.read(), suite)
    return Outcome(pa.table({"result": [json.dumps(dataclasses.asdict(result))]}))


@step(schema="checks", fingerprint=suite_file)
def validate(documents: ShardSet, history: list[ShardSet], config: ValidateConfig, out: Output) -> None:
    """Hold the corpus against an expectation suite; `history` are the versions before it, for removal rates.

    Raises:
        GateFailed: a critical expectation failed or could not be evaluated.
    """
    from expectations import gate, page, profile, verdict

    if not documents.counts.kept:
        raise InputError(_why_empty([*history, documents]))
    suite = gate.load_suite(config.suite)
    with in_this_process() if documents.counts.kept <= SMALL_CORPUS_DOCUMENTS else contextlib.nullcontext():
        parts = out.map_aside("shards", partial(validate_shard, suite=suite), documents.shards())
    judged = [_shard_result(json.loads(part.read()["result"][0].as_py())) for part in parts]
    rows = dataset.dataset(documents.folder)
    assert rows is not None
    numbers = profile.profile(rows, _removal_rates(documents, history))
    checks = [*gate.combine(judged, suite), *gate.check_dataset(numbers, suite)]
    named = {"dataset": documents.step, "version": documents.version, "digest": documents.digest}
    facts = {**named, **{name: str(value) for name, value in numbers.items()}}
    storage.write_bytes(storage.join(out.folder, PAGE), page.render(checks, suite, facts).encode())
    storage.write_json(
        storage.join(out.folder, RESULTS), {"checks": [dataclasses.asdict(check) for check in checks], "facts": facts}
    )
    try:
        decided = verdict.require(checks, suite.name)
    except verdict.GateFailed as error:
        raise verdict.GateFailed(f"{error}\nThe page: {storage.join(out.folder, PAGE)}") from None
    out.keep_file(PAGE)
    out.keep_file(RESULTS)
    out.counts = Counts(total=documents.counts.kept, kept=documents.counts.kept)
    out.facts = {
        "verdict": decided.value,
        "num_expectations": len(checks),
        "num_warnings": sum(not check.success for check in checks),
    }


def _shard_result(raw: dict[str, Any]) -> Any:
    from expectations.gate import ShardCheck, ShardResult
    from expectations.verdict import Sample

    checks = tuple(
        ShardCheck(**{**check, "samples": tuple(Sample(**one) for one in check["samples"])}) for check in raw["checks"]
    )
    return ShardResult(raw["num_rows"], checks)


def _removal_rates(documents: ShardSet, history: list[ShardSet]) -> dict[str, float]:
    """Shares of what each step was given that it dropped, and of all documents that did not get here."""
    rates = {f"removal_rate_{one.step}": 1 - one.counts.kept / one.counts.total for one in history if one.counts.total}
    extracted = sum(one.counts.kept for one in history if one.step in ("extract", "ingest"))
    return {**rates, "removal_rate": 1 - documents.counts.kept / extracted if extracted else 0.0}


def _why_empty(history: list[ShardSet]) -> str:
    """Where the documents of an empty corpus went."""
    lines = [
        f"  {one.step}: {one.counts.total:,} in, {one.counts.kept:,} kept"
        + "".join(f", {rule} {count:,}" for rule, count in sorted(one.counts.dropped.items(), key=lambda pair: -pair[1])[:5])
        for one in history
    ]
    return "the corpus is empty: no document is left to validate. Where they went:\n" + "\n".join(lines)
