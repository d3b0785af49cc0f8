from pathlib import Path

import pytest
import torch

from infra.errors import InputError
from models import presets, tokeniser
from models.loading import load, load_causal
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("words"))
    tokeniser.save(tokeniser.train(["read the file", "write a list of values"] * 20, TokeniserConfig(vocab_size=300)), folder)
    return folder


def made(words: str, folder: Path, family: str) -> Path:
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "context_length": 32}
    presets.build(ModelConfig(family=family, **shape), tokeniser.roles(words), seed=3).save_pretrained(folder)
    for file in Path(words).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_folder_gives_its_model_in_float32_ready_to_answer(family: str, words: str, tmp_path: Path) -> None:
    model, read = load_causal(made(words, tmp_path, family))
    ids = torch.tensor([read("read the file", add_special_tokens=False)["input_ids"]])
    assert (model.training, model.dtype) == (False, torch.float32)
    assert model(input_ids=ids).logits.shape == (1, ids.shape[1], len(read))


def test_a_masked_model_does_not_write(words: str, tmp_path: Path) -> None:
    folder = made(words, tmp_path, "bert")
    assert load(folder)[0].config.model_type == "bert"
    with pytest.raises(InputError, match="guesses masked tokens and does not write"):
        load_causal(folder)


def test_a_pickle_is_never_read(words: str, tmp_path: Path) -> None:
    folder = made(words, tmp_path, "llama")
    (folder / "model.safetensors").unlink()
    # would write a file if it were unpickled
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(InputError, match="no weights in safetensors"):
        load_causal(folder)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_a_config_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        load_causal(tmp_path)
