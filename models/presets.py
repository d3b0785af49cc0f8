"""LLaMA-style causal models by size: grouped-query attention, RoPE, SwiGLU, RMSNorm, as transformers' own `LlamaForCausalLM`.

A preset is a shape; any part of it can be overridden. Parameters and FLOPs follow from the shape alone, without torch, so
that plans and configs cost nothing; torch and transformers (about 6 s) are imported when a model is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

ROPE_THETA = 10_000.0  # RoFormer, section 3.3; enough for contexts up to 2048


class Shape(NamedTuple):
    """Sizes of a model; all but `context_length` (tokens) and the last decide its parameters."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    context_length: int
    tie_embeddings: bool


# Parameters are given for the vocabulary in brackets; deep rather than wide below 200M (MobileLLM, section 2.2)
PRESETS: dict[str, Shape] = {
    "nano": Shape(128, 3, 4, 2, 352, 128, True),  # 1.1M (4096): tests
    "micro": Shape(256, 4, 8, 4, 688, 256, True),  # 4.0M (4096): the demo
    "small": Shape(512, 8, 8, 4, 1376, 1024, True),  # 31M (16384)
    "base": Shape(768, 16, 12, 4, 2048, 2048, True),  # 125M (32000)
}


class ModelConfig(BaseModel):
    """A preset and what is changed in it; None keeps the preset's value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Literal["nano", "micro", "small", "base"] = "micro"
    """Starting shape: nano ~1M, micro ~4M, small ~30M, base ~125M parameters."""
    hidden_size: int | None = Field(None, ge=8)
    """Width of the residual stream; a multiple of `num_heads`. Parameters grow with its square."""
    num_layers: int | None = Field(None, ge=1)
    """Transformer blocks."""
    num_heads: int | None = Field(None, ge=1)
    """Query heads; a multiple of `num_kv_heads`."""
    num_kv_heads: int | None = Field(None, ge=1)
    """Key and value heads; fewer make the cache of a served model smaller."""
    intermediate_size: int | None = Field(None, ge=8)
    """Width inside the feed-forward block; about 8/3 of `hidden_size`."""
    context_length: int | None = Field(None, ge=8)
    """Tokens that the model sees at once; training windows have this length."""
    tie_embeddings: bool | None = None
    """Whether input and output embeddings are one matrix: saves vocabulary x hidden parameters, best for small models."""

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        shape = self.shape
        if shape.hidden_size % shape.num_heads or (shape.hidden_size // shape.num_heads) % 2:
            raise ValueError(
                f"hidden_size {shape.hidden_size} must split into an even number for each of num_heads {shape.num_heads}"
            )
        if shape.num_heads % shape.num_kv_heads:
            raise ValueError(f"num_heads {shape.num_heads} must be a multiple of num_kv_heads {shape.num_kv_heads}")
        return self

    @property
    def shape(self) -> Shape:
        """The preset with the overrides applied."""
        given = {name: value for name in Shape._fields if (value := getattr(self, name)) is not None}
        return PRESETS[self.preset]._replace(**given)


def build(config: ModelConfig, vocab_size: int, seed: int, *, end_id: int = 0, pad_id: int | None = None) -> LlamaForCausalLM:
    """A model with fresh float32 weights on the CPU; equal arguments give equal weights. The global random state is kept.

    `end_id` closes a document and opens the next (it is both bos and eos); `pad_id` fills up batches.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = config.shape
    llama = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.context_length,
        tie_word_embeddings=shape.tie_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=end_id,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(llama).float()


def num_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Trainable parameters, shared ones counted once."""
    shape = config.shape
    embeddings = vocab_size * shape.hidden_size * (1 if shape.tie_embeddings else 2)
    norms = (2 * shape.num_layers + 1) * shape.hidden_size
    return embeddings + norms + _matmul_weights(shape)


def flops_per_token(config: ModelConfig, vocab_size: int) -> int:
    """Floating-point operations to train on one token, forward and backward: 6 per matrix weight (the output head included, the
    look-up of embeddings not) and 12 x layers x hidden x context for attention (PaLM, appendix B; causal masking not deducted).
    """
    shape = config.shape
    weights = _matmul_weights(shape) + vocab_size * shape.hidden_size
    return 6 * weights + 12 * shape.num_layers * shape.hidden_size * shape.context_length


def _matmul_weights(shape: Shape) -> int:
    kv_size = shape.hidden_size // shape.num_heads * shape.num_kv_heads
    attention = 2 * shape.hidden_size**2 + 2 * shape.hidden_size * kv_size
    return shape.num_layers * (attention + 3 * shape.hidden_size * shape.intermediate_size)
