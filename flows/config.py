"""One frozen configuration for a whole run, composed of the parts that each step owns; errors name file, key, value and the nearest key.

A configuration is a YAML file plus `--set dotted.key=value` overrides. Values are YAML too: `--set filter.languages=[en,de]`.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from expectations.suites import SuiteError, read_suite, suite_names
from flows.budget import BudgetConfig
from flows.keys import ConfigError, apply, parse
from infra import storage
from infra.cluster import DaskConfig
from infra.dataset import MANIFEST, folder_of
from infra.settings import settings
from models.tokeniser import TokeniserConfig
from tasks.adopt import AdoptConfig
from tasks.audit import AuditBasis
from tasks.augment import AugmentConfig
from tasks.crawl import CrawlConfig
from tasks.dedup import DedupConfig
from tasks.enrol import EnrolConfig
from tasks.forget import ForgetConfig
from tasks.index import EARLIER
from tasks.learn.align_config import DpoConfig, KtoConfig, ReinforceConfig, RewardConfig
from tasks.learn.benchmark_config import BenchmarkConfig
from tasks.learn.compress_config import QuantiseConfig
from tasks.learn.config import EvaluateConfig, GateConfig, TrainConfig
from tasks.learn.probe_config import ProbeConfig
from tasks.learn.problems import PoseConfig
from tasks.learn.sft_config import SftConfig
from tasks.publish import PublishConfig
from tasks.quality import QualityConfig
from tasks.rebalance import RebalanceConfig
from tasks.register import RegisterConfig
from tasks.report import ReportConfig
from tasks.rewrite import RewriteConfig
from tasks.score import ScoreConfig
from tasks.signals import SignalsConfig
from tasks.smoke import SmokeConfig
from tasks.split import SplitConfig
from tasks.text.contamination import DecontaminateConfig
from tasks.text.conversations import InstructConfig
from tasks.text.pii import RedactConfig
from tasks.text.preferences import PreferConfig
from tasks.text.rated import RateConfig
from tasks.text.readers import IngestConfig
from tasks.text.rules import LANGUAGE, FilterConfig
from tasks.text.signals import SCORE_NAMES
from tasks.text.sketches import IndexConfig
from tasks.text.titled import ContrastConfig, TitledConfig
from tasks.toxicity import ToxicityConfig
from tasks.trim import TrimConfig
from tasks.validate import ValidateConfig
from tasks.web.main_text import ExtractConfig


class ApprovalConfig(BaseModel):
    """What happens when the gate has warnings but nothing that stops the corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_warning: Literal["ask", "go", "stop"] = "ask"
    """`ask`: wait for a human's answer, holding no worker; `go`: publish and record the warnings; `stop`: fail."""
    timeout_hours: float = Field(72.0, gt=0)
    """How long a run waits for the answer before it fails."""


