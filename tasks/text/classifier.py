"""A text classifier: fastText on one line of each text, calibrated, and measured on texts it has not seen.

The recipe is DCLM's (Li et al. 2024, arXiv 2406.11794, 4.4): a linear model on word unigrams and bigrams. One thread and a fixed seed: the
same references give the same bytes on the same kind of machine, in any order. A text's hash alone says whether it trains, calibrates or
tests, so copies of a text are never on two sides; near copies may be. Platt's sigmoid (two numbers) keeps the ranking.

Costs: 4 bytes × dimensions × (words + buckets) on disk and in each worker, 26 MB + 0.1 MB per 1,000 words by default.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import fasttext
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra import scratch
from infra.errors import InputError
from tasks.text.accuracy import class_figures, flag_figures, group_figures, ranking_figures, roc_auc
from tasks.text.terms import ListNames, count_terms, load_lists

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

MODEL, CALIBRATION, SCORES, ABOUT = "model.bin", "calibration.json", "scores.json", "classifier.json"
NEEDED = (MODEL, ABOUT, CALIBRATION)
"""The files that `load` reads."""
PARTS = ("train", "calibrate", "test")
MIN_TEXTS = 10
"""Texts that every class needs in every part; fewer say nothing about it."""
CHANCE = 0.01
"""A classifier that chance lets look as good with more than this probability is refused."""
FLAG_AT = 0.5
"""Calibrated score from which a text counts as positive in the figures."""
_BATCH = 8192
_PREFIX = "__label__"
_SMOOTHED = 1e-5  # fastText adds it to every probability before it takes the logarithm
_SMALLEST = 1e-12  # what float32 can tell from 0 beside it
_MIX, _GOLDEN = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0x9E3779B97F4A7C15)  # MurmurHash3's finaliser; 2^64 / phi


class TrainingConfig(BaseModel):
    """How a classifier is trained, calibrated and measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_chars: int = Field(10_000, ge=100)
    """So many characters of a text are read, in training and in scoring."""
    lower_case: bool = True
    """Read texts in lower case. DCLM's released code does not, but case tells sources apart sooner than quality."""
    max_texts_per_class: int = Field(200_000, ge=MIN_TEXTS)
    """Of a class with more, those with the smallest hashes are taken. DCLM: 200,000. All that are taken are in memory together."""
    test_share: float = Field(0.2, gt=0, lt=0.5)
    """Part of the texts that the figures come from; nothing else sees it."""
    calibration_share: float = Field(0.1, gt=0, lt=0.5)
    """Part of the texts that the calibration is fitted on."""
    word_ngrams: int = Field(2, ge=1, le=5)
    """Up to so many words are one feature. DCLM: 2."""
    dimensions: int = Field(32, ge=1)
    """Length of a feature's vector. fastText: 100, which made no difference in ours (docs/classifiers.md) at three times the size."""
    buckets: int = Field(200_000, ge=1)
    """Slots that n-grams of several words share. fastText: 2,000,000."""
    min_count: int = Field(2, ge=1)
    """A word that occurs less often in the training part is no feature."""
    epochs: int = Field(5, ge=1)
    """Passes over the training part."""
    learning_rate: float = Field(0.5, gt=0)
    """At the start; it falls to 0. fastText, and DCLM's script: 0.1, at which some hundred texts teach next to nothing."""
    seed: int = Field(1, ge=0, lt=2**31)
    """Of the training, and of the hash that divides and samples the texts."""
    term_lists: ListNames = ("en",)
    """Word lists of identity groups for the figures, as `audit` takes them."""
    min_group_texts: int = Field(50, ge=1)
    """Of a group with fewer test texts no rates are given."""

    @model_validator(mode="after")
    def _leaves_something(self) -> TrainingConfig:
        if self.test_share + self.calibration_share > 0.8:
            raise ValueError(
                f"test_share and calibration_share leave too little to train on (got {self.test_share} and {self.calibration_share})"
            )
        return self


# --- texts -----------------------------------------------------------------------------------------------------------------


def as_lines(text: pa.Array | pa.ChunkedArray, max_chars: int, lower_case: bool) -> list[str]:
    """Every text as the one line that the classifier reads: its first characters, white space folded, null as "".

    What fastText would take for a label or for the end of a line loses its marks.
    """
    head = pc.utf8_slice_codeunits(pc.fill_null(text, ""), 0, max_chars)
    head = pc.utf8_lower(head) if lower_case else head
    words = pc.replace_substring_regex(head, r"__label__|</s>", " ")
    folded = pc.replace_substring_regex(words, r"[\s\x00\x0b\x1c-\x1f\x85]+", " ")
    lines: list[str] = pc.utf8_trim_whitespace(folded).to_pylist()
    return lines


