"""How large a model a budget of computation is best spent on, and how it is then trained: published laws, and shapes near what they say.

The laws were fitted to causal models on web text, from 70M parameters on (Hoffmann et al.) and from 1e17 FLOPs (DeepSeek-AI): what they say
of smaller ones is carried on beyond their data. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from models.presets import PRESETS, Family, ModelConfig, context_length, flops_per_token, num_parameters

TOKENS_PER_PARAMETER = 20.0
"""Hoffmann et al. 2022 (Chinchilla), table 3: 20.0 for 400M to 21.6 for 280B."""
MAX_EPOCHS = 4.0
"""Muennighoff et al. 2023, section 6: up to 4 epochs repeated tokens are worth about as much as new ones."""
UNTIED_FROM = 1e9
"""Parameters from which input and output embeddings are matrices of their own, as LLaMA has them; of Llama 3.2 1B they are one."""
MAX_WARMUP_STEPS, WARMUP_SHARE = 2000, 0.05
"""LLaMA, section 2.3: 2,000 steps; of short trainings a twentieth."""
LEAST_STEPS = 200
"""A batch is made smaller than the law says where fewer steps would be left."""
MAX_BERT_RATE = 6e-4
"""RoBERTa, table 9: BERT-base becomes unstable with more, for its norms stand behind the blocks."""


class Fit(NamedTuple):
    """A model, and the tokens that it learns from."""

    model: ModelConfig
    parameters: int
    flops_per_token: int
    tokens: float
    limited_by_data: bool


def expected_loss(parameters: float, tokens: float) -> float:
    """Nats per token of a causal model on held-out web text (Hoffmann et al. 2022, equation 10), of their text and their 32,000 tokens."""
    return 1.69 + 406.4 / parameters**0.34 + 410.7 / tokens**0.28


def best_batch_tokens(flops: float) -> float:
    """Tokens of an optimiser step (DeepSeek LLM 2024, section 3.1)."""
    return float(0.2920 * flops**0.3271)


def best_learning_rate(family: Family, flops: float) -> float:
    """Highest learning rate of AdamW (DeepSeek LLM 2024, section 3.1), to two digits."""
    rate = 0.3118 * flops**-0.1250
    return float(f"{min(rate, MAX_BERT_RATE) if family == 'bert' else rate:.1e}")


def fit(
    flops: float,
    family: Family,
    vocab_size: int,
    *,
    context: int | None = None,
    max_tokens: float | None = None,
    tokens_per_parameter: float = TOKENS_PER_PARAMETER,
) -> Fit | None:
    """The shape that comes nearest to so many tokens per parameter when it uses up `flops`, or all tokens that there are.

    Args:
        context: tokens that the model sees at once; None: as the preset of about its size.
        max_tokens: there are no more, repeated ones included.

    Returns:
        None where even the smallest shape is too large for the budget by a factor of two.
    """

    def tokens_of(one: ModelConfig) -> float:
        return min(flops / flops_per_token(one, vocab_size), max_tokens or math.inf)

    def miss(one: ModelConfig) -> float:
        return abs(math.log(tokens_of(one) / (tokens_per_parameter * num_parameters(one, vocab_size))))

    wanted = math.sqrt(flops / (6 * tokens_per_parameter))
    if max_tokens:
        wanted = min(wanted, max_tokens / tokens_per_parameter)
    context = context or _usual_context(family, vocab_size, wanted)
    # the law hardly cares for proportions (Kaplan et al. 2020, section 3.1), so they only break ties
    best = min(_shapes(family, context, wanted < UNTIED_FROM), key=lambda one: miss(one[0]) + 0.2 * one[1])[0]
    if miss(best) > math.log(2):
        return None
    tokens, cost = tokens_of(best), flops_per_token(best, vocab_size)
    return Fit(best, num_parameters(best, vocab_size), cost, tokens, limited_by_data=tokens * cost < flops * 0.999)


class Schedule(NamedTuple):
    """How many tokens are learned from in how many steps."""

    steps: int
    samples_per_pass: int
    """Of all ranks together: `batch_size`."""
    accumulation: int
    warmup_steps: int
    learning_rate: float


def schedule(found: Fit, ranks: int, most_samples: int) -> Schedule:
    """Batches near the law, in passes of at most `most_samples` of a rank."""
    context, flops = context_length(found.model), found.tokens * found.flops_per_token
    batch = min(best_batch_tokens(flops), found.tokens / LEAST_STEPS)
    of_rank = batch / context / ranks
    samples = 2 ** int(math.log2(max(1.0, min(of_rank, most_samples))))
    accumulation = max(1, round(of_rank / samples))
    steps = max(1, int(found.tokens / (samples * ranks * accumulation * context)))
    warmup = min(MAX_WARMUP_STEPS, int(WARMUP_SHARE * steps))
    return Schedule(steps, samples * ranks, accumulation, warmup, best_learning_rate(found.model.family, flops))


def _usual_context(family: Family, vocab_size: int, parameters: float) -> int:
    made = [ModelConfig(family=family, preset=preset) for preset in ("nano", "micro", "small", "base")]
    near = min(made, key=lambda one: abs(math.log(num_parameters(one, vocab_size) / parameters)))
    return PRESETS[family][near.preset].context_length


def _shapes(family: Family, context: int, tied: bool) -> Iterator[tuple[ModelConfig, float]]:
    """Shapes that are built, and how far each is from usual proportions."""
    # an even number of heads, of large models a multiple of four, so that they can be divided among keys and devices
    widths = [*range(64, 512, 64), *range(512, 2048, 128), *range(2048, 16_385, 512)]
    for hidden in widths:
        head_size = 32 if hidden < 512 else 64 if hidden < 2048 else 128
        # width over depth: 48 for small ones (MobileLLM, section 2.2), 128 for 7B and more (LLaMA, table 2)
        usual = hidden / min(128, max(48, hidden / 32))
        for layers in range(max(2, round(0.7 * usual)), max(2, round(1.4 * usual)) + 1):
            heads = hidden // head_size
            kv_heads = max(one for one in range(1, min(8, heads // 2) + 1) if heads % one == 0)
            model = ModelConfig(
                family=family,
                hidden_size=hidden,
                num_layers=layers,
                num_heads=heads,
                num_kv_heads=kv_heads if family == "llama" else None,
                intermediate_size=-(-hidden * 8 // 48) * 16 if family == "llama" else 4 * hidden,
                context_length=context,
                tie_embeddings=tied,
            )
            yield model, abs(math.log(layers / usual)) if usual > 2 else 0.0
