"""From a model to one that answers: tuned on conversations, aligned by preferences and rewards, made smaller."""

from __future__ import annotations

from prefect import flow

from flows.config import RunConfig
from infra import ledger
from infra.cluster import pool
from infra.dataset import ShardSet, line_of, name_of, named, opened
from infra.errors import InputError
from infra.orchestration import Lineage, tracked_flow
from models.tokeniser import TokeniserConfig
from tasks.adopt import adopt
from tasks.contrast import contrast
from tasks.dpo import dpo
from tasks.instruct import instruct
from tasks.kto import kto
from tasks.learn.config import MODEL
from tasks.pose import pose
from tasks.prefer import prefer
from tasks.quantise import quantise
from tasks.question import question
from tasks.rate import rate
from tasks.reinforce import reinforce
from tasks.reward import reward
from tasks.sft import sft
from tasks.smoke import smoke
from tasks.tokenise import tokenise

LAST = ("reinforce", "kto", "dpo", "sft", "adopt", "pretrain")
"""Steps that make the model that the flow ends with, the last one first; what is made smaller of it is another model."""


@flow(name="align", description=__doc__, persist_result=False)
def align(
    config: RunConfig,
    model: ShardSet | str | None = None,
    dataset: ShardSet | str | None = None,
    lineage: Lineage | None = None,
) -> dict[str, ShardSet]:
    """Do what is configured of: adopt, sft, dpo, reward, kto, reinforce, quantise, smoke; gives what was made, by step.

    Args:
        config: the whole run's configuration.
        model: what is tuned, or its path below the storage root; by default what `adopt` takes in, or the newest model of this corpus.
        dataset: documents that are asked, where `question` or `contrast` is configured; by default what the corpus published last.
        lineage: given by a flow that this one runs for.
    """
    with tracked_flow("align", config, lineage):
        made = {"model": _begun_with(config, model)}
        with pool(config.dask):
            made |= _rows(config, dataset)
        made |= _tuned(config, made)
        if config.quantise:
            made["quantise"] = quantise(last(made), tokens_for(made["model"], config, dataset), config=config.quantise)
        if config.smoke:
            made["smoke"] = smoke(made.get("quantise", last(made)), config=config.smoke)
        return {one.step: one for one in made.values()}


def models_in(run: str) -> dict[str, ShardSet]:
    """The models that a run made and another one may go on from, by step."""
    return {entry.step: entry.shards() for entry in ledger.entries(run) if entry.step in LAST}


def newest_model(corpus: str) -> ShardSet:
    """What the newest run of a corpus ended with that has a model, trained, adopted or tuned.

    Raises:
        InputError: no run has.
    """
    for run in reversed(ledger.runs()):
        known = ledger.about(run)
        if known and known.corpus == corpus and (made := models_in(run)):
            return last(made)
    raise InputError(f"corpus {corpus}: no run of it has a model yet; run `train` or `align` before it, or name a version")


def last(made: dict[str, ShardSet]) -> ShardSet:
    """Of what was made, by step, the model that it ended with: none of the others was made from it."""
    models = [made[step] for step in LAST if step in made] or [made["model"]]
    begun_with = {one.manifest().recipe["inputs"].get("model") for one in models}
    return next(one for one in models if name_of(one) not in begun_with)


def _begun_with(config: RunConfig, model: ShardSet | str | None) -> ShardSet:
    if model is None and config.adopt.checkpoint:
        return adopt(config=config.adopt)
    return named(model or ledger.newest(config.name, "pretrain")["pretrain"])


def _rows(config: RunConfig, dataset: ShardSet | str | None) -> dict[str, ShardSet]:
    """What the model is going to learn from, by what it is."""
    made = {}
    documents = None
    if config.question or config.contrast:
        documents = named(dataset or ledger.newest(config.name, "publish")["publish"])
    if config.instruct.sources:
        made["conversations"] = instruct(config=config.instruct)
    elif config.question and documents:
        made["conversations"] = question(documents, config=config.question)
    if config.prefer.sources:
        made["preferences"] = prefer(config=config.prefer)
    elif config.contrast and documents:
        made["preferences"] = contrast(documents, config=config.contrast)
    if config.rate.sources:
        made["ratings"] = rate(config=config.rate)
    if config.reinforce:
        made["problems"] = pose(config=config.pose)
    return made


def _tuned(config: RunConfig, made: dict[str, ShardSet]) -> dict[str, ShardSet]:
    """The models, each made from the one before it, and the reward model, by step."""
    models: dict[str, ShardSet] = {}

    def newest() -> ShardSet:
        return last({"model": made["model"], **models})

    if "conversations" in made:
        models["sft"] = sft(newest(), made["conversations"], config=config.sft)
    if config.reward and "preferences" in made:
        models["reward"] = reward(newest(), made["preferences"], config=config.reward)
    elif "preferences" in made:
        models["dpo"] = dpo(newest(), made["preferences"], config=config.dpo)
    if "ratings" in made:
        models["kto"] = kto(newest(), made["ratings"], config=config.kto)
    if config.reinforce and "problems" in made:
        judge = [models["reward"]] if "reward" in models else []
        models["reinforce"] = reinforce(newest(), made["problems"], judge, config=config.reinforce)
    return models


def tokens_for(model: ShardSet, config: RunConfig, dataset: ShardSet | str | None = None) -> ShardSet:
    """The token shards whose test split a model is measured on: those that it learned from in the beginning, or, of one that was adopted,
    a dataset by its own tokeniser; by default what the corpus published last."""
    if (learned := _learned_from(model)) is not None:
        return learned
    documents = named(dataset or ledger.newest(config.name, "publish")["publish"])
    with pool(config.dask):
        return tokenise(documents, config=TokeniserConfig(tokeniser=line_of(model)[0].file(MODEL)))


def tokens_of(model: ShardSet, why: str) -> ShardSet:
    """The token shards that a model learned from in the beginning; `why`: who asks.

    Raises:
        InputError: it was adopted.
    """
    if (learned := _learned_from(model)) is None:
        first = line_of(model)[0]
        raise InputError(
            f"{why}: {first.step}/{first.version} did not learn from token shards of ours, so nothing is there to measure its loss on; "
            f"make some with its tokeniser (tokenise.tokeniser), and run single steps on them, as `gristmill step evaluate`"
        )
    return learned


def _learned_from(model: ShardSet) -> ShardSet | None:
    """The token shards that a model learned from in the beginning; None of one that was adopted."""
    found = line_of(model)[0].manifest().recipe["inputs"].get("tokens")
    return opened(found) if found else None
