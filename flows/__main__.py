"""The `gristmill` command."""

from __future__ import annotations

import dataclasses
import getpass
import json
import logging
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

from infra.errors import GristmillError
from infra.garbage import collect_seldom
from infra.settings import adopt_quiet_environment, settings
from tasks import STEP_NAMES

if TYPE_CHECKING:
    from infra.dataset import ShardSet

app = typer.Typer(
    name="gristmill",
    help="Turns raw web into a served language model, with every grain accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
# in a file or a pipe, wide enough for the closing table
out = Console() if sys.stdout.isatty() else Console(width=120)
err = Console(stderr=True)

ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help="A YAML file, or the name of one that ships: demo, small, web, cluster.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Override a key: dotted.key=value, where the value is YAML. Repeatable.")
]


class LineageFormat(StrEnum):
    """How `lineage` is shown."""

    tree = "tree"
    mermaid = "mermaid"
    html = "html"
    json = "json"


class TableFormat(StrEnum):
    """How a comparison is shown."""

    table = "table"
    json = "json"


class GuardSide(StrEnum):
    """Which rules of a guard judge a text."""

    before = "before"
    after = "after"


FLOWS = ("pipeline", "curate", "recrawl", "train", "align", "evaluate", "improve")
EXIT_USER_ERROR = 2
EXIT_FAILED = 1
EXIT_WARNING = 3
EXIT_INTERRUPTED = 130  # as shells say of Ctrl-C


@app.command()
def run(
    flow: Annotated[str, typer.Argument(help="pipeline, curate, recrawl, train, align, evaluate or improve.")] = "pipeline",
    config: ConfigOption = "demo",
    overrides: SetOption = None,
    source_run: Annotated[
        str, typer.Option("--from", help="Run whose versions `train`, `align` and `evaluate` take.")
    ] = "latest",
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as the run is scheduled.")] = False,
) -> None:
    """Run a flow on its work queue, show its progress, and end with a table and links. Starts the servers if need be."""
    from flows.config import load, require_sources

    if flow not in FLOWS:
        raise _UsageError(f"flow {flow!r}: there is none of that name; these are: {', '.join(FLOWS)}")
    loaded = load(config, overrides or [])
    if flow in ("pipeline", "curate", "recrawl") and not settings().prefect_api_url:  # else the files may be another machine's
        require_sources(loaded, evaluation=flow == "pipeline")
    _start_servers()
    from flows import deployments

    submitted = deployments.submit(
        flow, loaded, **_flow_inputs(flow, source_run, loaded.name, adopts=bool(loaded.adopt.checkpoint))
    )
    out.print(f"{flow}: flow run {submitted.name} ({submitted.id})", highlight=False)
    if not detach:
        _follow(flow, submitted.id)


@app.command()
def rerun(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, its name on Prefect, or `latest`.")],
    first_step: Annotated[
        str,
        typer.Option(
            "--from", help="Make this step and all that follow from it again, though they are whole. A crawl is replayed."
        ),
    ] = "",
    skip_poisoned: Annotated[
        bool, typer.Option("--skip-poisoned", help="Leave out documents that end their workers, as rejects of rule `poisoned`.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as the run is scheduled.")] = False,
) -> None:
    """Try a finished run again: finished steps are loaded once their files prove whole, the failed one goes on, the rest follows."""
    if first_step and first_step not in STEP_NAMES:
        raise _UsageError(f"--from {first_step}: there is no such step; these are: {', '.join(STEP_NAMES)}")
    _require_run(run_name)
    _start_servers()
    from flows import rerun as again

    found, since = again.find(run_name), datetime.now(UTC)
    again.rerun(found, first_step, skip_poisoned, lambda line: out.print(line, highlight=False))
    out.print(f"flow run {found.name} ({found.id}): tried again", highlight=False)
    if not detach:
        _follow(found.name, found.id, since)


@app.command()
def approve(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, its name on Prefect, or `latest`.")],
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; kept in MLflow.")] = "",
    by: Annotated[str, typer.Option("--by", help="Who decides; kept in MLflow. By default the user of this machine.")] = "",
    refuse: Annotated[bool, typer.Option("--refuse", help="Say no: the run fails.")] = False,
) -> None:
    """Answer a run that waits at the gate, where expectations of severity `warning` did not hold."""
    _require_prefect()
    from flows import approval
    from flows import rerun as again

    by = by or _user()
    found = again.find(run_name)
    warnings = approval.answer(found, approval.Approval(approve=not refuse, reason=reason, by=by))
    out.print(warnings, highlight=False, markup=False, soft_wrap=True)
    out.print(f"flow run {found.name}: {'refused' if refuse else 'approved'} by {by}; it goes on", highlight=False)