class RunConfig(BaseModel):
    """Everything a run follows from; each part is the configuration of the step of that name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("corpus", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the corpus: a tag of the run in MLflow."""
    dask: DaskConfig = DaskConfig()
    """Where shards are computed; no part of any recipe."""
    crawl: CrawlConfig = CrawlConfig()
    """Sites to crawl and WARC files to read."""
    ingest: IngestConfig = IngestConfig()
    """Folders and datasets whose rows are text already."""
    extract: ExtractConfig = ExtractConfig()
    """How pages become text."""
    signals: SignalsConfig = SignalsConfig()
    """What is measured."""
    quality: QualityConfig = QualityConfig()
    """The quality classifier: trained where it has references."""
    toxicity: ToxicityConfig = ToxicityConfig()
    """The toxicity classifier: trained where it has references."""
    enrol: EnrolConfig = EnrolConfig()
    """Under which names classifiers are registered."""
    score: ScoreConfig = ScoreConfig()
    """How documents get the classifiers' scores."""
    filter: FilterConfig = FilterConfig()
    """Which documents stay."""
    audit: AuditBasis | None = AuditBasis()
    """Whose documents the filter removes more often than others'; null: nobody asks. What is found decides by the suite `audit`."""
    rewrite: RewriteConfig = RewriteConfig()
    """Which lines go."""
    index: IndexConfig = IndexConfig()
    """How documents are compared, and with which earlier crawls."""
    forget: ForgetConfig = ForgetConfig()
    """Which documents, pages and hosts are taken out of the index; nothing, if none is named."""
    dedup: DedupConfig = DedupConfig()
    """What counts as a duplicate."""
    trim: TrimConfig | None = None
    """Which lines, paragraphs and spans go that other documents hold, too; null: all stay."""
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    """Which evaluation items no document may hold; without sets nothing is looked for."""
    redact: RedactConfig = RedactConfig()
    """What is masked."""
    rebalance: RebalanceConfig | None = None
    """Which weights sources, languages and groups of documents get, by sampling; null: every document stays."""
    validate_: ValidateConfig = Field(ValidateConfig(), alias="validate")
    """Which expectation suite the corpus must pass."""
    budget: BudgetConfig = BudgetConfig()
    """How much of a source a step or a rule may remove before the run stops; no part of any recipe."""
    approval: ApprovalConfig = ApprovalConfig()
    """Who decides about a corpus with warnings; no part of any recipe."""
    split: SplitConfig = SplitConfig()
    """What is held out."""
    augment: AugmentConfig | None = None
    """Which changed copies of training documents are made; null: none."""
    publish: PublishConfig = PublishConfig()
    """What the data card says."""
    tokenise: TokeniserConfig = TokeniserConfig()
    """How text becomes tokens."""
    pretrain: TrainConfig = TrainConfig()
    """Which model is trained, and how."""
    adopt: AdoptConfig = AdoptConfig()
    """A model of another maker that `align` begins with, in place of one that was trained here."""
    instruct: InstructConfig = InstructConfig()
    """Conversations that the model is tuned on; without sources those of `question`, if it is set."""
    question: TitledConfig | None = None
    """Conversations made of the corpus, its titles asking; null: none."""
    sft: SftConfig = SftConfig()
    """How it is tuned on them."""
    prefer: PreferConfig = PreferConfig()
    """Preference pairs that it is aligned by; without sources those of `contrast`, if it is set."""
    contrast: ContrastConfig | None = None
    """Preference pairs made of the corpus; null: none."""
    dpo: DpoConfig = DpoConfig()
    """How it is aligned by the pairs themselves."""
    reward: RewardConfig | None = None
    """A reward model of the pairs, in place of `dpo`, for `reinforce`; null: none."""
    rate: RateConfig = RateConfig()
    """Single answers called good or bad that it is aligned by, behind the pairs."""
    kto: KtoConfig = KtoConfig()
    """How it is aligned by them."""
    pose: PoseConfig = PoseConfig()
    """Problems that it is reinforced on."""
    reinforce: ReinforceConfig | None = None
    """How it is reinforced on them; null: not at all."""
    quantise: QuantiseConfig | None = None
    """How it is made small for CPUs, beside itself; null: not at all."""
    smoke: SmokeConfig | None = None
    """What the model, the small one if there is one, is asked over HTTP at the end; null: it is not served."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How the model is measured on held-out documents."""
    benchmark: BenchmarkConfig | None = BenchmarkConfig()
    """What it is asked; null: nothing."""
    probe: ProbeConfig | None = ProbeConfig()
    """What it is probed for; null: nothing."""
    gate: GateConfig = GateConfig()
    """What a new model must not be worse in than the champion of its name."""
    register_: RegisterConfig = Field(RegisterConfig(), alias="register")
    """Where the model is registered."""
    report: ReportConfig = ReportConfig()
    """What the report page shows."""

    @field_validator("filter")
    @classmethod
    def _scores_are_measured(cls, filter: FilterConfig, info: ValidationInfo) -> FilterConfig:
        """A filter may ask for scores only of classifiers that the run has."""
        for rule in filter.rules():
            kind = rule.signal.partition("_")[0]
            if rule.signal in SCORE_NAMES and kind in info.data and not info.data[kind].wanted:
                give = "quality.positive and quality.negative" if kind == "quality" else "toxicity.sources"
                raise ValueError(
                    f"rule {rule.name!r} asks for {rule.signal}, which no classifier gives: set {give}, or {kind}.trained to a trained "
                    f"version, or filter.disabled to [{rule.name}]"
                )
        return filter

    @field_validator("rebalance")
    @classmethod
    def _languages_stay(cls, rebalance: RebalanceConfig | None, info: ValidationInfo) -> RebalanceConfig | None:
        """A weight may be given only to languages that the filter leaves."""
        filter = info.data.get("filter")
        kept = filter.languages if filter and LANGUAGE not in filter.disabled else ()
        gone = sorted(set(rebalance.language) - set(kept)) if rebalance and kept else []
        if gone:
            raise ValueError(
                f"language: a weight for {', '.join(gone)}, of which the filter leaves no document: take it out, or add it to "
                f"filter.languages (these are: {', '.join(kept)})"
            )
        return rebalance

    @model_validator(mode="after")
    def _rewards_are_used(self) -> RunConfig:
        """A reward model judges what is reinforced, which is written to problems."""
        if self.reward and not self.reinforce:
            raise ValueError("reward: a reward model is of use to `reinforce` alone; set that, too, or leave both out")
        if self.reinforce and not (self.pose.sources or self.pose.arithmetic):
            raise ValueError("reinforce: nothing is posed; name problems in pose.sources or pose.arithmetic")
        return self

    @property
    def aligns(self) -> bool:
        """Whether anything is to be done with a model behind its training."""
        rows = (self.instruct.sources, self.question, self.prefer.sources, self.contrast, self.rate.sources, self.reinforce)
        return any(rows) or self.quantise is not None or self.smoke is not None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        """A deployment's parameter may be the name or path of a file."""
        return read_yaml(find_file(given)) if isinstance(given, str) else given


