"""Terms against hand-counted texts and a slow reference on arbitrary Unicode; the lists that ship are sound."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.text.terms import TermLists, count_terms, lists_path, load_lists, shipped_lists

SHARED = Path(__file__).parents[3] / "shared" / "data" / "bias"
ENGLISH = load_lists("en")


def lists(suffixes: tuple[str, ...] = (), **groups: list[str]) -> TermLists:
    made: list[dict[str, Any]] = [{"name": name, "sources": ["x"], "terms": terms} for name, terms in groups.items()]
    return TermLists.model_validate({"language": "en", "sources": ["x: made up"], "suffixes": suffixes, "groups": made})


TRIAL = lists(
    ("'s",),
    a=["woman", "black people", "été", "女性", "Ωmega"],
    b=["people", "black", "a b c", "ain't", "b c d e"],
    c=["same-sex", "x1_y", "ß", "İ"],
)


def counted(text: str | None, of: TermLists = ENGLISH) -> dict[str, int]:
    """What is not 0, without `terms_`."""
    [row] = count_terms(pa.array([text], pa.string()), of).to_pylist()
    return {name.removeprefix("terms_"): number for name, number in row.items() if number}


# --- the slow reference: written apart, over str -------------------------------------------------------------------------------


BEYOND = "\U00040000"
"""From here on there is no letter: tags and variation selectors end a word, as private use does."""


def fold(char: str) -> str:
    return next((one for one in (char.casefold(), char.lower()) if len(one) == 1), char)


def is_word(char: str) -> bool:
    category = unicodedata.category(char) if char < BEYOND else "Cn"
    return char == "_" or category[0] in "LM" or category == "Nd"


def stands_alone(char: str) -> bool:
    ranges = ("\u3040\u309f", "\u3400\u4dbf", "\u4e00\u9fff", "\uf900\ufaff", "\U00020000\U000323af")
    return is_word(char) and any(first <= char <= last for first, last in ranges)


def tokens(text: str) -> list[tuple[str, str]]:
    """(gap before, word) of all words; the last one has none when only a gap is left."""
    text = "".join(char for char in text if not (char < BEYOND and unicodedata.category(char) == "Cf" and char != "\u200b"))
    found, gap, word = [], "", ""
    for at, char in enumerate(text):
        after = text[at + 1 : at + 2]
        if stands_alone(char):
            found += [(gap, word)] if word else []
            found.append(("" if word else gap, char))
            gap = word = ""
        elif is_word(char):
            word += fold(char)
        elif char in "'’" and word and after and is_word(after) and not stands_alone(after):
            word += "'"
        else:
            found += [(gap, word)] if word else []
            gap = (gap if not word else "") + char
            word = ""
    return found + ([(gap, word)] if word else [])


def is_close(gap: str) -> bool:
    return gap.count("\n") < 2 and all(char.isspace() or char in "-\u2010\u2011\u200b" for char in gap)


def reference(text: str, of: TermLists) -> dict[str, int]:
    words = tokens(text)
    counts = {"num_words": len(words)}
    for group in of.groups:
        for form in set(of.forms(group)):
            term = [word for _, word in tokens(form)]
            for at in range(len(words) - len(term) + 1):
                same = [word for _, word in words[at : at + len(term)]] == term
                if same and all(is_close(gap) for gap, _ in words[at + 1 : at + len(term)]):
                    counts[group.name] = counts.get(group.name, 0) + 1
    return {name: number for name, number in counts.items() if number}


PIECES = st.sampled_from(
    [
        *(
            "woman",
            "Woman's",
            "WOMAN",
            "black",
            "people",
            "Black-People",
            "été",
            "E\u0301te\u0301",
            "ÉTÉ",
            "女",
            "性",
            "カナ",
            "ひ",
        ),
        *("a", "b", "c", "d", "e", "ain't", "AIN’T", "ain", "t", "same", "sex", "x1_y", "X1_Y", "ß", "SS", "İ", "ωMEGA", "Ωmega"),
        *(
            " ",
            " ",
            " ",
            "\n",
            "\n\n",
            "-",
            "\u2010",
            "'",
            "’",
            ".",
            ",",
            "\u00ad",
            "\u200d",
            "\u200b",
            "\ufeff",
            "\u0301",
            "🙂",
            "_",
            "\u00a0",
            "\x00",
        ),
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(st.characters(exclude_categories=["Cs"]), max_size=60))


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("\U000e0100")
@example("a\U000e0041b")
def test_any_text_counts_as_the_reference_says(text: str) -> None:
    assert counted(text, TRIAL) == reference(text, TRIAL)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), TEXTS), max_size=6), st.integers(0, 6), st.booleans())
def test_chunks_slices_nulls_and_offsets_of_either_width_change_nothing(texts: list[str | None], cut: int, large: bool) -> None:
    kind = pa.large_string() if large else pa.string()
    whole = pa.array(["before", *texts], kind)[1:]
    chunked = pa.chunked_array([whole[:cut], whole[cut:]], kind)
    rows = [reference(text or "", TRIAL) for text in texts]
    for found in (count_terms(whole, TRIAL), count_terms(chunked, TRIAL)):
        assert set(found.schema.types) == {pa.int32()}
        assert [{n.removeprefix("terms_"): k for n, k in row.items() if k} for row in found.to_pylist()] == rows


# --- counted by hand -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, {}),
        ("", {}),
        ("No one is named in this.", {"num_words": 6}),
        ("She asked HER mother.", {"num_words": 4, "gender_female": 3}),
        ("The woman’s brother, the womans", {"num_words": 5, "gender_female": 1, "gender_male": 1}),
        ("shepherd sheer human mankind menu", {"num_words": 5}),
        ("A black box, a white list, white_men.", {"num_words": 7}),
        ("African-American and Black\npeople", {"num_words": 5, "ethnicity_black": 2}),
        ("it was black. People came", {"num_words": 5}),
        ("Black\n\nPeople", {"num_words": 2}),
        ("A trans  woman", {"num_words": 3, "gender_female": 1, "gender_trans": 1}),
        ("non-binary, non binary, nonbinary", {"num_words": 5, "gender_trans": 3}),
        ("He finna go, y’all ain't talmbout him", {"num_words": 7, "gender_male": 2, "aae": 2, "colloquial": 2}),
        ("wo\u00adman and wo\u200bman ain'\u00adt", {"num_words": 5, "gender_female": 1, "gender_male": 1, "colloquial": 1}),
    ],
)
def test_english_counts_as_by_hand(text: str | None, wanted: dict[str, int]) -> None:
    assert counted(text) == wanted


def test_articles_that_melt_into_a_french_word_do_not_hide_it() -> None:
    found = counted("L’homme et la femme, d'une mère; qu'elle vienne", load_lists("fr"))
    assert found == {"num_words": 8, "gender_male": 1, "gender_female": 3}


def test_a_long_term_is_found_behind_a_false_start() -> None:
    assert counted("a b a b c d e", TRIAL)["b"] == 2  # "a b c" and "b c d e", which overlap


def test_a_very_long_word_and_a_very_long_text_are_read() -> None:
    text = "x" * 1_000_000 + " she " + "she " * 100_000
    assert counted(text) == {"num_words": 100_002, "gender_female": 100_001}


# --- the lists -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", shipped_lists())
def test_every_shipped_list_finds_each_of_its_terms_in_its_own_group(language: str) -> None:
    of = load_lists(language)
    assert of.language == language and len(of.groups) > 2
    for group in of.groups:
        for term in group.terms:
            assert counted(f"… {term.upper() if 'ß' not in term else term}!", of).get(group.name) == 1, term


def test_groups_of_the_same_name_are_of_the_same_kind_in_every_language() -> None:
    kinds: dict[str, set[str]] = {}
    for language in shipped_lists():
        for group in load_lists(language).groups:
            kinds.setdefault(group.name, set()).add(group.kind)
    assert all(len(kind) == 1 for kind in kinds.values()) and kinds["aae"] == {"dialect"}


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ({"a": ["black", "black people"]}, "would be counted twice"),
        ({"a": ["Same-sex", "same sex"]}, "would be counted twice"),
        ({"a": ["…"]}, "has 0 words"),
        ({"a": ["one two three four five"]}, "has 5 words"),
        ({"A": ["x"]}, "String should match pattern"),
    ],
)
def test_a_list_that_would_count_wrongly_is_refused(groups: dict[str, list[str]], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        lists(**groups)


def test_a_term_that_its_prefix_and_suffix_make_too_long_is_refused() -> None:
    """Each word of a term may be the beginning of another one, and the kernel has room for so many at a time."""
    raw = lists(a=["one two three"]).model_dump()
    assert TermLists.model_validate({**raw, "prefixes": ["the "]}).prefixes == ("the ",)
    with pytest.raises(ValidationError, match="a: 'one two three of it', with its prefix and suffix, has 5 words, above 4"):
        TermLists.model_validate({**raw, "prefixes": ["the "], "suffixes": [" of it"]})


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data here")
def test_winogenders_sentences_are_told_by_their_pronouns() -> None:
    """Rudinger et al. 2018: 240 sentences, each with a female, a male and a neutral pronoun."""
    lines = (SHARED / "winogender_all.tsv").read_text().splitlines()[1:]
    names, texts = zip(*(line.split("\t") for line in lines), strict=True)
    table = count_terms(pa.array(texts), ENGLISH)
    for name, female, male in zip(
        names, table["terms_gender_female"].to_pylist(), table["terms_gender_male"].to_pylist(), strict=True
    ):
        assert (female > 0, male > 0) == (".female." in name, ".male." in name), name


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data here")
def test_what_the_lists_see_of_crows_pairs_is_known() -> None:
    """Nangia et al. 2020: shares of sentences about an axis with a term of it, and of all other sentences; not held out (see en.yaml)."""
    with (SHARED / "crows_pairs.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    table = count_terms(pa.array([row["sent_more"] for row in rows]), ENGLISH).to_pandas()
    for about, axes, seen, elsewhere in (
        ("religion", ("religion",), 0.83, 0.01),
        ("gender", ("gender",), 0.80, 0.53),
        ("sexual-orientation", ("orientation",), 0.77, 0.01),
        ("race-color", ("ethnicity",), 0.51, 0.07),
        ("nationality", ("ethnicity", "migration"), 0.42, 0.21),
        ("age", ("age",), 0.42, 0.01),
        ("disability", ("disability",), 0.40, 0.01),
    ):
        own = [row["bias_type"] == about for row in rows]
        names = [name for name in table.columns if name.startswith(tuple(f"terms_{axis}" for axis in axes))]
        hit = (table[names] > 0).any(axis=1)
        assert hit[own].mean() >= seen and hit[[not one for one in own]].mean() <= elsewhere, about


def test_a_term_without_a_source_and_a_list_that_is_not_there_are_refused() -> None:
    group = {"name": "a", "sources": ["nowhere"], "terms": ["x"]}
    with pytest.raises(ValidationError, match="a: sources that the list does not name: nowhere"):
        TermLists.model_validate({"language": "en", "sources": ["x: made up"], "groups": [group]})
    with pytest.raises(ValueError, match=r"no term lists 'xx': neither a file nor one of de, en"):
        lists_path("xx")


def test_something_else_than_text_is_refused() -> None:
    with pytest.raises(ValueError, match="string"):
        count_terms(pa.array([1]), ENGLISH)
