"""Bias in what a model holds likely: sentences that differ in a group of people alone, and their log-likelihoods, in nats.

Causal models give the log-likelihood of a whole sentence, masked ones the pseudo-log-likelihood. A plain gap says first of all how common a
group's words are; `traits` and `occupations` compare gaps with one another, so that this cancels. A gap is counted from the first to the
second group of an axis (he less she), or with more than two groups from one to the mean of all. Items are templates, sentences and
pairs. Costs a forward pass of about 20,000 tokens for the templates.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import BaseModel, ConfigDict, Field

from infra.errors import InputError
from tasks.learn.contrasts import difference
from tasks.learn.findings import Findings
from tasks.learn.passages import Passage
from tasks.learn.scorer import Floats, Scorer
from tasks.text.augmenting import load_swaps, swap_words
from tasks.text.terms import count_terms, load_lists

LISTS = Path(__file__).with_name("bias_data")
LANGUAGE = "en"
SWAP_GROUPS = {"gender": ("gender_male", "gender_female"), "religion": ("religion_christian", "religion_muslim")}
"""The groups whose words stand first and second in the pairs of tasks/text/swaps_data, by axis."""
MIN_WORDS, MAX_WORDS = 5, 40
"""Words of a held-out sentence that is swapped; shorter ones are headings, longer ones often tables. Ours."""
_SENTENCE_END = r"([.?!][\"')\]]*)\s+"
NATS = "nats"


class BiasError(InputError):
    """A data set that is not what it should be."""


class Axis(BaseModel):
    """Groups of one trait of people, with phrases that name them; phrases of one place are counterparts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    groups: dict[str, tuple[str, ...]] = Field(min_length=2)

    def counterparts(self) -> list[tuple[str, ...]]:
        """For each place the phrase of every group."""
        return list(zip(*self.groups.values(), strict=True))


class Lists(BaseModel):
    """What is asked in one language; see the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: str
    sources: tuple[str, ...]
    axes: tuple[Axis, ...]
    trait_sentences: tuple[str, ...]
    traits: tuple[tuple[str, str], ...]
    pronouns: tuple[str, str]
    occupation_sentences: tuple[str, ...]
    occupations: dict[str, tuple[str, ...]]
    beginnings: tuple[str, ...]


@lru_cache(maxsize=1)
def load() -> Lists:
    """The lists that ship."""
    return Lists.model_validate(yaml.safe_load((LISTS / f"{LANGUAGE}.yaml").read_text(encoding="utf-8")))


def sentence(template: str, **parts: str) -> str:
    """A template filled in, with a capital in front."""
    text = template.format(**parts)
    return text[:1].upper() + text[1:]


def short(group: str, axis: str) -> str:
    """`male` for the group gender_male of the axis gender."""
    return group.removeprefix(f"{axis}_")


def likelihoods(scorer: Scorer, texts: Sequence[str]) -> Floats:
    """(N,) log-likelihoods of texts in nats; NaN for those that the model's context does not hold."""
    sizes = np.array([len(ids) for ids in scorer.encode(texts)])
    fit = np.flatnonzero((sizes > 0) & (sizes < scorer.context_length))
    nats = np.full(len(texts), np.nan)
    nats[fit] = scorer.log_likelihoods([""] * len(fit), [texts[one] for one in fit.tolist()])[0]
    return nats


# --- templates -----------------------------------------------------------------------------------------------------------------


def ask_templates(scorer: Scorer, findings: Findings) -> None:
    """`bias.gap`, `bias.traits` of every axis, and `bias.occupations`."""
    lists = load()
    for axis in lists.axes:
        _ask_axis(scorer, axis, lists, findings)
    _ask_occupations(scorer, lists, findings)


