"""Rules: published thresholds as files, and the decision they make on stored signals; no text is read.

A profile is a YAML file in `profiles/`, or a user's own: see `Profile`. Files are read once, when this module or a
configuration is made; a configuration carries the rules of its file along, so that a worker needs no file.

A rule drops a document when its signal is beyond the threshold; the first rule of the profile that drops it is its reason.
`decide` is vectorised: a million documents take about a second. Fractions are compared in float32, the type they are
stored in, so that a document that lies on a threshold in the arithmetic of the paper lies on it here. A signal that is null, because
nothing could be measured, breaks no rule.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from infra.errors import InputError
from infra.ids import digest_of
from tasks.text.lines import LineRules
from tasks.text.signals import GROUPS, SCORE_NAMES, SCORES, SIGNALS, Group

T = TypeVar("T")
Direction = Literal["below", "above", "at_or_below", "at_or_above", "equals"]
_COMPARE = {
    "below": np.less,
    "above": np.greater,
    "at_or_below": np.less_equal,
    "at_or_above": np.greater_equal,
    "equals": np.equal,
}
MEASURED = frozenset((*(signal.name for signal in SIGNALS), *SCORE_NAMES))
"""Columns of signals and scores, beside what documents carry along."""
_COMPARABLE = (*(signal.name for signal in SIGNALS if signal.kind != pa.string()), *SCORE_NAMES)


class Rule(BaseModel):
    """Drop a document whose `signal` is `drop` the `threshold`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The reason that a dropped document carries."""
    signal: str
    """A column of `signals.SIGNALS` with a number or a flag, or of `signals.SCORES`, which trained classifiers give."""
    drop: Direction
    """On which side of the threshold a document is dropped."""
    threshold: float
    """In the unit of the signal; 1 for a flag that must not be set."""
    note: str = ""
    """Words of the source, or how it differs from others."""

    def meaning(self) -> str:
        """What it asks, in words, with the unit of its signal and the words of its source."""
        measured = {signal.name: signal.meaning for signal in (*SIGNALS, *SCORES)}[self.signal]
        asked = f"{self.signal} {self.drop.replace('_', ' ')} {self.threshold:g} ({measured})"
        return f"{asked}; {self.note}" if self.note else asked

    @field_validator("signal")
    @classmethod
    def _known_signal(cls, signal: str) -> str:
        if signal not in _COMPARABLE:
            raise ValueError(_unknown("signal", signal, _COMPARABLE))
        return signal


class RuleGroup(BaseModel):
    """Rules that several profiles ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """Where they were published."""
    rules: tuple[Rule, ...]
    """In the order in which they are asked."""


class Profile(BaseModel):
    """A YAML file of rules: what a publication, or a user, keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    """What it stands for, and what of its source is not in it."""
    source: str
    """Paper, section, URL."""
    languages: tuple[str, ...] | None = None
    """What `FilterConfig.languages` is where the user sets none."""
    min_language_score: float | None = Field(default=None, ge=0, le=1)
    """What `FilterConfig.min_language_score` is where the user sets none."""
    line_rules: LineRules | None = None
    """How the `rewrite` step cleans what the profile keeps; the view in which it counts. Null: not at all."""
    extends: tuple[str, ...] = ()
    """Groups of `profiles/groups.yaml` whose rules are asked first, in this order."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    """Other thresholds for rules of these groups, by rule name."""
    rules: tuple[Rule, ...] = ()
    """The profile's own rules, asked after those of the groups."""

    @model_validator(mode="after")
    def _fits_together(self) -> Profile:
        for group in self.extends:
            if group not in RULE_GROUPS:
                raise ValueError(f"extends: {_unknown('group', group, RULE_GROUPS)}")
        inherited = [rule.name for group in self.extends for rule in RULE_GROUPS[group].rules]
        for name in self.thresholds:
            if name not in inherited:
                raise ValueError(f"thresholds: {_unknown('rule', name, inherited)}")
        names = [*inherited, *(rule.name for rule in self.rules)]
        if twice := sorted({name for name in names if names.count(name) > 1} | {LANGUAGE, LANGUAGE_SCORE}.intersection(names)):
            raise ValueError(f"rules: a name for one rule only, {LANGUAGE} and {LANGUAGE_SCORE} aside (got {', '.join(twice)})")
        return self

    def all_rules(self) -> tuple[Rule, ...]:
        """Every rule in the order in which it is asked, with its threshold."""
        inherited = (rule for group in self.extends for rule in RULE_GROUPS[group].rules)
        return (
            *(rule.model_copy(update={"threshold": self.thresholds.get(rule.name, rule.threshold)}) for rule in inherited),
            *self.rules,
        )

    def digest(self) -> str:
        """32 hex characters over what decides: rules and line rules, neither words nor defaults of the configuration."""
        rules = [rule.model_dump(exclude={"note"}) for rule in self.all_rules()]
        return digest_of(json.dumps([rules, self.line_rules.model_dump() if self.line_rules else None]))


