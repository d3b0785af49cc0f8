"""The pages that a person looks at, in a real browser: the Prefect run, the MLflow runs and model, the report and the lineage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Request, expect, sync_playwright
from served_mill import PROJECT, STEPS, Mill

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(360, func_only=True),  # the run that the tests share is not counted
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE_MS = 60_000


@pytest.fixture
def page() -> Iterator[Page]:
    """A page whose every request must go to this machine and find what it asks for."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_page(viewport={"width": 1440, "height": 1000})
        asked: list[Request] = []
        opened.on("request", lambda request: asked.append(request))  # playwright marks its handlers, which a bound method refuses
        try:
            yield opened
        finally:
            browser.close()
        outside = {request.url for request in asked if urlsplit(request.url).hostname not in (None, "127.0.0.1")}
        assert not outside


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: with GRISTMILL_SCREENSHOTS=1 where the README shows them."""
    folder = PROJECT / "docs" / "images" if os.environ.get("GRISTMILL_SCREENSHOTS") == "1" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_prefect_page_shows_the_run_its_flows_and_its_links(mill: Mill, undisturbed: str, page: Page, pictures: Path) -> None:
    run = mill.flow_run(undisturbed)
    page.goto(f"http://127.0.0.1:{mill.prefect_port}/runs/flow-run/{undisturbed}")
    expect(page.get_by_text(run["name"]).first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("Completed").first).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_text("Subflow Runs").first.click(timeout=PATIENCE_MS)
    for name in ("prepare", "publish", "train", "evaluate", "release"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=PATIENCE_MS)
    page.wait_for_timeout(3000)  # the graph is drawn on a canvas, which tells nobody when it is done
    page.screenshot(path=pictures / "prefect-run.png")
    prepare = mill.flow_below(undisturbed, "prepare")
    page.goto(f"http://127.0.0.1:{mill.prefect_port}/runs/flow-run/{prepare}")
    page.get_by_text("Task Runs").first.click(timeout=PATIENCE_MS)
    for step in ("redact", "dedup", "validate"):  # the newest ten are on the first page
        expect(page.get_by_text(step, exact=True).first).to_be_visible(timeout=PATIENCE_MS)


def test_the_mlflow_page_shows_the_step_with_its_metrics_and_datasets(
    mill: Mill, undisturbed: str, page: Page, pictures: Path
) -> None:
    [pretrain] = [run for run in mill.tracked(undisturbed) if run.info.run_name == "pretrain"]
    where = f"{mill.mlflow_url}/#/experiments/{pretrain.info.experiment_id}/runs/{pretrain.info.run_id}"
    page.goto(f"{where}?workflowType=machine_learning")
    for words in ("pretrain", "valid_loss", "train_loss", "tokenise"):
        expect(page.get_by_text(words).first).to_be_visible(timeout=PATIENCE_MS)
    close_assistant(page)
    page.set_viewport_size({"width": 1440, "height": 1400})
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / "mlflow-run.png")


def close_assistant(page: Page) -> None:
    """The page opens with its assistant beside it, which asks for a model of one's own."""
    assistant = page.get_by_role("button", name="Close").first
    if assistant.is_visible():
        assistant.click()


def test_the_mlflow_page_of_the_run_shows_its_steps_and_its_lineage(
    mill: Mill, undisturbed: str, page: Page, pictures: Path
) -> None:
    [pipeline] = [run for run in mill.tracked(undisturbed) if run.info.run_name == "flow pipeline"]
    where = f"{mill.mlflow_url}/#/experiments/{pipeline.info.experiment_id}/runs/{pipeline.info.run_id}"
    page.goto(f"{where}?workflowType=machine_learning")
    expect(page.get_by_text("flow prepare").first).to_be_visible(timeout=PATIENCE_MS)
    close_assistant(page)
    page.goto(f"{where}/artifacts?workflowType=machine_learning")
    page.get_by_text("lineage.html").first.click(timeout=PATIENCE_MS)
    drawn = page.frame_locator("iframe").first
    expect(drawn.get_by_role("heading", name="What came from what")).to_be_visible(timeout=PATIENCE_MS)
    names = " ".join(drawn.locator("svg text").all_text_contents())
    assert all(name in names for name in ("botocore", "crawl", "published", "pretrain", "botocore-docs:1"))
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / "mlflow-lineage.png")


