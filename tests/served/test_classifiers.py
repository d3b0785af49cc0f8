"""Classifiers with real servers: tasks in Prefect, models with their data in MLflow, named on the language model's card and on the page."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from backends import S3
from playwright.sync_api import expect, sync_playwright
from served_mill import Mill

from tasks.ingest import ingest
from tasks.score import ScoreConfig, score
from tasks.signals import SignalsConfig, signals
from tasks.text.readers import IngestConfig
from tasks.toxicity import ToxicityConfig, toxicity

sys.path.insert(2, str(Path(__file__).parents[1] / "text"))
from planted import prose, remark

CHROMIUM = shutil.which("chromium")
TRAINING = "{test_share: 0.25, calibration_share: 0.25, buckets: 2000, dimensions: 8, epochs: 25, learning_rate: 1.0, min_group_texts: 20}"
pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline that trains both classifiers; its id."""
    folder = tmp_path_factory.mktemp("references")
    for name, rows in (
        ("good", [{"text": prose(seed)} for seed in range(300)]),
        ("said", [{"text": remark(n, n % 2 == 0), "label": ["rude", "kind"][n % 2]} for n in range(600)]),
    ):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    said = mill.run(
        f"quality={{positive: [{{kind: folder, name: good, path: {folder}/good.jsonl}}], corpus_negatives: 120, training: {TRAINING}}}",
        f"toxicity={{sources: [{{kind: folder, name: said, path: {folder}/said.jsonl}}], classes: [rude, kind], toxic: [rude], "
        f"licence: CC0-1.0, training: {TRAINING}}}",
    )
    assert said.returncode == 0, said.stdout + said.stderr + mill.logs()
    return mill.newest_run()


def ledger(mill: Mill, run: str) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (mill.store / "runs" / run).glob("*.json")}


def test_training_registering_and_scoring_are_tasks_of_the_run(mill: Mill, run: str) -> None:
    states = mill.states(run)
    assert {states[name] for name in ("quality", "toxicity", "enrol", "score")} == {"Completed"}


def test_each_classifier_is_a_registered_model_with_its_references_figures_and_card(mill: Mill, run: str, tmp_path: Path) -> None:
    made = ledger(mill, run)
    for step in ("quality", "toxicity"):
        name = f"gristmill-{step}"
        [version] = mill.mlflow.search_model_versions(f"name = '{name}'")
        manifest = mill.manifest(made[step])
        assert version.tags["model.digest"] == version.tags["dataset.digest"] == made[step]["digest"]
        assert float(version.tags["score.average_precision"]) == pytest.approx(manifest["facts"]["average_precision"], rel=1e-4)
        assert "## Groups" in version.description or "## Figures" in version.description
        assert mill.mlflow.get_registered_model(name).aliases["champion"] == version.version
        model = mill.mlflow.get_logged_model(version.tags["model.id"])
        assert model.model_type == "text classifier" and model.params["word_ngrams"] == "2"
        kept = {Path(one.path).name for one in mill.mlflow.list_logged_model_artifacts(model.model_id)}
        assert {"model.bin", "calibration.json", "scores.json", "classifier.json", "README.md"} <= kept
    [enrolled] = [one for one in mill.tracked(run) if one.info.run_name == "enrol"]
    data = {(one.dataset.name, one.dataset.digest, one.tags[0].value) for one in enrolled.inputs.dataset_inputs}
    assert {(step, made[step]["digest"], "training") for step in ("quality", "toxicity")} <= data


def test_the_language_models_card_names_the_classifiers_that_shaped_its_data(mill: Mill, run: str) -> None:
    made = ledger(mill, run)
    card = (mill.store / made["register"]["path"] / "README.md").read_text()
    assert "Documents were scored by these classifiers, whose mistakes are in the data" in card
    for step in ("quality", "toxicity"):
        assert f"- {step} version `{made[step]['version']}`, on " in card
    assert "rude: precision " in card
    assert "said (folder)" not in card and "botocore (demo)" in card  # references are no source of the corpus


def test_lineage_goes_from_the_page_to_the_references(mill: Mill, run: str) -> None:
    said = mill.cli("lineage", ledger(mill, run)["publish"]["version"], "--up")
    assert said.returncode == 0, said.stderr
    for words in ("quality ", "toxicity ", "good · source folder", "said · source folder"):
        assert words in said.stdout, said.stdout
    assert "gristmill-quality:1" in mill.cli("lineage", "gristmill-quality", "--up").stdout


def test_classifiers_on_s3_are_those_on_disk_and_score_alike(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in (
        ("said", [{"text": remark(n, n % 2 == 0), "label": ["rude", "kind"][n % 2]} for n in range(600)]),
        ("rows", [{"text": remark(n, n % 2 == 0), "url": f"http://a.example/{n}"} for n in range(700, 720)]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = ToxicityConfig.model_validate(
        {
            "sources": [{"kind": "folder", "path": str(tmp_path / "said.jsonl")}],
            "classes": ["rude", "kind"],
            "toxic": ["rude"],
            "training": yaml.safe_load(TRAINING),
        }
    )
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    for name, value in s3.variables().items():
        monkeypatch.setenv(name, value)
    digests = []
    for store in (str(tmp_path / "store"), "s3://corpus/classifiers"):
        monkeypatch.setenv("GRISTMILL_STORAGE", store)
        source = {"kind": "folder", "path": str(tmp_path / "rows.jsonl")}
        documents = ingest(config=IngestConfig.model_validate({"sources": [source]}))
        trained = toxicity(config=config)
        scored = score(signals([documents], config=SignalsConfig()), [documents], [], [trained], config=ScoreConfig())
        digests.append((trained.digest, scored.digest))
    assert digests[0] == digests[1]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_the_report_shows_them_in_a_browser(mill: Mill, run: str, tmp_path: Path) -> None:
    said = mill.cli("report", run, "--output", str(tmp_path / "report.html"))
    assert said.returncode == 0, said.stderr
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto((tmp_path / "report.html").as_uri())
            section = page.locator("#classifiers")
            expect(section.get_by_role("heading", name="toxicity")).to_be_visible()
            expect(section.get_by_text("What this does not show.").first).to_be_visible()
            assert section.locator("svg").count() == 2
            assert section.evaluate("section => section.scrollWidth <= section.clientWidth")
            section.screenshot(path=tmp_path / f"classifiers-{width}.png")
        browser.close()
