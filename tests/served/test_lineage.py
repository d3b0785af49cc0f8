"""Lineage with real servers: on the MLflow page of a run, in the registry with champion and challenger, at a lineage server, and for gc."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_mill import Mill

from infra import dataset, storage, tracking
from infra.dataset import ShardSet, open_version
from tasks.learn.figures import figure, items
from tasks.register import score_tags

pytestmark = pytest.mark.soak


def pipeline_run(mill: Mill, run_id: str) -> str:
    """MLflow id of the outermost flow's run."""
    [found] = [run.info.run_id for run in mill.tracked(run_id) if run.info.run_name == "flow pipeline"]
    return str(found)


def lineage_of(mill: Mill, run_id: str, folder: Path) -> dict[str, dict[str, object]]:
    """Nodes of the lineage that lies on a run's MLflow page, by id."""
    path = mill.mlflow.download_artifacts(pipeline_run(mill, run_id), "lineage.json", str(folder))
    return {node["id"]: node for node in json.loads(Path(path).read_text())["nodes"]}


def test_the_mlflow_run_has_the_lineage_of_all_steps_and_of_the_model(mill: Mill, undisturbed: str, tmp_path: Path) -> None:
    nodes = lineage_of(mill, undisturbed, tmp_path)
    assert {f"{step}/{entry['version']}" for step, entry in mill.entries(undisturbed).items() if step != "about"} <= nodes.keys()
    kinds = {node["kind"] for node in nodes.values()}
    assert kinds == {"source", "suite", "version", "model", "run", "code", "config"}
    [page] = [one.path for one in mill.mlflow.list_artifacts(pipeline_run(mill, undisturbed)) if one.path.endswith(".html")]
    assert page == "lineage.html"


def test_a_run_that_failed_has_the_lineage_of_what_it_made(mill: Mill, failed: tuple[object, str], tmp_path: Path) -> None:
    steps = {name.partition("/")[0] for name, node in lineage_of(mill, failed[1], tmp_path).items() if node["kind"] == "version"}
    assert "redact" in steps and "validate" not in steps and "publish" not in steps


def test_the_training_shows_the_load_of_its_machine_and_no_other_step_does(mill: Mill, undisturbed: str) -> None:
    loaded = {
        run.info.run_name for run in mill.tracked(undisturbed) if any(name.startswith("system/") for name in run.data.metrics)
    }
    assert loaded == {"pretrain"}


def test_the_registered_model_names_its_data_its_run_and_its_scores(mill: Mill, undisturbed: str) -> None:
    made = mill.entries(undisturbed)
    [version] = [one for one in mill.mlflow.search_model_versions("name = 'botocore-docs'") if one.tags["run"] == undisturbed]
    assert version.tags["dataset.digest"] == made["publish"]["digest"]
    assert version.tags["model.digest"] == made["pretrain"]["digest"]
    perplexity = mill.manifest(made["evaluate"])["facts"]["perplexity"]
    assert float(version.tags["score.perplexity"]) == pytest.approx(perplexity, rel=1e-4)
    assert mill.mlflow.get_registered_model("botocore-docs").aliases == {
        "champion": version.version,
        "challenger": version.version,
    }


