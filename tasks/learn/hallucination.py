"""Is what a model says of names and numbers in its documents? Closed-book questions, self-consistency, and things that do not exist.

A question is the beginning of a training document's sentence up to a name or a number; the answer is the first one that the model
writes. It is *supported* by the source if that document holds it, word for word in `normalise`'s form, else by another training
document, else by none: a candidate for a hallucination. Small numbers stand in many documents, so answers are also looked for in the
next question's source: what only chance supports. A base model was never taught to say that it does not know; what it can show is
whether it is less sure of what it cannot know, so abstaining is measured by words and by probability. Names are told by their capital
letters (every noun in German), and the questions about made-up names are English. Costs some thousand generated tokens, and one pass
over the training texts at 100 MB/s and more.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.learn import figures
from tasks.learn.benchmark_config import HallucinationConfig
from tasks.learn.figures import Better, Figure, Measured
from tasks.learn.task_packs import Document, draw_of, drawn, sentences, shown
from tasks.text.needles import needles_of, search

if TYPE_CHECKING:
    from tasks.learn.scorer import Scorer

Kind = Literal["name", "number"]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
MIN_WORDS_BEFORE = 3
"""Of the sentence, before what is asked for."""
LONGEST_ANSWER_WORDS = 16
"""An answer of more words is looked for by its first ones."""
MAX_EXAMPLES = 20
"""Answers that are kept to be read."""
UNANSWERABLE = (
    "{} is the capital of",
    "The town of {} was founded in",
    "The author of the book {} is",
    "The number of people who live in {} is",
    "The company {} was bought by",
    "The height of Mount {} in metres is",
)
"""Beginnings that want a name or a number for an answer."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NAME = re.compile(r"[^\W\d_][\w'’-]+(?: [^\W\d_][\w'’-]+){0,2}")
_NEXT_SENTENCE = re.compile(r"(?<=[.!?])\s|\n")
_SYLLABLES = [f"{first}{second}" for first in "bdfgklmnprstvz" for second in "aeiou"]


@dataclass(frozen=True)
class Fact:
    """What is asked."""

    item: str
    group: str
    prompt: str
    kind: Kind
    truth: str
    """What the document says; "" where nothing can be known."""


@dataclass(frozen=True)
class Said:
    """What a model answered to facts, (N,) each."""

    texts: list[str]
    """All that it wrote, greedily."""
    answers: list[str]
    """The first name or number in it; "" where there is none."""
    confidence: Floats
    """Geometric mean of the probabilities of its tokens up to the answer's end; 0 where there is no answer."""


def facts_of(documents: Sequence[Document], config: HallucinationConfig) -> list[Fact]:
    """Questions about names and numbers of training documents, one of a document."""
    found = (
        _fact(document, draw_of(config.seed, "fact", document.doc_id), config)
        for document in drawn(documents, config.seed, "fact")
    )
    return list(islice((fact for fact in found if fact is not None), config.num_items))


def _fact(document: Document, chance: random.Random, config: HallucinationConfig) -> Fact | None:
    text = document.text
    places = [
        (start, end, kind)
        for first, last in sentences(text)
        for start, end, kind in entities(text, first, last)
        if text.count(" ", first, start) >= MIN_WORDS_BEFORE
    ]
    if not places:
        return None
    start, end, kind = chance.choice(places)
    return Fact(document.doc_id, document.source, shown(text, start, config.context_chars), kind, text[start:end])


def entities(text: str, first: int = 0, last: int | None = None) -> list[tuple[int, int, Kind]]:
    """(start, end, kind) of numbers, and of names: up to three words of two letters or more that each begin with a capital letter."""
    last = len(text) if last is None else last
    found: list[tuple[int, int, Kind]] = [(*match.span(), "number") for match in _NUMBER.finditer(text, first, last)]
    place = first
    while (match := _NAME.search(text, place, last)) is not None:
        words = match[0].split(" ")
        number = next((at for at, word in enumerate(words) if not word[0].isupper()), len(words))
        if number and (match.start() == first or not text[match.start() - 1].isalnum()):
            end = match.start() + len(" ".join(words[:number]))
            found.append((match.start(), end, "name"))
            place = end
        else:
            place = match.start() + len(words[0])
    return sorted(found)


