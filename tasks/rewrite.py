"""rewrite: remove the lines and citation marks that the C4 line rules name, from the documents that were kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from expectations.schemas import DOCUMENTS
from infra.dataset import Outcome, ShardRef, ShardSet, rejects_table
from infra.ids import text_digest
from infra.steps import Output, step
from tasks.text.lines import LineRules, rewrite_lines
from tasks.text.rules import Profile, files_of, read_profile

QUALITY = "quality_percentile"


class RewriteConfig(BaseModel):
    """Which lines go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str | None = "fineweb-code"
    """Profile whose line rules are applied; null leaves every line as it is."""
    min_chars: int = Field(1, ge=1)
    """A document of which fewer characters are left is dropped, by rule `rewritten_empty`."""

    _profile: Profile | None = PrivateAttr(None)

    @field_validator("profile")
    @classmethod
    def _known(cls, profile: str | None) -> str | None:
        if profile is not None:
            read_profile(profile)
        return profile

    @model_validator(mode="after")
    def _read(self) -> RewriteConfig:
        self._profile = read_profile(self.profile) if self.profile is not None else None
        return self

    def line_rules(self) -> LineRules | None:
        """The line rules of the profile."""
        return self._profile.line_rules if self._profile else None

    def files(self) -> Mapping[str, str]:
        """{file of the profile: digest}, for the recipe."""
        return files_of(self.profile, self._profile)


def rewrite_shard(pair: tuple[ShardRef, ShardRef], config: RewriteConfig) -> Outcome:
    """Rewrite the kept documents of one shard; `pair` is the documents and the verdicts on them."""
    documents, verdicts = pair
    table = documents.read(DOCUMENTS.names)
    verdict = verdicts.read()
    table = table.filter(pc.is_in(table["doc_id"], verdict["doc_id"].combine_chunks()))
    if "language" in verdict.column_names:  # verdicts are a subsequence of the documents, so the rows match
        for name in ("language", "language_score"):
            table = table.append_column(name, verdict[name])
        there = QUALITY in verdict.column_names
        table = table.append_column(QUALITY, verdict[QUALITY] if there else pa.nulls(table.num_rows, pa.float32()))
    text = table["text"].combine_chunks()
    removed: dict[str, int] = {}
    if rules := config.line_rules():
        text, removed = rewrite_lines(text, rules)
    digests = pa.array([text_digest(one) for one in text.to_pylist()], pa.string())
    rewritten = table.set_column(5, "text", text).set_column(6, "text_digest", digests)
    long_enough = pc.greater_equal(pc.utf8_length(text), config.min_chars)
    gone = table.filter(pc.invert(long_enough))
    rejects = rejects_table(
        {**row, "rule": "rewritten_empty", "value": 0, "threshold": config.min_chars, "excerpt": row["text"]}
        for row in gone.select(["doc_id", "url", "source", "text"]).to_pylist()
    )
    return Outcome(rewritten.filter(long_enough), rejects, {f"lines_removed.{rule}": count for rule, count in removed.items()})


@step(schema="rewritten", fingerprint=RewriteConfig.files)
def rewrite(documents: list[ShardSet], verdicts: ShardSet, config: RewriteConfig, out: Output) -> None:
    """Remove policy, script and fragment lines and citation marks from the documents that the filter kept."""
    shards = [shard for version in documents for shard in version.shards()]
    receipts = out.map(partial(rewrite_shard, config=config), list(zip(shards, verdicts.shards(), strict=True)), by_document=True)
    out.sum_facts(receipts)
