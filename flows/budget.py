"""How much of a source a step or a rule may remove: a run that would lose more stops, and says what to look at.

Filters are published for English web pages; on other text a single rule can empty a source without anybody noticing. Asked after each step
that drops documents, of its shards' columns `source` and `rule` by DuckDB, in memory that does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from infra import dataset
from infra.dataset import ShardSet
from infra.errors import GristmillError
from infra.relations import connected

_SAMPLES = 3


class BudgetConfig(BaseModel):
    """What may be removed of each source. No part of any recipe: it decides whether a run goes on, not what is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_removed: float = Field(0.98, ge=0, le=1)
    """Share of a source's documents that one step may remove; 1 switches it off."""
    max_removed_by_rule: float = Field(0.9, ge=0, le=1)
    """Share of a source's documents that one rule may remove; 1 switches it off."""
    steps: dict[str, float] = Field(default_factory=dict)
    """Another share for a step, by its name: `{dedup: 0.5}`."""
    rules: dict[str, float] = Field(default_factory=dict)
    """Another share for a rule, by its name: `{gopher_stop_words: 1}`."""
    sources: dict[str, float] = Field(default_factory=dict)
    """Another share for a source, by its name, for steps and rules alike; it comes before the others."""
    min_documents: int = Field(100, ge=1)
    """A source of fewer documents says too little and is not asked about."""


class BudgetExceeded(GristmillError):
    """A step or rule removed more of a source than it may."""


def within_budget(version: ShardSet, config: BudgetConfig) -> ShardSet:
    """The version itself, if its step removed no more of any source than it may.

    Raises:
        BudgetExceeded: it did; the message names source, rule, counts, examples, and the keys that allow it.
    """
    if problems := list(_problems(version, config)):
        raise BudgetExceeded("\n".join(problems))
    return version


def _problems(version: ShardSet, config: BudgetConfig) -> Iterator[str]:
    kept, removed = _counts(version)
    for source in sorted(set(kept) | {source for source, _ in removed}):
        by_rule = {rule: count for (whose, rule), count in removed.items() if whose == source}
        gone = sum(by_rule.values())
        total = kept.get(source, 0) + gone
        if total < config.min_documents:
            continue
        most = config.sources.get(source, config.steps.get(version.step, config.max_removed))
        if gone > most * total:
            names = ", ".join(f"{rule} {count:,}" for rule, count in sorted(by_rule.items(), key=lambda one: -one[1])[:3])
            yield (
                f"{version.step}: removed {gone:,} of {total:,} documents of source {source} ({gone / total:.1%}), more than its budget of "
                f"{most:.1%}; most by {names}.{_examples(version, source, max(by_rule, key=lambda rule: by_rule[rule]))} If that is right, "
                f"allow it: budget.steps.{version.step} or budget.sources.{source}"
            )
            continue
        for rule, count in by_rule.items():
            most = config.sources.get(source, config.rules.get(rule, config.max_removed_by_rule))
            if count > most * total:
                share = f"{count:,} of {total:,} documents of source {source} ({count / total:.1%})"
                yield (
                    f"{version.step}: rule {rule} removed {share}, more than its budget of {most:.1%}.{_examples(version, source, rule)} "
                    f"If that is right, allow it: budget.rules.{rule} or budget.sources.{source}"
                )


def _counts(version: ShardSet) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """(documents kept by source, documents removed by source and rule)."""
    kept = _asked(version, "SELECT coalesce(source, ''), count(*) FROM rows GROUP BY ALL", rejects=False)
    removed = _asked(version, "SELECT coalesce(source, ''), rule, count(*) FROM rows GROUP BY ALL", rejects=True)
    return dict(kept), {(source, rule): count for source, rule, count in removed}


def _examples(version: ShardSet, source: str, rule: str) -> str:
    query = f"SELECT coalesce(url, doc_id) FROM rows WHERE source = $source AND rule = $rule ORDER BY doc_id LIMIT {_SAMPLES}"
    urls = [url for (url,) in _asked(version, query, rejects=True, source=source, rule=rule)]
    return f" Look at {', '.join(urls)} (gristmill trace URL)." if urls else ""


def _asked(version: ShardSet, query: str, *, rejects: bool, **values: str) -> list[Any]:
    rows = dataset.dataset(version.folder, rejects=rejects)
    if rows is None or "source" not in rows.schema.names:
        return []
    with connected(rows=rows) as connection:
        return list(connection.execute(query, values or None).fetchall())
