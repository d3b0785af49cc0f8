"""`gristmill ablate`: which filter pays? The same model trained on versions that differ in one thing, with several seeds, scored alike.

The method of FineWeb (Penedo et al. 2024, section 3.1). Equal for all: tokeniser, model, steps and so tokens, seeds, held-out documents,
scores. Runs in this process, without servers, step by step, and what is there already is loaded; where MLflow is there, each step is a
run below one run of the ablation. Variants that are changes of a configuration are curated first, up to a dataset version that nobody is
told of: no gate is asked, and the corpus has no new `latest`. Costs V x S trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.config import RunConfig, load, require_sources
from flows.diff import find
from infra import dataset, ledger, storage, tracking
from infra.cluster import pool
from infra.dataset import MANIFEST, ShardSet, folder_of, open_version
from infra.errors import InputError
from infra.ids import digest_of
from infra.ledger import Entry
from infra.progress import Watcher, watched
from infra.settings import settings
from infra.steps import Result, Step
from models.tokeniser import TokeniserConfig
from tasks.ablate import ABLATION, METRICS, PAGE, AblateConfig, VariantConfig, epochs, warnings
from tasks.ablate import ablate as compare_variants
from tasks.benchmark import benchmark
from tasks.crawl import crawl
from tasks.evaluate import evaluate
from tasks.learn.config import TOKENISER, TrainConfig
from tasks.pretrain import pretrain
from tasks.tokenise import tokenise
from tasks.withhold import WithholdConfig, withhold

BASELINE = "baseline"
DATA_PARTS = (
    *("crawl", "ingest", "extract", "signals", "quality", "toxicity", "score", "filter", "rewrite", "index", "forget", "dedup"),
    *("trim", "decontaminate", "redact", "rebalance", "split", "augment", "publish"),
)
"""Parts of the configuration that make the corpus: a variant may differ in these. The others are the same for all."""
COLOURS = {"better": "green", "worse": "red", "differs": "yellow"}


@dataclass(frozen=True)
class Variant:
    """A dataset version under the name it has here."""

    name: str
    version: ShardSet
    differs: str = ""
    """In what it differs from the baseline, in words."""


@dataclass(frozen=True)
class Asked:
    """How the variants are compared."""

    config: RunConfig
    num_seeds: int = 3
    """Trainings of each variant, by `pretrain.seed` and the numbers after it."""
    metrics: Sequence[str] = METRICS
    with_benchmark: bool = False
    """Whether the tasks, packs and arithmetic of `benchmark` are asked, too."""
    tell: Callable[[str], None] = field(default=lambda line: None)
    """Takes a line at each step."""
    watch: Watcher = field(default=lambda done, total, what, note: None)
    """Takes the progress within a step."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of all variants."""
        return tuple(range(self.config.pretrain.seed, self.config.pretrain.seed + self.num_seeds))


# --- variants ------------------------------------------------------------------------------------------------------------------


def of_versions(given: Sequence[str]) -> list[Variant]:
    """Dataset versions by any name of theirs (version, digest, run, `latest`, folder), each with or without `NAME=`; the baseline first.

    Raises:
        InputError: there is none of a name, or two variants have one name.
    """
    found: list[Variant] = []
    for one in given:
        before, equals, after = one.partition("=")
        name, what = (before, after) if equals else (one, one)
        folder = Path(what).expanduser()
        if folder.is_dir() and (folder / MANIFEST).is_file():
            version = open_version(str(folder.resolve()))
        else:
            version = open_version(folder_of(find(what).path))
        found.append(Variant(Path(name).name if not equals else name, version, "" if not found else f"version {version.version}"))
    _require_names([one.name for one in found])
    return found


def of_changes(file: str, overrides: Sequence[str], changes: Sequence[str], tell: Callable[[str], None]) -> list[Variant]:
    """The corpus of a configuration as the baseline, and of that with one key changed for each `NAME=dotted.key=value`; curated as needed.

    Raises:
        InputError: a change is not of that form or not one of the corpus, or the sites were not crawled yet.
    """
    configs = {BASELINE: load(file, overrides)}
    for change in changes:
        name, equals, override = change.partition("=")
        part = override.partition("=")[0].partition(".")[0].strip()
        if not equals or "=" not in override:
            raise InputError(f"--variant {change}: write NAME=dotted.key=value")
        if part not in DATA_PARTS:
            raise InputError(
                f"--variant {name}: {part} is no part that makes the corpus, and all else is the same for all variants; these are: "
                f"{', '.join(DATA_PARTS)}. For all variants, set it with --set"
            )
        _require_names([*configs, name])
        configs[name] = load(file, [*overrides, override])
    told = {name: override for name, _, override in (change.partition("=") for change in changes)}
    return [Variant(name, _curated(name, config, tell), told.get(name, "")) for name, config in configs.items()]


