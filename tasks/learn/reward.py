"""A reward model by TRL's RewardTrainer: the model with one number in place of its output head, which begins at random by the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, set_seed
from trl import RewardConfig as Arguments
from trl import RewardTrainer

from tasks.learn import aligning, answers, preference_figures, tuning
from tasks.learn.align_config import RewardConfig
from tasks.learn.posttrain import PostJob
from tasks.learn.tuning import OnLog, OnStep


def judge(folder: str) -> PreTrainedModel:
    """A reward model in float32, from a Hugging Face folder of a version; of a causal one its head is new, by the seed that is set."""
    return AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=1,
        dtype=torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )


def train(job: PostJob, on_log: OnLog, on_step: OnStep) -> dict[str, Any]:
    """Train a reward model from the job's model; the result of `tuning.trained`, with figures of held-out pairs, and what was left out."""
    config = RewardConfig.model_validate(job.config)
    args = tuning.arguments(config, Path(job.folder))
    set_seed(config.seed)
    model, words = judge(job.models["model"]), tuning.tokeniser_of(job.models["model"])
    length = tuning.context_length(model, config.max_length)
    pairs = aligning.pairs(job, words, length, config)
    trainer = RewardTrainer(
        model=model,
        args=Arguments(
            **args,
            max_length=length,
            disable_dropout=True,
            center_rewards_coefficient=config.center or None,
            activation_offloading=False,
            dataset_num_proc=None,
        ),
        train_dataset=datasets.Dataset.from_list(aligning.as_messages(pairs.learnt)),
        processing_class=words,
        peft_config=tuning.adapters(config.lora, "SEQ_CLS"),
    )
    result = tuning.trained(trainer, job, config, on_log, on_step)
    now = judge(result["model_folder"]).to(result["device"])
    judged = answers.rewards(now, pairs.held_answers).reshape(-1, 2)
    measured = preference_figures.of_rewards(judged, pairs.held_lengths, pairs.held_names)
    result["facts"] = {**pairs.facts, **aligning.kept(measured, job)}
    return {**result, "objective": "reward", "left_out": [one._asdict() for one in pairs.left_out]}
