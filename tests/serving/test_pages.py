"""The pages in a real browser, in front of real tiny models: chat, votes, blind comparison, scores, and what hostile answers cannot do."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from tasks.learn.scorer import Scorer
from tasks.serving.votes import Speaker, Vote, VoteStore

from .made_server import make_model, running, served
from .running import Running
from .said import said
from .tiny_gateway import TinyGateway, talker

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(240, func_only=True),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]

PROJECT = Path(__file__).resolve().parents[2]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
QUESTION = "How is flour made?"
OLD = "Flour is made in a mill. The mill has stones."
NEW = "Grain is ground between two stones until it is fine, then sifted: what stays in the sieve is bran, what falls is flour."
EVIL_QUESTION = "Be evil."
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><b>bold</b>"
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scorer]:
    answers = {"mill@champion": OLD, "mill@challenger": NEW}
    made = {}
    for number, (name, text) in enumerate(answers.items()):
        made[name] = talker({QUESTION: text, EVIL_QUESTION: EVIL}, tmp_path_factory.mktemp(f"model{number}"), steps=300)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VoteStore]:
    opened = VoteStore(tmp_path / "votes")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that asks nothing of other machines, and whose console says nothing of scripts or policies."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme="light")
    opened = context.new_page()
    asked: list[Request] = []
    loud: list[str] = []
    opened.on("request", lambda request: asked.append(request))
    opened.on("console", lambda message: loud.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: loud.append(str(error)))
    yield opened
    context.close()
    assert not {one.url for one in asked if urlsplit(one.url).hostname not in (None, "127.0.0.1")}
    # the browser itself reports each refusal that a page asked for
    assert not [line for line in loud if "the server responded with a status of 4" not in line]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: with GRISTMILL_SCREENSHOTS=1 where the guide shows them."""
    return PROJECT / "docs" / "images" if os.environ.get("GRISTMILL_SCREENSHOTS") == "1" else tmp_path


def earlier(number: int) -> Vote:
    """One of forty choices: the challenger is preferred in three of four, on both sides."""
    both = (
        Speaker(name="mill@champion", version="mill:1", digest="d1"),
        Speaker(name="mill@challenger", version="mill:2", digest="d2"),
    )
    vote = said("choice", "right" if number % 8 < 6 else "left", (f"a{number // 2}", "b"), by=number)
    if number % 2:
        return vote.model_copy(update={"models": both})
    return vote.model_copy(update={"models": both[::-1], "vote": "left" if vote.vote == "right" else "right"})


def ask(page: Page, question: str, answer: str = "") -> None:
    page.get_by_label("Message").fill(question)
    page.get_by_label("Message").press("Enter")
    if answer:
        expect(page.locator(".turn.assistant .said").last).to_have_text(answer, timeout=PATIENCE_MS)
        expect(page.get_by_role("button", name="Good").last).to_be_visible(timeout=PATIENCE_MS)


def test_answers_are_judged_with_thumbs_words_and_corrections(
    talkers: dict[str, Scorer], store: VoteStore, page: Page, pictures: Path
) -> None:
    with Running(TinyGateway(talkers, store).app) as url:
        page.goto(url)
        ask(page, QUESTION, OLD)
        page.get_by_role("button", name="Good").click()
        expect(page.get_by_text("kept, without any text")).to_be_visible()
        expect(page.get_by_role("button", name="Good")).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_text("only the vote is kept")).to_be_visible()
        [vote] = store.votes()
        assert (vote.vote, vote.answers, vote.models[0].label) == ("up", None, "mill@champion = mill:1")

        page.get_by_label("Keep the conversation").check()
        page.get_by_role("button", name="Bad").click()
        expect(page.get_by_text("kept with the conversation")).to_be_visible()
        page.get_by_label("What is bad about it?").fill("Ask me@mill.org how.")
        page.screenshot(path=pictures / "chat.png")
        page.get_by_role("button", name="Send", exact=True).first.click()
        expect(page.get_by_text("and your words. Masked in it: 1.")).to_be_visible()
        [vote] = store.votes()  # the same answer, judged anew
        assert (vote.vote, vote.answers, vote.text) == ("down", (OLD,), "Ask [e-mail address] how.")

        page.get_by_role("button", name="Correct").click()
        page.get_by_label("How the answer should have been").fill("By grinding grain.")
        page.get_by_role("button", name="Keep the correction").click()
        expect(page.get_by_label("How the answer should have been")).to_have_count(0)
        assert [one.answers for one in store.votes() if one.kind == "correction"] == [(OLD, "By grinding grain.")]

        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Forget my votes").click()
        expect(page.get_by_text("2 removed.")).to_be_visible()
        assert not store.votes()