def keys_of(lines: Iterable[str], seed: int) -> Keys:
    """A hash of every line (BLAKE2b, 64 bits): copies have one key, and its order is none of the texts' own."""
    salt = seed.to_bytes(8, "little")
    raw = b"".join(hashlib.blake2b(line.encode(), digest_size=8, salt=salt).digest() for line in lines)
    return np.frombuffer(raw, "<u8").astype(np.uint64)


def parts_of(keys: Keys, training: TrainingConfig) -> npt.NDArray[np.int8]:
    """Which of PARTS each text is in, by its key alone."""
    mixed = (keys ^ _GOLDEN) * _MIX  # another order than that of the keys, by which texts are sampled
    mixed = (mixed ^ (mixed >> np.uint64(33))) * _MIX
    place = (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    test, calibrate = training.test_share, training.test_share + training.calibration_share
    return np.where(place < test, 2, np.where(place < calibrate, 1, 0)).astype(np.int8)


CHOSEN, DUPLICATE, CONFLICT, SURPLUS = range(4)
WHY_NOT = (None, "duplicate_reference", "conflicting_label", "not_sampled")
"""Reasons by number: another reference has the text, with the same label or with another one; or its class has enough."""


def choose(keys: Keys, labels: npt.NDArray[np.int64], max_texts_per_class: int) -> npt.NDArray[np.int8]:
    """Which references are used: a number of WHY_NOT for each. Of copies the first stays; of different labels for one text none."""
    unique, first, of = np.unique(keys, return_index=True, return_inverse=True)
    lowest, highest = np.full(len(unique), np.iinfo(np.int64).max), np.full(len(unique), -1)
    np.minimum.at(lowest, of, labels)
    np.maximum.at(highest, of, labels)
    verdict = np.full(len(keys), DUPLICATE, np.int8)
    verdict[first] = CHOSEN
    for label in np.unique(labels).tolist():
        own = np.flatnonzero((lowest == label) & (highest == label))
        verdict[first[own[max_texts_per_class:]]] = SURPLUS
    verdict[(lowest != highest)[of]] = CONFLICT
    return verdict


# --- the classifier ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classifier:
    """A trained model with its calibration."""

    model: Any
    labels: tuple[str, ...]
    """Its classes; numbers of labels are places in it."""
    positive: tuple[str, ...]
    """The classes whose probability is the score."""
    slope: float
    offset: float
    """Platt: calibrated log-odds = slope × log-odds + offset."""
    max_chars: int
    lower_case: bool

    def log_odds(self, text: pa.Array | pa.ChunkedArray) -> Floats:
        """The calibrated log-odds of every text for the positive classes."""
        return self.slope * _odds(self.probabilities(as_lines(text, self.max_chars, self.lower_case)), self) + self.offset

    def score(self, text: pa.Array | pa.ChunkedArray) -> Floats:
        """The calibrated probability (0 to 1) of the positive classes."""
        return sigmoid(self.log_odds(text))

    def probabilities(self, lines: Sequence[str]) -> Floats:
        """Probability of every label, lines × labels, not calibrated."""
        return _probabilities(self.model, self.labels, lines)


def load(folder: str | Path) -> Classifier:
    """The classifier of a local folder, as `Fitted.save` left it.

    Raises:
        InputError: there is none.
    """
    where = Path(folder)
    if missing := [name for name in NEEDED if not (where / name).is_file()]:
        raise InputError(f"{folder}: no trained classifier (missing: {', '.join(missing)})")
    about, calibration = (json.loads((where / name).read_text(encoding="utf-8")) for name in (ABOUT, CALIBRATION))
    training = about["training"]
    return Classifier(
        model=fasttext.load_model(str(where / MODEL)),
        labels=tuple(about["labels"]),
        positive=tuple(about["positive"]),
        slope=calibration["slope"],
        offset=calibration["offset"],
        max_chars=training["max_chars"],
        lower_case=training["lower_case"],
    )


@dataclass(frozen=True)
class Fitted:
    """A trained classifier as files, with what was measured."""

    files: dict[str, bytes]
    """MODEL, CALIBRATION, SCORES and ABOUT: what `load` and the card read."""
    figures: dict[str, Any]
    """What SCORES holds."""

    def facts(self) -> dict[str, Any]:
        """The figures that a version carries, by name; what has no value is left out."""
        ranking = self.figures["ranking"]
        found: dict[str, Any] = {name: value for name, value in ranking.items() if not isinstance(value, list)}
        for row in self.figures["classes"]:
            found |= {f"{kind}.{row['label']}": row[kind]["value"] for kind in ("precision", "recall")}
        for part, counts in self.figures["parts"].items():
            found[f"num_texts.{part}"] = sum(counts.values())
        found["model_bytes"] = len(self.files[MODEL])
        return {name: value for name, value in found.items() if value is not None}


def fit(references: pa.Table, labels: Sequence[str], positive: Sequence[str], training: TrainingConfig, name: str) -> Fitted:
    """Train on, calibrate by and measure on their own parts of the references.

    Args:
        references: columns text (lines, of `as_lines`), label, key, part; in any order.
        labels: the classes.
        positive: those whose probability is the score.
        name: of the classifier, for errors.

    Raises:
        InputError: a class has too few texts in a part, or what was learned tells nothing.
    """
    rows = references.sort_by("key")  # one order, whatever the shards; by a hash, so the classes are mixed
    actual = pc.index_in(rows["label"].combine_chunks(), pa.array(labels)).to_numpy(zero_copy_only=False).astype(np.int64)
    part = pc.index_in(rows["part"].combine_chunks(), pa.array(PARTS)).to_numpy(zero_copy_only=False)
    sizes = {
        where: dict(zip(labels, np.bincount(actual[part == at], minlength=len(labels)).tolist(), strict=True))
        for at, where in enumerate(PARTS)
    }
    _require_enough(sizes, name)
    texts = [rows["text"].filter(pa.array(part == at)).to_pylist() for at in range(len(PARTS))]
    codes = [actual[part == at] for at in range(len(PARTS))]
    model, raw_model = _train(texts[0], [labels[code] for code in codes[0].tolist()], training)
    found = Classifier(model, tuple(labels), tuple(positive), 1.0, 0.0, training.max_chars, training.lower_case)
    wanted = _columns(found)
    odds = _odds(found.probabilities(texts[1]), found)
    _require_skill(odds, np.isin(codes[1], wanted), name)
    slope, offset = platt(odds, np.isin(codes[1], wanted))
    probabilities = found.probabilities(texts[2])
    odds = _odds(probabilities, found)
    calibrated, is_positive = sigmoid(slope * odds + offset), np.isin(codes[2], wanted)
    flagged = calibrated >= FLAG_AT
    figures = {
        "labels": list(labels),
        "positive": list(positive),
        "parts": sizes,
        "classes": class_figures(labels, codes[2], probabilities.argmax(axis=1), probabilities),
        "flagged": flag_figures(is_positive, flagged),
        "ranking": ranking_figures(is_positive, sigmoid(odds), calibrated),
        "min_group_texts": training.min_group_texts,
        "groups": group_figures(is_positive, flagged, members_of(texts[2], training.term_lists), training.min_group_texts),
    }
    about = {"labels": list(labels), "positive": list(positive), "training": training.model_dump(mode="json")}
    files = {
        MODEL: raw_model,
        CALIBRATION: _json({"slope": slope, "offset": offset}),
        SCORES: _json(figures),
        ABOUT: _json(about),
    }
    return Fitted(files, figures)


def _require_enough(sizes: dict[str, dict[str, int]], name: str) -> None:
    short = [
        f"class {label!r} has {count} in the part {part}"
        for part, counts in sizes.items()
        for label, count in counts.items()
        if count < MIN_TEXTS
    ]
    if short:
        raise InputError(
            f"{name}: too few different texts: {'; '.join(short)}; every class needs {MIN_TEXTS} in every part. "
            "Give more references, or other shares in training.test_share and training.calibration_share"
        )


def _require_skill(odds: Floats, actual: npt.NDArray[np.bool_], name: str) -> None:
    """The test of Mann and Whitney (1947): that the score ranks positives higher must not be a matter of chance."""
    positives, negatives = int(actual.sum()), int((~actual).sum())
    area = roc_auc(actual, odds) or 0.5
    spread = np.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    if (area - 0.5) / spread < NormalDist().inv_cdf(1 - CHANCE):
        raise InputError(
            f"{name}: on {len(actual):,} texts it has not seen, the classifier does not tell the classes apart better than chance may (ROC "
            f"AUC {area:.3f}). Are the labels right? Else give more references, or raise training.epochs and training.learning_rate"
        )


def _train(lines: Sequence[str], labels: Sequence[str], training: TrainingConfig) -> tuple[Any, bytes]:
    """(model, its file's bytes); one thread, or the order of updates would be left to chance."""
    with scratch.folder("classifier") as folder:
        examples, saved = Path(folder, "train.txt"), Path(folder, MODEL)
        with examples.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{_PREFIX}{label} {line}\n" for label, line in zip(labels, lines, strict=True))
        try:
            model = fasttext.train_supervised(
                str(examples),
                dim=training.dimensions,
                wordNgrams=training.word_ngrams,
                bucket=training.buckets,
                minCount=training.min_count,
                epoch=training.epochs,
                lr=training.learning_rate,
                seed=training.seed,
                thread=1,
                label=_PREFIX,
                verbose=0,
            )
        except RuntimeError as error:
            raise InputError(
                f"training.learning_rate: fastText gave up ({error}); a lower rate may help (got {training.learning_rate:g})"
            ) from error
        model.save_model(str(saved))
        return model, saved.read_bytes()


def _probabilities(model: Any, labels: Sequence[str], lines: Sequence[str]) -> Floats:
    place = {f"{_PREFIX}{label}": at for at, label in enumerate(labels)}
    made = np.zeros((len(lines), len(labels)))
    for start in range(0, len(lines), _BATCH):
        some = list(lines[start : start + _BATCH])
        named, shares = model.predict(some, k=len(labels))
        columns = np.array([[place[one] for one in row] for row in named])
        np.put_along_axis(made[start : start + len(some)], columns, np.array(shares, np.float64), axis=1)
    made = np.clip(made - _SMOOTHED, _SMALLEST, 1.0)
    return made / made.sum(axis=1, keepdims=True) if len(made) else made


def _columns(classifier: Classifier) -> list[int]:
    return [at for at, label in enumerate(classifier.labels) if label in classifier.positive]


def _odds(probabilities: Floats, classifier: Classifier) -> Floats:
    """Log-odds of the positive classes; from both sides, so that 0.999999 is not 1."""
    wanted = _columns(classifier)
    others = [at for at in range(len(classifier.labels)) if at not in wanted]
    return np.log(probabilities[:, wanted].sum(axis=1)) - np.log(probabilities[:, others].sum(axis=1))


def members_of(lines: Sequence[str], term_lists: Iterable[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which lines name each group of these word lists, as `language/group`."""
    text = pa.array(lines, pa.string())
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for lists in map(load_lists, term_lists):
        counts = count_terms(text, lists)
        found |= {f"{lists.language}/{one.name}": counts[f"terms_{one.name}"].to_numpy() > 0 for one in lists.groups}
    return found


# --- calibration -------------------------------------------------------------------------------------------------------------


def sigmoid(odds: Floats) -> Floats:
    """1 ÷ (1 + e^-x), without overflow."""
    small = np.exp(-np.abs(odds))
    return np.where(odds >= 0, 1 / (1 + small), small / (1 + small))


def platt(odds: Floats, actual: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, offset) of Platt's sigmoid, by Newton's method with smoothed targets (Lin, Lin and Weng 2007)."""
    positives, negatives = int(actual.sum()), int((~actual).sum())
    target = np.where(actual, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    at: Floats = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    design = np.stack([odds, np.ones(len(odds))], axis=1)
    loss = functools.partial(_cross_entropy, design, target)
    best = loss(at)
    for _ in range(100):
        said = sigmoid(design @ at)
        gradient = design.T @ (said - target)
        if np.abs(gradient).max() < 1e-9 * len(odds):
            break
        curvature = (design * (said * (1 - said))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient).astype(np.float64)
        length, best = _line_search(loss, at, step, best)
        if not length:
            break
        at = at - length * step
    return float(at[0]), float(at[1])


def _line_search(loss: Callable[[Floats], float], at: Floats, step: Floats, best: float) -> tuple[float, float]:
    """(length, loss there) of the longest halved step that lowers the loss; length 0 where none does."""
    length = 1.0
    while length > 1e-10:
        if (there := loss(at - length * step)) < best:
            return length, there
        length /= 2
    return 0.0, best


def _cross_entropy(design: Floats, target: Floats, at: Floats) -> float:
    odds = design @ at
    return float(np.sum(np.logaddexp(0, odds) - target * odds))


def _json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def valid_label(label: str) -> str:
    """The label itself, if fastText can carry it.

    Raises ValueError for one with white space or other signs in it.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", label):
        raise ValueError(f"a class is named by letters, digits, '_', '.' and '-' (got {label!r})")
    return label