def unanswerable(names: Sequence[str]) -> list[Fact]:
    """Questions about names that nothing is known of."""
    return [
        Fact(f"made-up {name} {number}", "", UNANSWERABLE[number % len(UNANSWERABLE)].format(name), "name", "")
        for number, name in enumerate(names)
    ]


def made_up_names(number: int, seed: int) -> list[str]:
    """Distinct names of three or four syllables."""
    chance = random.Random(f"made-up {seed}")
    names: dict[str, None] = {}
    while len(names) < number:
        names["".join(chance.choices(_SYLLABLES, k=chance.choice((3, 4)))).capitalize()] = None
    return list(names)


def first_answer(text: str, kind: Kind | None) -> tuple[str, int]:
    """(answer, end) of the first entity of a kind (None: of any) in the rest of the sentence; ("", 0) where there is none."""
    # a word that begins the next sentence has a capital letter and is no name
    line = _NEXT_SENTENCE.split(text.lstrip(), maxsplit=1)[0]
    skipped = len(text) - len(text.lstrip())
    for start, end, one in entities(line):
        if kind is None or one == kind:
            return line[start:end], skipped + end
    return "", 0


def ask(scorer: Scorer, facts: Sequence[Fact], config: HallucinationConfig) -> Said:
    """The likeliest answers and how sure the model is of them; to what cannot be known, any name or number is an answer."""
    prompts = [fact.prompt for fact in facts]
    texts = [one for [one] in scorer.continuations(prompts, max_new_tokens=_room(scorer, config))]
    found = [first_answer(text, fact.kind if fact.truth else None) for fact, text in zip(facts, texts, strict=True)]
    confidence = np.zeros(len(facts))
    given = [place for place, (answer, _) in enumerate(found) if answer]
    nats, lengths, _ = scorer.log_likelihoods(
        [prompts[place] for place in given], [texts[place][: found[place][1]] for place in given]
    )
    confidence[given] = np.exp(nats / np.maximum(lengths, 1))
    return Said(texts, [answer for answer, _ in found], confidence)


