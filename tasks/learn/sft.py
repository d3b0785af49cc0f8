"""Supervised fine-tuning by TRL's SFTTrainer, on conversations that are tokens already: which of them are learnt is said here, not there.

Packed conversations do not see one another: their position ids begin anew at each, and transformers' attention without a mask keeps such
documents apart; a model for which that does not hold is refused (packed.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from trl import SFTConfig as Arguments
from trl import SFTTrainer
from trl.data_utils import pack_dataset

from infra.errors import InputError
from tasks.learn import heldout_chats, packed, tuning
from tasks.learn.chats import Chat, chats, unfit
from tasks.learn.packed import SideBySide
from tasks.learn.posttrain import PostJob
from tasks.learn.sft_config import SftConfig
from tasks.learn.tuning import OnLog, OnStep


def train(job: PostJob, on_log: OnLog, on_step: OnStep) -> dict[str, Any]:
    """Tune the job's model; the result of `tuning.trained`, with held-out figures before and after, and what was left out."""
    config = SftConfig.model_validate(job.config)
    args = tuning.arguments(config, Path(job.folder))
    model, words = tuning.causal(job.models["model"], config)
    length = tuning.context_length(model, config.max_length)
    learnt, left_out = chats(tuning.rows_of(job, "conversations", "train"), words, length, config.too_long)
    held_rows = sorted(tuning.rows_of(job, "conversations", "test"), key=lambda row: str(row["row_id"]))
    fitting, held_left_out = chats(held_rows, words, length, config.too_long)
    held = list(fitting.values())[: config.heldout_rows]
    if not learnt:
        why = ", ".join(f"{rule} {count:,}" for rule, count in Counter(one.rule for one in left_out).items())
        raise InputError(f"sft: no conversation of the training split can be learnt from ({why or 'there is none'})")
    if config.packing:
        packed.check(model)
    trainer = trainer_of(model, words, list(learnt.values()), config, args, length)
    before = heldout_chats.score(_whole(trainer.model, job.models["model"], config), held)
    result = tuning.trained(trainer, job, config, on_log, on_step)
    after = heldout_chats.score(_whole(trainer.model, result["model_folder"], config), held)
    result["facts"] = {
        **{f"before.{name}": value for name, value in before.items()},
        **{f"after.{name}": value for name, value in after.items()},
        "rows": len(learnt),
        "rows_heldout": len(held),
        **unfit(held_left_out),
        "tokens": sum(len(one.ids) for one in learnt.values()),
        "learnt_tokens": sum(label >= 0 for one in learnt.values() for label in one.labels),
    }
    return {**result, "left_out": [one._asdict() for one in left_out]}


def _whole(model: Any, folder: str, config: SftConfig) -> Any:
    """What is in the folder: the model itself, or read from there, where training has it in four bits."""
    return tuning.causal(folder)[0].to(model.device) if tuning.is_quantised(config) else model


def trainer_of(
    model: Any, words: Any, learnt: Sequence[Chat], config: SftConfig, args: Mapping[str, Any], length: int
) -> SFTTrainer:
    """TRL's trainer, told everything that its defaults would decide."""
    rows = datasets.Dataset.from_dict({"input_ids": [one.ids for one in learnt], "labels": [one.labels for one in learnt]})
    return SFTTrainer(
        model=model,
        args=Arguments(
            **args,
            max_length=length,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            padding_free=False,
            eval_packing=False,
            shuffle_dataset=False,
            loss_type="nll",
            completion_only_loss=False,
            assistant_only_loss=False,
            dataset_num_proc=None,
        ),
        train_dataset=pack_dataset(rows, length, "bfd") if config.packing else rows,
        data_collator=SideBySide(words.pad_token_id) if config.packing else None,
        processing_class=words,
        peft_config=tuning.adapters(config.lora),
    )
