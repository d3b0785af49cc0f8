"""Questions made from documents, so that any domain has a benchmark: cloze, sentence order, title match.

Every question has k answers of which one is the document's own; a model's answer is the likeliest, in nats per byte. Which word,
sentences and wrong answers are drawn follows from (seed, doc_id) and the documents given, so equal documents give equal questions for
every model. Sentences are told by their full stops and words by spaces: where a script has none, there are fewer questions. A guess is
right once in k times; a model that only knows how frequent words are hardly more often, for wrong words are as frequent as the right one.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from infra.ids import digest_of
from tasks.learn import figures
from tasks.learn.benchmark_config import PackConfig
from tasks.learn.figures import Measured

if TYPE_CHECKING:
    from tasks.learn.scorer import Scorer

Ints = npt.NDArray[np.int64]
MIN_WORDS, MAX_CHARS = 6, 240
"""A sentence that is asked: words at least, characters at most."""
MIN_LETTERS = 4
"""Letters of a word that is taken out; shorter ones are mostly grammar."""
NUM_COMMON = 50
"""The most frequent words of all are grammar as well, and not asked."""
NEAR_RANKS = 25
"""Wrong words are drawn from so many places above and below in the order of frequency."""
MIN_BODY_CHARS, MAX_TITLE_CHARS = 80, 120
_SENTENCE = re.compile(r"(?<!\S)\S(?:[^.!?\n]|[.!?](?=\S))*[.!?]+(?=\s|$)")
_WORD = re.compile(r"(?<= )[^\W\d_]+(?=[\s.,;:!?])")


@dataclass(frozen=True)
class Document:
    """A text to make questions from."""

    doc_id: str
    source: str
    title: str
    """"" where its page gives none."""
    text: str


@dataclass(frozen=True)
class Question:
    """What is asked: `contexts` and `choices` of the same number, or one of either for all of the other."""

    item: str
    """The doc_id."""
    group: str
    """The source."""
    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    answer: int
    """Place of the right one."""

    @property
    def name(self) -> str:
        """Equal only for equal questions: in another corpus a document may have other wrong answers beside it."""
        return f"{self.item}-{digest_of(*self.contexts, '', *self.choices)[:8]}"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(context, what follows it) of each answer."""
        most = max(len(self.contexts), len(self.choices))
        contexts, choices = (many * most if len(many) == 1 else many for many in (self.contexts, self.choices))
        return list(zip(contexts, choices, strict=True))

    def as_json(self) -> dict[str, Any]:
        """A row of a pack; one with a single `context` is a row of the kind choice of `benchmark.tasks`, too."""
        context = {"context": self.contexts[0]} if len(self.contexts) == 1 else {"contexts": list(self.contexts)}
        return {"item": self.item, "group": self.group, **context, "choices": list(self.choices), "answer": self.answer}


def draw_of(seed: int, kind: str, doc_id: str) -> random.Random:
    """The chance of one document in one pack."""
    return random.Random(digest_of("pack", str(seed), kind, doc_id))


def drawn(documents: Sequence[Document], seed: int, kind: str) -> list[Document]:
    """Documents in the order in which they are asked: that of a hash of seed and doc_id."""
    return sorted(documents, key=lambda document: digest_of("order", str(seed), kind, document.doc_id))


