"""Reinforcement on rewards by TRL's GRPOTrainer or RLOOTrainer: of answers that can be checked, of a reward model, or of both.

The order of the prompts is laid out here for the whole training, so that nothing depends on a sampler's state; answers are written anew for
each optimiser step and a checkpoint lies between two steps, so a resumed training draws what it would have drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from infra.errors import InputError
from models.chat import stops
from tasks.learn import aligning, answers, tuning
from tasks.learn.align_config import ReinforceConfig
from tasks.learn.chats import unfit
from tasks.learn.posttrain import PostJob
from tasks.learn.rewarded import USED, judge_of
from tasks.learn.tuning import OnLog, OnStep


def train(job: PostJob, on_log: OnLog, on_step: OnStep) -> dict[str, Any]:
    """Align the job's model; the result of `tuning.trained`, with figures before and after, and what was left out.

    Raises:
        InputError: there is nothing to learn from, or nothing that rewards it.
    """
    config = ReinforceConfig.model_validate(job.config)
    args = tuning.arguments(config, Path(job.folder))
    model, words = tuning.causal(job.models["model"], config)
    model.generation_config.eos_token_id = stops(words, model.generation_config.eos_token_id)
    room = tuning.context_length(model, config.max_length) - max(config.max_new_tokens, config.write.max_new_tokens)
    rows = sorted(tuning.rows_of(job, "problems"), key=lambda row: str(row["row_id"]))
    prompts, all_left_out = answers.prompts_of(rows, words, room)
    learnt, held, left_out, held_left_out = aligning.by_split(rows, prompts, all_left_out)
    rewards = judge_of(job, config)
    rewards.check([*learnt, *held])
    if not learnt:
        raise InputError(
            f"reinforce: no problem of the training split fits the model: a prompt may have {room:,} tokens, which is what is left beside "
            "max_new_tokens and write.max_new_tokens; lower these, or give other problems"
        )
    order = aligning.order(len(learnt), config.answers_per_step // config.num_generations, config)
    made, kind, own = (
        (GRPOTrainer, GRPOConfig, _of_grpo(config)) if config.method == "grpo" else (RLOOTrainer, RLOOConfig, OF_RLOO)
    )
    trainer = made(
        model=model,
        reward_funcs=rewards.reward,
        args=kind(
            **args | {"num_train_epochs": 1, "max_steps": len(order) * config.num_generations // config.answers_per_step},
            **own,
            num_generations=config.num_generations,
            steps_per_generation=config.gradient_accumulation,
            num_iterations=1,
            max_completion_length=config.max_new_tokens,
            temperature=config.temperature,
            top_p=1.0,
            top_k=0,
            beta=config.beta,
            epsilon=config.clip,
            mask_truncated_completions=False,
            sync_ref_model=False,
            disable_dropout=True,
            shuffle_dataset=False,
            remove_unused_columns=False,
            use_vllm=False,
            log_completions=False,
        ),
        train_dataset=datasets.Dataset.from_list([{name: learnt[one][name] for name in USED} for one in order]),
        processing_class=words,
        peft_config=tuning.adapters(config.lora),
    )
    result = tuning.trained(trainer, job, config, on_log, on_step)
    start, now = (aligning.ready(folder, config)[0] for folder in (job.models["model"], result["model_folder"]))
    measured = aligning.written_by_both(start, now, words, held, config.write, rewards.of_said)
    told = aligning.kept(measured, job)
    rows_told = {"rows": len(learnt), "rows_heldout": len(held), **unfit(held_left_out)}
    result["facts"] = {**rows_told, "method": config.method, **told}
    return {**result, "left_out": [one._asdict() for one in left_out]}


OF_RLOO = {"normalize_advantages": False, "reward_clip_range": None}


def _of_grpo(config: ReinforceConfig) -> dict[str, Any]:
    given = {"loss_type": config.loss, "scale_rewards": config.scale, "importance_sampling_level": "token"}
    return given | {
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "use_bias_correction_kl": True,
        "cast_lm_head_to_fp32": False,
    }
