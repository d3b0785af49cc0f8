"""The step: which split it looks at, and, on more than one machine, by what means it is computed, which is no part of its version."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from infra import storage
from infra.dataset import RUN, Counts, ShardSet
from infra.errors import InputError
from infra.settings import settings
from models.presets import ModelConfig
from tasks import pretrain as module
from tasks.learn.config import TrainConfig
from tasks.pretrain import pretrain
from tasks.tokenise import tokenise

from .test_read_by import run_here
from .test_tokenise import SMALL, published, rows, whole

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


def test_the_split_for_validation_decides_when_training_ends_and_the_test_split_only_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "run", run_here)
    draw = random.Random(1)
    train, known = rows()[:30], [{**one, "doc_id": f"again {one['doc_id']}"} for one in rows()[:10]]
    # characters that the training hardly has: the better the English, the worse the loss on them
    strange = [{**one, "text": "".join(draw.choices("QXZ#%@0123456789", k=300))} for one in rows()[-5:]]
    config = CONFIG.model_copy(update={"learning_rate": 3e-2, "max_steps": 15, "early_stopping": 2, "eval_every_steps": 3})
    facts = [
        pretrain(tokenise(version, config=SMALL), config=config).manifest().facts
        for version in (published("with", [train], strange, known), published("without", [train], strange))
    ]
    assert [one["valid_split"] for one in facts] == ["validation", "test"]
    assert facts[0]["kept_step"] == facts[0]["steps"] == config.max_steps and not facts[0]["stopped_early"]
    assert facts[1]["kept_step"] < facts[1]["steps"] < config.max_steps and facts[1]["stopped_early"]
    assert facts[0]["valid_loss"] < facts[1]["valid_loss"] - 1


@pytest.mark.parametrize(
    ("num_tokens", "looked_at"),
    [
        ({"train": 9, "validation": 1, "test": 5}, "validation"),
        ({"train": 9, "validation": 1, "test": 0}, "validation"),
        ({"train": 9, "validation": 0, "test": 5}, "test"),
        ({"train": 9, "test": 5}, "test"),
        ({"train": 9, "validation": 0, "test": 0}, None),
        ({"train": 0, "validation": 1, "test": 5}, None),
    ],
)
def test_a_split_without_a_token_is_not_looked_at(num_tokens: dict[str, int], looked_at: str | None) -> None:
    facts = {f"num_tokens.{name}": num for name, num in num_tokens.items()}
    if looked_at:
        assert module._valid_split(facts) == looked_at
    else:
        missing = "test" if num_tokens["train"] else "train"
        with pytest.raises(InputError, match=rf"the {missing} split has no token.*split\.test_share, split\.validation_share"):
            module._valid_split(facts)


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
        patched.setattr("infra.trainings.report", interrupt)
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
