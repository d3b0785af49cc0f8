"""The patterns of a guard's rules, from tasks/serving/rules: what is found by its form, with examples that a test asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tasks.serving.checks import CHECKS, CheckName
from tasks.serving.detectors import Pattern
from tasks.serving.views import ViewName

RuleFile = Literal["pii", "secrets", "injection"]
FOLDER = Path(__file__).with_name("rules")
BETWEEN = r"\W{1,6}"
"""What a space in a pattern of words stands for."""


class PatternRule(BaseModel):
    """One pattern of a kind; a kind may have several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """What it finds: a policy names it, and the log tells it."""
    pattern: str
    """Regular expression (Python's `re`) with bounded repeats; a group `it` is what was found, the rest its context."""
    view: ViewName = "plain"
    """Which reading of the text is asked (tasks/serving/views.py)."""
    words: bool = False
    """Whether it is a pattern of whole words, in which a space stands for one to six signs that are none of a word."""
    alphabet: str = ""
    """Characters of a match and of what is looked at behind it, as a class of a regular expression: so a stream holds back less."""
    begins: tuple[str, ...] = ()
    """Strings in lower case, one of which every match begins with, in any case; likewise."""
    opens: str = ""
    """A short regular expression that matches where any match begins; likewise."""
    needs: tuple[str, ...] = ()
    """Strings, one of which every match holds: without any the pattern is not tried."""
    check: CheckName | None = None
    """What a match must be besides."""
    score: float = Field(1.0, gt=0, le=1)
    """How sure a match is, in our belief; a rule's threshold asks for it."""
    mask: str = "[removed]"
    """What stands in its place where a rule changes the text."""
    examples: tuple[str, ...] = Field(min_length=1)
    """Texts in which it is found."""
    harmless: tuple[str, ...] = Field(min_length=1)
    """Texts that look like it, in which it finds nothing."""

    def expression(self) -> str:
        """The pattern as `re` takes it."""
        return rf"(?<!\w)(?:{self.pattern.replace(' ', BETWEEN)})(?!\w)" if self.words else self.pattern

    def detector(self, check: Callable[[str], bool] | None = None) -> Pattern:
        """What finds it, with another check in place of its own if given."""
        signs = "".join(char for char in map(chr, range(128)) if self.alphabet and re.match(f"[{self.alphabet}]", char))
        known = CHECKS[self.check] if self.check else None
        return Pattern(
            self.kind,
            self.expression(),
            score=self.score,
            alphabet=signs,
            begins=self.begins,
            opens=self.opens,
            needs=self.needs,
            check=check or known,
        )


@lru_cache(maxsize=3)
def load(name: RuleFile) -> tuple[PatternRule, ...]:
    """The patterns of a file."""
    raw = yaml.load(
        (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), yaml.BaseLoader
    )  # examples that look like dates stay texts
    return tuple(PatternRule.model_validate(one) for one in raw["kinds"])


def kinds(name: RuleFile) -> tuple[str, ...]:
    """The kinds of a file, each once."""
    return tuple(dict.fromkeys(one.kind for one in load(name)))
