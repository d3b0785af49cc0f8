"""Models of other makers: safetensors byte for byte, equal logits from GGUF, a chat template where there is none, no pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.errors import InputError
from models import adopted, chat, presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import CHAT_TEMPLATE, TokeniserConfig
from tests.learn.tuned import base_model
from tests.learn.tuned import chat as turns

TEXT = "number 7 what is the colour of coal ? é"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(base_model(tmp_path_factory.mktemp("adopted") / "model"))


def without(folder: Path, copy: Path, *keys: str, words: tuple[str, ...] = ()) -> Path:
    """A copy whose tokeniser's settings lack some keys, and which has none of some tokens."""
    shutil.copytree(folder, copy)
    path = copy / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in keys}))
    if words:
        whole = json.loads((copy / "tokenizer.json").read_text())
        for part in whole["added_tokens"]:
            part["content"] = part["content"].replace("im_", "other_") if part["content"] in words else part["content"]
        vocab = whole["model"]["vocab"]
        whole["model"]["vocab"] = {(key.replace("im_", "other_") if key in words else key): one for key, one in vocab.items()}
        (copy / "tokenizer.json").write_text(json.dumps(whole))
    return copy


def logits(folder: Path) -> torch.Tensor:
    words, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(**words(TEXT, return_tensors="pt")).logits
    return found


def test_a_folder_is_taken_as_it_is(ours: Path, tmp_path: Path) -> None:
    facts = adopted.adopt(str(ours), tmp_path / "out")
    assert facts["chat_template"] == "own" and facts["objective"] == "causal"
    assert facts["vocab_size"] == len(AutoTokenizer.from_pretrained(ours))
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (ours / name).read_bytes()
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert words.convert_ids_to_tokens(ends) == ["<|im_end|>", "<|endoftext|>"]


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ((), "chatml", "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"),
        (("<|im_start|>", "<|im_end|>"), "plain", "User:\na\nAssistant:\nb<|endoftext|>\n"),
    ],
)
def test_one_without_a_template_gets_one_of_its_own_tokens(
    words: tuple[str, ...], kind: str, said: str, ours: Path, tmp_path: Path
) -> None:
    given = without(ours, tmp_path / "given", "chat_template", "additional_special_tokens", words=words)
    facts = adopted.adopt(str(given), tmp_path / "out")
    assert (facts["chat_template"], facts["vocab_size"]) == (kind, len(AutoTokenizer.from_pretrained(ours)))
    taken = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert taken.apply_chat_template(turns("a", "b"), tokenize=False) == said
    opened = taken.apply_chat_template(turns("a"), tokenize=False, add_generation_prompt=True)
    assert said.startswith(opened) and opened.rstrip().lower().endswith(("assistant", "assistant:"))
    assert torch.equal(logits(tmp_path / "out"), logits(ours))
    assert taken.convert_ids_to_tokens(chat.turn_end(taken)) == ("<|im_end|>" if kind == "chatml" else "<|endoftext|>")


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_a_gguf_file_gives_the_model_that_it_was_made_of(dtype: Any, ours: Path, tmp_path: Path) -> None:
    gguf_file = pytest.importorskip("models.gguf_file", reason="nothing here writes GGUF files")
    path = tmp_path / "model.gguf"
    gguf_file.write(ours, path, dtype, "tiny")
    facts = adopted.adopt(str(path), tmp_path / "out")
    assert facts["chat_template"] == "own"
    difference = (logits(tmp_path / "out") - logits(ours)).abs().max()
    assert difference == 0 if dtype == "f32" else 0 < difference < 0.1
    words, taken = AutoTokenizer.from_pretrained(ours), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words(TEXT)["input_ids"] == taken(TEXT)["input_ids"] and words.eos_token == taken.eos_token
    said = turns("a", "b", "c", "d")
    assert words.apply_chat_template(said, tokenize=False) == taken.apply_chat_template(said, tokenize=False)
    assert list(adopted.digests(str(path))) == ["checkpoint.gguf"]
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"adopt.checkpoint: .*broken.gguf: transformers does not read this GGUF file"):
        adopted.adopt(str(broken), tmp_path / "none")


def test_every_file_that_makes_the_model_is_in_the_recipe(ours: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(ours, tmp_path / "copy"))
    before = adopted.digests(str(copy))
    assert before.keys() == {f"checkpoint/{file.name}" for file in copy.iterdir()}
    (copy / "README.md").write_text("words")
    assert adopted.digests(str(copy)) == before
    (copy / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    assert adopted.digests(str(copy)) != before


def test_what_cannot_be_adopted_is_an_error_that_names_the_key(ours: Path, tmp_path: Path) -> None:
    def problem(given: Path) -> str:
        with pytest.raises(InputError) as refused:
            adopted.adopt(str(given), tmp_path / "none")
        return str(refused.value)

    pickled = Path(shutil.copytree(ours, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors")))
    torch.save({}, pickled / "pytorch_model.bin")
    assert "adopt.checkpoint" in problem(pickled) and "only pytorch_model.bin, a pickle" in problem(pickled)
    words = Path(shutil.copytree(ours, tmp_path / "words"))
    tokeniser.save(
        tokeniser.train_bpe(["a b c"] * 9 + [TEXT * 5] * 9, TokeniserConfig(vocab_size=400, min_frequency=1)), str(words)
    )
    shape = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=16, context_length=16)
    small = tokeniser.roles(str(words))._replace(vocab_size=270)
    presets.build(shape, small, seed=1).save_pretrained(words)
    assert "and the model has 270 embeddings" in problem(words)
    masked = tmp_path / "masked"
    masked.mkdir()
    (masked / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    assert "a masked model does not write texts" in problem(masked)
    assert "no such folder" in problem(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"adopt.checkpoint: .*: no such file"):
        adopted.digests(str(tmp_path / "no.gguf"))
