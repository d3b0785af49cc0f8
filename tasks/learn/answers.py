"""Prompts and answers as tokens; how likely answers are, how a reward model judges them, and what a model writes.

Tokens are those that TRL 1.16 trains on: prompt and answer together through the chat template, cut where the opened prompt ends. All of it
is computed in float32 and batches of like length, and draws by a seed of its own leave the random numbers of a training as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infra.errors import InputError
from models.chat import stops
from tasks.learn.chats import LeftOut, forged, specials

Floats = npt.NDArray[np.float64]
BATCH_TOKENS = 4096
"""In one forward pass, padding included."""
BATCH_ANSWERS = 64
"""Written side by side."""


class Answer(NamedTuple):
    """An answer as tokens, behind its prompt."""

    prompt: list[int]
    ids: list[int]


class Said(NamedTuple):
    """An answer that a model wrote."""

    prompt: int
    """Number of its prompt."""
    ids: list[int]
    """Without the token that ends it."""
    text: str
    cut: bool
    """Whether the limit ended it."""


def opened(words: PreTrainedTokenizerBase, prompt: Sequence[Mapping[str, str]]) -> list[int]:
    """A prompt as the model sees it when it has to answer.

    Raises:
        InputError: the tokeniser has no chat template.
    """
    if not words.chat_template:
        raise InputError("the model has no chat template; give it one with step adopt")
    given: Any = words.apply_chat_template(
        [dict(one) for one in prompt], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    return list(given["input_ids"])


def answered(words: PreTrainedTokenizerBase, prompt: Sequence[Mapping[str, str]], answer: str) -> Answer:
    """A prompt with its answer, through the chat template."""
    before = opened(words, prompt)
    turns = [*map(dict, prompt), {"role": "assistant", "content": answer}]
    given: Any = words.apply_chat_template(turns, tokenize=True, return_dict=True)
    ids = list(given["input_ids"])
    same = next((place for place, (one, two) in enumerate(zip(before, ids, strict=False)) if one != two), len(before))
    return Answer(ids[:same], ids[same:])


def pairs_of(
    rows: Sequence[Mapping[str, Any]], words: PreTrainedTokenizerBase, max_length: int
) -> tuple[dict[str, tuple[Answer, Answer]], list[LeftOut]]:
    """Rows of PREFERENCES as (preferred, other) answers by row_id, in their order, and what is left out."""
    found: dict[str, tuple[Answer, Answer]] = {}
    left_out: list[LeftOut] = []
    special = specials(words)
    for row in rows:
        if forged(special, [*(turn["content"] for turn in row["prompt"]), row["chosen"], row["rejected"]]):
            left_out.append(LeftOut(row["row_id"], "special_token", None, None))
            continue
        chosen, rejected = (answered(words, row["prompt"], row[name]) for name in ("chosen", "rejected"))
        longest = max(len(one.prompt) + len(one.ids) for one in (chosen, rejected))
        if longest > max_length:
            left_out.append(LeftOut(row["row_id"], "too_long", longest, max_length))
        else:
            found[row["row_id"]] = (chosen, rejected)
    return found, left_out


def answers_of(
    rows: Sequence[Mapping[str, Any]], words: PreTrainedTokenizerBase, max_length: int
) -> tuple[dict[str, Answer], list[LeftOut]]:
    """Rows of RATINGS as answers by row_id, in their order, and what is left out."""
    found: dict[str, Answer] = {}
    left_out: list[LeftOut] = []
    special = specials(words)
    for row in rows:
        answer = answered(words, row["prompt"], row["answer"])
        length = len(answer.prompt) + len(answer.ids)
        if forged(special, [*(turn["content"] for turn in row["prompt"]), row["answer"]]):
            left_out.append(LeftOut(row["row_id"], "special_token", None, None))
        elif length > max_length:
            left_out.append(LeftOut(row["row_id"], "too_long", length, max_length))
        else:
            found[row["row_id"]] = answer
    return found, left_out


def prompts_of(
    rows: Sequence[Mapping[str, Any]], words: PreTrainedTokenizerBase, max_length: int
) -> tuple[dict[str, list[int]], list[LeftOut]]:
    """Rows with a `prompt` as tokens by row_id, in their order, and what is left out: prompts of more than `max_length` tokens."""
    found: dict[str, list[int]] = {}
    left_out: list[LeftOut] = []
    special = specials(words)
    for row in rows:
        ids = opened(words, row["prompt"])
        if forged(special, [turn["content"] for turn in row["prompt"]]):
            left_out.append(LeftOut(row["row_id"], "special_token", None, None))
        elif len(ids) > max_length:
            left_out.append(LeftOut(row["row_id"], "too_long", len(ids), max_length))
        else:
            found[row["row_id"]] = ids
    return found, left_out


@torch.no_grad()
def log_likelihoods(model: PreTrainedModel, answers: Sequence[Answer]) -> Floats:
    """(N,) nats of each answer behind its prompt."""
    found = np.zeros(len(answers))
    for places, ids, _ in _batches(model, answers):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        nats = -functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").double()
        for row, place in enumerate(places):
            start, stop = len(answers[place].prompt) - 1, len(answers[place].prompt) + len(answers[place].ids) - 1
            found[place] = float(nats[row, start:stop].sum())
    return found


@torch.no_grad()
def rewards(model: PreTrainedModel, answers: Sequence[Answer]) -> Floats:
    """(N,) what a reward model says of each answer behind its prompt."""
    found = np.zeros(len(answers))
    for places, ids, mask in _batches(model, answers):
        found[places] = model(input_ids=ids, attention_mask=mask).logits[:, 0].float().cpu().numpy()
    return found


@torch.no_grad()
def written(
    model: PreTrainedModel,
    words: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    num_samples: int,
    seed: int,
) -> list[Said]:
    """`num_samples` answers to each prompt, those of a prompt one after another; temperature 0 always takes the likeliest token."""
    ends, pad = stops(words, model.generation_config.eos_token_id), words.pad_token_id
    settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    found = []
    step = max(1, BATCH_ANSWERS // num_samples)
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), step):
            some = prompts[start : start + step]
            longest = max(map(len, some))
            ids = torch.tensor([[pad] * (longest - len(one)) + one for one in some], device=model.device)
            mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in some], device=model.device)
            made = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                num_return_sequences=num_samples,
                eos_token_id=ends,
                pad_token_id=pad,
                **settings,
            )[:, longest:].tolist()
            found += [_said(start + place // num_samples, one, ends, words) for place, one in enumerate(made)]
    return found


def _said(prompt: int, ids: list[int], ends: Sequence[int], words: PreTrainedTokenizerBase) -> Said:
    stop = next((place for place, one in enumerate(ids) if one in ends), None)
    kept = ids if stop is None else ids[:stop]
    return Said(prompt, kept, words.decode(kept, skip_special_tokens=True), cut=stop is None)


def _batches(model: PreTrainedModel, answers: Sequence[Answer]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """(places, ids, mask) of answers of like length, filled up on the right, where a causal model does not look."""
    model.eval()
    pad = model.config.pad_token_id or 0
    waiting: list[int] = []
    lengths = [len(one.prompt) + len(one.ids) for one in answers]
    for place in sorted(range(len(answers)), key=lambda place: lengths[place]):
        if waiting and (len(waiting) + 1) * lengths[place] > BATCH_TOKENS:
            yield _filled(model, answers, waiting, pad)
            waiting = []
        waiting.append(place)
    if waiting:
        yield _filled(model, answers, waiting, pad)


def _filled(
    model: PreTrainedModel, answers: Sequence[Answer], places: list[int], pad: int
) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    rows = [[*answers[place].prompt, *answers[place].ids] for place in places]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
    return places, ids, mask
