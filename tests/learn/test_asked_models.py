"""Packs and hallucination, asked of a model that knows the texts by heart and of one that knows nothing: each probe tells the two apart."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.learn import figures, hallucination, task_packs
from tasks.learn.benchmark_config import HallucinationConfig, PackConfig
from tasks.learn.config import EvalConfig
from tasks.learn.figures import Figure
from tasks.learn.hallucination import abstains, entities, facts_of, first_answer, holders, made_up_names
from tasks.learn.scorer import Scorer
from tasks.learn.task_packs import Document

from . import prose

CONFIG = EvalConfig(device="cpu", num_threads=1, batch_tokens=4096)
DOCUMENTS = prose.documents(0, 36)
FACTS = HallucinationConfig(num_items=36, num_samples=3)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    texts = [document.text for document in DOCUMENTS]
    return Scorer(prose.make_model(tmp_path_factory.mktemp("knowing"), texts, steps=90, learn=texts), CONFIG)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer(prose.make_model(tmp_path_factory.mktemp("fresh"), [one.text for one in DOCUMENTS], steps=0), CONFIG)


def accuracy(scorer: Scorer, questions: list[task_packs.Question]) -> Figure:
    said = task_packs.ask(scorer, questions)
    assert (said >= 0).all()
    hits = said == np.array([question.answer for question in questions])
    return figures.figure("x", hits.astype(float), form="rate", better="higher")


@pytest.mark.parametrize("kind", ["cloze", "order", "title"])
def test_a_pack_tells_a_model_that_knows_the_texts_from_one_that_guesses(kind: str, knowing: Scorer, fresh: Scorer) -> None:
    questions = task_packs.make_packs(DOCUMENTS, PackConfig(num_items=40, context_chars=120))[kind]
    chance = 1 / len(questions[0].pairs)
    assert len(questions) >= 30
    good, guess = accuracy(knowing, questions), accuracy(fresh, questions)
    assert good.low is not None and good.low > chance + 0.2, good
    assert guess.low is not None and guess.high is not None and guess.low <= chance <= guess.high, guess
    # with the right answers dealt anew, the same model is at chance again: it is the answers that it knows, not the form
    dealt = random.Random(4)
    shuffled = accuracy(knowing, [replace(one, answer=dealt.randrange(len(one.pairs))) for one in questions])
    assert shuffled.low is not None and shuffled.high is not None and shuffled.low <= chance <= shuffled.high, shuffled


def test_an_answer_longer_than_the_context_is_no_answer(fresh: Scorer) -> None:
    short = task_packs.Question("a", "", ("the",), (" key", " door"), 0)
    long = task_packs.Question("b", "", ("the",), (" key" * 200, " door"), 0)
    assert task_packs.ask(fresh, [long, short]).tolist()[0] == -1 and task_packs.ask(fresh, [short, long]).tolist()[0] >= 0


def values(scorer: Scorer, documents: list[Document] = DOCUMENTS) -> dict[str, Figure]:
    table = pa.table({"doc_id": [one.doc_id for one in documents], "text": [one.text for one in documents]})
    facts = facts_of(documents, FACTS)
    made = hallucination.measure(scorer, facts, [table.slice(0, 15), table.slice(15)], FACTS)
    assert {one["metric"][0].as_py() for one in made.items} == {one.name for one in made.figures}
    assert all(len(one) == len(facts) for one in made.items) and len(made.settings["hallucination"]["examples"]) == 20
    return {one.name.removeprefix("hallucination."): one for one in made.figures}


def test_a_model_that_knows_its_documents_is_supported_by_them_and_surer_of_them(knowing: Scorer, fresh: Scorer) -> None:
    good, guess = values(knowing), values(fresh)
    assert good["correct"].low is not None and good["correct"].low > 0.6, good["correct"]
    source, by_chance = good["supported.source"], good["supported.by_chance"]
    assert source.low is not None and by_chance.high is not None and source.low > by_chance.high, (source, by_chance)
    assert good["unsupported"].value == pytest.approx(1 - float(good["supported.any"].value or 0))
    gap = good["confidence_gap"]
    assert gap.low is not None and gap.low > 0.05, gap
    assert float(good["self_consistency"].value or 0) > 0.7
    assert guess["correct"].value == 0 and float(guess["sure.answerable"].value or 0) == 0
    assert float(guess["self_consistency"].value or 0) < 0.4
    nothing = guess["confidence_gap"]
    assert nothing.low is not None and nothing.high is not None and nothing.low - 0.05 <= 0 <= nothing.high + 0.05


def test_a_model_asked_of_documents_that_it_has_not_read_answers_all_the_same_and_is_supported_by_chance_only(
    knowing: Scorer,
) -> None:
    others = values(knowing, prose.documents(500, 36))
    assert float(others["answered"].value or 0) > 0.8
    source, by_chance = others["supported.source"], others["supported.by_chance"]
    assert source.low is not None and by_chance.high is not None and source.low <= by_chance.high, (source, by_chance)
    assert float(others["correct"].value or 0) < 0.3 and float(others["unsupported"].value or 0) > 0.1, others


def test_names_and_numbers_are_told_by_their_letters() -> None:
    text = "In Old Dover the 1,234 men of Édouard-Ville saw iPhone 3.5 and UNO."
    assert [(text[start:end], kind) for start, end, kind in entities(text)] == [
        ("In Old Dover", "name"),
        ("1,234", "number"),
        ("Édouard-Ville", "name"),
        ("3.5", "number"),
        ("UNO", "name"),
    ]
    assert first_answer("  the year 1999 in Dover", "number") == ("1999", 15)
    assert first_answer(" the year 1999 in Dover\nParis", "name") == ("Dover", 23)
    assert first_answer("nothing\n1", None) == ("", 0)
    assert first_answer(" of it. The next", "name") == ("", 0) and first_answer(" 3.5 of it", "number") == ("3.5", 4)


def test_facts_end_before_what_is_asked_and_are_equal_for_any_order() -> None:
    texts = {one.doc_id: one.text for one in DOCUMENTS}
    facts = facts_of(DOCUMENTS, FACTS)
    assert len(facts) == 36 and {fact.kind for fact in facts} == {"name", "number"}
    for fact in facts:
        assert f"{fact.prompt} {fact.truth}" in texts[fact.item]
    assert facts_of(DOCUMENTS[::-1], FACTS) == facts


def test_abstaining_is_told_by_words() -> None:
    words = FACTS.abstentions
    assert abstains(" I don’t know.", words) and abstains("It is UNKNOWN who", words)
    assert not abstains("a well-knownunknowns list", words) and not abstains("Dover\nunknown", words)


def test_answers_are_found_word_for_word_and_the_named_documents_told() -> None:
    table = pa.table({"doc_id": ["a", "b", "c"], "text": ["He went to Dover, in 19.", "dover  AND 1999", "nothing"]})
    held, anywhere = holders(["Dover", "19", "Dove", "", "In 19"], [table.slice(0, 1), table.slice(1)], ["b", "a"])
    assert held == [{0, 1}, {1}, set(), set(), {1}]
    assert anywhere.tolist() == [True, True, False, False, True]
    assert holders(["Dover"], [], ["a"])[1].tolist() == [False]


def test_made_up_names_are_distinct_and_seeded() -> None:
    assert made_up_names(50, 1) == made_up_names(60, 1)[:50] != made_up_names(50, 2)
    assert len(set(made_up_names(200, 3))) == 200


def test_the_folder_of_a_made_model_is_whole(tmp_path: Path) -> None:
    again = [prose.make_model(tmp_path / str(number), [one.text for one in DOCUMENTS], steps=0) for number in range(2)]
    assert (again[0] / "model.safetensors").read_bytes() == (again[1] / "model.safetensors").read_bytes()
