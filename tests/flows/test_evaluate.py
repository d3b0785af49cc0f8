"""The steps `evaluate` and `compare`, and the gate before the champion: with an overfitted model, and one that was hardly trained."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from expectations.schemas import CERTIFICATE, PUBLISHED
from expectations.verdict import GateFailed
from flows import compare_models, promotion
from flows.__main__ import _flow_inputs
from flows.config import RunConfig
from flows.evaluate import evaluate as evaluate_flow
from flows.validation import validate_path
from infra import dataset, ids, ledger, storage
from infra.cluster import DaskConfig
from infra.dataset import Outcome, ShardSet
from infra.errors import InputError
from infra.leaderboard import SCORES_TAG
from models.tokeniser import TokeniserConfig
from tasks.adopt import AdoptConfig, adopt
from tasks.compare import COMPARISON, compare
from tasks.evaluate import evaluate
from tasks.learn import metrics
from tasks.learn.calibration import ece
from tasks.learn.config import EvaluateConfig, GateConfig, RobustnessConfig, SampleConfig
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import read_shard
from tasks.report import DIMENSIONS, ReportConfig, report
from tasks.tokenise import tokenise

from . import english

GERMAN = "Der alte Müller sagte gestern, dass die Mühle Nummer {} am großen Fluss das Korn der Bauern mahlt."
SAMPLES = SampleConfig(prompts=("The mill",), max_new_tokens=3)
CONFIG = EvaluateConfig(num_threads=1, device="cpu", samples=SAMPLES)
BITS = "heldout.bits_per_byte"
TRAINED, DIRTY = 12, 5


def document(text: str, source: str, language: str) -> dict[str, Any]:
    return {"doc_id": ids.text_digest(text), "text": text, "source": source, "language": language, "url": "http://h.example/"}


def published(train: list[dict[str, Any]], held_out: list[dict[str, Any]], certificate: str = "") -> ShardSet:
    """A published version of two training shards, one held out and one for validation, perhaps with what its certificate says."""
    recipe = {"step": "publish", "inputs": {}, "config": {"title": f"{len(train)} and {len(held_out)}"}}
    folder = storage.join(dataset.folder_of("publish"), dataset.version_of(recipe))
    tables = [pa.Table.from_pylist(part, schema=PUBLISHED) for part in (train[:3], train[3:], held_out, train[:1])]
    receipts = [dataset.write_shard(folder, number, Outcome(one)) for number, one in enumerate(tables)]
    facts, files = {"splits": {"train": [0, 1], "validation": [3], "test": [2]}}, []
    if certificate:
        storage.write_json(storage.join(folder, CERTIFICATE), {"statement": certificate})
        files = [dataset.file_entry(folder, CERTIFICATE)]
    dataset.seal(folder, step="publish", schema_name="published", recipe=recipe, receipts=receipts, files=files, facts=facts)
    return dataset.open_version(folder)


def trained(tokens: ShardSet, steps: int) -> ShardSet:
    """A trained version: a plain loop over windows of the training documents, so that the control is not what it controls."""
    recipe = {"step": "pretrain", "inputs": {"tokens": dataset.name_of(tokens)}, "config": {"steps": steps}}
    folder = Path(dataset.folder_of("pretrain"), dataset.version_of(recipe))
    stream = np.concatenate([read_shard(tokens.folder, index).tokens for index in (0, 1)]).astype(np.int64)
    shape: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    chance = np.random.default_rng(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=400, max_position_embeddings=32, tie_word_embeddings=True, **shape))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(steps):
            windows = chance.integers(0, len(stream) - 32, (8, 1)) + np.arange(32)
            batch = torch.from_numpy(stream[windows])
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder / "model")
    for file in Path(tokens.file("tokeniser")).iterdir():
        shutil.copy(file, folder / "model")
    files = [dataset.file_entry(str(folder), f"model/{file.name}") for file in (folder / "model").iterdir()]
    facts = {"family": "llama", "objective": "causal", "num_parameters": model.num_parameters()}
    dataset.seal(str(folder), step="pretrain", schema_name="model", recipe=recipe, receipts=[], files=files, facts=facts)
    return dataset.open_version(str(folder))


class Made(NamedTuple):
    tokens: ShardSet
    overfitted: ShardSet
    fresh: ShardSet
    scores: dict[str, ShardSet]
    """Of either, and `few`: of the overfitted one on ten documents, with more typos."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("GRISTMILL_MLFLOW_URL", raising=False)
        train = [document(english.text(number)[:500], "web", "en") for number in range(TRAINED)]
        held_out = [document(english.text(number)[:300], "web", "en") for number in range(100, 135)]
        held_out += [document(GERMAN.format(number), "books", "de") for number in range(35)]
        held_out += [
            document(f"{english.text(number)[:80]} {one['text'][:200]}", "web", "en")
            for number, one in zip(range(200, 200 + DIRTY), train, strict=False)
        ]
        tokens = tokenise(published(train, held_out), config=TokeniserConfig(vocab_size=400, sample_bytes=9_000))
        models = {name: trained(tokens, steps) for name, steps in (("overfitted", 300), ("fresh", 30))}
        scores = {name: evaluate(model, tokens, config=CONFIG) for name, model in models.items()}
        few = CONFIG.model_copy(update={"max_documents": 10, "robustness": RobustnessConfig(typo_rate=0.3)})
        scores["few"] = evaluate(models["overfitted"], tokens, config=few)
        scores["few fresh"] = evaluate(models["fresh"], tokens, config=few)
        yield Made(tokens, models["overfitted"], models["fresh"], scores)


