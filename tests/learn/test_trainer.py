import json
import os
import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.presets import ModelConfig
from tasks.learn import checkpoint, trainer
from tasks.learn.batches import Batches, TokenWindows
from tasks.learn.config import TrainConfig
from tasks.learn.tokens import TokenShard, write_shard
from tasks.learn.trainer import LossNotFinite, TrainingError, TrainResult

ROOT = Path(__file__).resolve().parents[2]
TINY = ModelConfig(
    preset="nano", hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=64, context_length=32
)
CONFIG = TrainConfig(
    model=TINY,
    max_steps=24,
    warmup_steps=3,
    batch_size=4,
    gradient_accumulation=2,
    eval_every_steps=6,
    eval_batches=2,
    checkpoint_every_steps=4,
    log_every_steps=5,
    num_threads=1,
    device="cpu",
    precision="bf16",
)
# what must be equal to the bit; times never are
EXACT = ("step", "tokens", "train_loss", "valid_loss", "lr")
VICTIM = """
import json, sys
from pathlib import Path
from tasks.learn.batches import TokenWindows
from tasks.learn.config import TrainConfig
from tasks.learn.tokens import read_shards
from tasks.learn import trainer
shards, tokeniser_folder, folder = sys.argv[1:]
config = TrainConfig.model_validate_json(sys.stdin.read())
windows = TokenWindows(list(read_shards(shards)), config.model.shape.context_length)
trainer.train(windows, windows, config, Path(folder), tokeniser_folder=tokeniser_folder,
              on_log=lambda line: print(json.dumps(line), flush=True))
"""


def train(
    shards: list[TokenShard], folder: Path, tokeniser_folder: str, config: TrainConfig = CONFIG, lines: list[Any] | None = None
) -> TrainResult:
    windows = TokenWindows(shards, config.model.shape.context_length)
    log = [].append if lines is None else lines.append
    return trainer.train(windows, windows, config, folder, tokeniser_folder=tokeniser_folder, on_log=log)


def exact(history: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(line[name] for name in EXACT) for line in history]


def same_weights(first: TrainResult, second: TrainResult) -> bool:
    mine, theirs = (load_file(result.model_folder / "model.safetensors") for result in (first, second))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_loss_falls_and_the_result_tells_what_was_done(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str
) -> None:
    lines: list[Any] = []
    result = train(shards, checkpoints, tokeniser_folder, lines=lines)
    assert result.history == lines
    assert [line["step"] for line in lines] == [1, 5, 6, 10, 12, 15, 18, 20, 24]
    assert [line["step"] for line in lines if line["valid_loss"] is not None] == [6, 12, 18, 24]
    assert result.train_loss < lines[0]["train_loss"] - 0.5 and result.valid_loss < lines[2]["valid_loss"]
    assert abs(lines[0]["train_loss"] - np.log(300)) < 0.3
    assert (result.steps, result.tokens, result.device) == (24, 24 * 8 * 32, "cpu")
    assert result.tokens_per_s == pytest.approx(result.tokens / result.seconds)


