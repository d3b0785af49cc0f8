"""What cards of datasets and models say of audit, trimming, duplicates, sample, copies and contamination: from manifests and certificates
alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from expectations.schemas import CERTIFICATE_FOLDER, CERTIFICATE_PAGE
from infra.dataset import Manifest


def certificate_files(made: Manifest) -> list[str]:
    """Names of a version's files that are its certificate; none where it has none."""
    return [entry.name for entry in made.files if entry.name.startswith(f"{CERTIFICATE_FOLDER}/")]


def contamination_told(certificate: Mapping[str, Any] | None) -> str:
    """What a certificate says, in a line with a link to it, or that there is none."""
    if certificate is None:
        return "Contamination: whether the documents hold items of evaluation sets was not tested.\n\n"
    return f"Contamination: {certificate['statement']} [Certificate]({CERTIFICATE_PAGE}).\n\n"


def index_told(made: Manifest) -> str:
    """An index in words for a card: how duplicates were looked for."""
    config = made.recipe["config"]
    crawls = made.facts["generation"] + 1
    among = (
        "among themselves" if crawls == 1 else f"with those of {crawls - 1:,} earlier {'crawl' if crawls == 2 else 'crawls'} too"
    )
    held_back = made.facts["skipped_pair_share"]
    full = f" Full buckets held back {held_back:.1%} of the pairs." if held_back else ""
    return (
        f"Documents were compared {among} (index `{made.version}`): sets of {config['shingle_length']} {config['shingle_unit']} in a row, "
        f"MinHash of {config['num_bands']} bands × {config['rows_per_band']} rows; {made.facts['candidate_pairs']:,} candidate pairs, each "
        f"verified by exact overlap.{full}"
    )


def forget_told(made: Manifest) -> str:
    """A takedown in words for a card, without what was taken down."""
    again = made.facts["contents_reborn"]
    return (
        f"{made.counts.total - made.counts.kept:,} documents were taken down (version `{made.version}`), and {again:,} texts of theirs "
        "stay under another document of the same words."
    )


def duplicates_told(history: Sequence[Manifest]) -> str:
    """A paragraph on how duplicates were found and which went; empty where nobody looked for them."""
    told = {"index": index_told, "forget": forget_told, "dedup": _dedup_told}
    words = [told[one.step](one) for one in history if one.step in told]
    return f"{' '.join(words)}\n\n" if words else ""


def _dedup_told(made: Manifest) -> str:
    config = made.recipe["config"]
    of = {"jaccard": "Jaccard similarity", "containment": "containment (shared shingles among those of the shorter text)"}
    near = (
        f"near duplicates from {of[config['measure']]} {config['min_similarity']} on" if config["near"] else "no near duplicates"
    )
    url = ", and of each URL all texts but one" if config["same_url"] else ""
    scope = "" if config["documents"] == "all" else " The documents are those of the newest crawl alone."
    return (
        f"Removed were copies and {near}{url}: one document of each group stays, the best by crawl, quality, length and id, and every "
        f"removed one resembles one that stays. `num_copies` counts the documents of equal text that were seen.{scope}"
    )


def mixture_told(history: Iterable[Manifest]) -> str:
    """A paragraph for each step among these that weighed documents or judged how they are weighed; empty where none did."""
    told = {"audit": audit_told, "trim": trim_told, "rebalance": rebalance_told, "augment": augment_told}
    return "".join(f"{told[one.step](one)}\n\n" for one in history if one.step in told)


def trim_told(made: Manifest) -> str:
    """What was taken out of documents or marked in them, in words for a card."""
    facts = made.facts
    levels = [name.removeprefix("units_removed.") for name in facts if name.startswith("units_removed.")]
    marked = [name.removeprefix("units_marked.") for name in facts if name.startswith("units_marked.")]
    found = [
        f"{facts[f'units_removed.{level}']:,.0f} {level} ({facts[f'chars_removed.{level}']:,.0f} characters) taken out"
        for level in levels
    ]
    found += [f"{facts[f'units_marked.{level}']:,.0f} {level} only marked" for level in marked]
    rarer = " The first occurrence of each piece stayed: what is common (licences, notices, lines of code) is rarer here than in the world."
    return (
        f"Trimmed (version `{made.version}`): of text that is repeated across documents, {', '.join(found) or 'there was none'}; "
        f"{facts.get('documents_changed', 0):,.0f} of {made.counts.total:,} documents are not as they came.{rarer if levels else ''}"
    )


def rebalance_told(made: Manifest) -> str:
    """A rebalancing in words for a card: shares before and after, and of what."""
    weighed = [name.removeprefix("share_before.") for name in made.facts if name.startswith("share_before.")]
    shares = ", ".join(
        f"{name.replace('.', ' ', 1)} from {made.facts[f'share_before.{name}']:.1%} to {made.facts[f'share_after.{name}']:.1%}"
        for name in weighed
    )
    return (
        f"Rebalanced (version `{made.version}`): {made.counts.kept:,} of {made.counts.total:,} documents drawn without replacement, by "
        f"seed {made.recipe['config']['seed']}. Shares of {made.facts.get('shares_of', 'documents')}: {shares}. "
        "Whoever counts languages or sources here counts the sample."
    )


def augment_told(made: Manifest) -> str:
    """Augmentation in words for a card: copies by kind, and how to leave them out."""
    config = made.recipe["config"]
    kinds = {
        "swap": f"with identity words swapped ({', '.join(config['axes'])})",
        "noise": f"with {100 * config['noise_rate']:.3g}% of their longer words of ASCII letters mistyped",
        "paraphrase": "with contractions written out or made",
    }
    found = ", ".join(
        f"{made.facts[f'num_augmented.{kind}']:,.0f} {words}"
        for kind, words in kinds.items()
        if f"num_augmented.{kind}" in made.facts
    )
    return (
        f"Augmented (version `{made.version}`): beside the training documents stand changed copies of some, {found}; by seed "
        f"{config['seed']}, all in `train`. `augmented` says how a copy was made and `augmented_from` of what; both are empty in documents "
        "that are as they came. Given names, facts, and e-mail and IP addresses were not changed with the words."
    )


def audit_told(audit: Manifest) -> str:
    """The audit of a filter in words for a card, with what they do not say."""
    facts = audit.facts
    kinds = (("identity", "identity groups"), ("dialect", "dialect spellings"), ("language", "languages"), ("domain", "hosts"))
    found = ", ".join(
        f"{facts[f'num_flagged.{kind}']:,} of {facts[f'num_tested.{kind}']:,} on {words}"
        for kind, words in kinds
        if f"num_tested.{kind}" in facts
    )
    worst = f" The worst: {facts['worst']}." if "worst" in facts else ""
    alike = " of like length" if audit.recipe["config"]["by_length"] else ""
    return (
        f"Bias audit (version `{audit.version}`): how often each rule of the filter dropped documents that mention a group, or are of a "
        f"language or host, beside all others{alike}. Flagged rows of those tested: {found}.{worst} A mention is not an author, a "
        "disparity is not yet a fault, and none flagged may mean that the corpus is too small to show one."
    )
