"""What an answer is worth: checked against its row, in form, and judged by a reward model; the same in training and when it is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infra.errors import InputError
from tasks.learn import answers, device, tuning, verifiers
from tasks.learn.align_config import ReinforceConfig
from tasks.learn.answers import Answer, Said
from tasks.learn.posttrain import PostJob
from tasks.learn.reward import judge

Floats = npt.NDArray[np.float64]
Row = Mapping[str, Any]
USED = ("prompt", "check", "answer")
"""Columns of PROBLEMS that a reward depends on."""


class Judge:
    """Rewards of answers by a configuration, with a reward model where there is one."""

    def __init__(self, config: ReinforceConfig, model: PreTrainedModel | None, words: PreTrainedTokenizerBase | None) -> None:
        self.config, self.model, self.words = config, model, words

    def check(self, rows: Sequence[Row]) -> None:
        """Say where nothing would ever be rewarded, or not all of it seen.

        Raises:
            InputError: rows without a check, and no reward model; or one that does not see a prompt with its answer.
        """
        unchecked = sum(row["check"] == "none" for row in rows)
        if unchecked and self.model is None:
            raise InputError(
                f"reinforce: {unchecked:,} problems have no check, and no reward model is given to judge them; give one "
                "(step reward), or other problems"
            )
        if self.model is not None and self.words is not None:
            longest = max((_length(answers.answered(self.words, row["prompt"], "")) for row in rows), default=0)
            most_new = max(self.config.max_new_tokens, self.config.write.max_new_tokens)
            self._sees(
                longest + most_new, f"a prompt takes {longest:,}, its answer {most_new:,} (max_new_tokens, write.max_new_tokens)"
            )

    def told(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, Floats]:
        """(A,) each: `reward.mean` as training sums it, and its parts, of the text that answers each row."""
        config = self.config
        checked = [
            verifiers.reward(row["check"], row["answer"], text, thinking=config.thinking) for row, text in _both(rows, texts)
        ]
        right, formed = np.array(checked, np.float64).reshape(-1, 2).T
        total = config.verified_weight * right
        found = {}
        if (known := np.array([row["check"] != "none" for row in rows])).any():
            found["reward.verified"] = np.where(known, right, np.nan)
        if config.thinking:
            found["reward.well_formed"] = formed
            total = total + config.format_weight * formed
        if self.model is not None and self.words is not None:
            whole = [answers.answered(self.words, row["prompt"], text) for row, text in _both(rows, texts)]
            longest = max(map(_length, whole), default=0)
            self._sees(longest, "its tokeniser makes more tokens of an answer than the one of the model that wrote it")
            found["reward.model"] = answers.rewards(self.model, whole)
            total = total + config.model_weight * found["reward.model"]
        return {"reward.mean": total, **found}

    def _sees(self, num_tokens: int, why: str) -> None:
        """Refuse what is longer than the reward model was made for: what it would say of that means nothing, and nobody would see it."""
        most: int | None = getattr(self.model.config, "max_position_embeddings", None) if self.model else None
        if most is not None and num_tokens > most:
            raise InputError(
                f"reinforce: the reward model sees {most:,} tokens at most (got {num_tokens:,}: {why}); lower max_length, max_new_tokens "
                "or write.max_new_tokens, or give a reward model made of a model that sees more"
            )

    def of_said(self, rows: Sequence[Row], said: Sequence[Said]) -> dict[str, Floats]:
        """The same for answers that were written to these rows."""
        return self.told([rows[one.prompt] for one in said], [one.text for one in said])

    def reward(self, prompts: Any, completions: Any, log_metric: Any, **columns: Any) -> list[float]:
        """The same as TRL asks for it: conversational prompts and answers, and the other columns of the rows."""
        rows = [dict(zip(USED, one, strict=True)) for one in zip(prompts, *(columns[name] for name in USED[1:]), strict=True)]
        told = self.told(rows, [turns[-1]["content"] for turns in completions])
        for name, values in told.items():
            if (known := values[~np.isnan(values)]).size:
                log_metric(name, float(known.mean()))
        return list(map(float, told["reward.mean"]))


def judge_of(job: PostJob, config: ReinforceConfig) -> Judge:
    """By a job's configuration and its reward model, if it has one."""
    folder = job.models.get("reward_model")
    if folder is None:
        return Judge(config, None, None)
    return Judge(config, judge(folder).to(device.resolve(config.device)[0]), tuning.tokeniser_of(folder))


def _length(answer: Answer) -> int:
    return len(answer.prompt) + len(answer.ids)


def _both(rows: Sequence[Row], texts: Sequence[str]) -> Any:
    return zip(rows, texts, strict=True)