def test_the_page_of_the_registered_model_shows_its_aliases_and_its_source_run(
    mill: Mill, undisturbed: str, page: Page, pictures: Path
) -> None:
    page.goto(f"{mill.mlflow_url}/#/models/botocore-docs/versions/1?workflowType=machine_learning")
    for words in ("champion", "challenger", "dataset.digest", "score.perplexity"):
        expect(page.get_by_text(words).first).to_be_visible(timeout=PATIENCE_MS)
    close_assistant(page)
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / "mlflow-model.png")


@pytest.mark.parametrize(("width", "name"), [(1200, "lineage.png"), (390, "lineage-phone.png")])
def test_the_lineage_page_reads_at_any_width_and_asks_for_nothing(
    mill: Mill, undisturbed: str, page: Page, pictures: Path, tmp_path: Path, width: int, name: str
) -> None:
    written = mill.cli("lineage", "botocore-docs:1", "--up", "--format", "html", "--output", str(tmp_path / "lineage.html"))
    assert written.returncode == 0, written.stderr
    page.set_viewport_size({"width": width, "height": 1000})
    page.goto((tmp_path / "lineage.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # the graph and the tables scroll inside
    boxes = page.locator("svg rect")
    assert boxes.count() >= len(STEPS)
    sizes = [box.bounding_box() for box in boxes.all()]
    places = [(box["x"], box["y"], box["width"], box["height"]) for box in sizes if box]
    assert all(box[2] >= 150 for box in places)
    over = [(a, b) for a in places for b in places if a < b and abs(a[0] - b[0]) < a[2] and abs(a[1] - b[1]) < a[3]]
    assert not over
    page.screenshot(path=pictures / name if name == "lineage.png" else tmp_path / name)


@pytest.mark.parametrize(("width", "name"), [(1200, "validation.png"), (390, "validation-phone.png")])
def test_the_validation_page_shows_what_was_asked_of_which_version_at_any_width(
    mill: Mill, undisturbed: str, page: Page, pictures: Path, tmp_path: Path, width: int, name: str
) -> None:
    page.set_viewport_size({"width": width, "height": 1000})
    page.goto((mill.folder(undisturbed, "validate") / "validation.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text = page.locator("body").inner_text()
    for words in ("published", "captures", "signals", "expect_column_values_to_match_regex", "duplicate_doc_ids"):
        assert words in text, words
    page.screenshot(path=pictures / name if name == "validation.png" else tmp_path / name)


def test_the_report_page_shows_the_whole_run_and_asks_for_nothing(
    mill: Mill, undisturbed: str, page: Page, pictures: Path
) -> None:
    entry = mill.entries(undisturbed)["report"]
    loud: list[str] = []
    page.on("console", lambda message: loud.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: loud.append(str(error)))
    page.goto((mill.store / entry["path"] / "report.html").as_uri())
    headings = " ".join(page.locator("h1, h2").all_inner_texts()).lower()
    for words in ("funnel", "duplicates", "training", "evaluation", "energy"):
        assert words in headings, headings
    text = page.locator("body").inner_text()
    missing = [step for step in STEPS if step not in text and step not in ("report", "ingest")]
    assert not missing
    assert "gopher_" in text and "perplexity" in text.lower()
    assert page.locator("svg").count() >= 3
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1440 and not loud
    assert "Chance that a pair is proposed" in page.locator("#duplicates").inner_html()
    page.screenshot(path=pictures / "report.png")
    page.set_viewport_size({"width": 390, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
