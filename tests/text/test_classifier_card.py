"""The card says every figure with its interval, and what the figures do not show; by hand from figures by hand."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tasks.text.classifier import TrainingConfig
from tasks.text.classifier_card import LIMITS, card, summary, told, told_few

SURE = {"value": 0.5, "low": 0.25, "high": 0.75}
NONE = {"value": None, "low": None, "high": None}
GROUP = {
    "texts": 60,
    "positives": 20,
    "flagged": 10,
    "precision": SURE,
    "recall": SURE,
    "false_positive_rate": NONE,
    "enough": True,
}
FIGURES: dict[str, Any] = {
    "labels": ["rude", "kind"],
    "positive": ["rude"],
    "parts": {"train": {"rude": 1000, "kind": 2000}, "calibrate": {"rude": 10, "kind": 20}, "test": {"rude": 30, "kind": 40}},
    "classes": [
        {"label": "rude", "texts": 30, "precision": SURE, "recall": SURE, "f1": 0.5, "average_precision": 0.625},
        {"label": "kind", "texts": 40, "precision": NONE, "recall": SURE, "f1": None, "average_precision": None},
    ],
    "ranking": {
        "average_precision": 0.625,
        "positive_share": 0.4286,
        "roc_auc": 0.75,
        "brier_raw": 0.3,
        "brier": 0.2,
        "calibration_error_raw": 0.1,
        "calibration_error": 0.05,
    },
    "min_group_texts": 50,
    "groups": [
        {"group": "all texts", **GROUP},
        {
            "group": "en/age_old",
            **GROUP,
            "texts": 3,
            "enough": False,
            "precision": None,
            "recall": None,
            "false_positive_rate": None,
        },
        {
            "group": "en/migration",
            **GROUP,
            "texts": 0,
            "enough": False,
            "precision": None,
            "recall": None,
            "false_positive_rate": None,
        },
    ],
}


@pytest.mark.parametrize("kind", LIMITS)
def test_a_card_has_every_figure_and_its_limits(kind: str) -> None:
    config = {"licence": "MIT", "notice": "Made up.", "training": TrainingConfig().model_dump(mode="json")}
    text = card("ours", kind, FIGURES, ["said (folder)"], config, 27_200_000)
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "mit"
    for words in (
        "# ours\n\nMade up.\n",
        "A fastText classifier of 27.2 MB with the classes rude, kind. Its score is the calibrated probability of rude.",
        "| rude | 1,000 | 10 | 30 |",
        "| rude | 30 | 0.500 (0.250–0.750) | 0.500 (0.250–0.750) | 0.500 | 0.625 |",
        "| kind | 40 | – | 0.500 (0.250–0.750) | – | – |",
        "average precision 0.625 (chance: 0.429) and ROC AUC 0.750 (chance: 0.5)",
        "| Brier score | 0.3000 | 0.2000 |",
        "| all texts | 60 | 20 | 0.500 (0.250–0.750) | 0.500 (0.250–0.750) | – |",
        "Below 50 test texts, so that nothing is said: en/age_old (3), 1 group that no text names.",
        LIMITS[kind],
        "| word_ngrams | 2 |",
    ):
        assert words in text, words


def test_the_shortest_form_has_precision_and_recall_of_every_class() -> None:
    facts = {
        "num_texts.test": 1234,
        "average_precision": 0.9,
        "positive_share": 0.5,
        "calibration_error": 0.01,
        "precision.rude": 0.8,
        "recall.rude": 0.7,
        "recall.kind": 0.6,  # never said, so without a precision
    }
    assert summary("toxicity", "abc", facts) == (
        "toxicity version `abc`, on 1,234 held-out texts: average precision 0.900 (chance: 0.500), calibration error 0.010; "
        "kind: precision –, recall 0.600; rude: precision 0.800, recall 0.700"
    )
    assert told(None) == told(NONE) == "–" and told_few({"a": 2}) == "a (2)"
