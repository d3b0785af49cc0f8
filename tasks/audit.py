"""audit: how often each rule drops the documents of a language, a domain, or that mention a group of people or show a dialect.

Every rule of the filter is asked by itself of the stored signals, of every document, and so is the filter as a whole (`any rule`). Only
documents in a wanted language, or in none that is known, count. Those that mention a group are compared with others of the same
language and of like length. Sums of whole numbers, so the table, its one shard, is the same for any shards and workers; `audit.csv`
has the same rows, the worst first. Its facts are what the suite `audit` is asked of, which warns or stops (docs/bias.md).
What its word lists cannot show is said in tasks/text/terms.py; a dialect that is taken for another language is not seen at all.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra import dataset, storage
from infra.dataset import Counts, Outcome, ShardRef, ShardSet
from infra.orchestration import show_table
from infra.steps import Output, step
from tasks.text.disparity import DisparityBounds, disparity, more_often, worst_first
from tasks.text.language import UNKNOWN
from tasks.text.measured import pairs, texts_of
from tasks.text.rules import LANGUAGE, FilterConfig, ask_each, require, rule_names
from tasks.text.terms import ListNames, count_terms, list_files, load_lists, shipped_lists

WORST_FIRST = "audit.csv"
ANY = "any rule"
"""The name of the filter as a whole among the rules."""
Kind = Literal["language", "domain", "identity", "dialect"]
ALL = "*"
CELL = pa.schema([("kind", pa.string()), ("population", pa.string()), ("group", pa.string()), ("length", pa.int64())])
"""What documents are counted by: a population (a language, or ALL) is what a group is compared within, and group ALL is all of it."""
_MAX_LENGTHS = 64
_SHOWN = 20
"""Rows of the table that Prefect shows."""

Ints = npt.NDArray[np.int64]
Drops = dict[str, npt.NDArray[np.bool_]]


class AuditBasis(BaseModel):
    """Whose removal is compared, and what is flagged; in a run, whose own filter is audited, this is all there is to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(("language", "domain", "identity", "dialect"), min_length=1)
    """What documents are grouped by."""
    term_lists: ListNames = tuple(shipped_lists())
    """Word lists of identity terms and dialect proxies: languages of which one ships, or paths of own files of the same form."""
    min_terms: int = Field(1, ge=1)
    """So many occurrences of a group's terms make a document one that mentions the group."""
    max_domains: int = Field(100, ge=1)
    """Only so many hosts, those with the most documents, are groups; all others stand on the other side."""
    by_length: bool = True
    """Compare documents of like length (in words, by powers of two): `adjusted_ratio`, which is what flags. Off: one length for all."""
    bounds: DisparityBounds = DisparityBounds()
    """What is flagged."""

    @model_validator(mode="before")
    @classmethod
    def _no_filter_beside_that_of_the_run(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "filter" in given and "filter" not in cls.model_fields:
            raise ValueError("a run audits its own filter: take `audit.filter` out and set `filter`")
        return given

    def of(self, filter: FilterConfig) -> AuditConfig:
        """The audit of this filter."""
        return AuditConfig(**dict(self), filter=filter)


class AuditConfig(AuditBasis):
    """The same with the filter that is audited."""

    filter: FilterConfig = FilterConfig()
    """The filter that is audited."""


def files_read(config: AuditConfig) -> Mapping[str, str]:
    """The word lists and the filter's own profile file are part of the recipe."""
    return {**list_files(config.term_lists), **config.filter.files()}


def count_shard(pair: tuple[ShardRef, ShardRef], config: AuditConfig) -> Outcome:
    """Counts of one shard, of its documents and of the signals of them: CELL, documents in it, and dropped ones by rule.

    Raises:
        InputError: the signals lack columns that a rule asks for, or are of other documents.
    """
    documents, signals = pair
    measured = signals.read(without=config.filter.unasked() - {"num_words"})
    require(measured, {"doc_id", "host", LANGUAGE, "num_words"})
    text = texts_of(measured, signals, documents)
    if config.filter.languages:
        wanted = pc.is_in(measured[LANGUAGE], pa.array([*config.filter.languages, UNKNOWN])).combine_chunks()
        measured, text = measured.filter(wanted), text.filter(wanted)
    drops = ask_each(measured, config.filter)
    members = _members(measured, text, config)
    length = np.frexp(measured["num_words"].to_numpy())[1].astype(np.int64)  # 1 for one word, 2 for 2 and 3, 3 for 4 to 7 …
    return Outcome(_count(members, length if config.by_length else length * 0, drops, config))


@step(schema="audit", fingerprint=files_read)
def audit(signals: ShardSet, documents: list[ShardSet], config: AuditConfig, out: Output) -> None:
    """Compare for every rule how often it drops documents of one group and of all others; flag what is beyond the bounds.

    Raises:
        InputError: as `count_shard` does.
    """
    parts = out.map_aside("counts", partial(count_shard, config=config), pairs(signals, documents))
    table = disparity(_compared(summed_counts(parts, config), config), config.bounds)
    out.receipts = [dataset.write_shard(out.folder, 0, Outcome(table))]
    ranked = worst_first(table)
    storage.write_bytes(storage.join(out.folder, WORST_FIRST), _csv(ranked))
    out.keep_file(WORST_FIRST)
    out.facts |= figures(table, config)
    alike = "; ratios are of documents of like length" if config.by_length else ""
    words = f"Whose documents the filter removes, worst first{alike}"
    show_table("audit", [_shown(row) for row in ranked.slice(0, _SHOWN).to_pylist()], words)
    out.counts = Counts(total=signals.counts.kept, kept=signals.counts.kept)


def figures(table: pa.Table, config: AuditConfig) -> dict[str, Any]:
    """What the table comes to, altogether and by kind: rows tested and flagged, and the worst ratio that chance does not explain.

    `worst_ratio` is at least 1; where others lost nothing it is the middle of the interval, which is finite. `worst` tells it in words.
    """
    rows = table.append_column("middle", _middle(table))
    apart = pc.fill_null(pc.greater_equal(table["difference"], config.bounds.min_difference), False)
    significant = pc.fill_null(pc.less(table["p_adjusted"], 1 - config.bounds.confidence), False)
    real = pc.and_(table["tested"], pc.and_(apart, significant))
    sure = (
        rows.filter(pc.and_(real, pc.and_(more_often(rows), pc.greater(rows["middle"], 1.0))))
        .sort_by([("middle", "descending")])
        .to_pylist()
    )
    facts: dict[str, Any] = {}
    for kind in (None, *config.kinds):
        own = rows if kind is None else rows.filter(pc.equal(rows["kind"], kind))
        behind = "" if kind is None else f".{kind}"
        facts[f"num_tested{behind}"] = pc.sum(own["tested"]).as_py() or 0
        facts[f"num_flagged{behind}"] = pc.sum(own["flagged"]).as_py() or 0
        worst = next((row for row in sure if kind in (None, row["kind"])), None)
        facts[f"worst_ratio{behind}"] = worst["middle"] if worst else 1.0
        if worst:  # of the filter as a whole, the rule that does most to it says more
            of_group = (
                row for row in sure if (row["kind"], row["group"]) == (worst["kind"], worst["group"]) and row["rule"] != ANY
            )
            facts[f"worst{behind}"] = in_words(next(of_group, worst), by_length=config.by_length)
    return facts


def in_words(row: Mapping[str, Any], *, by_length: bool) -> str:
    """One row of the table as a sentence's beginning: rule, group, counts, ratio with its interval."""
    return (
        f"{row['rule']} on {row['kind']} {row['group']}: {row['removed']:,} of {row['documents']:,} documents dropped, of others "
        f"{row['other_removed']:,} of {row['other_documents']:,}; {_ratio(row)}{' among documents of like length' * by_length}"
    )


def _ratio(row: Mapping[str, Any]) -> str:
    low, high = row["adjusted_ratio_low"], row["adjusted_ratio_high"]
    return f"{(low * high) ** 0.5:.3g} times as often ({low:.3g} to {high:.3g})"


def _middle(table: pa.Table) -> pa.ChunkedArray:
    """The middle of each ratio's interval, on the scale of ratios."""
    return pc.sqrt(pc.multiply(table["adjusted_ratio_low"], table["adjusted_ratio_high"]))


def _csv(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue()


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as Prefect shows it."""
    return {
        "rule": row["rule"],
        "group": f"{row['kind']} {row['group']}",
        "dropped": f"{row['removed']:,} of {row['documents']:,}",
        "of others": f"{row['other_removed']:,} of {row['other_documents']:,}",
        "ratio": "–" if row["adjusted_ratio_low"] is None else _ratio(row),
        "outcome": "flagged" if row["flagged"] else "tested" if row["tested"] else "too few to say",
    }


# --- one shard -----------------------------------------------------------------------------------------------------------------


class _Members(NamedTuple):
    """Which rows are in the groups of one kind and population."""

    kind: str
    population: str
    rows: Ints
    groups: pa.Array
    """The group of each of `rows`."""


def _members(measured: pa.Table, text: pa.Array, config: AuditConfig) -> list[_Members]:
    """All groups of the rows of `measured`, of which `text` are the texts."""
    everyone = np.arange(measured.num_rows)
    language = measured[LANGUAGE].to_numpy().astype(str)
    found: list[_Members] = []
    if "language" in config.kinds:
        # a text in no known language is of none: beside it every language would look well treated by the rule on the score
        known = np.flatnonzero(language != UNKNOWN)
        found += [_Members("language", ALL, known, pa.array(language[known], pa.string())), _everybody("language", ALL, known)]
    if "domain" in config.kinds:
        host = pc.fill_null(measured["host"].combine_chunks(), "")
        with_host = np.flatnonzero(pc.not_equal(host, "").to_numpy(zero_copy_only=False))
        found += [_Members("domain", ALL, with_host, host.take(pa.array(with_host))), _everybody("domain", ALL, everyone)]
    for lists in map(load_lists, config.term_lists):
        if not (kinds := {group.kind for group in lists.groups} & set(config.kinds)):
            continue
        rows = np.flatnonzero((language == lists.language) | (language == UNKNOWN))
        counts = count_terms(text.take(pa.array(rows)), lists)
        found += [_everybody(kind, lists.language, rows) for kind in sorted(kinds)]
        for group in lists.groups:
            if group.kind in kinds:
                hit = rows[counts[f"terms_{group.name}"].to_numpy() >= config.min_terms]
                found.append(_Members(group.kind, lists.language, hit, pa.repeat(group.name, len(hit))))
    return found


def _everybody(kind: str, population: str, rows: Ints) -> _Members:
    return _Members(kind, population, rows, pa.repeat(ALL, len(rows)))


def _count(members: Sequence[_Members], length: Ints, drops: Drops, config: AuditConfig) -> pa.Table:
    """One row per cell: CELL, `documents`, and one column per rule, ANY among them, of the documents that it drops."""
    names = [ANY, *rule_names(config.filter)]
    schema = pa.schema([*CELL, *((name, pa.int64()) for name in ("documents", *map(_column, names)))])
    tables = [schema.empty_table()]
    for kind, population, rows, groups in members:
        encoded = groups.dictionary_encode()
        codes = encoded.indices.to_numpy().astype(np.int64) * _MAX_LENGTHS + length[rows]
        cells, cell_of = np.unique(codes, return_inverse=True)
        # a language is not compared by the rule that asks for it
        asked = {name: drop[rows] for name, drop in drops.items() if (kind, name) != ("language", LANGUAGE)}
        nothing = np.zeros(len(rows), bool)
        dropped = {ANY: np.logical_or.reduce([nothing, *asked.values()]), **asked}
        made = {
            "kind": pa.repeat(kind, len(cells)),
            "population": pa.repeat(population, len(cells)),
            "group": encoded.dictionary.take(pa.array(cells // _MAX_LENGTHS)),
            "length": cells % _MAX_LENGTHS,
            "documents": np.bincount(cell_of, minlength=len(cells)),
            **{_column(name): np.bincount(cell_of, dropped.get(name, nothing), len(cells)).astype(np.int64) for name in names},
        }
        tables.append(pa.table(made, schema=schema))
    return pa.concat_tables(tables).combine_chunks()


def _column(rule: str) -> str:
    """A rule of a user's own may have any name."""
    return f"dropped by {rule}"


# --- the whole -----------------------------------------------------------------------------------------------------------------


def summed_counts(parts: Sequence[ShardRef], config: AuditConfig) -> pa.Table:
    """The counts of all shards, cell by cell, without the hosts that are no groups.

    Of hosts only their documents are held: 500,000 hosts in 20 shards, asked 34 rules, took 0.28 GB, all their counts 3.9 GB.
    """
    largest = pa.array([ALL, *_largest_hosts(parts, config.max_domains)], pa.string())

    def read() -> Iterator[pa.Table]:
        yield _count((), np.zeros(0, np.int64), {}, config)
        for part in parts:
            table = part.read()
            yield table.filter(pc.or_(pc.not_equal(table["kind"], "domain"), pc.is_in(table["group"], largest)))

    return _summed(read(), CELL.names)


def _largest_hosts(parts: Sequence[ShardRef], how_many: int) -> list[str]:
    """The hosts with the most documents; of equally large ones those first in the alphabet."""

    def read() -> Iterator[pa.Table]:
        yield pa.schema([("group", pa.string()), ("documents", pa.int64())]).empty_table()
        for part in parts:
            table = part.read(["kind", "group", "documents"])
            hosts = pc.and_(pc.equal(table["kind"], "domain"), pc.not_equal(table["group"], ALL))
            yield table.filter(hosts).drop_columns("kind")

    ranked = _summed(read(), ["group"]).sort_by([("documents", "descending"), ("group", "ascending")])
    return [str(name) for name in ranked["group"][:how_many].to_pylist()]


def _summed(tables: Iterable[pa.Table], keys: list[str]) -> pa.Table:
    """The sums of all columns but the keys, key by key; what is held is about twice the sums, and one table."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.num_rows for one in held[1:]) > held[0].num_rows:
            held = [_sum(held, keys)]
    return _sum(held, keys)


def _sum(tables: Sequence[pa.Table], keys: list[str]) -> pa.Table:
    table = pa.concat_tables(tables)
    numbers = [name for name in table.column_names if name not in keys]
    summed = table.group_by(keys, use_threads=False).aggregate([(name, "sum") for name in numbers])
    return summed.select([*keys, *(f"{name}_sum" for name in numbers)]).rename_columns(table.column_names)


def _compared(counts: pa.Table, config: AuditConfig) -> pa.Table:
    """Every group beside all others of its population, length by length: what `disparity` takes."""
    names = counts.column_names[len(CELL.names) :]
    whole = counts.filter(pc.equal(counts["group"], ALL)).drop_columns("group")
    whole = whole.rename_columns([name if name in CELL.names else f"all {name}" for name in whole.column_names])
    parts = counts.filter(pc.not_equal(counts["group"], ALL))
    groups = (
        parts.select(["kind", "population", "group"]).group_by(["kind", "population", "group"], use_threads=False).aggregate([])
    )
    beside = groups.join(whole, ["kind", "population"], join_type="inner", use_threads=False)
    beside = beside.join(parts, CELL.names, join_type="left outer", use_threads=False)
    own = {name: pc.fill_null(beside[name], 0) for name in names}
    others = {name: pc.subtract(beside[f"all {name}"], own[name]) for name in names}
    label = pc.if_else(
        pc.equal(beside["population"], ALL),
        beside["group"],
        pc.binary_join_element_wise(beside["population"], beside["group"], "/"),
    )
    tables = [
        pa.table(
            {
                "kind": beside["kind"],
                "group": label,
                "rule": pa.repeat(rule, beside.num_rows),
                "documents": own["documents"],
                "removed": own[_column(rule)],
                "other_documents": others["documents"],
                "other_removed": others[_column(rule)],
            }
        )
        for rule in [ANY, *rule_names(config.filter)]
    ]
    table = pa.concat_tables(tables)
    return table.filter(pc.invert(pc.and_(pc.equal(table["kind"], "language"), pc.equal(table["rule"], LANGUAGE))))
