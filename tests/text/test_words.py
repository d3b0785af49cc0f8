"""Words, stop words and phrases: what the kernels rest on, the shipped lists, and what they find in real text."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.settings import settings
from tasks.signals import SignalsConfig, files_read
from tasks.text import boilerplate, compression, stop_words, words
from tasks.text.rules import FilterConfig, decide
from tasks.text.signals import measure

SHARED = Path(__file__).parents[3] / "shared" / "data"
UNSPACED = ("ja", "zh")


def sentences(language: str) -> list[str]:
    path = SHARED / "language" / f"{language}.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path.read_text(encoding="utf-8").splitlines()


def languages_there() -> list[str]:
    return sorted(path.stem for path in (SHARED / "language").glob("*.txt"))


def parts(text: str) -> list[str]:
    ends = words.boundaries(text)
    return [text[start:end] for start, end in itertools.pairwise(ends)]


def test_golden_boundaries() -> None:
    assert parts("") == []
    assert parts("Can't wait, 3.5 m!") == ["Can't", " ", "wait", ",", " ", "3.5", " ", "m", "!"]
    assert parts("can’t e_mail x.y. 1,000.") == ["can’t", " ", "e_mail", " ", "x.y", ".", " ", "1,000", "."]
    assert parts("吃饭 カタカナ ひら 한국어") == ["吃", "饭", " ", "カタカナ", " ", "ひ", "ら", " ", "한국어"]
    assert parts("กิน a\u0301\u00adb") == ["กิ", "น", " ", "a\u0301\u00adb"]
    assert parts("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \U0001f469\u200d\U0001f4bb\r\n  x") == [
        *("\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7", " ", "\U0001f469\u200d\U0001f4bb", "\r\n", "  ", "x"),
    ]


def test_words_are_compared_in_any_case_with_any_apostrophe_and_without_what_is_not_seen() -> None:
    same = ["don't", "DON’T", "d\u00ado\u2060n't\ufeff", "don't"]
    hashes, ends = words.word_hashes([*same, "dont", "ДОМ", "дом", "é", "e\u0301"])
    assert ends == list(range(1, 10))
    assert len(set(hashes[:4].tolist())) == 1 and hashes[5] == hashes[6]
    assert len(set(hashes[:9].tolist())) == 5


def test_no_letter_above_the_fold_table_has_a_case() -> None:
    for point in range(words._MAX_FOLDED, 0x110000):
        assert chr(point).lower() == chr(point)


def test_a_word_is_told_from_all_others_of_the_lists() -> None:
    """One hash for each: no two words of any list are taken for one another."""
    lists = stop_words.stop_lists().lists
    spelt = {word.lower().replace("’", "'") for some in lists.values() for word in some}
    hashes, _ = words.word_hashes(sorted(spelt))
    assert len(set(hashes[: len(spelt)].tolist())) == len(spelt)
    assert all(16 <= len(some) <= 41 for some in lists.values())


@pytest.mark.parametrize("language", languages_there())
def test_the_stop_words_of_a_language_are_those_that_its_sentences_have_most(language: str) -> None:
    text = pa.array([" ".join(sentences(language))])
    counts = stop_words.measure(text, pa.array([language]))
    totals = {name: int(counts[f"stop_words_{name}"][0]) for name in stop_words.LANGUAGES}
    assert max(totals, key=lambda name: totals[name]) == language


def test_gopher_in_other_languages_keeps_their_prose_and_drops_lists_of_words() -> None:
    """Documents of ten sentences: measured 464 of 480 kept, of which the profile gopher keeps 23, 20 of them English."""
    kept = kept_by_gopher = total = 0
    for language in languages_there():
        lines = sentences(language)
        prose = ["\n".join(lines[start : start + 10]) for start in range(0, 200, 10)]
        signals = signals_of(prose, language)
        profile = "gopher-unspaced" if language in UNSPACED else "gopher-multilingual"
        kept += decide(signals, FilterConfig(profile=profile)).keep.sum()
        kept_by_gopher += decide(signals, FilterConfig(profile="gopher", languages=())).keep.sum()
        total += len(prose)
        listed = {word.lower() for word in stop_words.stop_lists().lists[language]}
        menus = [" ".join(part for part in parts(text) if part.isalpha() and part.lower() not in listed) for text in prose]
        if language not in UNSPACED:
            assert not decide(signals_of(menus, language), FilterConfig(profile=profile)).keep.any()
    if not total:
        pytest.skip(f"{SHARED / 'language'} is not there")
    assert total == 480 and kept >= 450 and kept_by_gopher < 50


def signals_of(texts: list[str], language: str) -> pa.Table:
    names = pa.array([language] * len(texts))
    table = measure(pa.array(texts), language=names)
    return table.append_column("language", names).append_column("language_score", pa.array(np.ones(len(texts), np.float32)))


def test_a_profile_drops_what_is_in_no_language_of_it() -> None:
    table = signals_of(["one two"], "zh")
    assert decide(table, FilterConfig(profile="gopher-multilingual")).rule.to_pylist() == ["language"]
    assert set(FilterConfig(profile="gopher-multilingual").languages) == set(stop_words.LANGUAGES) - set(UNSPACED)
    assert set(UNSPACED) < set(FilterConfig(profile="gopher-unspaced").languages)


@pytest.mark.parametrize("phrase", [phrase for some in boilerplate.phrases().values() for phrase in some])
def test_every_phrase_makes_a_line_of_boilerplate_wherever_it_stands(phrase: str) -> None:
    lines = [phrase, phrase.upper(), f"x – {phrase}!", f"({phrase}) x", "plain"]
    assert boilerplate.measure(pa.array(["\n".join(lines)]), None)["boilerplate_line_fraction"] == np.float32(4 / 5)


def test_boilerplate_is_found_by_whole_words_on_one_line() -> None:
    text = [
        "All\u00a0rights – reserved",
        "all rights\nreserved",
        "all rightsreserved",
        "all all rights all rights reserved",
        "log in/sign in",
        "\n \n",
    ]
    found = boilerplate.measure(pa.array(text), None)["boilerplate_line_fraction"]
    assert found.tolist() == [1, 0, 0, 1, 1, 0]


def test_prose_has_hardly_a_line_of_boilerplate() -> None:
    """Measured: 1 of 4,800 sentences in 24 languages."""
    lines = [line for language in languages_there() for line in sentences(language)]
    if not lines:
        pytest.skip(f"{SHARED / 'language'} is not there")
    share = boilerplate.measure(pa.array(["\n".join(lines)]), None)["boilerplate_line_fraction"][0]
    assert share < 0.001


def test_the_ratio_of_zlib_is_that_of_python() -> None:
    texts = ["", "a", "word " * 1000, "".join(map(chr, range(0x4E00, 0x5E00)))]
    found = compression.measure(pa.array(["before", *texts])[1:], None)["zlib_ratio"]
    wanted = [0, *(len(zlib.compress(text.encode(), compression.LEVEL)) / len(text.encode()) for text in texts[1:])]
    assert found.tolist() == [np.float32(one) for one in wanted]
    assert found[2] < 0.02 and found[3] > 0.4


def test_the_data_of_a_group_is_part_of_the_recipe_of_what_it_measures() -> None:
    model = settings().language_model
    if not model.exists():
        pytest.skip(f"{model} is missing; `make setup` puts it there")
    assert set(files_read(SignalsConfig(groups=("dolma",)))) == {model.name}
    assert set(files_read(SignalsConfig(groups=("stop_words",)))) == {
        *(model.name, "text/stop_words.yaml", "words_data/word_break.txt"),
    }