def _shared_start(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near.sort(key=lambda one: _shared_start(one, name), reverse=True)  # "finweb": rather "fineweb-code" than "refinedweb"
    return f"unknown {kind} {name!r}; " + (f"nearest: {', '.join(near)}" if near else f"valid: {', '.join(names)}")


def _read(path: Path, kind: TypeAdapter[T]) -> T:
    """The YAML file at `path` as `kind`; InputError with one line per problem, `file: dotted.key: problem (got …)`."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return kind.validate_python(raw)
    except ValidationError as error:
        raise InputError("\n".join(_problem(path, problem) for problem in error.errors())) from error


def _problem(path: Path, problem: Mapping[str, Any]) -> str:
    keys = ".".join(map(str, problem["loc"]))
    told = problem["msg"].removeprefix("Value error, ")
    # what the profile's own checks say names key and value
    return f"{path}: {keys}: {told} (got {problem['input']!r})" if keys else f"{path}: {told}"


LANGUAGE, LANGUAGE_SCORE = "language", "language_score"
"""The rules on the columns `language` (string) and `language_score` (float32): not configured by profile, asked first."""

_SHIPPED = Path(__file__).with_name("profiles")
RULE_GROUPS = _read(_SHIPPED / "groups.yaml", TypeAdapter(dict[str, RuleGroup]))
_PROFILE = TypeAdapter(Profile)
_PROFILES = {
    name: _read(_SHIPPED / f"{name}.yaml", _PROFILE)
    for name in (
        *("gopher", "c4-paper", "c4-code", "fineweb-paper", "fineweb-code"),
        *("mc4", "refinedweb", "ccnet", "dolma-1.2", "dolma-1.2-v2", "gopher-multilingual", "gopher-unspaced", "dclm"),
        "datatrove-0.10",
    )
}
PROFILES: dict[str, tuple[Rule, ...]] = {name: profile.all_rules() for name, profile in _PROFILES.items()}
"""The rules of the profiles that ship, from `profiles/NAME.yaml`; each file says what its source has besides. `dclm` asks for the score of
a classifier that the run trains."""


def read_profile(profile: str) -> Profile:
    """A profile that ships, by its name, or a user's own, by the path of its file, which ends with .yaml or .yml.

    Raises InputError with the nearest names, or with one line per problem of the file.
    """
    if profile in _PROFILES:
        return _PROFILES[profile]
    if profile.endswith((".yaml", ".yml")):
        return _read(Path(profile).expanduser(), _PROFILE)
    raise InputError(_unknown("profile", profile, PROFILES))


def groups_of(signals: Iterable[str]) -> tuple[Group, ...]:
    """The groups of signals of which some are among `signals`, in the order of GROUPS."""
    asked = set(signals)
    return tuple(name for name, group in GROUPS.items() if asked.intersection(group.names()))


def files_of(name: str | None, profile: Profile | None) -> dict[str, str]:
    """{name or file name: digest of what it decides} of the profile that `read_profile(name)` gave, for a recipe."""
    return {Path(name).name: profile.digest()} if name and profile else {}


class FilterConfig(BaseModel):
    """Which documents are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str | None = "fineweb-code"
    """A name of PROFILES or the path of a YAML file (`Profile`); null applies the language rules alone."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639 codes that are kept; empty turns both language rules off. The profile mc4 sets its own."""
    min_language_score: float = Field(default=0.65, ge=0, le=1)
    """Documents of a kept language with a lower score are dropped. The profiles mc4 and ccnet set their own."""
    overrides: dict[str, float] = Field(default_factory=dict)
    """Another threshold for a rule of the profile, by rule name, in the unit of its signal."""
    disabled: tuple[str, ...] = ()
    """Rules, by name, that are not asked."""
    _profile: Profile | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_profile(cls, given: Any) -> Any:
        """Fills in what the profile sets and the user does not, so that the recipe has it in plain words."""
        profile = given.get("profile") if isinstance(given, dict) else None
        if not isinstance(profile, str):
            return given
        try:
            read = read_profile(profile)
        except InputError:  # told by the check of the key itself
            return given
        ours = {"languages": read.languages, "min_language_score": read.min_language_score}
        return {key: value for key, value in ours.items() if value is not None} | given

    @field_validator("profile")
    @classmethod
    def _known_profile(cls, profile: str | None) -> str | None:
        if profile is not None:
            read_profile(profile)
        return profile

    @model_validator(mode="after")
    def _known_rules(self) -> FilterConfig:
        self._profile = read_profile(self.profile) if self.profile is not None else None
        names = [rule.name for rule in self._profile_rules()]
        for name in self.overrides:
            if name == LANGUAGE_SCORE:
                raise ValueError(f"overrides: the threshold of {LANGUAGE_SCORE!r} is set by min_language_score")
            if name not in names:
                raise ValueError(f"overrides: {_unknown('rule', name, names)}")
        for name in self.disabled:
            if name not in (*names, LANGUAGE, LANGUAGE_SCORE):
                raise ValueError(f"disabled: {_unknown('rule', name, [*names, LANGUAGE, LANGUAGE_SCORE])}")
        return self

    def _profile_rules(self) -> tuple[Rule, ...]:
        return self._profile.all_rules() if self._profile else ()

    def rules(self) -> tuple[Rule, ...]:
        """The rules of the profile that are asked, in order, with their thresholds as overridden."""
        return tuple(
            rule.model_copy(update={"threshold": self.overrides.get(rule.name, rule.threshold)})
            for rule in self._profile_rules()
            if rule.name not in self.disabled
        )

    def line_rules(self) -> LineRules | None:
        """The line rules that go with the profile, or None where it leaves lines alone."""
        return self._profile.line_rules if self._profile else None

    def meanings(self) -> dict[str, str]:
        """What every rule that is asked drops, in words, by its name."""
        of_language = {
            LANGUAGE: f"language, as fastText names it, none of {', '.join(self.languages)}",
            LANGUAGE_SCORE: f"language_score below {self.min_language_score:g} (fastText's score of the language, 0 to 1)",
        }
        return {name: of_language[name] for name in _language_rules(self)} | {rule.name: rule.meaning() for rule in self.rules()}

    def groups(self) -> tuple[Group, ...]:
        """The groups of signals that its rules ask for, besides what is always measured."""
        return groups_of(rule.signal for rule in self.rules())

    def unasked(self) -> frozenset[str]:
        """The columns of signals and scores that no rule asks for, and that need not be read."""
        return MEASURED - {rule.signal for rule in self.rules()}

    def files(self) -> Mapping[str, str]:
        """What the recipe says of the profile's file; the overrides are in the configuration."""
        return files_of(self.profile, self._profile)


@dataclass(frozen=True)
class Decision:
    """A verdict per document, as columns of equal length; the last four are null where the document is kept."""

    keep: npt.NDArray[np.bool_]
    rule: pa.StringArray
    """The first rule that dropped the document."""
    value: pa.DoubleArray
    """What was measured, in the unit of the rule's signal; for `language` the score."""
    threshold: pa.DoubleArray
    """What it was compared with; null for `language`."""
    detail: pa.StringArray
    """For the language rules the language found, else null."""


@dataclass(frozen=True)
class _Failure:
    """One rule over all documents."""

    rule: str
    failed: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float64]
    threshold: float


