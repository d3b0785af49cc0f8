import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from infra.versions import code_version
from models import presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.learn import checkpoint, optim, tokens, trainer
from tasks.learn.config import TrainConfig
from tasks.learn.data_config import DataConfig
from tasks.learn.sampler import Sampler, fixed
from tasks.learn.spikes import WINDOW, Spikes
from tasks.learn.tokens import TokenShard
from tasks.learn.trainer import LossNotFinite, TrainingError, TrainResult
from tests.learn.conftest import make_table

SHAPE: dict[str, Any] = {"preset": "nano", "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64}
LLAMA = ModelConfig(**SHAPE, num_kv_heads=2, context_length=32)
GPT2 = ModelConfig(family="gpt2", **SHAPE, context_length=32)
BERT = ModelConfig(family="bert", **SHAPE, context_length=32)
CONFIG = TrainConfig(
    model=LLAMA,
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
TIMES = ("tokens_per_s", "mfu", "seconds", "peak_bytes")
"""What is never equal."""


def train(
    shards: list[TokenShard], folder: Path, tokeniser_folder: str, config: TrainConfig = CONFIG, lines: list[Any] | None = None
) -> TrainResult:
    log = [].append if lines is None else lines.append
    return trainer.train(shards, shards, config, folder, tokeniser_folder=tokeniser_folder, on_log=log)


def but(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({**CONFIG.model_dump(), **changes})


def exact(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMES} for line in history]


def same_weights(first: TrainResult, second: TrainResult) -> bool:
    mine, theirs = (load_file(result.model_folder / "model.safetensors") for result in (first, second))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="session")
def wordpiece_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("wordpiece"))
    tokeniser.save(
        tokeniser.train(make_table(200, seed=0)["text"].to_pylist(), TokeniserConfig(kind="wordpiece", vocab_size=300)), folder
    )
    return folder


@pytest.fixture(scope="session")
def masked_shards(wordpiece_folder: str, tmp_path_factory: pytest.TempPathFactory) -> list[TokenShard]:
    folder = str(tmp_path_factory.mktemp("masked-shards"))
    tokens.write_shard(folder, 0, *tokens.encode_shard(make_table(60, seed=1), wordpiece_folder))
    return list(tokens.read_shards(folder))


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
    last = lines[-1]
    assert 0 < last["train_accuracy"] < 1 and 0 < last["valid_f1"] <= last["valid_accuracy"] < 1
    assert {"train_loss.a", "train_loss.b", "valid_loss.a", "valid_loss.b"} <= last.keys()
    assert min(last["valid_loss.a"], last["valid_loss.b"]) < last["valid_loss"] < max(last["valid_loss.a"], last["valid_loss.b"])
    assert result.num_parameters == presets.num_parameters(LLAMA, 300)
    assert 0 < result.mfu < 1 and result.peak_bytes > 1e8 and result.data["packing"] == "documents"


