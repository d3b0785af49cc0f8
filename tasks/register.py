"""register: put the model into the MLflow registry with the data it was trained on and the scores it got, and write its card.

The card (`README.md`) tells everything a run knows, energy and device too, so it lies beside the version; `model.json`, which the
digest names, has only what follows from the recipe.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from expectations.cards import certificate_files, contamination_told, mixture_told
from expectations.croissant import hub_licence, sources_told
from expectations.schemas import CERTIFICATE, CERTIFICATE_FOLDER
from infra import leaderboard, ledger, lineage, storage, tracking
from infra.dataset import RUN, Counts, Manifest, ShardSet, bytes_digest
from infra.leaderboard import FIGURES_TAG, SCORES_TAG
from infra.settings import settings
from infra.steps import Output, step
from tasks.learn.comparison import figures_of
from tasks.learn.config import MODEL
from tasks.learn.dimensions import Dimension, headline, of_versions
from tasks.learn.figures import Figure
from tasks.text.classifier_card import judges_told, summary

CARD, FACTS = "README.md", "model.json"
MIXED = ("audit", "trim", "rebalance", "augment")
"""Steps that decide what of the world the data shows, in their order; the card has a paragraph for each."""
JOULES_PER_WH = 3600.0


class RegisterConfig(BaseModel):
    """Under which name the model is registered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("gristmill", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the registered model; equal weights are registered once."""
    licence: str = "unknown"
    """Licence of the weights on the model card."""


def registry(config: RegisterConfig) -> dict[str, str]:
    """A card written without MLflow, or a version in another registry, is not a registration in this one."""
    return {"registry": settings().mlflow_url or "none"}


@step(schema="registry", fingerprint=registry)
def register(model: ShardSet, dataset: ShardSet, scores: list[ShardSet], config: RegisterConfig, out: Output) -> None:
    """Register the model as the next version of its name, with lineage; without MLflow only its card is written.

    `scores` are what `evaluate` measured, and after it what else was.
    """
    trained, measured = model.manifest(), scores[0].manifest()
    storage.write_json(storage.join(out.folder, FACTS), model_facts(config, trained, dataset, measured))
    out.keep_file(FACTS)
    made = [Manifest.model_validate(one.manifest) for one in lineage.chain([dataset.path])]
    told = sorted((one for one in made if one.step in MIXED), key=lambda one: MIXED.index(one.step))
    certificate = {Path(name).name: dataset.read_file(name) for name in certificate_files(dataset.manifest())}
    for name, data in certificate.items():
        storage.write_bytes(storage.join(out.folder, CERTIFICATE_FOLDER, name), data)
        out.keep_file(f"{CERTIFICATE_FOLDER}/{name}")
    tested = json.loads(certificate[Path(CERTIFICATE).name]) if certificate else None
    origins, quality = _origins(dataset), of_versions(scores)
    run = storage.read_json(model.file(RUN))
    card = model_card(config, trained, dataset, measured, run, *origins, told, tested, quality)
    storage.write_bytes(storage.join(out.folder, CARD), card.encode())
    out.keep_beside(CARD)
    out.counts = Counts(total=1, kept=1)
    if (track := tracking.current()) is None:
        return
    numbers = {name: value for name, value in measured.facts.items() if isinstance(value, int | float)}
    with tempfile.TemporaryDirectory(prefix="gristmill-model-") as folder:
        for entry in trained.files:
            if entry.name.startswith(f"{MODEL}/"):
                Path(folder, Path(entry.name).name).write_bytes(storage.read_bytes(model.file(entry.name)))
        Path(folder, CARD).write_text(card, encoding="utf-8")
        for name, data in certificate.items():
            attached = Path(folder, CERTIFICATE_FOLDER, name)
            attached.parent.mkdir(exist_ok=True)
            attached.write_bytes(data)
            track.file(attached, CERTIFICATE_FOLDER)
        registered = tracking.register_model(
            name=config.name,
            folder=Path(folder),
            trained_on=dataset,
            evaluated_on=scores[0],
            params={"model_digest": model.digest, "num_parameters": trained.facts["num_parameters"], "version": model.version},
            metrics=numbers,
            tags={
                "run": ledger.current_run(),
                "model.version": model.version,
                "dataset.version": dataset.version,
                **_contamination_tags(tested, certificate),
                **score_tags(scores),
            },
            card=card.split("---\n", 2)[2],
        )
    out.volatile["registered"] = registered
    if board := leaderboard.as_csv(leaderboard.rows(tracking.registered_models(config.name))):
        track.page(f"leaderboard-{config.name}.csv", board)


def score_tags(scores: Sequence[ShardSet]) -> dict[str, str]:
    """Which versions have the scores, for comparisons, and the figures of all items with their intervals, for the leaderboard."""
    shown = leaderboard.packed(one.as_json() for one in headline(figures_of(scores)))
    return {SCORES_TAG: ",".join(one.path for one in scores), FIGURES_TAG: shown}


def _contamination_tags(tested: Mapping[str, Any] | None, certificate: Mapping[str, bytes]) -> dict[str, str]:
    """What the registry says of contamination without opening a file."""
    if tested is None:
        return {"contamination": "not tested"}
    return {"contamination": tested["statement"], "contamination.digest": bytes_digest(certificate[Path(CERTIFICATE).name])}


def model_facts(config: RegisterConfig, trained: Manifest, dataset: ShardSet, measured: Manifest) -> dict[str, Any]:
    """What follows from the recipe alone."""
    return {
        "name": config.name,
        "licence": config.licence,
        "model": {"version": trained.version, "digest": trained.digest, "code": trained.recipe["code"], **trained.facts},
        "dataset": {"version": dataset.version, "digest": dataset.digest, "documents": dataset.counts.kept},
        "config": trained.recipe["config"],
        "scores": measured.facts,
    }


def model_card(
    config: RegisterConfig,
    trained: Manifest,
    dataset: ShardSet,
    measured: Manifest,
    run: Mapping[str, Any],
    sources: Sequence[str],
    judges: Sequence[str] = (),
    mixture: Sequence[Manifest] = (),
    certificate: Mapping[str, Any] | None = None,
    quality: Sequence[Dimension] = (),
) -> str:
    """A model card in the Hugging Face format; every number on it comes from a manifest or from the training's own `run.json`.

    Args:
        run: what training noted of itself: device, seconds, energy.
        sources: where the dataset came from, in words.
        judges: the classifiers whose scores its documents were chosen by, and how good they are, in words.
        mixture: the audit of its filter, and what was sampled away and added, where that was done.
        certificate: of the decontamination of its documents; None where they were not tested.
        quality: what was measured, by dimension.
    """
    facts, published = trained.facts, dataset.manifest()
    head = {
        **hub_licence(config.licence),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gristmill"],
        "model-index": _model_index(config.name, published, measured),
    }
    return (
        f"---\n{yaml.safe_dump(head)}---\n# {config.name}\n\n"
        f"A LLaMA-style causal language model of {facts['num_parameters']:,} parameters, trained from scratch by Gristmill on "
        f"{facts['tokens']:,} tokens ({facts['epochs']} epochs) of dataset version `{dataset.version}` (digest `{dataset.digest}`, "
        f"{dataset.counts.kept:,} documents).\n\n"
        f"## Evaluation\n\n{_scores(measured)}\n"
        f"{_held_out(published.facts.get('held_out_by', 'none'))} Nothing here says how it does on other text.\n\n"
        f"{_quality(quality)}"
        f"## Training\n\nSources of the data: {'; '.join(sources) or 'not known'}. {_cost(run, facts)}\n\n"
        f"{judges_told(judges)}"
        f"{mixture_told(mixture)}"
        f"{contamination_told(certificate)}"
        f"| setting | value |\n| --- | --- |\n{_settings(trained.recipe['config'])}\n\n"
        f"## Limits\n\nIt was not tuned to follow instructions{_untested(quality)}, and has no "
        f"guardrails. {published.recipe['config'].get('notice', '')}".rstrip()
        + f"\n\nWeights: version `{trained.version}`, digest `{trained.digest}`. Code `{trained.recipe['code']}`.\n"
    )


def _origins(dataset: ShardSet) -> tuple[list[str], list[str]]:
    """(sources, classifiers that judged it) of a dataset in words, as far as what it was made from is still in the store."""
    made_from = sorted(lineage.chain([dataset.path]), key=lambda one: one.id)
    judges = [one.manifest for one in made_from if one.manifest["schema_name"] == "references"]
    recipes = [one.manifest["recipe"] for one in made_from if one.manifest["schema_name"] != "references"]
    sources = sources_told([source for recipe in recipes for source in recipe["config"].get("sources") or ()])
    return sources, [summary(one["step"], one["version"], one["facts"]) for one in judges]


def _held_out(unit: str) -> str:
    return {
        "host": "Held out by host: the model has seen no page of the hosts it is measured on.",
        "cluster": "Held out by duplicate cluster: hosts may be on both sides, near copies are not.",
    }.get(unit, "How the test split was held out is not known.")


def _scores(measured: Manifest) -> str:
    got = measured.facts
    baselines = [name.partition(".")[2] for name in got if name.startswith("perplexity.")]
    against = " | ".join(f"{got[f'perplexity.{name}']:.2f}" for name in baselines)
    empty = " |" * len(baselines)
    return (
        f"| measured on the held-out split | model | {' | '.join(f'{name} baseline' for name in baselines)} |\n"
        f"| --- | ---: |{' ---: |' * len(baselines)}\n| perplexity per token | {got['perplexity']:.2f} | {against} |\n"
        f"| bits per byte | {got['bits_per_byte']:.3f} |{empty}\n| next-token accuracy | {got['accuracy']:.1%} |{empty}\n"
    )


def _quality(quality: Sequence[Dimension]) -> str:
    """Every dimension with its figures and intervals, or that it was not measured."""
    if not quality:
        return ""
    rows = []
    for row in quality:
        rows += [f"| {row.name} | {_told(one)} | {one.n:,} |" for one in row.figures] or [f"| {row.name} | not measured | |"]
    return "| dimension | figure (95 % interval) | items |\n| --- | --- | ---: |\n" + "\n".join(rows) + "\n\n"


def _told(one: Figure) -> str:
    if one.value is None:
        return f"`{one.name}` too small to tell"
    if one.low is None or one.high is None:
        return f"`{one.name}` {one.value:,.6g}"
    few = ", too small to tell" if one.small else ""
    return f"`{one.name}` {one.value:.4g} ({one.low:.4g} to {one.high:.4g}) {one.unit}".rstrip() + few


def _untested(quality: Sequence[Dimension]) -> str:
    """What nobody has looked for, as part of a sentence."""
    measured = {row.name for row in quality if row.figures}
    words = [name for name in ("bias", "toxicity", "hallucination", "memorisation", "privacy") if name not in measured]
    return f", not tested for {' or '.join([', '.join(words[:-1]), words[-1]] if words[1:] else words)}" if words else ""


def _model_index(name: str, published: Manifest, measured: Manifest) -> list[dict[str, Any]]:
    """The scores in the form that the hub reads."""
    metrics = [{"type": key, "value": round(measured.facts[key], 4)} for key in ("perplexity", "bits_per_byte", "accuracy")]
    dataset = {"name": published.recipe["config"].get("title", published.version), "type": published.version, "split": "test"}
    return [{"name": name, "results": [{"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}]}]


def _cost(run: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What training took, as far as it was noted; energy is an estimate of the whole machine."""
    words = []
    if "device" in run:
        words.append(f"Trained on {run['device']} ({run.get('device_reason', '')}) in {run.get('training_seconds', 0):,.0f} s")
    if "energy_joules_estimated" in run:
        words.append(f"about {run['energy_joules_estimated'] / JOULES_PER_WH:.2f} Wh for the machine (estimated)")
    words.append(f"{facts['training_flops']:.3g} floating-point operations (computed)")
    return ", ".join(words) + "."


def _settings(config: Mapping[str, Any], before: str = "") -> str:
    rows = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows.append(_settings(value, f"{before}{key}."))
        elif value is not None:
            rows.append(f"| {before}{key} | {value} |")
    return "\n".join(rows)
