"""English that a language model takes for English and the quality rules for prose: seeded, and no two texts alike."""

from __future__ import annotations

import random

NOUNS = """bridge letter harvest engine garden festival painting ship road window story market tower lesson journey machine kitchen
forest miller baker river neighbour committee engineer captain orchard sister librarian merchant school harbour farmer council museum
valley coast town canal roof border hill winter meeting news summer evening doctor teacher village church station mountain island
castle library hospital factory theatre kingdom century season morning answer question problem newspaper minister soldier painter
""".split()  # noqa: SIM905 -- a list of a hundred quoted words is harder to read
VERBS = """carried repaired described measured painted questioned remembered delivered gathered examined promised discovered protected
borrowed published followed visited admired crossed opened changed watched reached mentioned recorded finished explained defended
""".split()  # noqa: SIM905
ADJECTIVES = """heavy quiet golden unexpected careful broken distant ordinary wooden modern gentle expensive northern familiar curious
narrow famous ancient bright honest foreign simple strange young public private local frozen green empty noble early pleasant
""".split()  # noqa: SIM905


def text(seed: int, num_paragraphs: int = 3) -> str:
    """Some 200 words in paragraphs."""
    draw = random.Random(seed)
    return "\n\n".join(" ".join(_sentence(draw) for _ in range(4)) for _ in range(num_paragraphs))


def _sentence(draw: random.Random) -> str:
    one, two, three, four = draw.sample(NOUNS, 4)
    did, had = draw.sample(VERBS, 2)
    like, such = draw.sample(ADJECTIVES, 2)
    return draw.choice(
        [
            f"The {like} {one} {did} that {two}, and with the {three} it {had} a {such} {four}.",
            f"Nobody in the {one} {did} the {like} {two} because their {three} {had} some {such} {four}.",
            f"When a {like} {one} {did} the {two} of their {three}, we {had} it to the {such} {four}.",
            f"She {did} every {like} {one} that the {two} {had}, but this {such} {three} was never of the {four}.",
        ]
    )
