from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from models import presets, tokeniser
from models.presets import ModelConfig
from models.tokeniser import Roles
from tasks.learn import checkpoint, parallel
from tasks.learn.checkpoint import BadCheckpoint

TINY = ModelConfig(preset="nano", hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=64)
WORDS = Roles(vocab_size=300, end=0, padding=None, unknown=None)
INPUT = torch.arange(40).reshape(2, 20)


def trained(seed: int = 1) -> tuple[LlamaForCausalLM, torch.optim.AdamW]:
    model = presets.build(TINY, WORDS, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    model(input_ids=INPUT, labels=INPUT).loss.backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, tokeniser_folder: str) -> tuple[Path, LlamaForCausalLM, torch.optim.AdamW]:
    model, optimizer = trained()
    saved = checkpoint.save(
        folder,
        step,
        model=model,
        weights=parallel.whole_state(model),
        tokeniser_folder=tokeniser_folder,
        moments=parallel.optimizer_state(optimizer, model),
        average={"w": torch.arange(3.0)},
        state={"step": step, "loss": 0.1 + 0.2},
    )
    return saved, model, optimizer


@pytest.fixture
def folder(checkpoints: Path) -> Path:
    checkpoints.mkdir()
    return checkpoints


def test_transformers_loads_a_checkpoint_with_the_very_same_logits(folder: Path, tokeniser_folder: str) -> None:
    path, model, _ = save(folder, 5, tokeniser_folder)
    loaded = AutoModelForCausalLM.from_pretrained(path / "model", local_files_only=True)
    assert torch.equal(loaded(input_ids=INPUT).logits, model(input_ids=INPUT).logits)
    words = AutoTokenizer.from_pretrained(path / "model", local_files_only=True)
    assert words("read the file")["input_ids"] == tokeniser.load(tokeniser_folder).encode("read the file").ids
    assert (loaded.config.eos_token_id, words.eos_token_id) == (0, 0)


def test_weights_moments_average_and_state_come_back_bit_for_bit(folder: Path, tokeniser_folder: str) -> None:
    path, model, optimizer = save(folder, 5, tokeniser_folder)
    other = presets.build(TINY, WORDS, seed=2)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=1.0, fused=True)
    weights = checkpoint.read_weights(path)
    for name, tensor in other.named_parameters():
        parallel.put(tensor, weights[name])
    parallel.restore_optimizer(other_optimizer, other, checkpoint.read_moments(path))
    assert checkpoint.read_state(path) == {"step": 5, "loss": 0.1 + 0.2}
    assert torch.equal(checkpoint.read_average(path)["w"], torch.arange(3.0))
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert optimizer.state[mine].keys() == other_optimizer.state[theirs].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in optimizer.state[mine].items():
            assert torch.equal(value, other_optimizer.state[theirs][name])


def test_counters_lie_where_fused_kernels_want_them_and_else_on_the_cpu() -> None:
    model, optimizer = trained()
    moments = parallel.optimizer_state(optimizer, model)
    # "meta" stands for a GPU: only where things are is looked at
    elsewhere = presets.build(TINY, WORDS, seed=1).to("meta")
    plain = torch.optim.AdamW(elsewhere.parameters())
    for one, device in ((optimizer, "meta"), (plain, "cpu")):
        one.state.clear()
        parallel.restore_optimizer(one, elsewhere, moments)
        assert {state["step"].device.type for state in one.state.values()} == {device}
        assert {state["exp_avg"].device.type for state in one.state.values()} == {"meta"}


def test_only_the_newest_two_are_kept_and_the_newest_is_found(folder: Path, tokeniser_folder: str) -> None:
    assert checkpoint.latest(folder) is None
    for step in (1, 20, 100):
        save(folder, step, tokeniser_folder)
    assert [path.name for path in sorted(folder.iterdir())] == ["checkpoint-00000020", "checkpoint-00000100"]
    assert checkpoint.latest(folder) == folder / "checkpoint-00000100"


def test_a_half_written_checkpoint_is_not_seen_and_is_removed(folder: Path, tokeniser_folder: str) -> None:
    save(folder, 1, tokeniser_folder)
    half = folder / ".tmp-checkpoint-00000002"
    (half / "model").mkdir(parents=True)
    assert checkpoint.latest(folder) == folder / "checkpoint-00000001"
    checkpoint.tidy(folder)
    assert not half.exists() and checkpoint.latest(folder) == folder / "checkpoint-00000001"


def test_of_the_best_models_the_last_one_stays_and_those_that_are_needed(folder: Path, tokeniser_folder: str) -> None:
    for step, needed in ((2, ()), (3, (2,)), (5, (3, 0)), (7, ())):
        model, _ = trained(step)
        weights = parallel.whole_state(model)
        made = checkpoint.save_best(folder, step, model=model, weights=weights, tokeniser_folder=tokeniser_folder, needed=needed)
        assert made == checkpoint.best(folder, step)
        assert {path.name for path in folder.iterdir()} == {
            made.name,
            *(checkpoint.best(folder, one).name for one in needed if one),
        }
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint.best(folder, 7) / "model", local_files_only=True)
    assert torch.equal(loaded(input_ids=INPUT).logits, model(input_ids=INPUT).logits)


@pytest.mark.parametrize("name", ["optimizer.safetensors", "average.safetensors", "state.json", "model/model.safetensors"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(folder: Path, tokeniser_folder: str, name: str) -> None:
    path, _, _ = save(folder, 1, tokeniser_folder)
    (path / name).write_bytes((path / name).read_bytes()[:10])
    with pytest.raises(BadCheckpoint, match="remove it to go on from the one before"):
        for read in (checkpoint.read_state, checkpoint.read_weights, checkpoint.read_moments, checkpoint.read_average):
            read(path)