class _OnceLoader(yaml.SafeLoader):
    """YAML in which no mapping has a key twice, of which the plain loader would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def find_file(given: str) -> Path:
    """The configuration file `given`, or the one of that name that ships with Gristmill.

    Raises:
        ConfigError: neither exists.
    """
    path = Path(given)
    if path.is_file():
        return path
    shipped = Path(str(importlib.resources.files("flows.configs")))
    if (inside := shipped / f"{given}.yaml").is_file():
        return inside
    names = ", ".join(sorted(one.stem for one in shipped.glob("*.yaml")))
    raise ConfigError(f"{given}: no such file, and no configuration of that name ships with Gristmill ({names})")


def load(given: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration and apply `dotted.key=value` overrides.

    Raises:
        ConfigError: with one line per problem, `file: dotted.key: problem (got value)`.
    """
    path = find_file(given)
    raw = read_yaml(path)
    for override in overrides:
        apply(raw, override)
    problems = [f"{path}: validate.{problem}" for problem in _suite_problems(raw.get("validate"))]
    try:
        config: RunConfig = parse(RunConfig, raw, str(path))
    except ConfigError as error:
        problems.insert(0, str(error))
    else:
        problems += _unmeasured(config, path)
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _suite_problems(given: Any) -> list[str]:
    """A problem for each suite of `validate` that cannot be used.

    Not a matter of the model: another machine, which only trains, has no need of the suites' files.
    """
    raw = given if isinstance(given, dict) else {}
    suite, stages = raw.get("suite"), raw.get("stage_suites")
    named = {"": suite if isinstance(suite, str) else ValidateConfig().suite}
    named |= {stage: name for stage, name in stages.items() if isinstance(name, str)} if isinstance(stages, dict) else {}
    problems = []
    for stage, name in named.items():
        key = f"stage_suites.{stage}" if stage else "suite"
        try:
            found = read_suite(name).schema_name
        except SuiteError as error:
            problems.append(f"{key}: {error}")
        else:
            if stage in suite_names() and found not in (stage, "any"):
                problems.append(f"{key}: {name} is a suite of {found!r} and not of {stage!r}")
    return problems


def _unmeasured(config: RunConfig, path: Path) -> list[str]:
    """A problem for each profile that asks for groups of signals that are not measured."""
    measured = config.signals.groups
    problems = []
    for filter in (config.filter, *([config.score.among] if config.score.among else [])):
        if missing := [group for group in filter.groups() if group not in measured]:
            needed = ", ".join((*measured, *missing))
            problems.append(
                f"{path}: signals.groups: the profile {filter.profile} needs {' and '.join(missing)}; "
                f"set signals.groups=[{needed}] (got {', '.join(measured) or 'none'})"
            )
    return list(dict.fromkeys(problems))