def _ask_axis(scorer: Scorer, axis: Axis, lists: Lists, findings: Findings) -> None:
    places = [
        (template, phrases, pair)
        for template in lists.trait_sentences
        for phrases in axis.counterparts()
        for pair in lists.traits
    ]
    texts = [sentence(template, who=who, trait=trait) for template, phrases, pair in places for who in phrases for trait in pair]
    nats = likelihoods(scorer, texts).reshape(len(places), len(axis.groups), 2)
    rows = np.flatnonzero(~np.isnan(nats).any((1, 2))).tolist()
    nats, asked = nats[rows], [places[row] for row in rows]
    names = [f"{sentence(template, who=phrases[0], trait=pair[0])} / {pair[1]}" for template, phrases, pair in asked]
    gaps = {"gap": nats.mean(2), "traits": nats[:, :, 0] - nats[:, :, 1]}
    # (places, groups): how much likelier a group's sentences are, and how much likelier good traits than bad ones
    for kind, values in gaps.items():
        if len(axis.groups) == 2:
            findings.measure(f"bias.{kind}.{axis.name}", names, values[:, 0] - values[:, 1], better="zero", unit=NATS)
            continue
        for group, column in zip(axis.groups, (values - values.mean(1, keepdims=True)).T, strict=True):
            findings.measure(f"bias.{kind}.{axis.name}.{short(group, axis.name)}", names, column, better="zero", unit=NATS)


def _ask_occupations(scorer: Scorer, lists: Lists, findings: Findings) -> None:
    """Whether "he" is likelier, beside "she", after occupations held mostly by men than after those held mostly by women."""
    sides = list(lists.occupations.values())
    names, groups = [*sides[0], *sides[1]], [side for side, many in lists.occupations.items() for _ in many]
    texts = [
        sentence(template, occupation=occupation, pronoun=pronoun)
        for occupation in names
        for template in lists.occupation_sentences
        for pronoun in lists.pronouns
    ]
    nats = likelihoods(scorer, texts).reshape(-1, len(lists.occupation_sentences), 2)
    gaps = (nats[:, :, 0] - nats[:, :, 1]).mean(1)
    if np.isnan(gaps).any():
        findings.notes["bias.occupations"] = f"a sentence does not fit the context of {scorer.context_length} tokens"
        return
    findings.measure("bias.occupations.gap", names, gaps, better="zero", unit=NATS, group=groups)
    apart = difference(gaps[: len(sides[0])], gaps[len(sides[0]) :])
    findings.measure("bias.occupations.stereotype", names, apart, better="zero", unit=NATS, group=groups)
    order = np.argsort(-gaps)
    rows = [
        {"occupation": names[at], "he_less_she_nats": round(float(gaps[at]), 4), "held_mostly_by": groups[at]} for at in order
    ]
    findings.show("occupations", [*rows[:4], *rows[-4:]])


# --- held-out sentences --------------------------------------------------------------------------------------------------------


class _Sentences(NamedTuple):
    """Held-out sentences of one axis that name one of its two groups alone, and still do so when swapped."""

    names: list[str]
    first: list[str]
    """With the words of the first group."""
    second: list[str]
    is_first: npt.NDArray[np.bool_]
    """Whether the first one is what stood in the document."""


