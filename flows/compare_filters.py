"""`gristmill compare-filters`: which documents two filters judge differently, by rule and source, with samples to read.

Both are asked of the signals that are stored, so it takes the time of reading those columns: a million documents a few seconds, one shard
in memory at a time. Samples are the documents with the smallest ids, which are as good as drawn and the same every time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.diff import find
from flows.keys import ConfigError, apply, parse
from infra import dataset, ledger, lineage
from infra.dataset import EXCERPT_CHARS, ShardSet, folder_of, open_version
from infra.errors import InputError
from infra.rejects import texts_behind, texts_of
from tasks.forget import taken_down
from tasks.text.rules import LANGUAGE, LANGUAGE_SCORE, PROFILES, FilterConfig, decide

KEPT = "kept"
KEYS = ("doc_id", "source", "url")
MEASURERS = ("signals", "score")
"""Steps that write signals; the last that a run has, has all columns."""


@dataclass(frozen=True)
class Sample:
    """A document that the two judge differently."""

    doc_id: str
    url: str
    source: str
    value: float | None
    """What was measured for the rule that drops it, on whichever side one does; the first filter's where both do."""
    threshold: float | None
    text: str = ""


@dataclass
class Change:
    """Documents of one fate: `a` and `b` are the rule that drops them, or KEPT."""

    a: str
    b: str
    count: int = 0
    by_source: dict[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """Two filters over the same documents."""

    signals: str
    num_documents: int
    kept_by_a: int
    kept_by_b: int
    changes: Sequence[Change]
    """Verdicts that differ first, then reasons that do, the most documents first."""

    @property
    def num_changed(self) -> int:
        """Documents that one keeps and the other drops."""
        return sum(one.count for one in self.changes if KEPT in (one.a, one.b))


def filter_of(name: str, overrides: Sequence[str]) -> FilterConfig:
    """A filter by the name or file of its profile, or the `filter` part of a configuration file (as it is by default, where it has none).

    Raises:
        ConfigError: there is none of that name, or a key or value is wrong.
    """
    path = Path(name).expanduser()
    raw: dict[str, Any]
    if path.suffix in (".yaml", ".yml") and path.is_file():
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(read, dict) and {"rules", "extends"} & set(read):  # a profile of the user's own
            raw = {"profile": name}
        else:
            raw = dict(read["filter"]) if isinstance(read, dict) and isinstance(read.get("filter"), dict) else {}
    elif name in PROFILES:
        raw = {"profile": name}
    else:
        raise ConfigError(f"{name}: neither a profile ({', '.join(PROFILES)}) nor a YAML file")
    for override in overrides:
        apply(raw, override)
    found: FilterConfig = parse(FilterConfig, raw, name)
    return found


def signals_of(what: str) -> ShardSet:
    """The signals that a version, a run, `latest` or a folder rests on.

    Raises:
        InputError: it rests on none.
    """
    if Path(what).is_dir():
        version = open_version(what)
        if version.schema_name == "signals":
            return version
        raise InputError(f"{what}: holds {version.step}, not signals; `gristmill step signals` makes them")
    runs = [run for run in ledger.runs() if run.startswith(what)]
    if len(runs) == 1 and (entries := [entry for entry in ledger.entries(runs[0]) if entry.step in MEASURERS]):
        return entries[-1].shards()
    record = find(what)
    made = [one for one in lineage.chain([record.path]) if one.manifest["step"] in MEASURERS]
    made.sort(key=lambda one: MEASURERS.index(one.manifest["step"]), reverse=True)
    if not made:
        raise InputError(f"{what}: rests on no signals; name a run or a version from `signals` on")
    return open_version(folder_of(made[0].path))


def compare(signals: ShardSet, a: FilterConfig, b: FilterConfig, num_samples: int = 3) -> Comparison:
    """Ask both filters of every document. The text of what was taken down is not among the samples'."""
    needed = {rule.signal for config in (a, b) for rule in config.rules()} | {*KEYS, LANGUAGE, LANGUAGE_SCORE}
    stored = dataset.dataset(signals.folder)
    columns = [name for name in stored.schema.names if name in needed] if stored else []  # `decide` says what is missing
    changes: dict[tuple[str, str], Change] = {}
    kept = [0, 0]
    for shard in signals.shards():
        table = shard.read(columns)
        verdicts = [decide(table, config) for config in (a, b)]
        rules = [pc.fill_null(one.rule, KEPT) for one in verdicts]
        kept = [number + int(one.keep.sum()) for number, one in zip(kept, verdicts, strict=True)]
        by_a = pa.array(~verdicts[0].keep)
        either = {name: pc.if_else(by_a, *(getattr(one, name) for one in verdicts)) for name in ("value", "threshold")}
        judged = pa.table({**{name: table[name] for name in KEYS}, "a": rules[0], "b": rules[1], **either})
        _add(changes, judged.filter(pc.not_equal(rules[0], rules[1])), num_samples)
    hidden = taken_down().covers
    shown = {one.doc_id for change in changes.values() for one in change.samples if not hidden(one)}
    texts = {doc: text[:EXCERPT_CHARS] for doc, text in texts_of(shown, texts_behind(signals))}
    for change in changes.values():
        change.samples = [replace(one, text=texts.get(one.doc_id, "")) for one in change.samples]
    order = sorted(changes.values(), key=lambda one: (KEPT not in (one.a, one.b), -one.count, one.a, one.b))
    return Comparison(f"{signals.step}/{signals.version}", signals.counts.kept, kept[0], kept[1], order)


def _add(changes: dict[tuple[str, str], Change], judged: pa.Table, num_samples: int) -> None:
    """Count the documents of a shard that are judged differently, and keep those with the smallest ids."""
    for row in judged.group_by(["a", "b", "source"]).aggregate([([], "count_all")]).to_pylist():
        change = changes.setdefault((row["a"], row["b"]), Change(row["a"], row["b"]))
        change.count += row["count_all"]
        change.by_source[row["source"]] = change.by_source.get(row["source"], 0) + row["count_all"]
    for pair in judged.group_by(["a", "b"]).aggregate([]).to_pylist():
        same = judged.filter(pc.and_(pc.equal(judged["a"], pair["a"]), pc.equal(judged["b"], pair["b"])))
        first = same.take(pc.select_k_unstable(same, num_samples, [("doc_id", "ascending")])).to_pylist() if num_samples else []
        change = changes[pair["a"], pair["b"]]
        found = [Sample(**{name: row[name] for name in (*KEYS, "value", "threshold")}) for row in first]
        change.samples = heapq.nsmallest(num_samples, [*change.samples, *found], key=lambda one: one.doc_id)


def show(found: Comparison, a: str, b: str, console: Console) -> None:
    """The comparison as tables."""
    total = max(found.num_documents, 1)
    console.print(f"{found.num_documents:,} documents of {found.signals}", highlight=False)
    for name, kept in ((a, found.kept_by_a), (b, found.kept_by_b)):
        console.print(f"  {name} keeps {kept:,} ({kept / total:.1%})", highlight=False)
    console.print(f"{found.num_changed:,} change their verdict ({found.num_changed / total:.1%})", highlight=False)
    if not found.changes:
        return
    table = Table()
    for heading in (a, b, "documents", "of sources", "such as"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "documents" else "left")
    for one in found.changes:
        sources = ", ".join(f"{source} {count:,}" for source, count in Counter(one.by_source).most_common(3))
        samples = "\n".join(_told(sample) for sample in one.samples)
        table.add_row(one.a, one.b, f"{one.count:,}", escape(sources), escape(samples))
    console.print(table)


def _told(sample: Sample) -> str:
    """A sample in two lines: where it is and what was measured, and how it begins."""
    measured = f" ({sample.value:.3g} against {sample.threshold:.3g})" if None not in (sample.value, sample.threshold) else ""
    begins = " ".join(sample.text.split())[:120]
    return f"{sample.url or sample.doc_id}{measured}" + (f"\n  {begins}" if begins else "")