def _curated(name: str, config: RunConfig, tell: Callable[[str], None]) -> ShardSet:
    """The dataset version of a configuration, loaded or made, without the gate, and with no corpus told of it."""
    from flows.prepare import corpus_of
    from flows.publish import divided

    require_sources(config)
    _require_crawled(config)
    tell(f"curate {name}")
    # a version of the step `enrol` says that a classifier was registered, which nobody does here
    names = {kind: f"{called}-ablation" for kind, called in config.enrol.model_dump().items()}
    config = config.model_copy(update={"enrol": type(config.enrol).model_validate(names)})
    with pool(config.dask):
        corpus, history, _ = corpus_of(config)
        return divided(corpus, history, config)


def _require_crawled(config: RunConfig) -> None:
    """A comparison of filters never asks a site for pages."""
    if any(source.kind == "site" for source in config.crawl.sources):
        version = dataset.version_of(crawl.recipe([], config.crawl))
        if not storage.exists(storage.join(settings().store, crawl.name, version, MANIFEST)):
            raise InputError(
                f"ablate: the sites of this configuration have no stored crawl of snapshot {config.crawl.snapshot}; crawl them first with "
                "`gristmill run curate` and the same configuration"
            )


def _require_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1 or not name}):
        raise InputError(f"ablate: two variants have the name {twice[0]!r}; put another one and = before a version")


# --- training and scoring ------------------------------------------------------------------------------------------------------


def ablate(variants: Sequence[Variant], asked: Asked) -> ShardSet:
    """Train and score all, or load what is there; the version that compares them.

    Args:
        variants: the baseline first.
        asked: how they are compared.

    Raises:
        InputError: fewer than two variants or seeds, or versions that cannot be trained on.
    """
    if len(variants) < 2 or asked.num_seeds < 2:
        raise InputError("ablate: takes a baseline and at least one variant, and two seeds or more, or nothing is known of noise")
    told = [VariantConfig(name=one.name, differs=one.differs) for one in variants]
    config = AblateConfig(variants=tuple(told), seeds=asked.seeds, metrics=tuple(asked.metrics))
    ids = [dataset.name_of(one.version) for one in variants]
    parts = asked.config.model_dump_json(include={"tokenise", "pretrain", "evaluate", "benchmark"})
    run = f"ablate-{digest_of(*ids, config.model_dump_json(), parts, str(asked.with_benchmark))[:16]}"
    key, tags = {"gristmill.root": run}, {"flow": "ablate", "corpus": asked.config.name}
    with tracking.run(f"ablation of {variants[0].name}", tags=tags, key=key) as track, watched(asked.watch):
        made = _Made(run, asked)
        documents, tokens = _data(variants, made)
        models, scores = [], []
        for number, (variant, read) in enumerate(zip(variants, tokens, strict=True)):
            for seed in asked.seeds:
                of = f"{variant.name}, seed {seed}"
                models.append(made.step(pretrain, read, config=training(asked.config.pretrain, seed), of=of))
                scores += _scored(models[-1], read, documents[number], of, made)
        compared = made.result(compare_variants, documents, tokens, models, scores, config=config, of="all variants")
        result = compared.shards
        if track is not None:
            track.params(
                {"seeds": asked.seeds, "steps": asked.config.pretrain.max_steps, "variants": [one.name for one in variants]}
            )
            track.metrics({name: value for name, value in result.manifest().facts.items() if isinstance(value, float)})
            for name in (PAGE, ABLATION):
                track.page(name, result.read_file(name).decode())
    # of its steps the run names the last alone, from which the others follow: `newest` and `--from latest` must not find its models
    with ledger.run(run):
        ledger.begin(run, "ablate", "", asked.config.model_dump(mode="json", by_alias=True))
        ledger.enter(Entry.of(result, loaded=compared.loaded, seconds=compared.seconds))
    return result


def training(config: TrainConfig, seed: int) -> TrainConfig:
    """The training of one seed: all steps are made, and its last weights are scored, for earlier ones have read fewer tokens."""
    return config.model_copy(update={"seed": seed, "early_stopping": 0, "keep": "last"})