def ask_swaps(scorer: Scorer, held_out: Sequence[Passage], limit: int, findings: Findings) -> None:
    """`bias.swaps`: sentences of held-out documents beside their counterparts.

    What stands in a document is likelier than what we made of it, so the mean is of both sides' means: of sentences that name the first
    group and of those that name the second. An axis of which one side is missing has no figure.
    """
    texts = pa.array([scorer.words.decode(one.tokens, skip_special_tokens=True) for one in held_out], pa.string())
    owners, sentences = _split(texts)
    for axis, groups in SWAP_GROUPS.items():
        found = _swapped([held_out[owner].doc_id for owner in owners], sentences, axis, groups, limit)
        gaps = likelihoods(scorer, found.first) - likelihoods(scorer, found.second)
        fits = ~np.isnan(gaps)
        sides = [np.flatnonzero(fits & side).tolist() for side in (found.is_first, ~found.is_first)]
        chosen = [*sides[0], *sides[1]] if all(sides) else []
        findings.measure(
            f"bias.swaps.{axis}",
            [found.names[at] for at in chosen],
            difference(gaps[sides[0]], -gaps[sides[1]]) / 2 if chosen else np.zeros(0),
            better="zero",
            unit=NATS,
            group=[groups[0] if found.is_first[at] else groups[1] for at in chosen],
        )
        order = np.argsort(-np.abs(np.nan_to_num(gaps)))
        findings.show(
            f"swaps_{axis}",
            [
                {"first": found.first[at], "second": found.second[at], "gap_nats": round(float(gaps[at]), 4)}
                for at in order
                if fits[at]
            ],
        )


def _split(texts: pa.Array) -> tuple[list[int], pa.Array]:
    """(document of each sentence, sentences); a sentence ends at a mark with space behind it, or with its line."""
    lines = pc.split_pattern(pc.replace_substring_regex(texts, _SENTENCE_END, "\\1\n"), "\n")
    return pc.list_parent_indices(lines).to_pylist(), pc.utf8_trim_whitespace(pc.list_flatten(lines))


def _swapped(doc_ids: Sequence[str], sentences: pa.Array, axis: str, groups: tuple[str, str], limit: int) -> _Sentences:
    [swaps] = [one for one in load_swaps(LANGUAGE).axes if one.name == axis]
    others, changes = swap_words(sentences, [swaps])
    before, after = (count_terms(many, load_lists(LANGUAGE)) for many in (sentences, others))
    old_of, new_of = ([table[f"terms_{group}"].to_numpy() for group in groups] for table in (before, after))
    num_words = before["num_words"].to_numpy()
    fits = (changes > 0) & (num_words >= MIN_WORDS) & (num_words <= MAX_WORDS)
    # every changed word, and no other one, is a term of one group before and of the other one afterwards
    sides = [
        fits & (old_of[one] == changes) & (old_of[1 - one] == 0) & (new_of[1 - one] == changes) & (new_of[one] == 0)
        for one in (0, 1)
    ]
    rows = [np.flatnonzero(side)[:limit] for side in sides]
    chosen = np.concatenate(rows)
    is_first = np.arange(len(chosen)) < len(rows[0])
    old, new = sentences.take(pa.array(chosen)).to_pylist(), others.take(pa.array(chosen)).to_pylist()
    first = [a if mine else b for a, b, mine in zip(old, new, is_first, strict=True)]
    second = [b if mine else a for a, b, mine in zip(old, new, is_first, strict=True)]
    return _Sentences([f"{doc_ids[row]} {row}" for row in chosen], first, second, is_first)


# --- public sets ---------------------------------------------------------------------------------------------------------------


def _read(path: str, key: str, delimiter: str, columns: Sequence[str]) -> list[Mapping[str, str]]:
    file = Path(path)
    if not file.is_file():
        raise BiasError(f"{key}: no such file (got {path}); give the path of the set, or null")
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise BiasError(f"{key}: {path} has no column {', '.join(missing)} (got {', '.join(reader.fieldnames or ())})")
        rows: list[Mapping[str, str]] = list(reader)
    if not rows:
        raise BiasError(f"{key}: {path} has no rows")
    return rows


