"""Kahneman-Tversky optimisation by TRL's KTOTrainer: single answers that are good or bad, none beside another (Ethayarajh et al. 2024).

How far the model has gone is estimated in each batch, by its prompts with the answers of their neighbours; so TRL takes rows in the order
in which they lie, and that of the whole training is laid out here. The model at the start is the reference; with adapters it is the model
without them. Measured are held-out good answers, each beside a bad one, by our own likelihoods and not by TRL's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from trl import KTOConfig as Arguments
from trl import KTOTrainer

from infra.errors import InputError
from tasks.learn import aligning, answers, preference_figures, tuning
from tasks.learn.align_config import KtoConfig
from tasks.learn.aligning import Pairs
from tasks.learn.figures import Measured
from tasks.learn.posttrain import PostJob
from tasks.learn.tuning import OnLog, OnStep


def train(job: PostJob, on_log: OnLog, on_step: OnStep) -> dict[str, Any]:
    """Align the job's model; the result of `tuning.trained`, with figures before and after, and what was left out.

    Raises:
        InputError: of good or of bad answers there is none to learn from.
    """
    config = KtoConfig.model_validate(job.config)
    args = tuning.arguments(config, Path(job.folder))
    model, words = tuning.causal(job.models["model"], config)
    length = tuning.context_length(model, config.max_length)
    rows = sorted(tuning.rows_of(job, "ratings"), key=lambda row: str(row["row_id"]))
    tokens, all_left_out = answers.answers_of(rows, words, length)
    learnt, held, left_out, held_left_out = aligning.by_split(rows, tokens, all_left_out)
    pairs = aligning.beside(learnt, held, tokens, left_out, held_left_out, config.heldout_rows)
    weights = balanced(learnt)
    per_step = config.batch_size * config.gradient_accumulation
    order = aligning.order(len(learnt), per_step, config)
    trainer = KTOTrainer(
        model=model,
        args=Arguments(
            **args | {"num_train_epochs": 1, "max_steps": len(order) // per_step},
            max_length=length,
            train_sampling_strategy="sequential",
            precompute_ref_log_probs=False,
            sync_ref_model=False,
            disable_dropout=True,
            activation_offloading=False,
            loss_type="kto",
            beta=config.beta,
            desirable_weight=weights[True],
            undesirable_weight=weights[False],
            dataset_num_proc=None,
        ),
        train_dataset=datasets.Dataset.from_list([_as_messages(learnt[one]) for one in order]),
        processing_class=words,
        peft_config=tuning.adapters(config.lora),
    )
    result = tuning.trained(trainer, job, config, on_log, on_step)
    good = sum(row["good"] for row in learnt)
    counted = {"rows.good": good, "rows.bad": len(learnt) - good, "weight.good": weights[True], "weight.bad": weights[False]}
    measured = _measured(job, pairs, held, result["model_folder"], config)
    result["facts"] = {**pairs.facts, "rows_heldout": 2 * len(pairs.held), **counted, **aligning.kept(measured, job)}
    return {**result, "left_out": [one._asdict() for one in left_out]}


def balanced(rows: Sequence[Mapping[str, Any]]) -> dict[bool, float]:
    """Weights of good and of bad answers with which both kinds count as much (eq. 8 of the paper), the more frequent one 1.

    Raises:
        InputError: there is but one kind.
    """
    counts = {good: sum(row["good"] == good for row in rows) for good in (True, False)}
    if not all(counts.values()):
        raise InputError(
            f"kto: {counts[True]:,} good and {counts[False]:,} bad answers of the training split fit the model; it takes some of both "
            "(left_out.json names others). Good ones alone are examples: step sft"
        )
    return {good: max(counts.values()) / count for good, count in counts.items()}


def _as_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as TRL takes a conversational one."""
    return {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": row["answer"]}], "label": row["good"]}


def _measured(job: PostJob, pairs: Pairs, held: Sequence[dict[str, Any]], folder: str, config: KtoConfig) -> Measured:
    """Held-out answers and what is written by the model as it was and as it is now."""
    start, words = aligning.ready(job.models["model"], config)
    now, _ = aligning.ready(folder, config)
    before, after = (answers.log_likelihoods(one, pairs.held_answers).reshape(-1, 2) for one in (start, now))
    measured = preference_figures.of_likelihoods(before, after, pairs.held_lengths, config.beta, pairs.held_names)
    measured.add(aligning.written_by_both(start, now, words, aligning.of_each_prompt(held), config.write))
    return measured
