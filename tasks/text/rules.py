"""Rules: published thresholds as data, and the decision they make on stored signals; no text is read.

A rule drops a document when its signal is beyond the threshold; the first rule of the profile that drops it is its reason.
`decide` is vectorised: a million documents take about a second. Fractions are compared in float32, the type they are
stored in, so that a document that lies on a threshold in the arithmetic of the paper lies on it here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.text.signals import SIGNAL_NAMES, LineRules

Direction = Literal["below", "above", "at_or_below", "at_or_above", "equals"]
_COMPARE = {
    "below": np.less,
    "above": np.greater,
    "at_or_below": np.less_equal,
    "at_or_above": np.greater_equal,
    "equals": np.equal,
}


class Rule(BaseModel):
    """Drop a document whose `signal` is `drop` the `threshold`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The reason that a dropped document carries."""
    signal: str
    """A column of `signals.SIGNALS`."""
    drop: Direction
    """On which side of the threshold a document is dropped."""
    threshold: float
    """In the unit of the signal; 1 for a flag that must not be set."""

    @field_validator("signal")
    @classmethod
    def _known_signal(cls, signal: str) -> str:
        if signal not in SIGNAL_NAMES:
            raise ValueError(_unknown("signal", signal, SIGNAL_NAMES))
        return signal


def _rule(name: str, signal: str, drop: Direction, threshold: float) -> Rule:
    return Rule(name=name, signal=signal, drop=drop, threshold=threshold)


# Rae et al. 2021 (arXiv 2112.11446), A.1.1, "Quality Filtering"
GOPHER_QUALITY = (
    _rule("gopher_min_words", "num_words", "below", 50),  # "between 50 and 100,000 words"
    _rule("gopher_max_words", "num_words", "above", 100_000),
    _rule("gopher_mean_word_length_low", "mean_word_length", "below", 3),  # "outside of the range of 3 to 10 characters"
    _rule("gopher_mean_word_length_high", "mean_word_length", "above", 10),
    _rule("gopher_hash_per_word", "hash_per_word", "above", 0.1),  # "symbol-to-word ratio greater than 0.1"
    _rule("gopher_ellipsis_per_word", "ellipsis_per_word", "above", 0.1),  # the same, for the ellipsis
    _rule("gopher_bullet_lines", "bullet_line_fraction", "above", 0.9),  # "more than 90% of lines starting with a bullet"
    _rule("gopher_ellipsis_lines", "ellipsis_line_fraction", "above", 0.3),  # "more than 30% ending with an ellipsis"
    _rule("gopher_alpha_words", "alpha_word_fraction", "below", 0.8),  # "80% of words … at least one alphabetic character"
    _rule("gopher_stop_words", "num_stop_words", "below", 2),  # "at least two of the following English words"
)
# The same paper, Table A1
GOPHER_REPETITION = (
    _rule("gopher_repetition_dup_lines", "dup_line_fraction", "above", 0.30),
    _rule("gopher_repetition_dup_paragraphs", "dup_paragraph_fraction", "above", 0.30),
    _rule("gopher_repetition_dup_line_chars", "dup_line_char_fraction", "above", 0.20),
    _rule("gopher_repetition_dup_paragraph_chars", "dup_paragraph_char_fraction", "above", 0.20),
    _rule("gopher_repetition_top_2gram", "top_2gram_char_fraction", "above", 0.20),
    _rule("gopher_repetition_top_3gram", "top_3gram_char_fraction", "above", 0.18),
    _rule("gopher_repetition_top_4gram", "top_4gram_char_fraction", "above", 0.16),
    _rule("gopher_repetition_dup_5gram", "dup_5gram_char_fraction", "above", 0.15),
    _rule("gopher_repetition_dup_6gram", "dup_6gram_char_fraction", "above", 0.14),
    _rule("gopher_repetition_dup_7gram", "dup_7gram_char_fraction", "above", 0.13),
    _rule("gopher_repetition_dup_8gram", "dup_8gram_char_fraction", "above", 0.12),
    _rule("gopher_repetition_dup_9gram", "dup_9gram_char_fraction", "above", 0.11),
    _rule("gopher_repetition_dup_10gram", "dup_10gram_char_fraction", "above", 0.10),
)


def _c4(view: str, min_sentences: int) -> tuple[Rule, ...]:
    """The page rules of C4 (Raffel et al. 2020, 2.2), sentences counted in the lines that `view` keeps."""
    return (
        _rule("c4_lorem_ipsum", "has_lorem_ipsum", "equals", 1),  # "any page where the phrase lorem ipsum appeared"
        _rule("c4_curly_bracket", "has_curly_bracket", "equals", 1),  # "any pages that contained a curly bracket"
        _rule("c4_min_sentences", f"{view}_num_sentences", "below", min_sentences),
    )


def _fineweb(dup_line_chars: float) -> tuple[Rule, ...]:
    """FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, 3.6), on the text that its C4 line rules leave."""
    return (
        _rule("fineweb_line_punctuation", "c4_np_line_punctuation_fraction", "at_or_below", 0.12),
        _rule("fineweb_dup_line_chars", "c4_np_dup_line_char_fraction", "at_or_above", dup_line_chars),
        _rule("fineweb_short_lines", "c4_np_short_line_fraction", "at_or_above", 0.67),
    )


# Quality before repetition: a text of ten words is then called short, not repetitive; the verdict is the same either way.
_FINEWEB_BASE = (*GOPHER_QUALITY, *GOPHER_REPETITION, *_c4("c4_np", 5))  # 5: the C4 paper, and datatrove's default

PROFILES: dict[str, tuple[Rule, ...]] = {
    "gopher": (*GOPHER_QUALITY, *GOPHER_REPETITION),
    "c4-paper": _c4("c4_paper", 5),  # "fewer than 5 sentences", lines of "at least 3 words"
    "c4-code": _c4("c4", 3),  # _MIN_NUM_SENTENCES = 3, _MIN_WORDS_PER_LINE = 5
    "fineweb-paper": (*_FINEWEB_BASE, *_fineweb(0.1)),  # 3.6: "greater than or equal to 0.1"
    "fineweb-code": (
        *_FINEWEB_BASE,
        *_fineweb(0.01),  # char_duplicates_ratio in the released code; also appendix E.4
        _rule("fineweb_newline_per_word", "c4_np_newline_per_word", "above", 0.3),  # new_line_ratio, in the code only
    ),
}
PROFILE_LINE_RULES: dict[str, LineRules | None] = {
    "gopher": None,
    "c4-paper": LineRules(min_words_per_line=3),
    "c4-code": LineRules(min_words_per_line=5),
    "fineweb-paper": LineRules(min_words_per_line=3, require_terminal_punctuation=False),
    "fineweb-code": LineRules(min_words_per_line=3, require_terminal_punctuation=False),
}
"""How the `rewrite` step cleans what a profile keeps; the view in which the profile counts. None: not at all."""

LANGUAGE, LANGUAGE_SCORE = "language", "language_score"
"""The rules on the columns `language` (string) and `language_score` (float32): not configured by profile, asked first."""


def _unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"unknown {kind} {name!r}; " + (f"nearest: {', '.join(near)}" if near else f"valid: {', '.join(names)}")


def check_profile(profile: str | None) -> str | None:
    """The name itself, if it is one of PROFILES or None; a ValueError with the nearest ones if not."""
    if profile is not None and profile not in PROFILES:
        raise ValueError(_unknown("profile", profile, PROFILES))
    return profile


class FilterConfig(BaseModel):
    """Which documents are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str | None = "fineweb-code"
    """A name of PROFILES; null applies the language rules alone."""
    languages: tuple[str, ...] = ("en",)
    """ISO 639 codes that are kept; empty turns both language rules off."""
    min_language_score: float = Field(default=0.65, ge=0, le=1)
    """Documents of a kept language with a lower score are dropped. FineWeb and RefinedWeb: 0.65; CCNet: 0.5."""
    overrides: dict[str, float] = Field(default_factory=dict)
    """Another threshold for a rule of the profile, by rule name, in the unit of its signal."""
    disabled: tuple[str, ...] = ()
    """Rules, by name, that are not asked."""

    @field_validator("profile")
    @classmethod
    def _known_profile(cls, profile: str | None) -> str | None:
        return check_profile(profile)

    @model_validator(mode="after")
    def _known_rules(self) -> FilterConfig:
        names = [rule.name for rule in self._profile_rules()]
        for name in self.overrides:
            if name == LANGUAGE_SCORE:
                raise ValueError(f"overrides: the threshold of {LANGUAGE_SCORE!r} is set by min_language_score")
            if name not in names:
                raise ValueError(f"overrides: {_unknown('rule', name, names)}")
        for name in self.disabled:
            if name not in (*names, LANGUAGE, LANGUAGE_SCORE):
                raise ValueError(f"disabled: {_unknown('rule', name, [*names, LANGUAGE, LANGUAGE_SCORE])}")
        return self

    def _profile_rules(self) -> tuple[Rule, ...]:
        return PROFILES[self.profile] if self.profile else ()

    def rules(self) -> tuple[Rule, ...]:
        """The rules of the profile that are asked, in order, with their thresholds as overridden."""
        return tuple(
            rule.model_copy(update={"threshold": self.overrides.get(rule.name, rule.threshold)})
            for rule in self._profile_rules()
            if rule.name not in self.disabled
        )

    def line_rules(self) -> LineRules | None:
        """The line rules that go with the profile, or None where it leaves lines alone."""
        return PROFILE_LINE_RULES[self.profile] if self.profile else None