def load_or_default(given: str, overrides: Sequence[str] = ()) -> RunConfig:
    """As `load`; where no configuration is given, the overrides change the defaults.

    Raises:
        ConfigError: as `load`.
    """
    if given:
        return load(given, overrides)
    raw: dict[str, Any] = {}
    for override in overrides:
        apply(raw, override)
    config: RunConfig = parse(RunConfig, raw, "--set")
    return config


def with_snapshot(config: RunConfig, label: str) -> RunConfig:
    """The same configuration for another crawl of its sites."""
    return config.model_copy(update={"crawl": config.crawl.model_copy(update={"snapshot": label})})


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        ConfigError: it is not YAML, or has something else than keys.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys (got {type(raw).__name__})")
    return raw


def require_sources(config: RunConfig, *, evaluation: bool = False) -> None:
    """Look whether the files, folders and trained classifiers that a run reads are there; for an evaluation also those that it asks.

    Raises:
        ConfigError: one line for each that is not.
    """
    named = {
        f"{part}.{number}.{key}": path
        for part, sources in (
            ("crawl.sources", config.crawl.sources),
            ("ingest.sources", config.ingest.sources),
            ("quality.positive", config.quality.positive),
            ("quality.negative", config.quality.negative),
            ("toxicity.sources", config.toxicity.sources),
            ("decontaminate.sets", config.decontaminate.sets),
            ("instruct.sources", config.instruct.sources),
            ("prefer.sources", config.prefer.sources),
            ("rate.sources", config.rate.sources),
            ("pose.sources", config.pose.sources),
        )
        for number, source in enumerate(sources)
        for key in ("path", "url_file")
        if (path := getattr(source, key, ""))
    }
    named |= {"forget.file": config.forget.file} if config.forget.file else {}
    # a name on the hub, or of a version, is found out where it is read
    given = {
        "tokenise.tokeniser": config.tokenise.tokeniser,
        "pretrain.model.from_checkpoint": config.pretrain.model.from_checkpoint,
        "adopt.checkpoint": config.adopt.checkpoint,
    }
    named |= {key: path for key, path in given.items() if path.startswith("/")}
    named |= _asked(config) if evaluation else {}
    missing = [
        f"{key}: no such file or folder (got {path})"
        for key, path in named.items()
        if "://" not in path and not Path(path).exists()
    ]
    missing += [
        f"{kind}.trained: no version {given} in the store {settings().store} (got {given})"
        for kind, given in (("quality", config.quality.trained), ("toxicity", config.toxicity.trained))
        if given and not storage.exists(storage.join(folder_of(given), MANIFEST))
    ]
    base = config.index.base
    if base not in ("", EARLIER) and not storage.exists(storage.join(folder_of(base), MANIFEST)):
        missing.append(
            f"index.base: no version {base} in the store {settings().store}; give its path there, or {EARLIER} (got {base})"
        )
    judged = {"evaluate": config.evaluate, "benchmark": config.benchmark, "probe": config.probe} if evaluation else {}
    for part, one in judged.items():
        try:
            if one is not None and one.suite is not None:
                read_suite(one.suite)
        except SuiteError as error:
            missing.append(f"{part}.suite: {error}")
    if missing:
        raise ConfigError("\n".join(missing))


def _asked(config: RunConfig) -> dict[str, str]:
    """{key: path} of the files that a model is asked from."""
    named: dict[str, str | None] = {}
    if config.benchmark is not None:
        for number, task in enumerate(config.benchmark.tasks):
            key = f"benchmark.tasks.{number}"
            named |= {f"{key}.path": task.path, **{f"{key}.files.{split}": path for split, path in task.files.items()}}
        named["benchmark.reasoning.path"] = config.benchmark.reasoning.path if config.benchmark.reasoning else None
    if config.probe is not None and config.probe.bias is not None:
        named |= {"probe.bias.crows_pairs": config.probe.bias.crows_pairs, "probe.bias.winogender": config.probe.bias.winogender}
    return {key: path for key, path in named.items() if path}
