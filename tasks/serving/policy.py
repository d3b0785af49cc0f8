"""A guard's policy: which rules judge what goes to a model and what comes from it, and what follows; YAML files, three of them shipped.

`default` masks what is surely personal or secret and refuses plain attacks; `strict` refuses and masks on weaker signs and over-blocks more
(docs/guardrails.md has both measured); `off` judges nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.errors import InputError
from infra.ids import payload_digest
from infra.storage import LocalPath
from tasks.serving import patterns
from tasks.serving.detectors import LinearPattern, Phrases
from tasks.serving.views import read

Side = Literal["before", "after", "both"]
Action = Literal["refuse", "change", "log"]
FOLDER = Path(__file__).with_name("policies")
UNSPACED = ("ja", "th", "zh")
"""Languages whose words are not told apart by spaces: their lists cannot be used."""


class Rule(BaseModel):
    """What every rule says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("", pattern=r"^([a-z][a-z0-9_-]*)?$")
    """What the log calls it; "": as its kind."""
    side: Side = "both"
    """Judge messages to the model, its answer, or both."""
    action: Action = "refuse"
    """refuse: there is no answer, or it ends there. change: what was found is masked. log: it is only told."""
    message: str = ""
    """What the user reads in place of the answer where this rule refuses; "": the policy's `refusal`."""

    @property
    def sides(self) -> tuple[str, ...]:
        """before, after or both of them."""
        return ("before", "after") if self.side == "both" else (self.side,)


class PatternsRule(Rule):
    """What is found by its form, with a threshold for how sure that is."""

    threshold: float = Field(0.5, gt=0, le=1)
    """Patterns whose score (tasks/serving/rules) is below it are not asked."""
    find: tuple[str, ...] | None = None
    """Kinds that are looked for; null: all of the file."""


class PiiRule(PatternsRule):
    """Personal data by its form."""

    kind: Literal["pii"]
    action: Action = "change"
    """As above."""
    find: tuple[str, ...] | None = ("email", "ip", "credit_card", "iban", "us_ssn", "phone", "driver_license")
    """Kinds that are looked for (tasks/serving/rules/pii.yaml); web addresses, dates, ages and postal codes only if named. null: all."""


class SecretsRule(PatternsRule):
    """Keys, tokens and passwords."""

    kind: Literal["secrets"]
    action: Action = "change"
    """As above."""


class InjectionRule(PatternsRule):
    """Attempts to overrule the instructions of a model, to have them told, or to hide either."""

    kind: Literal["injection"]
    side: Side = "before"
    """As above."""
    threshold: float = Field(0.8, gt=0, le=1)
    """As above."""


class ToxicityRule(Rule):
    """Toxic lines, by a classifier that `gristmill step toxicity` trained, by lists of bad words, or where both say so."""

    kind: Literal["toxicity"]
    classifier: LocalPath | None = None
    """Folder of a version of the step `toxicity`; null: none is asked."""
    threshold: float = Field(0.9, gt=0, lt=1)
    """The classifier's calibrated score from which a line is toxic."""
    lists: tuple[str, ...] = ()
    """Languages whose bad words (tasks/text/bad_words_data) are looked for. A word alone says little: docs/guardrails.md."""
    words: tuple[str, ...] = ()
    """Words and phrases besides."""
    allow: tuple[str, ...] = ()
    """Words and phrases that are let through, with the listed words in them."""
    both: bool = False
    """Whether a line must be toxic to the classifier and hold a listed word."""

    @model_validator(mode="after")
    def _asks_something(self) -> ToxicityRule:
        listed = bool(self.lists or self.words)
        if self.classifier is None and not listed:
            raise ValueError("name a classifier, or lists of bad words, or words")
        if self.both and (self.classifier is None or not listed):
            raise ValueError("both: needs a classifier and lists or words")
        from tasks.text import bad_words

        known = [one for one in bad_words.shipped_lists() if one not in UNSPACED]
        if unknown := sorted(set(self.lists) - set(known)):
            raise ValueError(f"lists: {', '.join(unknown)}: none of {', '.join(known)}")
        return self


