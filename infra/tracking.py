"""The one door of MLflow: a run per flow run, a nested run per step, datasets as inputs and outputs, models with their data.

Only `MlflowClient` with explicit run ids is used: the fluent API starts stray runs in other threads. A flow that is tried again finds
its run by the Prefect id and goes on in it. Without an MLflow address everything here does nothing. Costs 5-8 requests per step.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from infra import storage
from infra.dataset import ShardSet
from infra.errors import GristmillError
from infra.settings import settings
from infra.versions import code_version

EXPERIMENT = "gristmill"
FLOW_RUN_TAG = "prefect.flow_run_id"
MAX_PARAM_CHARS = 6000  # MLflow's own limit for a parameter's value
CHAMPION, CHALLENGER = "champion", "challenger"
MAX_CARD_CHARS = 5000  # MLflow's own limit for a description
MODEL_TAG = "model.digest"
SCORE_TAG = "score."
UI_VIEW = "?workflowType=machine_learning"  # else MLflow opens in its GenAI view and calls models "agent versions"


@dataclass(frozen=True)
class Track:
    """One MLflow run that is being written."""

    run_id: str
    experiment_id: str

    @property
    def url(self) -> str:
        """The run's page."""
        return run_url(self.experiment_id, self.run_id)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers, all in one request."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        entities = [Metric(_key(name), float(value), now_ms, step) for name, value in values.items()]
        if entities:
            _client().log_batch(self.run_id, metrics=entities)

    def history(self, rows: Sequence[Mapping[str, float | None]], at: str) -> None:
        """Log a curve: every row's numbers at its integer step `row[at]`; up to 1,000 numbers a request."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        entities = [
            Metric(_key(name), float(value), now_ms, int(row[at] or 0))
            for row in rows
            for name, value in row.items()
            if name != at and value is not None
        ]
        for start in range(0, len(entities), 1000):
            _client().log_batch(self.run_id, metrics=entities[start : start + 1000])

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        _client().log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; a parameter that is there already (a retry) stays."""
        from mlflow.entities import Param

        there = _client().get_run(self.run_id).data.params
        new = [Param(name, str(value)[:MAX_PARAM_CHARS]) for name, value in values.items() if name not in there]
        if new:
            _client().log_batch(self.run_id, params=new[:100])

    def dataset(self, shards: ShardSet, context: str) -> None:
        """Log a dataset version as `input`, `output`, `training` or `evaluation` of this run."""
        from mlflow.entities import DatasetInput, InputTag

        _client().log_inputs(self.run_id, [DatasetInput(_dataset(shards), [InputTag("mlflow.data.context", context)])])

    def file(self, path: Path, folder: str = "") -> None:
        """Keep a file among the run's artifacts."""
        _client().log_artifact(self.run_id, str(path), folder or None)

    def page(self, name: str, text: str) -> None:
        """Keep a page or a table (`.csv`) among the run's artifacts, which MLflow shows beside the run."""
        _client().log_text(self.run_id, text, name)


_track: ContextVar[Track | None] = ContextVar("track", default=None)


def enabled() -> bool:
    """Whether runs are tracked."""
    return bool(settings().mlflow_url)


def current() -> Track | None:
    """The run of the surrounding flow or step."""
    return _track.get()


def run_url(experiment_id: str, run_id: str) -> str:
    """The page of a run in the MLflow UI."""
    return f"{settings().mlflow_url}/#/experiments/{experiment_id}/runs/{run_id}{UI_VIEW}"


@contextmanager
def run(
    name: str,
    *,
    tags: Mapping[str, str],
    key: Mapping[str, str],
    parent_run_id: str = "",
    waits: tuple[type[BaseException], ...] = (),
) -> Iterator[Track | None]:
    """Write one MLflow run for this block; ended FINISHED or FAILED with it.

    Args:
        name: the run's name.
        tags: tags to set besides `key`.
        key: tags that identify the run: one that carries them all (an earlier try) is taken up again.
        parent_run_id: run to nest below; by default the surrounding one.
        waits: exceptions that end the block only for a while; the run is SCHEDULED then.
    """
    if not enabled():
        yield None
        return
    client = _client()
    parent = _track.get()
    experiment_id = _experiment()
    parent_id = parent_run_id or (parent.run_id if parent else "")
    full = {**key, **tags, "code.version": code_version(), **({"mlflow.parentRunId": parent_id} if parent_id else {})}
    wanted = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in {**key, "gristmill.name": name}.items())
    found = client.search_runs([experiment_id], wanted, max_results=1)
    if found:
        run_id = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
    else:
        run_id = client.create_run(experiment_id, run_name=name, tags={"gristmill.name": name, **full}).info.run_id
    track = Track(run_id, experiment_id)
    if found:
        track.tags(full)
    token = _track.set(track)
    status = "FAILED"
    try:
        yield track
        status = "FINISHED"
    except waits:
        status = "SCHEDULED"
        raise
    finally:
        _track.reset(token)
        if status == "SCHEDULED":
            client.update_run(run_id, status=status)
        else:
            client.set_terminated(run_id, status)


