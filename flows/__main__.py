"""The `gristmill` command."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from infra.errors import GristmillError
from infra.settings import adopt_quiet_environment, settings
from tasks import STEP_NAMES

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
FLOWS = ("pipeline", "curate", "train", "evaluate")
EXIT_USER_ERROR = 2
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # as shells say of Ctrl-C


@app.command()
def run(
    flow: Annotated[str, typer.Argument(help="pipeline, curate, train or evaluate.")] = "pipeline",
    config: ConfigOption = "demo",
    overrides: SetOption = None,
    source_run: Annotated[str, typer.Option("--from", help="Run whose versions `train` and `evaluate` take.")] = "latest",
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as the run is scheduled.")] = False,
) -> None:
    """Run a flow on its work queue, show its progress, and end with a table and links. Starts the servers if need be."""
    from flows.config import load, require_sources

    if flow not in FLOWS:
        raise _UsageError(f"flow {flow!r}: there is none of that name; these are: {', '.join(FLOWS)}")
    loaded = load(config, overrides or [])
    if flow in ("pipeline", "curate") and not settings().prefect_api_url:  # else the files may be another machine's
        require_sources(loaded)
    _start_servers()
    from flows import deployments, watch
    from infra.orchestration import flow_run_url

    submitted = deployments.submit(flow, loaded, **_flow_inputs(flow, source_run))
    out.print(f"{flow}: flow run {submitted.name} ({submitted.id})", highlight=False)
    if detach:
        return
    try:
        ended = watch.follow(submitted.id, out)
    except KeyboardInterrupt:
        words = f"The run goes on without this terminal; follow or cancel it on its page: {flow_run_url(str(submitted.id))}"
        err.print(words, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    watch.summary(ended, out)
    if ended.state is None or not ended.state.is_completed():
        message = ended.state.message if ended.state else "no state"
        err.print(f"{flow}: {ended.state_name}: {message}", highlight=False, markup=False, soft_wrap=True)
        command = (
            f"PREFECT_API_URL={settings().prefect_api_url} {Path(sys.executable).with_name('prefect')} flow-run retry {ended.id}"
        )
        err.print(f"Its cause mended, press Retry on its Prefect page, or: {command}", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


@app.command()
def step(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STEP_NAMES)}.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; an earlier start of the same step goes on in it.")
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="A file or folder of JSONL, JSONL.gz/.zst, Parquet or text, or a version's folder. Repeatable."
        ),
    ] = None,
    overrides: SetOption = None,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=0, help="Worker processes; 1: in this process, 0: one per core.")
    ] = 0,
) -> None:
    """Run one step on local files; needs no server. Writes part-*.parquet, rejects/part-*.parquet and manifest.json."""
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
    """Check a configuration and name every problem; exit code 2 if there is one."""
    from flows.config import find_file, load

    load(file, overrides or [])
    out.print(f"{find_file(file)}: good", highlight=False)


@app.command()
def report(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, or `latest`.")] = "latest",
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the page.")] = Path("report.html"),
) -> None:
    """Write the report page of a run: one HTML file that needs nothing else."""
    from infra import ledger
    from tasks.report import render_run

    _adopt_servers()
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
def verify(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, or `latest`.")] = "latest",
) -> None:
    """Read every file of a run's versions and compare it with its digest; exit code 1 if one differs."""
    from flows.passport import verify_run

    if not verify_run(run_name, out):
        raise typer.Exit(EXIT_FAILED)


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

    Flow runs that lost their process and their worker, as in a power cut, are marked Crashed so that they can be retried.
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
def serve(name: Annotated[str, typer.Argument(help="prefect, mlflow, or a worker's queue: cpu, gpu.")]) -> None:
    """Be one server or worker in the foreground, for containers and batch jobs; `up` starts them in the background."""
    from infra import servers

    if name not in (*servers.PLANS, *servers.QUEUES):
        raise _UsageError(f"serve {name!r}: none of that name; these are: {', '.join((*servers.PLANS, *servers.QUEUES))}")
    if name in servers.QUEUES:
        servers.require_servers()
        from flows.deployments import deploy

        deploy()
    servers.serve(name)


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


class _UsageError(GristmillError):
    """A word on the command line that means nothing here."""


def _start_servers() -> None:
    from infra import servers

    def tell(line: str) -> None:
        out.print(line, highlight=False, soft_wrap=True)

    with servers.alone():
        with out.status("starting Prefect and MLflow"):
            servers.up(tell)
        from flows.deployments import deploy, mend_lost

        deploy()
        servers.up_workers(tell)
        for name in mend_lost():
            tell(f"{name}: this flow run lost its process and its worker; it is marked Crashed now and can be retried")


def _adopt_servers() -> None:
    from infra import servers

    servers.adopt()


def _flow_inputs(flow: str, source_run: str) -> dict[str, Any]:
    """The versions of an earlier run that a flow takes."""
    from infra import ledger

    wanted = {"train": {"dataset": "publish"}, "evaluate": {"model": "pretrain", "tokens": "tokenise"}}.get(flow, {})
    if not wanted:
        return {}
    names = list(reversed(ledger.runs())) if source_run == "latest" else [ledger.find_run(source_run)]
    # of `latest` the newest run that has what is wanted: a run of `train` alone published nothing
    name = next((one for one in names if set(wanted.values()) <= {entry.step for entry in ledger.entries(one)}), source_run)
    made = {entry.step: entry.shards() for entry in ledger.entries(name)}
    if missing := [step for step in wanted.values() if step not in made]:
        raise _UsageError(f"run {name}: has no {', '.join(missing)}; run the flow before it, or name another run with --from")
    return {parameter: made[step] for parameter, step in wanted.items()}


def main() -> None:
    """Entry point: errors that a user can mend are told without a traceback, exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        adopt_quiet_environment()
        app()
    except (GristmillError, OSError) as error:  # OSError names the file and what the system said
        told = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        err.print(told, style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()
