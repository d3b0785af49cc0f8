"""The steps dpo, reward and reinforce as versions: what they keep, that they are found again, and how the command binds their inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from expectations.verdict import GateFailed
from flows.single import _bind, find_step
from infra.dataset import ShardSet
from infra.errors import InputError
from tasks.dpo import dpo
from tasks.learn import posttrain
from tasks.learn.align_config import DpoConfig, ReinforceConfig, RewardConfig
from tasks.learn.comparison import measured
from tasks.learn.config import HISTORY, ITEMS, LEFT_OUT, SCORES
from tasks.reinforce import reinforce
from tasks.reward import reward
from tests.learn import chatty

from .test_tune import here

COMMON: Mapping[str, Any] = {"device": "cpu", "num_threads": 1, "precision": "fp32", "learning_rate": 1e-3, "max_steps": 10}
WRITE = {"prompts": 10, "num_samples": 2, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("model")
    return chatty.model_version(folder / "version", chatty.made_model(folder / "chatty", steps=100))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardSet]:
    folder = tmp_path_factory.mktemp("rows")
    pairs = chatty.pairs("good")
    pairs[0]["chosen"] = "yes " * 80
    pairs[0]["split"] = "train"
    return {
        "preferences": chatty.rows_version(folder / "pairs", "preferences", pairs),
        "problems": chatty.rows_version(folder / "problems", "problems", chatty.problems("good")),
    }


def files_of(version: ShardSet) -> set[str]:
    return {entry.name for entry in version.manifest().files}


def test_dpo_keeps_a_model_its_figures_and_what_was_left_out(
    model: ShardSet, rows: dict[str, ShardSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posttrain, "run", here)  # its own process is for the slow proofs
    config = DpoConfig(**COMMON, write=WRITE)
    version = dpo.run([model, rows["preferences"]], config, str(tmp_path / "out")).shards
    manifest = version.manifest()
    assert version.schema_name == "model"
    assert {"model/model.safetensors", "model/tokenizer.json", HISTORY, LEFT_OUT, SCORES, ITEMS} <= files_of(version)
    assert manifest.counts.dropped == {"too_long": 1}
    assert manifest.counts.total == sum(row["split"] == "train" for row in chatty.pairs("good")) + (
        chatty.pairs("good")[0]["split"] == "test"
    )
    facts = manifest.facts
    assert facts["objective"] == "causal"
    assert facts["after.preference.accuracy"] > 0.7
    assert facts["suite"] == "aligned"
    scored = measured([version])
    assert scored.figures["after.preference.accuracy"].value == facts["after.preference.accuracy"]
    assert scored.items.num_rows > facts["held_rows"]
    history = json.loads(version.read_file(HISTORY))
    assert [line["step"] for line in history] == [5, 10]
    assert "seconds" not in history[0]
    assert dpo.run([model, rows["preferences"]], config, str(tmp_path / "out")).loaded


@pytest.mark.soak
def test_a_reward_model_judges_what_reinforce_writes(model: ShardSet, rows: dict[str, ShardSet], tmp_path: Path) -> None:
    judge = reward.run([model, rows["preferences"]], RewardConfig(**COMMON), str(tmp_path / "judge")).shards
    assert (judge.schema_name, judge.manifest().facts["objective"]) == ("reward_model", "reward")
    config = ReinforceConfig(**COMMON, method="rloo", batch_size=16, num_generations=4, max_new_tokens=4, write=WRITE)
    versions = [model, rows["problems"], [judge]]
    version = reinforce.run(versions, config, str(tmp_path / "out")).shards
    facts = version.manifest().facts
    assert {"change.reward.mean", "change.reward.verified", "change.reward.model", "after.reward.agreement"} <= set(facts)
    assert facts["change.reward.mean"] > 0
    again = reinforce.run(versions, config, str(tmp_path / "again")).shards
    assert again.digest == version.digest
    # a judge is no model that writes
    with pytest.raises(InputError, match="is no model but reward_model"):
        dpo.run([judge, rows["preferences"]], DpoConfig(**COMMON), str(tmp_path / "wrong"))
    with pytest.raises(InputError, match="is no reward model but model"):
        reinforce.run([model, rows["problems"], [model]], config, str(tmp_path / "wrong too"))


@pytest.mark.soak
def test_a_suite_stops_what_it_calls_critical(model: ShardSet, rows: dict[str, ShardSet], tmp_path: Path) -> None:
    bound = {"column": "after.preference.accuracy", "min_value": 1.1}
    strict = {"type": "expect_column_values_to_be_between", "kwargs": bound, "severity": "critical", "scope": "dataset"}
    suite = tmp_path / "strict.json"
    suite.write_text(json.dumps({"name": "strict", "schema": "aligned", "meta": {}, "expectations": [strict]}))
    config = DpoConfig(**COMMON, write={"prompts": 0}, suite=str(suite))
    with pytest.raises(GateFailed, match=r"after\.preference\.accuracy"):
        dpo.run([model, rows["preferences"]], config, str(tmp_path / "out"))


def test_the_command_binds_models_rows_and_a_reward_model_in_any_order(model: ShardSet, rows: dict[str, ShardSet]) -> None:
    judge = model.model_copy(update={"step": "reward", "schema_name": "reward_model"})
    step = find_step("reinforce")
    assert _bind(step, [rows["problems"], model]) == [model, rows["problems"], []]
    assert _bind(step, [judge, rows["problems"], model]) == [model, rows["problems"], [judge]]
    with pytest.raises(InputError, match=r"preferences, which `gristmill step prefer` writes"):
        _bind(find_step("dpo"), [model, rows["problems"]])
