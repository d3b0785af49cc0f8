"""From rows and a model of another maker to a tuned version: by the single steps, and by one that was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.single import run_step
from infra import storage
from infra.dataset import RUN, ShardCorrupt, ShardSet, open_version, opened_inputs
from infra.errors import InputError
from infra.steps import BESIDE
from tasks.learn import posttrain, posttraining
from tasks.learn.config import HISTORY, LEFT_OUT, SPEED
from tasks.learn.sft_config import SftConfig
from tests.learn.tuned import FAST, base_model, colours

from .driver import commands
from .processes import kill_when, start

KEYS = [f"{name}={json.dumps(value)}" for name, value in {**FAST, "max_steps": 6}.items()]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"messages": turns}) for turns in colours(60)))
    return path


def here(job: posttrain.PostJob, **hears: Any) -> dict[str, Any]:
    """What `posttrain.run` does, without a process of its own."""
    Path(job.events).unlink(missing_ok=True)
    posttraining._train(job)
    result: dict[str, Any] = {}
    for event in map(json.loads, Path(job.events).read_text().splitlines()):
        for name, told in event.items():
            if name == "result":
                result = told
            else:
                hears[f"on_{name}"](told)
    return result


def tuned_of(version: ShardSet, name: str) -> str:
    """The folder of what a version was made from."""
    found: str = opened_inputs(version)[name].folder
    return found


class Steps:
    """Single steps as the command runs them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said = Console(record=True, width=200, file=(root / "said").open("w"))

    def __call__(self, name: str, output: str, *inputs: str | Path, keys: list[str] | None = None) -> ShardSet:
        run_step(name, [str(one) for one in inputs], self.root / output, keys or [], 1, self.said)
        return open_version(str(self.root / output))


def test_a_folder_is_adopted_and_tuned_and_what_was_tuned_is_tuned_again(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(posttrain, "run", here)
    step = Steps(tmp_path)
    base = base_model(tmp_path / "theirs")
    conversations = step("instruct", "conversations", rows)
    assert conversations.schema_name == "conversations" and conversations.counts.kept == 60
    tuned = step("sft", "tuned", tmp_path / "conversations", base, keys=KEYS)
    assert "adopt: 1 in, 1 kept" in step.said.export_text()
    facts = tuned.manifest().facts
    assert (tuned.schema_name, facts["objective"], facts["steps"]) == ("model", "causal", 6)
    assert facts["after.loss"] < facts["before.loss"] and facts["rows"] + facts["rows_heldout"] == 60
    assert tuned.counts.total == tuned.counts.kept == facts["rows"]
    history, speed = (json.loads(Path(tuned.file(name)).read_text()) for name in (HISTORY, f"{BESIDE}/{SPEED}"))
    assert [line["step"] for line in history] == [line["step"] for line in speed] == [2, 4, 6]
    assert "seconds" not in history[0] and {"seconds", "peak_bytes"} <= speed[0].keys()
    assert json.loads(Path(tuned.file(LEFT_OUT)).read_text()) == []
    run = storage.read_json(tuned.file(RUN))
    assert run["device"] == "cpu" and run["training_seconds"] > 0 and any("tensorboard" in one["name"] for one in run[BESIDE])
    assert not Path(tuned.file("aside")).exists()
    # the inputs are named, so lineage leads from the model to rows and base
    inputs = tuned.manifest().recipe["inputs"]
    assert inputs["conversations"].startswith("instruct/") and inputs["model"].startswith("adopt/")
    assert step("adopt", "theirs-alone", base).digest == open_version(tuned_of(tuned, "model")).digest
    alone = open_version(str(tmp_path / "theirs-alone"))
    weights = Path(alone.file("model/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ShardCorrupt, match=r"model\.safetensors: its bytes are not those"):
        posttrain.post_job("sft", SftConfig(), tmp_path, models={"model": alone}, rows={"conversations": conversations})
    again = step("sft", "again", tmp_path / "tuned", tmp_path / "conversations", keys=KEYS)
    assert again.manifest().facts["before.loss"] == pytest.approx(facts["after.loss"], rel=1e-5)
    assert again.manifest().recipe["inputs"]["model"].startswith("sft/")


def test_inputs_that_do_not_fit_are_told_with_what_to_do(tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    step = Steps(tmp_path)
    base = base_model(tmp_path / "theirs")
    step("instruct", "conversations", rows)
    with pytest.raises(
        InputError, match=r"is no version; step sft takes conversations, which .*: gristmill step instruct --input"
    ):
        step("sft", "a", rows, base)
    with pytest.raises(InputError, match=r"adopt\.checkpoint: nobody/nothing: there is no such folder"):
        step("sft", "b", "nobody/nothing", tmp_path / "conversations")
    with pytest.raises(InputError, match=r"adopt\.checkpoint: names no model"):
        step("adopt", "e")
    with pytest.raises(InputError, match="step adopt: takes one model"):
        step("adopt", "f", base, base)
    with pytest.raises(InputError, match=r"one --input must be model, which"):
        step("sft", "c", tmp_path / "conversations", tmp_path / "conversations")
    with pytest.raises(InputError, match=r"takes 2 --input"):
        step("sft", "d", tmp_path / "conversations")


@pytest.mark.soak
def test_a_killed_step_goes_on_and_makes_the_version_of_an_undisturbed_one(tmp_path: Path, rows: Path) -> None:
    base = base_model(tmp_path / "theirs")
    keys = [*KEYS, "max_steps=400", "checkpoint_every_steps=20"]
    sets = [word for key in keys for word in ("--set", key)]

    def words(output: str) -> list[str]:
        inputs = ("--input", base, "--input", str(tmp_path / "conversations"))
        return ["step", "sft", *inputs, "--output", str(tmp_path / output), "--workers", "1", *sets]

    first, second = commands(
        tmp_path / "home",
        ["step", "instruct", "--input", str(rows), "--output", str(tmp_path / "conversations"), "--workers", "1"],
        words("undisturbed"),
    )
    assert first.code == second.code == 0, second.output
    work = tmp_path / "killed" / "aside" / "checkpoints"
    process = start(tmp_path / "home", "-m", "flows", *words("killed"))
    kill_when(process, lambda: any(work.glob("checkpoint-*/whole.json")), timeout_s=120)
    [ended] = commands(tmp_path / "home", words("killed"))
    assert ended.code == 0, ended.output
    made = [open_version(str(tmp_path / name)) for name in ("undisturbed", "killed")]
    assert made[0].digest == made[1].digest
    assert {one.name for one in (tmp_path / "killed").iterdir()} == {one.name for one in (tmp_path / "undisturbed").iterdir()}
