"""validate: judge the corpus by an expectation suite; a critical failure stops the flow, and the page says why.

The rows are judged shard by shard and their counts summed exactly; numbers that no shard knows alone (duplicates, quantiles, removal
rates, drift) are computed over the whole. The versions before it are judged by the suites of their stages, the audit of the filter by its
facts. The page is written before the gate decides, so it is there to read when the flow stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
from pydantic import BaseModel, ConfigDict, Field, field_validator

from expectations.counts import ShardCheck, ShardResult
from expectations.numbers import AUDIT, DRIFT, OF_CLASSIFIER, OF_INDEX, REMOVAL_RATE, is_figure, unmeasured
from expectations.schemas import SCHEMAS, originals
from expectations.suites import Suite, did_you_mean, suite_digest, suite_names
from expectations.verdict import CheckResult, Sample
from infra import dataset, ledger, storage, tracking
from infra.cluster import at_hand
from infra.dataset import Counts, Outcome, ShardRef, ShardSet
from infra.errors import InputError
from infra.orchestration import show_table
from infra.steps import Output, step
from tasks import STEP_NAMES

if TYPE_CHECKING:
    from expectations.page import Section

PAGE = "validation.html"
RESULTS = "validation.json"
RATES = ("removal_rate", *(f"{REMOVAL_RATE}{name}" for name in STEP_NAMES))
"""Numbers that only a run has: see `_removal_rates`."""


class ValidateConfig(BaseModel):
    """Which suites the corpus must pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str = "published"
    """Name of a suite in `expectations/`, or path of a suite file."""
    stages: bool = True
    """Judge the versions before it too, each by the suite that has the name of its schema."""
    stage_suites: dict[str, str] = Field(default_factory=dict)
    """Another suite for a stage, by the name of the one that ships: `{audit: mine.json}`."""

    @field_validator("suite")
    @classmethod
    def _absolute_if_a_file(cls, suite: str) -> str:
        return str(Path(suite).absolute()) if Path(suite).is_file() else suite

    @field_validator("stage_suites")
    @classmethod
    def _of_stages_that_there_are(cls, suites: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(suites.keys() - set(suite_names())):
            raise ValueError(f"no stage has a suite {unknown[0]!r}{did_you_mean(unknown[0], suite_names())}")
        return {stage: cls._absolute_if_a_file(name) for stage, name in suites.items()}

    def of_stage(self, schema: str) -> str:
        """The suite by which versions of this schema are judged."""
        return self.stage_suites.get(schema, schema)


def suite_file(config: ValidateConfig) -> dict[str, str]:
    """The content of the suites is part of the recipe."""
    stages = sorted({config.of_stage(name) for name in suite_names()}) if config.stages else []
    return {name: suite_digest(name) for name in [config.suite, *stages]}


def earlier(corpus: str, documents: ShardSet) -> list[ShardSet]:
    """What the corpus had published before these documents were first published: one version, or none.

    It stays the same when the same documents are published again, so that a second run asks for the same validation.
    """
    name = f"{documents.step}/{documents.version}@{documents.digest}"
    before: list[ShardSet] = []
    for published in ledger.published(corpus):
        with contextlib.suppress(storage.StorageError):  # removed since: nothing is left to compare with
            version = published.shards()
            if name in _flat(version.manifest().recipe["inputs"].values()):
                break
            before.append(version)
    return before[-1:]


def validate_shard(shard: ShardRef, suite: Suite, columns: Sequence[str]) -> Outcome:
    """What the suite's expectations on rows say of one shard, as one row of JSON."""
    from expectations import gate  # pandas and, for what the kernels leave to it, Great Expectations: only where they are used

    result = gate.validate_shard(shard.read(columns), suite)
    return Outcome(pa.table({"result": [json.dumps(dataclasses.asdict(result))]}))


@step(schema="checks", fingerprint=suite_file)
def validate(documents: ShardSet, history: list[ShardSet], previous: list[ShardSet], config: ValidateConfig, out: Output) -> None:
    """Hold the corpus and the versions before it against expectation suites; the page and the results are what it leaves.

    `history` are the versions before it, for removal rates; `previous` is what the corpus had published before, for drift: none or one.

    Raises:
        GateFailed: a critical expectation failed or could not be evaluated.
    """
    from expectations import page, verdict
    from expectations.drift import drift

    if not documents.counts.kept:
        raise InputError(_why_empty([*history, documents]))
    # what is validated has no copies yet
    drifted = drift(_rows(documents), originals(_rows(previous[0]))) if previous else {}
    no_drift = "the earlier version has no such column" if previous else "this corpus has no earlier version to compare with"
    without = {
        "top_host_share": "no document has a host",
        **dict.fromkeys(RATES, "no such step before this one"),
        **dict.fromkeys(DRIFT, no_drift),
    }
    facts = {**_removal_rates(documents, history), **drifted}
    corpus = _judged(documents, config.suite, out, facts=facts, inapplicable=without)
    stages = [
        _judged_stage(version, config.of_stage(version.schema_name), out)
        for version in history
        if config.stages and version.counts.total and version.schema_name in suite_names()
    ]
    about = {"dataset": documents.step, "version": documents.version, "digest": documents.digest}
    about |= {"compared with": f"{previous[0].step} {previous[0].version}"} if previous else {}
    html = page.render(corpus, stages, {**about, **corpus.numbers})
    storage.write_bytes(storage.join(out.folder, PAGE), html.encode())
    storage.write_json(storage.join(out.folder, RESULTS), page.as_json(corpus, stages, about))
    out.facts = _figures(corpus, stages)
    show_table("validation", page.table([corpus, *stages]), f"What the suite {corpus.suite.name} says")
    if problems := verdict.problems([(one.title, one.suite.name, one.results) for one in (corpus, *stages)]):
        _track(out.facts, html)
        raise verdict.GateFailed(f"{problems}\nThe page: {storage.join(out.folder, PAGE)}")
    out.keep_file(PAGE)
    out.keep_file(RESULTS)
    out.counts = Counts(total=documents.counts.kept, kept=documents.counts.kept)


def _judged_stage(version: ShardSet, suite_name: str, out: Output) -> Section:
    """One version before the corpus."""
    facts = version.manifest().facts
    return with_the_worst(_judged(version, suite_name, out, whole=False, **told_by(facts)), facts)


def told_by(facts: Mapping[str, Any], asked: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """What `gate.judged` is told of the numbers that only a step knows: those of its facts, and why the others are not there."""
    reasons = {
        **dict.fromkeys(AUDIT, "no audit looked at such groups (audit.kinds)"),
        **dict.fromkeys(OF_CLASSIFIER, "no classifier was trained here"),
        **dict.fromkeys(OF_INDEX, "no index was made here"),
        **unmeasured([*asked, *(name for name in facts if is_figure(name))], {}),
    }
    return {
        "facts": {name: facts[name] for name in reasons if name in facts},
        "inapplicable": {name: reason for name, reason in reasons.items() if name not in facts},
    }


def with_the_worst(section: Section, facts: Mapping[str, Any]) -> Section:
    """The same, in which what did not hold of an audit's numbers shows the worst row of its table, in words."""
    results = [_with_the_worst(check, facts) for check in section.results]
    return dataclasses.replace(section, results=results)


def _with_the_worst(check: CheckResult, facts: Mapping[str, Any]) -> CheckResult:
    _, dot, kind = check.column.partition(".")
    worst = facts.get(f"worst{dot}{kind}")
    if check.success or check.column not in AUDIT or worst is None:
        return check
    return dataclasses.replace(check, samples=(Sample(None, worst),))


def _judged(version: ShardSet, suite_name: str, out: Output, **how: Any) -> Section:
    """One version held against one suite; see `gate.judged` for `how`."""
    from expectations import gate

    def judge_rows(suite: Suite, columns: list[str]) -> list[ShardResult]:
        work = partial(validate_shard, suite=suite, columns=columns)
        with at_hand(version.counts.kept):
            parts = out.map_aside(f"shards-{version.step}", work, version.shards())
        return [_shard_result(json.loads(part.read()["result"][0].as_py())) for part in parts]

    return gate.judged(version.step, _rows(version), suite_name, judge_rows, **how)


def _rows(version: ShardSet) -> pads.Dataset:
    found = dataset.dataset(version.folder)
    return found if found is not None else pads.dataset(SCHEMAS.get(version.schema_name, pa.schema([])).empty_table())


def _flat(given: Any) -> list[str]:
    """The names of versions in the inputs of a recipe."""
    return [given] if isinstance(given, str) else [name for one in given for name in _flat(one)]


def _figures(corpus: Section, stages: Sequence[Section]) -> dict[str, Any]:
    """Facts of the version, which are tags and metrics of its run."""
    from expectations.page import tally
    from expectations.verdict import judge

    checks = [check for section in (corpus, *stages) for check in section.results]
    return {
        "suite": corpus.suite.name,
        "verdict": judge(checks).value,
        "num_expectations": len(checks),
        "num_warnings": sum(not check.success and check.severity != "critical" for check in checks),
        **{f"num_{name.replace(' ', '_')}": number for name, number in tally(checks).items()},
        **{name: value for name, value in corpus.numbers.items() if value is not None},
    }


def _track(figures: Mapping[str, Any], html: str) -> None:
    """Put the page and the numbers on the MLflow run of a step that is about to fail; one that ends well has them put there."""
    if (track := tracking.current()) is not None:
        track.tags({name: value for name, value in figures.items() if isinstance(value, str)})
        track.metrics({name: value for name, value in figures.items() if not isinstance(value, str)})
        track.page(PAGE, html)


def _shard_result(raw: dict[str, Any]) -> ShardResult:
    checks = tuple(
        ShardCheck(**{**check, "samples": tuple(Sample(**one) for one in check["samples"])}) for check in raw["checks"]
    )
    return ShardResult(raw["num_rows"], checks)


def _removal_rates(documents: ShardSet, history: list[ShardSet]) -> dict[str, float]:
    """Shares of what each step was given that it dropped, and of all documents that no step wanted; a wanted sample counts as whole."""
    sampled = documents.step == "rebalance"
    steps = [one for one in (*history, *([documents] * sampled)) if one.counts.total]
    rates = {f"{REMOVAL_RATE}{one.step}": 1 - one.counts.kept / one.counts.total for one in steps}
    kept = {one.step: one.counts.kept for one in history}
    of_earlier_crawls = sum(one.counts.total - kept.get("rewrite", 0) for one in history if one.step == "dedup")
    extracted = sum(one.counts.kept for one in history if one.step in ("extract", "ingest")) + of_earlier_crawls
    here = documents.counts.total if sampled else documents.counts.kept
    return {**rates, "removal_rate": 1 - here / extracted if extracted else 0.0}


def _why_empty(history: list[ShardSet]) -> str:
    """Where the documents of an empty corpus went."""
    lines = [
        f"  {one.step}: {one.counts.total:,} in, {one.counts.kept:,} kept"
        + "".join(f", {rule} {count:,}" for rule, count in sorted(one.counts.dropped.items(), key=lambda pair: -pair[1])[:5])
        for one in history
    ]
    return "the corpus is empty: no document is left to validate. Where they went:\n" + "\n".join(lines)