def failures() -> tuple[type[Exception], ...]:
    """What can go wrong with something that is only told and must not decide how a run ends: MLflow, files, versions."""
    from mlflow.exceptions import MlflowException

    return (MlflowException, GristmillError, OSError)


def reachable() -> bool:
    """Whether an MLflow server is named and answers now; its own client would try for minutes."""
    try:
        return enabled() and httpx.get(f"{settings().mlflow_url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def system_metrics() -> Iterator[None]:
    """Write the load of this machine (processor, memory, disk, network; GPU where there is one) to the current run, each 10 s."""
    track = _track.get()
    if track is None:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    # a retry goes on in the curves of the try before it
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it tells of each start and end
    monitor = SystemMetricsMonitor(track.run_id, resume_logging=True, tracking_uri=settings().mlflow_url)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        monitor.collect_metrics()  # what is shorter than one interval has no sample yet
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()


def find_run(prefect_flow_run_id: str) -> Track | None:
    """The MLflow run of a Prefect flow run."""
    if not enabled():
        return None
    found = _client().search_runs([_experiment()], f"tags.`{FLOW_RUN_TAG}` = '{prefect_flow_run_id}'", max_results=1)
    return Track(found[0].info.run_id, found[0].info.experiment_id) if found else None


def end_abandoned(status: Callable[[str], str]) -> int:
    """End the runs of flows that are over, and those of steps in them; gives how many that were.

    Args:
        status: of a Prefect flow run id, what its run ends as (FINISHED, FAILED, KILLED); empty while the flow goes on.
    """
    client, experiment_id = _client(), _experiment()

    def search(wanted: str, page_token: str | None) -> Any:
        return client.search_runs([experiment_id], wanted, max_results=1000, page_token=page_token)

    found = [run for state in ("RUNNING", "SCHEDULED") for run in _pages(search, f"attributes.status = '{state}'")]
    flows = {run.info.run_id: status(run.data.tags[FLOW_RUN_TAG]) for run in found if FLOW_RUN_TAG in run.data.tags}
    steps = {}
    for run in found:
        if run.info.run_id not in flows and (parent := run.data.tags.get("mlflow.parentRunId")):
            steps[run.info.run_id] = flows[parent] if parent in flows else client.get_run(parent).info.status
    # a step of a run that goes on without a flow, such as a sweep's trial, goes on, too
    ended = {run_id: said for run_id, said in (flows | steps).items() if said not in ("", "RUNNING", "SCHEDULED")}
    for run_id, said in ended.items():
        client.set_terminated(run_id, said)
    return len(ended)


def delete_runs(ended_before_ms: int) -> list[str]:
    """Mark runs that ended before a time (Unix milliseconds) as deleted; gives their ids.

    Kept are the trees of runs that a registered model came from: its lineage is told by them.
    """
    client = _client()
    roots = set()
    for version in client.search_model_versions():
        if version.run_id:
            roots.add(client.get_run(version.run_id).data.tags.get("gristmill.root", version.run_id))
    found: list[Any] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs(
            [_experiment()], f"attributes.end_time < {ended_before_ms}", max_results=1000, page_token=token or None
        )
        found += page
        token = page.token or None
    old = [run for run in found if run.data.tags.get("gristmill.root", run.info.run_id) not in roots]
    for run in old:
        client.delete_run(run.info.run_id)
    return [run.info.run_id for run in old]


def register_model(
    *,
    name: str,
    folder: Path,
    trained_on: ShardSet,
    evaluated_on: ShardSet | None,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    card: str = "",
    model_type: str = "causal language model",
) -> dict[str, str]:
    """Log a model folder as a LoggedModel with its data and scores, and register it as the next version of `name`.

    The new version is the challenger; where nothing was registered under the name before, the champion too.

    Returns:
        {"name", "version", "model_id", "digest", "url"}; a model whose digest is registered already is not registered twice.
    """
    from mlflow.exceptions import MlflowException

    track = _track.get()
    if track is None:
        raise RuntimeError(
            "register_model needs a tracked run: set GRISTMILL_MLFLOW_URL or start the servers with `gristmill up`"
        )
    client = _client()
    digest = str(params["model_digest"])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    rivals = client.search_model_versions(f"name = '{name}'")
    for known in rivals:
        if known.tags.get(MODEL_TAG) == digest:
            return _model_facts(name, str(known.version), known.tags.get("model.id", ""), digest)
    model_id = _log_model(track, name, folder, trained_on, evaluated_on or trained_on, params, metrics, model_type)
    source = f"models:/{model_id}"
    made = client.create_model_version(name, source, run_id=track.run_id, model_id=model_id, description=card[:MAX_CARD_CHARS])
    version = made.version
    own = {MODEL_TAG: digest, "dataset.digest": trained_on.digest, "model.id": model_id, "code.version": code_version()}
    scores = {f"{SCORE_TAG}{_key(key)}": f"{value:.6g}" for key, value in metrics.items()}
    for tag, value in {**own, **tags, **scores}.items():
        client.set_model_version_tag(name, version, tag, value)
    for alias in (CHALLENGER,) if rivals else (CHALLENGER, CHAMPION):
        client.set_registered_model_alias(name, alias, version)
    return _model_facts(name, str(version), model_id, digest)


def _log_model(
    track: Track,
    name: str,
    folder: Path,
    trained_on: ShardSet,
    evaluated_on: ShardSet,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    model_type: str,
) -> str:
    """A LoggedModel with its files, its training and evaluation datasets and its scores; gives its id."""
    from mlflow.entities import LoggedModelOutput

    client = _client()
    model = client.create_logged_model(
        track.experiment_id,
        name=name,
        source_run_id=track.run_id,
        params={key: str(value)[:MAX_PARAM_CHARS] for key, value in params.items()},
        tags={MODEL_TAG: str(params["model_digest"]), "dataset.digest": trained_on.digest},
        model_type=model_type,
    )
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(track.run_id, [LoggedModelOutput(model.model_id, step=0)])
    track.dataset(trained_on, "training")
    if evaluated_on != trained_on:
        track.dataset(evaluated_on, "evaluation")
    on = {"dataset_name": evaluated_on.step, "dataset_digest": evaluated_on.digest}
    for key, value in metrics.items():
        client.log_metric(track.run_id, _key(key), float(value), model_id=model.model_id, **on)
    return str(model.model_id)


def registered_models(name: str = "") -> list[dict[str, Any]]:
    """The registry's model versions, oldest first: name, version, digest of the weights, aliases, scores, tags, url.

    Args:
        name: only those of this name.
    """
    client = _client()
    rows = []
    for model in _pages(client.search_registered_models, f"name = '{name}'" if name else None):
        for version in _pages(client.search_model_versions, f"name = '{model.name}'"):
            aliases = sorted(alias for alias, number in model.aliases.items() if str(number) == str(version.version))
            facts = _model_facts(
                model.name, str(version.version), version.tags.get("model.id", ""), version.tags.get(MODEL_TAG, "")
            )
            scores = {
                tag.removeprefix(SCORE_TAG): float(value) for tag, value in version.tags.items() if tag.startswith(SCORE_TAG)
            }
            rows.append({**facts, "aliases": aliases, "scores": scores, "tags": dict(version.tags)})
    return sorted(rows, key=lambda row: (row["name"], int(row["version"])))


def set_alias(name: str, alias: str, version: str) -> None:
    """Let an alias of a registered model mean this version."""
    _client().set_registered_model_alias(name, alias, version)


def tag_version(name: str, version: str, values: Mapping[str, str]) -> None:
    """Set tags of a registered model's version."""
    for tag, value in values.items():
        _client().set_model_version_tag(name, version, tag, value)


@dataclass(frozen=True)
class PromptVersion:
    """A version of a prompt in MLflow's registry."""

    name: str
    version: str
    template: str
    message: str
    """Why it was made."""
    aliases: tuple[str, ...]


def register_prompt(name: str, template: str, *, message: str = "", tags: Mapping[str, str] | None = None) -> PromptVersion:
    """Register the next version of a prompt; one whose newest version has this very template stays as it is.

    Raises:
        GristmillError: no MLflow is named, or it does not take the name.
    """
    from mlflow.exceptions import MlflowException

    known = prompt_versions(name)
    if known and known[-1].template == template:
        return known[-1]
    try:
        made = _registry().register_prompt(name, template, commit_message=message or None, tags=dict(tags or {}))
    except MlflowException as error:
        raise GristmillError(f"prompt {name!r}: MLflow does not take it: {error.message}") from error
    return _prompt(made)


def prompt_version(name: str, which: str) -> PromptVersion:
    """A prompt by its version's number or an alias; `latest` is the newest.

    Raises:
        GristmillError: no MLflow is named, or it has no such prompt.
    """
    from mlflow.exceptions import MlflowException

    client = _registry()
    if which != "latest":  # a server asks again and again; only where there is none the others are listed
        asked = client.get_prompt_version if which.isdigit() else client.get_prompt_version_by_alias
        with suppress(MlflowException):
            if (direct := asked(name, which)) is not None:
                return _prompt(direct)
    known = {one.version: one for one in prompt_versions(name)}
    named = {alias: one for one in known.values() for alias in one.aliases}
    found = list(known.values())[-1:] if which == "latest" else [one for one in (known.get(which), named.get(which)) if one]
    if not found:
        has = (
            f"it has versions 1 to {len(known)} and the aliases {', '.join(sorted(named)) or '(none)'}"
            if known
            else "there is none"
        )
        raise GristmillError(f"prompt {name!r}, {which!r}: MLflow's prompt registry has no such version or alias; {has}")
    return found[0]


def prompt_versions(name: str = "") -> list[PromptVersion]:
    """The versions of a prompt, oldest first; of all prompts without a name. None where the registry has none of that name.

    Raises:
        GristmillError: no MLflow is named.
    """
    client, found = _registry(), []
    prompts = _pages(lambda wanted, page_token: client.search_prompts(wanted, page_token=page_token), None)
    for prompt in sorted(one.name for one in prompts if name in ("", one.name)):
        versions = _pages(lambda wanted, page_token: client.search_prompt_versions(wanted, page_token=page_token), prompt)
        numbers = sorted(int(one.version) for one in versions)
        found += [_prompt(client.get_prompt_version(prompt, number)) for number in numbers]  # what a search finds has no aliases
    return found


def set_prompt_alias(name: str, alias: str, version: str) -> None:
    """Let an alias of a prompt mean this version.

    Raises:
        GristmillError: no MLflow is named, it has no such version, or it does not take the alias.
    """
    from mlflow.exceptions import MlflowException

    number = prompt_version(name, version).version
    try:
        _registry().set_prompt_alias(name, alias, int(number))
    except MlflowException as error:
        raise GristmillError(f"prompt {name!r}, alias {alias!r}: MLflow does not take it: {error.message}") from error


def _registry() -> Any:
    if not enabled():
        raise GristmillError(
            "no MLflow server is named, which keeps prompts: `gristmill up` starts one, GRISTMILL_MLFLOW_URL names another; "
            "a prompt may also be a .txt or .md file"
        )
    return _client()


def _prompt(found: Any) -> PromptVersion:
    return PromptVersion(
        found.name, str(found.version), str(found.template), found.commit_message or "", tuple(sorted(found.aliases or ()))
    )


def _pages(search: Callable[..., Any], wanted: str | None) -> Iterator[Any]:
    token = None
    while True:
        page = search(wanted, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _model_facts(name: str, version: str, model_id: str, digest: str) -> dict[str, str]:
    url = f"{settings().mlflow_url}/#/models/{name}/versions/{version}{UI_VIEW}"
    return {"name": name, "version": version, "model_id": model_id, "digest": digest, "url": url}


def _dataset(shards: ShardSet) -> Any:
    from mlflow.entities import Dataset

    recipe = shards.manifest().recipe
    profile = {
        "num_rows": shards.counts.kept,
        "num_dropped": shards.counts.total - shards.counts.kept,
        "num_shards": shards.num_shards,
        "version": shards.version,
        "schema": shards.schema_name,
        "uri": shards.folder,
        "parents": recipe["inputs"],
    }
    kind = "local" if storage.is_local(shards.folder) else "s3" if shards.folder.startswith("s3://") else "http"
    source = json.dumps({"uri": shards.folder})
    return Dataset(name=shards.step, digest=shards.digest, source_type=kind, source=source, profile=json.dumps(profile))


def _client() -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings().mlflow_url, registry_uri=settings().mlflow_url)


def _experiment() -> str:
    client = _client()
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found else client.create_experiment(EXPERIMENT))


def _key(name: str) -> str:
    return "".join(char if char.isalnum() or char in "_-./ " else "_" for char in name)
