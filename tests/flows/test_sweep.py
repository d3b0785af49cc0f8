"""A sweep finds the better values, goes on where it was killed as if nothing had happened, ends hopeless trials, and refuses bad keys."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import sweep_config
from flows.keys import ConfigError
from flows.study import Study, Trial
from flows.sweep import Found, run, show
from flows.sweep_config import Range, SweepConfig
from infra import dataset, retention
from infra.errors import InputError
from tasks.learn import trainer
from tasks.learn.job import Job
from tasks.learn.tokens import read_shard

from .driver import commands, environment
from .test_tokenise import whole

ROOT = Path(__file__).parents[2]
RATE = "pretrain.learning_rate"
LOW, HIGH = 3e-3, 30.0
"""From a good learning rate to an absurd one."""
TINY: dict[str, Any] = {
    **{"tokenise.vocab_size": 400, "tokenise.sample_bytes": 9000, "dask.kind": "none"},
    **{"pretrain.model.preset": "nano", "pretrain.model.hidden_size": 16, "pretrain.model.num_layers": 1},
    **{"pretrain.model.num_heads": 2, "pretrain.model.num_kv_heads": 2, "pretrain.model.intermediate_size": 32},
    **{"pretrain.model.context_length": 32, "pretrain.max_steps": 12, "pretrain.warmup_steps": 1, "pretrain.batch_size": 2},
    **{"pretrain.eval_every_steps": 4, "pretrain.eval_batches": 1, "pretrain.checkpoint_every_steps": 4},
    **{"pretrain.num_threads": 1, "pretrain.device": "cpu", "pretrain.precision": "fp32", "pretrain.skip_spikes": 0},
}


class Power(Exception):
    """The power is cut."""


class Here:
    """Trains in this process, for torch takes ten seconds to start; notes what was trained, and can cut the power."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.steps: list[int] = []
        self.cut: tuple[int, int] | None = None

    def __call__(self, job: Job, _environment: Any, *, on_log: Any, **hears: Any) -> dict[str, Any]:
        self.begun.append(job.config.learning_rate)
        shards = {name: [read_shard(job.tokens, index) for index in indices] for name, indices in job.splits.items()}

        def log(line: trainer.Line) -> None:
            if self.cut == (len(self.begun), line["step"]):
                raise Power
            self.steps.append(int(line["step"] or 0))
            on_log(line)

        result = trainer.train(
            shards["train"],
            shards["valid"],
            job.config,
            Path(job.folder),
            tokeniser_folder=job.tokeniser,
            on_log=log,
            cache=Path(job.cache),
        )
        return {**dataclasses.asdict(result), "energy_joules_estimated": 0.0}


def swept(home: Path, monkeypatch: pytest.MonkeyPatch, here: Any, **fields: Any) -> Found:
    """A sweep over the learning rate in a home."""
    monkeypatch.setenv("GRISTMILL_HOME", str(home))
    monkeypatch.setattr("tasks.pretrain.run", here)
    space = {RATE: {"type": "float", "low": LOW, "high": HIGH, "log": True}}
    given = {"set": TINY, "data": f"publish/{whole().version}", "space": space, "trials": 6, "seed": 3, **fields}
    return run(sweep_config.read("", given, [], []), lambda line: None)


def table(found: Found) -> Any:
    return found.as_json()["trials"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Found, Here, Path]]:
    home, here = tmp_path_factory.mktemp("sweep") / "home", Here()
    with pytest.MonkeyPatch.context() as patched:
        for name in ("GRISTMILL_STORAGE", "GRISTMILL_PREFECT_API_URL", "GRISTMILL_MLFLOW_URL"):
            patched.delenv(name, raising=False)
        yield swept(home, patched, here), here, home


