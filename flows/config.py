"""One frozen configuration for a whole run, composed of the parts that each step owns; errors name file, key, value and the nearest key.

A configuration is a YAML file plus `--set dotted.key=value` overrides. Values are YAML too: `--set filter.languages=[en,de]`.
"""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from expectations.suites import SuiteError, read_suite
from infra.cluster import DaskConfig
from infra.errors import GristmillError
from models.tokeniser import TokeniserConfig
from tasks.crawl import CrawlConfig
from tasks.learn.config import EvaluateConfig, TrainConfig
from tasks.publish import PublishConfig
from tasks.register import RegisterConfig
from tasks.report import ReportConfig
from tasks.rewrite import RewriteConfig
from tasks.signals import SignalsConfig
from tasks.split import SplitConfig
from tasks.text.minhash import DedupConfig
from tasks.text.pii import RedactConfig
from tasks.text.readers import IngestConfig
from tasks.text.rules import FilterConfig
from tasks.validate import ValidateConfig
from tasks.web.main_text import ExtractConfig

TAGS = ("folder", "dataset", "site", "demo", "warc")
"""Kinds of sources."""
# where pydantic speaks of its own types
IN_PLAIN_WORDS = {
    "model_type": "must be a mapping of keys; leave it out to keep what is usual",
    "model_attributes_type": "must be a mapping of keys",
    "tuple_type": "must be a list, as in [a, b]",
    "union_tag_not_found": "needs the key `kind`",
}


class ConfigError(GristmillError, ValueError):
    """A configuration that cannot be used; one problem a line."""


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
    filter: FilterConfig = FilterConfig()
    """Which documents stay."""
    rewrite: RewriteConfig = RewriteConfig()
    """Which lines go."""
    dedup: DedupConfig = DedupConfig()
    """What counts as a duplicate."""
    redact: RedactConfig = RedactConfig()
    """What is masked."""
    validate_: ValidateConfig = Field(ValidateConfig(), alias="validate")
    """Which expectation suite the corpus must pass."""
    approval: ApprovalConfig = ApprovalConfig()
    """Who decides about a corpus with warnings; no part of any recipe."""
    split: SplitConfig = SplitConfig()
    """What is held out."""
    publish: PublishConfig = PublishConfig()
    """What the data card says."""
    tokenise: TokeniserConfig = TokeniserConfig()
    """How text becomes tokens."""
    pretrain: TrainConfig = TrainConfig()
    """Which model is trained, and how."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How the model is measured."""
    register_: RegisterConfig = Field(RegisterConfig(), alias="register")
    """Where the model is registered."""
    report: ReportConfig = ReportConfig()
    """What the report page shows."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        """A deployment's parameter may be the name or path of a file."""
        return _read(find_file(given)) if isinstance(given, str) else given


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
    raw = _read(path)
    for override in overrides:
        _apply(raw, override)
    problems = []
    suite = raw["validate"].get("suite") if isinstance(raw.get("validate"), dict) else None
    try:  # not a matter of the model: another machine, which only trains, has no need of the suite's file
        read_suite(suite if isinstance(suite, str) else ValidateConfig().suite)
    except SuiteError as error:
        problems.append(f"{path}: validate.suite: {error}")
    try:
        config: RunConfig = parse(RunConfig, raw, str(path))
    except ConfigError as error:
        problems.insert(0, str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def with_snapshot(config: RunConfig, label: str) -> RunConfig:
    """The same configuration for another crawl of its sites."""
    return config.model_copy(update={"crawl": config.crawl.model_copy(update={"snapshot": label})})


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys (got {type(raw).__name__})")
    return raw


def require_sources(config: RunConfig) -> None:
    """Look whether the files and folders that a run reads are there.

    Raises:
        ConfigError: one line for each that is not.
    """
    named = {
        f"{part}.sources.{number}.{key}": path
        for part, sources in (("crawl", config.crawl.sources), ("ingest", config.ingest.sources))
        for number, source in enumerate(sources)
        for key in ("path", "url_file")
        if (path := getattr(source, key, ""))
    }
    missing = [
        f"{key}: no such file or folder (got {path})"
        for key, path in named.items()
        if "://" not in path and not Path(path).exists()
    ]
    if missing:
        raise ConfigError("\n".join(missing))


def parse(model: type[Any], raw: dict[str, Any], where: str) -> Any:
    """Validate `raw` as `model`; see `load` for the errors."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_problem(model, problem, where) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def overrides_of(model: type[Any], overrides: Sequence[str]) -> Any:
    """A part of the configuration from overrides alone, as `gristmill step` takes it; an own part's name may lead the key."""
    raw: dict[str, Any] = {}
    for override in overrides:
        _apply(raw, override)
    return parse(model, raw, "--set")


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override}: write dotted.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value is not YAML (got {text!r})") from error
    *path, last = key.strip().split(".")
    here: Any = raw
    for number, name in enumerate([*path, last]):
        place: Any = name
        if isinstance(here, list):
            if not name.isdigit() or int(name) >= len(here):
                raise ConfigError(f"--set {key}: {'.'.join(path[:number])} is a list of {len(here)}; {name!r} is no place in it")
            place = int(name)
        elif not isinstance(here, dict):
            raise ConfigError(f"--set {key}: {'.'.join(path[:number])} is a value and has no keys (got {here!r})")
        if number == len(path):
            here[place] = value
        elif isinstance(here, list) or here.get(place) is not None:
            here = here[place]
        else:
            here[place] = {}
            here = here[place]


def _problem(model: type[Any], problem: Any, where: str) -> str:
    """One line for one of pydantic's problems."""
    loc = problem["loc"]
    # a tagged union puts its tag behind the number of the item, which is no key of the file
    place = [part for at, part in enumerate(loc) if not (at and isinstance(loc[at - 1], int) and part in TAGS)]
    if problem["type"] == "union_tag_invalid":
        known = problem["ctx"]["expected_tags"]
        return f"{where}: {'.'.join(map(str, place))}.kind: must be one of {known} (got {problem['ctx']['tag']!r})"
    key = ".".join(str(part) for part in place) or "(the whole)"
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), list(_keys_at(model, place[:-1])), n=1, cutoff=0.5)
        hint = f"; did you mean {'.'.join([*map(str, place[:-1]), near[0]])}?" if near else ""
        return f"{where}: {key}: no such key (got {problem['input']!r}){hint}"
    text = IN_PLAIN_WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return f"{where}: {key}: {text[:1].lower() + text[1:]} (got {problem['input']!r})"


def _keys_at(model: type[Any], place: Sequence[Any]) -> Iterator[str]:
    """Valid keys of the mapping at `place`."""
    current: list[Any] = [model]
    for part in place:
        current = [inner for one in current for inner in _inside(one, part)]
    for one in current:
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield from (field.alias or name for name, field in one.model_fields.items())


def _inside(annotation: Any, part: Any) -> list[Any]:
    """Types of what lies at `part` below a value of type `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if part in (name, field.alias):
                return _plain(field.annotation)
        return [annotation]  # the number of an item: _plain has opened the list
    return [inner for one in get_args(annotation) for inner in _plain(one)] or [annotation]


def _plain(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [inner for one in get_args(annotation) for inner in _plain(one)]
    if get_origin(annotation) in (tuple, list):
        return [inner for one in get_args(annotation) for inner in _plain(one)]
    return [annotation]
