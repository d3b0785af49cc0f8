"""rebalance: draw a sample in which sources, languages or groups of documents have the weights that a configuration asks for.

Optional: it runs only where configured. After redact, so that the gate judges and the card counts what is published, and nothing is
sampled away that an earlier step would have dropped. A document's keep rate is the product of the rates of its source, its language and
its groups; it stays when its number, a hash of (seed, doc_id), is below it: the same for any shards, order and workers. Wanted shares
become such rates by one pass that counts. Costs two passes over the text where groups have weights, else none over it but to copy it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.dataset import EXCERPT_CHARS, REJECTS_SCHEMA, Outcome, ShardRef, ShardSet
from infra.errors import InputError
from infra.steps import Output, step
from tasks.text.language import UNKNOWN
from tasks.text.sampling import ShareError, draws, rates_for_shares
from tasks.text.terms import ListNames, count_terms, list_files, load_lists, shipped_lists

RULE = "rebalanced"
Kind = Literal["source", "language", "group"]
KINDS: tuple[Kind, ...] = ("source", "language", "group")
NOT_THE_GROUP = "others"
"""What a group with a share is weighed against."""
_CELLS = pa.schema([("kind", pa.string()), ("name", pa.string()), ("documents", pa.int64()), ("characters", pa.int64())])
Mask = npt.NDArray[np.bool_]


class RebalanceConfig(BaseModel):
    """What the corpus is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Literal["keep_rates", "document_shares", "character_shares"] = "keep_rates"
    """What the numbers below are. `keep_rates`: the chance with which a document stays (above 0, at most 1); those of its source,
    language and groups are multiplied. `document_shares`, `character_shares`: shares of the result, for sources, or for languages, or for
    one group; parts not named have the rest, as they are to each other now. The sample is the largest one without replacement."""
    source: dict[str, float] = Field(default_factory=dict)
    """Weights by source."""
    language: dict[str, float] = Field(default_factory=dict)
    """Weights by language, as `signals` found it."""
    group: dict[str, float] = Field(default_factory=dict)
    """Weights of documents that mention a group, or show a dialect, named as by the audit: `{en/gender_female: 0.4}`."""
    term_lists: ListNames = tuple(shipped_lists())
    """Word lists of the groups: languages of which one ships, or paths of own files."""
    min_terms: int = Field(1, ge=1)
    """So many occurrences of a group's terms make a document one of the group."""
    seed: int = 0
    """Decides which documents stay."""

    @field_validator(*KINDS)
    @classmethod
    def _above_0_and_at_most_1(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not 0 < weight <= 1:
                raise ValueError(
                    f"{name}: a weight is above 0 and at most 1 (got {weight:g}); to be rid of a source, take it out of the sources "
                    "of `crawl` or `ingest`, of a language, out of `filter.languages`"
                )
        return weights

    @model_validator(mode="after")
    def _something_that_can_be(self) -> RebalanceConfig:
        asked = [kind for kind in KINDS if getattr(self, kind)]
        if not asked:
            raise ValueError("there is no weight: give some of `source`, `language` or `group`, or leave `rebalance` out")
        if self.weights != "keep_rates" and (len(asked) > 1 or len(self.group) > 1):
            raise ValueError(
                f"{self.weights} are possible for `source`, or for `language`, or for one `group` alone, for these overlap "
                f"(got {', '.join(asked)}); give keep_rates instead"
            )
        whole = sum(weight for _, _, weight in self.given())
        if self.weights != "keep_rates" and whole > 1 + 1e-9:
            raise ValueError(f"{asked[0]}: the shares add up to {whole:.4g}; at most 1 is possible")
        known = [f"{lists.language}/{group.name}" for lists in map(load_lists, self.term_lists) for group in lists.groups]
        for name in self.group:
            if name not in known:
                raise ValueError(f"group: no group {name!r}; these are: {', '.join(known)}")
        return self

    @property
    def unit(self) -> Literal["documents", "characters"]:
        """What shares are shares of."""
        return "characters" if self.weights == "character_shares" else "documents"

    def given(self) -> Iterator[tuple[Kind, str, float]]:
        """(kind, name, weight) of every part that has one."""
        for kind in KINDS:
            for name, weight in getattr(self, kind).items():
                yield kind, name, weight


def files_read(config: RebalanceConfig) -> Mapping[str, str]:
    """The word lists are part of the recipe, where groups have weights."""
    return list_files(config.term_lists if config.group else ())


class _Part(NamedTuple):
    """The documents of a shard that are of one source, language or group."""

    kind: str
    name: str
    inside: Mask


def count_shard(shard: ShardRef, config: RebalanceConfig) -> Outcome:
    """Documents and characters of every part of one shard, as rows of _CELLS."""
    table = shard.read()
    return Outcome(_cells(_parts(table, config), pc.utf8_length(table["text"]).to_numpy()))


def sample_shard(shard: ShardRef, config: RebalanceConfig, rates: Mapping[tuple[str, str], float]) -> Outcome:
    """The documents of one shard that stay, and as facts how many documents and characters of every part do."""
    table = shard.read()
    parts = _parts(table, config)
    rate = np.ones(table.num_rows)
    for part in parts:
        rate[part.inside] *= rates.get((part.kind, part.name), 1.0)
    drawn = draws(table["doc_id"], config.seed, RULE)
    keep = drawn < rate
    gone = table.filter(pa.array(~keep))
    rejects = pa.table(
        {
            "doc_id": gone["doc_id"],
            "url": gone["url"],
            "source": gone["source"],
            "rule": pa.repeat(RULE, gone.num_rows),
            "value": drawn[~keep],
            "threshold": rate[~keep],
            "detail": pa.repeat("its number is not below its keep rate", gone.num_rows),
            "excerpt": pc.utf8_slice_codeunits(gone["text"], 0, EXCERPT_CHARS),
        },
        schema=REJECTS_SCHEMA,
    )
    kept = [part._replace(inside=part.inside & keep) for part in parts]
    cells = _cells(kept, pc.utf8_length(table["text"]).to_numpy()).to_pylist()
    facts = {_fact(cell, unit): float(cell[unit]) for cell in cells for unit in ("documents", "characters")}
    return Outcome(table.filter(pa.array(keep)), rejects, facts)


@step(schema="clustered_documents", fingerprint=files_read)
def rebalance(documents: ShardSet, config: RebalanceConfig, out: Output) -> None:
    """Sample documents, without replacement and by a seed, until sources, languages or groups have the configured weights."""
    counted = [part.read() for part in out.map_aside("counts", partial(count_shard, config=config), documents.shards())]
    before = _summed([_CELLS.empty_table(), *counted])
    rates = _rates(before, config)
    receipts = out.map(partial(sample_shard, config=config, rates=rates), documents.shards())
    after: dict[str, float] = {}
    for receipt in receipts:
        for name, value in receipt.facts.items():
            after[name] = after.get(name, 0) + value
    out.facts |= _told(before, after, rates, config)


def _parts(table: pa.Table, config: RebalanceConfig) -> list[_Part]:
    """Every source and language of these rows, and every group with a weight, beside a part of all rows."""
    found = [_Part("all", "", np.ones(table.num_rows, bool))]
    for column in ("source", "language"):
        if column not in table.column_names:
            continue
        values = pc.fill_null(table[column].combine_chunks(), "")
        found += [
            _Part(column, name, pc.equal(values, name).to_numpy(zero_copy_only=False)) for name in pc.unique(values).to_pylist()
        ]
    for name in config.term_lists if config.group else ():
        found += _groups(table, name, config)
    return found


def _groups(table: pa.Table, list_name: str, config: RebalanceConfig) -> Iterator[_Part]:
    lists = load_lists(list_name)
    asked = [group for group in lists.groups if f"{lists.language}/{group.name}" in config.group]
    if not asked:
        return
    rows = np.arange(table.num_rows)
    if "language" in table.column_names:  # as in the audit
        rows = np.flatnonzero(pc.is_in(table["language"], pa.array([lists.language, UNKNOWN])).to_numpy())
    counts = count_terms(table["text"].combine_chunks().take(pa.array(rows)), lists)
    for group in asked:
        inside = np.zeros(table.num_rows, bool)
        inside[rows] = counts[f"terms_{group.name}"].to_numpy() >= config.min_terms
        yield _Part("group", f"{lists.language}/{group.name}", inside)
        if config.weights != "keep_rates":
            yield _Part("group", NOT_THE_GROUP, ~inside)


def _cells(parts: Sequence[_Part], chars: npt.NDArray[np.int64]) -> pa.Table:
    rows = [
        {
            "kind": part.kind,
            "name": part.name,
            "documents": int(part.inside.sum()),
            "characters": int(chars[part.inside].sum()),
        }
        for part in parts
    ]
    return pa.Table.from_pylist(rows, _CELLS)


def _summed(parts: Sequence[pa.Table]) -> list[dict[str, Any]]:
    """The cells of all shards, by kind and name, in their order."""
    table = (
        pa.concat_tables(parts)
        .group_by(["kind", "name"], use_threads=False)
        .aggregate([("documents", "sum"), ("characters", "sum")])
    )
    table = table.select(["kind", "name", "documents_sum", "characters_sum"]).rename_columns(_CELLS.names)
    return table.sort_by([("kind", "ascending"), ("name", "ascending")]).to_pylist()


def _rates(before: Sequence[Mapping[str, Any]], config: RebalanceConfig) -> dict[tuple[str, str], float]:
    """The keep rate of every part that has one.

    Raises:
        InputError: a weight for a part of which there is no document, or shares that cannot be.
    """
    there = {(cell["kind"], cell["name"]) for cell in before if cell["documents"]}
    for kind, name, _ in config.given():
        if (kind, name) not in there:
            names = ", ".join(sorted(other for other_kind, other in there if other_kind == kind)) or "none"
            raise InputError(
                f"rebalance.{kind}.{name}: no document is of this {kind} (there are: {names}); take it out or name one of these"
            )
    if config.weights == "keep_rates":
        return {(kind, name): weight for kind, name, weight in config.given()}
    kind = next(kind for kind, _, _ in config.given())
    sizes = {cell["name"]: cell[config.unit] for cell in before if cell["kind"] == kind}
    try:
        rates = rates_for_shares(sizes, getattr(config, kind))
    except ShareError as error:
        raise InputError(f"rebalance.{kind}: {error}") from error
    return {(kind, name): rate for name, rate in rates.items()}


def _fact(cell: Mapping[str, Any], unit: str) -> str:
    return f"{unit}.{cell['kind']}.{cell['name']}"


def _told(
    before: Sequence[Mapping[str, Any]],
    after: Mapping[str, float],
    rates: Mapping[tuple[str, str], float],
    config: RebalanceConfig,
) -> dict[str, Any]:
    """Facts: `parts`, a row for each part, and its shares before and after as numbers of their own where it has a weight; these are shares
    of what `shares_of` says: documents, or characters if the weights are shares of characters."""
    whole = next((cell for cell in before if cell["kind"] == "all"), None)
    wholes = {unit: (whole[unit] if whole else 0, after.get(f"{unit}.all.", 0)) for unit in ("documents", "characters")}
    parts: list[dict[str, Any]] = []
    numbers: dict[str, float] = {}
    weights = {(kind, name) for kind, name, _ in config.given()}
    for cell in before:
        row: dict[str, Any] = {
            "kind": cell["kind"],
            "name": cell["name"],
            "keep_rate": rates.get((cell["kind"], cell["name"]), 1.0),
        }
        for unit, (all_before, all_after) in wholes.items():
            left = int(after.get(_fact(cell, unit), 0))
            row |= {f"{unit}_before": cell[unit], f"{unit}_after": left}
            row |= {f"{unit}_share_before": cell[unit] / max(all_before, 1), f"{unit}_share_after": left / max(all_after, 1)}
        if cell["kind"] != "all":
            parts.append(row)
        if (cell["kind"], cell["name"]) in weights:
            for when in ("before", "after"):
                numbers[f"share_{when}.{cell['kind']}.{cell['name']}"] = row[f"{config.unit}_share_{when}"]
    return {"weights": config.weights, "shares_of": config.unit, "parts": parts, **numbers}