@app.command()
def schedule(
    flow: Annotated[
        str, typer.Argument(help="pipeline, curate, recrawl, train or evaluate; without it all schedules are listed.")
    ] = "",
    cron: Annotated[str | None, typer.Option("--cron", help="Minute, hour, day, month, weekday, as in '0 3 * * *'.")] = None,
    timezone: Annotated[str | None, typer.Option("--timezone", help="For example Europe/Berlin; UTC by default.")] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="A YAML file, or the name of one that ships.")] = "",
    overrides: SetOption = None,
    name: Annotated[str, typer.Option("--name", help="A flow can have several schedules, by name.")] = "nightly",
    on: Annotated[bool, typer.Option("--on", help="Switch it on as it is; --cron, --timezone and --config do so too.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Keep it, but switch it off.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it.")] = False,
) -> None:
    """Let a flow run by itself: make, change, switch on or off, remove or list schedules. Whatever stands in the Prefect UI is the same."""
    from flows.config import load

    if flow and flow not in FLOWS:
        raise _UsageError(f"flow {flow!r}: there is none of that name; these are: {', '.join(FLOWS)}")
    if overrides and not config:
        raise _UsageError("--set needs --config, whose keys it changes")
    changes = bool(cron or timezone or config)
    if not flow and (changes or on or off or remove):
        raise _UsageError("schedule: whose? Name a flow before these options; without any, all schedules are listed")
    if sum((on, off, remove)) > 1 or (remove and changes):
        raise _UsageError("schedule: --on, --off and --remove exclude each other, and what is removed is not changed")
    loaded = load(config, overrides or []) if config else None
    if not (changes or on):
        _require_prefect()  # nothing to run: no server is started for it
    else:
        _find_servers()
    from flows import schedules

    if remove:
        schedules.remove(flow, name)
    elif changes or on or off:
        schedules.plan(flow, name, cron, timezone, loaded, active=not off, new=changes or on)
    table = Table("flow", "schedule", "cron", "time zone", "state", "next run", "corpus")
    for one in schedules.planned():
        if flow not in ("", one.flow):
            continue
        at = one.next_run.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if one.next_run else ""
        state = "[green]on[/]" if one.active else "off"
        table.add_row(one.flow, one.name, one.cron, one.timezone, state, at, one.corpus or "(as deployed)")
    out.print(table)


@app.command()
def automate(
    name: Annotated[str, typer.Argument(help="train-on-publish or crash-the-silent; without it all are listed.")] = "",
    off: Annotated[bool, typer.Option("--off", help="Switch it off.")] = False,
) -> None:
    """Switch on what happens by itself after something else: training after a new dataset version, a verdict on silent runs."""
    _find_servers()
    from flows import automations

    if name:
        automations.switch(name, on=not off)
    table = Table("automation", "state", "what it does")
    for one in automations.switches():
        table.add_row(one.name, "[green]on[/]" if one.on else "off", one.description)
    out.print(table)


class _StepCommand(TyperCommand):
    """Whose help tells the keys of a step that is named before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj = next((word for word in args if word in STEP_NAMES), None)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        if ctx.obj is not None:
            from flows import single

            single.show_keys(ctx.obj, out)


@app.command(cls=_StepCommand)
def step(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STEP_NAMES)}.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; an earlier start of the same step goes on in it.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            help="A file or folder of JSONL, JSONL.gz/.zst, Parquet or text, a version's folder, or, for a step that takes a model, "
            "a folder that transformers loads, a GGUF file or a hub name. Repeatable.",
        ),
    ] = None,
    overrides: SetOption = None,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=0, help="Worker processes; 1: in this process, 0: one per core.")
    ] = 0,
) -> None:
    """Run one step on local files; needs no server. Writes part-*.parquet, rejects/part-*.parquet and manifest.json.

    `gristmill step NAME --help` lists the keys of that step for --set.
    """
    from flows import single

    try:
        single.run_step(name, inputs or [], output, overrides or [], workers, out)
    except KeyboardInterrupt:
        err.print(f"Interrupted. The same words go on where it stood, in {output}.", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


@app.command()
def check_config(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of one that ships.")], overrides: SetOption = None
) -> None:
    """Check a configuration, and that the files it names are there, and name every problem; exit code 2 if there is one."""
    from flows.config import find_file, load, require_sources

    loaded = load(file, overrides or [])
    if not settings().prefect_api_url:  # else they may be another machine's
        require_sources(loaded, evaluation=True)
    out.print(f"{find_file(file)}: good", highlight=False)


@app.command()
def report(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, or `latest`.")] = "latest",
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the page.")] = Path("report.html"),
) -> None:
    """Write the report page of a run: one HTML file that needs nothing else."""
    _adopt_servers()
    from infra import ledger
    from tasks.report import render_run

    found = ledger.find_run(run_name)
    output.write_text(render_run(found, [entry.shards() for entry in ledger.entries(found)]), encoding="utf-8")
    out.print(str(output), highlight=False, soft_wrap=True)


@app.command()
def trace(
    what: Annotated[str, typer.Argument(metavar="URL-OR-ID", help="A page's URL, a doc_id or a content_id.")],
    run_name: Annotated[str, typer.Option("--run", help="The run to look in.")] = "latest",
) -> None:
    """Follow one document through a run: where it came from, what each step did with it, and why it was dropped."""
    from flows.passport import trace_document

    trace_document(what, run_name, out)


@app.command()
def lineage(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="A version or digest, a model (name, name:version, name@alias), a run, a source, a suite, a URL or doc_id.",
        ),
    ],
    up: Annotated[bool, typer.Option("--up", help="Only what it came from.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Only what came of it.")] = False,
    form: Annotated[LineageFormat, typer.Option("--format", "-f", help="How to show it.")] = LineageFormat.tree,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it into this file.")] = None,
) -> None:
    """Say what something came from and what came of it, from sources to models; needs no server, but asks MLflow for aliases."""
    _adopt_servers()
    from flows.lineage import tell

    _write(tell(what, up=up or not down, down=down or not up, form=form.value, warn=_warn), output)


@app.command()
def read_by(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A version or digest, a registered model (name, name:version, name@alias), a run, or `latest`."
        ),
    ] = "latest",
    step: Annotated[int | None, typer.Option("--step", help="What this training step learned from.")] = None,
    document: Annotated[str, typer.Option("--document", help="When a page's URL, a doc_id or a content_id was read.")] = "",
    sources: Annotated[list[str] | None, typer.Option("--source", help="How much of a source was read. Repeatable.")] = None,
    domains: Annotated[
        list[str] | None, typer.Option("--domain", help="How much of a host and all below it was read. Repeatable.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="With the text of each span, of --step and --document.")] = False,
    num: Annotated[int, typer.Option("--num", "-n", min=0, help="Spans to show.")] = 50,
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Say which tokens of which documents a training step learned from, or in which steps a document, source or domain was."""
    _adopt_servers()
    if (step is not None) + bool(document) + bool(sources or domains) != 1:
        raise _UsageError("read-by: what is asked? Give one of --step, --document, or --source and --domain")
    if text and (sources or domains):
        raise _UsageError("--text: of --step and --document; sources and domains are told in numbers")
    from flows import read_by as asked
    from flows.trained import find, training_of

    training = training_of(find(what, _warn))
    for doubt in training.doubts:
        _warn(doubt)
    if step is not None:
        answer = asked.of_step(training, step, text=text)
    elif document:
        answer = asked.of_document(training, document, text=text)
    else:
        answer = asked.of_groups(training, sources or [], domains or [])
    if form == TableFormat.table:
        asked.show(answer, out, num)
    else:
        _write(json.dumps(answer, indent=1, ensure_ascii=False), None)


