"""int8 of ours beside float32, bfloat16 and torch.ao's own dynamic int8, on one thread of one CPU, in one process.

    python -m benchmarks.int8 [--rounds N] [--model VERSION --tokens VERSION]

Speed: Llamas of the presets `micro` and `small` (31M parameters) with 16,384 tokens and random weights, batches of 1 and 8, prompts of 64
tokens and 32 new ones. Rounds alternate, and each figure is the median of the ratios to the float32 turn of the same round, by processor
time, so that what else the machine does counts little. Loss, with a trained model and token shards of its tokeniser: perplexity on the test
split, and by how much the logits of a text change when seven others stand beside it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from infra.dataset import open_version
from models import int8, presets
from models.presets import ModelConfig, Preset
from models.tokeniser import Roles
from tasks.learn import compression
from tasks.learn.compress_config import SpeedConfig
from tasks.learn.config import MODEL, EvalConfig
from tasks.learn.scorer import Scorer

ROLES = Roles(vocab_size=16_384, end=0, padding=1, unknown=None)
LIMIT = 1.3
"""Times float32, at the least, of each figure of ours."""
PLAIN, OURS = "float32", "int8, ours"
BESIDE = 8


def forms_of(model: PreTrainedModel) -> dict[str, PreTrainedModel]:
    """The model in each form."""
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        int8.write(model, folder)
        return {
            PLAIN: model,
            "bfloat16": copy.deepcopy(model).bfloat16(),
            "int8, torch.ao": torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8),
            OURS: int8.load(folder, AutoModelForCausalLM),
        }


def speed(preset: Preset, rounds: int) -> float:
    """Print tokens per second of float32, and what the others are beside it; the least of ours."""
    forms = forms_of(presets.build(ModelConfig(preset=preset), ROLES, seed=1).eval())
    print(f"llama {preset}, {forms[PLAIN].num_parameters():,} parameters")
    config = SpeedConfig(rounds=rounds)
    turns = compression.timed_turns(forms, config, 1, time.process_time)
    worst = 99.0
    for what in turns[PLAIN]:
        base = turns[PLAIN][what]
        told = [f"{what:<14} float32 {statistics.median(base):7,.0f} tokens/s"]
        for name in list(forms)[1:]:
            ratios = [one / plain for one, plain in zip(turns[name][what], base, strict=True)]
            told.append(f"{name} {statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})")
            worst = min(worst, statistics.median(ratios)) if name == OURS else worst
        print(" · ".join(told), flush=True)
    return worst


def loss(model: str, tokens: str) -> None:
    """Print perplexity and dependence on neighbours of each form of a trained model."""
    config = EvalConfig(num_threads=1, device="cpu", suite=None)
    shards = compression.held_out(open_version(str(Path(tokens).resolve())))
    scorer = Scorer(Path(model, MODEL), config)
    texts = torch.stack([torch.from_numpy(shards[0].tokens[at * 64 : at * 64 + 64].astype("int64")) for at in range(BESIDE)])
    found: dict[str, Mapping[str, Any]] = {}
    for name, form in forms_of(scorer.model).items():
        scorer.model = form
        found[name] = {"perplexity": compression.perplexity(scorer, shards, config), "moved": _moved(form, texts)}
    for name, one in found.items():
        ratio = one["perplexity"] / found[PLAIN]["perplexity"]
        print(f"{name:<16} perplexity {one['perplexity']:.4f} ({ratio:.6f}x) · beside others logits move by {one['moved']:.4f}")


@torch.no_grad()
def _moved(model: PreTrainedModel, texts: torch.Tensor) -> float:
    """Largest change of a logit of the first text."""
    alone, beside = model(input_ids=texts[:1]).logits.float(), model(input_ids=texts).logits[:1].float()
    return float((alone - beside).abs().max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a trained version")
    parser.add_argument("--tokens", help="the version of its token shards")
    given = parser.parse_args()
    if given.model and given.tokens:
        loss(given.model, given.tokens)
    speed("micro", given.rounds)
    worst = speed("small", given.rounds)
    print(f"ours beside float32: at least {worst:.2f}x, wanted {LIMIT}x: {'met' if worst >= LIMIT else 'MISSED'}")


if __name__ == "__main__":
    main()
