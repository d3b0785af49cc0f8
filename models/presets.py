"""Models by size: `llama` (grouped-query attention, RoPE, SwiGLU, RMSNorm), `gpt2` and `bert`, or a checkpoint that is continued.

All are transformers' own classes (`LlamaForCausalLM`, `GPT2LMHeadModel`, `BertForMaskedLM`), so whatever loads those loads ours. A preset
is a shape; any part of it can be overridden. Parameters and FLOPs of a shape follow by arithmetic, without torch, so that plans and
configs cost nothing; torch and transformers (about 6 s) are imported when a model is built, and to count those of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models import given_model
from models.tokeniser import Roles, from_anywhere

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Family = Literal["llama", "gpt2", "bert"]
Preset = Literal["nano", "micro", "small", "base"]

ROPE_THETA = 10_000.0  # RoFormer, section 3.3; enough for contexts up to 2048
BERT_SEGMENTS = 2  # BERT, section 3.2: two sentences; ours are always of the first


class Shape(NamedTuple):
    """Sizes of a model; all but `context_length` (tokens) and the last decide its parameters."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    context_length: int
    tie_embeddings: bool


# Parameters are given for the vocabulary in brackets; LLaMA deep rather than wide below 200M (MobileLLM, section 2.2)
PRESETS: dict[str, dict[str, Shape]] = {
    "llama": {
        "nano": Shape(128, 3, 4, 2, 352, 128, True),  # 1.1M (4096): tests
        "micro": Shape(256, 4, 8, 4, 688, 256, True),  # 4.0M (4096): the demo
        "small": Shape(512, 8, 8, 4, 1376, 1024, True),  # 31M (16384)
        "base": Shape(768, 16, 12, 4, 2048, 2048, True),  # 125M (32000)
    },
    "gpt2": {
        "nano": Shape(128, 3, 4, 4, 512, 128, True),  # 1.1M (4096)
        "micro": Shape(256, 4, 8, 8, 1024, 256, True),  # 4.3M (4096)
        "small": Shape(512, 7, 8, 8, 2048, 1024, True),  # 31M (16384)
        "base": Shape(768, 12, 12, 12, 3072, 1024, True),  # 124M (50257): GPT-2, table 2, first row
    },
    "bert": {
        "nano": Shape(128, 3, 4, 4, 512, 128, True),  # 1.2M (4096)
        "micro": Shape(256, 4, 8, 8, 1024, 256, True),  # 4.3M (4096)
        "small": Shape(512, 7, 8, 8, 2048, 512, True),  # 31M (16384)
        "base": Shape(768, 12, 12, 12, 3072, 512, True),  # 110M (30522): BERT, section 3, BERT-base
    },
}