def told(version: ShardSet) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(version.read_file("scores.json"))
    return found


def figures(version: ShardSet) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in told(version)["figures"]}


def test_the_overfitted_model_is_better_on_what_it_was_trained_on_and_worse_on_what_was_held_out(made: Made) -> None:
    shards = [read_shard(made.tokens.folder, index) for index in (0, 1)]
    on_training = {
        name: metrics.evaluate(Scorer(model.file("model"), CONFIG), shards, CONFIG).model.bits_per_byte
        for name, model in (("overfitted", made.overfitted), ("fresh", made.fresh))
    }
    assert on_training["overfitted"] < 0.7 * on_training["fresh"]
    beside = json.loads(compare([made.scores["overfitted"]], [made.scores["fresh"]], config=GateConfig()).read_file(COMPARISON))
    rows = {row["name"]: row for row in beside["rows"]}
    assert rows[f"{BITS}.half.clean"]["verdict"] == "worse" and rows[f"{BITS}.half.clean"]["low"] > 0
    assert rows[BITS]["verdict"] == "worse" and rows[BITS]["n"] == 75 and rows[BITS]["paired"]
    assert rows["calibration.ece"]["verdict"] == "worse"
    # of what it has learnt by heart, half is in the dirty documents
    assert figures(made.scores["overfitted"])["contamination.bits_per_byte"]["high"] < 0