@app.command()
def diff(
    older: Annotated[str, typer.Argument(metavar="VERSION", help="A version or digest, a run, `latest` or `previous`.")],
    newer: Annotated[str, typer.Argument(metavar="VERSION", help="The one to compare it with.")],
    corpus: Annotated[
        str, typer.Option("--corpus", help="Whose `latest` and `previous`; by default that of the newest run.")
    ] = "",
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Say which documents were added, removed and changed between two versions, by reason, and what changed in their recipes."""
    from flows.diff import compare, find, show

    found = compare(find(older, corpus), find(newer, corpus))
    if form == TableFormat.table:
        show(found, out)
    else:
        _write(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False), None)


@app.command()
def compare_filters(
    first: Annotated[str, typer.Argument(metavar="A", help="A profile, or a YAML file with a `filter` part.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
    of: Annotated[
        str, typer.Option("--of", help="Whose documents: a version, a run, `latest`, or a folder that `step signals` wrote.")
    ] = "latest",
    first_overrides: Annotated[list[str] | None, typer.Option("--a", help="key=value for A, repeatable.")] = None,
    second_overrides: Annotated[list[str] | None, typer.Option("--b", help="key=value for B, repeatable.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Documents to show of each kind.")] = 3,
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Say which documents two filters judge differently, and by which rules, from the signals that are stored."""
    from flows.compare_filters import compare, filter_of, show, signals_of

    a, b = filter_of(first, first_overrides or []), filter_of(second, second_overrides or [])
    found = compare(signals_of(of), a, b, samples)
    if form == TableFormat.table:
        show(found, first, second if second != first else f"{second} (B)", out)
    else:
        _write(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False), None)


