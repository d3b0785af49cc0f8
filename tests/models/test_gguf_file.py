import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from infra.errors import InputError
from models import chat, gguf_file, presets, tokeniser
from models.loading import load_causal
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig

TEXTS = ["read the file", "write a list of values 123", "it's an error: the key, the value"]
SHAPE: dict[str, Any] = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 96, "context_length": 32}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("words"))
    tokeniser.save(tokeniser.train(TEXTS * 20, TokeniserConfig(vocab_size=300)), folder)
    return folder


def made(words: str, folder: Path, **more: Any) -> PreTrainedModel:
    model = presets.build(ModelConfig(**{**SHAPE, **more}), tokeniser.roles(words), seed=3).eval()
    model.save_pretrained(folder)
    for file in Path(words).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return model


def changed(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.mark.parametrize(
    "more", [{"num_kv_heads": 2}, {"num_kv_heads": 1, "tie_embeddings": False}, {"num_heads": 2, "num_kv_heads": 2}], ids=str
)
def test_any_number_of_heads_comes_back_with_the_same_bits(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = made(words, tmp_path, **more)
    ids = torch.arange(20)[None]
    gguf_file.write(tmp_path, tmp_path / "m.gguf", "f32", "mill")
    read, _ = gguf_file.read(tmp_path / "m.gguf")
    assert torch.equal(read(input_ids=ids).logits, model(input_ids=ids).logits)
    assert read.config.tie_word_embeddings == more.get("tie_embeddings", True)


def test_the_file_says_what_llama_cpp_asks_for(words: str, tmp_path: Path) -> None:
    made(words, tmp_path, num_kv_heads=2)
    gguf_file.write(tmp_path, tmp_path / "m.gguf", "q8_0", "mill")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    _, original = load_causal(tmp_path)
    assert said["general.architecture"] == "llama" and said["general.name"] == "mill"
    assert (said["llama.attention.head_count"], said["llama.attention.head_count_kv"], said["llama.block_count"]) == (4, 2, 2)
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    tokens = said["tokenizer.ggml.tokens"]
    assert tokens[:4] == list(tokeniser.SPECIAL_TOKENS) and len(tokens) == len(original)
    kinds = said["tokenizer.ggml.token_type"]
    assert kinds[:5] == [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL]
    assert tokens[said["tokenizer.ggml.eos_token_id"]] == original.eos_token
    assert "generation %}" not in said["tokenizer.chat_template"] and "<|im_start|>" in said["tokenizer.chat_template"]
    types = {one.name: one.tensor_type for one in reader.tensors}
    assert types["blk.0.attn_q.weight"] == gguf.GGMLQuantizationType.Q8_0
    assert types["blk.0.attn_norm.weight"] == gguf.GGMLQuantizationType.F32


@pytest.mark.parametrize(("start", "end"), [("{%", "%}"), ("{%-", "-%}"), ("{%+", "+%}"), ("{%- ", " -%}"), ("{%", "-%}")])
def test_marks_for_trainers_leave_the_template_and_what_it_writes_stays(start: str, end: str, words: str) -> None:
    loaded = AutoTokenizer.from_pretrained(words)
    loaded.chat_template = (
        "{% for m in messages %}\n  {{ m['role'] }}:\n"
        f"  {start}generation{end}\n  {{{{ m['content'] }}}} \n  {start} endgeneration {end} \n|{{% endfor %}}"
    )
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    wanted = loaded.apply_chat_template(turns, tokenize=False)
    loaded.chat_template = chat.MARK.sub(gguf_file.NOTHING, loaded.chat_template)
    assert "generation" not in loaded.chat_template
    assert loaded.apply_chat_template(turns, tokenize=False) == wanted


def test_rows_that_cannot_be_divided_are_f16(words: str, tmp_path: Path) -> None:
    made(words, tmp_path, hidden_size=40, num_heads=2, num_kv_heads=2)
    gguf_file.write(tmp_path, tmp_path / "m.gguf", "q8_0", "mill")
    types = {one.name: one.tensor_type for one in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert types["token_embd.weight"] == gguf.GGMLQuantizationType.F16
    assert types["blk.0.ffn_down.weight"] == gguf.GGMLQuantizationType.Q8_0


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "gpt2"}, "of a Llama only .*gpt2.*export safetensors"),
        ({"attention_bias": True}, "attention_bias: a GGUF file is not written"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type: a GGUF file is not written"),
        ({"quantization_config": {"quant_method": "gristmill-int8"}}, "is quantised"),
    ],
)
def test_what_the_file_cannot_say_is_refused(config: dict[str, Any], why: str, words: str, tmp_path: Path) -> None:
    made(words, tmp_path)
    changed(tmp_path / "config.json", **config)
    with pytest.raises(InputError, match=why):
        gguf_file.write(tmp_path, tmp_path / "m.gguf", "f32", "mill")
    assert not (tmp_path / "m.gguf").exists()


def test_a_tokeniser_of_an_unknown_split_is_refused(words: str, tmp_path: Path) -> None:
    made(words, tmp_path)
    changed(tmp_path / "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    with pytest.raises(InputError, match="byte-level BPE of the word split of Llama 3"):
        gguf_file.write(tmp_path, tmp_path / "m.gguf", "f32", "mill")