def test_every_figure_has_its_items_interval_and_number(made: Made) -> None:
    scores = made.scores["overfitted"]
    found = figures(scores)
    items = pq.read_table(pa.BufferReader(scores.read_file("items.parquet")))
    facts = scores.manifest().facts
    assert found["heldout.perplexity"]["value"] == pytest.approx(facts["perplexity"])
    assert found[BITS]["value"] == pytest.approx(facts["bits_per_byte"]) == pytest.approx(facts[BITS])
    assert {name: found[f"{BITS}.{name}"]["n"] for name in ("source.web", "source.books", "language.en", "language.de")} == {
        "source.web": 40, "source.books": 35, "language.en": 40, "language.de": 35,
    }  # fmt: skip
    assert (found[f"{BITS}.half.dirty"]["n"], found[f"{BITS}.half.clean"]["n"]) == (DIRTY, 70)
    assert found[f"{BITS}.half.dirty"]["small"] and not found[f"{BITS}.half.clean"]["small"]
    of_groups = [found[f"{BITS}.language.{name}"]["value"] for name in ("en", "de")]
    assert found["fairness.bits_per_byte.language"]["value"] == pytest.approx(max(of_groups) - min(of_groups))
    assert facts["verdict"] == "passed" and facts["perplexity_of_uniform"] == pytest.approx(facts["perplexity"] / 400)
    assert made.scores["few"].manifest().facts["verdict"] == "warning"  # most figures are too small to tell
    for name, one in found.items():
        assert one["low"] <= one["value"] <= one["high"], name
        mine = items.filter(pa.compute.equal(items["metric"], name))
        if one["form"] in ("mean", "exp") and mine.num_rows:
            ratio = pa.compute.divide(pa.compute.sum(mine["amount"]), pa.compute.sum(mine["weight"]))
            value = pa.compute.exp(ratio) if one["form"] == "exp" else ratio
            assert value.as_py() == pytest.approx(one["value"]), name
    table = pq.read_table(scores.file("part-00000.parquet"))
    assert table["name"].to_pylist() == list(found)


def test_dirty_documents_and_the_certificate_are_told(made: Made) -> None:
    assert told(made.scores["fresh"])["contamination"] == {
        "certificate": "not tested",
        "overlap": {"words": 13, "dirty": DIRTY, "clean": 70, "too_short": 0},
    }
    unasked = CONFIG.model_copy(update={"overlap_words": None, "robustness": RobustnessConfig(perturbations=())})
    without = evaluate(made.fresh, made.tokens, config=unasked)
    assert told(without)["contamination"]["overlap"] == "not looked for"
    assert not [name for name in figures(without) if "half" in name or name.startswith(("robustness", "contamination"))]


def test_what_the_certificate_of_the_documents_says_stands_beside_the_scores(made: Made) -> None:
    train = [document(english.text(number)[:300], "web", "en") for number in range(4)]
    held_out = [document(english.text(number)[:300], "web", "en") for number in (50, 51)]
    tokens = tokenise(
        published(train, held_out, "No item of 2 evaluation sets was found."),
        config=TokeniserConfig(tokeniser=made.tokens.file("tokeniser")),
    )
    scores = evaluate(made.fresh, tokens, config=CONFIG.model_copy(update={"suite": None}))
    assert told(scores)["contamination"]["certificate"] == "No item of 2 evaluation sets was found."
    page = report([tokens, scores], config=ReportConfig()).read_file("report.html").decode()
    assert "Evaluation sets in the training documents: No item of 2 evaluation sets was found." in page


def test_typos_cost_bits_and_their_places_follow_from_the_seed(made: Made) -> None:
    overfitted = figures(made.scores["overfitted"])
    assert told(made.scores["overfitted"])["faults"]["lower_case"] == 75
    assert overfitted["robustness.typos.loss"]["low"] > 0
    assert overfitted["robustness.typos.bits_per_byte"]["value"] > overfitted[BITS]["value"]
    seeded = [
        figures(evaluate(made.fresh, made.tokens, config=CONFIG.model_copy(update={"robustness": RobustnessConfig(seed=seed)})))
        for seed in (1, 2)
    ]
    assert seeded[0] == figures(made.scores["fresh"])
    assert seeded[1]["robustness.typos.loss"] != seeded[0]["robustness.typos.loss"]
    assert seeded[1]["robustness.lower_case.loss"] == seeded[0]["robustness.lower_case.loss"]