@app.command()
def rejects(
    what: Annotated[
        str, typer.Argument(metavar="VERSION-or-RUN", help="A version or digest, a run, `latest`, or a folder.")
    ] = "latest",
    rule: Annotated[str, typer.Option("--rule", help="Only what this rule dropped.")] = "",
    step: Annotated[str, typer.Option("--step", help="Only this step of a run.")] = "",
    source: Annotated[str, typer.Option("--source", help="Only documents of this source.")] = "",
    num: Annotated[int, typer.Option("--num", "-n", min=0, help="Documents to show of each rule.")] = 3,
    seed: Annotated[
        int,
        typer.Option("--seed", min=-(2**63), max=2**63 - 1, help="Another seed draws other documents; the same one the same."),
    ] = 0,
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Say what each rule dropped and how many, with documents to read: value, threshold, URL and how the text begins."""
    from flows.rejects import drawn, show, versions_of

    versions = versions_of(what, step)
    found = drawn(versions, rule, source, num, seed)
    if form == TableFormat.table:
        show(found, versions, out)
    else:
        _write(json.dumps([dataclasses.asdict(one) for one in found], indent=1, ensure_ascii=False), None)


@app.command()
def estimate(
    given: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Documents: a version or its folder, a run, `latest`, files of text, or a configuration file."
        ),
    ] = "latest",
    config: Annotated[
        str, typer.Option("--config", "-c", help="The configuration with the parts `index` and `dask`; else the defaults.")
    ] = "",
    overrides: SetOption = None,
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Say what deduplicating documents will need in memory, disk and time, from a sample; exit code 3 if there is too little."""
    from flows.estimate import estimate as ask
    from flows.estimate import show

    found = ask(given, config, overrides or [])
    if form == TableFormat.table:
        show(found, out)
    else:
        _write(json.dumps(found.as_json(), indent=1), None)
    if found.short():
        raise typer.Exit(EXIT_WARNING)


@app.command()
def plan(
    given: Annotated[
        str,
        typer.Argument(metavar="[DATA]", help="A version of tokens or documents, a run, `latest`, or a configuration file."),
    ] = "",
    gpu_hours: Annotated[float | None, typer.Option("--gpu-hours", help="Hours of one device, on all of them together.")] = None,
    days: Annotated[float | None, typer.Option("--days", help="Days from beginning to end.")] = None,
    money: Annotated[
        float | None, typer.Option("--money", help="What it may cost, by pretrain.costs.price_per_hour or price_per_kwh.")
    ] = None,
    gpu: Annotated[str, typer.Option("--gpu", help="What trains: a100, h100, l4, rtx4090 …; a wrong name tells them all.")] = "",
    here: Annotated[bool, typer.Option("--here", help="This machine trains; its peak is measured.")] = False,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many of them.")] = 1,
    mfu: Annotated[float | None, typer.Option("--mfu", min=0.001, max=1, help="Share of the peak that training reaches.")] = None,
    tokens_per_parameter: Annotated[
        float, typer.Option("--tokens-per-parameter", min=0.1, help="More: a smaller model, cheaper to serve.")
    ] = 20.0,
    config: Annotated[
        str, typer.Option("--config", "-c", help="The configuration with family, vocabulary and prices; else the defaults.")
    ] = "",
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """Say what model a budget pays for, its tokens, memory, time and cost; exit code 3 if it does not fit the device."""
    from flows.plan import Budget, show
    from flows.plan import plan as ask

    if bool(gpu) == here:
        raise _UsageError("say what trains: --gpu and its name (--gpu a100), or --here for this machine")
    budget = Budget(gpu_hours, days, money)
    found = ask(given, budget, "here" if here else gpu, gpus, config, overrides or [], mfu, tokens_per_parameter)
    if as_json:
        _write(json.dumps(found.as_json(), indent=1), None)
    else:
        show(found, out)
    if not found.fits:
        raise typer.Exit(EXIT_WARNING)


@app.command()
def sweep(
    file: Annotated[
        str,
        typer.Argument(metavar="[FILE]", help="What is tried, as YAML (docs/sweep.md); an option takes the place of its field."),
    ] = "",
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            help="Try a key: dotted.key=low..high, then perhaps :log or :step=N; or dotted.key=this,that. Repeatable.",
        ),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="What is learnt from: a version of documents or tokens, a run, or `latest`.")
    ] = "",
    config: Annotated[
        str, typer.Option("--config", "-c", help="The configuration whose keys are tried; else the defaults.")
    ] = "",
    overrides: SetOption = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="How many trainings; a larger number adds to them.")
    ] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", min=1, help="How many of them at a time.")] = None,
    objective: Annotated[str, typer.Option("--objective", help="valid_loss, or a figure such as heldout.bits_per_byte.")] = "",
    sampler: Annotated[str, typer.Option("--sampler", help="tpe, random or grid.")] = "",
    pruner: Annotated[str, typer.Option("--pruner", help="median, hyperband or none.")] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Decides which values are tried.")] = None,
    name: Annotated[str, typer.Option("--name", help="To find it again by; else it is named by what it tries.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Copy the page into this file.")] = None,
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Search the values of some keys with which training goes best. The same words go on with a sweep that was interrupted."""
    _adopt_servers()
    from flows import sweep_config

    given = {
        **{"data": data, "config": config, "trials": trials, "parallel": parallel, "objective": objective},
        **{"sampler": sampler, "pruner": pruner, "seed": seed, "name": name},
    }
    wanted = sweep_config.read(
        file, {key: value for key, value in given.items() if value not in ("", None)}, overrides or [], space or []
    )
    from flows import sweep as sweeps

    try:
        found = sweeps.run(wanted, lambda line: err.print(line, highlight=False, markup=False, soft_wrap=True))
    except KeyboardInterrupt:
        err.print("Interrupted. The same words go on where it stood.", highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if output is not None:
        output.write_text(found.page.read_text(encoding="utf-8"), encoding="utf-8")
    if form == TableFormat.table:
        sweeps.show(found, out)
    else:
        _write(json.dumps(found.as_json(), indent=1), None)


@app.command()
def ablate(
    versions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]VERSION …", help="Dataset versions, the baseline first; or none, and --variant."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--variant", help="NAME=dotted.key=value: the corpus of --config with this key changed. Repeatable."),
    ] = None,
    config: Annotated[
        str, typer.Option("--config", "-c", help="A YAML file, or the name of one that ships: model, training, scores.")
    ] = "small",
    overrides: SetOption = None,
    seeds: Annotated[int, typer.Option("--seeds", min=2, help="Trainings of each variant.")] = 3,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", "-m", help="Compare this figure, or a pattern with *. Repeatable.")
    ] = None,
    with_benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Ask the tasks, packs and arithmetic of `benchmark`, too.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the page.")] = Path("ablation.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON, in place of the tables.")] = False,
) -> None:
    """Say which filter pays: train the same model on versions that differ in one thing, with several seeds, and compare the scores.

    What is there already is loaded, so the same words go on where it stood. Needs no server; starts none.
    """
    _adopt_servers()
    from flows import ablate as ablation
    from flows.config import load
    from tasks.ablate import METRICS, PAGE

    if bool(versions) == bool(changes):
        raise _UsageError("ablate: what is compared? Give versions, or --variant with changes of --config, and not both")

    def tell(line: str) -> None:
        err.print(line, highlight=False, markup=False, soft_wrap=True)

    variants = ablation.of_versions(versions) if versions else ablation.of_changes(config, overrides or [], changes or [], tell)
    with err.status("") as status:

        def watch(done: int, total: int, what: str, note: str) -> None:
            status.update(f"{done:,} of {total:,} {what} {note}".rstrip())

        asked = ablation.Asked(load(config, overrides or []), seeds, tuple(metrics or METRICS), with_benchmark, tell, watch)
        try:
            result = ablation.ablate(variants, asked)
        except KeyboardInterrupt:
            tell("Interrupted. The same words go on where it stood.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    found = ablation.told(result)
    if as_json:
        _write(json.dumps(found, indent=1, ensure_ascii=False), None)
    else:
        ablation.show(found, out)
    output.write_bytes(result.read_file(PAGE))
    err.print(f"{result.folder}\n{output}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def compare_models(
    first: Annotated[
        str, typer.Argument(metavar="A", help="A registered model (name, name:version, name@alias), a version or a run.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Say in which metrics model A is better or worse than B beyond noise, item by item, from their kept evaluations."""
    _adopt_servers()
    from flows import compare_models as models

    if form == TableFormat.table:
        models.compared(first, second, lambda one, other, rows: models.show(one, other, rows, out))
    else:
        models.compared(first, second, lambda *found: _write(json.dumps(models.as_json(*found), indent=1), None))


