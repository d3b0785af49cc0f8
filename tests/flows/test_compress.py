"""The steps that make a model smaller: int8, pruning, a student, files for other programs, and what may be lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from expectations.verdict import GateFailed
from infra.dataset import RUN, ShardSet, name_of
from infra.errors import InputError
from infra.storage import read_json
from models.gguf_file import read
from models.loading import load_causal
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks import pretrain as of_training
from tasks.distil import distil
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.learn.compress_config import DistilConfig, ExportConfig, HeldOutConfig, PruneConfig, QuantiseConfig, SpeedConfig
from tasks.learn.config import EvaluateConfig, RobustnessConfig, SampleConfig
from tasks.learn.job import TrainingDied
from tasks.prune import TABLE, prune
from tasks.quantise import quantise
from tasks.tokenise import tokenise
from tasks.weigh import WEIGHED, WeighConfig, weigh

from . import english
from .test_evaluate import document, published, trained
from .test_read_by import run_here

HELD_OUT = HeldOutConfig(num_threads=1)
EVALUATED = EvaluateConfig(
    num_threads=1,
    device="cpu",
    suite=None,
    samples=SampleConfig(prompts=("The mill",), max_new_tokens=3),
    robustness=RobustnessConfig(perturbations=()),
    overlap_words=None,
)
INT8 = QuantiseConfig(held_out=HELD_OUT, speed=SpeedConfig(batch_sizes=(1,), new_tokens=4, prompt_tokens=8, rounds=1))
PRUNED = PruneConfig(held_out=HELD_OUT, sparsities=(0.2, 0.5, 0.9), keep=0.5)


class Made(NamedTuple):
    tokens: ShardSet
    model: ShardSet
    int8: ShardSet
    pruned: ShardSet
    scores: dict[str, ShardSet]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("GRISTMILL_MLFLOW_URL", raising=False)
        train = [document(english.text(number)[:600], "web", "en") for number in range(40)]
        held_out = [document(english.text(number)[:300], "web", "en") for number in range(100, 140)]
        tokens = tokenise(published(train, held_out), config=TokeniserConfig(vocab_size=400, sample_bytes=9_000))
        model = trained(tokens, 100)
        int8, pruned = quantise(model, tokens, config=INT8), prune(model, tokens, config=PRUNED)
        scores = {
            name: evaluate(one, tokens, config=EVALUATED) for name, one in (("model", model), ("int8", int8), ("pruned", pruned))
        }
        yield Made(tokens, model, int8, pruned, scores)


def test_int8_is_a_model_like_any_other_that_is_smaller_and_hardly_worse(made: Made) -> None:
    facts, scored = made.int8.manifest().facts, made.scores["int8"].manifest().facts
    assert facts["after.weight_bytes"] < 0.32 * facts["before.weight_bytes"]
    assert 0.999 < facts["perplexity_ratio"] < 1.01 and facts["perplexity_ratio"] != 1
    # as `evaluate` finds it, which loads it by itself
    assert scored["perplexity"] == pytest.approx(facts["after.perplexity"], rel=1e-9)
    assert made.scores["model"].manifest().facts["perplexity"] == pytest.approx(facts["before.perplexity"], rel=1e-9)
    assert scored["efficiency.parameters"] == made.scores["model"].manifest().facts["efficiency.parameters"]
    ran = read_json(made.int8.file(RUN))
    assert all(ran[f"{when}.tokens_per_s.{what}.1"] > 0 for when in ("before", "after") for what in ("generation", "prefill"))
    with pytest.raises(ValueError, match=r"held_out\.device must be cpu"):
        QuantiseConfig.model_validate({"held_out": {"device": "auto"}})
    with pytest.raises(InputError, match="int8 already"):
        quantise(made.int8, made.tokens, config=INT8)
    with pytest.raises(InputError, match="no matrices of float weights"):
        prune(made.int8, made.tokens, config=PRUNED)


def test_the_table_tells_what_each_sparsity_costs_and_the_model_of_one_is_kept(made: Made) -> None:
    rows = json.loads(made.pruned.read_file(TABLE))
    facts = made.pruned.manifest().facts
    assert [row["sparsity"] for row in rows] == [0.0, 0.2, 0.5, 0.9]
    assert [row["zeros"] for row in rows] == pytest.approx([0, 0.2, 0.5, 0.9], abs=1e-3)
    costs = [row["perplexity"] for row in rows]
    assert costs == sorted(costs) and costs[3] > 1.5 * costs[0]
    assert made.scores["pruned"].manifest().facts["perplexity"] == pytest.approx(costs[2], rel=1e-9)
    assert facts["after.perplexity"] == costs[2] == facts["perplexity.at.0.5"]
    assert facts["after.num_parameters"] == facts["before.num_parameters"]


def test_a_narrower_model_is_smaller_and_units_that_are_used_least_cost_least(made: Made) -> None:
    config = PRUNED.model_copy(update={"method": "width", "sparsities": (0.25,), "keep": 0.25, "speed": INT8.speed})
    facts = prune(made.model, made.tokens, config=config).manifest().facts
    assert facts["after.num_parameters"] < facts["before.num_parameters"] and facts["zeros"] == 0
    assert facts["after.weight_bytes"] < facts["before.weight_bytes"]
    assert 1 < facts["perplexity_ratio"] < 1.5
    halved = prune(made.model, made.tokens, config=PRUNED.model_copy(update={"method": "two_of_four"})).manifest().facts
    assert halved["zeros"] == pytest.approx(0.5, abs=1e-6) and halved["perplexity_ratio"] > 1
    with pytest.raises(ValueError, match="must be one of sparsities"):
        PruneConfig(keep=0.4)


def test_exports_are_read_back_by_transformers_with_the_same_logits_and_tokens(made: Made, tmp_path: Path) -> None:
    ids = torch.arange(30)[None]
    original, words = load_causal(made.model.file("model"))
    for form, dtype, most in (("gguf", "f32", 0.0), ("gguf", "f16", 0.01), ("gguf", "q8_0", 0.3), ("safetensors", "f32", 0.0)):
        version = export(made.model, config=ExportConfig(format=form, dtype=dtype, name="mill"))
        assert version.manifest().facts["max_logit_difference"] <= most
        folder = Path(version.file("export"))
        again, read_words = read(folder / f"mill-{dtype}.gguf") if form == "gguf" else load_causal(folder)
        assert (again(input_ids=ids).logits - original(input_ids=ids).logits).abs().max().item() <= most
        assert words.eos_token == read_words.eos_token
        for text in ("The mill's 12345 grains\n\n  turn,", "café 日本語 🌾<|endoftext|>"):
            assert words(text)["input_ids"] == read_words(text)["input_ids"]
            assert read_words.decode(read_words(text)["input_ids"]) == text
    for form in ("gguf", "safetensors"):
        with pytest.raises(InputError, match="int8 of ours"):
            export(made.int8, config=ExportConfig(format=form, dtype="f32"))


def test_what_has_lost_more_than_is_allowed_is_refused_with_its_figures_and_limits(made: Made) -> None:
    limits = WeighConfig(limits={"heldout.perplexity": 0.02, "heldout.accuracy": 0.02})
    passed = weigh([made.scores["int8"]], [made.scores["model"]], config=limits)
    facts = passed.manifest().facts
    assert (facts["gate"], facts["num_weighed"]) == ("passed", 2)
    assert facts["loss.heldout.perplexity"] == pytest.approx(
        made.scores["int8"].manifest().facts["perplexity"] - made.scores["model"].manifest().facts["perplexity"]
    )
    with pytest.raises(GateFailed, match=r"heldout\.perplexity: worse, .*allowed by weigh\.limits\['heldout\.perplexity'\]"):
        weigh([made.scores["pruned"]], [made.scores["model"]], config=limits)
    generous = WeighConfig(limits={"heldout.perplexity": 9.0})
    assert weigh([made.scores["pruned"]], [made.scores["model"]], config=generous).manifest().facts["gate"] == "passed"
    # the original beside the compressed one has lost nothing
    assert weigh([made.scores["model"]], [made.scores["pruned"]], config=limits).manifest().facts["gate"] == "passed"


def test_what_cannot_be_weighed_is_told(made: Made) -> None:
    few = evaluate(made.pruned, made.tokens, config=EVALUATED.model_copy(update={"max_documents": 3}))
    limits = {"heldout.perplexity": 0.02}
    rows = json.loads(weigh([few], [made.scores["model"]], config=WeighConfig(limits=limits)).read_file(WEIGHED))["rows"]
    assert rows[0]["verdict"] == "undecided" and "too small to tell" in rows[0]["told"]
    with pytest.raises(GateFailed, match="too small to tell"):
        weigh([few], [made.scores["model"]], config=WeighConfig(limits=limits, refuse_undecided=True))
    with pytest.raises(InputError, match=r"weigh\.limits: tasks\.x: no such figure was measured"):
        weigh([few], [made.scores["model"]], config=WeighConfig(limits={"tasks.x": 0.1}))
    asked = evaluate(made.model, made.tokens, config=EVALUATED.model_copy(update={"precision": "bf16"}))
    with pytest.raises(GateFailed, match=r"other settings .*evaluate both in the same way"):
        weigh([asked], [made.scores["model"]], config=WeighConfig(limits=limits))


def test_a_student_is_a_version_with_its_teacher_in_the_recipe(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_training, "run", run_here)
    shape: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 64}
    steps: dict[str, Any] = {"max_steps": 12, "warmup_steps": 2, "batch_size": 4, "num_threads": 1, "device": "cpu"}
    config = DistilConfig(model=ModelConfig(**shape, context_length=32), precision="fp32", **steps)
    student = distil(made.model, made.tokens, config=config)
    manifest = student.manifest()
    assert manifest.recipe["inputs"]["teacher"] == name_of(made.model)
    assert manifest.facts["after.num_parameters"] < 0.5 * manifest.facts["before.num_parameters"]
    assert load_causal(student.file("model"))[0].config.hidden_size == 32
    again = config.model_copy(update={"model": ModelConfig(from_checkpoint=made.pruned.file("model")), "max_steps": 3})
    assert distil(made.model, made.tokens, config=again).manifest().facts["family"] == "llama"


@pytest.mark.soak
def test_a_distillation_that_was_killed_becomes_the_version_that_it_would_have_become(made: Made, tmp_path: Path) -> None:
    shape: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 64}
    means: dict[str, Any] = {"num_threads": 1, "device": "cpu", "precision": "fp32", "checkpoint_every_steps": 5}
    model = ModelConfig(**shape, context_length=32)
    config = DistilConfig(model=model, max_steps=60, warmup_steps=2, batch_size=4, **means)

    def kill(done: int, *_: Any) -> None:
        if done >= 12:
            [process] = [one for one in psutil.Process().children() if "tasks.learn.training" in one.cmdline()]
            process.kill()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingDied):
        patch.setattr("infra.trainings.report", kill)
        distil.run([made.model, made.tokens], config, str(tmp_path / "killed"))
    killed = distil.run([made.model, made.tokens], config, str(tmp_path / "killed")).shards
    alone = distil.run([made.model, made.tokens], config, str(tmp_path / "alone")).shards
    assert killed.digest == alone.digest
