"""Every threshold on both sides, profiles against FILTERS.md, and errors that name the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.text.lines import LineRules
from tasks.text.rules import PROFILES, Decision, FilterConfig, Rule, decide
from tasks.text.signals import SCORES, SIGNAL_SCHEMA, measure

# FILTERS.md, written out once more: rule -> (signal, what is dropped, threshold)
QUALITY = {
    "gopher_min_words": ("num_words", "below", 50),
    "gopher_max_words": ("num_words", "above", 100_000),
    "gopher_mean_word_length_low": ("mean_word_length", "below", 3),
    "gopher_mean_word_length_high": ("mean_word_length", "above", 10),
    "gopher_hash_per_word": ("hash_per_word", "above", 0.1),
    "gopher_ellipsis_per_word": ("ellipsis_per_word", "above", 0.1),
    "gopher_bullet_lines": ("bullet_line_fraction", "above", 0.9),
    "gopher_ellipsis_lines": ("ellipsis_line_fraction", "above", 0.3),
    "gopher_alpha_words": ("alpha_word_fraction", "below", 0.8),
    "gopher_stop_words": ("num_stop_words", "below", 2),
}
REPETITION = {
    "gopher_repetition_dup_lines": ("dup_line_fraction", "above", 0.30),
    "gopher_repetition_dup_paragraphs": ("dup_paragraph_fraction", "above", 0.30),
    "gopher_repetition_dup_line_chars": ("dup_line_char_fraction", "above", 0.20),
    "gopher_repetition_dup_paragraph_chars": ("dup_paragraph_char_fraction", "above", 0.20),
    "gopher_repetition_top_2gram": ("top_2gram_char_fraction", "above", 0.20),
    "gopher_repetition_top_3gram": ("top_3gram_char_fraction", "above", 0.18),
    "gopher_repetition_top_4gram": ("top_4gram_char_fraction", "above", 0.16),
    **{
        f"gopher_repetition_dup_{n}gram": (f"dup_{n}gram_char_fraction", "above", threshold)
        for n, threshold in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True)
    },
}
C4_PAGE = {
    "c4_lorem_ipsum": ("has_lorem_ipsum", "equals", 1),
    "c4_curly_bracket": ("has_curly_bracket", "equals", 1),
}
FINEWEB = {
    **REPETITION,
    **QUALITY,
    **C4_PAGE,
    "c4_min_sentences": ("c4_np_num_sentences", "below", 5),
    "fineweb_line_punctuation": ("c4_np_line_punctuation_fraction", "at_or_below", 0.12),
    "fineweb_short_lines": ("c4_np_short_line_fraction", "at_or_above", 0.67),
}
DUP_LINE_CHARS = "c4_np_dup_line_char_fraction"
PUBLISHED: dict[str, dict[str, tuple[str, str, float]]] = {
    "gopher": {**QUALITY, **REPETITION},
    "c4-paper": {
        **C4_PAGE,
        "c4_bad_words": ("num_bad_words", "at_or_above", 1),
        "c4_min_sentences": ("c4_paper_num_sentences", "below", 5),
    },
    "c4-code": {
        **C4_PAGE,
        "c4_bad_words": ("c4_num_bad_words", "at_or_above", 1),
        "c4_min_sentences": ("c4_num_sentences", "below", 3),
    },
    "fineweb-paper": {**FINEWEB, "fineweb_dup_line_chars": (DUP_LINE_CHARS, "at_or_above", 0.1)},
    "fineweb-code": {
        **FINEWEB,
        "fineweb_dup_line_chars": (DUP_LINE_CHARS, "at_or_above", 0.01),
        "fineweb_newline_per_word": ("c4_np_newline_per_word", "above", 0.3),
    },
}
DOLMA = {
    "dolma_min_words": ("num_words", "below", 50),
    "dolma_max_words": ("num_words", "above", 100_000),
    "dolma_median_word_length_low": ("median_word_length", "below", 3),
    "dolma_median_word_length_high": ("median_word_length", "above", 10),
    "dolma_symbol_words": ("symbol_word_fraction", "above", 0.1),
    "dolma_alpha_words": ("alpha_word_fraction", "below", 0.8),
    "dolma_required_words": ("stop_word_occurrences", "below", 2),
    "dolma_dup_line_chars": ("dolma_dup_line_char_fraction", "above", 0.3),
    **{
        f"dolma_{kind}_{n}gram": (f"dolma_{kind}_{n}gram_char_fraction", "above", threshold)
        for kind, n, threshold in (
            *(("top", 2, 0.20), ("top", 3, 0.18), ("top", 4, 0.16), ("dup", 5, 0.15), ("dup", 6, 0.14)),
            *(("dup", 7, 0.13), ("dup", 8, 0.12), ("dup", 9, 0.11), ("dup", 10, 0.10)),
        )
    },
}
PUBLISHED |= {
    "mc4": {
        "mc4_long_lines": ("num_lines_200_chars", "below", 3),
        "mc4_bad_words": ("num_bad_words", "at_or_above", 1),
    },
    "refinedweb": PUBLISHED["gopher"],
    "ccnet": {},
    "dclm": {**PUBLISHED["gopher"], "dclm_quality": ("quality_percentile", "below", 0.9)},
    **{
        profile: {
            **DOLMA,
            "dolma_bullet_lines": (f"{lines}_bullet_line_fraction", "above", 0.9),
            "dolma_ellipsis_lines": (f"{lines}_ellipsis_line_fraction", "above", 0.3),
            "dolma_dup_lines": (f"{lines}_dup_line_fraction", "above", 0.3),
        }
        for profile, lines in (("dolma-1.2", "dolma"), ("dolma-1.2-v2", "dolma_v2"))
    },
}
OWN_STOP_WORDS = {"gopher_own_stop_words": ("num_stop_words_own", "below", 2)}
PUBLISHED |= {  # these two are ours: Gopher's numbers in other units
    "gopher-multilingual": {name: rule for name, rule in QUALITY.items() if name != "gopher_stop_words"}
    | OWN_STOP_WORDS
    | REPETITION,
    "gopher-unspaced": {
        "gopher_min_words": ("uax29_num_words", "below", 50),
        "gopher_max_words": ("uax29_num_words", "above", 100_000),
        "gopher_hash_per_word": ("uax29_hash_per_word", "above", 0.1),
        "gopher_ellipsis_per_word": ("uax29_ellipsis_per_word", "above", 0.1),
        "gopher_bullet_lines": QUALITY["gopher_bullet_lines"],
        "gopher_ellipsis_lines": QUALITY["gopher_ellipsis_lines"],
        "gopher_alpha_words": ("uax29_alpha_word_fraction", "below", 0.8),
        **OWN_STOP_WORDS,
        **{name: rule for name, rule in REPETITION.items() if "_dup_line" in name or "_dup_paragraph" in name},
    },
}
# datatrove 0.10.1, src/datatrove/pipeline/filters: the reason that it gives, by filter
PUBLISHED["datatrove-0.10"] = {
    f"datatrove_{reason}": (signal if signal == "num_chars" else f"datatrove_{signal}", drop, threshold)
    for reason, signal, drop, threshold in (
        ("repetition_empty", "num_chars", "below", 1),
        ("repetition_dup_para_frac", "dup_paragraph_fraction", "above", 0.3),
        ("repetition_dup_para_char_frac", "dup_paragraph_char_fraction", "above", 0.2),
        ("repetition_dup_line_frac", "dup_line_fraction", "above", 0.3),
        ("repetition_dup_line_char_frac", "dup_line_char_fraction", "above", 0.2),
        *((f"repetition_top_{n}_gram", f"top_{n}gram_char_fraction", "above", on) for n, on in ((2, 0.2), (3, 0.18), (4, 0.16))),
        *(
            (f"repetition_duplicated_{n}_n_grams", f"dup_{n}gram_char_fraction", "above", on)
            for n, on in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
        ),
        ("gopher_short_doc", "num_words", "below", 50),
        ("gopher_long_doc", "num_words", "above", 100_000),
        ("gopher_below_avg_threshold", "mean_word_length", "below", 3),
        ("gopher_above_avg_threshold", "mean_word_length", "above", 10),
        ("gopher_too_many_hashes", "hash_per_token", "above", 0.1),
        ("gopher_too_many_ellipsis", "ellipsis_per_token", "above", 0.1),
        ("gopher_too_many_bullets", "bullet_line_fraction", "above", 0.9),
        ("gopher_too_many_end_ellipsis", "ellipsis_line_fraction", "above", 0.3),
        ("gopher_below_alpha_threshold", "alpha_token_fraction", "below", 0.8),
        ("gopher_enough_stop_words", "num_stop_words", "below", 2),
        ("c4_lorem_ipsum", "c4_lorem_ipsum", "equals", 1),
        ("c4_curly_bracket", "c4_curly_bracket", "equals", 1),
        ("c4_too_few_sentences", "c4_num_sentences", "below", 5),
        ("fineweb_empty", "fineweb_num_lines", "below", 1),
        ("fineweb_line_punct_ratio", "fineweb_line_punctuation_fraction", "below", 0.12),
        ("fineweb_short_line_ratio", "fineweb_short_line_fraction", "above", 0.67),
        ("fineweb_char_dup_ratio", "fineweb_dup_line_char_fraction", "above", 0.01),
        ("fineweb_list_ratio", "fineweb_newline_per_token", "above", 0.3),
    )
}
EVERY_RULE = [(profile, rule) for profile, rules in PROFILES.items() for rule in rules]
# A document that every profile keeps.
GOOD = {
    "num_words": 500,
    "mean_word_length": 5.0,
    "alpha_word_fraction": 0.95,
    "num_stop_words": 7,
    "c4_num_sentences": 20,
    "c4_paper_num_sentences": 20,
    "c4_np_num_sentences": 20,
    "c4_np_line_punctuation_fraction": 0.9,
    "num_lines_200_chars": 9,
    "median_word_length": 5.0,
    "stop_word_occurrences": 90,
    "uax29_num_words": 500,
    "uax29_alpha_word_fraction": 0.95,
    "num_stop_words_own": 7,
    "quality_percentile": 0.95,
    "num_chars": 3_000,
    "datatrove_num_words": 500,
    "datatrove_mean_word_length": 5.0,
    "datatrove_alpha_token_fraction": 0.9,
    "datatrove_num_stop_words": 7,
    "datatrove_c4_num_sentences": 20,
    "datatrove_fineweb_num_lines": 30,
    "datatrove_fineweb_line_punctuation_fraction": 0.9,
    "language": "en",
    "language_score": 0.9,
}
SCHEMA = pa.schema(
    [
        *SIGNAL_SCHEMA,
        *(pa.field(score.name, score.kind) for score in SCORES),
        ("language", pa.string()),
        ("language_score", pa.float32()),
    ]
)


def signals(*changes: dict[str, object]) -> pa.Table:
    """One row per dict of changes to GOOD, of the stored types."""
    zeros = {field.name: False if field.type == pa.bool_() else 0 for field in SCHEMA}
    rows = [zeros | GOOD | change for change in changes]
    return pa.table({field.name: pa.array([row[field.name] for row in rows]).cast(field.type) for field in SCHEMA})


def reasons(decision: Decision) -> list[str | None]:
    return list(decision.rule.to_pylist())


@pytest.mark.parametrize("profile", PUBLISHED)
def test_a_profile_holds_exactly_the_published_numbers(profile: str) -> None:
    assert {rule.name: (rule.signal, rule.drop, rule.threshold) for rule in PROFILES[profile]} == PUBLISHED[profile]
    assert set(PROFILES) == set(PUBLISHED)


@pytest.mark.parametrize(("profile", "rule"), EVERY_RULE, ids=lambda value: getattr(value, "name", value))
def test_each_threshold_decides_on_both_sides(profile: str, rule: Rule) -> None:
    kind = SCHEMA.field(rule.signal).type
    on = rule.threshold
    if kind == pa.bool_():
        cases = {False: True, True: False}
    else:
        as_stored = np.float32(on)
        under = on - 1 if kind == pa.int32() else float(np.nextafter(as_stored, np.float32(-1)))
        over = on + 1 if kind == pa.int32() else float(np.nextafter(as_stored, np.float32(1e9)))
        cases = {
            under: rule.drop not in ("below", "at_or_below"),
            on: rule.drop in ("below", "above"),
            over: rule.drop not in ("above", "at_or_above"),
        }
    others = tuple(other.name for other in PROFILES[profile] if other.name != rule.name)
    config = FilterConfig(profile=profile, languages=("en",), disabled=others)
    decision = decide(signals(*({rule.signal: value} for value in cases)), config)
    assert decision.keep.tolist() == list(cases.values())
    assert reasons(decision) == [None if kept else rule.name for kept in cases.values()]
    dropped = [float(np.float32(value)) for value, kept in cases.items() if not kept]
    assert [value for value in decision.value.to_pylist() if value is not None] == pytest.approx(dropped)
    assert {value for value in decision.threshold.to_pylist() if value is not None} == {on}


def decided(profile: str, *texts: str, only: str, language: str = "en") -> list[bool]:
    others = tuple(rule.name for rule in PROFILES[profile] if rule.name != only)
    table = measure(pa.array(texts), language=pa.array([language] * len(texts)))
    return list(decide(table, FilterConfig(profile=profile, languages=(), disabled=others)).keep)


def words(number: int, length: int = 4) -> str:
    """Different words of one length."""
    return " ".join("".join(chr(97 + k // 26**at % 26) for at in range(length)) for k in range(number))


REAL_TEXT = [  # (profile, rule, a text that is just kept, a text that is just dropped)
    ("gopher", "gopher_min_words", words(50), words(49)),
    ("gopher", "gopher_max_words", words(100_000), words(100_001)),
    ("gopher", "gopher_mean_word_length_low", words(50, 3), words(50, 3) + " ab"),
    ("gopher", "gopher_mean_word_length_high", words(50, 10), words(50, 10) + " abcdefghijk"),
    ("gopher", "gopher_hash_per_word", words(9) + " #x", words(8) + " #x"),
    ("gopher", "gopher_ellipsis_per_word", words(18) + " one... two…", words(17) + " one... two…"),
    ("gopher", "gopher_bullet_lines", "- item\n" * 9 + "end", "- item\n" * 10 + "end"),
    ("gopher", "gopher_ellipsis_lines", "off...\n" * 3 + "line\n" * 7, "off…\n" * 4 + "line\n" * 9),
    ("gopher", "gopher_alpha_words", "a b c d 5", "a b c 4 5"),
    ("gopher", "gopher_stop_words", "Be that", "that THAT theme"),
    ("gopher", "gopher_repetition_dup_lines", "a\na\na\na\n" + words(6).replace(" ", "\n"), "a\na\na\nb\nc\nd"),
    ("gopher", "gopher_repetition_dup_paragraphs", "a\n\na\n\nb\n\nc", "a\n\na\n\nb"),
    ("gopher", "gopher_repetition_dup_line_chars", "abc\nabc\nrest xx", "abc\nabc\nrest x"),
    ("gopher", "gopher_repetition_dup_paragraph_chars", "abc\n\nabc\n\nrest x", "abc\n\nabc\n\nrest"),
    ("gopher", "gopher_repetition_top_2gram", "a b a b " + words(4) + " ef", "a b a b " + words(4) + " e"),
    ("gopher", "gopher_repetition_dup_10gram", words(10) + " x " + words(10) + " " + words(2000, 5), (words(10) + " ") * 2),
    ("c4-code", "c4_min_sentences", "One two three four five. " * 3, "One two three four five. " * 2),
    ("c4-code", "c4_min_sentences", "One two three four five.\n" * 3, "One two three four.\n" * 9),
    ("c4-paper", "c4_min_sentences", "One two three.\n" * 5, "One two three.\n" * 4),
    ("c4-paper", "c4_min_sentences", "One two three.\n" * 5, "One two three\n" * 5),
    ("c4-paper", "c4_lorem_ipsum", "lorem, ipsum", "Lorem Ipsum"),
    ("c4-paper", "c4_curly_bracket", "}", "{"),
    ("c4-paper", "c4_bad_words", "The assets of shitake growers.", "A crock of SHIT growers."),
    ("c4-code", "c4_bad_words", "Menu: shit\nThe assets of shitake growers.", "Menu\nOne word of it is shit."),
    ("mc4", "mc4_bad_words", "Shitake, cockpit", "menu | shit"),
    ("fineweb-code", "c4_min_sentences", "One two three\n" * 5, "One two three\n" * 4 + "Two words.\n" * 9),
    ("fineweb-code", "fineweb_line_punctuation", "a b c.\n" + "a b c\n" * 7, "a b c.\n" * 3 + "a b c\n" * 22),
    (
        "fineweb-code",
        "fineweb_short_lines",
        f"{'a b c':29}.\n" * 34 + "a b c\n" * 66,
        "a b " + "c" * 26 + "\na b c\na b c\na b c",
    ),
    ("fineweb-paper", "fineweb_dup_line_chars", "ab c d\nab c d\n" + words(10, 5), "ab c d\nab c d\na b " + "c" * 44),
    ("mc4", "mc4_long_lines", (words(40) + " a\n") * 3, (words(40) + " a\n") * 2 + words(40) + " \n" + words(39)),
    ("refinedweb", "gopher_repetition_dup_lines", "a\na\na\na\n" + words(6).replace(" ", "\n"), "a\na\na\nb\nc\nd"),
    ("dolma-1.2", "dolma_median_word_length_low", "ab abc abcd a abc", "ab abc abcd a"),
    ("dolma-1.2", "dolma_median_word_length_high", words(3, 10) + " " + words(2, 40), words(3, 10) + " " + words(3, 40)),
    ("dolma-1.2", "dolma_symbol_words", words(9) + " #…", words(17) + " x# …y"),
    ("dolma-1.2", "dolma_required_words", "the or the", "The THE the"),
    ("dolma-1.2", "dolma_bullet_lines", "* a\n" * 9 + " - a", "-a\n" * 10 + "*"),
    ("dolma-1.2", "dolma_ellipsis_lines", "a…\n" * 3 + "b...\n" * 6 + "b", "a…\n" * 4 + "b… \n" * 8),
    ("dolma-1.2", "dolma_dup_lines", "a\na\na\n" + words(7).replace(" ", "\n"), "a\na\n" + words(4).replace(" ", "\n")),
    ("dolma-1.2", "dolma_dup_lines", "a\n\nb\nc", "a\n\nb\n\nc"),  # empty lines are copies of each other
    ("dolma-1.2-v2", "dolma_dup_lines", "a\n\nb\n\nc", "a\n\nb\n\nb"),
    ("dolma-1.2", "dolma_dup_line_chars", "a b\na b\n" + "x" * 16, "a b\na b\n" + "x" * 14),  # 6 of 20, 6 of 18: words only
    ("dolma-1.2", "dolma_top_2gram", "a b a b " + "x" * 16, "a b a b " + "x" * 15),
    ("dolma-1.2", "dolma_dup_5gram", "a b c d e x " * 2 + words(190), "a b c d e x " * 2 + words(40, 1)),
    ("fineweb-code", "fineweb_newline_per_word", "a b c\n" * 9 + "a b c", "a b c\n" * 10 + "a b c"),
]


@pytest.mark.parametrize(("profile", "rule", "kept", "dropped"), REAL_TEXT)
def test_thresholds_decide_on_both_sides_of_real_text(profile: str, rule: str, kept: str, dropped: str) -> None:
    assert decided(profile, kept, dropped, only=rule) == [True, False]


@pytest.mark.parametrize(
    ("language", "kept", "dropped"),
    [
        ("de", "what shit is this", "so eine Scheiße"),
        ("ja", "女の子のグロ", "大変アナルだ"),
        ("unknown", "so eine Scheiße, merde, shit", ""),
        ("el", "so eine Scheiße, merde, shit", ""),
    ],
)
def test_bad_words_are_those_of_the_language_of_the_page_and_none_where_there_is_no_list(
    language: str, kept: str, dropped: str
) -> None:
    texts = [text for text in (kept, dropped) if text]
    assert decided("mc4", *texts, only="mc4_bad_words", language=language) == [True, False][: len(texts)]


def test_no_profile_asks_for_bad_words_but_those_whose_source_does() -> None:
    asking = {profile for profile, rule in EVERY_RULE if "bad_words" in rule.signal}
    assert asking == {"c4-paper", "c4-code", "mc4"}


def test_a_document_that_breaks_no_rule_is_kept_by_every_profile() -> None:
    for profile in (*PROFILES, None):
        language = "zh" if profile == "gopher-unspaced" else "en"
        decision = decide(signals({"language": language}), FilterConfig(profile=profile))
        assert decision.keep.tolist() == [True]
        for column in (decision.rule, decision.value, decision.threshold, decision.detail):
            assert column.null_count == 1


def test_language_is_asked_first_and_names_what_it_found() -> None:
    table = signals(
        {"language": "de", "num_words": 3},
        {"language_score": 0.65},
        {"language_score": 0.6499999},
        {"language": "unknown", "language_score": 0.2},
        {"num_words": 3},
    )
    decision = decide(table, FilterConfig())
    assert reasons(decision) == ["language", None, "language_score", "language", "gopher_min_words"]
    assert decision.detail.to_pylist() == ["de", None, "en", "unknown", None]
    assert decision.threshold.to_pylist() == [None, None, 0.65, None, 50]
    assert decision.value.to_pylist()[4] == 3
    assert decide(table, FilterConfig(languages=("de",))).keep.tolist() == [False] * 5
    everything = FilterConfig(profile=None, languages=())
    assert decide(table.drop_columns(["language", "language_score"]), everything).keep.all()


def test_the_first_rule_of_the_profile_is_the_reason() -> None:
    broken = {"num_words": 3, "dup_line_fraction": 0.9, "has_curly_bracket": True, "c4_num_sentences": 0}
    assert reasons(decide(signals(broken), FilterConfig(profile="gopher"))) == ["gopher_min_words"]
    assert reasons(decide(signals(broken), FilterConfig(profile="c4-code"))) == ["c4_curly_bracket"]
    without = FilterConfig(disabled=("gopher_min_words",))
    assert reasons(decide(signals(broken), without)) == ["gopher_repetition_dup_lines"]


def test_overrides_and_disabled_rules_change_only_their_rule() -> None:
    table = signals({"num_words": 49}, {"num_words": 19}, {"num_stop_words": 0})
    config = FilterConfig(overrides={"gopher_min_words": 20}, disabled=("gopher_stop_words",))
    decision = decide(table, config)
    assert decision.keep.tolist() == [True, False, True]
    assert decision.threshold.to_pylist()[1] == 20
    assert len(config.rules()) == len(PROFILES["fineweb-code"]) - 1


def test_a_profile_brings_its_line_rules() -> None:
    assert FilterConfig().line_rules() == LineRules(min_words_per_line=3, require_terminal_punctuation=False)
    assert FilterConfig(profile="c4-paper").line_rules() == LineRules(min_words_per_line=3)
    assert FilterConfig(profile="c4-code").line_rules() == LineRules(min_words_per_line=5)
    assert FilterConfig(profile="gopher").line_rules() is None
    assert FilterConfig(profile=None).line_rules() is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"profile": "fineweb"}, "unknown profile 'fineweb'; nearest: fineweb-"),
        ({"overrides": {"gopher_min_word": 3}}, "unknown rule 'gopher_min_word'; nearest: gopher_min_words"),
        ({"disabled": ("gopher_stopwords",)}, "unknown rule 'gopher_stopwords'; nearest: gopher_stop_words"),
        ({"disabled": ("c4_sentences",), "profile": "gopher"}, "unknown rule 'c4_sentences'; "),
        ({"overrides": {"language_score": 0.5}}, "min_language_score"),
        ({"min_language_score": 65}, "less than or equal to 1"),
        ({"profil": "gopher"}, "profil"),
    ],
)
def test_a_wrong_config_names_the_nearest_valid_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FilterConfig.model_validate(wrong)


def test_a_rule_on_an_unknown_signal_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown signal 'num_word'; nearest: num_words"):
        Rule(name="short", signal="num_word", drop="below", threshold=1)


def test_missing_signals_are_named() -> None:
    with pytest.raises(ValueError, match="lacks the columns: language_score, num_words"):
        decide(signals({}).drop_columns(["num_words", "language_score"]), FilterConfig())


def test_missing_scores_and_groups_are_named_with_what_adds_them(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("""
description: three that nobody measures by default
source: none
rules:
  - {name: dense, signal: zlib_ratio, drop: below, threshold: 0.1}
  - {name: best, signal: quality_percentile, drop: below, threshold: 0.9}
  - {name: toxic, signal: toxicity_score, drop: at_or_above, threshold: 0.9}
