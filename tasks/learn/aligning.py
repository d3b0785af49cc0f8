"""What the adapters of DPO, reward models and reinforcement share: which rows are learnt and held out, what a model writes, and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infra.errors import InputError
from models.chat import stops
from tasks.learn import answers, device, figures, reward_hacking, tuning
from tasks.learn.align_config import FIGURES, AlignConfig, WriteConfig
from tasks.learn.answers import Answer, Said
from tasks.learn.chats import LeftOut
from tasks.learn.figures import Measured
from tasks.learn.posttrain import PostJob
from tasks.learn.reward_hacking import Values, Written

Floats = npt.NDArray[np.float64]
Scores = Callable[[Sequence[Said]], Mapping[str, Floats]]
"""What answers are worth, by name, in their order."""


class Pairs(NamedTuple):
    """Preference pairs of a job."""

    learnt: list[dict[str, Any]]
    held: list[dict[str, Any]]
    """Of the test split, in the order of their row_id."""
    tokens: dict[str, tuple[Answer, Answer]]
    """(preferred, other) by row_id."""
    left_out: list[LeftOut]

    @property
    def held_answers(self) -> list[Answer]:
        """Preferred and other answers of the held-out pairs by turns."""
        return [one for row in self.held for one in self.tokens[row["row_id"]]]

    @property
    def held_lengths(self) -> Floats:
        """(N, 2) tokens."""
        return np.array([len(one.ids) for one in self.held_answers], np.float64).reshape(-1, 2)

    @property
    def held_names(self) -> list[str]:
        """Their row_ids."""
        return [row["row_id"] for row in self.held]


def ready(folder: str, config: AlignConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal model with its tokeniser, to be measured where it was trained."""
    model, words = tuning.causal(folder)
    return model.to(device.resolve(config.device)[0]), words


def pairs(job: PostJob, words: PreTrainedTokenizerBase, length: int, config: AlignConfig) -> Pairs:
    """The pairs that fit the model, by split.

    Raises:
        InputError: none is left to learn from.
    """
    rows = sorted(tuning.rows_of(job, "preferences"), key=lambda row: str(row["row_id"]))
    tokens, left_out = answers.pairs_of(rows, words, length)
    learnt, held = ([row for row in rows if row["split"] == side and row["row_id"] in tokens] for side in ("train", "test"))
    if not learnt:
        raise InputError(f"{job.method}: no pair of the training split can be learnt from ({len(left_out):,} are left out)")
    return Pairs(learnt, held[: config.heldout_rows], tokens, left_out)


def as_messages(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pairs as TRL takes conversational ones."""
    return [
        {
            "prompt": row["prompt"],
            **{name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")},
        }
        for row in rows
    ]


def write(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, prompts: Sequence[list[int]], config: WriteConfig, scores: Scores
) -> tuple[list[Said], dict[str, Values]]:
    """Answers to prompts, and their figures as sums of each prompt."""
    if not prompts:
        return [], {}
    said = answers.written(model, words, prompts, **config.model_dump(exclude={"prompts"}))
    columns: Any = ([getattr(one, name) for one in said] for name in ("prompt", "ids", "text", "cut"))
    prompt, ids, texts, cut = columns
    return said, reward_hacking.values_of(Written(prompt, ids, texts, cut, scores(said)), len(prompts))


def divergence(
    model: PreTrainedModel,
    start: PreTrainedModel,
    said: Sequence[Said],
    prompts: Sequence[list[int]],
    words: PreTrainedTokenizerBase,
) -> dict[str, Values]:
    """How far a model is from where it started, on its own answers: log-likelihood ratios, an estimate of the
    KL divergence, unbiased where answers are drawn at temperature 1."""
    end = stops(words, None)[:1]
    full = [Answer(prompts[one.prompt], one.ids if one.cut else [*one.ids, *end]) for one in said]
    nats = answers.log_likelihoods(model, full) - answers.log_likelihoods(start, full)
    places = [one.prompt for one in said]
    lengths = np.array([len(one.ids) for one in full], np.float64)
    sums, counts, tokens = (
        np.bincount(places, one, len(prompts)).astype(np.float64) for one in (nats, np.ones(len(said)), lengths)
    )
    return {"kl.per_answer": Values(sums, counts), "kl.per_token": Values(sums, tokens)}


def kept(measured: Measured, job: PostJob) -> dict[str, Any]:
    """Write figures and items into the job's folder; what a result says of them."""
    folder = Path(job.folder, FIGURES)
    folder.mkdir(exist_ok=True)
    figures.write(str(folder), measured.figures, measured.items, measured.settings)
    return {one.name: one.value for one in figures.headline(measured.figures) if one.value is not None}