def test_an_answer_is_stopped_and_the_model_stops_too(talkers: dict[str, Scorer], store: VoteStore, page: Page) -> None:
    gateway = TinyGateway(talkers, store, pause_s=0.2)
    with Running(gateway.app) as url:
        page.goto(url)
        ask(page, QUESTION)
        expect(page.locator(".turn.assistant .said")).to_have_text(re.compile("Flour"), timeout=PATIENCE_MS)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("half an answer is not judged")).to_be_visible()
        assert page.get_by_role("button", name="Good").count() == 0
        said_then = page.locator(".turn.assistant .said").inner_text()
        page.wait_for_timeout(1000)
        assert gateway.num_running == 0 and page.locator(".turn.assistant .said").inner_text() == said_then != OLD
        page.get_by_role("button", name="Edit").click()
        expect(page.get_by_label("Message")).to_have_value(QUESTION)
        expect(page.locator(".turn")).to_have_count(0)
        page.get_by_label("Message").fill("other")
        page.get_by_role("button", name="New chat").click()
        expect(page.get_by_text("Ask something.")).to_be_visible()


def test_two_models_are_compared_blindly_and_told_after_the_vote(
    talkers: dict[str, Scorer], store: VoteStore, page: Page, pictures: Path, tmp_path: Path
) -> None:
    for number in range(40):
        store.keep(earlier(number))
    with Running(TinyGateway(talkers, store, pause_s=0.03).app) as url:
        page.goto(f"{url}/ab")
        page.get_by_label("Keep the conversation").check()
        page.get_by_label("Ask two models").fill(QUESTION)
        page.get_by_role("button", name="Ask both").click()
        expect(page.locator("#left .said")).not_to_be_empty(timeout=PATIENCE_MS)
        expect(page.locator("#right .said")).not_to_be_empty(timeout=PATIENCE_MS)
        assert page.get_by_role("button", name="A is better").is_disabled()
        expect(page.get_by_role("button", name="A is better")).to_be_enabled(timeout=PATIENCE_MS)
        texts = [page.locator(f"#{side} .said").inner_text() for side in ("left", "right")]
        assert sorted(texts) == sorted([OLD, NEW])
        assert "mill@" not in page.locator("body").inner_text()
        side, letter = ("left", "A") if texts[0] == NEW else ("right", "B")
        page.get_by_label("Why?").fill("says more")
        page.get_by_role("button", name=f"{letter} is better").click()
        expect(page.locator(f"#{side} h2")).to_have_text(f"Answer {letter}: mill@challenger = mill:2")
        expect(page.get_by_text("Your vote is kept with the conversation and your words.")).to_be_visible()
        page.screenshot(path=pictures / "compare.png")
        vote = store.votes()[-1]
        assert (vote.vote, vote.text, vote.answers) == (side, "says more", tuple(texts))

        page.get_by_role("button", name="Judge answers to somebody else").click()
        expect(page.locator("#question .said")).to_have_text("Which?")
        page.locator("h1").click()
        page.keyboard.press("3")
        expect(page.get_by_text("A was mill@ch")).to_be_visible()
        assert store.votes()[-1].vote == "tie" and store.votes()[-1].copied_from

        page.get_by_role("link", name="Scores").click()
        expect(page.get_by_role("img", name="Bradley-Terry scores of the models")).to_be_visible()
        expect(page.get_by_text("mill:2 before mill:1")).to_be_visible()
        page.screenshot(path=tmp_path / "scores.png", full_page=True)


@pytest.mark.parametrize("path", ["/", "/ab"])
def test_what_a_model_writes_stays_text(talkers: dict[str, Scorer], store: VoteStore, page: Page, path: str) -> None:
    with Running(TinyGateway(talkers, store).app) as url:
        page.goto(url + path)
        title = page.title()
        page.locator("#message").fill(EVIL_QUESTION)
        page.locator("#message").press("Enter")
        shown = page.locator(".turn.assistant .said" if path == "/" else "#left .said")
        expect(shown).to_have_text(EVIL, timeout=PATIENCE_MS)
        page.wait_for_timeout(300)
        assert page.title() == title and page.locator(".said img, .said script, .said b").count() == 0


