"""What cards say of audit, sample and copies, from manifests by hand."""

from __future__ import annotations

from typing import Any

from expectations.cards import mixture_told
from infra.dataset import Counts, Manifest


def manifest(step: str, config: dict[str, Any], facts: dict[str, Any], total: int = 0, kept: int = 0) -> Manifest:
    counts = Counts(total=total, kept=kept, dropped={"rebalanced": total - kept} if total > kept else {})
    recipe = {"step": step, "config": config}
    return Manifest(step=step, version="v1", digest="d", schema_name="x", recipe=recipe, counts=counts, facts=facts)


AUDIT = manifest(
    "audit",
    {"by_length": True},
    {
        "num_tested.identity": 1_320,
        "num_flagged.identity": 2,
        "num_tested.domain": 40,
        "num_flagged.domain": 0,
        "worst": "short on a: 3",
    },
)
SAMPLE = manifest(
    "rebalance",
    {"seed": 7},
    {"shares_of": "characters", "share_before.source.web": 0.8, "share_after.source.web": 0.5, "parts": []},
    2_000,
    1_000,
)
COPIES = manifest(
    "augment",
    {"seed": 3, "axes": ["gender", "religion"], "noise_rate": 0.03},
    {"num_augmented.swap": 1_200.0, "num_augmented": 1_200.0},
)


def test_each_has_a_paragraph_with_its_numbers_and_its_limits() -> None:
    audit, sample, copies, end = mixture_told([manifest("filter", {}, {}), AUDIT, SAMPLE, COPIES]).split("\n\n")
    assert end == ""
    assert (
        audit.startswith("Bias audit (version `v1`)")
        and "2 of 1,320 on identity groups, 0 of 40 on hosts. The worst: short on a: 3." in audit
    )
    assert "A mention is not an author" in audit and "dialect" not in audit
    assert "1,000 of 2,000 documents drawn without replacement, by seed 7" in sample
    assert "Shares of characters: source web from 80.0% to 50.0%" in sample
    assert "1,200 with identity words swapped (gender, religion); by seed 3, all in `train`" in copies
    assert "mistyped" not in copies and "Given names, facts, and e-mail and IP addresses were not changed" in copies


def test_what_was_trimmed_is_told_by_level_with_what_it_does_to_common_text() -> None:
    facts = {"units_removed.lines": 1_200.0, "chars_removed.lines": 45_000.0, "chars_removed.white_space": 9.0}
    marked = {"units_marked.spans": 7.0, "chars_marked.spans": 900.0, "documents_changed": 300.0}
    told = mixture_told([manifest("trim", {}, {**facts, **marked}, 2_000, 2_000)])
    assert "1,200 lines (45,000 characters) taken out, 7 spans only marked; 300 of 2,000 documents are not as they came" in told
    assert "is rarer here" in told
    assert "documents, there was none; 0 of 0 documents are not" in mixture_told([manifest("trim", {}, {})])
    assert "is rarer here" not in mixture_told([manifest("trim", {}, {**marked, "documents_changed": 0.0}, 2_000, 2_000)])


def test_a_small_rate_of_noise_is_no_0() -> None:
    for rate, told in ((0.004, "0.4%"), (0.03, "3%"), (1.0, "100%")):
        noisy = manifest("augment", {"seed": 3, "axes": [], "noise_rate": rate}, {"num_augmented.noise": 12.0})
        assert f"12 with {told} of their longer words of ASCII letters mistyped" in mixture_told([noisy])


def test_lengths_are_spoken_of_only_where_like_ones_were_compared() -> None:
    at_all = AUDIT.model_copy(update={"recipe": {"step": "audit", "config": {"by_length": False}}})
    assert "beside all others of like length. Flagged" in mixture_told([AUDIT])
    assert "beside all others. Flagged" in mixture_told([at_all])


def test_where_nothing_of_it_was_done_nothing_is_said() -> None:
    assert mixture_told([manifest("filter", {}, {}), manifest("publish", {}, {})]) == ""
