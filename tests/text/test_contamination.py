"""What counts as contaminated: by hand, and against a slow plain judge."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.text.contamination import (
    METHODS,
    DecontaminateConfig,
    Evidence,
    Looked,
    contained,
    distinct_passages,
    hit_table,
    item_table,
    weigh,
)
from tasks.text.evaluation_sets import Items
from tasks.text.minhash import normalise
from tasks.text.needles import needles_of, search

Row = tuple[int, int, str, int]
"""document, passage, method, length."""


def items(name: str, rows: list[list[str]]) -> Items:
    """A set whose items have these passages."""
    flat = [(number, f"field{at}", text) for number, row in enumerate(rows) for at, text in enumerate(row)]
    item, field, passages = (tuple(one) for one in zip(*flat, strict=True)) if flat else ((), (), ())
    keys = tuple(f"k{number}" for number in range(len(rows)))
    return Items(name, {"file": "digest"}, ("field0",), keys, item, field, passages)  # type: ignore[arg-type]


def judged(texts: list[str], sets: list[Items], config: DecontaminateConfig) -> tuple[Looked, Evidence]:
    looked = Looked(sets, needles_of(distinct_passages(sets).dictionary, config.ngram_words, config.min_words))
    document, needle = (one.astype(np.int64) for one in search(pa.array(texts, pa.string()), looked.needles))
    documents = np.bincount(needle, minlength=looked.needles.size)
    long = contained(looked.needles, document, needle, config)
    return looked, weigh(looked.needles, document, needle, documents, long, config)


def spread(texts: list[str], looked: Looked) -> np.ndarray:
    """In how many texts each needle stands."""
    return np.bincount(search(pa.array(texts, pa.string()), looked.needles)[1], minlength=looked.needles.size)


def states(texts: list[str], sets: list[Items], **settings: Any) -> list[str]:
    config = DecontaminateConfig(**settings)
    looked, found = judged(texts, sets, config)
    return list(item_table(looked, found, spread(texts, looked), config)["state"].to_pylist())


def rows_of(found: Evidence) -> dict[Row, float]:
    keys = zip(found.document.tolist(), found.passage.tolist(), found.method.tolist(), found.ngram_words.tolist(), strict=True)
    return {
        (doc, passage, METHODS[method], n): value
        for (doc, passage, method, n), value in zip(keys, found.value.tolist(), strict=True)
    }


def hits(texts: list[str], passage: str, **settings: Any) -> set[str]:
    """Methods by which the first text is a hit of the passage, as `exact`, `ngram 13`, …"""
    _, found = judged(texts, [items("set", [[passage]])], DecontaminateConfig(**settings))
    rows = rows_of(found.take(found.is_hit))
    return {f"{method} {n}".removesuffix(" 0") for doc, _, method, n in rows if doc == 0}


def judged_plainly(texts: list[str], passages: list[str], config: DecontaminateConfig) -> dict[Row, float]:
    bodies, found = [normalise(text).split() for text in texts], {}

    def grams(words: list[str], n: int) -> list[tuple[str, ...]]:
        return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]

    def spread(run: tuple[str, ...]) -> int:
        return sum(run in grams(body, len(run)) for body in bodies)

    longest = max(config.ngram_words)
    for number, passage in enumerate(passages):
        words = normalise(passage).split()
        for doc, body in enumerate(bodies):
            whole = tuple(words)
            evidence = len(words) >= longest or (len(words) >= config.min_words and spread(whole) <= config.max_documents)
            if evidence and whole in grams(body, len(whole)):
                found[doc, number, "exact", 0] = 1.0
            for n in config.ngram_words:
                own = grams(words, n)
                if not own:
                    continue
                every = sum(one in grams(body, n) for one in own) / len(own)
                if len(words) >= longest and every >= config.min_containment.get(n, 2):  # common ones count, too
                    found[doc, number, "containment", n] = every
                shared = sum(one in grams(body, n) and spread(one) <= config.max_documents for one in own)
                if shared:
                    found[doc, number, "ngram", n] = float(shared)
                    found.setdefault((doc, number, "containment", n), shared / len(own))
    return found


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=14).map(" ".join)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(WORDS, max_size=5),
    st.lists(WORDS, max_size=4),
    st.sets(st.integers(2, 5), min_size=1),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_evidence_is_that_of_a_plain_judge(
    texts: list[str], passages: list[str], lengths: set[int], least: int, most: int, share: float
) -> None:
    passages = list(dict.fromkeys(passages))
    config = DecontaminateConfig(
        ngram_words=tuple(lengths),
        any_ngram=(),
        min_containment={max(lengths): share, min(lengths): share},
        min_words=min(least, *lengths),
        max_documents=most,
    )
    _, found = judged(texts, [items("set", [[one] for one in passages])], config)
    assert rows_of(found) == pytest.approx(judged_plainly(texts, passages, config))
    assert len(rows_of(found)) == len(found)


QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber, so how many bolts in total does it take to make four robes?"
"""27 words: 20 8-grams, 15 13-grams."""


def test_a_copy_is_found_whatever_its_case_punctuation_and_lines() -> None:
    everything = {"exact", "ngram 13", "containment 8"}
    for copy in (
        QUESTION,
        QUESTION.upper(),
        QUESTION.replace(" ", "\n"),
        QUESTION.replace(",", " --").replace("?", "!!"),
        f"«{QUESTION}»",
    ):
        assert hits([f"Some words before. {copy} And some behind."], QUESTION) == everything, copy


def test_one_changed_word_leaves_the_8_grams_or_a_13_gram() -> None:
    words = QUESTION.split()
    assert len(words) == 27
    first = " ".join(["The", *words[1:]])  # one 8-gram of twenty is gone, one 13-gram of fifteen
    assert hits([first], QUESTION) == {"ngram 13", "containment 8"}
    _, found = judged([first], [items("set", [[QUESTION]])], DecontaminateConfig())
    assert rows_of(found)[0, 0, "containment", 8] == 19 / 20 and rows_of(found)[0, 0, "ngram", 13] == 14
    middle = " ".join([*words[:13], "red", *words[14:]])  # 12 of 20, and 13-grams 0 and 14
    assert hits([middle], QUESTION) == {"ngram 13"}
    _, found = judged([middle], [items("set", [[QUESTION]])], DecontaminateConfig())
    assert rows_of(found)[0, 0, "containment", 8] == 12 / 20
    assert hits([middle], QUESTION, any_ngram=[]) == set()
    assert hits([middle], QUESTION, any_ngram=[], min_containment={8: 0.6}) == {"containment 8"}


def test_near_misses_are_no_hits() -> None:
    words = QUESTION.split()
    for text in (
        " ".join(words[:12]),  # a word too few
        " ".join(reversed(words)),
        " ".join(word if at % 7 else "robe" for at, word in enumerate(words, 1)),  # no run of eight
        QUESTION.replace(" ", ""),
        "How many bolts are needed for four robes, if one takes two of blue and one of white?",  # a paraphrase
    ):
        assert hits([text], QUESTION) == set(), text


def test_what_is_shorter_than_an_n_gram_is_found_as_a_whole_only() -> None:
    assert hits(["She said: Raymond is selling this sketch."], "Raymond is selling this sketch") == {"exact"}
    assert hits(["Raymond is selling a sketch"], "Raymond is selling this sketch") == set()
    assert hits(["Paula references Robert."], "Paula references Robert.") == set()
    config = DecontaminateConfig()
    looked, found = judged(
        ["Raymond is selling this sketch"],
        [items("a", [["Paula references Robert."], ["Raymond is selling this sketch", "3"]])],
        config,
    )
    counts = spread(["Raymond is selling this sketch"], looked)
    assert item_table(looked, found, counts, config).to_pylist() == [
        {"set": "a", "index": 0, "id": "k0", "state": "too_short", "documents": 0, "exact": False}
        | {f"containment_{n}": 0.0 for n in (8, 10, 13)} | {f"ngram_{n}": 0 for n in (8, 10, 13)},
        {"set": "a", "index": 1, "id": "k1", "state": "contaminated", "documents": 1, "exact": True}
        | {f"containment_{n}": 0.0 for n in (8, 10, 13)} | {f"ngram_{n}": 0 for n in (8, 10, 13)},
    ]  # fmt: skip


def test_what_many_documents_have_is_no_evidence_but_a_long_passage_is() -> None:
    phrase, short = " ".join(f"w{n}" for n in range(13)), "one two three four five six"
    longer = phrase + " and then something of its own that nobody else has ever said"
    texts = [f"{longer} {short}", *[f"{phrase} {n} {short}" for n in range(10)]]
    assert hits(texts[:10], short) == {"exact"} and hits(texts, short) == set()
    assert hits(texts, phrase + " and") == {"exact", "ngram 13", "containment 8"}  # one of its two 13-grams is in one text only
    assert hits([phrase] * 10, phrase) == {"exact", "ngram 13", "containment 8"}
    assert hits([phrase] * 11, phrase) == {"exact", "containment 8"}  # a whole passage of 13 words is not everybody's phrase


def test_an_item_may_be_hit_by_any_of_its_passages_and_hits_are_told_in_order() -> None:
    draw = random.Random(2)
    passages = [[" ".join(f"p{draw.randrange(50)}" for _ in range(20)) for _ in range(2)] for _ in range(6)]
    sets = [items("one", passages[:3]), items("two", passages[3:])]
    texts = [passages[5][1], "nothing here", f"{passages[0][0]} {passages[3][1]}", passages[0][0]]
    config = DecontaminateConfig(min_containment={}, any_ngram=())
    looked, found = judged(texts, sets, config)
    table = hit_table(looked, found.take(found.is_hit), ["d", "c", "b", "a"], ["u3", "u2", "u1", "u0"])
    told = [
        (row["set"], row["index"], row["id"], row["field"], row["doc_id"], row["url"], row["words"]) for row in table.to_pylist()
    ]
    assert told == [
        ("one", 0, "k0", "field0", "a", "u0", passages[0][0]),
        ("one", 0, "k0", "field0", "b", "u1", passages[0][0]),
        ("two", 0, "k0", "field1", "b", "u1", passages[3][1]),
        ("two", 2, "k2", "field1", "d", "u3", passages[5][1]),
    ]
    flags = item_table(looked, found, spread(texts, looked), config)
    assert flags["state"].to_pylist() == ["contaminated", "clean", "clean", "contaminated", "clean", "contaminated"]
    assert flags["documents"].to_pylist() == [2, 0, 0, 1, 0, 1]


def test_the_longest_run_of_words_is_told() -> None:
    words = QUESTION.split()
    text = " ".join([*words[:10], "x", *words[10:24]])
    looked, found = judged([text], [items("set", [[QUESTION]])], DecontaminateConfig())
    runs = {(METHODS[method], n): (start, size) for method, n, start, size in zip(
        found.method.tolist(), found.ngram_words.tolist(), found.start.tolist(), found.run_words.tolist(), strict=True
    )}  # fmt: skip
    assert runs["ngram", 8] == runs["containment", 8] == runs["ngram", 13] == (10, 14)
    assert looked.needles.words(10, 14) == normalise(" ".join(words[10:24]))


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"ngram_words": []}, "ngram_words: lengths of 2 to 100 words are possible"),
        ({"any_ngram": [12]}, r"any_ngram: 12 is none of ngram_words \(8, 10, 13\); add it there, or take it out here"),
        ({"min_containment": {9: 0.5}}, "min_containment: 9 is none of ngram_words"),
        ({"min_containment": {8: 1.5}}, "min_containment: 8: a share is above 0 and at most 1"),
        ({"min_words": 9}, r"min_words: at most the shortest n-gram, 8 \(got 9\)"),
        ({"exact": False, "any_ngram": [], "min_containment": {}}, "nothing would be a hit"),
        ({"sets": [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}]}, "sets: two are called 'a'"),
    ],
)
def test_rules_that_cannot_be_are_refused(raw: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DecontaminateConfig.model_validate(raw)


def test_a_needle_in_several_passages_is_weighed_for_each() -> None:
    shared = " ".join(f"s{n}" for n in range(13))
    sets = [items("set", [[f"{shared} first"], [f"second {shared}"], [shared]])]
    _, found = judged([f"x {shared} y"], sets, DecontaminateConfig())
    counted = Counter(passage for _, passage, method, n in rows_of(found) if (method, n) == ("ngram", 13))
    assert counted == {0: 1, 1: 1, 2: 1}


def test_an_item_that_leaked_into_many_documents_is_found_if_long_and_else_common_but_never_clean() -> None:
    short = "Sally paid seven crowns for the brown horse of her old uncle"  # 12 words
    asked = [items("set", [[short], ["nobody has ever said this of a horse"]])]
    assert states([f"page{n} says {short} page{n}" for n in range(10)], asked) == ["contaminated", "clean"]
    assert states([f"page{n} says {short} page{n}" for n in range(11)], asked) == ["common", "clean"]
    # five of its five 8-grams, but for one word at the end four, which is 0.8
    cut = short.replace("uncle", "aunt")
    assert states([f"{cut} {n}" for n in range(11)], asked) == ["common", "clean"]
    assert states([f"{cut} {n}" for n in range(11)], asked, min_containment={8: 0.81}) == ["clean", "clean"]
    long = [items("set", [[QUESTION]])]
    edited = " ".join([*QUESTION.split()[:-1], "dresses"])
    texts = [f"{n}. {edited} {n}" for n in range(30)]
    assert states(texts, long) == ["contaminated"] and hits(texts, QUESTION) == {"containment 8"}
    assert states(texts, long, min_containment={}) == ["clean"]  # not asked for: fourteen of its fifteen 13-grams are common


def test_a_passage_that_many_items_use_is_told_once_with_their_number() -> None:
    prompt = "Choose the one right option from the four that are given below this line and say why"
    sets = [items("one", [[prompt, f"q{n}"] for n in range(50)]), items("two", [["x"], [prompt], [prompt, prompt]])]
    config = DecontaminateConfig()
    looked, found = judged([f"{prompt} once", "no", f"{prompt} twice"], sets, config)
    table = hit_table(looked, found.take(found.is_hit), ["a", "b", "c"], ["", "", ""])
    told = {(row["set"], row["index"], row["items"], row["doc_id"]) for row in table.to_pylist() if row["method"] == "exact"}
    assert told == {("one", 0, 50, "a"), ("one", 0, 50, "c"), ("two", 1, 2, "a"), ("two", 1, 2, "c")}
    flags = item_table(looked, found, spread([f"{prompt} once", "no", f"{prompt} twice"], looked), config)
    assert flags["documents"].to_pylist() == [2] * 50 + [0, 2, 2]
    assert flags["state"].to_pylist() == ["contaminated"] * 50 + ["too_short"] + ["contaminated"] * 2
