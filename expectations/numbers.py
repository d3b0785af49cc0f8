"""The numbers of a dataset that a suite can ask for, with what each is: names alone, so that a suite is checked without computing one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

LANGUAGE_SHARE, DUPLICATE_VALUES, REMOVAL_RATE = "language_share_", "duplicate_values_", "removal_rate_"
DRIFT = {
    "drift_rows_ratio": "rows now ÷ rows before",
    "drift_text_chars_p50_ratio": "median length now ÷ before",
    "drift_language_distance": "total variation distance of the language mix",
    "drift_text_chars_distance": "total variation distance of the lengths, in bins that double",
    "drift_doc_ids_kept": "share of the documents before that are still there",
    "drift_doc_ids_gone": "share of the documents before that are not",
    "drift_doc_ids_added": "share of the documents now that were not there before",
}
"""What `drift` gives, where both versions have the columns for it."""
AUDITED_KINDS = ("language", "domain", "identity", "dialect")
AUDIT = {
    f"{name}{kind}": f"{words}{f', by {kind[1:]}' if kind else ''}"
    for name, words in (
        ("num_tested", "rules on groups of the audit about which the corpus is big enough to say something"),
        ("num_flagged", "those of them whose disparity is beyond the audit's bounds and no matter of chance"),
        ("worst_ratio", "how many times as often the worst of them drops a group's documents; at least 1"),
    )
    for kind in ("", *(f".{one}" for one in AUDITED_KINDS))
}
"""Facts of the step `audit`, which only the suite of its stage can ask for."""
OF_CLASSIFIER = {
    "average_precision": "of a classifier's score on the references it has not seen",
    "roc_auc": "chance that it scores a positive reference above another one",
    "calibration_error": "mean distance of its score from the share of positives",
}
"""What a trained classifier's version says of itself."""
OF_INDEX = {"skipped_pair_share": "pairs that full buckets held back, among all that the buckets have: what was not compared"}
"""What an index says of itself."""
FIGURES = (
    *("heldout", "calibration", "robustness", "contamination", "tasks", "reasoning", "fairness"),
    *("bias", "toxicity", "memorisation", "privacy", "hallucination", "efficiency", "guard"),
)
"""Families of the figures of an evaluation, by which their names begin: `heldout.perplexity`."""
OF_SCORES = {"perplexity_of_uniform": "a model's perplexity ÷ that of guessing evenly: at 1 it has learnt nothing"}
"""What an evaluation says beside its figures."""
NUMBERS = {
    "num_rows": "rows",
    "duplicate_doc_ids": "rows beyond the first of their id",
    "duplicate_texts": "rows beyond the first of their text",
    "num_hosts": "different hosts",
    "top_host_share": "share of the biggest host",
    "num_languages": "different languages",
    "top_language_share": "share of the biggest language",
    **{f"text_chars_{name}": "of the texts' lengths in code points" for name in ("min", "p05", "p50", "p95", "max")},
    "removal_rate": "share of extracted documents that is gone",
    **OF_CLASSIFIER,
    **OF_INDEX,
    **OF_SCORES,
    **DRIFT,
    **AUDIT,
}
"""Numbers by their whole name."""
PREFIXES = {
    LANGUAGE_SHARE: "share of one language, by its code",
    DUPLICATE_VALUES: "rows beyond the first of their value, by column",
    REMOVAL_RATE: "share that one step dropped, by step",
    **{f"{family}.": "a figure of an evaluation, by its name" for family in FIGURES},
}
"""Numbers whose name ends with what they are of."""


def is_figure(name: str) -> bool:
    """Whether this number is one that an evaluation says."""
    return name in OF_SCORES or name.startswith(tuple(f"{family}." for family in FIGURES))


def unmeasured(asked: Collection[str], facts: Mapping[str, float]) -> dict[str, str]:
    """The figures of an evaluation among the numbers asked for that `facts` do not have, each with the reason."""
    return {name: "no evaluation measured it here" for name in asked if is_figure(name) and name not in facts}
