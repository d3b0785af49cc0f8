"""Planted duplicates: families of texts whose similarities are known exactly, and corpora of few words in which all things collide.

A passage is a stretch of an endless text in which no word comes twice, so a text of w words has w - 4 distinct shingles of 5 words and
two passages share just those of the stretch that they share.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from .reference_dedup import Record

NGRAM_WORDS = 5


def passage(seed: int, start: int, num_words: int) -> str:
    """Words start, start + 1, … of endless text `seed`."""
    return " ".join(f"{_letters(seed)}{place}" for place in range(start, start + num_words))


def pair(seed: int, shared: int, own_left: int, own_right: int) -> tuple[str, str]:
    """Two texts with so many 5-word shingles in common and of their own: Jaccard is shared / (shared + own_left + own_right)."""
    left, right = family(seed, shared, [own_left, own_right])
    return left, right


def family(seed: int, shared: int, owns: Sequence[int]) -> list[str]:
    """Texts that begin alike: any two of them have `shared` shingles in common, and each has `owns[i]` of its own."""
    head = passage(10 * seed, 0, shared + NGRAM_WORDS - 1)
    return [f"{head} {passage(10 * seed + 1, 1000 * place, own)}".strip() for place, own in enumerate(owns)]


def chain(seed: int, num_links: int, num_shingles: int, shift: int) -> list[str]:
    """A window that slides over a text: links d apart have Jaccard (n - d·shift) / (n + d·shift), n being their number of shingles."""
    return [passage(seed, link * shift, num_shingles + NGRAM_WORDS - 1) for link in range(num_links)]


def loops(seed: int, num_words: int, times: int) -> str:
    """A passage over and over: from twice on always the same shingles, though the text is another one."""
    return " ".join([passage(seed, 0, num_words)] * times)


def disguised(text: str, draw: random.Random) -> str:
    """The same words in other letters and signs: the normal form is equal."""
    words = [word.upper() if draw.random() < 0.3 else word for word in text.split()]
    return "".join(word + draw.choice([" ", "  ", ", ", "\n", ". ", " — "]) for word in words)


def mixed(seed: int, num_families: int = 12) -> list[Record]:
    """Families at similarities from 0.3 to 1 with copies, chains, loops, short, empty and unrelated texts, in no order.

    Three texts in four have a quality; several have equal rank up to their ids. Hosts and URLs come more than once.
    """
    draw = random.Random(f"mixed {seed}")
    texts: list[str] = []
    for number in range(num_families):
        name, shared = 1000 * seed + number, draw.choice([40, 60, 120])
        owns = [round(shared * draw.choice([0, 0.02, 0.05, 0.1, 0.12, 0.13, 0.25, 0.5, 1.2])) for _ in range(draw.randint(1, 5))]
        members = family(name, shared, owns)
        texts += members + [disguised(one, draw) for one in members if draw.random() < 0.3]
    texts += chain(1000 * seed + 500, 6, 80, 7) + chain(1000 * seed + 501, 5, 80, 20)
    texts += [loops(1000 * seed + 600, 30, times) for times in (1, 2, 3, 5)]
    texts += [passage(1000 * seed + 700 + place, 0, draw.choice([1, 3, 5, 6, 80])) for place in range(5)]
    texts += ["one short line", "One short line!", "another short line", "", "…!", "🎉"]
    return records(texts, draw)


def crowded(seed: int, num_documents: int = 40, vocabulary: int = 9) -> list[Record]:
    """Texts of few words out of very few, for settings with short shingles: large mixed buckets, many edges, contents of many copies."""
    draw = random.Random(f"crowded {seed}")
    words = [_letters(number) for number in range(vocabulary)]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 7))) for _ in range(num_documents * 2 // 3)]
    texts += [disguised(text, draw) for text in draw.choices(texts[: num_documents // 4], k=num_documents - len(texts))]
    return records(texts, draw)


def records(texts: Sequence[str], draw: random.Random) -> list[Record]:
    """Documents with these texts, in no order, with few different qualities, hosts and URLs."""
    made = [
        Record(
            doc_id=f"{draw.getrandbits(128):032x}",
            text=text,
            url=f"http://h{draw.randrange(5)}.example/{draw.randrange(3 * len(texts))}",
            quality=draw.choice([None, 0.25, 0.5, 0.5]),
        )
        for text in texts
    ]
    draw.shuffle(made)
    return made


def crawls(documents: Sequence[Record], num_crawls: int, seed: int) -> list[list[Record]]:
    """The documents dealt out to crawls; some are met again in later ones, with their id or another one."""
    draw = random.Random(f"crawls {seed}")
    dealt: list[list[Record]] = [[] for _ in range(num_crawls)]
    for one in documents:
        first = draw.randrange(num_crawls)
        dealt[first].append(one)
        for later in dealt[first + 1 :]:
            if draw.random() < 0.15:
                later.append(one)
            elif draw.random() < 0.05:
                later.append(replace(one, text=f"{one.text} {documents[0].text}"))  # the same page, extracted otherwise
            elif draw.random() < 0.1:
                later.append(replace(one, doc_id=f"{draw.getrandbits(128):032x}"))  # captured anew, found unchanged
    return dealt


def _letters(number: int) -> str:
    """A word for a number, of letters only, so that no digit of a place can be taken for one of the seed."""
    word = "q"
    while number:
        number, rest = divmod(number, 16)
        word += "abcdefghijklmnop"[rest]
    return word
