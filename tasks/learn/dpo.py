"""Direct preference optimisation by TRL's DPOTrainer. The model at the start is the reference; with adapters it is the model without them.

Measured are the model as it was and the one that was written at the end, loaded anew, by our own likelihoods and not by TRL's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from trl import DPOConfig as Arguments
from trl import DPOTrainer

from tasks.learn import aligning, answers, preference_figures, tuning
from tasks.learn.align_config import DpoConfig
from tasks.learn.figures import Measured
from tasks.learn.posttrain import PostJob
from tasks.learn.tuning import OnLog, OnStep


def train(job: PostJob, on_log: OnLog, on_step: OnStep) -> dict[str, Any]:
    """Align the job's model; the result of `tuning.trained`, with figures before and after, and what was left out."""
    config = DpoConfig.model_validate(job.config)
    args = tuning.arguments(config, Path(job.folder))
    model, words = tuning.causal(job.models["model"], config)
    length = tuning.context_length(model, config.max_length)
    pairs = aligning.pairs(job, words, length, config)
    trainer = DPOTrainer(
        model=model,
        args=Arguments(
            **args,
            max_length=length,
            truncation_mode="keep_start",
            padding_free=False,
            precompute_ref_log_probs=False,
            sync_ref_model=False,
            disable_dropout=True,
            beta=config.beta,
            loss_type=[config.loss],
            label_smoothing=0.0,
            f_divergence_type="reverse_kl",
            use_weighting=False,
            ld_alpha=None,
            dataset_num_proc=None,
        ),
        train_dataset=datasets.Dataset.from_list(aligning.as_messages(pairs.learnt)),
        processing_class=words,
        peft_config=tuning.adapters(config.lora),
    )
    result = tuning.trained(trainer, job, config, on_log, on_step)
    result["facts"] = {
        **pairs.facts,
        **aligning.kept(_measured(job, pairs, result["model_folder"], config), job),
    }
    return {**result, "left_out": [one._asdict() for one in pairs.left_out]}


def _measured(job: PostJob, pairs: aligning.Pairs, folder: str, config: DpoConfig) -> Measured:
    """Held-out pairs and answers by the model as it was and as it is now."""
    start, words = aligning.ready(job.models["model"], config)
    now, _ = aligning.ready(folder, config)
    before, after = (answers.log_likelihoods(one, pairs.held_answers).reshape(-1, 2) for one in (start, now))
    measured = preference_figures.of_likelihoods(before, after, pairs.held_lengths, config.beta, pairs.held_names)
    measured.add(aligning.written_by_both(start, now, words, aligning.of_each_prompt(pairs.held), config.write))
    return measured
