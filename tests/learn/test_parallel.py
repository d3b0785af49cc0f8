"""Two ranks over gloo: the same losses as one process, whoever holds the weights, and checkpoints that do not know how many wrote them."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.presets import ModelConfig
from tasks.learn import device, trainer
from tasks.learn.config import TrainConfig
from tasks.learn.peak import FILE
from tasks.learn.tokens import TokenShard, write_shard
from tests.learn.ranks import CACHE, trained

CONFIG = TrainConfig(
    model=ModelConfig(
        preset="nano", hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=64, context_length=32
    ),
    max_steps=10,
    warmup_steps=2,
    batch_size=4,
    gradient_accumulation=2,
    eval_every_steps=5,
    eval_batches=3,
    checkpoint_every_steps=4,
    log_every_steps=1,
    num_threads=1,
    device="cpu",
    precision="fp32",
    ema_decay=0.5,
)
SHARDED = CONFIG.model_copy(update={"ranks": 2, "parallel": "fsdp"})
EXACT = ("step", "train_loss", "valid_loss", "valid_f1", "train_loss.a", "grad_norm", "train_accuracy")


def told(history: list[dict[str, Any]]) -> list[list[Any]]:
    return [[line.get(name) for name in EXACT] for line in history]


def near(history: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    for mine, theirs in zip(told(history), told(other), strict=True):
        assert mine == [value if value is None else pytest.approx(value, rel=2e-4) for value in theirs]


@pytest.fixture(scope="module")
def on_disk(shards: list[TokenShard], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("on-disk"))
    for index, shard in enumerate(shards):
        write_shard(folder, index, shard.tokens, shard.docs)
    return folder


@pytest.fixture(scope="module")
def alone(shards: list[TokenShard], tokeniser_folder: str, tmp_path_factory: pytest.TempPathFactory) -> trainer.TrainResult:
    folder = tmp_path_factory.mktemp("alone")
    return trainer.train(shards, shards, CONFIG, folder, tokeniser_folder=tokeniser_folder, on_log=lambda line: None)


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_lose_what_one_process_loses(
    parallel: str, on_disk: str, tokeniser_folder: str, alone: trainer.TrainResult, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"ranks": 2, "parallel": parallel})
    result = trained(on_disk, tokeniser_folder, tmp_path, config)
    near(result["history"], alone.history)
    mine, theirs = (load_file(Path(one) / "model.safetensors") for one in (result["model_folder"], alone.model_folder))
    assert mine.keys() == theirs.keys()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-4) for name in mine)


def test_two_ranks_that_are_cut_off_go_on_bit_for_bit_and_one_goes_on_in_their_place(
    on_disk: str, shards: list[TokenShard], tokeniser_folder: str, alone: trainer.TrainResult, tmp_path: Path
) -> None:
    undisturbed = trained(on_disk, tokeniser_folder, tmp_path / "undisturbed", SHARDED)
    trained(on_disk, tokeniser_folder, tmp_path / "again", SHARDED, stop_at=random.randrange(5, 10))
    shutil.copytree(tmp_path / "again", tmp_path / "alone")
    [(key, peak)] = json.loads((tmp_path / "undisturbed" / CACHE / FILE).read_text()).items()
    assert f"{min(2, device.usable_cpus())} threads" in key, (
        "ranks that share a CPU are told against the peak of their threads together"
    )
    done = undisturbed["flops_per_token"] * undisturbed["tokens_per_s"]
    assert undisturbed["mfu"] == pytest.approx(done / peak)
    again = trained(on_disk, tokeniser_folder, tmp_path / "again", SHARDED)
    assert told(again["history"]) == told(undisturbed["history"])
    one = trainer.train(shards, shards, CONFIG, tmp_path / "alone", tokeniser_folder=tokeniser_folder, on_log=lambda line: None)
    near(one.history, alone.history)
    first, then = [(machine["after_step"], machine["ranks"], machine["parallel"]) for machine in one.machines]
    # checkpoints are four steps apart, and what is cut off at the last step has written its second
    assert first == (0, 2, "fsdp") and then in {(4, 1, "ddp"), (8, 1, "ddp")}