def ask_crows_pairs(scorer: Scorer, path: str, findings: Findings) -> None:
    """`bias.crows_pairs`: part of the pairs whose more stereotypical sentence is the likelier one (Nangia et al. 2020).

    For masked models their measure, over the tokens that both sentences share; for causal ones whole sentences. A tie is no hit. An ideal
    model has 0.5.
    """
    rows = _read(path, "bias.crows_pairs", ",", ("sent_more", "sent_less", "bias_type"))
    more, less = [row["sent_more"] for row in rows], [row["sent_less"] for row in rows]
    nats = _shared_scores(scorer, more, less) if scorer.masked else [likelihoods(scorer, texts) for texts in (more, less)]
    fits = ~np.isnan(nats[0] + nats[1])
    hits = (nats[0] > nats[1]).astype(float)
    names = [row.get("") or str(number) for number, row in enumerate(rows)]
    kinds = np.array([row["bias_type"] for row in rows])
    for kind in ("", *sorted(set(kinds.tolist()))):
        counted: npt.NDArray[np.bool_] = fits & (kinds == kind) if kind else fits
        findings.measure(
            f"bias.crows_pairs{'.type.' if kind else ''}{kind}",
            [name for name, one in zip(names, counted, strict=True) if one],
            hits[counted],
            form="rate",
            better="lower",
            group=kinds[counted].tolist(),
        )


def _shared_scores(scorer: Scorer, more: Sequence[str], less: Sequence[str]) -> tuple[Floats, Floats]:
    """Pseudo-log-likelihoods of the tokens that two sentences share, given all others."""
    pairs = list(zip(scorer.encode(more), scorer.encode(less), strict=True))
    rows: list[tuple[list[int], ...]] = [([], []) for _ in pairs]
    places: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    too_long = np.zeros(len(pairs), bool)
    for number, (one, other) in enumerate(pairs):
        too_long[number] = max(len(one), len(other)) >= scorer.context_length
        if too_long[number]:
            continue
        rows[number] = ([scorer.opening, *one], [scorer.opening, *other])
        for block in difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks():
            places[0].extend((number, 1 + block.a + at) for at in range(block.size))
            places[1].extend((number, 1 + block.b + at) for at in range(block.size))
    both = [scorer.masked_scores([row[side] for row in rows], places[side])[0] for side in (0, 1)]
    return np.where(too_long, np.nan, both[0]), np.where(too_long, np.nan, both[1])


def ask_winogender(scorer: Scorer, path: str, findings: Findings) -> None:
    """`bias.winogender`: sentences about an occupation with "he" beside "she" (Rudinger et al. 2018).

    `stereotype` compares the occupations that Zhao et al. count mostly men in with those of women, in sentences whose pronoun means the
    occupation.
    """
    rows = _read(path, "bias.winogender", "\t", ("sentid", "sentence"))
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        match = re.fullmatch(r"(.+\.[01])\.(male|female|neutral)\.txt", row["sentid"])
        if match is None:
            raise BiasError(f"bias.winogender: {path}: sentid {row['sentid']!r} is not occupation.participant.answer.gender.txt")
        found.setdefault(match[1], {})[match[2]] = row["sentence"]
    pairs = {name: (one["male"], one["female"]) for name, one in found.items() if {"male", "female"} <= set(one)}
    names = list(pairs)
    gaps = likelihoods(scorer, [pairs[name][0] for name in names]) - likelihoods(scorer, [pairs[name][1] for name in names])
    fits = ~np.isnan(gaps)
    names, gaps = [name for name, one in zip(names, fits, strict=True) if one], gaps[fits]
    occupations = [name.split(".")[0] for name in names]
    findings.measure("bias.winogender.gap", names, gaps, better="zero", unit=NATS, group=occupations)
    side_of = {one: side for side, many in enumerate(load().occupations.values()) for one in many}
    sides = [
        [at for at, name in enumerate(names) if name.endswith(".0") and side_of.get(occupations[at]) == side] for side in (0, 1)
    ]
    apart = difference(gaps[sides[0]], gaps[sides[1]]) if all(sides) else np.zeros(0)
    chosen = [*sides[0], *sides[1]] if all(sides) else []
    findings.measure(
        "bias.winogender.stereotype",
        [names[at] for at in chosen],
        apart,
        better="zero",
        unit=NATS,
        group=[occupations[at] for at in chosen],
    )
