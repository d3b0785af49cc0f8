"""Suites at the command line: judge any Parquet folder, draft a suite from data, list and check suites. Needs no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expectations import counts, gate, page, proposal, tables
from expectations.counts import ShardResult
from expectations.numbers import DRIFT
from expectations.suites import Suite, read_suite, suite_names, suite_path
from expectations.tables import Part, Tables
from expectations.verdict import Verdict, describe, judge
from infra import dataset, storage
from infra.cluster import DaskConfig, pool
from infra.errors import InputError
from tasks.validate import PAGE, RATES, RESULTS, told_by, with_the_worst

# workers start in 4 s, and then two of them are as soon done with so many rows as this process alone
SMALL_ROWS = 3_000_000
STYLES = {"passed": "green", "not applicable": "dim"}


def validate_path(path: str, suite_name: str, output: Path, workers: int, console: Console) -> Verdict:
    """Judge a Parquet file or folder by a suite; print a table and write the page and the results below `output`.

    Raises:
        InputError: nothing to judge.
        SuiteError: the suite cannot be used.
    """
    opened = tables.open_tables(_absolute(path))
    if not opened.num_rows:
        raise InputError(f"{path}: has no rows to judge")
    said = _facts(path)
    known = told_by(said, read_suite(suite_name).numbers)
    section = gate.judged(
        path,
        opened.rows,
        suite_name,
        partial(_judge_rows, opened=opened, workers=workers),
        facts=known["facts"],
        inapplicable={
            **known["inapplicable"],
            **dict.fromkeys((*RATES, *DRIFT), "plain files have no run behind them"),
        },
    )
    section = with_the_worst(section, said)
    facts = {"dataset": path, "files": len({part.path for part in opened.parts})}
    html = page.render(section, facts={**facts, **section.numbers}, stops="this dataset is not as asked")
    storage.write_bytes(storage.join(str(output), PAGE), html.encode())
    storage.write_json(storage.join(str(output), RESULTS), page.as_json(section, (), facts))
    _print(section, console)
    console.print(f"{output / PAGE}", highlight=False, soft_wrap=True)
    return judge(section.results)


def propose(path: str, name: str, output: Path | None, console: Console) -> None:
    """Draft a suite from a Parquet file or folder; printed, or written to a new file.

    Raises:
        InputError: nothing to draft from, or the file is there already.
    """
    if output is not None and output.exists():
        raise InputError(f"{output}: is there already; give another name, or remove it if nobody has edited it")
    drafted = proposal.propose(tables.open_tables(_absolute(path)).rows, name or Path(path).stem, path)
    text = proposal.as_text(drafted)
    if output is None:
        console.file.write(text)
        return
    storage.write_bytes(str(output.absolute()), text.encode())
    words = f"{output}: {len(drafted['expectations'])} expectations; read and edit it, then: gristmill validate {path} --suite {output}"
    console.print(words, highlight=False, soft_wrap=True)


def list_suites(console: Console) -> None:
    """Print the suites that ship."""
    table = Table(box=None)
    for heading in ("suite", "schema", "expectations", "about"):
        table.add_column(heading, justify="right" if heading == "expectations" else "left", overflow="fold")
    for name in suite_names():
        suite = read_suite(name)
        table.add_row(name, suite.schema_name, str(len(suite.expectations)), escape(str(suite.meta.get("about", ""))))
    console.print(table)


def check_suite(name: str, console: Console) -> None:
    """Say that a suite can be used.

    Raises:
        SuiteError: it cannot, with every problem.
    """
    suite = gate.load_suite(name)
    console.print(f"{suite_path(name)}: good, {len(suite.expectations)} expectations", highlight=False, soft_wrap=True)


def judge_part(part: Part, suite: Suite, columns: Sequence[str]) -> ShardResult:
    """What the suite's expectations on rows say of one part."""
    return counts.summed([gate.validate_shard(batch, suite) for batch in part.batches(columns)], suite)


def _facts(path: str) -> dict[str, Any]:
    """The facts of a dataset version; plain files have none."""
    folder = _absolute(path)
    if storage.exists(storage.join(folder, dataset.MANIFEST)):
        return dataset.read_manifest(folder).facts
    return {}


def _judge_rows(suite: Suite, columns: list[str], *, opened: Tables, workers: int) -> list[ShardResult]:
    kind: Literal["none", "local"] = "none" if workers == 1 or opened.num_rows <= SMALL_ROWS else "local"
    with pool(DaskConfig(kind=kind, workers=workers)) as places:
        return [found for _, found in places.run(partial(judge_part, suite=suite, columns=columns), opened.parts)]


def _print(section: page.Section, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("expectation", "column", "severity", "observed", "asked", "outcome"):
        table.add_column(heading, justify="right" if heading == "observed" else "left", overflow="fold")
    for row in page.table([section]):
        said = (
            row["expectation"].removeprefix("expect_column_"),
            *(row[name] for name in ("column", "severity", "observed", "asked")),
        )
        table.add_row(*map(escape, said), _coloured(row))
    console.print(table, highlight=False)
    for check in section.results:
        if not check.success:
            console.print(
                f"{check.expectation} on {check.column!r}: {describe(check)}", highlight=False, markup=False, soft_wrap=True
            )
    tally = ", ".join(f"{number} {name}" for name, number in page.tally(section.results).items() if number)
    console.print(f"{judge(section.results).value}: {tally}", highlight=False)


def _coloured(row: Mapping[str, str]) -> str:
    style = STYLES.get(row["outcome"], "red" if row["severity"] == "critical" else "yellow")
    return f"[{style}]{row['outcome']}[/]"


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