@app.command()
def leaderboard(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A registered model; by default all.")] = "",
    metrics: Annotated[list[str] | None, typer.Option("--metric", "-m", help="Only this figure. Repeatable.")] = None,
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Show the versions of a registered model beside one another: every figure with its interval, the best one marked."""
    _adopt_servers()
    from flows import leaderboard as boards

    found = boards.board(name)
    if form == TableFormat.table:
        boards.show(found, metrics or [], out)
    else:
        _write(json.dumps(boards.as_json(found), indent=1), None)


@app.command()
def canaries(
    output: Annotated[Path, typer.Option("--output", "-o", help="A .jsonl file for the documents, which `ingest` reads.")],
    overrides: SetOption = None,
) -> None:
    """Write documents with secrets to plant before training, so that `probe` can ask what a model kept of them (docs/probes.md)."""
    from flows.keys import overrides_of
    from tasks.text.canaries import CanaryConfig, documents

    config = overrides_of(CanaryConfig, overrides or [])
    rows = list(documents(config))
    _write("\n".join(json.dumps(row) for row in rows), output)
    told = " ".join(f"--set canaries.{key}={value}" for key, value in config.model_dump(mode="json").items())
    out.print(
        f"{config.num:,} canaries in {len(rows):,} documents; ask for them with: gristmill step probe … {told}".replace(
            ", ", ","
        ),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command()
def promote(
    what: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="A registered model; without a version its challenger.")],
    config: Annotated[
        str, typer.Option("--config", "-c", help="The configuration with the part `gate`; else the defaults.")
    ] = "",
    overrides: SetOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it though it is worse; --reason is kept in the registry.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why.")] = "",
) -> None:
    """Make a registered model the champion of its name, unless it is worse than the present one in what `gate.metrics` lists.

    Exit code 1: it was refused.
    """
    _adopt_servers()
    from flows.keys import overrides_of
    from flows.promotion import promote as move
    from tasks.learn.config import GateConfig

    if config:
        from flows.config import load

        gate = load(config, overrides or []).gate
    else:
        gate = overrides_of(GateConfig, [one.removeprefix("gate.") for one in overrides or []])
    if not move(what, out, gate, force=force, reason=reason, by=_user()):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def pin(
    what: Annotated[str, typer.Argument(metavar="[VERSION|MODEL]", help="What to keep; without it, all pins are listed.")] = "",
    why: Annotated[str, typer.Option("--why", help="A word for those who find the pin.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Take the pin away.")] = False,
) -> None:
    """Keep a version or model, and all it came from, whatever `gc` would remove."""
    _adopt_servers()
    from infra import retention

    if not what:
        lines = [f"{one['id']}  {one['pinned']}  {one['why']}".rstrip() for one in retention.pins()]
    else:
        from flows import unreferenced

        lines = list(unreferenced.pin(what, why=why, remove=remove))
    _write("\n".join(lines or ["nothing is pinned"]), None)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    keep_runs: Annotated[int | None, typer.Option("--keep-runs", min=0, help="Only the newest so many runs count.")] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            min=0,
            metavar="DAYS",
            help="Runs not heard of for so long do not count, and unfinished work so old goes.",
        ),
    ] = None,
) -> None:
    """Remove versions that no run, registry alias, pin or corpus refers to, and unfinished work of nobody."""
    _adopt_servers()
    from flows import unreferenced
    from infra import retention

    found = unreferenced.unneeded(keep_runs, older_than, _warn)
    unreferenced.show(found, out)
    if dry_run or not found:
        return
    if not yes and not (sys.stdin.isatty() and typer.confirm("Remove them?")):
        raise _UsageError("gc: nothing was removed; say --yes to remove without being asked")
    still = {one.path for one in unreferenced.unneeded(keep_runs, older_than, _warn)}  # the question may have stood for hours
    for one in found:
        if one.path in still:
            retention.remove(one)
    out.print("removed", highlight=False)


@app.command()
def verify(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, or `latest`.")] = "latest",
) -> None:
    """Read every file of a run's versions and compare it with its digest; exit code 1 if one differs."""
    from flows.passport import verify_run

    if not verify_run(run_name, out):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def validate(
    path: Annotated[str, typer.Argument(help="A Parquet file, a folder of them, or a dataset version.")],
    suite: Annotated[str, typer.Option("--suite", help="A suite that ships (`gristmill suite list`), or a suite file.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for validation.html and validation.json.", file_okay=False)
    ] = Path(),
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=0, help="Worker processes; 1: in this process, 0: one per core.")
    ] = 0,
) -> None:
    """Judge any Parquet data by an expectation suite; needs no server.

    Exit code 0: every expectation holds; 3: only warnings; 1: a critical one failed or could not be evaluated; 2: nothing was judged.
    """
    from flows.validation import validate_path

    verdict = validate_path(path, suite, output, workers, out)
    if code := {"warning": EXIT_WARNING, "failed": EXIT_FAILED}.get(verdict.value, 0):
        raise typer.Exit(code)


@app.command("check-text")
def check_text(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text, or - for what comes by standard input.")],
    policy: Annotated[str, typer.Option("--policy", "-p", help="default, strict, off, or a YAML file.")] = "default",
    side: Annotated[
        GuardSide, typer.Option("--side", help="Judge it as a message to a model, or as its answer.")
    ] = GuardSide.before,
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
) -> None:
    """Say what the guardrails make of one text: which rules fire, what is masked; exit code 3 if it is refused."""
    from flows import guarding

    decision = guarding.judge(sys.stdin.read() if text == "-" else text, policy, side.value)
    if form == TableFormat.table:
        guarding.show(decision, out)
    else:
        _write(json.dumps(dataclasses.asdict(decision), indent=1, ensure_ascii=False), None)
    if decision.action == "refuse":
        raise typer.Exit(EXIT_WARNING)


