"""What steps that make a model smaller share: its folder, its files, and how good and how fast it is before and after."""

from __future__ import annotations

import copy
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from infra.dataset import ShardSet
from models.given_model import TOKENISER as OF_TOKENISER
from tasks.learn import device, metrics
from tasks.learn.compress_config import SpeedConfig
from tasks.learn.config import EvalConfig
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import TokenShard, open_shards

SEED = 1
NUM_TOKENS = 64
"""On which logits are compared."""


def carry_tokeniser(original: Path | str, folder: Path) -> None:
    """Lay the tokeniser of a model, its chat template included, beside another."""
    for file in sorted(Path(original).iterdir()):
        if file.name in OF_TOKENISER:
            shutil.copyfile(file, folder / file.name)


def told_of(model: ShardSet) -> dict[str, Any]:
    """What every version of a model says of itself, of one that was made of `model`."""
    facts = model.manifest().facts
    return {name: facts[name] for name in ("family", "objective", "num_parameters") if name in facts}


def held_out(tokens: ShardSet) -> list[TokenShard]:
    """The test split."""
    return open_shards(tokens, tokens.manifest().facts["splits"]["test"])


def perplexity(scorer: Scorer, shards: Sequence[TokenShard], config: EvalConfig) -> float:
    """Of held-out documents, as `evaluate` measures it."""
    return metrics.evaluate(scorer, shards, config).model.perplexity


def weight_bytes(folder: Path | str) -> int:
    """Size of the files of weights."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def write_plain(model: PreTrainedModel, folder: Path, *, half: bool) -> None:
    """Keep a model as transformers does, in float32 or float16; the one given stays as it is."""
    copy.deepcopy(model).to(torch.float16 if half else torch.float32).save_pretrained(folder)


@torch.no_grad()
def logit_difference(original: PreTrainedModel, other: PreTrainedModel) -> tuple[float, float]:
    """Largest difference of their logits on random tokens, and it as a part of the largest logit."""
    size = min(NUM_TOKENS, original.config.max_position_embeddings)
    ids = torch.randint(original.config.vocab_size, (1, size), generator=torch.Generator().manual_seed(SEED))
    expected, got = (one(input_ids=ids, use_cache=False).logits for one in (original, other))
    most = float((expected - got).abs().max())
    return most, most / float(expected.abs().max())


def speeds(before: PreTrainedModel, after: PreTrainedModel, config: SpeedConfig, num_threads: int | None) -> dict[str, float]:
    """{before.tokens_per_s.generation.1, …}: medians of turns that alternate; nothing where models do not write."""
    if not before.can_generate():
        return {}
    turns = timed_turns({"before": before, "after": after}, config, num_threads)
    return {
        f"{when}.tokens_per_s.{what}": round(statistics.median(one), 1)
        for when, mine in turns.items()
        for what, one in mine.items()
    }


def timed_turns(
    models: Mapping[str, PreTrainedModel],
    config: SpeedConfig,
    num_threads: int | None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of each model in each turn: {name: {generation.1, prefill.1, …}}; those of one number stood side by side.

    generation: tokens that are written, one after the other, to prompts of random tokens. prefill: tokens of a text that is read in one
    pass, with the logits of all its places.
    """
    device.use_threads(num_threads)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for turn in range(config.rounds + 1):
        for name, model in models.items():
            for size in config.batch_sizes:
                for what, pass_of in (("generation", _written), ("prefill", _read)):
                    started = clock()
                    num_tokens = pass_of(model, size, config)
                    seconds = clock() - started
                    if turn:  # the first warms caches
                        found[name].setdefault(f"{what}.{size}", []).append(num_tokens / seconds)
    return found


def _prompts(model: PreTrainedModel, size: int, config: SpeedConfig) -> torch.Tensor:
    draw = torch.Generator().manual_seed(SEED)
    return torch.randint(model.config.vocab_size, (size, config.prompt_tokens), generator=draw).to(model.device)


@torch.no_grad()
def _written(model: PreTrainedModel, size: int, config: SpeedConfig) -> int:
    ids, new = _prompts(model, size, config), config.new_tokens
    how = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": model.config.pad_token_id or 0}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
    assert out.shape == (size, config.prompt_tokens + new)
    return size * new


@torch.no_grad()
def _read(model: PreTrainedModel, size: int, config: SpeedConfig) -> int:
    ids = _prompts(model, size, config)
    model(input_ids=ids, use_cache=False)
    return ids.numel()
