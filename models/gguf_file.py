"""Writes a Llama and its tokeniser as one GGUF file, for llama.cpp and its relatives; transformers reads it back (`gguf_file=`).

The gguf package writes the format; what a Llama's fields and tensors are called, and that llama.cpp turns pairs of neighbours where
transformers turns halves, so that the rows of queries and keys are put in another order, follows llama.cpp's convert_hf_to_gguf.py. Costs
one pass over the weights; a temporary file holds them, not the memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from safetensors import safe_open

from infra.errors import InputError
from models import chat
from models.loading import read_config
from models.tokeniser import WORD_PATTERN

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["f32", "f16", "q8_0"]
TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
BLOCK = 32
"""Weights of a row that share a scale in q8_0."""
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
BLOCKS = "model.layers."
# how llama.cpp calls word splits; the regular expressions are those of the tokenizer.json of Llama 3 and Qwen 2
SPLITS = {WORD_PATTERN: "llama-bpe", WORD_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"): "qwen2"}
GPT2_SPLIT = "gpt-2"
NOTHING = r"{#\1 \2#}"
"""Takes the place of marks for trainers, which other programs do not know: a comment eats the same white space around it."""


def write(folder: Path | str, path: Path | str, dtype: Dtype, name: str) -> None:
    """Write the model of a Hugging Face folder as the GGUF file `path`. Norms stay f32.

    Raises:
        InputError: it is no plain Llama, or its tokeniser no byte-level BPE whose word split llama.cpp knows.
    """
    config = read_config(folder)
    _check(folder, config)
    tokeniser = _read_tokeniser(folder)
    writer = gguf.GGUFWriter(str(path), "llama", use_temp_file=True)
    _add_sizes(writer, config, TYPES[dtype][1], name)
    _add_tokeniser(writer, folder, tokeniser, config)
    for one, values in _tensors(folder, config):
        writer.add_tensor(*_encoded(one, values, TYPES[dtype][0]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a GGUF file in float32, as transformers reads it, and its tokeniser."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = Path(path)
    file = {"gguf_file": whole.name, "trust_remote_code": False, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(whole.parent, dtype=torch.float32, **file)
    return model.eval(), AutoTokenizer.from_pretrained(whole.parent, **file)


def _check(folder: Path | str, config: Mapping[str, Any]) -> None:
    """Only what the file can say may be different from one Llama to another."""
    if config.get("quantization_config"):
        raise InputError(f"{folder}: is quantised; export the model that it was made of (dtype q8_0 is int8, too)")
    if config.get("model_type") != "llama":
        raise InputError(
            f"{folder}: a GGUF file is written of a Llama only (got model_type {config.get('model_type')!r}); export safetensors instead"
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    others = {
        "rope_type": rope.get("rope_type", rope.get("type", "default")) not in ("default", None),
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
    }
    if wrong := [key for key, other in others.items() if other]:
        raise InputError(
            f"{folder}: config.json: {', '.join(wrong)}: a GGUF file is not written of such a Llama; export safetensors"
        )


def _add_sizes(writer: gguf.GGUFWriter, config: Mapping[str, Any], kind: LlamaFileType, name: str) -> None:
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    writer.add_name(name)
    writer.add_file_type(kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])


def _read_tokeniser(folder: Path | str) -> Mapping[str, Any]:
    path = Path(folder, "tokenizer.json")
    try:
        told: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); a GGUF file holds its tokeniser") from error
    if told["model"].get("type") != "BPE" or told.get("normalizer") or not _split(told):
        raise InputError(
            f"{path}: a GGUF file is written with a byte-level BPE of the word split of Llama 3, Qwen 2 or GPT-2 only; export safetensors"
        )
    return told


def _split(told: Mapping[str, Any]) -> str:
    """llama.cpp's name of how words are split; empty: it has none."""
    parts = told.get("pre_tokenizer") or {}
    parts = parts.get("pretokenizers", [parts])
    bytes_of = next((one for one in parts if one.get("type") == "ByteLevel" and not one.get("add_prefix_space")), None)
    if bytes_of is None:
        return ""
    if len(parts) == 1:
        return GPT2_SPLIT if bytes_of.get("use_regex", True) else ""
    pattern = parts[0].get("pattern", {}).get("Regex", "") if len(parts) == 2 else ""
    return SPLITS.get(pattern, "")


def _add_tokeniser(writer: gguf.GGUFWriter, folder: Path | str, told: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    tokens = [f"[PAD{number}]" for number in range(config["vocab_size"])]
    types = [TokenType.UNUSED] * len(tokens)
    for token, number in told["model"]["vocab"].items():
        tokens[number], types[number] = token, TokenType.NORMAL
    for one in told["added_tokens"]:
        kind = TokenType.CONTROL if one["special"] else TokenType.USER_DEFINED
        tokens[one["id"]], types[one["id"]] = one["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split(told))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = told["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    writer.add_add_bos_token(False)  # as our tokenisers: what opens a text is given by who asks
    for number, add in (
        (words.bos_token_id, writer.add_bos_token_id),
        (words.eos_token_id, writer.add_eos_token_id),
        (words.pad_token_id, writer.add_pad_token_id),
    ):
        if number is not None:
            add(number)
    if words.chat_template:
        writer.add_chat_template(chat.MARK.sub(NOTHING, words.chat_template))


def _tensors(folder: Path | str, config: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(llama.cpp's name, float32 values) of each weight."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    for file in sorted(Path(folder).glob("model*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                    continue
                if name.endswith("rotary_emb.inv_freq"):
                    continue
                values = weights.get_tensor(name).float().numpy()
                called = _called(folder, name)
                if ".attn_q." in called or ".attn_k." in called:
                    values = _neighbours(values, heads if ".attn_q." in called else kv_heads)
                yield called, values


def _called(folder: Path | str, name: str) -> str:
    """llama.cpp's name of a weight."""
    module, _, part = name.rpartition(".")
    block = ""
    if module.startswith(BLOCKS):
        number, _, module = module.removeprefix(BLOCKS).partition(".")
        block = f"blk.{number}."
    if module not in NAMES or part != "weight":
        raise InputError(f"{folder}: a Llama has no weight {name}; export safetensors")
    return f"{block}{NAMES[module]}.weight"


def _neighbours(weight: npt.NDArray[np.float32], num_heads: int) -> npt.NDArray[np.float32]:
    """Rows of each head in llama.cpp's order: pairs that are turned together lie side by side."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _encoded(
    name: str, values: npt.NDArray[np.float32], kind: GGMLQuantizationType
) -> tuple[str, npt.NDArray[Any], tuple[int, ...] | None, GGMLQuantizationType]:
    """A tensor in its form in the file; rows that q8_0 cannot divide are f16, as llama.cpp's converter has them."""
    if values.ndim == 1:
        kind = GGMLQuantizationType.F32
    elif kind == GGMLQuantizationType.Q8_0 and values.shape[1] % BLOCK:
        kind = GGMLQuantizationType.F16
    return name, gguf.quants.quantize(values, kind), None, kind