def make_packs(documents: Sequence[Document], config: PackConfig) -> dict[str, list[Question]]:
    """{kind: questions}, at most `num_items` of each, one of a document; fewer where documents give none."""
    makers: dict[str, Callable[[Document, random.Random], Question | None]] = {
        "cloze": _Cloze(documents, config),
        "order": lambda document, chance: _order(document, chance, config),
        "title": _Title(documents, config),
    }
    packs: dict[str, list[Question]] = {}
    for kind in config.kinds:
        made = (
            makers[kind](document, draw_of(config.seed, kind, document.doc_id))
            for document in drawn(documents, config.seed, kind)
        )
        found = (question for question in made if question is not None)
        packs[kind] = list(islice(found, config.num_items))
    return packs


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of the sentences that are long enough to be asked, and short enough."""
    found = [match.span() for match in _SENTENCE.finditer(text)]
    return [(start, end) for start, end in found if end - start <= MAX_CHARS and text.count(" ", start, end) >= MIN_WORDS - 1]


def shown(text: str, end: int, num_chars: int) -> str:
    """What stands before a place, at most so many characters from the start of a word on, without the space at its end."""
    start = max(0, end - num_chars)
    if start and (space := text.find(" ", start, end)) >= 0:
        start = space + 1
    return text[start:end].rstrip()


class _Cloze:
    """A word taken out of a sentence; the rest of the sentence is part of each answer, for it may decide."""

    def __init__(self, documents: Sequence[Document], config: PackConfig) -> None:
        self.config = config
        counts = Counter(word for document in documents for word in _WORD.findall(document.text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        self.common = {word.casefold() for word in ranked[:NUM_COMMON]}
        self.words = [word for word in ranked if self._may_be_asked(word)]
        self.rank = {word: place for place, word in enumerate(self.words)}

    def _may_be_asked(self, word: str) -> bool:
        return len(word) >= MIN_LETTERS and word.casefold() not in self.common

    def __call__(self, document: Document, chance: random.Random) -> Question | None:
        text = document.text
        places = [match.span() for start, end in sentences(text) for match in _WORD.finditer(text, start + 1, end)]
        places = [(start, end) for start, end in places if text[start:end] in self.rank]
        if not places:
            return None
        start, end = chance.choice(places)
        wrong = self._like(text[start:end], text, chance)
        if wrong is None:
            return None
        rest = text[end : next(stop for first, stop in sentences(text) if first < start < stop)]
        answers = [text[start:end], *wrong]
        chance.shuffle(answers)
        return Question(
            item=document.doc_id,
            group=document.source,
            contexts=(shown(text, start, self.config.context_chars),),
            choices=tuple(f" {word}{rest}" for word in answers),
            answer=answers.index(text[start:end]),
        )

    def _like(self, word: str, text: str, chance: random.Random) -> list[str] | None:
        """Wrong words of like frequency and case that the document itself does not hold."""
        rank, own = self.rank[word], {one.casefold() for one in _WORD.findall(text)}
        near = self.words[max(0, rank - NEAR_RANKS) : rank + NEAR_RANKS + 1]
        near = [one for one in near if one[0].isupper() == word[0].isupper() and one.casefold() not in own]
        wanted = self.config.num_choices - 1
        return chance.sample(near, wanted) if len(near) >= wanted else None


def _order(document: Document, chance: random.Random, config: PackConfig) -> Question | None:
    """Two sentences that follow one another, as they are and the other way round."""
    text, found = document.text, sentences(document.text)
    neighbours = [
        (one, two) for one, two in pairwise(found) if text[one[1] : two[0]].isspace() and text[slice(*one)] != text[slice(*two)]
    ]
    if not neighbours:
        return None
    one, two = chance.choice(neighbours)
    context = shown(text, one[0], config.context_chars)
    gap = " " if context else ""
    orders = [f"{gap}{text[slice(*first)]} {text[slice(*second)]}" for first, second in ((one, two), (two, one))]
    answer = chance.randrange(2)
    return Question(document.doc_id, document.source, (context,), tuple(orders if answer == 0 else orders[::-1]), answer)


class _Title:
    """Titles before one text: a page's own, else a first line that is like one."""

    def __init__(self, documents: Sequence[Document], config: PackConfig) -> None:
        self.config = config
        self.heads = {document.doc_id: head for document in documents if (head := _head(document)) is not None}
        self.titles = sorted({title for title, _, _ in self.heads.values()})

    def __call__(self, document: Document, chance: random.Random) -> Question | None:
        if document.doc_id not in self.heads:
            return None
        title, gap, body = self.heads[document.doc_id]
        others = [other for other in self.titles if other != title]
        wanted = self.config.num_choices - 1
        if len(others) < wanted:
            return None
        titles = [title, *chance.sample(others, wanted)]
        chance.shuffle(titles)
        return Question(
            item=document.doc_id,
            group=document.source,
            contexts=tuple(f"{one}{gap}" for one in titles),
            choices=(body[: self.config.context_chars or MIN_BODY_CHARS].rstrip(),),
            answer=titles.index(title),
        )


def _head(document: Document) -> tuple[str, str, str] | None:
    """(title, what stands between, body) of a document that has these."""
    first, _, rest = document.text.partition("\n")
    body = rest.lstrip()
    gap = document.text[len(first.rstrip()) : len(document.text) - len(body)]
    title = document.title.strip() or first.strip()
    if document.title.strip() and first.strip() != document.title.strip():
        gap, body = "\n\n", document.text
    fits = 0 < len(title) <= MAX_TITLE_CHARS and "\n" not in title and len(body) >= MIN_BODY_CHARS
    return (title, gap, body) if fits else None


def measure(scorer: Scorer, packs: Mapping[str, Sequence[Question]]) -> Measured:
    """Figures `tasks.pack_<kind>.accuracy` with their items, and how often a guess is right."""
    made = Measured()
    for kind, questions in packs.items():
        said = ask(scorer, questions)
        # what a context does not hold is no wrong answer, but no answer
        counted = (said >= 0).astype(np.float64)
        hits = np.array([place == one.answer for place, one in zip(said, questions, strict=True)], np.float64)
        name = f"tasks.pack_{kind}.accuracy"
        unit = f"share (a guess: {1 / len(questions[0].pairs):.2g})" if questions else ""
        made.figures.append(figures.figure(name, hits, counted, form="rate", better="higher", unit=unit))
        items, groups = [one.name for one in questions], [one.group for one in questions]
        made.items.append(figures.items(name, items, hits, counted, groups))
        made.settings[f"pack_{kind}"] = {
            "chance": 1 / len(questions[0].pairs) if questions else None,
            "too_long": int((said < 0).sum()),
        }
    return made


def ask(scorer: Scorer, questions: Sequence[Question]) -> Ints:
    """(N,) places of the answers that a model gives: the likeliest per byte, the first of equal ones.

    -1: the model's context does not hold an answer.
    """
    fits = [all(0 < len(ids) < scorer.context_length for ids in scorer.encode(question.choices)) for question in questions]
    pairs = [pair for question, held in zip(questions, fits, strict=True) if held for pair in question.pairs]
    nats, _, _ = scorer.log_likelihoods([context for context, _ in pairs], [choice for _, choice in pairs])
    each = iter((nats / [len(choice.encode()) for _, choice in pairs]).tolist() if pairs else [])
    return np.array([_best(question, each) if held else -1 for question, held in zip(questions, fits, strict=True)], np.int64)


def _best(question: Question, scores: Iterator[float]) -> int:
    return int(np.argmax([next(scores) for _ in question.pairs]))
