"""One corpus through a served mill: stopped at the gate, mended, tried again, and run once more with nothing changed.

Three flow runs in one home. The first fails at `validate`, so its retry must load what came before and make what follows; the last must
load everything.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pyarrow.dataset as ds
import pytest
from served_mill import AFTER_GATE, CURATED, STEPS, Mill

from tasks.text.rules import FilterConfig

pytestmark = pytest.mark.timeout(360, func_only=True)


@pytest.fixture(scope="module")
def again(mill: Mill, suite: Path, retried: str) -> tuple[Any, str, float]:
    """The same configuration once more: what the command said, the run's id, and when it began."""
    began = time.time()
    said = mill.run(f"validate.suite={suite}")
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    return said, mill.newest_run(), began


def test_a_run_that_the_gate_stops_fails_and_names_the_expectation(mill: Mill, failed: tuple[Any, str], failed_page: str) -> None:
    said, run_id = failed
    assert said.returncode == 1, said.stdout + said.stderr + mill.logs()
    assert "expect_column_values_to_be_between on 'num_rows'" in said.stderr
    assert "asked" in said.stderr and "1000000000" in said.stderr.replace(",", "").replace("_", "")
    assert "Traceback" not in said.stdout + said.stderr
    page = re.search(r"The page: (\S+validation\.html)", said.stderr)
    assert page and "num_rows" in Path(page[1]).read_text()
    assert f"gristmill rerun {run_id[:8]}" in said.stderr
    first = mill.step_runs(run_id)[: len(CURATED) + 1]
    assert {run["name"]: run["state_name"] for run in first} == {**dict.fromkeys(CURATED, "Completed"), "validate": "Failed"}
    assert re.search("This run failed.*num_rows", failed_page, re.DOTALL)


def test_a_retry_executes_only_what_failed_and_what_follows(mill: Mill, failed: tuple[Any, str], retried: str) -> None:
    second = mill.step_runs(retried)[len(CURATED) + 1 :]
    assert {run["name"]: run["state_name"] for run in second} == {
        **dict.fromkeys(CURATED, "Cached"),
        **dict.fromkeys(("validate", *AFTER_GATE), "Completed"),
    }


@pytest.mark.soak
def test_prefect_and_mlflow_show_what_the_gate_said_when_it_stopped_when_it_passed_and_when_it_was_loaded(
    mill: Mill, retried: str, again: tuple[Any, str, float]
) -> None:
    ids = [run["id"] for run in mill.below(retried)]
    made = mill.ask("/artifacts/filter", artifacts={"key": {"any_": ["validation"]}}, flow_runs={"id": {"any_": ids}})
    first, second = (json.loads(one["data"]) for one in sorted(made, key=lambda one: one["created"]))
    stopping = [row for row in first if (row["severity"], row["outcome"]) == ("critical", "failed")]
    assert [(row["column"], row["asked"]) for row in stopping] == [("num_rows", "at least 1,000,000,000")]
    assert {row["dataset"] for row in second} >= {"redact", "extract", "dedup"}
    # no classifier was asked, so of the scores nothing can be said
    assert not [row for row in second if row["severity"] == "critical" and row["outcome"] not in ("passed", "not applicable")]
    assert {row["column"] for row in second if row["outcome"] == "not applicable" and row["dataset"] == "signals"} == {
        *("quality_score", "quality_percentile", "toxicity_score")
    }
    for run_id in (retried, again[1]):
        [run] = [one for one in mill.tracked(run_id) if one.info.run_name == "validate"]
        facts = mill.manifest(mill.entries(run_id)["validate"])["facts"]
        assert (run.data.tags["suite"], run.data.tags["verdict"]) == ("strict", facts["verdict"])
        assert run.data.metrics["num_rows"] == facts["num_rows"] and run.data.metrics["num_failed"] == facts["num_failed"]
        page = Path(mill.mlflow.download_artifacts(run.info.run_id, "validation.html")).read_text()
        assert f"<title>Validation {facts['verdict']} · strict" in page
    [tried] = [one for one in mill.tracked(retried) if one.info.run_name == "validate"]
    failures = [one.value for one in mill.mlflow.get_metric_history(tried.info.run_id, "num_failed")]
    assert failures[0] > failures[-1]


def test_every_step_is_a_task_run_of_the_deployment_run(mill: Mill, retried: str) -> None:
    run = mill.flow_run(retried)
    assert run["state_name"] == "Completed"
    deployment = mill.ask(f"/deployments/{run['deployment_id']}")
    assert deployment["name"] == "gristmill"
    assert set(mill.states(retried)) == set(STEPS)
    queues = {
        mill.ask(f"/flows/{one['flow_id']}")["name"]: one["work_queue_name"]
        for one in mill.below(retried)
        if one["deployment_id"]
    }
    assert queues == {"pipeline": "cpu", "train": "gpu", "evaluate": "gpu"}