prompt_app = typer.Typer(help="Prompt templates, in versions, in MLflow's prompt registry.", no_args_is_help=True)
app.add_typer(prompt_app, name="prompt")


@prompt_app.command("add")
def add_prompt(
    name: Annotated[str, typer.Argument(help="Name of the prompt.")],
    file: Annotated[Path, typer.Argument(help="Its template: a text file with {{variables}}.")],
    message: Annotated[str, typer.Option("--message", "-m", help="Why; kept with the version.")] = "",
    alias: Annotated[str, typer.Option("--alias", help="Let this alias mean the new version.")] = "",
) -> None:
    """Register a template as the next version of a prompt; the newest version once more is no new one."""
    _adopt_servers()
    from flows import prompting

    made = prompting.add(name, file, message, alias)
    out.print(f"{made.name}:{made.version}", highlight=False)


@prompt_app.command("list")
def list_prompts(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Versions of this prompt; by default all.")] = "",
) -> None:
    """List prompts with their versions, aliases and variables."""
    _adopt_servers()
    from flows import prompting

    prompting.show_list(name, out)


@prompt_app.command("show")
def show_prompt(
    what: Annotated[str, typer.Argument(metavar="NAME[:VERSION|@ALIAS]", help="By default the newest version.")],
) -> None:
    """Print a prompt's template."""
    _adopt_servers()
    from flows import prompting

    prompting.show(what, out)


@prompt_app.command("alias")
def alias_prompt(
    name: Annotated[str, typer.Argument(help="Name of the prompt.")],
    alias: Annotated[str, typer.Argument(help="For example `live`.")],
    version: Annotated[str, typer.Argument(help="Number of the version that it means from now on.")],
) -> None:
    """Let an alias mean another version: the next request is answered with it."""
    _adopt_servers()
    from infra import tracking

    tracking.set_prompt_alias(name, alias, version)
    out.print(f"{name}@{alias} is {name}:{version}", highlight=False)


suite_app = typer.Typer(help="Draft, list and check expectation suites.", no_args_is_help=True)
app.add_typer(suite_app, name="suite")


@suite_app.command("propose")
def propose_suite(
    path: Annotated[str, typer.Argument(help="A Parquet file, a folder of them, or a dataset version.")],
    name: Annotated[str, typer.Option("--name", help="Name of the suite; by default that of the file or folder.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new file; by default the draft is printed.")] = None,
) -> None:
    """Draft a suite from data, for a person to edit: each expectation says what was seen."""
    from flows.validation import propose

    propose(path, name, output, out)


@suite_app.command("list")
def list_suites() -> None:
    """List the suites that ship."""
    from flows import validation

    validation.list_suites(out)


@suite_app.command("check")
def check_suite(file: Annotated[str, typer.Argument(help="A suite file, or the name of one that ships.")]) -> None:
    """Check a suite and name every problem; exit code 2 if there is one."""
    from flows import validation

    validation.check_suite(file, out)


votes_app = typer.Typer(help="What people said of answers: list, score, forget, export.", no_args_is_help=True)
app.add_typer(votes_app, name="votes")


class ExportForm(StrEnum):
    """What votes are exported as."""

    pairs = "pairs"
    conversations = "conversations"
    ratings = "ratings"


@votes_app.command("list")
def list_votes(num: Annotated[int, typer.Option("--num", "-n", min=0, help="Votes to show, the newest last.")] = 20) -> None:
    """Show the newest votes."""
    from flows import votes

    votes.show(votes.opened().votes(), out, num)


@votes_app.command("scores")
def vote_scores() -> None:
    """Show Bradley-Terry scores of the models with 95 % intervals, thumbs, and how far raters agree."""
    from flows import votes

    votes.show_scores(votes.opened().votes(), out)


@votes_app.command("forget")
def forget_votes(rater: Annotated[str, typer.Argument(help="A rater's id, or its beginning, as `votes list` shows it.")]) -> None:
    """Remove all that a rater said, and name the exported files that hold it."""
    from flows import votes

    votes.forget(votes.opened(), rater, out)


@votes_app.command("export")
def export_votes(
    output: Annotated[Path, typer.Option("--output", "-o", help="A JSONL file.", dir_okay=False)],
    form: Annotated[
        ExportForm,
        typer.Option(
            "--form",
            help="pairs: chosen and rejected answers; conversations: liked and corrected ones; ratings: single ones with thumbs.",
        ),
    ] = ExportForm.pairs,
) -> None:
    """Write votes as rows for training: only with consent, a majority's where raters differ; every vote left out has its reason."""
    from flows import votes

    votes.export(votes.opened(), output, form.value, out)


@app.command()
def chat(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL|URL]",
            help="A model's name at the gateway; one that `serve` would take, for which a gateway is started; or a gateway's URL.",
        ),
    ] = "",
    url: Annotated[str, typer.Option("--url", help="The gateway, where a model is named.")] = "http://127.0.0.1:8080",
) -> None:
    """Talk to a model that `gristmill serve` serves, and say what you think of its answers. Its key is GRISTMILL_API_KEY."""
    from flows import chat as talk

    gateway, model = (what, "") if "://" in what else (url, what)
    talk.chat(gateway, model, out)


@app.command()
def up() -> None:
    """Start the Prefect server, the MLflow server and a worker on each of the queues cpu and gpu."""
    _start_servers()
    status()


