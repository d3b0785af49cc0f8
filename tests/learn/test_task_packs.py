import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.learn.benchmark_config import PackConfig
from tasks.learn.task_packs import Document, Question, make_packs, sentences, shown

from . import prose

CONFIG = PackConfig(num_items=40)


def body(seed: int) -> str:
    return prose.text(seed).partition("\n\n")[2]


def documents(number: int, titles: bool = False) -> list[Document]:
    return [
        Document(
            f"{place:032x}",
            "a" if place % 3 else "b",
            f"Page {place}" if titles else "",
            f"Line {place}\n\n{body(place)}",
        )
        for place in range(number)
    ]


def test_sentences_are_told_by_their_ends() -> None:
    text = "Too short. This one is long enough to be asked about. And v1.2 of it stays one sentence of seven words!\nNo end of it here"
    assert [text[start:end] for start, end in sentences(text)] == [
        "This one is long enough to be asked about.",
        "And v1.2 of it stays one sentence of seven words!",
    ]
    assert sentences("word " * 100 + ".") == []


def test_what_is_shown_begins_with_a_word() -> None:
    assert shown("one two three four", 14, 8) == "three"
    assert shown("one two three four", 14, 100) == "one two three"
    assert shown("", 0, 10) == ""


def test_a_cloze_is_the_sentence_with_one_word_of_the_document_and_others_that_it_does_not_hold() -> None:
    some = documents(60)
    pack = make_packs(some, CONFIG)["cloze"]
    assert len(pack) == 40
    texts = {one.doc_id: one.text for one in some}
    for question in pack:
        text, [context] = texts[question.item], question.contexts
        wholes = [re.sub(r"\s+", " ", context + choice) in re.sub(r"\s+", " ", text) for choice in question.choices]
        assert wholes == [place == question.answer for place in range(4)]
        assert len({choice[choice.index(" ", 1) :] if " " in choice[1:] else choice[-1] for choice in question.choices}) == 1
    assert {question.answer for question in pack} == {0, 1, 2, 3}


def test_an_order_is_two_sentences_both_ways() -> None:
    some = documents(60)
    pack = make_packs(some, CONFIG)["order"]
    texts = {one.doc_id: one.text for one in some}
    for question in pack:
        [context], (first, second) = question.contexts, question.choices
        assert sorted(first) == sorted(second) and first != second
        real = (context + question.choices[question.answer]).split()
        assert " ".join(real) in " ".join(texts[question.item].split())
    assert {question.answer for question in pack} == {0, 1}


def test_titles_are_the_pages_own_or_first_lines() -> None:
    for titles, gap in ((True, "\n\n"), (False, "\n\n")):
        pack = make_packs(documents(60, titles), CONFIG)["title"]
        for question in pack:
            number = int(question.item, 16)
            own = f"Page {number}" if titles else f"Line {number}"
            assert question.contexts[question.answer] == own + gap and len(set(question.contexts)) == 4
            [asked] = question.choices
            assert asked.startswith(f"Line {number}" if titles else body(number)[:20])
    alike = [Document(f"{place:032x}", "a", "Same", body(place)) for place in range(9)]
    assert make_packs(alike, CONFIG)["title"] == []


@settings(max_examples=15, deadline=None)
@given(st.permutations(list(range(30))), st.integers(0, 3))
def test_equal_documents_give_equal_questions_in_any_order(order: list[int], seed: int) -> None:
    some = documents(30)
    config = PackConfig(num_items=5, seed=seed)
    assert make_packs([some[place] for place in order], config) == make_packs(some, config)


def test_another_seed_asks_other_questions_and_a_row_says_all() -> None:
    some = documents(60)
    one, other = (make_packs(some, PackConfig(num_items=10, seed=seed)) for seed in (1, 2))
    assert one != other
    row = one["cloze"][0].as_json()
    assert row.keys() == {"item", "group", "context", "choices", "answer"} and len(row["choices"]) == 4
    assert one["title"][0].as_json().keys() == {"item", "group", "contexts", "choices", "answer"}


def test_a_question_with_other_wrong_answers_has_another_name() -> None:
    [few], [many] = (make_packs(documents(number), PackConfig(num_items=1, kinds=("title",)))["title"] for number in (20, 20))
    assert few.name == many.name and few.name.startswith(few.item)
    other = Question(few.item, few.group, few.contexts[::-1], few.choices, few.answer)
    assert other.name != few.name


def test_documents_that_give_no_question_are_left_out() -> None:
    chance = random.Random(1)
    odd = [Document(f"{place:032x}", "a", "", "".join(chance.choices("漢字仮名。\n", k=300))) for place in range(5)]
    odd += [Document("f" * 32, "a", "", "")]
    assert all(pack == [] for kind, pack in make_packs(odd, CONFIG).items() if kind != "title")


@pytest.mark.parametrize("bad", [{"num_choices": 1}, {"num_items": 0}, {"kinds": ("quiz",)}])
def test_a_pack_that_makes_no_sense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        PackConfig.model_validate(bad)