def test_killed_at_a_random_moment_and_resumed_gives_the_same_bits(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    folder = str(tmp_path / "shards")
    for index, shard in enumerate(shards):
        write_shard(folder, index, shard.tokens, shard.docs)
    config = CONFIG.model_copy(update={"log_every_steps": 1, "max_steps": 30})
    undisturbed = train(shards, tmp_path / "undisturbed", tokeniser_folder, config)

    # beyond the first checkpoint, so that there is something to go on from
    fatal_step = random.randrange(5, 29)
    command = [sys.executable, "-c", VICTIM, folder, tokeniser_folder, str(tmp_path / "killed")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdin and victim.stdout
        victim.stdin.write(config.model_dump_json())
        victim.stdin.close()
        seen = []
        for line in victim.stdout:
            seen.append(json.loads(line))
            if seen[-1]["step"] == fatal_step:
                os.kill(victim.pid, signal.SIGKILL)
                break
    assert victim.wait() == -signal.SIGKILL, f"fatal step {fatal_step}"

    lines: list[Any] = []
    resumed = train(shards, tmp_path / "killed", tokeniser_folder, config, lines)
    # at most one checkpoint's distance is learned again; the victim may have run on a little before the signal came
    assert lines[0]["step"] >= max(1, fatal_step // 4 * 4), f"fatal step {fatal_step}"
    assert exact(seen) == exact(undisturbed.history)[: len(seen)], f"fatal step {fatal_step}"
    assert exact(resumed.history) == exact(undisturbed.history), f"fatal step {fatal_step}"
    assert same_weights(resumed, undisturbed), f"fatal step {fatal_step}"


def test_a_failing_evaluation_costs_no_training_and_is_made_up_for(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    config = CONFIG.model_copy(update={"checkpoint_every_steps": 6})
    undisturbed = train(shards, tmp_path / "undisturbed", tokeniser_folder, config)
    windows = TokenWindows(shards, 32)
    alien = TokenWindows([TokenShard(np.full(windows.num_tokens, 5000, np.uint16), shards[0].docs)], 32)
    folder = tmp_path / "failing"
    with pytest.raises(TrainingError, match="token 5000"):
        trainer.train(windows, alien, config, folder, tokeniser_folder=tokeniser_folder, on_log=lambda line: None)
    assert checkpoint.latest(folder) == folder / "checkpoint-00000006"
    lines: list[Any] = []
    resumed = train(shards, folder, tokeniser_folder, config, lines)
    assert lines[0]["step"] == 6 and lines[0]["valid_loss"] is not None
    assert exact(resumed.history) == exact(undisturbed.history) and same_weights(resumed, undisturbed)


def test_a_finished_training_is_not_repeated(shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str) -> None:
    first = train(shards, checkpoints, tokeniser_folder)
    lines: list[Any] = []
    again = train(shards, checkpoints, tokeniser_folder, lines=lines)
    assert exact(again.history) == exact(first.history) and [line["step"] for line in lines] == [24]
    assert again.seconds == first.seconds


def test_one_batch_is_learned_by_heart(shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str) -> None:
    few = TokenShard(shards[0].tokens[: 4 * 32 + 1], shards[0].docs.slice(0, 1))
    config = CONFIG.model_copy(
        update={"max_steps": 150, "gradient_accumulation": 1, "learning_rate": 1e-2, "weight_decay": 0.0, "precision": "fp32"}
    )
    config = config.model_copy(update={"checkpoint_every_steps": 1000, "eval_every_steps": 1000})
    assert train([few], checkpoints, tokeniser_folder, config).train_loss < 0.05


def test_accumulated_passes_learn_what_one_large_pass_learns(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    whole = CONFIG.model_copy(update={"batch_size": 8, "gradient_accumulation": 1, "precision": "fp32"})
    parts = CONFIG.model_copy(update={"batch_size": 2, "gradient_accumulation": 4, "precision": "fp32"})
    losses = [
        [line["train_loss"] for line in train(shards, tmp_path / name, tokeniser_folder, config).history]
        for name, config in (("whole", whole), ("parts", parts))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_loss_that_explodes_stops_with_its_step_and_documents(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str
) -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "checkpoint_every_steps": 1})
    with pytest.raises(LossNotFinite) as caught:
        train(shards, checkpoints, tokeniser_folder, config)
    good = checkpoint.latest(checkpoints)
    assert good is not None
    step = int(good.name.removeprefix("checkpoint-")) + 1
    documents = Batches(TokenWindows(shards, 32), 8, config.seed).documents_of(step)
    assert f"step {step}: the loss is" in str(caught.value) and documents[0] in str(caught.value)
    assert (f"and {len(documents) - 8} more" in str(caught.value)) == (len(documents) > 8)


def test_a_checkpoint_of_another_training_is_refused_with_what_differs(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str
) -> None:
    short = CONFIG.model_copy(update={"max_steps": 4})
    train(shards, checkpoints, tokeniser_folder, short)
    with pytest.raises(TrainingError, match="made with another max_steps, seed;"):
        train(shards, checkpoints, tokeniser_folder, CONFIG.model_copy(update={"seed": 2}))
    with pytest.raises(TrainingError, match="made with another training tokens, validation tokens;"):
        train(shards[:1], checkpoints, tokeniser_folder, short)
    train(shards, checkpoints, tokeniser_folder, short.model_copy(update={"device": "auto"}))


def test_windows_that_do_not_fit_the_model_are_refused(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str
) -> None:
    windows, short = TokenWindows(shards, 32), TokenWindows(shards, 16)
    few = TokenWindows([TokenShard(shards[0].tokens[:20], shards[0].docs.slice(0, 1))], 32)
    for valid, message in ((short, "validation windows hold 16 tokens"), (few, "validation: 20 tokens do not fill")):
        with pytest.raises(TrainingError, match=message):
            trainer.train(windows, valid, CONFIG, checkpoints, tokeniser_folder=tokeniser_folder, on_log=print)
    alien = TokenShard(np.full(100, 5000, np.uint16), shards[0].docs.slice(0, 1))
    with pytest.raises(TrainingError, match="token 5000 is beyond the tokeniser's 300"):
        train([alien], checkpoints, tokeniser_folder)


def test_the_learning_rate_warms_up_and_decays_to_its_floor() -> None:
    rates = [trainer.learning_rate(CONFIG, step) for step in range(1, 25)]
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert rates[-1] == pytest.approx(3e-4)
    assert all(before > after for before, after in pairwise(rates[2:]))


@pytest.mark.soak
def test_a_compiled_model_learns_what_the_plain_one_learns(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    config = CONFIG.model_copy(update={"precision": "fp32", "max_steps": 6})
    plain = train(shards, tmp_path / "plain", tokeniser_folder, config)
    compiled = train(shards, tmp_path / "compiled", tokeniser_folder, config.model_copy(update={"compile": True}))
    assert compiled.train_loss == pytest.approx(plain.train_loss, rel=1e-4)