@app.command()
def down() -> None:
    """Stop the servers and workers that `up` started."""
    from infra import servers

    with servers.alone():
        servers.down(lambda line: out.print(line, highlight=False))


@app.command()
def status() -> None:
    """Say what runs, where, and whether it answers; exit code 1 if something does not."""
    from infra import servers

    running = servers.known()
    if not running:
        out.print("nothing was started here; start it with `gristmill up`")
        raise typer.Exit(EXIT_FAILED)
    states = {name: servers.healthy(server) for name, server in running.items()}
    for name, server in running.items():
        word = "healthy" if states[name] else "[red]down[/]"
        out.print(
            f"{name:<11} {word:<8} pid {server.pid:<7} {server.url or '':<24} log {server.log}", highlight=False, soft_wrap=True
        )
    if not all(states.values()):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def doctor() -> None:
    """Check this environment: what is missing and how to mend it; exit code 1 if something is broken.

    Runs in Prefect and MLflow that only seem to be at work, as after a power cut, are ended, so that they can be tried again.
    """
    from flows.doctor import examine

    findings = examine()
    for finding in findings:
        out.print(
            f"[{'green' if finding.good else 'red' if finding.needed else 'yellow'}]{finding.mark}[/] {finding.text}",
            soft_wrap=True,
        )
    if any(finding.needed and not finding.good for finding in findings):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def host(name: Annotated[str, typer.Argument(help="prefect, mlflow, or a worker's queue: cpu, gpu.")]) -> None:
    """Be one server or worker in the foreground, for containers and batch jobs; `up` starts them in the background."""
    from infra import servers

    if name not in (*servers.PLANS, *servers.QUEUES):
        raise _UsageError(f"host {name!r}: none of that name; these are: {', '.join((*servers.PLANS, *servers.QUEUES))}")
    if name in servers.QUEUES:
        servers.require_servers()
        from flows.deployments import deploy
        from flows.reconcile import reconcile

        deploy()
        if words := reconcile().words:
            out.print(words, highlight=False, soft_wrap=True)
    servers.serve(name)