def test_errors_on_the_page_say_what_to_do_and_the_key_stays_in_the_tab(
    talkers: dict[str, Scorer], store: VoteStore, page: Page
) -> None:
    with Running(TinyGateway(talkers, store, key="secret", max_requests=1).app) as url:
        page.goto(url)
        expect(page.get_by_role("alert")).to_contain_text("gristmill keys add")
        page.get_by_label("API key").fill("secret")
        page.get_by_label("API key").blur()
        expect(page.get_by_role("alert")).to_be_hidden()
        ask(page, QUESTION, OLD)
        ask(page, QUESTION)
        expect(page.get_by_role("alert")).to_contain_text("try again in 7 seconds")
        expect(page.get_by_label("Message")).to_have_value(QUESTION)  # it is not lost
        assert page.evaluate("JSON.stringify(localStorage)").count("secret") == 0
        assert page.evaluate("sessionStorage.getItem('gristmill.key')") == "secret"
        page.reload()
        expect(page.get_by_role("alert")).to_be_hidden()
        other = page.context.new_page()
        other.goto(url)
        expect(other.get_by_role("alert")).to_contain_text("API key")


def test_scores_are_shown_to_who_has_a_key_and_run_nothing(talkers: dict[str, Scorer], store: VoteStore, page: Page) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\">"
    for number in range(9):
        store.keep(said("choice", "left", ("a", str(number)), by=number, models=("good", evil)))
    with Running(TinyGateway(talkers, store, key="secret").app) as url:
        page.goto(f"{url}/scores")
        expect(page.get_by_role("alert")).to_contain_text("gristmill keys add")
        assert page.get_by_role("img").count() == 0
        page.get_by_label("API key").fill("secret")
        page.get_by_label("API key").blur()
        expect(page.get_by_role("img", name="Bradley-Terry scores of the models")).to_be_visible()
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.get_by_role("cell", name=evil).first).to_be_visible()
        page.wait_for_timeout(300)
        assert page.title() == "Gristmill: scores" and page.locator("main img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_read_on_a_phone_in_light_and_dark_and_by_keyboard(
    talkers: dict[str, Scorer], store: VoteStore, browser: Browser, tmp_path: Path, scheme: str
) -> None:
    for number in range(9):
        store.keep(earlier(number))
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    with Running(TinyGateway(talkers, store).app) as url:
        for path, name in (("/", "chat"), ("/ab", "compare"), ("/scores", "scores")):
            page.goto(url + path)
            if path == "/":
                ask(page, QUESTION, OLD)
                page.get_by_role("button", name="Good").focus()
                page.keyboard.press("Enter")
                expect(page.get_by_text("kept, without any text")).to_be_visible()
            if path == "/ab":
                page.locator("#message").fill(QUESTION)
                page.keyboard.press("Enter")
                expect(page.get_by_role("button", name="Both bad")).to_be_enabled(timeout=PATIENCE_MS)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            controls = "[...document.querySelectorAll('button, input, textarea, select')]"
            assert (
                page.evaluate(f"{controls}.filter(one => !one.labels?.length && !one.innerText).map(one => one.outerHTML)") == []
            )
            page.screenshot(path=tmp_path / f"{name}-{scheme}-phone.png", full_page=True)
    context.close()


def test_the_pages_work_in_front_of_the_real_gateway(tmp_path: Path, page: Page) -> None:
    folders = {name: make_model(tmp_path / name, seed=seed) for name, seed in (("old", 3), ("new", 4))}
    resolves = {name: lambda name=name: served(folders[name], name, f"mill:{name}") for name in folders}
    with running(resolves, tmp_path / "home", default_new_tokens=150) as gateway:
        store = VoteStore(tmp_path / "home" / "votes")
        page.goto(gateway.url)
        page.get_by_label("Keep the conversation").check()
        ask(page, "read the file")
        expect(page.get_by_role("button", name="Good")).to_be_visible(timeout=PATIENCE_MS)
        page.get_by_role("button", name="Good").click()
        expect(page.get_by_text("kept with the conversation")).to_be_visible()
        [vote] = store.votes()
        assert vote.answers == (page.locator(".turn.assistant .said").evaluate("one => one.textContent"),)
        assert vote.models[0].label == "old = mill:old" and vote.models[0].digest

        page.goto(f"{gateway.url}/ab")
        page.locator("#message").fill("write the list")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="A is better")).to_be_enabled(timeout=PATIENCE_MS)
        page.get_by_role("button", name="A is better").click()
        expect(page.get_by_text("A was ")).to_contain_text("mill:new")
        page.get_by_role("link", name="Scores").click()
        expect(page.get_by_role("img", name="Bradley-Terry scores of the models")).to_be_visible()
        assert not gateway.health()["models"]["old"]["queue"]
        store.close()
