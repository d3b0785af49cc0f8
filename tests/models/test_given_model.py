"""Checkpoints that are continued: the same logits, shared rows in a new vocabulary, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertModel, MistralConfig, MistralForCausalLM, RobertaConfig, RobertaForMaskedLM

from infra.errors import InputError
from models import presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig

ROOT = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "context_length": 64}
OURS = ["the mill grinds corn", "a river turns the mill", "corn and rye"] * 20
THEIRS = ["the sea carries ships", "a river turns to the sea", "ships and the corn"] * 20
FAMILIES = ("llama", "gpt2", "bert")
IDS = torch.arange(60).reshape(2, 30)


def taught(folder: Path, texts: list[str], kind: str = "bpe") -> str:
    config = TokeniserConfig(kind=kind, vocab_size=300)  # type: ignore[arg-type]
    tokeniser.save(tokeniser.train(texts, config), str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> str:
    return taught(tmp_path_factory.mktemp("ours"), OURS)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return taught(tmp_path_factory.mktemp("theirs"), THEIRS)


def checkpoint(folder: Path, words: str, family: Any = "llama", **changes: Any) -> str:
    """A model with weights far from the flat start, beside its tokeniser."""
    model = presets.build(ModelConfig(family=family, **{**TINY, **changes}), tokeniser.roles(words), seed=7)
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(3.0)
    model.save_pretrained(folder)
    for path in Path(words).iterdir():
        shutil.copy(path, folder)
    return str(folder)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


def vocabulary(folder: str) -> dict[str, int]:
    return dict(tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json").get_vocab(with_added_tokens=True))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_continued_model_is_the_checkpoint(family: str, tied: bool, tmp_path: Path, ours: str) -> None:
    given = checkpoint(tmp_path / "given", ours, family, tie_embeddings=tied)
    config, fresh = ModelConfig(from_checkpoint=given), ModelConfig(family=family, **TINY, tie_embeddings=tied)  # type: ignore[arg-type]
    words = tokeniser.roles(ours)
    before = torch.get_rng_state()
    model = presets.build(config, words, seed=1, tokeniser_folder=ours)
    assert torch.equal(before, torch.get_rng_state())
    original = presets.build(fresh, words, seed=7)
    with torch.no_grad():
        for one in original.parameters():
            one.mul_(3.0)
    assert torch.equal(logits(model), logits(original))
    assert (presets.family(config), presets.masked(config), presets.context_length(config)) == (family, family == "bert", 64)
    for count in (presets.num_parameters, presets.flops_per_token):
        assert count(config, words.vocab_size) == count(fresh, words.vocab_size)
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert [name for name, one in model.named_parameters() if (one.grad is None) == one.requires_grad] == []
    model.save_pretrained(tmp_path / "again")
    assert given not in (tmp_path / "again" / "config.json").read_text()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_new_vocabulary_shared_tokens_keep_their_rows(
    family: str, tied: bool, tmp_path: Path, ours: str, theirs: str
) -> None:
    given = checkpoint(tmp_path / "given", theirs, family, tie_embeddings=tied)
    config, words = ModelConfig(from_checkpoint=given, new_vocabulary=True), tokeniser.roles(ours)
    old = presets.build(ModelConfig(from_checkpoint=given), tokeniser.roles(theirs), seed=1)
    new, same, other = (presets.build(config, words, seed=seed, tokeniser_folder=ours) for seed in (1, 1, 2))
    mine, known = vocabulary(ours), vocabulary(theirs)
    shared = sorted(mine.keys() & known.keys())
    anew = sorted(mine.keys() - known.keys())
    assert len(shared) > 250 and len(anew) > 5 and words.vocab_size == len(mine) != len(known)
    for part in ("get_input_embeddings", "get_output_embeddings"):
        row, was, again, differs = (getattr(model, part)().weight for model in (new, old, same, other))
        assert row.shape == (words.vocab_size, 32)
        assert torch.equal(row[[mine[name] for name in shared]], was[[known[name] for name in shared]])
        assert torch.equal(row, again) and not torch.equal(row, differs)
        made = row[[mine[name] for name in anew]].detach()
        assert made.std() == pytest.approx(was.std().item(), rel=0.3)  # neither zeros nor far from what the layers know
    if family == "bert":
        bias, was = new.get_output_embeddings().bias, old.get_output_embeddings().bias
        assert torch.equal(bias[[mine[name] for name in shared]], was[[known[name] for name in shared]])
    inner = {name: one for name, one in old.state_dict().items() if one.shape == dict(new.state_dict())[name].shape}
    assert len(inner) > 10 and all(torch.equal(one, new.state_dict()[name]) for name, one in inner.items())
    assert presets.num_parameters(config, words.vocab_size) == sum(one.numel() for one in new.parameters())
    assert (new.get_input_embeddings().weight is new.get_output_embeddings().weight) == tied
    new.save_pretrained(tmp_path / "saved")
    for path in Path(ours).iterdir():
        shutil.copy(path, tmp_path / "saved")
    again = presets.build(ModelConfig(from_checkpoint=str(tmp_path / "saved")), words, seed=9, tokeniser_folder=ours)
    assert torch.equal(logits(again), logits(new))
    assert (again.config.eos_token_id, again.config.pad_token_id) == (words.end, words.padding)


def test_the_tokens_that_end_and_fill_up_keep_their_rows_under_another_name(tmp_path: Path, ours: str) -> None:
    pieces = taught(tmp_path / "pieces", THEIRS, "wordpiece")
    given = checkpoint(tmp_path / "given", pieces, "bert")
    model = presets.build(
        ModelConfig(from_checkpoint=given, new_vocabulary=True), tokeniser.roles(ours), seed=1, tokeniser_folder=ours
    )
    old = presets.build(ModelConfig(from_checkpoint=given), tokeniser.roles(pieces), seed=1)
    mine, known = tokeniser.roles(ours), tokeniser.roles(pieces)
    assert mine.end != known.end and mine.padding != known.padding
    rows, were = model.get_input_embeddings(), old.get_input_embeddings().weight
    assert torch.equal(rows.weight[mine.end], were[known.end]) and torch.equal(rows.weight[mine.padding], were[known.padding])
    assert rows.padding_idx == mine.padding


def test_another_vocabulary_is_refused_with_both_ways_out(tmp_path: Path, ours: str, theirs: str) -> None:
    given = checkpoint(tmp_path / "given", theirs)
    with pytest.raises(InputError, match=r"another id there or none; set tokenise.tokeniser to .*pretrain.model.new_vocabulary"):
        presets.build(ModelConfig(from_checkpoint=given), tokeniser.roles(ours), seed=1, tokeniser_folder=ours)
    more = tokeniser.roles(theirs)._replace(vocab_size=400)
    with pytest.raises(InputError, match=r"400 tokens, and it has \d+ embeddings"):
        presets.build(ModelConfig(from_checkpoint=given), more, seed=1)
    presets.build(ModelConfig(from_checkpoint=given), tokeniser.roles(theirs), seed=1, tokeniser_folder=theirs)


def test_a_checkpoint_without_a_tokeniser_is_taken_with_a_warning(
    tmp_path: Path, ours: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = checkpoint(tmp_path / "given", ours)
    for name in tokeniser.FILES:
        (tmp_path / "given" / name).unlink(missing_ok=True)
    with caplog.at_level(logging.WARNING):
        presets.build(ModelConfig(from_checkpoint=given), tokeniser.roles(ours), seed=1, tokeniser_folder=ours)
    assert "has no tokeniser beside it" in caplog.text


def test_the_checkpoint_decides_the_shape_but_not_dropout_and_shorter_windows(tmp_path: Path, ours: str) -> None:
    given = checkpoint(tmp_path / "given", ours, "gpt2", dropout=0.2)
    for wrong in ({"hidden_size": 64}, {"preset": "nano"}, {"family": "bert"}, {"tie_embeddings": True}, {"num_kv_heads": 2}):
        with pytest.raises(ValidationError, match=f"decides its shape, so leave out {next(iter(wrong))}"):
            ModelConfig(from_checkpoint=given, **wrong)  # type: ignore[arg-type]
    config = ModelConfig(from_checkpoint=given, context_length=16, dropout=0.0)
    assert presets.context_length(config) == 16 and ModelConfig(**config.model_dump()) == config
    with pytest.raises(InputError, match=r"context_length: .* made for 64 tokens at most \(got 128\)"):
        presets.context_length(ModelConfig(from_checkpoint=given, context_length=128))
    words = tokeniser.roles(ours)
    own, none = (presets.build(one, words, seed=1) for one in (ModelConfig(from_checkpoint=given), config))
    assert [own.config.resid_pdrop, own.config.attn_pdrop, own.config.embd_pdrop] == [0.2] * 3
    assert [none.config.resid_pdrop, none.config.attn_pdrop, none.config.embd_pdrop] == [0.0] * 3
    with torch.no_grad():
        assert not torch.equal(own.train()(IDS).logits, own(IDS).logits) and torch.equal(
            none.train()(IDS).logits, none(IDS).logits
        )


def test_other_kinds_of_models_are_counted_and_continued_too(tmp_path: Path, ours: str) -> None:
    words = tokeniser.roles(ours)
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    roberta = RobertaForMaskedLM(RobertaConfig(**sizes, max_position_embeddings=34, pad_token_id=1))
    mistral = MistralForCausalLM(MistralConfig(**sizes, num_key_value_heads=2, head_dim=16, max_position_embeddings=64))
    for model, is_masked, context in ((roberta, True, 32), (mistral, False, 64)):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        config = ModelConfig(from_checkpoint=str(folder))
        assert (presets.masked(config), presets.context_length(config)) == (is_masked, context)
        # its own 320 rows, not the data's 300
        assert presets.num_parameters(config, words.vocab_size) == sum(one.numel() for one in model.parameters())
        assert torch.equal(logits(presets.build(config, words, seed=1)), logits(model))
    width = 4 * 16 * 2
    weights = sum(one.numel() for one in mistral.parameters() if one.dim() > 1) - 320 * 32
    assert presets.flops_per_token(ModelConfig(from_checkpoint=str(tmp_path / "MistralForCausalLM")), 320) == (
        6 * weights + 12 * width * 64
    )


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def said(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (pickled, r"no weights in safetensors .* only pytorch_model.bin, a pickle"),
        (cut, "transformers does not load it"),
        (said(num_hidden_layers=3), r"weights are missing that LlamaForCausalLM has \(model.layers.2"),
        (said(architectures=["T5ForConditionalGeneration"]), "neither continues texts nor guesses masked tokens"),
        (said(architectures=["LlamaForSequenceClassification"]), "neither continues texts nor guesses masked tokens"),
        (said(model_type="mill", auto_map={"AutoConfig": "own.Own"}), "transformers does not load it"),
        (said(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
        (lambda folder: (folder / "config.json").write_text("{}"), "names no model_type"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json that can be read"),
        (lambda folder: shutil.rmtree(folder), "no such folder"),
    ],
)
def test_what_cannot_be_continued_is_refused_with_its_reason(harm: Any, message: str, tmp_path: Path, ours: str) -> None:
    given = checkpoint(tmp_path / "given", ours)
    config = ModelConfig(from_checkpoint=given)
    harm(tmp_path / "given")
    with pytest.raises(InputError, match=message) as told:
        presets.build(config, tokeniser.roles(ours), seed=1, tokeniser_folder=ours)
    assert str(told.value).startswith(f"pretrain.model.from_checkpoint: {given}: ")


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a model of BertModel neither"):
        presets.masked(ModelConfig(from_checkpoint=str(tmp_path)))


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRISTMILL_STORAGE", str(tmp_path / "store"))
    yield tmp_path / "store"


def test_a_trained_version_is_found_by_its_path_in_the_store_and_by_its_folder(own_store: Path, ours: str) -> None:
    checkpoint(own_store / "pretrain" / "0123" / "model", ours)
    found = [presets.digests(ModelConfig(from_checkpoint=one)) for one in ("pretrain/0123", str(own_store / "pretrain" / "0123"))]
    assert found[0] == found[1] and set(found[0]) == {
        f"checkpoint/{name}"
        for name in (
            *("config.json", "generation_config.json", "model.safetensors"),
            *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
        )
    }
    assert presets.context_length(ModelConfig(from_checkpoint="pretrain/0123")) == 64


def test_other_weights_are_another_recipe(tmp_path: Path, ours: str) -> None:
    given = checkpoint(tmp_path / "given", ours)
    before = presets.digests(ModelConfig(from_checkpoint=given))
    (tmp_path / "given" / "notes.txt").write_text("read by nobody")
    assert presets.digests(ModelConfig(from_checkpoint=given)) == before
    model = presets.build(ModelConfig(**TINY), tokeniser.roles(ours), seed=8)
    model.save_pretrained(tmp_path / "given")
    after = presets.digests(ModelConfig(from_checkpoint=given))
    assert {name for name in after if after[name] != before[name]} == {"checkpoint/model.safetensors"}
    assert presets.digests(ModelConfig()) == {}


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch, own_store: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"nobody/nothing: there is no such folder, no such version in the store, and no model"):
        presets.masked(ModelConfig(from_checkpoint="nobody/nothing"))


def test_what_a_config_says_costs_no_import_of_torch(tmp_path: Path, ours: str) -> None:
    given = checkpoint(tmp_path / "given", ours)
    script = (
        "import sys; from models import presets; from tasks.learn.config import TrainConfig\n"
        f"config = TrainConfig(model={{'from_checkpoint': {given!r}}})\n"
        "assert config.tokens_per_step == 16 * 64 and not presets.masked(config.model) and presets.digests(config.model)\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