@dataclass(frozen=True)
class Decision:
    """A verdict per document, as columns of equal length; the last four are null where the document is kept."""

    keep: npt.NDArray[np.bool_]
    rule: pa.StringArray
    """The first rule that dropped the document."""
    value: pa.DoubleArray
    """What was measured, in the unit of the rule's signal; for `language` the score."""
    threshold: pa.DoubleArray
    """What it was compared with; null for `language`."""
    detail: pa.StringArray
    """For the language rules the language found, else null."""


@dataclass(frozen=True)
class _Failure:
    """One rule over all documents."""

    rule: str
    failed: npt.NDArray[np.bool_]
    value: npt.NDArray[np.float64]
    threshold: float


def decide(signals: pa.Table, config: FilterConfig) -> Decision:
    """The verdict on every row of `signals`, which holds the columns that the rules of `config` ask for.

    Raises ValueError that names the columns that are missing.
    """
    rules = config.rules()
    asked = _language_rules(config)
    needed = {rule.signal for rule in rules} | ({LANGUAGE, LANGUAGE_SCORE} if asked else set())
    if missing := sorted(needed - set(signals.column_names)):
        raise ValueError(f"the signals table lacks the columns: {', '.join(missing)}")
    failures = [_ask_language(name, signals, config) for name in asked] + [_ask(rule, signals) for rule in rules]
    return _first_failures(failures, signals, asked)


