"""Going on from a trained version by the step itself: nothing is lost at its first step, and other weights are another version."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra import dataset
from infra.errors import InputError
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.learn.config import TrainConfig
from tasks.pretrain import pretrain
from tasks.tokenise import tokenise

from .test_tokenise import SMALL, published, rows, whole

SHAPE = ModelConfig(preset="nano", hidden_size=32, num_layers=1, intermediate_size=64, context_length=32)
# a step that changes nothing that a loss would show
STILL = {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-12, "weight_decay": 0.0, "eval_batches": 4, "batch_size": 4}


@pytest.mark.soak
def test_a_trained_version_is_continued_where_it_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    still = TrainConfig(model=SHAPE, **STILL, num_threads=1, device="cpu", precision="fp32")  # type: ignore[arg-type]
    tokens = tokenise(whole(), config=SMALL)
    learning = {"max_steps": 40, "warmup_steps": 4, "learning_rate": 3e-3, "keep": "last"}
    first = pretrain(tokens, config=still.model_copy(update=learning))
    before = first.manifest().facts

    # by the path in the store, as a person would name it
    going_on = ModelConfig(from_checkpoint=first.path)
    second = pretrain(tokens, config=still.model_copy(update={"model": going_on}))
    facts = second.manifest().facts
    assert facts["valid_loss"] == pytest.approx(before["valid_loss"], abs=1e-5)
    assert facts["num_parameters"] == before["num_parameters"]
    fresh = pretrain(tokens, config=still)
    assert (
        fresh.manifest().facts["valid_loss"] > before["valid_loss"] + 0.3
    )  # the control: without the checkpoint nothing is known
    files = second.manifest().recipe["files"]
    assert "checkpoint/model.safetensors" in files and not first.manifest().recipe["files"]

    # the data of another tokeniser: refused, or with rows of the tokens that both know
    others = tokenise(published("other", [rows()[:40]], rows()[-5:]), config=TokeniserConfig(vocab_size=420, sample_bytes=9_000))
    with pytest.raises(InputError, match=r"another id there or none; set tokenise.tokeniser"):
        pretrain(others, config=still.model_copy(update={"model": going_on}))
    anew = going_on.model_copy(update={"new_vocabulary": True})
    third = pretrain(others, config=still.model_copy(update={"model": anew})).manifest().facts
    blank = pretrain(others, config=still).manifest().facts
    assert third["valid_loss"] < blank["valid_loss"] - 0.1
    assert dataset.read_manifest(second.folder).version != first.version