@app.command()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL …",
            help="A registered model (name, name@alias, name:version), a version, or a folder; NAME is what requests say.",
        ),
    ],
    port: Annotated[int | None, typer.Option("--port", "-p", min=0, max=65535, help="0: any that is free.")] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", "-r", min=1, help="Processes for each model.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="transformers or vllm.")] = "",
    overrides: SetOption = None,
) -> None:
    """Serve models over OpenAI's API until Ctrl-C; another version takes over when an alias moves (docs/serving.md).

    Of a registered name alone its champion is served.
    """
    _adopt_servers()
    from flows import serve as serving
    from flows.keys import overrides_of
    from tasks.serving.config import ServeConfig

    short = {"port": port, "replicas": replicas, "engine": engine or None}
    given = [*(overrides or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]
    logging.getLogger("gristmill").setLevel(logging.INFO)
    serving.run(models, overrides_of(ServeConfig, given), lambda line: _write(line, None))


@app.command("drift")
def drift_of_traffic(
    log: Annotated[Path | None, typer.Option("--log", help="Log of requests; by default that of `serve`.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a page to this file, too.")] = None,
    form: Annotated[TableFormat, typer.Option("--format", "-f", help="How to show it.")] = TableFormat.table,
    overrides: SetOption = None,
) -> None:
    """Say whether what served models are asked, and what they answer, is as it was; exit code 3 if it has drifted.

    The last 24 hours are compared with the 28 days before them: --set window_hours=…, reference_days=…, min_distance=… (docs/serving.md).
    """
    from flows import drift
    from flows.keys import overrides_of
    from tasks.serving.config import DriftConfig

    config = overrides_of(DriftConfig, overrides or [])
    found = drift.judge(log, config)
    if form == TableFormat.table:
        drift.show(found, config, out)
    else:
        _write(json.dumps(drift.as_json(found), indent=1, ensure_ascii=False), None)
    if output is not None:
        _write(drift.page(found, log, config), output)
    if found.drifted:
        raise typer.Exit(EXIT_WARNING)


keys_app = typer.Typer(help="Who may ask the models that are served.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
KeysFileOption = Annotated[Path | None, typer.Option("--file", help="By default that of `serve`.")]


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose key: it stands in logs.")],
    requests_per_minute: Annotated[int, typer.Option("--requests-per-minute", min=0, help="0: as many as it likes.")] = 0,
    tokens_per_minute: Annotated[int, typer.Option("--tokens-per-minute", min=0, help="0: as many as it likes.")] = 0,
    file: KeysFileOption = None,
) -> None:
    """Make a key and print it, once: only a digest of it is kept. From then on `serve` asks for keys."""
    _write(_keys(file).add(name, requests_per_minute, tokens_per_minute), None)


@keys_app.command("list")
def list_keys(file: KeysFileOption = None) -> None:
    """List whose keys there are, and their limits."""
    table = Table("name", "requests a minute", "tokens a minute", "made")
    for one in _keys(file).all():
        limits = (f"{number:,}" if number else "any" for number in one.limit)
        table.add_row(one.name, *limits, one.made)
    out.print(table)


@keys_app.command("remove")
def remove_key(name: Annotated[str, typer.Argument(help="Whose key.")], file: KeysFileOption = None) -> None:
    """Take a key away; a gateway that runs refuses it from then on."""
    keys = _keys(file)
    keys.remove(name)
    out.print(f"{name}: has no key any more", highlight=False)
    if not keys:
        _warn("there are no keys left: a gateway that runs refuses everybody; started anew, it answers this machine without any")


def _keys(file: Path | None) -> Any:
    from tasks.serving.config import ServeConfig
    from tasks.serving.keys import Keys
    from tasks.serving.server import keys_file

    return Keys(keys_file(ServeConfig(keys_file=file)))


@app.command()
def migrate() -> None:
    """Bring the databases of Prefect and MLflow to this release, copying those that are files first, and check every manifest."""
    from flows import upkeep

    upkeep.migrate(lambda line: out.print(line, highlight=False, soft_wrap=True))


@app.command()
def tidy() -> None:
    """Remove runs from MLflow that ended more than GRISTMILL_KEEP_RUNS_DAYS days ago; Prefect's server does that for its own."""
    from flows import upkeep

    upkeep.tidy(lambda line: out.print(line, highlight=False, soft_wrap=True))


@app.command()
def setup() -> None:
    """Unpack the language model and compile the kernels; `make setup` calls this once."""
    from flows.doctor import compile_kernels, unpack_language_model

    unpack_language_model(lambda line: out.print(line, highlight=False))
    compile_kernels(lambda line: out.print(line, highlight=False))


def _write(text: str, output: Path | None) -> None:
    """To a file, telling its name, or to the terminal."""
    if output is None:
        out.print(text.rstrip("\n"), highlight=False, markup=False, soft_wrap=True)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    out.print(str(output), highlight=False, soft_wrap=True)


def _warn(text: str) -> None:
    err.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


class _UsageError(GristmillError):
    """A word on the command line that means nothing here."""


def _follow(what: str, run_id: Any, since: datetime | None = None) -> None:
    """Show a flow run to its end; exit code 1 if it did not complete."""
    from flows import watch
    from infra.orchestration import flow_run_url

    try:
        ended = watch.follow(run_id, out, since)
    except KeyboardInterrupt:
        words = f"The run goes on without this terminal; follow or cancel it on its page: {flow_run_url(str(run_id))}"
        err.print(words, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    watch.summary(ended, out)
    if ended.state is None or not ended.state.is_completed():
        message = ended.state.message if ended.state else "no state"
        err.print(f"{what}: {ended.state_name}: {message}", highlight=False, markup=False, soft_wrap=True)
        words = f"Its cause mended, press Retry on its Prefect page, or: gristmill rerun {str(run_id)[:8]}"
        err.print(words, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def _find_servers() -> None:
    """Find the servers that run, and start them only where there are none."""
    _adopt_servers()
    if not settings().prefect_api_url:
        _start_servers()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number that no name belongs to, as in containers
        return f"user {os.getuid()}"


def _require_prefect() -> None:
    """Find the Prefect server that runs; unlike `_start_servers` this starts none, for what needs a run that is there."""
    _adopt_servers()
    if not settings().prefect_api_url:
        raise _UsageError("no Prefect server was started here; `gristmill up` starts it, GRISTMILL_PREFECT_API_URL names another")


def _require_run(name: str) -> None:
    """A wrong name is told before anything is started for it, which takes half a minute."""
    _adopt_servers()
    if settings().prefect_api_url:
        from flows.rerun import find

        find(name)
        return
    from infra import ledger

    try:
        ledger.find_run(name)
    except GristmillError as error:
        raise _UsageError(
            f"{error}; no Prefect server runs here that may know more (a run by its Prefect name, or one that failed before its first "
            "step): `gristmill up` starts it"
        ) from error


def _start_servers() -> None:
    from infra import servers

    def tell(line: str) -> None:
        out.print(line, highlight=False, soft_wrap=True)

    with servers.alone():
        with out.status("starting Prefect and MLflow"):
            servers.up(tell)
        from flows.deployments import deploy
        from flows.reconcile import reconcile

        deploy()
        servers.up_workers(tell)
        if words := reconcile().words:
            tell(words)


def _adopt_servers() -> None:
    from infra import servers

    servers.adopt()


def _flow_inputs(flow: str, source_run: str, corpus: str, *, adopts: bool = False) -> dict[str, Any]:
    """The versions of an earlier run that a flow takes; none where it begins with a model of another maker."""
    from infra import ledger

    if flow == "evaluate":
        return {"model": _evaluated(source_run, corpus)}
    wanted = {
        "train": {"dataset": "publish"},
        "align": {} if adopts else {"model": "pretrain", "dataset": "publish"},
    }.get(flow, {})
    if not wanted:
        return {}
    names = list(reversed(ledger.runs())) if source_run == "latest" else [ledger.find_run(source_run)]
    # of `latest` the newest run that has what is wanted: a run of `train` alone published nothing
    name = next((one for one in names if set(wanted.values()) <= {entry.step for entry in ledger.entries(one)}), source_run)
    made = {entry.step: entry.shards() for entry in ledger.entries(name)}
    if missing := [step for step in wanted.values() if step not in made]:
        raise _UsageError(f"run {name}: has no {', '.join(missing)}; run the flow before it, or name another run with --from")
    return {parameter: made[step] for parameter, step in wanted.items()}


def _evaluated(source_run: str, corpus: str) -> ShardSet:
    """The model that a run ended with, pre-trained, adopted or tuned; of `latest` the newest run of the corpus that has one."""
    from flows.align import last, models_in, newest_model
    from infra import ledger

    if source_run == "latest":
        return newest_model(corpus)
    name = ledger.find_run(source_run)
    if not (made := models_in(name)):
        raise _UsageError(f"run {name}: has no model; run `train` or `align` before it, or name another run with --from")
    return last(made)


def main() -> None:
    """Entry point: errors that a user can mend are told without a traceback, exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    collect_seldom()
    try:
        adopt_quiet_environment()
        app()
    except (GristmillError, OSError) as error:  # OSError names the file and what the system said
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        err.print(told, style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
