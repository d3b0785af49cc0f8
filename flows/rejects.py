"""`gristmill rejects`: what each rule dropped, with documents to read, drawn by a seed from all that it dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.diff import find
from infra import ledger, rejects
from infra.dataset import EXCERPT_CHARS, ShardSet, folder_of, open_version
from infra.errors import InputError
from infra.rejects import Dropped, Reject
from tasks.filter import meanings, passages
from tasks.forget import taken_down


def versions_of(what: str, step: str = "") -> list[ShardSet]:
    """The versions that a folder, a run (`latest` too), a version or a digest names; only those of a step, where one is named.

    Raises:
        InputError: there are none.
    """
    if Path(what).is_dir():
        versions = [open_version(str(Path(what).resolve()))]
    elif what == "latest" or any(run.startswith(what) for run in ledger.runs()):
        versions = [entry.shards() for entry in ledger.entries(ledger.find_run(what))]
    else:
        versions = [open_version(folder_of(find(what).path))]
    chosen = [version for version in versions if step in ("", version.step)]
    if not chosen:
        raise InputError(f"--step {step}: {what} has none of that name; it has {', '.join(version.step for version in versions)}")
    return chosen


def drawn(versions: Sequence[ShardSet], rule: str, source: str, num: int, seed: int) -> list[Dropped]:
    """What the versions dropped, rule by rule.

    Raises:
        InputError: a rule or source is named of which nothing was dropped.
    """
    hidden = taken_down().covers
    found = [
        one
        for version in versions
        for one in rejects.draw(version, num, seed=seed, rule=rule, source=source, read=passages, hidden=hidden)
    ]
    if not found and (rule or source):
        every = [one for version in versions for one in rejects.draw(version, 0)]
        for name, asked, known in (
            ("rule", rule, {one.rule for one in every}),
            ("source", source, {name for one in every for name in one.by_source}),
        ):
            if asked and asked not in known:
                raise InputError(
                    f"--{name} {asked}: nothing was dropped of that {name}; there is {', '.join(sorted(known)) or 'none'}"
                )
    return found


def show(found: Sequence[Dropped], versions: Sequence[ShardSet], console: Console) -> None:
    """A table of the rules, and the documents below it."""
    if not found:
        console.print("nothing was dropped", highlight=False)
        return
    by_step = {version.step: version for version in versions}
    words = {name: meanings(version) for name, version in by_step.items()}
    table = Table("step", "rule", "dropped", "of", "share", "from")
    for one in found:
        total = by_step[one.step].counts.total
        sources = ", ".join(
            f"{name or 'none'} {count:,}" for name, count in sorted(one.by_source.items(), key=lambda pair: -pair[1])[:3]
        )
        table.add_row(
            one.step, escape(one.rule), f"{one.count:,}", f"{total:,}", f"{one.count / max(total, 1):.1%}", escape(sources)
        )
    console.print(table)
    for one in found:
        if not one.samples:
            continue
        console.print(f"\n[bold]{escape(one.rule)}[/] · {one.step}: {one.count:,} dropped", highlight=False, soft_wrap=True)
        if meaning := words[one.step].get(one.rule):
            console.print(f"  {escape(meaning)}", style="dim", highlight=False, soft_wrap=True)
        for sample in one.samples:
            console.print(_told(sample), highlight=False, markup=False, soft_wrap=True)


def _told(sample: Reject) -> str:
    """A document in two lines: where it is and what was measured, and its text on one line."""
    value = "" if sample.value is None else f"  value {sample.value:.4g}"
    threshold = "" if sample.threshold is None else f", threshold {sample.threshold:.4g}"
    detail = f"  ({sample.detail})" if sample.detail else ""
    text = " ".join(sample.text.split())[: EXCERPT_CHARS + 1]
    return f"  {sample.url or sample.doc_id}{value}{threshold}{detail}\n    {text or '(no text)'}"