def decide(signals: pa.Table, config: FilterConfig) -> Decision:
    """The verdict on every row of `signals`, which holds the columns that the rules of `config` ask for.

    Raises InputError that names the columns that are missing, and the groups of signals that have them.
    """
    return _first_failures(_failures(signals, config), signals, _language_rules(config))


def ask_each(signals: pa.Table, config: FilterConfig) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows every rule drops by itself, by its name and in the order of `rule_names`; raises as `decide` does."""
    return {failure.rule: failure.failed for failure in _failures(signals, config)}


def rule_names(config: FilterConfig) -> list[str]:
    """The rules that a filter asks, in order."""
    return [*_language_rules(config), *(rule.name for rule in config.rules())]


def require(signals: pa.Table, needed: Iterable[str], rules: Iterable[Rule] = ()) -> None:
    """See that a table of signals has the columns that are needed; else InputError names those missing and what adds them.

    Args:
        rules: those that ask for them, which could be disabled.
    """
    if missing := sorted(set(needed) - set(signals.column_names)):
        raise InputError(f"the signals table lacks the columns: {', '.join(missing)}{_what_adds(missing, rules)}")


def _failures(signals: pa.Table, config: FilterConfig) -> list[_Failure]:
    rules = config.rules()
    asked = _language_rules(config)
    require(signals, {rule.signal for rule in rules} | ({LANGUAGE, LANGUAGE_SCORE} if asked else set()), rules)
    return [_ask_language(name, signals, config) for name in asked] + [_ask(rule, signals) for rule in rules]


def _what_adds(missing: Collection[str], rules: Iterable[Rule]) -> str:
    """What to do for columns that are missing, each from "; " on."""
    told = []
    if groups := groups_of(missing):
        told.append(f"signals.groups must name {', '.join(groups)}")
    if scores := [name for name in SCORE_NAMES if name in missing]:
        steps = sorted({name.partition("_")[0] for name in scores})
        asking = [rule.name for rule in rules if rule.signal in scores]
        told.append(
            f"`gristmill step score` adds {', '.join(scores)}, with a classifier from {' and '.join(f'`step {one}`' for one in steps)}; "
            f"filter.disabled=[{', '.join(asking)}] goes without"
        )
    return "".join(f"; {one}" for one in told)


def _language_rules(config: FilterConfig) -> list[str]:
    return [name for name in (LANGUAGE, LANGUAGE_SCORE) if config.languages and name not in config.disabled]


def _ask_language(name: str, signals: pa.Table, config: FilterConfig) -> _Failure:
    score = signals[LANGUAGE_SCORE].to_numpy()
    if name == LANGUAGE:
        wanted = np.isin(signals[LANGUAGE].to_numpy().astype(str), config.languages)
        return _Failure(name, ~wanted, score.astype(np.float64), np.nan)
    return _Failure(
        name, score < score.dtype.type(config.min_language_score), score.astype(np.float64), config.min_language_score
    )


def _ask(rule: Rule, signals: pa.Table) -> _Failure:
    value = signals[rule.signal].to_numpy()
    threshold = np.float32(rule.threshold) if value.dtype == np.float32 else rule.threshold
    return _Failure(rule.name, _COMPARE[rule.drop](value, threshold), value.astype(np.float64), rule.threshold)


def _first_failures(failures: list[_Failure], signals: pa.Table, asked: list[str]) -> Decision:
    num_rows = signals.num_rows
    first = np.full(num_rows, -1, np.int32)
    value, threshold = np.full(num_rows, np.nan), np.full(num_rows, np.nan)
    for index, failure in enumerate(failures):
        new = failure.failed & (first < 0)
        first[new] = index
        value[new] = failure.value[new]
        threshold[new] = failure.threshold
    keep = first < 0
    names = pa.array([failure.rule for failure in failures], pa.string())
    languages = signals[LANGUAGE].to_numpy() if asked else np.full(num_rows, None)
    return Decision(
        keep=keep,
        rule=names.take(pa.array(first, mask=keep)),
        value=pa.array(value, mask=keep),
        threshold=pa.array(threshold, mask=np.isnan(threshold)),
        detail=pa.array(languages, pa.string(), mask=keep | (first >= len(asked))),
    )