class ModelConfig(BaseModel):
    """A family and a preset of it, and what is changed in them; or a checkpoint that is continued. None keeps what that has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Family = "llama"
    """llama and gpt2 write: each token sees those before it. bert reads: each token sees all, and masked ones are guessed."""
    preset: Preset = "micro"
    """Starting shape: nano ~1M, micro ~4M, small ~30M, base ~125M parameters."""
    hidden_size: int | None = Field(None, ge=8)
    """Width of the residual stream; a multiple of `num_heads`. Parameters grow with its square."""
    num_layers: int | None = Field(None, ge=1)
    """Transformer blocks."""
    num_heads: int | None = Field(None, ge=1)
    """Query heads; a multiple of `num_kv_heads`."""
    num_kv_heads: int | None = Field(None, ge=1)
    """llama only: key and value heads; fewer make the cache of a served model smaller."""
    intermediate_size: int | None = Field(None, ge=8)
    """Width inside the feed-forward block; about 8/3 of `hidden_size` for llama, 4 times for the others."""
    context_length: int | None = Field(None, ge=8)
    """Tokens that the model sees at once; training windows have this length. Of a checkpoint: at most what it was made for."""
    tie_embeddings: bool | None = None
    """Whether input and output embeddings are one matrix: saves vocabulary x hidden parameters, best for small models."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Share of activations that training sets to 0, for data that is read many times. None: 0, or as the checkpoint has it. A llama of
    transformers has it in its attention only, and on a CPU attention with dropout is several times slower."""
    from_checkpoint: str = ""
    """A model to continue instead of a fresh one: a folder that transformers loads, a trained version of ours, or, where there is none of
    that name, a name on the Hugging Face hub. Its weights must be safetensors; it decides shape and family."""
    new_vocabulary: bool = False
    """With a checkpoint: whether the data's tokeniser may be another than the checkpoint's. Its embeddings are then made anew, and the rows
    of tokens that both know are copied."""

    @field_validator("from_checkpoint")
    @classmethod
    def _from_anywhere(cls, given: str) -> str:
        return from_anywhere(given)

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.from_checkpoint:
            return self._continues()
        if self.new_vocabulary:
            raise ValueError("new_vocabulary: only with from_checkpoint; a fresh model has the data's vocabulary anyway")
        if self.family != "llama" and self.num_kv_heads not in (None, self.shape.num_heads):
            raise ValueError(f"num_kv_heads: {self.family} has as many as num_heads; leave it out, or take family llama")
        shape = self.shape
        if shape.hidden_size % shape.num_heads:
            raise ValueError(f"hidden_size {shape.hidden_size} must be a multiple of num_heads {shape.num_heads}")
        if self.family == "llama" and (shape.hidden_size // shape.num_heads) % 2:
            raise ValueError(
                f"hidden_size {shape.hidden_size} must split into an even number for each of num_heads {shape.num_heads}"
            )
        if shape.num_heads % shape.num_kv_heads:
            raise ValueError(f"num_heads {shape.num_heads} must be a multiple of num_kv_heads {shape.num_kv_heads}")
        return self

    def _continues(self) -> ModelConfig:
        own = {
            name for name in ("family", "preset", *Shape._fields) if getattr(self, name) != type(self).model_fields[name].default
        }
        if wrong := sorted(own - {"context_length"}):
            raise ValueError(f"from_checkpoint: the checkpoint decides its shape, so leave out {' and '.join(wrong)}")
        return self

    @property
    def shape(self) -> Shape:
        """The preset with the overrides applied; of a fresh model only."""
        if self.from_checkpoint:
            raise TypeError("a checkpoint has no shape of ours; ask presets.context_length or presets.num_parameters")
        given = {name: value for name in Shape._fields if (value := getattr(self, name)) is not None}
        shape = PRESETS[self.family][self.preset]._replace(**given)
        return shape if self.family == "llama" else shape._replace(num_kv_heads=shape.num_heads)


def build(config: ModelConfig, words: Roles, seed: int, *, tokeniser_folder: str = "") -> PreTrainedModel:
    """A model with float32 weights on the CPU; equal arguments give equal weights. The global random state is kept.

    Args:
        words: what the ids of the data's tokeniser stand for. The token that ends a document opens the next, too (bos and eos).
        tokeniser_folder: the data's tokeniser, for a checkpoint to be compared with; empty: only the numbers of tokens are compared.

    Raises:
        InputError: there is no checkpoint that can be continued, or its vocabulary is not the data's.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not config.from_checkpoint:
            return _fresh(config, words)
        model = given_model.load(config.from_checkpoint, config.dropout)
        given_model.fit_vocabulary(model, config.from_checkpoint, words, tokeniser_folder, make_anew=config.new_vocabulary)
        return model


def _fresh(config: ModelConfig, words: Roles) -> PreTrainedModel:
    import transformers

    shape, dropout = config.shape, config.dropout or 0.0
    common: dict[str, Any] = {
        "vocab_size": words.vocab_size,
        "bos_token_id": words.end,
        "eos_token_id": words.end,
        "pad_token_id": words.padding,
        "tie_word_embeddings": shape.tie_embeddings,
        "attn_implementation": "sdpa",
    }
    sizes = {
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.context_length,
    }
    if config.family == "llama":
        rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
        kv_heads = shape.num_kv_heads
        llama = transformers.LlamaConfig(
            **common, **sizes, num_key_value_heads=kv_heads, rope_parameters=rope, attention_dropout=dropout
        )
        return transformers.LlamaForCausalLM(llama).float()
    if config.family == "gpt2":
        gpt2 = transformers.GPT2Config(
            **common,
            n_embd=shape.hidden_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_inner=shape.intermediate_size,
            n_positions=shape.context_length,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            resid_pdrop=dropout,
        )
        return transformers.GPT2LMHeadModel(gpt2).float()
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(**common, **sizes, **dropouts, type_vocab_size=BERT_SEGMENTS)
    ).float()
    given_model.freeze_unread_bias(model)
    return model