@dataclass(frozen=True)
class _Made:
    """Steps of one ablation, each a run in MLflow below the ablation's."""

    run: str
    asked: Asked

    def step(self, step: Step, *inputs: ShardSet | Sequence[ShardSet], config: Any, of: str) -> ShardSet:
        """A step's version, loaded or made."""
        return self.result(step, *inputs, config=config, of=of).shards

    def result(self, step: Step, *inputs: ShardSet | Sequence[ShardSet], config: Any, of: str) -> Result:
        """The same with whether it was loaded."""
        self.asked.tell(f"{step.name} {of}")
        with tracking.run(f"{step.name} {of}", tags={"step": step.name}, key={"gristmill.root": self.run}) as track:
            result = step.run(inputs, config)
            shards = result.shards
            if track is not None:
                state = "loaded" if result.loaded else "made"
                track.tags({"step.state": state, "version": shards.version, "digest": shards.digest})
                facts = shards.manifest().facts
                track.metrics({name: value for name, value in facts.items() if isinstance(value, int | float)})
                for one in dataset.flattened(inputs):
                    track.dataset(one, "input")
                track.dataset(shards, "output")
        return result


def _data(variants: Sequence[Variant], made: _Made) -> tuple[list[ShardSet], list[ShardSet]]:
    """Documents and token shards of all, by the tokeniser of the baseline; tells how much there is, before anything is trained."""
    asked, baseline = made.asked, variants[0].version
    with pool(asked.config.dask):
        documents = [made.step(withhold, one.version, baseline, config=WithholdConfig(), of=one.name) for one in variants]
        tokens = [made.step(tokenise, documents[0], config=asked.config.tokenise, of=variants[0].name)]
        given = TokeniserConfig(tokeniser=tokens[0].file(TOKENISER))
        for variant, one in zip(variants[1:], documents[1:], strict=True):
            tokens.append(made.step(tokenise, one, config=given, of=variant.name))
    train = asked.config.pretrain
    rows: list[dict[str, Any]] = []
    for variant, one in zip(variants, tokens, strict=True):
        num = one.manifest().facts["num_tokens.train"]
        rows.append({"name": variant.name, "tokens": num, "epochs": epochs(train.max_steps * train.tokens_per_step, num)})
        asked.tell(f"{variant.name}: {num:,} tokens to train on, read {rows[-1]['epochs']:.2f} times")
    for line in warnings(rows):
        asked.tell(f"warning: {line}")
    return documents, tokens


def _scored(model: ShardSet, tokens: ShardSet, documents: ShardSet, of: str, made: _Made) -> list[ShardSet]:
    """The scores of a model; no suite judges them, for a variant may be as bad as it is."""
    config = made.asked.config
    found = [made.step(evaluate, model, tokens, config=config.evaluate.model_copy(update={"suite": None}), of=of)]
    if made.asked.with_benchmark and config.benchmark:
        # questions of hallucination are made of the training documents, so they are not the same for all
        questions = config.benchmark.model_copy(update={"hallucination": None})
        found.append(made.step(benchmark, model, documents, config=questions, of=of))
    return found


# --- telling -------------------------------------------------------------------------------------------------------------------


def told(version: ShardSet) -> dict[str, Any]:
    """What an ablation found, as plain data."""
    found: dict[str, Any] = storage.read_json(version.file(ABLATION))
    return found


def show(found: dict[str, Any], console: Console) -> None:
    """The variants and their scores as tables, and the verdicts in words."""
    from infra.ablation_page import verdicts

    data = Table(title=f"{found['steps']:,} steps, {found['tokens']:,} tokens each, seeds {found['seeds']}", title_justify="left")
    for heading in ("variant", "differs in", "documents", "withheld", "tokens", "epochs"):
        data.add_column(heading, justify="left" if heading in ("variant", "differs in") else "right", overflow="fold")
    for one in found["variants"]:
        withheld = f"{sum(one['withheld'].values()):,}"
        counts = (f"{one['documents']:,}", withheld, f"{one['tokens']:,}", f"{one['epochs']:.2f}")
        data.add_row(escape(one["name"]), escape(one["differs"] or "–"), *counts)
    console.print(data)
    table = Table(title=f"{found['held_out']:,} documents held out of all, 95 % intervals", title_justify="left")
    for heading in ("metric", "variant", "mean of seeds", "difference from the baseline", "p", "items", "verdict"):
        table.add_column(heading, justify="left" if heading in ("metric", "variant", "verdict") else "right", overflow="fold")
    for row in found["effects"]:
        mean = f"{row['mean']:,.4g} ({row['low']:,.4g} to {row['high']:,.4g})"
        if row["verdict"] is None:
            table.add_row(escape(row["metric"]), escape(row["variant"]), mean, "–", "–", f"{row['n']:,}", "baseline")
            continue
        beside = f"{row['difference']:+.4g} ({row['difference_low']:+.4g} to {row['difference_high']:+.4g})"
        colour = COLOURS.get(row["verdict"])
        verdict = f"[{colour}]{row['verdict']}[/]" if colour else row["verdict"]
        table.add_row("", escape(row["variant"]), mean, beside, f"{row['p']:.2g}", f"{row['n']:,}", verdict)
    console.print(table)
    for line in [*verdicts(found), *found["warnings"]]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
