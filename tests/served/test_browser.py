"""The pages that a person looks at, in a real browser: the Prefect run, the MLflow run and the report."""

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
    curate = mill.flow_below(undisturbed, "prepare")
    page.goto(f"http://127.0.0.1:{mill.prefect_port}/runs/flow-run/{curate}")
    page.get_by_text("Task Runs").first.click(timeout=PATIENCE_MS)
    for step in ("publish", "dedup", "validate"):  # the newest ten are on the first page
        expect(page.get_by_text(step, exact=True).first).to_be_visible(timeout=PATIENCE_MS)


def test_the_mlflow_page_shows_the_step_with_its_metrics_and_datasets(
    mill: Mill, undisturbed: str, page: Page, pictures: Path
) -> None:
    [pretrain] = [run for run in mill.tracked(undisturbed) if run.info.run_name == "pretrain"]
    where = f"{mill.mlflow_url}/#/experiments/{pretrain.info.experiment_id}/runs/{pretrain.info.run_id}"
    page.goto(f"{where}?workflowType=machine_learning")
    for words in ("pretrain", "valid_loss", "train_loss", "tokenise"):
        expect(page.get_by_text(words).first).to_be_visible(timeout=PATIENCE_MS)
    # the page opens with its assistant beside it, which asks for a model of one's own
    assistant = page.get_by_role("button", name="Close").first
    if assistant.is_visible():
        assistant.click()
    page.set_viewport_size({"width": 1440, "height": 1400})
    page.wait_for_timeout(1000)
    page.screenshot(path=pictures / "mlflow-run.png")


def test_the_report_page_shows_the_whole_run_and_asks_for_nothing(
    mill: Mill, undisturbed: str, page: Page, pictures: Path
) -> None:
    entry = mill.entries(undisturbed)["report"]
    loud: list[str] = []
    page.on("console", lambda message: loud.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: loud.append(str(error)))
    page.goto((mill.store / entry["path"] / "report.html").as_uri())
    headings = " ".join(page.locator("h1, h2").all_inner_texts()).lower()
    for words in ("funnel", "training", "evaluation", "energy"):
        assert words in headings, headings
    text = page.locator("body").inner_text()
    missing = [step for step in STEPS if step not in text and step not in ("report", "ingest")]
    assert not missing
    assert "gopher_" in text and "perplexity" in text.lower()
    assert page.locator("svg").count() >= 3
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1440 and not loud
    page.screenshot(path=pictures / "report.png")
