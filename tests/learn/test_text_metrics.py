import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU
from sklearn.metrics import f1_score

from tasks.learn import text_metrics
from tasks.learn.text_metrics import exact_match, item_scores, macro_f1, normalised, token_f1


def test_squads_normal_form() -> None:
    assert normalised("  The  Cat's, an (old) CAT. ") == "cats old cat"
    assert exact_match("The Eiffel Tower!", "eiffel tower") == 1.0
    assert exact_match("eiffel towers", "eiffel tower") == 0.0
    assert exact_match("theatre", "atre") == 0.0


def test_token_f1_by_hand() -> None:
    # 2 shared words of 3 said and 4 wanted: precision 2/3, recall 1/2
    assert token_f1("a red big house", "big blue wooden house") == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    # a word counts as often as both have it
    assert token_f1("no no no", "no") == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))
    assert (token_f1("", "the"), token_f1("", "cat"), token_f1("cat", "")) == (1.0, 0.0, 0.0)


def test_rouge_and_chrf_by_hand() -> None:
    scores = item_scores(["the cat sat on the mat"], ["the cat was on the mat"])
    # five of six words, three of five pairs, and a longest common subsequence of five
    assert scores["rouge1"][0] == pytest.approx(5 / 6)
    assert scores["rouge2"][0] == pytest.approx(3 / 5)
    assert scores["rouge_l"][0] == pytest.approx(5 / 6)
    stems = item_scores(["she walks"], ["she walked"])
    assert stems["rouge1"][0] == 1.0 and stems["exact_match"][0] == 0.0
    # chrF2 of "abc" and "abd", spaces left out: 2/3 of letters, 1/2 of pairs, 0 of triples, precision and recall alike
    assert item_scores(["abc"], ["abd"])["chrf"][0] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3, abs=1e-6)


def test_bleu_by_hand_and_as_sacrebleu_has_it() -> None:
    answers, references = ["the cat sat on the mat"], ["the cat sat on a mat"]
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 fours; equal lengths
    by_hand = math.exp((math.log(5 / 6) + math.log(3 / 5) + math.log(2 / 4) + math.log(1 / 3)) / 4)
    assert text_metrics.bleu("b", answers, references).value == pytest.approx(by_hand)
    many = [("a b c d e", "a b c d f"), ("x", "y z"), ("it is what it is", "it was what it is"), ("", "word")]
    got = text_metrics.bleu("b", [a for a, _ in many], [b for _, b in many])
    assert got.value == pytest.approx(BLEU().corpus_score([a for a, _ in many], [[b for _, b in many]]).score / 100)
    assert got.low is not None and got.high is not None and got.low <= got.value <= got.high and got.n == 4


words = st.lists(st.sampled_from(["ab", "ba", "cat", "dog,", "The", "a", ".", "12"]), max_size=8).map(" ".join)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=6))
def test_scores_lie_between_0_and_1_and_a_copy_has_1(pairs: list[tuple[str, str]]) -> None:
    for values in item_scores([a for a, _ in pairs], [b for _, b in pairs]).values():
        assert ((values >= 0) & (values <= 1 + 1e-9)).all()
    copies = item_scores([a for a, _ in pairs], [a for a, _ in pairs])
    assert (copies["exact_match"] == 1).all() and (copies["f1"] == 1).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, said = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    assert macro_f1(truth, said) == pytest.approx(f1_score(truth, said, average="macro"))


def test_macro_f1_by_hand_and_its_figures() -> None:
    truth, said = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 0, 0])
    made, [items] = text_metrics.score_classes("tasks.x", list("abcde"), truth, said)
    accuracy, macro = made
    # class 0: precision 4/5, recall 1; class 1 is never found
    assert (accuracy.value, macro.value) == (0.8, pytest.approx((8 / 9 + 0) / 2))
    assert items["amount"].to_pylist() == [1, 1, 1, 1, 0] and accuracy.small


def test_figures_of_texts_come_with_an_item_for_each() -> None:
    made, kept = text_metrics.score_texts("tasks.x", ["q1", "q2"], ["a cat", "no"], ["cat", "yes"])
    values = {one.name: one.value for one in made}
    assert values["tasks.x.exact_match"] == 0.5 and values["tasks.x.f1"] == 0.5 and "tasks.x.bleu" in values
    assert {table["metric"][0].as_py() for table in kept} == values.keys() - {"tasks.x.bleu"}
    assert all(table["item"].to_pylist() == ["q1", "q2"] for table in kept)
