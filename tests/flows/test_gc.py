"""gc lists and removes what no run, alias, pin or corpus refers to, and nothing that is being made or that was not asked about."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import unreferenced
from infra import ledger, lineage, retention, storage
from infra.dataset import ShardSet
from infra.retention import DAY_S

from .driver import commands, environment
from .made_store import corpus

PAGES = {"http://a.example/one": "one two three", "http://a.example/two": "alone"}


@pytest.fixture
def store(home: Path) -> Path:
    return home / "store"


def age(store: Path, days: float = 3) -> None:
    """Let everything in the store have been written some days ago."""
    then = time.time() - days * DAY_S
    for path in store.rglob("*"):
        os.utime(path, (then, then))


def listed(keep_runs: int | None = None, older_than: float | None = None) -> set[str]:
    warned: list[str] = []
    found = {one.path for one in unreferenced.unneeded(keep_runs, older_than, warned.append)}
    assert any("everything newer than a day is kept" in words for words in warned)  # no Prefect is known here
    return found


def paths(made: dict[str, ShardSet], *steps: str) -> set[str]:
    return {made[step].path for step in steps or made}


def test_what_no_run_refers_to_is_listed_and_what_a_run_came_from_is_not(store: Path) -> None:
    with ledger.run("first"):
        kept = corpus(PAGES)
    for step in ("crawl", "filter", "validate"):
        (store / "runs" / "first" / f"{step}.json").unlink()  # the run names only what it published
    loose = corpus(PAGES, min_words=1)
    age(store)
    assert listed() == paths(loose) - paths(kept) and paths(kept) & paths(loose) == {kept["crawl"].path}


def test_nothing_newer_than_a_day_is_listed_where_prefect_cannot_be_asked(store: Path) -> None:
    made = corpus(PAGES)
    assert listed() == set()
    age(store, days=0.9)
    assert listed() == set()
    age(store, days=1.1)
    assert listed() == paths(made)


def test_only_runs_that_count_keep_their_versions(store: Path) -> None:
    made = {}
    for number in (1, 2, 3):
        with ledger.run(f"run-{number}"):
            ledger.begin(f"run-{number}", "curate", "mine", {})
            made[number] = corpus(PAGES, min_words=number)
    age(store)
    assert listed() == set()
    assert listed(keep_runs=2) == paths(made[1], "filter", "validate", "publish")
    assert listed(keep_runs=0) == paths(made[1]) | paths(made[2]) | paths(made[3])
    assert listed(older_than=1) == set()  # all were heard of just now
    assert listed(older_than=0) == listed(keep_runs=0)
    assert listed(keep_runs=1, older_than=1) == set()  # either is enough to count


def test_the_newest_version_of_a_corpus_stays_for_the_next_one_to_compare_with(store: Path) -> None:
    old, new = corpus(PAGES, min_words=1), corpus(PAGES, min_words=2)
    ledger.announce("mine", old["publish"])
    ledger.announce("mine", new["publish"])
    age(store)
    assert listed() == paths(old, "filter", "validate", "publish")


def test_of_what_a_kept_check_compared_with_stays_the_version_itself_and_nothing_before_it(store: Path) -> None:
    made: list[dict[str, ShardSet]] = []
    for number in (1, 2, 3):
        pages = {url: f"{text} {number}" for url, text in PAGES.items()}
        made.append(corpus(pages, payload=str(number), previous=made[-1]["publish"] if made else None))
        ledger.announce("mine", made[-1]["publish"])
    with ledger.run("newest"):
        for version in made[-1].values():
            ledger.enter(ledger.Entry.of(version, loaded=True, seconds=0))
    age(store)
    assert listed() == paths(made[0]) | paths(made[1], "crawl", "filter", "validate")


def test_a_version_that_is_open_while_a_file_of_it_is_made_again_stays_with_the_run_that_names_it(store: Path) -> None:
    with ledger.run("first"):
        made = corpus(PAGES)
    (store / made["crawl"].path / "manifest.json").unlink()
    age(store, days=30)
    assert listed(older_than=400) == set()


def test_a_pin_keeps_a_version_and_all_it_came_from_until_it_is_taken_away(store: Path) -> None:
    made = corpus(PAGES, model="mine:1")
    other = corpus(PAGES, min_words=1)
    age(store)
    assert list(unreferenced.pin(made["publish"].version[:6], why="paper", remove=False)) == [
        f"publish/{made['publish'].version}: pinned, with all it came from"
    ]
    assert retention.pins()[0]["why"] == "paper"
    assert not listed() & paths(made) and listed() == paths(other, "filter", "validate", "publish")
    list(unreferenced.pin(f"publish/{made['publish'].version}", why="", remove=True))
    assert retention.pins() == []
    storage.remove(made["register"].folder)  # else it stays as a registered model
    assert paths(made, "publish", "pretrain", "filter") < listed()


def test_a_pinned_model_is_kept_by_what_registered_it(store: Path) -> None:
    made = corpus(PAGES, model="mine:1")
    assert list(unreferenced.pin("mine:1", why="", remove=False)) == [
        f"register/{made['register'].version}: pinned, with all it came from"
    ]


def test_registered_models_stay_where_nobody_can_say_which_have_an_alias(store: Path) -> None:
    made = corpus(PAGES, model="mine:1")
    age(store)
    warned: list[str] = []
    assert unreferenced.unneeded(None, None, warned.append) == []
    assert any("every registered model is kept" in words for words in warned)
    storage.remove(made["register"].folder)
    assert listed() == paths(made) - {made["register"].path}


def test_unfinished_work_is_listed_apart_and_only_when_nobody_wrote_to_it_lately(store: Path) -> None:
    made = corpus(PAGES)
    (store / made["publish"].path / "manifest.json").unlink()
    with ledger.run("first"):
        for version in (made["crawl"], made["filter"], made["validate"]):
            ledger.enter(ledger.Entry.of(version, loaded=True, seconds=0))
    age(store)
    assert listed() == set()  # it may be what a failed run is going to go on from
    assert listed(older_than=2) == {made["publish"].path}
    age(store, days=8)
    [found] = unreferenced.unneeded(None, None, lambda words: None)
    assert (found.path, found.complete) == (made["publish"].path, False)
    os.utime(store / made["publish"].path / "run.json")
    assert listed() == set()


def test_a_version_in_the_parameters_of_a_waiting_run_is_kept_whether_it_is_there_whole_or_by_its_path(store: Path) -> None:
    whole, by_path = corpus(PAGES, min_words=1), corpus(PAGES)
    parameters = {
        "name": "mine",
        "inputs": [whole["filter"].model_dump(mode="json")],
        "more": {"corpus": by_path["publish"].path},
    }
    versions = lineage.records()
    graph, until = lineage.graph_of(versions, ()), time.time() + DAY_S
    found = retention.unneeded(set(unreferenced._versions_in(parameters)), graph, versions, lineage.version_paths(), until)
    assert {one.path for one in found} == paths(whole, "publish")  # the checks are of data that is kept


@pytest.mark.soak
def test_the_command_asks_before_it_removes_and_takes_what_corpora_listed_too(home: Path, store: Path) -> None:
    old, new = corpus(PAGES, min_words=1), corpus(PAGES, min_words=2)
    ledger.announce("mine", old["publish"])
    ledger.announce("mine", new["publish"])
    age(store)
    num_bytes = sum(storage.used(old[step].folder)[0] for step in ("filter", "validate", "publish"))
    dry, unsure, sure, again = commands(home, ["gc", "--dry-run"], ["gc"], ["gc", "--yes"], ["gc", "--dry-run"])
    assert dry.code == 0 and f"3 to remove, {num_bytes:,} bytes in all" in dry.output
    assert old["publish"].path in dry.output and new["publish"].path not in dry.output
    assert unsure.code == 2 and "nothing was removed" in unsure.output
    assert (
        sure.code == 0 and not (store / old["publish"].path).exists() and (store / new["publish"].path / "manifest.json").exists()
    )
    assert "0 to remove, 0 bytes in all" in again.output
    assert [one.version for one in ledger.published("mine")] == [new["publish"].version]
    assert lineage.record(old["crawl"].path) is not None  # the new one came from it too


@pytest.mark.soak
def test_the_command_asks_the_server_that_is_configured(home: Path, store: Path) -> None:
    """An address where nobody answers: what is new stays, and the warning names that address, not one of Prefect's own."""
    corpus(PAGES)
    command = [sys.executable, "-m", "flows", "gc", "--dry-run"]
    at = environment(home) | {"GRISTMILL_PREFECT_API_URL": "http://127.0.0.1:9/api"}
    said = subprocess.run(command, env=at, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert (
        "Prefect does not answer at http://127.0.0.1:9/api" in said.stderr and "temporary server" not in said.stderr + said.stdout
    )
    assert "0 to remove" in said.stdout


@pytest.mark.soak
def test_the_command_pins_lists_and_says_what_it_does_not_know(home: Path) -> None:
    made = corpus(PAGES)["publish"]
    none, pinned, shown, wrong = commands(home, ["pin"], ["pin", made.version, "--why", "the paper"], ["pin"], ["pin", "nobody"])
    assert none.output.strip() == "nothing is pinned" and pinned.code == 0
    assert shown.output.startswith(f"publish/{made.version}") and shown.output.rstrip().endswith("the paper")
    assert wrong.code == 2 and wrong.output.startswith("nobody: no version or model")