def _language_rules(config: FilterConfig) -> list[str]:
    return [name for name in (LANGUAGE, LANGUAGE_SCORE) if config.languages and name not in config.disabled]


def _ask_language(name: str, signals: pa.Table, config: FilterConfig) -> _Failure:
    score = signals[LANGUAGE_SCORE].to_numpy()
    if name == LANGUAGE:
        wanted = np.isin(signals[LANGUAGE].to_numpy().astype(str), config.languages)
        return _Failure(name, ~wanted, score.astype(np.float64), np.nan)
    return _Failure(
        name, score < score.dtype.type(config.min_language_score), score.astype(np.float64), config.min_language_score
    )


def _ask(rule: Rule, signals: pa.Table) -> _Failure:
    value = signals[rule.signal].to_numpy()
    threshold = np.float32(rule.threshold) if value.dtype == np.float32 else rule.threshold
    return _Failure(rule.name, _COMPARE[rule.drop](value, threshold), value.astype(np.float64), rule.threshold)


def _first_failures(failures: list[_Failure], signals: pa.Table, asked: list[str]) -> Decision:
    num_rows = signals.num_rows
    first = np.full(num_rows, -1, np.int32)
    value, threshold = np.full(num_rows, np.nan), np.full(num_rows, np.nan)
    for index, failure in enumerate(failures):
        new = failure.failed & (first < 0)
        first[new] = index
        value[new] = failure.value[new]
        threshold[new] = failure.threshold
    keep = first < 0
    names = pa.array([failure.rule for failure in failures], pa.string())
    languages = signals[LANGUAGE].to_numpy() if asked else np.full(num_rows, None)
    return Decision(
        keep=keep,
        rule=names.take(pa.array(first, mask=keep)),
        value=pa.array(value, mask=keep),
        threshold=pa.array(threshold, mask=np.isnan(threshold)),
        detail=pa.array(languages, pa.string(), mask=keep | (first >= len(asked))),
    )
