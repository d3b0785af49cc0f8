"""Memory that a training needs on one device, told beforehand. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models import presets
from models.presets import ModelConfig

# Bytes that one token leaves in one block for the backward pass, per unit of hidden size, of the key (or value) heads' width, and of
# intermediate size, under sdpa without dropout. The form is Korthikanti et al. 2022, section 4.1 (linear in all three once attention
# keeps no scores); the figures are counted in transformers 5.23's own models, and a test counts again
BLOCK_BYTES: dict[tuple[str, str], tuple[float, float, float]] = {
    ("llama", "bf16"): (30, 4, 8),
    ("llama", "fp32"): (32, 8, 16),
    ("gpt2", "bf16"): (20, 0, 10),
    ("gpt2", "fp32"): (32, 0, 20),
    ("bert", "bf16"): (24, 0, 4),
    ("bert", "fp32"): (32, 0, 8),
}
MASK_BYTES = {"bf16": 2, "fp32": 4}
"""Of the mask that keeps attention inside documents, per pair of tokens of a sample: torch widens and keeps one for each block."""
SHORT_CONTEXT, SHORT_BLOCK = 512, 128
"""Up to which context a CPU attends in bf16 by plain products (short_attention), which keep probabilities instead, in blocks of queries;
of 64 and 256 queries they are slower."""
BLOCK_INPUT_BYTES = 4
"""What is kept of a block whose activations are computed again: its float32 input, per unit of hidden size."""
ADAM_BYTES = 8
"""Two float32 moments of a parameter."""
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
"""Logits that the loss has in memory at once, in float32: they should stay in a CPU's cache, and a GPU wants large products. With their
gradient and a bfloat16 copy they take 2.5 times as much."""
SLACK_SHARE, SLACK_BYTES = 0.25, 100 * 10**6
"""Temporaries, and what an allocator holds and does not use. With it, measured peaks are 0.88 to 1.02 of what is told (docs/plan.md)."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device at the peak, by what they hold."""

    weights: int
    """float32, and the bfloat16 copies that autocast makes."""
    gradients: int
    moments: int
    activations: int
    loss: int
    """Chunks of logits, and the gradient of the output layer."""
    slack: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.activations + self.loss + self.slack


def footprint(
    model: ModelConfig,
    vocab_size: int,
    tokens: int,
    *,
    device: str = "cuda",
    precision: str = "bf16",
    ranks: int = 1,
    parallel: Literal["ddp", "fsdp"] = "ddp",
    recompute: bool = False,
    documents: bool = False,
) -> Footprint:
    """What training a fresh model with AdamW takes on each device.

    Args:
        tokens: of one forward pass on this device.
        ranks: devices that train together.
        parallel: fsdp divides weights, gradients and moments among them; ddp has them whole, and gradients once more in its buckets.
        recompute: whether the activations of blocks are computed again (activation_checkpointing).
        documents: whether attention stays inside documents (every data.packing but `stream`).
    """
    shape, parameters = model.shape, presets.num_parameters(model, vocab_size)
    shards = ranks if parallel == "fsdp" else 1
    narrow = 2 * presets.matmul_weights(model) if precision == "bf16" else 0
    a_block = _block_bytes(model, precision)
    if device == "cpu" and precision == "bf16" and shape.context_length <= SHORT_CONTEXT:
        a_block += _probability_bytes(model)
    elif documents:
        a_block += MASK_BYTES[precision] * shape.context_length
    blocks = shape.num_layers * BLOCK_INPUT_BYTES * shape.hidden_size + a_block if recompute else shape.num_layers * a_block
    head = vocab_size * shape.hidden_size * (6 if precision == "bf16" else 4)
    parts = {
        "weights": (4 * parameters + narrow) / shards,
        "gradients": (8 if parallel == "ddp" and ranks > 1 else 4) * parameters / shards,
        "moments": ADAM_BYTES * parameters / shards,
        "activations": tokens * blocks,
        "loss": 2.5 * CHUNK_BYTES[device] + head + tokens * 4 * shape.hidden_size,
    }
    slack = SLACK_SHARE * sum(parts.values()) + SLACK_BYTES
    return Footprint(**{name: int(value) for name, value in parts.items()}, slack=int(slack))


def _block_bytes(model: ModelConfig, precision: str) -> float:
    """Bytes of one token in one block."""
    shape = model.shape
    kv_size = shape.hidden_size // shape.num_heads * shape.num_kv_heads
    of_hidden, of_kv, of_inner = BLOCK_BYTES[model.family, precision]
    return of_hidden * shape.hidden_size + of_kv * kv_size + of_inner * shape.intermediate_size


def _probability_bytes(model: ModelConfig) -> float:
    """Bytes of one token in one block that attention by plain products keeps beside the rest: bf16 probabilities, and keys repeated."""
    shape = model.shape
    context, blocks = shape.context_length, range(0, shape.context_length, SHORT_BLOCK)
    sizes = [(min(SHORT_BLOCK, context - start), min(start + SHORT_BLOCK, context)) for start in blocks]
    seen = context**2 if model.family == "bert" else sum(queries * keys for queries, keys in sizes)
    repeated = 2 * shape.hidden_size if shape.num_kv_heads < shape.num_heads else 0
    return 2 * shape.num_heads * seen / context + repeated
