"""Language identification with the real lid.176 model, on texts in 24 languages and on texts in none."""

from __future__ import annotations

import json
from pathlib import Path

import fasttext
import pyarrow as pa
import pytest

from benchmarks import language as language_benchmark
from tasks.signals import SignalsConfig
from tasks.text.language import MAX_CHARS, UNKNOWN, identify

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / ".resources" / "lid.176.ftz"
SENTENCES = REPOSITORY.parent / "shared" / "data" / "language"
FLOORS = REPOSITORY / "tests" / "gates" / "floors.json"
ENGLISH = "The mill grinds slowly, but every grain that goes in is accounted for at the end of the day."
GERMAN = "Die Mühle mahlt langsam, aber jedes Korn, das hineingeht, ist am Ende des Tages verbucht."

needs_model = pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is missing; `make setup` puts it there")


def test_a_missing_model_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make setup"):
        identify(pa.array(["text"]), tmp_path / "none.ftz")


@needs_model
def test_language_and_score_keep_the_order_and_types() -> None:
    language, score = identify(pa.array([GERMAN, ENGLISH, GERMAN]), MODEL)
    assert language.to_pylist() == ["de", "en", "de"]
    assert (language.type, score.type) == (pa.string(), pa.float32())
    assert all(0.8 < value <= 1 for value in score.to_pylist())


@needs_model
def test_nothing_to_read_is_unknown_with_score_0() -> None:
    language, score = identify(pa.array(["", None, " \n\t ", ENGLISH]), MODEL)
    assert language.to_pylist() == [UNKNOWN, UNKNOWN, UNKNOWN, "en"]
    assert score.to_pylist()[:3] == [0, 0, 0]
    empty = identify(pa.array([], pa.string()), MODEL)
    assert [len(column) for column in empty] == [0, 0]


@needs_model
def test_a_score_below_the_floor_is_unknown_and_keeps_its_score() -> None:
    text = pa.array(["asdf qwer zxcv", ENGLISH])
    (unsure, _), score = (column.to_pylist() for column in identify(text, MODEL))
    assert unsure != UNKNOWN and 0 < score[0] < 0.5
    language, score_with_floor = identify(text, MODEL, min_score=0.5)
    assert language.to_pylist() == [UNKNOWN, "en"]
    assert score_with_floor.to_pylist() == score


@needs_model
def test_line_breaks_and_white_space_do_not_change_the_answer() -> None:
    broken = ENGLISH.replace(" ", "\n") + "\n\n"
    (first, second), (score, score_broken) = (column.to_pylist() for column in identify(pa.array([ENGLISH, broken]), MODEL))
    assert (first, score) == (second, score_broken)


@needs_model
def test_only_the_first_characters_are_read_and_never_half_of_one() -> None:
    head = ("ü" * 9 + " ") * (MAX_CHARS // 10)
    (_, _), (score, score_longer) = (column.to_pylist() for column in identify(pa.array([head, head + ENGLISH * 50]), MODEL))
    assert score == score_longer


@needs_model
def test_a_batch_answers_as_the_model_does_alone_and_as_its_slices_and_chunks_do() -> None:
    texts = [GERMAN, ENGLISH, "Le moulin tourne lentement.", "mill", "x" * 5000]
    model = fasttext.load_model(str(MODEL))
    alone = [model.predict(text[:MAX_CHARS]) for text in texts]
    language, score = identify(pa.array(texts), MODEL)
    assert language.to_pylist() == [labels[0].removeprefix("__label__") for labels, _ in alone]
    assert score.to_pylist() == pytest.approx([min(float(scores[0]), 1.0) for _, scores in alone], abs=1e-6)
    assert identify(pa.array(["other", *texts])[1:], MODEL)[1].equals(score)
    assert identify(pa.chunked_array([texts[:2], texts[2:]]), MODEL)[1].equals(score)


@needs_model
@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize(
    "text",
    [
        "12345 67890",
        "0",
        "1,234.56 € 99 %",
        "2026-11-26 09:19:33",
        "😀😀 🎉🎉",
        "♥♥♥★★★",
        "!!! ??? ...",
        "-" * 80,
        "\x00\x01",
        "\ufffd" * 9,
    ],
)
def test_without_a_letter_there_is_no_language_at_any_floor(text: str, floor: float) -> None:
    model = fasttext.load_model(str(MODEL))
    assert identify(pa.array([text]), MODEL, min_score=floor)[0].to_pylist() == [UNKNOWN]
    assert model.predict(text)[1][0] < 0.3  # and most of them it calls English


@needs_model
@pytest.mark.parametrize(
    "text",
    [
        *("a", "x", "x" * 500, "asdf qwer zxcv", "0x1f 0xff 0xdeadbeef", "ACGTACGTTTGACA" * 20, "http://www.example.com/"),
        *("def f(x):\n    return x ** 2", '<div class="a"><p></p></div>', "lorem ipsum dolor sit amet consectetur", "Ω ≈ ç √ ∫"),
        *("日本語 English русский العربية", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY" * 8),
    ],
)
def test_what_is_in_no_language_or_in_several_is_unknown_by_default_and_not_english(text: str) -> None:
    language, score = identify(pa.array([text]), MODEL, min_score=SignalsConfig().language_floor)
    assert language.to_pylist() == [UNKNOWN], score


@needs_model
@pytest.mark.parametrize("text", ["Привет, wie geht es dir? 你好 hello", "مرحبا hello 你好", "Grüße 北京 и Москва, hello world"])
def test_a_few_english_words_among_other_scripts_do_not_make_a_text_english(text: str) -> None:
    assert identify(pa.array([text]), MODEL)[0].to_pylist() != ["en"]


@needs_model
@pytest.mark.skipif(not SENTENCES.exists(), reason=f"{SENTENCES} is not there")
def test_sentences_in_24_languages_are_told_apart_nearly_as_well_as_by_the_model_and_as_well_where_it_answers() -> None:
    """Floors in tests/gates/floors.json; the table is in docs/languages.md, by `python -m benchmarks.language`."""
    floors = json.loads(FLOORS.read_text(encoding="utf-8"))["language"]
    given = language_benchmark.sentences(SENTENCES)
    scores = [language_benchmark.score(name, texts, MODEL, SignalsConfig().language_floor) for name, texts in given.items()]
    assert {one.language for one in scores} == set(floors["accuracy"]) and len(scores) == 24
    for one in scores:
        assert one.accuracy >= floors["accuracy"][one.language], one
        assert one.accuracy >= one.accuracy_of_model - floors["most_below_model"], one
        assert one.accuracy_of_answers >= one.accuracy_of_model - floors["answers_most_below_model"], one
    assert sum(one.accuracy for one in scores) / len(scores) >= floors["macro_accuracy"]


@needs_model
@pytest.mark.skipif(not SENTENCES.exists(), reason=f"{SENTENCES} is not there")
def test_paragraphs_in_24_languages_are_told_apart() -> None:
    floor = json.loads(FLOORS.read_text(encoding="utf-8"))["language"]["paragraph_accuracy"]
    for name, texts in language_benchmark.sentences(SENTENCES).items():
        made = language_benchmark.paragraphs(texts, 5)
        assert len(made) == len(texts) // 5 and made[0].startswith(texts[0])
        assert language_benchmark.score(name, made, MODEL, SignalsConfig().language_floor).accuracy >= floor, name