def family(config: ModelConfig) -> str:
    """llama, gpt2, bert; of a checkpoint what transformers calls its kind (`model_type`).

    Raises:
        InputError: there is no such checkpoint.
    """
    return str(given_model.read_config(config.from_checkpoint)["model_type"]) if config.from_checkpoint else config.family


def masked(config: ModelConfig) -> bool:
    """Whether the model guesses masked tokens and sees both sides of them, as BERT; else it continues texts.

    Raises:
        InputError: there is no such checkpoint, or it does neither.
    """
    return given_model.is_masked(config.from_checkpoint) if config.from_checkpoint else config.family == "bert"


def context_length(config: ModelConfig) -> int:
    """Tokens that the model sees at once: of the checkpoint if there is one, unless less is configured.

    Raises:
        InputError: there is no such checkpoint, or it is made for less.
    """
    if not config.from_checkpoint:
        return config.shape.context_length
    return given_model.context_length(config.from_checkpoint, config.context_length)


def digests(config: ModelConfig) -> Mapping[str, str]:
    """{file: digest} of the weights that are continued, for a recipe; empty for a fresh model.

    Raises:
        InputError: there is no such checkpoint.
    """
    return given_model.digests(config.from_checkpoint) if config.from_checkpoint else {}


def num_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Parameters, shared ones counted once; of a checkpoint with its own vocabulary, unless that is made anew.

    Raises:
        InputError: there is no such checkpoint.
    """
    if config.from_checkpoint:
        return given_model.counts(config.from_checkpoint, vocab_size if config.new_vocabulary else None).parameters
    shape = config.shape
    hidden, layers = shape.hidden_size, shape.num_layers
    embeddings = vocab_size * hidden * (1 if shape.tie_embeddings else 2)
    if config.family == "llama":
        return embeddings + (2 * layers + 1) * hidden + matmul_weights(config)
    # biases of attention (4) and of the feed-forward block, and two LayerNorms of weight and bias
    blocks = layers * (4 * hidden + shape.intermediate_size + hidden + 4 * hidden) + matmul_weights(config)
    embeddings += shape.context_length * hidden
    if config.family == "gpt2":
        return embeddings + blocks + 2 * hidden
    segments_and_norm = (BERT_SEGMENTS + 2) * hidden
    # bias and LayerNorm of its transform, whose weights are counted already; the output's bias, twice where untied (freeze_unread_bias)
    head = 3 * hidden + vocab_size * (1 if shape.tie_embeddings else 2)
    return embeddings + segments_and_norm + blocks + head


def flops_per_token(config: ModelConfig, vocab_size: int) -> int:
    """Floating-point operations to train on one token, forward and backward: 6 per matrix weight (the output head included, the look-up
    of embeddings not) and 12 x layers x hidden x context for attention (PaLM, appendix B; causal masking not deducted).

    What is spared is counted, too: the head of a masked model where nothing is masked, and the experts that a token does not use.

    Raises:
        InputError: there is no such checkpoint.
    """
    if config.from_checkpoint:
        counted = given_model.counts(config.from_checkpoint, vocab_size if config.new_vocabulary else None)
        return 6 * counted.matmul_weights + 12 * counted.attention_size * context_length(config)
    shape = config.shape
    weights = matmul_weights(config) + vocab_size * shape.hidden_size
    return 6 * weights + 12 * shape.num_layers * shape.hidden_size * shape.context_length


def matmul_weights(config: ModelConfig) -> int:
    """Weights of matrices, without the embeddings."""
    shape = config.shape
    kv_size = shape.hidden_size // shape.num_heads * shape.num_kv_heads
    attention = 2 * shape.hidden_size**2 + 2 * shape.hidden_size * kv_size
    num_matrices = 3 if config.family == "llama" else 2  # SwiGLU has a gate
    blocks = shape.num_layers * (attention + num_matrices * shape.hidden_size * shape.intermediate_size)
    return blocks + (shape.hidden_size**2 if config.family == "bert" else 0)