def test_mlflow_holds_one_tree_of_runs_for_both_tries(mill: Mill, retried: str) -> None:
    runs = mill.tracked(retried)
    names = sorted(run.info.run_name for run in runs)
    assert names == sorted(
        [*STEPS, *(f"flow {flow}" for flow in ("pipeline", "prepare", "publish", "train", "evaluate", "release"))]
    )
    by_id = {run.info.run_id: run for run in runs}
    roots = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_name for run in roots] == ["flow pipeline"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    above = {run.info.run_name: by_id[run.data.tags["mlflow.parentRunId"]].info.run_name for run in runs if run not in roots}
    assert above["flow train"] == above["flow evaluate"] == above["flow prepare"] == above["flow publish"] == "flow pipeline"
    assert above["dedup"] == "flow prepare" and above["pretrain"] == "flow train" and above["register"] == "flow release"
    assert f"/runs/flow-run/{retried}" in roots[0].data.tags["mlflow.note.content"]
    # the run that the command's link leads to holds the figures of all steps, and the corpus that came out
    entries = mill.entries(retried)
    assert roots[0].data.metrics["evaluate.perplexity"] == mill.manifest(entries["evaluate"])["facts"]["perplexity"]
    assert roots[0].data.metrics["filter.rows_kept"] == mill.manifest(entries["filter"])["counts"]["kept"]
    assert [(one.dataset.name, one.dataset.digest) for one in roots[0].inputs.dataset_inputs] == [
        ("publish", entries["publish"]["digest"])
    ]


def test_mlflow_has_the_audit_of_the_filter_as_numbers_and_as_a_table_and_prefect_shows_its_worst_rows(
    mill: Mill, retried: str
) -> None:
    version = mill.entries(retried)["audit"]
    facts = mill.manifest(version)["facts"]
    numbers = {name: value for name, value in facts.items() if not isinstance(value, str)}
    assert len(numbers) == 15 and {"num_flagged.identity", "worst_ratio.dialect", "num_tested"} <= numbers.keys()
    tracked = {run.info.run_name: run for run in mill.tracked(retried)}
    assert numbers.items() <= tracked["audit"].data.metrics.items()
    assert tracked["flow pipeline"].data.metrics["audit.num_tested"] == facts["num_tested"]
    table = Path(mill.mlflow.download_artifacts(tracked["audit"].info.run_id, "audit.csv")).read_text()
    assert table == (mill.store / version["path"] / "audit.csv").read_text() and '"any rule"' in table
    ids = [run["id"] for run in mill.below(retried)]
    [shown] = mill.ask("/artifacts/filter", artifacts={"key": {"any_": ["audit"]}}, flow_runs={"id": {"any_": ids}})
    assert {"rule", "group", "dropped", "of others", "outcome"} <= json.loads(shown["data"])[0].keys()
    for step in ("publish", "register"):
        card = (mill.store / mill.entries(retried)[step]["path"] / "README.md").read_text()
        assert f"Bias audit (version `{mill.manifest(version)['version']}`)" in card, step


def test_mlflow_names_the_datasets_of_every_step_by_their_manifests(mill: Mill, retried: str) -> None:
    entries = mill.entries(retried)
    tracked = {run.info.run_name: run for run in mill.tracked(retried)}
    for step, entry in entries.items():
        manifest = mill.manifest(entry)
        given: set[tuple[str, str]] = set()
        made: set[tuple[str, str]] = set()
        for one in tracked[step].inputs.dataset_inputs:
            [context] = [tag.value for tag in one.tags if tag.key == "mlflow.data.context"]
            assert context in ("input", "output", "training", "evaluation")
            (made if context == "output" else given).add((one.dataset.name, one.dataset.digest))
        assert made == {(step, manifest["digest"])}, step
        recipe = [
            one for names in manifest["recipe"]["inputs"].values() for one in ([names] if isinstance(names, str) else names)
        ]
        assert given == {(one.partition("/")[0], one.partition("@")[2]) for one in recipe}, step
        assert tracked[step].data.metrics["rows_kept"] == manifest["counts"]["kept"]
        assert tracked[step].data.tags["digest"] == manifest["digest"]
    assert tracked["pretrain"].data.metrics["valid_loss"] > 0


def test_the_demo_source_makes_five_rules_fire_at_the_published_thresholds(mill: Mill, retried: str) -> None:
    manifest = mill.manifest(mill.entries(retried)["filter"])
    assert manifest["recipe"]["config"] == FilterConfig().model_dump(mode="json")
    assert len(manifest["counts"]["dropped"]) >= 5


def test_the_model_is_registered_with_its_lineage(mill: Mill, retried: str) -> None:
    entries = mill.entries(retried)
    [version] = mill.mlflow.search_model_versions("name = 'botocore-docs'")
    assert version.tags["model.digest"] == entries["pretrain"]["digest"]
    assert version.tags["dataset.digest"] == entries["publish"]["digest"]
    model = mill.mlflow.get_logged_model(version.tags["model.id"])
    assert str(model.status) in ("READY", "LoggedModelStatus.READY")
    files = {file.path.rpartition("/")[2] for file in mill.mlflow.list_logged_model_artifacts(model.model_id)}
    assert {"model.safetensors", "config.json", "README.md"} <= files
    scores = {metric.key: metric.value for metric in model.metrics}
    assert scores["perplexity"] == pytest.approx(mill.manifest(entries["evaluate"])["facts"]["perplexity"])


@pytest.mark.soak
def test_a_second_run_with_nothing_changed_computes_nothing(mill: Mill, retried: str, again: tuple[Any, str, float]) -> None:
    said, run_id, began = again
    assert mill.states(run_id) == dict.fromkeys(STEPS, "Cached")
    assert {step: one["digest"] for step, one in mill.entries(run_id).items()} == {
        step: one["digest"] for step, one in mill.entries(retried).items()
    }
    written = [path for path in mill.store.rglob("*") if path.is_file() and path.stat().st_mtime >= began]
    assert {path.relative_to(mill.store).parts[0] for path in written} == {"runs"}
    assert said.stdout.count("loaded") == len(STEPS)


@pytest.mark.soak
def test_the_command_ends_with_a_table_and_links_that_lead_somewhere(mill: Mill, again: tuple[Any, str, float]) -> None:
    said, run_id, _ = again
    rows = {line.split("│")[1].strip() for line in said.stdout.splitlines() if line.startswith("│")}
    assert set(STEPS) <= rows
    assert re.search(r"perplexity \d+\.\d", said.stdout) and "minutes" in said.stdout
    links = dict(re.findall(r"^(Prefect run|MLflow run|Report page) +(\S+)$", said.stdout, re.MULTILINE))
    assert links["Prefect run"] == f"http://127.0.0.1:{mill.prefect_port}/runs/flow-run/{run_id}"
    page = httpx.get(links["Prefect run"], headers={"Accept": "text/html"}, trust_env=False, follow_redirects=True)
    assert page.status_code == 200 and "<html" in page.text
    mlflow_run = re.search(r"/runs/(\w+)\?", links["MLflow run"])
    assert mlflow_run and mill.mlflow.get_run(mlflow_run[1]).data.tags["prefect.flow_run_id"] == run_id
    assert "gopher_" in Path(links["Report page"]).read_text()
    made = dict(re.findall(r"^(Dataset|Model) +(\S+)$", said.stdout, re.MULTILINE))
    assert (Path(made["Dataset"]) / "part-00000.parquet").is_file() and (Path(made["Model"]) / "config.json").is_file()


def test_status_and_doctor_find_everything_well(mill: Mill, retried: str) -> None:
    status = mill.cli("status")
    assert status.returncode == 0 and status.stdout.count("healthy") == 4
    doctor = mill.cli("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "BROKEN" not in doctor.stdout


def test_trace_tells_the_way_of_a_kept_and_of_a_dropped_page(mill: Mill, retried: str) -> None:
    entries = mill.entries(retried)
    # some shard of so small a corpus may be empty: which pages the split takes follows from their ids, and so from the site's port
    kept = (
        ds.dataset(sorted((mill.store / entries["publish"]["path"]).glob("part-*.parquet"))).to_table(["url"])["url"][0].as_py()
    )
    said = mill.cli("trace", kept)
    assert said.returncode == 0, said.stderr
    told = [line.split()[0] for line in said.stdout.splitlines() if line.startswith("  ")]
    assert told[:2] == ["crawl", "extract"] and {"dedup", "redact", "split", "publish", "tokenise"} <= set(told)
    assert "dropped" not in said.stdout
    row = ds.dataset(sorted((mill.store / entries["filter"]["path"] / "rejects").glob("*.parquet"))).to_table().to_pylist()[0]
    said = mill.cli("trace", row["url"], "--run", retried[:8])
    assert said.returncode == 0, said.stderr
    assert f"dropped by {row['rule']}" in said.stdout
    assert "publish" not in said.stdout
    assert mill.cli("trace", "http://nowhere.invalid/").returncode == 2


def test_report_writes_the_page_of_a_run(mill: Mill, retried: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    said = mill.cli("report", retried[:8], "--output", str(path))
    assert said.returncode == 0, said.stderr
    page = path.read_text()
    assert retried in page and "<svg" in page and 'src="http' not in page
    assert "This run failed" not in page  # it did at first


@pytest.mark.soak
def test_verify_finds_the_file_that_was_touched(mill: Mill, again: tuple[Any, str, float]) -> None:
    assert mill.cli("verify").returncode == 0
    shard = mill.store / mill.entries(again[1])["publish"]["path"] / "part-00000.parquet"
    data = shard.read_bytes()
    try:
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        said = mill.cli("verify")
        assert said.returncode == 1 and str(shard) in said.stdout.replace("\n", "")
    finally:
        shard.write_bytes(data)


def test_no_process_of_a_mill_asks_for_an_outside_host(mill: Mill, retried: str) -> None:
    log = Path(mill.extra["NETWORK_LOG"])
    assert log.read_text() == ""
    # the watcher itself must see: a name that nobody has, asked for under the same environment
    script = "import socket\ntry: socket.getaddrinfo('gristmill.invalid', 80)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", script], env=mill.env, check=True)
    try:
        assert "gristmill.invalid" in log.read_text()
    finally:
        log.write_text("")