def test_a_newer_model_is_the_challenger_until_it_is_promoted(
    mill: Mill, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (mill.env | {"GRISTMILL_MLFLOW_URL": mill.mlflow_url}).items():
        monkeypatch.setenv(name, value)
    published = open_version(str(mill.store / mill.entries(undisturbed)["publish"]["path"]))
    (tmp_path / "weights").write_bytes(b"weights")
    for digest, perplexity in (("one", 9.5), ("two", 7.25)):
        with tracking.run("register", tags={}, key={"rival": digest}):
            for _ in range(2):  # the same weights are one version however often they come
                made = tracking.register_model(
                    name="rivals",
                    folder=tmp_path,
                    trained_on=published,
                    evaluated_on=None,
                    params={"model_digest": digest},
                    metrics={"perplexity": perplexity},
                    tags={"run": "none"},
                )
        assert mill.mlflow.get_registered_model("rivals").aliases == {"champion": "1", "challenger": made["version"]}
    said = mill.cli("promote", "rivals")
    assert said.returncode == 0 and "rivals:2 is the champion now, in place of rivals:1" in said.stdout
    assert "9.5" in said.stdout and "7.25" in said.stdout
    assert mill.mlflow.get_registered_model("rivals").aliases["champion"] == "2"
    back = mill.cli("promote", "rivals:1")
    assert back.returncode == 0 and mill.mlflow.get_registered_model("rivals").aliases["champion"] == "1"
    wrong = mill.cli("promote", "rivals:9")
    assert wrong.returncode == 2 and "it has 1, 2" in wrong.stderr


def scored(mill: Mill, shift: float) -> ShardSet:
    """A version of scores of 60 held-out documents, this much worse than 1 bit per byte."""
    amounts, names = np.linspace(0.5, 1.5, 60) + shift, [f"{number:04d}" for number in range(60)]
    made = figure("heldout.bits_per_byte", amounts, better="lower", unit="bits per byte")
    recipe = {"step": "evaluate", "inputs": {}, "config": {"shift": shift}}
    folder = str(mill.store / "evaluate" / dataset.version_of(recipe))
    storage.write_json(f"{folder}/scores.json", {"figures": [made.as_json()], "tokeniser": "t"})
    dataset.write_table(f"{folder}/items.parquet", items(made.name, names, amounts))
    files = [dataset.file_entry(folder, name) for name in ("scores.json", "items.parquet")]
    dataset.seal(folder, step="evaluate", schema_name="scores", recipe=recipe, receipts=[], files=files, facts={})
    return open_version(folder)


def test_a_worse_challenger_is_refused_and_forced_only_with_a_reason_that_is_kept(
    mill: Mill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (mill.env | {"GRISTMILL_MLFLOW_URL": mill.mlflow_url}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "weights").write_bytes(b"weights")
    for digest, shift in (("good", 0.0), ("bad", 0.25)):
        scores = scored(mill, shift)
        with tracking.run("register", tags={}, key={"gated": digest}):
            tracking.register_model(
                name="gated",
                folder=tmp_path,
                trained_on=scores,
                evaluated_on=None,
                params={"model_digest": digest},
                metrics={"bits_per_byte": 1.0 + shift},
                tags=score_tags([scores]),
            )
    refused = mill.cli("promote", "gated")
    assert refused.returncode == 1 and "gated:2 is not promoted: it is worse than gated:1, the champion" in refused.stdout
    assert "heldout.bits_per_byte: worse, 1.25 beside 1 bits per byte, difference +0.25" in refused.stdout
    assert mill.cli("promote", "gated", "--force").returncode == 2
    tolerant = mill.cli("promote", "gated", "--set", "gate.tolerance=0.1")
    assert tolerant.returncode == 1
    forced = mill.cli("promote", "gated", "--force", "--reason", "the old one may not be used any more")
    assert forced.returncode == 0, forced.stderr
    model = mill.mlflow.get_registered_model("gated")
    assert model.aliases["champion"] == "2"
    tags = mill.mlflow.get_model_version("gated", "2").tags
    assert tags["promotion.forced"] == "the old one may not be used any more" and "worse" in tags["promotion.refused"]
    assert tags["promotion.comparison"].startswith("compare/")
    back = mill.cli("promote", "gated:1")
    assert back.returncode == 0 and "gated:1 is the champion now" in back.stdout
    board = mill.cli("leaderboard", "gated", "--format", "json")
    assert [(row["version"], row["figures"]["heldout.bits_per_byte"]["value"]) for row in json.loads(board.stdout)] == [
        ("2", 1.25),
        ("1", 1.0),
    ]
    shown = mill.cli("leaderboard", "gated")
    assert "version 1 champion" in " ".join(shown.stdout.split()) and "heldout.bits_per_byte" in shown.stdout
    paths = [tags["scores.versions"], mill.mlflow.get_model_version("gated", "1").tags["scores.versions"]]
    beside = mill.cli("compare-models", *paths, "--format", "json")
    [row] = json.loads(beside.stdout)["rows"]
    assert (row["verdict"], row["n"], round(row["difference"], 6)) == ("worse", 60, 0.25)


def test_lineage_answers_by_alias_where_mlflow_is_up(mill: Mill, undisturbed: str) -> None:
    said = mill.cli("lineage", "botocore-docs@champion", "--up")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[0].startswith("botocore-docs:1 · challenger · champion")
    for step in ("register", "pretrain", "publish", "filter", "crawl"):
        assert f"{step} {mill.entries(undisturbed)[step]['version']}" in said.stdout
    assert "botocore · source demo" in said.stdout and "published · suite" in said.stdout


def test_every_step_told_the_lineage_server_what_it_read_and_made(mill: Mill, undisturbed: str, lineage_server: Any) -> None:
    of_run = [one for one in lineage_server.events if one["run"]["facets"]["parent"]["run"]["runId"] == undisturbed]
    made = {step: entry for step, entry in mill.entries(undisturbed).items() if step != "about"}
    states = {step: [one["eventType"] for one in of_run if one["job"]["name"] == step] for step in made}
    assert set(map(tuple, states.values())) == {("START", "COMPLETE")}
    ended = {one["job"]["name"]: one for one in of_run if one["eventType"] == "COMPLETE"}
    versions = {step: one["outputs"][0]["facets"]["version"]["datasetVersion"] for step, one in ended.items()}
    assert versions == {step: entry["version"] for step, entry in made.items()}
    [read] = ended["tokenise"]["inputs"]
    assert read["name"] == ended["publish"]["outputs"][0]["name"] == str(mill.store / "publish")
    assert {tag["key"]: tag["value"] for tag in read["facets"]["tags"]["tags"]}["digest"] == made["publish"]["digest"]


def test_a_step_that_fails_tells_the_lineage_server_why(mill: Mill, failed: tuple[object, str], lineage_server: Any) -> None:
    of_run = [one for one in lineage_server.events if one["run"]["facets"]["parent"]["run"]["runId"] == failed[1]]
    [gate] = [one for one in of_run if one["eventType"] == "FAIL"]
    assert gate["job"]["name"] == "validate" and "GateFailed" in gate["run"]["facets"]["errorMessage"]["message"]


def test_gc_keeps_what_a_run_or_an_alias_refers_to(mill: Mill, undisturbed: str) -> None:
    made = mill.entries(undisturbed)
    said = mill.cli("gc", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert not [step for step, entry in made.items() if step != "about" and entry["path"] in said.stdout]
    none_counts = mill.cli("gc", "--dry-run", "--keep-runs", "0")
    # the champion was registered by this run: what it came from stays, its report page came of it
    gone = {step for step, entry in made.items() if step != "about" and entry["path"] in none_counts.stdout}
    assert gone == {"report"}, none_counts.stdout
    assert "bytes in all" in none_counts.stdout and (mill.store / made["report"]["path"]).exists()


def test_gc_keeps_what_was_given_to_a_run_that_has_not_ended(mill: Mill, undisturbed: str) -> None:
    published = mill.entries(undisturbed)["publish"]
    folder = mill.store / "publish" / "0123456789abcdef"
    folder.mkdir()
    raw = json.loads((mill.store / published["path"] / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**raw, "version": folder.name, "digest": "d" * 32}))
    given = dataset.open_version(str(folder)).model_copy(update={"path": f"publish/{folder.name}"})
    assert given.path in mill.cli("gc", "--dry-run").stdout
    deployment = mill.ask("/deployments/name/train/gristmill")["id"]
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}}
    run = mill.ask(
        f"/deployments/{deployment}/create_flow_run", parameters={"dataset": given.model_dump(mode="json")}, state=later
    )
    assert given.path not in mill.cli("gc", "--dry-run").stdout
    mill.ask(f"/flow_runs/{run['id']}/set_state", state={"type": "CANCELLED"}, force=True)
    removed = mill.cli("gc", "--yes")
    assert removed.returncode == 0 and not folder.exists(), removed.stdout + removed.stderr
    assert (mill.store / published["path"] / "manifest.json").exists()