class TopicsRule(Rule):
    """Subjects that are not talked about, by words, phrases and regular expressions."""

    kind: Literal["topics"]
    deny: tuple[str, ...] = ()
    """Words and phrases; case, accents and look-alike letters make no difference."""
    patterns: tuple[str, ...] = ()
    """Regular expressions that RE2 takes, for whole words of the text in lower case; bounded, without anchors."""
    allow: tuple[str, ...] = ()
    """Phrases that are let through, with what is denied in them: "breast cancer"."""

    @field_validator("patterns")
    @classmethod
    def _usable(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            LinearPattern("topic", one)
        return given

    @field_validator("deny", "allow")
    @classmethod
    def _phrases(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        Phrases(dict.fromkeys((read(one, "folded") for one in given), "topic"))
        return given

    @model_validator(mode="after")
    def _denies_something(self) -> TopicsRule:
        if not self.deny and not self.patterns:
            raise ValueError("deny: name words or phrases, or patterns")
        return self


class LengthRule(Rule):
    """How much is asked and answered."""

    kind: Literal["length"]
    max_chars: int | None = Field(None, ge=1)
    """Characters of all judged messages together, or of the answer; an answer is cut there where the action is change."""
    max_turns: int | None = Field(None, ge=1)
    """Messages of a request."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens of all judged messages together, by the served model's tokeniser."""

    @model_validator(mode="after")
    def _possible(self) -> LengthRule:
        if self.max_chars is None and self.max_turns is None and self.max_tokens is None:
            raise ValueError("give max_chars, max_turns or max_tokens")
        if self.action == "change" and self.side != "after":
            raise ValueError("action: what is asked is not cut; refuse it or log it (change is for side: after)")
        if self.side == "after" and (self.max_turns or self.max_tokens):
            raise ValueError("an answer has no turns, and its tokens are limited where it is generated; give max_chars")
        return self


class LeakRule(Rule):
    """Runs of words of the system prompt in an answer."""

    kind: Literal["leak"]
    side: Literal["after"] = "after"
    """As above."""
    action: Action = "change"
    """As above."""
    num_words: int = Field(8, ge=3, le=12)
    """So many words in the order of the system prompt are a leak."""


AnyRule = Annotated[
    PiiRule | SecretsRule | InjectionRule | ToxicityRule | TopicsRule | LengthRule | LeakRule, Field(discriminator="kind")
]


KINDS = ("pii", "secrets", "injection", "toxicity", "topics", "length", "leak")
"""Of rules."""


class Policy(BaseModel):
    """What a guard does. Where several rules find something at one place, what refuses counts first, then the order here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Told in the log."""
    about: str = ""
    """For whoever chooses it."""
    roles: tuple[Literal["user", "assistant", "tool", "system", "developer"], ...] = ("user", "assistant", "tool")
    """Messages that are judged before the model, by role. What a server puts before them itself is not for the guard."""
    refusal: str = Field("I can't help with that.", min_length=1)
    """What the user reads where a rule refuses and has no message of its own."""
    rules: tuple[AnyRule, ...] = ()
    """In order."""

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if twice := sorted(name for name, count in Counter(map(name_of, self.rules)).items() if count > 1):
            raise ValueError(f"rules: {', '.join(twice)}: named twice; give them names")
        for rule in self.rules:
            if isinstance(rule, PatternsRule):
                known = patterns.kinds(rule.kind)
                if unknown := sorted(set(rule.find or ()) - set(known)):
                    raise ValueError(f"{name_of(rule)}.find: {', '.join(unknown)}: none of {', '.join(known)}")
        return self


def kind_of(rule: Rule) -> str:
    """Which of KINDS a rule is."""
    return str(rule.kind)  # type: ignore[attr-defined]


def name_of(rule: Rule) -> str:
    """What the log calls a rule."""
    return rule.name or kind_of(rule)


def presets() -> list[str]:
    """The policies that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def policy_path(name: str) -> Path:
    """The file of a policy that ships, by name, or of one's own, by path.

    Raises:
        InputError: it is neither.
    """
    path = FOLDER / f"{name}.yaml" if name in presets() else Path(name)
    if not path.is_file():
        raise InputError(f"policy {name!r}: neither a file nor one of {', '.join(presets())}")
    return path


def load_policy(name: str) -> Policy:
    """The policy of `policy_path(name)`.

    Raises:
        InputError: there is none, or its file is wrong: every problem with its key.
    """
    path = policy_path(name)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Policy.model_validate({"name": path.stem, **(raw if isinstance(raw, dict) else {"rules": raw})})
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no YAML: {error}") from error
    except ValidationError as error:
        lines = (f"{path}: {'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r:.80})" for one in error.errors())
        raise InputError("\n".join(lines)) from error


def policy_files(name: str) -> dict[str, str]:
    """Digests of a policy, its patterns and its classifiers, as part of a recipe."""
    files = {f"policy {name}": payload_digest(policy_path(name).read_bytes())}
    files |= {f"rules {path.stem}": payload_digest(path.read_bytes()) for path in sorted(patterns.FOLDER.glob("*.yaml"))}
    for rule in load_policy(name).rules:
        if isinstance(rule, ToxicityRule):
            from tasks.text import bad_words

            files |= {f"bad words {one}": payload_digest((bad_words.LISTS / f"{one}.txt").read_bytes()) for one in rule.lists}
            if rule.classifier is not None:
                model = Path(rule.classifier, "model.bin")
                if not model.is_file():
                    raise InputError(
                        f"{policy_path(name)}: {name_of(rule)}.classifier: no trained classifier in {rule.classifier}"
                    )
                files[f"classifier {name_of(rule)}"] = payload_digest(model.read_bytes())
    return files