""")
    told = r"quality_percentile, toxicity_score, zlib_ratio; signals\.groups must name compression; "
    told += r"`gristmill step score` adds quality_percentile, toxicity_score, with a classifier from `step quality` and `step toxicity`; "
    told += r"filter\.disabled=\[best, toxic\] goes without$"
    with pytest.raises(ValueError, match=told):
        decide(
            signals({}).drop_columns(["zlib_ratio", "quality_percentile", "toxicity_score"]),
            FilterConfig(profile=str(tmp_path / "own.yaml"), languages=()),
        )


def test_an_empty_table_gives_an_empty_decision() -> None:
    decision = decide(signals({}).slice(0, 0), FilterConfig())
    assert len(decision.keep) == len(decision.rule) == len(decision.value) == len(decision.detail) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 1, width=32), st.booleans()), max_size=20))
def test_each_row_is_decided_as_it_would_be_alone(rows: list[tuple[int, float, bool]]) -> None:
    table = signals(*({"num_words": n, "dup_line_fraction": f, "has_curly_bracket": flag} for n, f, flag in rows), {})
    together = decide(table, FilterConfig())
    alone = [decide(table.slice(index, 1), FilterConfig()) for index in range(table.num_rows)]
    assert together.keep.tolist() == [bool(one.keep[0]) for one in alone]
    assert reasons(together) == [reasons(one)[0] for one in alone]
    assert together.value.to_pylist() == [one.value.to_pylist()[0] for one in alone]


def test_a_signal_that_is_null_breaks_no_rule() -> None:
    """There is no list of stop words for the language of the first and the third."""
    rules = tuple(rule.name for rule in PROFILES["gopher-multilingual"] if rule.name != "gopher_own_stop_words")
    config = FilterConfig(profile="gopher-multilingual", languages=(), disabled=rules)
    decision = decide(pa.table({"num_stop_words_own": pa.array([None, 1, None, 2], pa.int32())}), config)
    assert decision.keep.tolist() == [True, False, True, True]
    assert decision.value.to_pylist() == [None, 1, None, None]


def test_a_rule_on_a_signal_that_is_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown signal 'paragraph_language'; nearest: num_paragraph_languages"):
        Rule(name="mixed", signal="paragraph_language", drop="above", threshold=1)
