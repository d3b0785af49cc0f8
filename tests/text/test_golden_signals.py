"""For every signal a short text and its value, counted by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tasks.text.language import PARAGRAPH_SIGNALS
from tasks.text.signals import GROUPS, SIGNAL_NAMES, SIGNAL_SCHEMA, Group, measure
from tasks.text.stop_words import LANGUAGES, StopLists

LETTERS = "a b c d e f g h i j"
MEASURED: tuple[Group, ...] = tuple(group for group in GROUPS if group != "paragraph_languages")


def twice(n: int) -> str:
    """n one-letter words, another one, and the n again: 2n - 1 characters, 3 with the spaces around it, 2n - 1."""
    words = LETTERS[: 2 * n - 1]
    return f"{words} x {words}"


C4_TEXT = "One two three four five.\nOne two three.\nno end mark here is seen\n"
SAME_LINES = "one two three\none two three\nab cd ef"
UAX29_TEXT = "Don't pay 3.14, 漢字 now!"  # Don't | pay | 3.14 | 漢 | 字 | now
GOLDEN: dict[str, tuple[str, float]] = {
    "num_chars": ("aé\n b", 5),
    "num_words": ("one  two\nthree", 3),
    "num_lines": ("a\n\n \nb", 2),
    "num_sentences": ("One. Two! three\nFour", 4),
    "mean_word_length": ("a bcd", 4 / 2),
    "hash_per_word": ("# a b#", 2 / 3),
    "ellipsis_per_word": ("a... b… c", 2 / 3),
    "bullet_line_fraction": ("- a\nb\n• c\nd", 2 / 4),
    "ellipsis_line_fraction": ("a...\nb…\nc.\nd", 2 / 4),
    "alpha_word_fraction": ("a 1 b2 !", 2 / 4),
    "num_stop_words": ("The of OF cat", 2),
    "dup_line_fraction": ("a\nb\na\na", 2 / 4),
    "dup_line_char_fraction": ("a\nb\na\na", 2 / 7),
    "dup_paragraph_fraction": ("a\n\nb\n\na", 1 / 3),
    "dup_paragraph_char_fraction": ("a\n\nb\n\na", 1 / 7),
    "top_2gram_char_fraction": ("a b a b c", 2 * 3 / 9),
    "top_3gram_char_fraction": ("a b c a b c", 2 * 5 / 11),
    "top_4gram_char_fraction": ("a b c d a b c d", 2 * 7 / 15),
    "dup_5gram_char_fraction": (twice(5), 2 * 9 / 21),
    "dup_6gram_char_fraction": (twice(6), 2 * 11 / 25),
    "dup_7gram_char_fraction": (twice(7), 2 * 13 / 29),
    "dup_8gram_char_fraction": (twice(8), 2 * 15 / 33),
    "dup_9gram_char_fraction": (twice(9), 2 * 17 / 37),
    "dup_10gram_char_fraction": (twice(10), 2 * 19 / 41),
    "line_punctuation_fraction": ("a.\nb\nc!\nd)", 2 / 4),
    "short_line_fraction": ("a" * 29 + "\n" + "b" * 30, 1 / 2),
    "newline_per_word": ("a\n\nb c", 2 / 3),
    "c4_num_lines_kept": (C4_TEXT, 1),
    "c4_num_sentences": (C4_TEXT, 1),
    "c4_paper_num_lines_kept": (C4_TEXT, 2),
    "c4_paper_num_sentences": (C4_TEXT, 2),
    "c4_np_num_lines_kept": (C4_TEXT, 3),
    "c4_np_num_sentences": (C4_TEXT, 3),
    "c4_np_line_punctuation_fraction": (C4_TEXT, 2 / 3),
    "c4_np_short_line_fraction": ("one two " + "x" * 22 + "\none two three", 1 / 2),
    "c4_np_dup_line_char_fraction": (SAME_LINES, 13 / (13 + 13 + 8)),
    "c4_np_newline_per_word": (SAME_LINES, 2 / 9),
    "has_lorem_ipsum": ("so Lorem Ipsum", True),
    "has_curly_bracket": ("a{b", True),
    "num_javascript_lines": ("JavaScript is off\njavascript\njava script", 2),
    "num_policy_lines": ("Our Cookie Policy.\nWe use cookies\ncookies", 2),
    "upper_case_fraction": ("aBÉ1", 2 / 4),
    "digit_fraction": ("a1٣b", 2 / 4),
    "punctuation_fraction": ("a,b¡", 2 / 4),
    "non_ascii_fraction": ("aé…b", 2 / 4),
    "num_lines_200_chars": ("x" * 200 + "\n" + "y" * 199, 1),
    "list_line_fraction": ("1. a\n- b\n1234. c\nd", 2 / 4),
    "type_token_ratio": ("a b a A", 3 / 4),
    "median_word_length": ("a bb cccc d", (1 + 2) / 2),
    "stop_word_occurrences": ("the The the of", 3),
    "symbol_word_fraction": ("a# b… c... d", 2 / 4),
    "dolma_bullet_line_fraction": ("* a\n- b\n - c\n• d", 2 / 4),
    "dolma_ellipsis_line_fraction": ("a…\nb...\nc…\nd", 2 / 4),
    "dolma_dup_line_fraction": ("a\nb\na", 2 / 3),
    "dolma_dup_line_char_fraction": ("aa\nb\naa", 4 / 5),
    "dolma_v2_bullet_line_fraction": ("* a\n\n\nb", 1 / 2),
    "dolma_v2_ellipsis_line_fraction": ("a…\n\nb", 1 / 2),
    "dolma_v2_dup_line_fraction": ("a\n\na\n\nb", 2 / 3),
    "dolma_top_2gram_char_fraction": ("a b a b c", 2 * 2 / 5),
    "dolma_top_3gram_char_fraction": ("a b c a b c d", 2 * 3 / 7),
    "dolma_top_4gram_char_fraction": ("a b c d a b c d e", 2 * 4 / 9),
    # of 2n + 1 words there are n + 2 n-grams of n characters, two of them equal
    "dolma_dup_5gram_char_fraction": (twice(5), 2 * 5 / (7 * 5)),
    "dolma_dup_6gram_char_fraction": (twice(6), 2 * 6 / (8 * 6)),
    "dolma_dup_7gram_char_fraction": (twice(7), 2 * 7 / (9 * 7)),
    "dolma_dup_8gram_char_fraction": (twice(8), 2 * 8 / (10 * 8)),
    "dolma_dup_9gram_char_fraction": (twice(9), 2 * 9 / (11 * 9)),
    "dolma_dup_10gram_char_fraction": (twice(10), 2 * 10 / (12 * 10)),
    "byte_entropy": ("aabb", 1),
    "code_likelihood": ("x = 1;\nplain words\nb\nreturn it", 2 / 4),
    "latin_letter_fraction": ("aбγא", 1 / 4),
    "cyrillic_letter_fraction": ("aбγא", 1 / 4),
    "greek_letter_fraction": ("aбγא", 1 / 4),
    "hebrew_letter_fraction": ("aбγא", 1 / 4),
    "arabic_letter_fraction": ("عa", 1 / 2),
    "devanagari_letter_fraction": ("कa", 1 / 2),
    "han_letter_fraction": ("漢a", 1 / 2),
    "kana_letter_fraction": ("カa", 1 / 2),
    "hangul_letter_fraction": ("한a", 1 / 2),
    "other_letter_fraction": ("ᚠa", 1 / 2),
    "uax29_num_words": (UAX29_TEXT, 6),
    "uax29_mean_word_length": (UAX29_TEXT, (5 + 3 + 4 + 1 + 1 + 3) / 6),
    "uax29_alpha_word_fraction": (UAX29_TEXT, 5 / 6),
    "uax29_type_token_ratio": ("a b a A!", 3 / 4),
    "uax29_hash_per_word": ("#a b c", 1 / 3),
    "uax29_ellipsis_per_word": ("a... b… c d", 2 / 4),
    "complex_letter_fraction": ("กิขab", 2 / 4),  # the vowel sign is no letter
    "num_stop_words_own": ("The cat and the dog", 2),
    "stop_word_fraction_own": ("The cat and the dog", 3 / 5),
    "boilerplate_line_fraction": ("Sign in\nText\nAll rights reserved 2020\nMore", 2 / 4),
    "zlib_ratio": ("a", 9 / 1),  # 2 bytes of header, 3 + 8 + 7 bits of block, 4 bytes of checksum
    "terms_gender_female": ("She said her mother-in-law was a lady.", 4),
    "terms_gender_male": ("He and his sons; their heroes.", 3),
    "terms_gender_trans": ("A trans woman, non-binary people, a translation.", 2),
    "terms_orientation_lgb": ("Gay and bisexual writers, a same-sex couple", 3),
    "terms_orientation_heterosexual": ("heterosexual couples", 1),
    "terms_religion_christian": ("Catholics and Protestants are Christians", 3),
    "terms_religion_muslim": ("Islam is the religion of Muslims", 2),
    "terms_religion_jewish": ("Judaism, the Jewish faith", 2),
    "terms_religion_hindu": ("Hindus and Hinduism", 2),
    "terms_religion_buddhist": ("A Buddhist monk", 1),
    "terms_religion_sikh": ("A Sikh's turban", 1),
    "terms_religion_atheist": ("atheists", 1),
    "terms_ethnicity_black": ("Black people wore black shoes in African sun.", 2),
    "terms_ethnicity_white": ("White women in a white house", 1),
    "terms_ethnicity_asian": ("Chinese and Japanese; Indian corn", 2),
    "terms_ethnicity_hispanic": ("Latino and Mexican", 2),
    "terms_ethnicity_middle_eastern": ("Arab and Middle-Eastern food", 2),
    "terms_ethnicity_indigenous": ("Native\nAmericans", 1),
    "terms_migration": ("refugees and immigrants", 2),
    "terms_disability": ("a deaf man with Down syndrome in a blind test", 2),
    "terms_age_old": ("the elderly, an old town", 1),
    "terms_age_young": ("young women and teenagers", 2),
    "terms_aae": ("finna go, tryna stay", 2),
    "terms_colloquial": ("I ain’t gonna", 2),
    "num_bad_words": ("What an ass! An assistant, a bastard.", 2),
    "num_bad_words_en": ("What an ass! An assistant, a bastard.", 2),
    "c4_num_bad_words": ("One two three four bastard.\nno end for this ass here", 1),
    "num_bad_words_near_identity": ("She is no ass.\nOne two three four five six seven, a bastard.", 1),
}
STOP_WORDS = {
    "af": ("Die hond en die kat is moeg", 4),
    "ar": ("الكتاب على الطاولة في البيت", 2),
    "bg": ("Котката е на стола и не спи", 4),
    "bn": ("এই বই এবং ওই বই", 2),
    "ca": ("El gat i el gos de la casa", 5),
    "cs": ("Pes a kočka jsou na zahradě", 3),
    "da": ("Hunden og katten er i haven", 3),
    "de": ("Der Hund und die Katze", 3),
    "el": ("Ο σκύλος και η γάτα", 3),
    "en": ("The cat and the dog", 3),
    "es": ("El perro y el gato", 3),
    "et": ("Koer ja kass on aias", 2),
    "eu": ("Txakurra eta katua ez dira", 3),
    "fa": ("سگ و گربه در خانه", 2),
    "fi": ("Koira ja kissa on ulkona", 2),
    "fr": ("Le chien et le chat", 3),
    "gl": ("O can e o gato", 3),
    "he": ("הוא לא של", 3),
    "hi": ("कुत्ता और बिल्ली घर में है", 3),
    "hr": ("Pas i mačka su na stolu", 3),
    "hu": ("A kutya és a macska", 3),
    "hy": ("Շունը և կատուն", 1),
    "id": ("Anjing dan kucing di rumah", 2),
    "it": ("Il cane e il gatto", 3),
    "ja": ("犬と猫", 1),
    "ko": ("그 개 및 고양이", 2),
    "lt": ("Šuo ir katė ant stalo", 1),
    "lv": ("Suns un kaķis ir mājās", 2),
    "ms": ("Anjing dan kucing di rumah", 2),
    "nl": ("De hond en de kat", 3),
    "no": ("Hunden og katten er i hagen", 3),
    "pl": ("Pies i kot są w domu", 3),
    "pt": ("O cão e o gato", 3),
    "ro": ("Câinele și pisica sunt în casă", 3),
    "ru": ("Собака и кошка на столе", 2),
    "sk": ("Pes a mačka sú na záhrade", 3),
    "sl": ("Pes in mačka sta na mizi", 2),
    "sv": ("Hunden och katten är i trädgården", 3),
    "tr": ("Köpek ve kedi bir evde", 2),
    "uk": ("Собака і кішка на столі", 2),
    "vi": ("Con chó và con mèo trong nhà", 2),
    "zh": ("我的狗和猫", 3),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_signal_is_what_a_hand_counts(name: str) -> None:
    text, value = GOLDEN[name]
    row = measure(pa.array([text]), MEASURED, pa.array(["en"])).to_pylist()[0]
    assert row[name] == (np.float32(value) if SIGNAL_SCHEMA.field(name).type == pa.float32() else value)


@pytest.mark.parametrize("language", STOP_WORDS)
def test_the_stop_words_of_a_language_are_counted(language: str) -> None:
    text, number = STOP_WORDS[language]
    row = measure(pa.array([text]), ("words", "stop_words"), pa.array([language])).to_pylist()[0]
    assert row[f"stop_words_{language}"] == number
    assert row["stop_word_fraction_own"] == np.float32(number / row["uax29_num_words"])


def test_no_signal_is_without_a_value_counted_by_hand() -> None:
    elsewhere = {signal.name for signal in PARAGRAPH_SIGNALS} | {
        *GROUPS["datatrove"].names()
    }  # test_language.py, test_datatrove.py
    assert {*GOLDEN, *(f"stop_words_{language}" for language in STOP_WORDS)} == {*SIGNAL_NAMES} - elsewhere


def test_every_measure_of_nothing_is_zero_or_null() -> None:
    row = measure(pa.array([""]), MEASURED, pa.array(["unknown"])).to_pylist()[0]
    assert {name for name, value in row.items() if value is None} == {"num_stop_words_own", "stop_word_fraction_own"}
    assert not any(row.values())


def test_a_language_without_a_list_or_unknown_has_null_and_not_zero() -> None:
    assert {"th", "lo", "km", "my", "sw"}.isdisjoint(LANGUAGES)
    text, languages = pa.array(["xyz"] * 4), pa.array(["en", "th", "unknown", None])
    assert measure(text, ("stop_words",), languages)["num_stop_words_own"].to_pylist() == [0, None, None, None]
    assert measure(text, ("stop_words",))["num_stop_words_own"].null_count == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["not", "two words"], "de: 'two words' is not one word"),
        (["!"], "de: '!' is not one word"),
        (["Der", "der"], "named twice"),
    ],
)
def test_a_list_of_what_are_no_single_words_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        StopLists.model_validate({"sources": ["ours"], "lists": {"de": words}}).hashes()
