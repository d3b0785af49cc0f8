"""What adapters of DPO, KTO, rewards and reinforcement share: rows that are learnt and held out, what a model writes, and figures."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
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
from tasks.learn.chats import LeftOut, unfit
from tasks.learn.figures import Measured
from tasks.learn.posttrain import PostJob
from tasks.learn.reward_hacking import Values, Written

Floats = npt.NDArray[np.float64]
Scores = Callable[[Sequence[Mapping[str, Any]], Sequence[Said]], Mapping[str, Floats]]
"""What answers to some rows are worth, by name, in their order."""


class Pairs(NamedTuple):
    """Preference pairs of a job."""

    learnt: list[dict[str, Any]]
    held: list[dict[str, Any]]
    """Of the test split, in the order of their row_id."""
    tokens: dict[str, tuple[Answer, Answer]]
    """(preferred, other) by row_id."""
    left_out: list[LeftOut]
    """Of the training split."""
    held_left_out: list[LeftOut]
    """Of the test split."""

    @property
    def facts(self) -> dict[str, int]:
        """How many are learnt, held out, and left out of these."""
        return {"rows": len(self.learnt), "rows_heldout": len(self.held), **unfit(self.held_left_out)}

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
    tokens, all_left_out = answers.pairs_of(rows, words, length)
    learnt, held, left_out, held_left_out = by_split(rows, tokens, all_left_out)
    if not learnt:
        raise InputError(f"{job.method}: no pair of the training split can be learnt from ({len(left_out):,} are left out)")
    return Pairs(learnt, held[: config.heldout_rows], tokens, left_out, held_left_out)


def by_split(
    rows: Sequence[dict[str, Any]], fit: Collection[str], left_out: Sequence[LeftOut]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[LeftOut], list[LeftOut]]:
    """(rows that are learnt, rows that are held out, what of the training split is left out, what of the test split) by the row_ids of
    those that `fit`."""
    learnt, held = ([row for row in rows if row["split"] == side and row["row_id"] in fit] for side in ("train", "test"))
    side_of = {row["row_id"]: row["split"] for row in rows}
    of_training, of_test = ([one for one in left_out if side_of[one.row_id] == side] for side in ("train", "test"))
    return learnt, held, of_training, of_test


def beside(
    learnt: list[dict[str, Any]],
    held: Sequence[dict[str, Any]],
    tokens: Mapping[str, Answer],
    left_out: list[LeftOut],
    held_left_out: Sequence[LeftOut],
    most: int | None,
) -> Pairs:
    """Held-out good answers, each beside a bad one, both in the order of their ids, which are hashes; what is over has no counterpart.

    At most so many pairs are judged, or all.
    """
    good, bad = ([row for row in held if row["good"] == way] for way in (True, False))
    rows = [{**one, "row_id": f"{one['row_id']}:{two['row_id']}"} for one, two in zip(good, bad, strict=False)]
    both = zip(rows, good, bad, strict=False)
    paired = {row["row_id"]: (tokens[one["row_id"]], tokens[two["row_id"]]) for row, one, two in both}
    over = [LeftOut(row["row_id"], "no_counterpart", None, None) for row in (*good[len(rows) :], *bad[len(rows) :])]
    return Pairs(learnt, rows[:most], paired, left_out, [*held_left_out, *over])


def of_each_prompt(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first row of each prompt, in their order: what a model writes to a prompt is one piece of evidence, however many rows it has."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        found.setdefault(json.dumps(row["prompt"], sort_keys=True), row)
    return list(found.values())


def order(num_rows: int, per_step: int, config: AlignConfig) -> list[int]:
    """Rows in the order in which they are taken: passes over all of them, each shuffled by the seed, cut to whole steps of so many."""
    steps = config.max_steps or max(1, math.floor(config.epochs * num_rows / per_step))
    chance = random.Random(config.seed)
    found: list[int] = []
    while len(found) < steps * per_step:
        found += chance.sample(range(num_rows), num_rows)
    return found[: steps * per_step]


def as_messages(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Pairs as TRL takes conversational ones."""
    return [
        {
            "prompt": row["prompt"],
            **{name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")},
        }
        for row in rows
    ]


def written_by_both(
    start: PreTrainedModel,
    now: PreTrainedModel,
    words: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    config: WriteConfig,
    scores: Scores = lambda rows, said: {},
) -> Measured:
    """What a model writes to the first of some rows before and after, what that is worth, and how far the two models are apart.

    Rows whose prompt leaves no room for an answer are passed over, and counted in the settings.
    """
    if not config.prompts:
        return Measured()
    room = tuning.context_length(start, None) - config.max_new_tokens
    opened = [(row, answers.opened(words, row["prompt"])) for row in rows]
    asked = [(row, ids) for row, ids in opened if len(ids) <= room]
    counted = {"prompts_left_out.no_room": len(opened) - len(asked), "prompts_asked": len(asked[: config.prompts])}
    if not asked:
        return Measured(settings=counted)
    asked = asked[: config.prompts]
    rows, prompts = [row for row, _ in asked], [ids for _, ids in asked]
    values = []
    for model in (start, now):
        said = answers.written(model, words, prompts, **config.model_dump(exclude={"prompts"}))
        columns: Any = ([getattr(one, name) for one in said] for name in ("prompt", "ids", "text", "cut"))
        prompt, ids, texts, cut = columns
        values.append(reward_hacking.values_of(Written(prompt, ids, texts, cut, scores(rows, said)), len(prompts)))
    before, after = values
    after |= divergence(now, start, said, prompts, words)
    measured = reward_hacking.told(before, after, [row["row_id"] for row in rows])
    measured.settings |= counted
    return measured


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
    """Write figures and items into the job's folder; what a result says of them, and what the settings count."""
    folder = Path(job.folder, FIGURES)
    folder.mkdir(exist_ok=True)
    figures.write(str(folder), measured.figures, measured.items, measured.settings)
    return measured.settings | {one.name: one.value for one in figures.headline(measured.figures) if one.value is not None}