def test_a_model_whose_logits_are_sharpened_is_no_worse_a_guesser_but_worse_calibrated(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.fresh.file("model"), tmp_path / "sharp")
    weights = load_file(tmp_path / "sharp" / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 4  # the logits are linear in it
    save_file(weights, tmp_path / "sharp" / "model.safetensors", metadata={"format": "pt"})
    shard = read_shard(made.tokens.folder, 2)
    results = [
        metrics.evaluate(Scorer(folder, CONFIG), [shard], CONFIG) for folder in (made.fresh.file("model"), tmp_path / "sharp")
    ]
    plain, sharp = (ece("calibration.ece", one.told.gaps, one.documents.num_tokens) for one in results)
    assert results[0].model.accuracy == results[1].model.accuracy
    assert plain.high is not None and sharp.low is not None and sharp.low > 2 * plain.high


def test_the_gate_refuses_the_worse_passes_the_equal_and_does_not_decide_by_few(made: Made) -> None:
    def verdict(challenger: str, champion: str) -> tuple[str, list[str]]:
        version = compare([made.scores[challenger]], [made.scores[champion]], config=GateConfig())
        return version.manifest().facts["gate"], json.loads(version.read_file(COMPARISON))["refusals"]

    state, [why] = verdict("overfitted", "fresh")
    assert state == "refused" and why.startswith(f"{BITS}: worse, ") and "75 items" in why
    assert verdict("fresh", "overfitted") == verdict("fresh", "fresh") == ("passed", [])
    assert verdict("few", "few fresh") == ("undecided", [])
    rows = json.loads(compare([made.scores["few"]], [made.scores["few fresh"]], config=GateConfig()).read_file(COMPARISON))[
        "rows"
    ]
    assert {row["verdict"] for row in rows} == {"too small to tell"}
    version = compare([made.scores["few"]], [made.scores["fresh"]], config=GateConfig(metrics=("robustness.*", "fairness.*")))
    told = json.loads(version.read_file(COMPARISON))
    assert {row["name"].partition(".")[0]: row["why"] for row in told["rows"] if row["verdict"] == "other settings"} == {
        "contamination": "the documents",
        "fairness": "the documents",
        "robustness": "evaluate.robustness.typo_rate 0.3 beside 0.1",
    }
    assert {line.partition(":")[0] for line in told["refusals"]} >= {"robustness.typos.loss", "fairness.bits_per_byte.source"}


def test_a_promotion_is_held_beside_the_champion_by_the_tags_of_both(made: Made) -> None:
    def row(version: str, scores: str | None) -> dict[str, Any]:
        tags = {SCORES_TAG: scores} if scores else {}
        return {"name": "mill", "version": version, "tags": tags}

    worse, champion = row("2", made.scores["overfitted"].path), row("1", made.scores["fresh"].path)
    beside = promotion.held_beside(worse, champion, GateConfig())
    assert [why.partition(":")[0] for why in beside.refusals] == [BITS] and beside.version.startswith("compare/")
    better = promotion.held_beside(champion, worse, GateConfig())
    assert (better.refusals, better.note) == ([], "")
    few = promotion.held_beside(row("2", made.scores["few"].path), row("1", made.scores["few fresh"].path), GateConfig())
    assert few.refusals == [] and few.note == f"not decided: {BITS}: too small to tell (10 items in common)"
    assert "names no kept scores" in promotion.held_beside(worse, row("1", None), GateConfig()).note
    assert "has no kept scores to compare" in promotion.held_beside(row("2", None), champion, GateConfig()).refusals[0]
    assert "not all in the store" in promotion.held_beside(worse, row("1", "evaluate/gone"), GateConfig()).refusals[0]


def test_a_run_is_evaluated_by_the_model_that_it_ended_with_though_it_adopted_it(made: Made) -> None:
    documents = dataset.opened_inputs(made.tokens)["dataset"]
    for name, versions in (("curated", [documents]), ("trained", [made.tokens, made.overfitted])):
        ledger.begin(name, "curate", "mine", {})
        with ledger.run(name):
            for version in versions:
                ledger.enter(ledger.Entry.of(version, loaded=False, seconds=0.0))
    ledger.begin("begun with theirs", "align", "mine", {})
    with ledger.run("begun with theirs"):
        adopted = adopt(config=AdoptConfig(checkpoint=made.fresh.file("model")))
    assert _flow_inputs("evaluate", "begun") == _flow_inputs("evaluate", "latest") == {"model": adopted}
    assert _flow_inputs("evaluate", "trained") == {"model": made.overfitted}
    with pytest.raises(Exception, match="run curated: has no model; run `train` or `align` before it"):
        _flow_inputs("evaluate", "curated")
    plain = CONFIG.model_copy(update={"max_documents": 3, "suite": None, "robustness": RobustnessConfig(perturbations=())})
    config = RunConfig(name="mine", dask=DaskConfig(kind="none"), evaluate=plain, benchmark=None, probe=None)
    scores = evaluate_flow.fn(config)["evaluate"]
    read = dataset.opened_inputs(scores)
    assert (read["model"], read["tokens"].digest) == (adopted, made.tokens.digest)


def test_models_are_compared_by_any_name_of_theirs(made: Made) -> None:
    one = compare_models.evaluated(f"evaluate/{made.scores['overfitted'].version}")
    assert one.figures[BITS].n == 75
    assert compare_models.evaluated(made.scores["overfitted"].digest[:12]).figures == one.figures
    with pytest.raises(InputError, match="means several evaluations"):
        compare_models.evaluated(made.overfitted.version)
    with pytest.raises(InputError, match="no scores of a model of that name"):
        compare_models.evaluated(made.tokens.version)


def test_the_report_has_helms_dimensions_and_says_what_was_not_measured(made: Made) -> None:
    compared = compare([made.scores["overfitted"]], [made.scores["fresh"]], config=GateConfig())
    page = report([made.tokens, made.scores["overfitted"], compared], config=ReportConfig())
    table = json.loads(page.read_file(DIMENSIONS))
    assert [row["dimension"] for row in table][:7] == [
        "accuracy", "calibration", "robustness", "fairness", "bias", "toxicity", "efficiency",
    ]  # fmt: skip
    assert {row["dimension"] for row in table if not row["measured"]} == {"bias", "toxicity"}
    names = {one["name"] for row in table for one in row["figures"]}
    assert {"efficiency.tokens_per_s", "efficiency.peak_memory_bytes", "efficiency.parameters"} <= names
    assert BITS in names and f"{BITS}.source.web" not in names
    html = page.read_file("report.html").decode()
    assert "not measured" in html and "The gate would not promote this model" in html and "5 of 75 held-out documents" in html


def test_figures_that_break_the_suite_stop_the_step_and_are_named(made: Made, tmp_path: Path) -> None:
    suite = json.loads(Path("expectations/scores.json").read_text()) if Path("expectations/scores.json").exists() else {}
    suite |= {"name": "mine"}
    suite["expectations"] = [
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "heldout.perplexity", "max_value": 1.5},
         "severity": "critical", "scope": "dataset", "note": "Train longer."}
    ]  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(suite))
    strict = CONFIG.model_copy(update={"suite": str(tmp_path / "mine.json"), "max_documents": 4})
    with pytest.raises(GateFailed, match=r"heldout\.perplexity.*at most 1\.5.*Train longer") as caught:
        evaluate(made.fresh, made.tokens, config=strict)
    assert "suite 'mine'" in str(caught.value)


def test_the_figures_of_a_version_are_judged_at_the_command_line(made: Made, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    verdicts = [validate_path(made.scores[name].folder, "scores", tmp_path, 1, console).value for name in ("fresh", "few")]
    assert verdicts == ["passed", "warning"]
    said = json.loads((tmp_path / "validation.json").read_text())
    rows = {row["column"]: row for row in said["checks"]}
    assert rows["heldout.perplexity"]["observed"] == figures(made.scores["few"])["heldout.perplexity"]["value"]


def test_documents_that_are_gone_are_told(made: Made, tmp_path: Path) -> None:
    source = next(dataset.inputs_there(made.tokens))
    away = Path(source.folder).rename(tmp_path / "away")
    try:
        with pytest.raises(InputError, match="whose documents the tokens tokenise/"):
            evaluate(made.fresh, made.tokens, config=CONFIG.model_copy(update={"max_documents": 3}))
    finally:
        away.rename(source.folder)