@pytest.mark.parametrize("model", [GPT2, BERT], ids=["gpt2", "bert"])
def test_other_families_learn_and_go_on_bit_for_bit_where_they_were_cut_off(
    model: ModelConfig, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    masked = model.family == "bert"
    shards = request.getfixturevalue("masked_shards" if masked else "shards")
    words = request.getfixturevalue("wordpiece_folder" if masked else "tokeniser_folder")
    # dropout, an average and penalties: all that has a state or chance of its own
    changes: dict[str, Any] = {
        "model": {**model.model_dump(), "dropout": 0.1},
        "ema_decay": 0.9,
        "label_smoothing": 0.1,
        "l1": 1e-5,
        "max_steps": 20,
        "schedule": "wsd",
    }
    undisturbed = train(shards, tmp_path / "undisturbed", words, but(**changes))
    assert undisturbed.valid_loss < undisturbed.history[2]["valid_loss"] - 0.1  # type: ignore[operator]

    class Cut(Exception):
        pass

    def cut(step: int) -> None:
        if step == 11:
            raise Cut

    with pytest.raises(Cut):
        trainer.train(
            shards, shards, but(**changes), tmp_path / "cut", tokeniser_folder=words, on_log=lambda line: None, on_step=cut
        )
    lines: list[Any] = []
    resumed = train(shards, tmp_path / "cut", words, but(**changes), lines)
    assert lines[0]["step"] == 10
    assert exact(resumed.history) == exact(undisturbed.history) and same_weights(resumed, undisturbed)
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    assert kind.from_pretrained(resumed.model_folder).config.vocab_size == tokeniser.roles(words).vocab_size


def test_a_failing_evaluation_costs_no_training_and_is_made_up_for(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = but(checkpoint_every_steps=6)
    undisturbed = train(shards, tmp_path / "undisturbed", tokeniser_folder, config)
    folder = tmp_path / "failing"

    def full(*_: Any, **__: Any) -> Path:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(checkpoint, "save_best", full)
        train(shards, folder, tokeniser_folder, config)
    assert checkpoint.latest(folder) == folder / "checkpoint-00000006"
    lines: list[Any] = []
    resumed = train(shards, folder, tokeniser_folder, config, lines)
    assert lines[0]["step"] == 6 and lines[0]["valid_loss"] is not None
    assert exact(resumed.history) == exact(undisturbed.history) and same_weights(resumed, undisturbed)


def test_a_finished_training_is_not_repeated(shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str) -> None:
    first = train(shards, checkpoints, tokeniser_folder)
    last = checkpoint.latest(checkpoints)
    assert last is not None and checkpoint.read_state(last)["code_version"] == code_version()
    (checkpoints / trainer.CULPRIT).write_text("{}")  # of a try that failed
    lines: list[Any] = []
    again = train(shards, checkpoints, tokeniser_folder, lines=lines)
    assert exact(again.history) == exact(first.history) and [line["step"] for line in lines] == [24]
    assert again.seconds == first.seconds and len(again.machines) == 1 and not (checkpoints / trainer.CULPRIT).exists()


def test_the_best_model_that_a_checkpoint_knows_stays_until_the_next_checkpoint(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str
) -> None:
    # with other threads the validation at step 6 may come out as no better after a resume from step 5
    class Cut(Exception):
        pass

    def cut(step: int) -> None:
        if step == 8:
            raise Cut

    config = but(checkpoint_every_steps=5, eval_every_steps=3, learning_rate=1e-3)
    with pytest.raises(Cut):
        trainer.train(
            shards, shards, config, checkpoints, tokeniser_folder=tokeniser_folder, on_log=lambda line: None, on_step=cut
        )
    known = [checkpoint.read_state(path)["training"]["best_step"] for path in checkpoint.complete(checkpoints)]
    assert known == [3] and sorted(path.name for path in checkpoints.glob("best-*")) == ["best-00000003", "best-00000006"]


def test_rows_of_a_masked_stream_are_validated_without_what_fills_them_up(
    masked_shards: list[TokenShard], wordpiece_folder: str
) -> None:
    words = tokeniser.roles(wordpiece_folder)
    samples = fixed(masked_shards, 32, DataConfig(packing="stream"), roles=words, masked=True, seed=1)
    short = samples.num_samples - 1
    batch = trainer._joined([samples.batch(0, 1), samples.batch(short, 1)])
    assert batch.documents is not None and not batch.documents[0].any() and set(batch.documents[1].tolist()) == {0, -1}
    assert trainer._joined([samples.batch(0, 1), samples.batch(1, 1)]).documents is None


@pytest.mark.parametrize(
    ("optimizer", "rate", "left"), [("adamw", 1e-2, 0.1), ("adam", 1e-2, 0.1), ("sgd", 1.0, 2.0), ("rmsprop", 1e-3, 0.5)]
)
def test_one_batch_is_learned_by_heart(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str, optimizer: str, rate: float, left: float
) -> None:
    few = TokenShard(shards[0].tokens[: 4 * 32], shards[0].docs.slice(0, 1).set_column(3, "num_tokens", [[4 * 32]]))
    config = but(
        optimizer=optimizer,
        max_steps=150,
        gradient_accumulation=1,
        learning_rate=rate,
        weight_decay=0.0,
        precision="fp32",
        checkpoint_every_steps=1000,
        eval_every_steps=1000,
        momentum=0.5,
    )
    assert train([few], checkpoints, tokeniser_folder, config).train_loss < left


def test_accumulated_passes_learn_what_one_large_pass_learns(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    whole = but(batch_size=8, gradient_accumulation=1, precision="fp32")
    parts = but(batch_size=2, gradient_accumulation=4, precision="fp32")
    losses = [
        [line["train_loss"] for line in train(shards, tmp_path / name, tokeniser_folder, config).history]
        for name, config in (("whole", whole), ("parts", parts))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_activations_computed_again_learn_the_same(shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str) -> None:
    kept, again = (
        train(shards, tmp_path / str(on), tokeniser_folder, but(precision="fp32", max_steps=6, activation_checkpointing=on))
        for on in (False, True)
    )
    assert exact(kept.history) == exact(again.history)


def test_a_loss_that_explodes_stops_with_its_step_and_documents(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str
) -> None:
    config = but(learning_rate=1e30, checkpoint_every_steps=1)
    with pytest.raises(LossNotFinite) as caught:
        train(shards, checkpoints, tokeniser_folder, config)
    good = checkpoint.latest(checkpoints)
    assert good is not None
    step = int(good.name.removeprefix("checkpoint-")) + 1
    culprit = json.loads((checkpoints / trainer.CULPRIT).read_text())
    assert culprit["step"] == step and f"step {step}: the loss is" in str(caught.value)
    words = tokeniser.roles(tokeniser_folder)
    samples = Sampler(shards, 32, config.data, roles=words, masked=False, seed=config.seed, max_samples=24 * 8)
    read = samples.documents_of((step - 1) * 8, 8)
    assert set(culprit["documents"]) <= set(read) and culprit["documents"][0] in str(caught.value)
    assert set(culprit["samples"]) <= set(range((step - 1) * 8, step * 8))


def test_only_the_samples_whose_loss_is_not_finite_are_blamed(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = trainer._Measured.add

    def one_bad(self: Any, rows: slice, *given: Any) -> None:
        add(self, rows, *given)
        if rows.start == 4:
            self.nats[5] = math.nan

    monkeypatch.setattr(trainer._Measured, "add", one_bad)
    with pytest.raises(LossNotFinite, match="by 1 of its 8 samples"):
        train(shards, checkpoints, tokeniser_folder)
    assert json.loads((checkpoints / trainer.CULPRIT).read_text())["samples"] == [5]


def test_an_outlier_changes_nothing_and_is_told(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.learn.spikes.WINDOW", 8)
    add = trainer._Measured.add
    seen = [0]

    def spike(self: Any, rows: slice, *given: Any) -> None:
        add(self, rows, *given)
        # the second of two passes of a step
        last = len(self.nats) == 8 and rows.start == 4
        seen[0] += last
        if seen[0] == 15 and last:
            self.nats *= 100

    monkeypatch.setattr(trainer._Measured, "add", spike)
    lines: list[Any] = []
    result = train(shards, checkpoints, tokeniser_folder, but(log_every_steps=1, eval_batches=1), lines)
    [skipped] = result.skipped
    assert skipped["step"] == 15 and skipped["documents"] and [line["skipped"] for line in lines] == [0] * 14 + [1] * 10


def test_outliers_are_judged_by_the_steps_before_and_many_of_them_are_divergence() -> None:
    spikes = Spikes()
    assert not any(spikes.is_one(3 + step % 2, 1.0 + step % 3, 6.0) for step in range(WINDOW))
    # mean 3.5, deviation 0.5: 6.5 is the limit
    assert not spikes.is_one(6.4, 1.0, 6.0) and spikes.is_one(7.0, 1.0, 6.0) and spikes.is_one(3.0, 9.0, 6.0)
    assert len(spikes.recent) == WINDOW and spikes.in_a_row == 2 and not spikes.too_many
    for _ in range(14):
        assert spikes.is_one(1e3, 1.0, 6.0)
    assert spikes.too_many and not spikes.is_one(3.5, 2.0, 6.0) and spikes.in_a_row == 0


def test_training_ends_when_it_becomes_no_better_and_the_best_weights_are_kept(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    # a rate that rises without end: best in the beginning
    config = but(
        learning_rate=3.0, warmup_steps=39, max_steps=40, eval_every_steps=2, early_stopping=3, skip_spikes=0, precision="fp32"
    )
    lines: list[Any] = []
    result = train(shards, tmp_path / "best", tokeniser_folder, config, lines)
    losses = {line["step"]: line["valid_loss"] for line in lines if line["valid_loss"] is not None}
    assert result.stopped_early and result.steps == max(losses) < 40
    assert result.valid_loss == min(losses.values()) == losses[result.kept_step] and result.kept_step == result.steps - 6
    assert result.other_folder is not None
    # what was read is told, not what was planned
    read = [result.data[f"epochs.{one}"] * result.data[f"samples.{one}"] for one in ("a", "b")]
    assert sum(read) == pytest.approx(8 * result.steps)
    last = train(shards, tmp_path / "last", tokeniser_folder, but(**{**config.model_dump(), "keep": "last"}))
    assert last.kept_step == last.steps and last.valid_loss == losses[last.steps]
    assert result.other_folder.parent.name == last.model_folder.parent.name and last.other_folder is not None
    best, other = (load_file(one / "model.safetensors") for one in (result.model_folder, last.other_folder))
    assert all(torch.equal(best[name], other[name]) for name in best)
    lines.clear()
    again = train(shards, tmp_path / "best", tokeniser_folder, config, lines)
    assert [line["step"] for line in lines] == [result.steps] and exact(again.history) == exact(result.history)


def test_the_average_of_the_weights_is_what_is_validated_and_kept(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    plain = train(shards, tmp_path / "plain", tokeniser_folder)
    averaged = train(shards, tmp_path / "averaged", tokeniser_folder, but(ema_decay=0.5))
    assert [line["train_loss"] for line in averaged.history] == [line["train_loss"] for line in plain.history]
    assert averaged.valid_loss != plain.valid_loss and not same_weights(averaged, plain)
    # by hand: decay 2/11 after step 1, 3/12 after step 2 …, then 0.5
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    average = optim.Average([weight], decay=0.5)
    for step, value in ((1, 11.0), (2, 21.0)):
        weight.data.fill_(value)
        average.update(step)
    assert average.kept[0].item() == pytest.approx(0.25 * (9 / 11 * 11) + 0.75 * 21)
    average.swap()
    assert (weight.item(), average.kept[0].item()) == (pytest.approx(18.0), 21.0)


def test_penalties_are_the_gradients_of_their_sums() -> None:
    weight, bias = torch.nn.Parameter(torch.tensor([[2.0, -3.0], [0.0, 1.0]])), torch.nn.Parameter(torch.ones(2))
    (0.1 * weight.abs().sum() + 0.5 * weight.square().sum()).backward()
    wanted = weight.grad.clone()
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros(2)
    optim.penalise([weight, bias], l1=0.1, l2=0.5)
    assert torch.allclose(weight.grad, wanted) and not bias.grad.any()


def test_a_penalty_on_absolute_weights_makes_them_small(shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str) -> None:
    sums = []
    for l1 in (0.0, 1e-2):
        result = train(shards, tmp_path / str(l1), tokeniser_folder, but(l1=l1, weight_decay=0.0, grad_clip=1e9, keep="last"))
        sums.append(
            sum(float(one.abs().sum()) for one in load_file(result.model_folder / "model.safetensors").values() if one.dim() > 1)
        )
    assert sums[1] < 0.8 * sums[0]


def test_a_checkpoint_of_another_training_is_refused_with_what_differs(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str
) -> None:
    short = but(max_steps=4)
    train(shards, checkpoints, tokeniser_folder, short)
    with pytest.raises(TrainingError, match="made with another max_steps, seed;"):
        train(shards, checkpoints, tokeniser_folder, but(seed=2))
    with pytest.raises(TrainingError, match="made with another training tokens, validation tokens;"):
        train(shards[:1], checkpoints, tokeniser_folder, short)
    with pytest.raises(TrainingError, match="made with another tokens;"):
        trainer.train(
            shards, shards, short, checkpoints, tokeniser_folder=tokeniser_folder, on_log=print, provenance={"tokens": "other"}
        )
    train(shards, checkpoints, tokeniser_folder, short.model_copy(update={"device": "auto"}))


def test_shards_of_another_tokeniser_or_none_at_all_are_refused(
    shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str
) -> None:
    alien = TokenShard(np.full(100, 5000, np.uint16), shards[0].docs.slice(0, 1))
    with pytest.raises(TrainingError, match="token 5000 is beyond the tokeniser's 300"):
        train([alien], checkpoints, tokeniser_folder)
    with pytest.raises(ValueError, match="the shards have no token"):
        train(shards[1:2], checkpoints, tokeniser_folder)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear", "step", "exponential"])
def test_the_learning_rate_warms_up_and_falls_to_its_floor(schedule: str) -> None:
    config = but(schedule=schedule, step_times=2, step_factor=0.2, decay_share=0.25)
    rates = [optim.learning_rate(config, step) for step in range(1, 25)]
    assert rates[:3] == pytest.approx([1e-3, 2e-3, 3e-3])
    assert rates[-1] == pytest.approx(3e-4)
    assert all(before >= after for before, after in pairwise(rates[2:]))
    # by hand, with 21 steps behind the warm-up
    middle = {
        "cosine": 3e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * 7 / 21)) / 2),
        "wsd": 3e-3,
        "linear": 3e-3 * (0.1 + 0.9 * 14 / 21),
        "step": 3e-3,
        "exponential": 3e-3 * 0.1 ** (7 / 21),
    }[schedule]
    assert rates[9] == pytest.approx(middle)
    if schedule == "step":
        assert rates[10] == pytest.approx(6e-4) and rates[17] == pytest.approx(3e-4)
    if schedule == "wsd":
        assert rates[17] == pytest.approx(3e-3) and rates[20] == pytest.approx(3e-3 * (0.1 + 0.9 * (1 - math.sqrt(3 / 6))))


@pytest.mark.parametrize("packing", ["stream", "documents", "best_fit"])
def test_every_packing_trains(shards: list[TokenShard], checkpoints: Path, tokeniser_folder: str, packing: Any) -> None:
    result = train(shards, checkpoints, tokeniser_folder, but(max_steps=6, data=DataConfig(packing=packing).model_dump()))
    assert result.history[-1]["valid_loss"] < result.history[0]["train_loss"]  # type: ignore[operator]


def test_a_context_too_long_for_plain_products_learns_inside_documents_too(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    long = {"model": {**LLAMA.model_dump(), "context_length": 600}, "max_steps": 5, "batch_size": 1}
    narrow, wide = (train(shards, tmp_path / one, tokeniser_folder, but(**long, precision=one)) for one in ("bf16", "fp32"))
    assert narrow.train_loss == pytest.approx(wide.train_loss, rel=0.01)


@pytest.mark.soak
def test_a_compiled_model_learns_what_the_plain_one_learns(
    shards: list[TokenShard], tmp_path: Path, tokeniser_folder: str
) -> None:
    plain, compiled = (
        train(shards, tmp_path / str(on), tokeniser_folder, but(precision="fp32", max_steps=6, compile=on))
        for on in (False, True)
    )
    assert compiled.train_loss == pytest.approx(plain.train_loss, rel=1e-4)