def _room(scorer: Scorer, config: HallucinationConfig) -> int:
    """Tokens of an answer; a short context keeps half of it for the question."""
    return min(config.max_new_tokens, scorer.context_length // 2)


def agreement(scorer: Scorer, facts: Sequence[Fact], config: HallucinationConfig) -> Floats:
    """(N,) part of `num_samples` drawn answers that give the most frequent one; 0 where none gives any."""
    texts = scorer.continuations(
        [fact.prompt for fact in facts],
        max_new_tokens=_room(scorer, config),
        temperature=config.temperature,
        seed=config.seed,
        num_samples=config.num_samples,
    )
    shares = []
    for fact, many in zip(facts, texts, strict=True):
        answers = Counter(answer for text in many if (answer := first_answer(text, fact.kind)[0]))
        shares.append(max(answers.values(), default=0) / config.num_samples)
    return np.array(shares)


def abstains(text: str, words: Sequence[str]) -> bool:
    """Whether a text's first line says that there is no answer."""
    line = text.strip().partition("\n")[0].lower().replace("’", "'")
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", line) for word in words)


def holders(answers: Sequence[str], tables: Iterable[pa.Table], sources: Sequence[str]) -> tuple[list[set[int]], Flags]:
    """Which of some documents, and whether any at all, holds each answer.

    Args:
        answers: (N,) what is looked for, word by word; "" is nowhere.
        tables: all training documents, with `doc_id` and `text`.
        sources: (S,) doc_ids of the documents to be named.

    Returns: places in `sources` for each answer, and (N,) whether any document holds it.
    """
    needles = needles_of(pa.array(list(answers), pa.string()), (LONGEST_ANSWER_WORDS,), 1)
    place_of = {doc_id: place for place, doc_id in enumerate(sources)}
    wanted = needles.whole_of
    named: dict[int, set[int]] = {}
    anywhere = np.zeros(needles.size, bool)
    for batch in (batch for table in tables for batch in table.to_batches()):
        rows, hits = search(batch["text"], needles)
        anywhere[hits] = True
        for doc_id, hit in zip(batch["doc_id"].take(pa.array(rows)).to_pylist(), hits.tolist(), strict=True):
            if (place := place_of.get(doc_id)) is not None:
                named.setdefault(hit, set()).add(place)
    return (
        [named.get(int(needle), set()) if needle >= 0 else set() for needle in wanted],
        np.array([needle >= 0 and bool(anywhere[needle]) for needle in wanted], bool),
    )


def measure(scorer: Scorer, facts: Sequence[Fact], tables: Iterable[pa.Table], config: HallucinationConfig) -> Measured:
    """Figures `hallucination.*`, their items, and examples to read, of questions of `facts_of`.

    `tables` are all training documents, with `doc_id` and `text`: read once.
    """
    if not facts:
        return Measured(settings={"hallucination": {"left_out": "no training document has a sentence with a name or a number"}})
    said, names = ask(scorer, facts, config), made_up_names(2 * len(facts), config.seed)
    held_by, anywhere = holders([*said.answers, *names], tables, [fact.item for fact in facts])
    count = len(facts)
    unknown = [name for name, held in zip(names, anywhere[count:], strict=True) if not held][:count]
    held_by, anywhere = held_by[:count], anywhere[:count]
    answered = np.array([bool(answer) for answer in said.answers], bool)
    own = np.array([place in held for place, held in enumerate(held_by)], bool)
    next_one = np.array([(place + 1) % count in held for place, held in enumerate(held_by)], bool)
    correct = np.array(
        [answer.casefold() == fact.truth.casefold() for answer, fact in zip(said.answers, facts, strict=True)], bool
    )
    made, kept = _rates(
        facts,
        {
            "answered": (answered, None, "none"),
            "correct": (correct, None, "higher"),
            "supported.source": (own, answered, "higher"),
            "supported.any": (anywhere, answered, "higher"),
            "supported.by_chance": (next_one, answered, "none"),
            "unsupported": (~anywhere, answered, "lower"),
        },
    )
    shares = agreement(scorer, facts, config)
    more, items = _abstention(scorer, facts, said, unanswerable(unknown), config)
    made += [figures.figure("hallucination.self_consistency", shares, better="higher"), *more]
    kept += [_items("self_consistency", facts, shares), *items]
    examples = [
        {
            "prompt": fact.prompt,
            "document": fact.item,
            "truth": fact.truth,
            "answer": answer,
            "supported": "source" if own[place] else "other" if anywhere[place] else "none",
        }
        for place, (fact, answer) in enumerate(zip(facts[:MAX_EXAMPLES], said.answers, strict=False))
    ]
    return Measured(made, kept, {"hallucination": {"examples": examples}})


def _abstention(
    scorer: Scorer, facts: Sequence[Fact], said: Said, nothing: Sequence[Fact], config: HallucinationConfig
) -> tuple[list[Figure], list[pa.Table]]:
    """How often the model says that it does not know, and how sure it is, of what is known and of what cannot be."""
    others = ask(scorer, nothing, config)
    made: list[Figure] = []
    kept: list[pa.Table] = []
    for name, asked, some in (("answerable", facts, said), ("unanswerable", nothing, others)):
        told = np.array([abstains(text, config.abstentions) for text in some.texts], bool)
        sure = (some.confidence >= config.sure_probability) & ~told
        of_unknown = name == "unanswerable"
        rates, items = _rates(
            asked,
            {
                f"abstained.{name}": (told, None, "higher" if of_unknown else "lower"),
                f"sure.{name}": (sure, None, "lower" if of_unknown else "none"),
            },
        )
        made += rates
        kept += items
    both = min(len(facts), len(nothing))
    gaps = said.confidence[:both] - others.confidence[:both]
    made.append(figures.figure("hallucination.confidence_gap", gaps, better="higher"))
    kept.append(_items("confidence_gap", facts[:both], gaps))
    return made, kept


def _rates(facts: Sequence[Fact], flags: Mapping[str, tuple[Flags, Flags | None, Better]]) -> tuple[list[Figure], list[pa.Table]]:
    """Rates over all facts, or over those that count; the others are items of no weight, so that every model has the same."""
    made, kept = [], []
    for name, (flag, counted, better) in flags.items():
        weights = np.ones(len(facts)) if counted is None else counted.astype(np.float64)
        amounts = flag * weights
        made.append(figures.figure(f"hallucination.{name}", amounts, weights, form="rate", better=better))
        kept.append(_items(name, facts, amounts, weights))
    return made, kept


def _items(name: str, facts: Sequence[Fact], amounts: Floats, weights: Floats | None = None) -> pa.Table:
    return figures.items(f"hallucination.{name}", [fact.item for fact in facts], amounts, weights, [fact.group for fact in facts])