def test_it_finds_the_better_values_and_keeps_their_model(undisturbed: tuple[Found, Here, Path]) -> None:
    found, here, _ = undisturbed
    assert found.best is not None and found.best.value is not None
    rates = [one.params[RATE] for one in found.trials]
    assert here.begun == rates and min(rates) < 0.1 and max(rates) > 1  # type: ignore[type-var]
    assert found.best.params[RATE] < 1  # type: ignore[operator]
    absurd = next(one for one in found.trials if one.params[RATE] == max(rates))  # type: ignore[type-var]
    assert absurd.value is not None and absurd.value > 2 * found.best.value
    assert found.importances == {RATE: 1.0}
    pasted = dict(one.split("=") for one in found.sets.split() if one != "--set")
    assert {key: float(value) for key, value in pasted.items()} == found.best.params
    assert [(one["id"], one["why"]) for one in retention.pins()] == [(found.best.told["version"], f"sweep {found.name}")]


def test_a_hopeless_trial_is_ended_and_leaves_nothing_in_the_store(undisturbed: tuple[Found, Here, Path]) -> None:
    found, here, home = undisturbed
    pruned = [one for one in found.trials if one.state == "pruned"]
    finished = [one for one in found.trials if one.state == "complete"]
    assert pruned and len(pruned) + len(finished) == 6
    for one in pruned:
        assert one.value is None and list(one.losses) == [4] and "not worth its end at step 4" in one.told["why"]
        others = sorted(other.losses[4] for other in finished if other.number < one.number)
        assert len(others) >= 3 and one.losses[4] > others[len(others) // 2]
    # lines 1, 4, 8, 10 and 12 of those that go to their end; training stops behind the line at which it is hopeless
    assert len(here.steps) == 5 * len(finished) + 2 * len(pruned)
    names = {path.name for path in (home / "store" / "pretrain").iterdir()}
    assert names == {str(one.told["version"]).partition("/")[2] for one in finished}


def test_killed_in_a_trial_it_goes_on_as_if_nothing_had_happened(
    undisturbed: tuple[Found, Here, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, before, _ = undisturbed
    first, second, third = Here(), Here(), Here()
    first.cut = (3, 8)
    with pytest.raises(Power):
        swept(tmp_path, monkeypatch, first)
    assert len(retention.pins()) == 2  # no run refers to the models of an unfinished sweep, and gc must not take them
    second.cut = (3, 4)  # of the fifth trial; the fourth, which is hopeless, is over
    with pytest.raises(Power):
        swept(tmp_path, monkeypatch, second)
    again = swept(tmp_path, monkeypatch, third)
    assert first.begun + second.begun[1:] + third.begun[1:] == before.begun
    assert second.steps[0] == 8, "it goes on at the checkpoint, not at the beginning"
    assert table(again) == table(found) and again.importances == found.importances


def test_started_again_it_trains_nothing_and_a_larger_number_adds_to_it(
    undisturbed: tuple[Found, Here, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, home = undisturbed
    here = Here()
    other_means = {"pretrain.num_threads": 2, "pretrain.loss_chunk": 64, "pretrain.activation_checkpointing": True}
    again = swept(home, monkeypatch, here, set={**TINY, **other_means})
    assert not here.begun and table(again) == table(found) and again.page.read_text() == found.page.read_text()
    more = swept(home, monkeypatch, here, trials=7)
    assert len(here.begun) == 1 and table(more)[:6] == table(found) and len(table(more)) == 7
    console = Console(width=200, record=True, file=io.StringIO())
    show(more, console)
    said = console.export_text()
    assert found.sets in said and str(more.page) in said and said.count("pruned") >= 1


def test_trials_may_tokenise_for_themselves_be_judged_by_an_evaluation_and_fail_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Here()
    space = {
        "pretrain.warmup_steps": {"type": "categorical", "choices": [1, 8]},
        "pretrain.max_steps": {"type": "int", "low": 4, "high": 12, "step": 8},
        "tokenise.vocab_size": {"type": "categorical", "choices": [300]},
    }
    quick = {
        "evaluate.robustness.perturbations": [],
        "evaluate.suite": None,
        "evaluate.device": "cpu",
        "evaluate.overlap_words": None,
        "evaluate.samples.max_new_tokens": 8,
    }
    found = swept(
        tmp_path,
        monkeypatch,
        here,
        space=space,
        set={**TINY, **quick},
        sampler="grid",
        pruner="none",
        objective="heldout.bits_per_byte",
    )
    assert {tuple(one.params.values()) for one in found.trials} == {(1, 4, 300), (1, 12, 300), (8, 4, 300), (8, 12, 300)}
    for one in found.trials:
        if one.params["pretrain.warmup_steps"] == 8 and one.params["pretrain.max_steps"] == 4:
            assert one.state == "failed" and "warmup_steps 8 must be below max_steps 4" in one.told["why"]
        else:
            assert one.state == "complete" and one.value is not None and 0 < one.value < 12
    assert len(here.begun) == 3
    [model] = {one.told["version"] for one in found.trials if one is found.best}
    tokens = dataset.opened_inputs(dataset.named(model))["tokens"]
    assert tokens.manifest().facts["vocab_size"] == 300
    assert found.data.startswith("publish/")


def test_a_sweep_of_which_all_has_failed_says_why_and_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here()

    def broken(*words: Any, **more: Any) -> Any:
        raise InputError("the moon is full")

    with pytest.raises(InputError, match="the first 3 trials all failed; trial 0: the moon is full"):
        swept(tmp_path, monkeypatch, broken)
    found = swept(tmp_path, monkeypatch, here, trials=1)
    assert [one.state for one in found.trials] == ["complete"] and len(here.begun) == 1


def study(folder: Path, **fields: Any) -> Study:
    space = {
        RATE: {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
        "pretrain.optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
    }
    asked = SweepConfig.model_validate({"space": space, "trials": 20, **fields})
    return Study(folder / "trials.journal", "s", asked, 8, 2)


def bowl(trial: Trial) -> float:
    """Best at 1e-2 with adamw."""
    return abs(math.log10(float(trial.params[RATE] or 0)) + 2) + (trial.params["pretrain.optimizer"] != "adamw")


def search(folder: Path, *, reopened: bool, **fields: Any) -> list[Trial]:
    opened = study(folder, **fields)
    for _ in range(20):
        opened = study(folder, **fields) if reopened else opened
        one = opened.begin()
        assert one is not None
        opened.finish(one.number, "complete", bowl(one))
    return opened.trials()


def test_what_is_tried_follows_from_the_seed_and_what_was_found(tmp_path: Path) -> None:
    whole_search = search(tmp_path / "one", reopened=False)
    assert search(tmp_path / "two", reopened=True) == whole_search
    other = search(tmp_path / "other", reopened=False, seed=2)
    assert [one.params for one in other] != [one.params for one in whole_search]
    # TPE learns: what it tries in the end is nearer to the best than what it tried by chance in the beginning
    tried = [one.value or 0.0 for one in whole_search]
    assert sum(tried[-8:]) / 8 < sum(tried[:5]) / 5
    assert set(study(tmp_path / "one").importances()) == {RATE, "pretrain.optimizer"}


def test_a_grid_tries_every_combination_once_in_an_order_of_its_seed(tmp_path: Path) -> None:
    space = {
        "pretrain.batch_size": {"type": "int", "low": 2, "high": 6, "step": 2},
        "pretrain.optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
    }
    tried = []
    while (one := study(tmp_path, space=space, sampler="grid").begin()) is not None:
        tried.append(tuple(one.params.values()))
    wanted = list(itertools.product([2, 4, 6], ["adamw", "sgd"]))
    assert sorted(tried) == sorted(wanted) and tried != wanted


@pytest.mark.parametrize("objective", ["valid_loss", "heldout.accuracy"])
def test_a_trial_with_a_higher_loss_is_the_hopeless_one_whichever_way_the_objective_is_better(
    objective: str, tmp_path: Path
) -> None:
    opened = study(tmp_path, objective=objective)
    for loss, value in ((2.0, 0.3), (3.0, 0.2), (4.0, 0.1)):
        one = opened.begin()
        assert one is not None
        opened.report(one.number, 2, loss)
        opened.finish(one.number, "complete", value)
    for loss, hopeless in ((9.0, True), (2.5, False)):
        one = opened.begin()
        assert one is not None
        opened.report(one.number, 2, loss)
        assert opened.hopeless(one.number) == hopeless and opened.trials()[one.number].losses == {2: loss}
        assert not study(tmp_path, objective=objective, pruner="none").hopeless(one.number)
    # a line that comes again after a resume changes nothing, nor does the end of a trial that has ended
    opened.report(one.number, 2, 77.0)
    opened.finish(one.number, "pruned")
    opened.finish(one.number, "complete", 1.0)
    assert opened.trials()[one.number].losses == {2: 2.5} and opened.trials()[one.number].state == "pruned"


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_hyperband_lets_a_third_go_on_at_steps_that_grow(sampler: str, tmp_path: Path) -> None:
    opened = study(tmp_path, pruner="hyperband", sampler=sampler)
    ended: dict[int, int] = {}
    for number in range(18):
        one = opened.begin()
        assert one is not None
        for step in (2, 4, 6, 8):
            opened.report(number, step, 10.0 + number)  # each is worse than all before it
            if step < 8 and opened.hopeless(number):
                ended[step] = ended.get(step, 0) + 1
                opened.finish(number, "pruned")
                break
        else:
            opened.finish(number, "complete", 10.0 + number)
    assert ended and set(ended) <= {2, 6}
    assert opened.trials()[0].state == "complete"


def test_a_name_stands_for_one_sweep(tmp_path: Path) -> None:
    opened = study(tmp_path)
    opened.agree({"data": "one", "seed": 1})
    study(tmp_path).agree({"seed": 1, "data": "one"})
    with pytest.raises(InputError, match="was begun with another data and seed"):
        study(tmp_path).agree({"data": "two", "seed": 2})
    assert opened.kept("threads", 2) == 2 and study(tmp_path).kept("threads", 1) == 2


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("pretrain.learning_rate=1e-4..1e-2:log", {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}),
        ("pretrain.batch_size=8..64:step=8", {"type": "int", "low": 8, "high": 64, "step": 8}),
        ("pretrain.grad_clip=1..2.5", {"type": "float", "low": 1, "high": 2.5}),
        ("pretrain.optimizer=adamw,sgd", {"type": "categorical", "choices": ("adamw", "sgd")}),
        ("pretrain.learning_rate=1e-3,3e-3", {"type": "categorical", "choices": (1e-3, 3e-3)}),
        ("pretrain.compile=true,false", {"type": "categorical", "choices": (True, False)}),
    ],
)
def test_the_short_form_is_the_long_one(text: str, fields: dict[str, Any]) -> None:
    read = sweep_config.read("", {}, [], [text])
    assert read.settings.space == {text.partition("=")[0]: Range(**fields)}


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ("pretrain.lerning_rate=1e-4..1e-2:log", "space: pretrain.lerning_rate: no such key .*did you mean pretrain.learning_rate"),
        ("pretrain.batch_size=0..8", "pretrain.batch_size: input should be greater than or equal to 1"),
        ("pretrain.optimizer=adamw,lion", "pretrain.optimizer: input should be 'adamw'.*'lion'"),
        ("pretrain.warmup_steps=10..400", "warmup_steps 400 must be below max_steps 300"),
        ("split.test_share=0.1..0.2", "sweep: space.split.test_share: a sweep tries keys of pretrain and tokenise"),
        ("pretrain.learning_rate=1e-2..1e-4", "space.pretrain.learning_rate: low 0.01 must not be above high 0.0001"),
        ("pretrain.learning_rate=0..1e-2:log", "log needs a low above 0"),
        ("pretrain.learning_rate=a..b", "--space pretrain.learning_rate=a..b: 'a' is no number"),
        ("pretrain.learning_rate=1..2:lgo", "'lgo' means nothing here"),
        ("tokenise.vocab_size=400..800", "keys of tokenise change what a token is.*: set objective heldout.bits_per_byte and pruner none"),
        ("pretrain.learning_rate", "write dotted.key=low..high"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_refused_before_anything_runs(space: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        sweep_config.read("", {}, [], [space])


def test_every_problem_of_a_file_is_told_with_its_place(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("space: {pretrain.learning_rate: {type: float, low: 1e-4, hihg: 1e-2}}\ntrails: 8\nobjective: perplexity\n")
    good = tmp_path / "good.yaml"
    good.write_text("space: {pretrain.learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}}\n")
    wrong, grid, empty = commands(home, ["sweep", str(file)], ["sweep", str(good), "--sampler", "grid"], ["sweep", str(good)])
    assert wrong.code == grid.code == empty.code == 2
    assert f"{file}: trails: no such key (got 8); did you mean trials?" in wrong.output
    assert "space.pretrain.learning_rate.hihg: no such key (got 0.01)" in wrong.output or "hihg: no such key" in wrong.output
    assert f"{file}: objective: must be valid_loss, or a figure of `evaluate`" in wrong.output
    assert "sampler grid: pretrain.learning_rate has no end of values" in grid.output
    assert "run 'latest': no run of that name" in empty.output


def test_trials_are_runs_below_that_of_the_sweep(home: Path, mlflow_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = swept(home, monkeypatch, Here(), trials=2)
    runs = mlflow_store.search_runs([mlflow_store.get_experiment_by_name("gristmill").experiment_id])
    parent = next(one for one in runs if "mlflow.parentRunId" not in one.data.tags)
    nested = {one.data.tags["sweep.trial"]: one for one in runs if one is not parent}
    assert {one.data.tags["mlflow.parentRunId"] for one in nested.values()} == {parent.info.run_id} and set(nested) == {"0", "1"}
    assert found.best is not None and parent.data.metrics["objective"] == found.best.value
    assert parent.data.tags["sweep.set"] == found.sets and found.url.endswith(
        f"{parent.info.run_id}?workflowType=machine_learning"
    )
    assert "sweep.html" in {one.path for one in mlflow_store.list_artifacts(parent.info.run_id)}
    for one in found.trials:
        run = nested[str(one.number)]
        assert run.info.status == "FINISHED" and run.data.tags["sweep.state"] == one.state
        assert float(run.data.params[RATE]) == one.params[RATE] and run.data.metrics["objective"] == one.value
        curve = {point.step: point.value for point in mlflow_store.get_metric_history(run.info.run_id, "valid_loss")}
        assert curve == pytest.approx(dict(one.losses))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_killed_with_all_its_workers_it_repeats_nothing_that_was_finished(home: Path, tmp_path: Path) -> None:
    """Real trials: two at a time on Dask workers, each training a process of its own; SIGKILL of the command's whole group."""
    made = whole()
    file = tmp_path / "sweep.yaml"
    space = {RATE: {"type": "float", "low": LOW, "high": 0.3, "log": True}}
    fields = {"name": "killed", "data": f"publish/{made.version}", "space": space, "trials": 4, "parallel": 2, "pruner": "none"}
    file.write_text(json.dumps({**fields, "set": {**TINY, "dask.kind": "local", "pretrain.max_steps": 40}}))
    words = [sys.executable, "-m", "flows", "sweep", str(file), "--format", "json"]
    journal = home / "sweeps" / "killed" / "trials.journal"

    def start() -> subprocess.Popen[bytes]:
        said = (tmp_path / "said").open("wb")
        return subprocess.Popen(words, env=environment(home), cwd=ROOT, stdout=said, stderr=said, start_new_session=True)

    def finished() -> list[Trial]:
        if not journal.exists():
            return []
        asked = SweepConfig.model_validate(json.loads(file.read_text()))
        return [one for one in Study(journal, "killed", asked, 40, 4).trials() if one.state == "complete"]

    process, until = start(), time.monotonic() + 400
    while not finished():
        assert process.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = finished()
    manifests = {path: path.stat().st_mtime_ns for path in (home / "store" / "pretrain").glob("*/manifest.json")}
    assert before and len(before) < 4
    process = start()
    assert process.wait(400) == 0, (tmp_path / "said").read_text()
    after = finished()
    assert [one for one in after if one.number in {other.number for other in before}] == before and len(after) == 4
    assert {path: path.stat().st_mtime_ns for path in manifests} == manifests
    assert all(one.losses.keys() == set(range(4, 41, 4)) for one in after)
