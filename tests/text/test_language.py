"""Language identification with the real lid.176 model, on texts in 24 languages and on texts in none."""

from __future__ import annotations

import json
import re
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import fasttext
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import language as language_benchmark
from tasks.signals import SignalsConfig
from tasks.text.language import MAX_CHARS, MIN_PARAGRAPH_CHARS, PARAGRAPH_SIGNALS, UNKNOWN, identify, paragraph_languages
from tasks.text.signals import measure

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / ".resources" / "lid.176.ftz"
SENTENCES = REPOSITORY.parent / "shared" / "data" / "language"
FLOORS = REPOSITORY / "tests" / "gates" / "floors.json"
ENGLISH = "The mill grinds slowly, but every grain that goes in is accounted for at the end of the day."
GERMAN = "Die Mühle mahlt langsam, aber jedes Korn, das hineingeht, ist am Ende des Tages verbucht."

PIECES = [
    *(GERMAN, ENGLISH, "漢字" * 60, "Москва " * 20, "\n", "\n\n", " \n\n ", " ", "\t"),
    *("e\u0301\u200d", "\u200b", "\ufffd", "🙂"),
]

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


CONFIGURED = {"paragraph_languages": partial(paragraph_languages, model_path=MODEL)}


def paragraphs(*texts: str) -> list[tuple[object, ...]]:
    """(languages, share of the main one, its name) of every text."""
    table = measure(pa.array(texts), ("paragraph_languages",), configured=CONFIGURED)
    return [tuple(row.values()) for row in table.select([signal.name for signal in PARAGRAPH_SIGNALS]).to_pylist()]


@needs_model
def test_golden_paragraphs_are_told_apart_by_language_and_weighed_by_characters() -> None:
    german, english = f"{GERMAN} {GERMAN}", f"{ENGLISH} {ENGLISH} {ENGLISH}"
    assert (len(german), len(english)) == (179, 278)
    share = pytest.approx(278 / (278 + 179))
    assert paragraphs(f"{german}\n\n{english}", f"{english}\n \n{english}", f"{german}\n\n\n{german}", english) == [
        (2, share, "en"),
        (1, 1, "en"),  # one paragraph: the line between is not empty
        (1, 1, "de"),
        (1, 1, "en"),
    ]
    same = f"{german}\n\n{english[:179]}"
    assert paragraphs(same) == [(2, 0.5, "de")]  # the first by alphabet


@needs_model
def test_what_is_short_or_unsure_counts_for_no_language() -> None:
    numbers = "12345 67890 " * 20
    assert paragraphs("", "\n\n", ENGLISH, f"{ENGLISH}\n\n{GERMAN}", numbers) == [(0, None, UNKNOWN)] * 5
    assert len(ENGLISH) < MIN_PARAGRAPH_CHARS <= len(ENGLISH * 2)
    assert paragraphs(f"  {ENGLISH} {ENGLISH} \n\n{GERMAN}\n\n{numbers}") == [(1, 1, "en")]
    exact = (ENGLISH * 2)[:MIN_PARAGRAPH_CHARS]
    assert paragraphs(exact, f"   {exact[:-1]}   ") == [(1, 1, "en"), (0, None, UNKNOWN)]


@lru_cache(maxsize=1)
def model() -> Any:
    return fasttext.load_model(str(MODEL))


def by_a_loop(texts: list[str]) -> list[tuple[object, ...]]:
    """What `paragraphs` should say, by one call of the model for each."""
    wanted: list[tuple[object, ...]] = []
    for text in texts:
        chars: dict[str, int] = {}
        for part in map(str.strip, re.split(r"\n{2,}", text)):
            line = re.sub(r"[ \t\n\f\r]+", " ", part[:MAX_CHARS]).strip()
            labels, scores = model().predict(line)
            if len(part) >= 100 and line and scores[0] >= 0.65:
                name = labels[0].removeprefix("__label__")
                chars[name] = chars.get(name, 0) + len(part)
        main = max(sorted(chars), key=lambda name: chars[name], default=UNKNOWN)
        wanted.append((len(chars), pytest.approx(chars[main] / sum(chars.values())) if chars else None, main))
    return wanted


@needs_model
def test_paragraphs_are_asked_as_a_loop_over_the_model_would() -> None:
    if not SENTENCES.exists():
        pytest.skip(f"{SENTENCES} is not there")
    lines = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in sorted(SENTENCES.glob("*.txt"))}
    threes = [sorted(lines)[start : start + 3] for start in range(0, 24, 3)]
    texts = ["\n\n".join(" ".join(lines[one][3 * k : 3 * k + 3]) for one in three) for k in range(8) for three in threes]
    wanted = by_a_loop(texts)
    assert paragraphs(*texts) == wanted
    assert sum(row[0] == 3 for row in wanted) > len(wanted) / 2


@needs_model
@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
def test_paragraphs_of_any_unicode_are_asked_as_a_loop_would(text: str) -> None:
    assert paragraphs(text) == by_a_loop([text])


@needs_model
def test_paragraphs_answer_the_same_alone_in_a_batch_sliced_and_chunked() -> None:
    texts = [f"{GERMAN} {GERMAN}\n\n{ENGLISH} {ENGLISH}", "", f"{ENGLISH} {ENGLISH}", "\n\n"]
    alone = [row for text in texts for row in paragraphs(text)]
    assert paragraphs(*texts) == alone
    table = measure(pa.chunked_array([["x", *texts[:2]], [], texts[2:]])[1:], ("paragraph_languages",), configured=CONFIGURED)
    assert [tuple(row.values())[-3:] for row in table.to_pylist()] == alone
    large = measure(pa.array([None, *texts], pa.large_string()), ("paragraph_languages",), configured=CONFIGURED)
    assert [tuple(row.values())[-3:] for row in large.to_pylist()] == [(0, None, UNKNOWN), *alone]
    assert paragraph_languages(pa.array([], pa.string()), model_path=MODEL)["paragraph_language"].to_pylist() == []


def test_paragraphs_without_a_model_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="paragraph_languages needs a language model"):
        measure(pa.array(["text"]), ("paragraph_languages",))
