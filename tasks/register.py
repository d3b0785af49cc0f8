"""register: put the model into the MLflow registry with the data it was trained on and the scores it got, and write its card.

The card (`README.md`) tells everything a run knows, energy and device too, so it lies beside the version; `model.json`, which the
digest names, has only what follows from the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from expectations.cards import certificate_files
from expectations.croissant import sources_told
from expectations.schemas import CERTIFICATE, CERTIFICATE_FOLDER
from infra import leaderboard, ledger, lineage, scratch, storage, tracking
from infra.dataset import RUN, Counts, Manifest, ShardSet, bytes_digest, inputs_there, line_of, name_of
from infra.errors import InputError
from infra.leaderboard import FIGURES_TAG, SCORES_TAG
from infra.settings import settings
from infra.steps import Output, step
from tasks.learn import dimensions, figures
from tasks.learn.comparison import figures_of
from tasks.learn.config import MODEL, SCORES
from tasks.learn.model_card import CardFacts, Scores, base_of, headline, model_card
from tasks.text.classifier_card import summary

CARD, FACTS = "README.md", "model.json"
ROWS = ("conversations", "preferences", "ratings", "problems")
"""Schemas of what a model is tuned on."""
MIXED = ("audit", "trim", "rebalance", "augment")
"""Steps that decide what of the world the data shows, in their order; the card has a paragraph for each."""


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

    `model` may have been tuned behind its training; `dataset` is what that read; `scores` are what `evaluate` measured, and what else was.

    Raises:
        InputError: scores are those of another model.
    """
    _check_scores(model, scores)
    scores = sorted(scores, key=lambda one: one.step != "evaluate")
    line = line_of(model)
    made_of = [one.manifest() for one in line]
    trained, own, measured = made_of[0], made_of[-1], [_scores(one) for one in scores]
    storage.write_json(storage.join(out.folder, FACTS), model_facts(config, own, dataset, measured))
    out.keep_file(FACTS)
    made = [Manifest.model_validate(one.manifest) for one in lineage.chain([dataset.path])]
    told = sorted((one for one in made if one.step in MIXED), key=lambda one: MIXED.index(one.step))
    certificate = {Path(name).name: dataset.read_file(name) for name in certificate_files(dataset.manifest())}
    for name, data in certificate.items():
        storage.write_bytes(storage.join(out.folder, CERTIFICATE_FOLDER, name), data)
        out.keep_file(f"{CERTIFICATE_FOLDER}/{name}")
    tested = json.loads(certificate[Path(CERTIFICATE).name]) if certificate else None
    run = storage.read_json(line[0].file(RUN))
    facts = (config.name, config.licence, trained, dataset.manifest(), measured, run)
    card = model_card(CardFacts(*facts, *_origins(dataset), told, tested, _efficiency(scores), made_of[1:]))
    storage.write_bytes(storage.join(out.folder, CARD), card.encode())
    out.keep_beside(CARD)
    out.counts = Counts(total=1, kept=1)
    if (track := tracking.current()) is None:
        return
    with scratch.folder("model") as folder:
        for entry in own.files:
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
            params={"model_digest": model.digest, "num_parameters": own.facts["num_parameters"], "version": model.version},
            metrics=_numbers(measured),
            tags={
                "run": ledger.current_run(),
                "model.version": model.version,
                "dataset.version": dataset.version,
                "family": own.facts["family"],
                "base_model": base_of(trained) or "none",
                "tuned": " ".join(one.step for one in made_of[1:]) or "no",
                **_contamination_tags(tested, certificate),
                **score_tags(scores),
            },
            card=card.split("---\n", 2)[2],
            model_type=f"{own.facts['objective']} language model",
        )
    for other in scores[1:]:
        track.dataset(other, "evaluation")
    for learnt_from in (one for version in line[1:] for one in opened_rows(version)):
        track.dataset(learnt_from, "tuning")
    out.volatile["registered"] = registered
    if board := leaderboard.as_csv(leaderboard.rows(tracking.registered_models(config.name))):
        track.page(f"leaderboard-{config.name}.csv", board)


def opened_rows(tuned: ShardSet) -> list[ShardSet]:
    """What a later step learned from: conversations, preference pairs, rated answers, problems."""
    return [one for one in inputs_there(tuned) if one.schema_name in ROWS]


def score_tags(scores: Sequence[ShardSet]) -> dict[str, str]:
    """Which versions have the scores, for comparisons, and the figures of all items with their intervals, for the leaderboard."""
    shown = leaderboard.packed(one.as_json() for one in figures.headline(figures_of(scores)))
    return {SCORES_TAG: ",".join(one.path for one in scores), FIGURES_TAG: shown}


def _check_scores(model: ShardSet, scores: Sequence[ShardSet]) -> None:
    for one in scores:
        if (measured := one.manifest().recipe["inputs"]["model"]) != name_of(model):
            raise InputError(
                f"register: the scores {one.step}/{one.version} are those of the model {measured}, and not of {name_of(model)}; run "
                f"`{one.step}` on this one"
            )


def _scores(version: ShardSet) -> Scores:
    """A version of scores with its figures."""
    return Scores(version.manifest(), storage.read_json(version.file(SCORES)).get("figures", ()))


def _numbers(measured: Sequence[Scores]) -> dict[str, float]:
    """What was measured of the model as a whole, by name."""
    found = {name: value for one in measured for name, value in one.manifest.facts.items() if isinstance(value, int | float)}
    # the suite warns each of them apart
    warnings = sum(one.manifest.facts.get("num_warnings", 0) for one in measured)
    return (
        found
        | {"num_warnings": warnings}
        | {one["name"]: one["value"] for scores in measured for one in headline(scores.figures)}
    )


def _contamination_tags(tested: Mapping[str, Any] | None, certificate: Mapping[str, bytes]) -> dict[str, str]:
    """What the registry says of contamination without opening a file."""
    if tested is None:
        return {"contamination": "not tested"}
    return {"contamination": tested["statement"], "contamination.digest": bytes_digest(certificate[Path(CERTIFICATE).name])}


def model_facts(config: RegisterConfig, trained: Manifest, dataset: ShardSet, measured: Sequence[Scores]) -> dict[str, Any]:
    """What follows from the recipe alone."""
    return {
        "name": config.name,
        "licence": config.licence,
        "model": {"version": trained.version, "digest": trained.digest, "code": trained.recipe["code"], **trained.facts},
        "dataset": {"version": dataset.version, "digest": dataset.digest, "documents": dataset.counts.kept},
        "config": trained.recipe["config"],
        "scores": {one.manifest.step: one.manifest.facts for one in measured},
    }


def _efficiency(scores: Sequence[ShardSet]) -> list[dict[str, Any]]:
    """What the clock and the machine said, as figures, of which there are no items to be few; in no version, so on the card alone."""
    found = [row for row in dimensions.of_versions(scores) if row.name == "efficiency"]
    return [one.as_json() | {"small": False} for row in found for one in row.figures]


def _origins(dataset: ShardSet) -> tuple[list[str], list[str]]:
    """(sources, classifiers that judged it) of a dataset in words, as far as what it was made from is still in the store."""
    made_from = sorted(lineage.chain([dataset.path]), key=lambda one: one.id)
    judges = [one.manifest for one in made_from if one.manifest["schema_name"] == "references"]
    recipes = [one.manifest["recipe"] for one in made_from if one.manifest["schema_name"] != "references"]
    sources = sources_told([source for recipe in recipes for source in recipe["config"].get("sources") or ()])
    return sources, [summary(one["step"], one["version"], one["facts"]) for one in judges]
