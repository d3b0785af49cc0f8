"""Profiles as files: every one that ships, a user's own, and errors that name file and key."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.text import rules
from tasks.text.lines import LineRules
from tasks.text.rules import PROFILES, RULE_GROUPS, FilterConfig, Profile, decide, read_profile
from tasks.text.signals import measure

FOLDER = Path(rules.__file__).with_name("profiles")
OWN = """
description: Short pages of ours.
source: our own measurements
languages: [de, "no"]
min_language_score: 0.4
line_rules: {min_words_per_line: 2}
extends: [gopher-quality]
thresholds: {gopher_min_words: 3}
rules:
  - {name: few_lines, signal: num_lines, drop: below, threshold: 2, note: lists of one are none}
"""
SHORT_TEXT = "those have that\nof the others with"  # more than OWN asks for, and too short for Gopher


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "ours.yaml"
    path.write_text(OWN, encoding="utf-8")
    return path


def spoilt(tmp_path: Path, old: str, new: str) -> Path:
    assert old in OWN
    path = tmp_path / "spoilt.yml"
    path.write_text(OWN.replace(old, new), encoding="utf-8")
    return path


def test_every_file_is_a_profile_that_says_what_it_is_and_where_it_is_from() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*PROFILES, "groups"} and "groups" not in PROFILES
    for name in PROFILES:
        profile = read_profile(name)
        assert profile.description and profile.source
        assert PROFILES[name] == profile.all_rules() and FilterConfig(profile=name).line_rules() == profile.line_rules


def test_the_order_of_groups_and_own_rules_is_the_order_of_asking() -> None:
    gopher = [rule.name for group in ("gopher-quality", "gopher-repetition") for rule in RULE_GROUPS[group].rules]
    assert [rule.name for rule in PROFILES["gopher"]] == gopher
    assert [rule.name for rule in PROFILES["fineweb-code"]] == [
        *gopher,
        *("c4_lorem_ipsum", "c4_curly_bracket", "c4_min_sentences", "fineweb_line_punctuation", "fineweb_dup_line_chars"),
        *("fineweb_short_lines", "fineweb_newline_per_word"),
    ]
    assert PROFILES["refinedweb"] == PROFILES["gopher"]


def test_a_file_of_the_user_decides_as_it_says(own: Path) -> None:
    config = FilterConfig(profile=str(own), overrides={"few_lines": 1}, disabled=("gopher_stop_words",))
    assert (config.languages, config.min_language_score) == (("de", "no"), 0.4)
    assert config.line_rules() == LineRules(min_words_per_line=2)
    assert [rule.name for rule in config.rules()] == [
        *(rule.name for rule in RULE_GROUPS["gopher-quality"].rules if rule.name != "gopher_stop_words"),
        "few_lines",
    ]
    assert {rule.name: rule.threshold for rule in config.rules()}["few_lines"] == 1
    table = measure(pa.array([SHORT_TEXT, "to be", SHORT_TEXT.replace("\n", " ")]))
    decision = decide(table, FilterConfig(profile=str(own), languages=()))
    assert decision.rule.to_pylist() == [None, "gopher_min_words", "few_lines"]
    assert decision.threshold.to_pylist() == [None, 3, 2]
    assert decide(table, FilterConfig(profile="gopher", languages=())).rule.to_pylist() == ["gopher_min_words"] * 3


def test_a_configuration_takes_the_rules_of_its_file_to_where_the_file_is_not(own: Path) -> None:
    packed = pickle.dumps(FilterConfig(profile=str(own)))
    own.unlink()
    config = pickle.loads(packed)
    assert [rule.name for rule in config.rules()][-1] == "few_lines"
    assert config.line_rules() == LineRules(min_words_per_line=2)


def test_what_a_profile_says_of_language_stands_in_the_configuration_unless_the_user_says_it() -> None:
    assert FilterConfig(profile="ccnet").model_dump() == FilterConfig().model_dump() | {
        "profile": "ccnet",
        "min_language_score": 0.5,
    }
    assert FilterConfig(profile="refinedweb").min_language_score == 0.65
    mc4 = FilterConfig(profile="mc4")
    assert mc4.min_language_score == 0.7 and len(mc4.languages) == len(set(mc4.languages)) == 90
    assert "no" in mc4.languages
    said = FilterConfig(profile="mc4", languages=("sw",), min_language_score=0.2)
    assert (said.languages, said.min_language_score) == (("sw",), 0.2)
    for config in (mc4, said):
        assert FilterConfig.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(("profile", "on"), [("mc4", 0.7), ("refinedweb", 0.65), ("ccnet", 0.5)])
def test_the_language_score_of_a_profile_decides_on_both_sides(profile: str, on: float) -> None:
    long_lines = ("word " * 40 + "\n") * 3
    table = measure(pa.array([long_lines] * 2))
    table = table.append_column("language", pa.array(["en", "en"]))
    table = table.append_column("language_score", pa.array([on, on - 0.001], pa.float32()))
    others = tuple(rule.name for rule in PROFILES[profile])
    decision = decide(table, FilterConfig(profile=profile, disabled=others))
    assert decision.rule.to_pylist() == [None, "language_score"]


def test_the_recipe_has_what_a_profile_decides_and_not_its_words(own: Path, tmp_path: Path) -> None:
    assert FilterConfig(profile=None).files() == {}
    assert set(FilterConfig().files()) == {"fineweb-code"}
    ours = FilterConfig(profile=str(own)).files()
    assert set(ours) == {"ours.yaml"}
    digest = ours["ours.yaml"]
    for old, new in (("Short pages of ours.", "Pages."), ("lists of one are none", "why not")):
        assert read_profile(str(spoilt(tmp_path, old, new))).digest() == digest
    for old, new in (
        ("words: 3", "words: 4"),
        ("below", "above"),
        ("line: 2", "line: 3"),
        ("quality]", "quality, gopher-repetition]"),
    ):
        assert read_profile(str(spoilt(tmp_path, old, new))).digest() != digest
    assert len({read_profile(name).digest() for name in PROFILES}) == len(PROFILES) - 1  # refinedweb has the rules of gopher


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("num_lines,", "num_line,", "rules.0.signal: unknown signal 'num_line'; nearest: num_lines"),
        ("drop: below", "drop: under", "rules.0.drop: Input should be 'below', "),
        ("threshold: 2", "threshold: two", "rules.0.threshold: Input should be a valid number"),
        ("[gopher-quality]", "[gopher-qualty]", "extends: unknown group 'gopher-qualty'; nearest: gopher-quality"),
        ("gopher_min_words: 3", "gopher_min_word: 3", "thresholds: unknown rule 'gopher_min_word'; nearest: gopher_min_words"),
        ("name: few_lines", "name: gopher_min_words", r"rules: a name for one rule only.*\(got gopher_min_words\)"),
        ("name: few_lines", "name: language", r"rules: a name for one rule only.*\(got language\)"),
        ("source: our own measurements", "", "source: Field required"),
        ("0.4", "40", r"min_language_score: .* less than or equal to 1 \(got 40\)"),
        ('"no"', "no", r"languages.1: Input should be a valid string \(got False\)"),
        ("min_words_per_line: 2", "min_words: 2", "line_rules.min_words: Extra inputs"),
        ("rules:\n", "rulez:\n", "rulez: Extra inputs"),
        ("rules:\n", "rules: [\n", "not YAML"),
    ],
)
def test_a_wrong_file_is_told_by_name_and_key(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = spoilt(tmp_path, old, new)
    with pytest.raises(ValueError, match=f"profile\n.*spoilt.yml: {told}"):
        FilterConfig(profile=str(path))


def test_a_file_that_is_not_there_or_holds_no_mapping_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml: cannot be read: No such file"):
        FilterConfig(profile=str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"list\.yaml: Input should be a valid dictionary"):
        read_profile(str(tmp_path / "list.yaml"))


def test_a_profile_cannot_be_changed_by_the_way() -> None:
    profile = read_profile("gopher")
    assert isinstance(profile, Profile)
    with pytest.raises(ValueError, match="frozen"):
        profile.source = "hearsay"  # type: ignore[misc]
