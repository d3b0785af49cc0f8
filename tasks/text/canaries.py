"""Canaries: secrets that nobody else wrote, planted in a corpus before training, so that a probe can ask what a model kept of them.

The format is that of Carlini et al. 2019 (The Secret Sharer, arXiv 1802.08232): "The code of <name> is <digits>". All follows from the
seed: whoever knows it needs no file to look for them. Each copy of a canary stands among 110 other words, each time others, and each
canary has a host of its own, so that filters and deduplication let them stay and `split` does not hold all out together.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

SOURCE = "canaries"
DIGIT_GROUPS, GROUP_SIZE = 3, 4
_SYLLABLES = """ba be bo da de di fa fe ga go ka ke ki la le lo ma me mi na ne no pa pe ra re ri sa se so ta te ti va ve vo za
ze""".split()  # noqa: SIM905 -- a list of quoted words is harder to read
_NOUNS = """bridge letter harvest engine garden festival painting ship road window story market tower lesson journey kitchen forest river
orchard school harbour council museum valley coast canal roof border hill winter meeting evening village station mountain island castle
library""".split()  # noqa: SIM905
_VERBS = """carried repaired described measured painted remembered delivered gathered examined discovered protected borrowed published
visited admired crossed opened changed watched reached mentioned recorded finished explained defended""".split()  # noqa: SIM905
_ADJECTIVES = """heavy quiet golden careful broken distant modern gentle northern familiar curious narrow famous bright simple strange
young public private local frozen green pleasant""".split()  # noqa: SIM905
_SENTENCES = (
    "The {a0} {n0} was {v0} by those that had {v1} the {n1}, and with the {n2} it became a {a1} {n3}.",
    "Nobody in the {n0} had {v0} the {a0} {n1} because their {n2} was {v1} for some {a1} {n3}.",
    "When the {a0} {n0} was {v0} in the {n1} of their {n2}, we had {v1} it for the {a1} {n3}.",
)
_NUM_SENTENCES = 6


class CanaryConfig(BaseModel):
    """Which canaries there are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(1, ge=0)
    """Decides names, digits and the words around them; the planted ones and the probed ones must have the same."""
    num: int = Field(33, ge=1, le=10_000)
    """Canaries. Below 30 the probe's answer is marked as too small to tell."""
    repeats: tuple[PositiveInt, ...] = Field((1, 4, 16), min_length=1)
    """Documents that hold each: the first canary is in repeats[0] of them, the second in repeats[1] …, and so around."""


class Canary(NamedTuple):
    """A secret of the format."""

    name: str
    beginning: str
    """What a model is given."""
    secret: str
    """What it should not know: a space and the digits."""
    repeats: int

    @property
    def sentence(self) -> str:
        """All of it."""
        return f"{self.beginning}{self.secret}."


def canaries(config: CanaryConfig, *, planted: bool = True) -> list[Canary]:
    """The canaries of a seed; with `planted=False` as many of equal form that `documents` never writes."""
    draw = random.Random(f"canaries {config.seed} {planted}")
    secrets: dict[str, str] = {}
    while len(secrets) < config.num:
        name = " ".join("".join(draw.choices(_SYLLABLES, k=3)).capitalize() for _ in range(2))
        secrets.setdefault(name, secret(draw))
    many = config.repeats
    return [
        Canary(name, f"The code of {name} is", digits, many[number % len(many)])
        for number, (name, digits) in enumerate(secrets.items())
    ]


def secret(draw: random.Random) -> str:
    """A space and digits in groups: uniform over 10^12."""
    groups = (f"{draw.randrange(10**GROUP_SIZE):0{GROUP_SIZE}}" for _ in range(DIGIT_GROUPS))
    return "".join(f" {group}" for group in groups)


def documents(config: CanaryConfig) -> Iterator[dict[str, Any]]:
    """Rows (text, url, source) to plant, as `ingest` reads them."""
    for number, canary in enumerate(canaries(config)):
        for copy in range(canary.repeats):
            draw = random.Random(f"canary {config.seed} {number} {copy}")
            sentences = [_sentence(draw) for _ in range(_NUM_SENTENCES)]
            sentences.insert(_NUM_SENTENCES // 2, canary.sentence)
            yield {"text": " ".join(sentences), "url": f"http://canary-{number}.example/{copy}", "source": SOURCE}


def _sentence(draw: random.Random) -> str:
    words = {f"n{at}": word for at, word in enumerate(draw.sample(_NOUNS, 4))}
    words |= {f"v{at}": word for at, word in enumerate(draw.sample(_VERBS, 2))}
    words |= {f"a{at}": word for at, word in enumerate(draw.sample(_ADJECTIVES, 2))}
    return draw.choice(_SENTENCES).format(**words)
