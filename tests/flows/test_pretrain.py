"""The step on more than one machine: by what means it is computed is no part of its version, and is noted beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra import storage
from infra.dataset import RUN, Counts, ShardSet
from infra.settings import settings
from models.presets import ModelConfig
from tasks import pretrain as module
from tasks.learn.config import TrainConfig
from tasks.pretrain import pretrain
from tasks.tokenise import tokenise

from .test_tokenise import SMALL, whole

CONFIG = TrainConfig(
    model=ModelConfig(preset="nano", hidden_size=32, num_layers=1, intermediate_size=64, context_length=32),
    max_steps=24,
    warmup_steps=2,
    batch_size=4,
    eval_every_steps=8,
    eval_batches=2,
    checkpoint_every_steps=4,
    log_every_steps=1,
    num_threads=1,
    device="cpu",
    precision="fp32",
)
OTHER_MEANS: dict[str, Any] = {
    "ranks": 2,
    "parallel": "fsdp",
    "num_threads": 2,
    "device": "auto",
    "loss_chunk": 64,
    "activation_checkpointing": True,
    "compile": True,
}


def test_other_ranks_threads_or_devices_are_the_same_version_and_another_precision_is_not() -> None:
    tokens = ShardSet(
        step="tokenise",
        version="0" * 16,
        path="tokenise/0",
        schema_name="token_documents",
        digest="0",
        counts=Counts(),
        num_shards=0,
    )
    recipe = pretrain.recipe([tokens], CONFIG)
    for name, value in OTHER_MEANS.items():
        assert pretrain.recipe([tokens], CONFIG.model_copy(update={name: value})) == recipe, name
    assert pretrain.recipe([tokens], CONFIG.model_copy(update={"precision": "bf16"})) != recipe


@pytest.mark.soak
def test_two_ranks_are_interrupted_and_one_goes_on_in_the_same_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    tokens = tokenise(whole(), config=SMALL)

    class Interrupted(Exception):
        pass

    def interrupt(done: int, *_: Any) -> None:
        if done >= 10:
            raise Interrupted

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(module, "report", interrupt)
        pretrain(tokens, config=CONFIG.model_copy(update={"ranks": 2, "parallel": "fsdp"}))
    [begun] = storage.list_folder(storage.join(settings().store, "pretrain"))

    made = pretrain(tokens, config=CONFIG)
    assert made.version == begun
    run = storage.read_json(made.file(RUN))
    first, then = run["machines"]
    assert (first["after_step"], first["ranks"], first["parallel"]) == (0, 2, "fsdp")
    assert then["ranks"] == 1 and then["after_step"] >= 8 and then["after_step"] % 4 == 0
    assert run["settings"]["ranks"] == 1 and "ranks" not in made.manifest().recipe["config"]
    # the same settings elsewhere, by one process from its beginning
    alone = pretrain.run([tokens], CONFIG, str(tmp_path / "alone")).shards.manifest().facts
    assert made.manifest().facts["valid_loss"] == pytest.approx(alone["valid_loss"], rel=1e-4)
    # finished, it is loaded whatever the means
    assert pretrain.run([tokens], CONFIG.model_copy(update=OTHER_MEANS)).loaded
