"""The same data and seed through Hugging Face's Trainer: the same loss at every step, for a causal and for a masked model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from models import presets, tokeniser
from tasks.learn import trainer
from tasks.learn.config import TrainConfig
from tasks.learn.data_config import DataConfig
from tasks.learn.sampler import Sampler
from tests.learn.test_trainer import BERT, LLAMA, masked_shards, wordpiece_folder

__all__ = ["masked_shards", "wordpiece_folder"]
STEPS = 15


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_the_losses_are_those_of_the_trainer(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    masked = kind == "masked"
    # of a BERT the Trainer averages the passes, however many targets each has
    passes = 1 if masked else 2
    shards = request.getfixturevalue("masked_shards" if masked else "shards")
    folder = request.getfixturevalue("wordpiece_folder" if masked else "tokeniser_folder")
    config = TrainConfig(
        model=BERT if masked else LLAMA,
        data=DataConfig(packing="stream"),
        max_steps=STEPS,
        batch_size=16 // passes,
        gradient_accumulation=passes,
        learning_rate=3e-3,
        schedule="constant",
        warmup_steps=0,
        precision="fp32",
        num_threads=1,
        device="cpu",
        log_every_steps=1,
        skip_spikes=0,
    )
    ours = trainer.train(shards, shards, config, tmp_path / "ours", tokeniser_folder=folder, on_log=lambda line: None)

    words = tokeniser.roles(folder)
    samples = Sampler(shards, 32, config.data, roles=words, masked=masked, seed=config.seed, max_samples=STEPS * 16)
    rows: list[dict[str, Any]] = []
    for number in range(STEPS * 16):
        batch = samples.batch(number, 1)
        row = {"input_ids": batch.inputs[0], "labels": batch.labels[0]}
        if batch.documents is not None:  # a row of a masked model that is filled up
            row["attention_mask"] = (batch.documents[0] >= 0).astype(int)
        rows.append(row if masked else {**row, "shift_labels": batch.labels[0]})
    model = presets.build(config.model, words, config.seed, tokeniser_folder=folder)
    losses: list[float] = []

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

        def training_step(self, *given: Any, **named: Any) -> Any:
            loss = super().training_step(*given, **named)
            losses.append(float(loss))
            return loss

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        max_steps=STEPS,
        per_device_train_batch_size=16 // passes,
        gradient_accumulation_steps=passes,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=1.0,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    torch.set_num_threads(1)
    InOrder(model, arguments, train_dataset=rows).train()
    theirs = [sum(losses[at : at + passes]) for at in range(0, passes * STEPS, passes)]
    mine = [line["train_loss"] for line in ours.history]
    assert mine == pytest.approx(theirs, rel=5e-4)
    assert mine[-1] is not None and mine[0] is not None and mine[-1] < mine[0] - 0.5
