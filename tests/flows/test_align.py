"""The steps dpo, reward and reinforce, by the processes that they start, and how the command binds their inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from expectations.verdict import GateFailed
from flows.align import align, last
from flows.config import RunConfig
from flows.single import _bind, find_step
from infra import dataset
from infra.cluster import DaskConfig
from infra.dataset import ShardSet
from infra.errors import InputError
from tasks.dpo import dpo
from tasks.learn import posttrain
from tasks.learn.align_config import DpoConfig, ReinforceConfig, RewardConfig
from tasks.reinforce import reinforce
from tasks.reward import reward
from tests.learn import chatty

COMMON: Mapping[str, Any] = {"device": "cpu", "num_threads": 1, "precision": "fp32", "learning_rate": 1e-3, "max_steps": 10}
WRITE = {"prompts": 10, "num_samples": 2, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("model")
    return chatty.model_version(folder / "version", chatty.made_model(folder / "chatty", steps=100))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardSet]:
    folder = tmp_path_factory.mktemp("rows")
    return {
        "preferences": chatty.rows_version(folder / "pairs", "preferences", chatty.pairs("good")),
        "problems": chatty.rows_version(folder / "problems", "problems", chatty.problems("good")),
    }


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
def test_a_flow_aligns_by_single_thumbs_where_they_are_configured(
    model: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    thumbs = [{name: row[name] for name in ("prompt", "answer", "good")} for row in chatty.ratings("good")]
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in thumbs))
    config = RunConfig(
        dask=DaskConfig(kind="none"),
        rate={"sources": [{"kind": "folder", "path": str(tmp_path / "thumbs.jsonl")}], "test_share": 0.3},
        kto={**COMMON, "max_steps": 16, "batch_size": 16, "write": WRITE},
    )
    assert config.aligns
    made = align.fn(config, model=model)
    assert last(made) == made["kto"] and made["kto"].manifest().facts["after.preference.accuracy"] > 0.9
    assert dataset.opened_inputs(made["kto"]) == {"model": model, "ratings": made["rate"]}


@pytest.mark.soak
def test_a_suite_stops_what_it_calls_critical(model: ShardSet, rows: dict[str, ShardSet], tmp_path: Path) -> None:
    bound = {"column": "after.preference.accuracy", "min_value": 1.1}
    strict = {"type": "expect_column_values_to_be_between", "kwargs": bound, "severity": "critical", "scope": "dataset"}
    suite = tmp_path / "strict.json"
    suite.write_text(json.dumps({"name": "strict", "schema": "aligned", "meta": {}, "expectations": [strict]}))
    config = DpoConfig(**COMMON, write={"prompts": 0}, suite=str(suite))
    with pytest.raises(GateFailed, match=r"after\.preference\.accuracy"):
        dpo.run([model, rows["preferences"]], config, str(tmp_path / "out"))


def test_the_model_that_a_flow_ended_with_is_the_one_that_no_other_was_made_from(tmp_path: Path) -> None:
    def made(step: str, base: ShardSet | None) -> ShardSet:
        folder = str(tmp_path / step)
        inputs = {} if base is None else {"model": dataset.name_of(base)}
        recipe = {"step": step, "inputs": inputs, "config": {}, "files": {}, "code": "0" * 12, "libraries": {}}
        dataset.seal(folder, step=step, schema_name="model", recipe=recipe, receipts=[], files=[], facts={})
        return dataset.open_version(folder)

    pretrain = made("pretrain", None)
    dpo = made("dpo", pretrain)
    sft = made("sft", dpo)
    assert last({"model": pretrain, "pretrain": pretrain}) == pretrain
    assert last({"model": pretrain, "pretrain": pretrain, "dpo": dpo}) == dpo
    # tuned again: what `dpo` left is where this flow began
    assert last({"model": dpo, "dpo": dpo, "sft": sft}) == sft
    reinforce = made("reinforce", sft)
    assert last({"model": dpo, "dpo": dpo, "reinforce": reinforce, "sft": sft}) == reinforce
    pruned = made("prune", dpo)
    assert last({"model": pruned, "prune": pruned}) == pruned


def test_weights_in_int8_are_not_trained_on(rows: dict[str, ShardSet], tmp_path: Path) -> None:
    facts = {"family": "llama", "objective": "causal", "precision": "int8"}
    recipe = {"step": "quantise", "inputs": {}, "config": {}, "files": {}, "code": "0" * 12, "libraries": {}}
    dataset.seal(str(tmp_path), step="quantise", schema_name="model", recipe=recipe, receipts=[], files=[], facts=facts)
    models = {"model": dataset.open_version(str(tmp_path))}
    with pytest.raises(InputError, match="its weights are int8, which are not trained; give the model it was made of"):
        posttrain.post_job("dpo", DpoConfig(**COMMON), tmp_path, models=models, rows={"preferences": rows["preferences"]})


def test_the_command_binds_models_rows_and_a_reward_model_in_any_order(rows: dict[str, ShardSet]) -> None:
    model = rows["problems"].model_copy(update={"step": "sft", "schema_name": "model"})
    judge = model.model_copy(update={"step": "reward", "schema_name": "reward_model"})
    step = find_step("reinforce")
    assert _bind(step, [rows["problems"], model]) == [model, rows["problems"], []]
    assert _bind(step, [judge, rows["problems"], model]) == [model, rows["problems"], [judge]]
    rated = rows["problems"].model_copy(update={"step": "rate", "schema_name": "ratings"})
    assert _bind(find_step("kto"), [rated, model]) == [model, rated]
    with pytest.raises(InputError, match=r"preferences, which `gristmill step prefer` writes"):
        _bind(find_step("dpo"), [model, rows["problems"]])
