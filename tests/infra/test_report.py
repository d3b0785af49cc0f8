from __future__ import annotations

import itertools
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from infra import scores_page
from infra.leaderboard import Row, Shown
from infra.report import (
    Audit,
    BeforeAfter,
    Classifier,
    ClassRow,
    Cluster,
    Clusters,
    Contamination,
    Copies,
    Crossing,
    Disparity,
    Drop,
    Duplicates,
    Evaluation,
    Generation,
    GroupRow,
    Histogram,
    Link,
    Pair,
    Rate,
    Removed,
    ReportFacts,
    Share,
    StepCost,
    StepCount,
    TokenGroup,
    Tokenisation,
    Tuned,
    Validation,
    ValidationRow,
    render_report,
)
from infra.training_page import Training

SCORES = scores_page.Scores(
    dimensions=[
        scores_page.Dimension(
            "accuracy", [scores_page.Score("heldout.perplexity", 31.5, 29.0, 34.25, 812, "lower", "per token")]
        ),
        scores_page.Dimension("bias"),
        scores_page.Dimension("efficiency", [scores_page.Score("efficiency.tokens_per_s", 4021.0, None, None, 1, "none")]),
    ],
    groups=[scores_page.Score("heldout.bits_per_byte.source.<b>", 1.5, 1.25, 1.75, 12, "lower", "bits per byte", small=True)],
    reliability=[(0.05, 0.04), (0.5, 0.4), (0.9, 0.6)],
    notes=["3 of 812 held-out documents have 13 words in a row with the training split."],
    compared=scores_page.Compared(
        "evaluate/0123",
        [scores_page.Beside("heldout.bits_per_byte", 1.5, 1.25, 0.25, 0.125, 0.375, 812, "worse")],
        ["heldout.bits_per_byte: worse"],
        ["tasks.pack_cloze.accuracy: too small to tell (3 items in common)"],
    ),
    board=[
        Row(
            "mill",
            str(version),
            ["champion"] * (version == 1),
            {"heldout.bits_per_byte": Shown(value, low, high, 812, "lower")},
            "http://m",
        )
        for version, value, low, high in ((2, 1.5, 1.375, 1.625), (1, 1.25, 1.125, 1.375))
    ],
)
VOID = {"meta", "br", "link", "img", "input", "hr"}
SECTIONS = {
    "config": "provenance",
    "digests": "provenance",
    "links": "provenance",
    "funnel": "funnel",
    "drops": "drops",
    "text_chars": "texts",
    "languages": "texts",
    "classifiers": "classifiers",
    "duplicates": "duplicates",
    "clusters": "duplicates",
    "tokenisation": "tokens",
    "training": "training",
    "tuned": "tuning",
    "evaluation": "evaluation",
    "generations": "evaluation",
    "scores": "scores",
    "costs": "cost",
    "validation": "validation",
    "audit": "bias",
    "shares": "sampling",
    "copies": "sampling",
    "contamination": "contamination",
}


class Page(HTMLParser):
    """What a test asks of a page: its elements in order, its text, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.elements if "id" in attrs]


def realistic() -> ReportFacts:
    rng = np.random.default_rng(7)
    edges = [float(round(edge)) for edge in np.geomspace(40, 60_000, 36)]
    counts, _ = np.histogram(rng.lognormal(6.9, 0.9, 14_000), edges)
    steps = np.arange(0, 600, 2)
    train = 7.2 * np.exp(-steps / 130) + 2.35 + rng.normal(0, 0.05, len(steps))
    url = "http://127.0.0.1:8341/s3/operations/"
    page = "The request specifies whether Amazon S3 should replicate objects that were encrypted. "
    return ReportFacts(
        run_name="demo · clever-otter",
        title="Operation texts of an API",
        started="2026-11-22 10:04 UTC",
        failure="curate: the corpus is empty",
        summary="Operation texts of botocore, crawled from four loopback hosts, curated, and a 4.1 M parameter model trained on them.",
        headline={
            "documents in": "6,412",
            "kept": "3,187",
            "tokens": "1.94 M",
            "perplexity": "11.8",
            "minutes": "7.4",
            "energy": "3.1 Wh",
        },
        config={"crawl.delay_s": "0.0", "filter.profile": "fineweb", "dedup.num_hashes": "112", "model.num_layers": "6"},
        digests={"config": "9f" * 16, "dataset": "3a" * 16, "tokeniser": "c1" * 16, "model": "77" * 16},
        links=(
            Link("Prefect run", "http://127.0.0.1:4200/runs/flow-run/0d1e8c7a"),
            Link("MLflow run", "http://127.0.0.1:5000/#/experiments/1/runs/ab12?workflowType=machine_learning"),
        ),
        funnel=(
            StepCount("crawl", 6_890, 6_412, {"robots": 330, "http status 500": 96, "unreachable host": 52}, unit="pages"),
            StepCount("extract", 6_412, 6_388, {"no text": 21, "not UTF-8": 3}),
            StepCount(
                "filter",
                6_388,
                3_904,
                {
                    "gopher_num_words": 1_702,
                    "fineweb_short_line_share": 401,
                    "gopher_top_2gram_share": 187,
                    "language": 122,
                    "gopher_stop_words": 72,
                },
            ),
            StepCount("rewrite", 3_904, 3_902, {"nothing left": 2}),
            StepCount("dedup", 3_902, 3_187, {"near duplicate": 604, "exact duplicate": 111}),
            StepCount("redact", 3_187, 3_187),
        ),
        drops=(
            *(
                Drop("filter", "gopher_num_words", f"{url}put-{i}", page * (1 + i % 2), 12 + i, 50, meaning="num_words below 50")
                for i in range(5)
            ),
            Drop("filter", "language", f"{url}liste", "Cette opération renvoie la liste des <objets>.", 0.41, 0.65, "fr"),
            Drop("dedup", "near duplicate", f"{url}copy", page * 3, 0.94, 0.8, "kept " + "ab" * 16),
            Drop("extract", "no text", f"{url}empty", ""),
        ),
        text_chars=Histogram(edges, [int(n) for n in counts]),
        languages={"en": 3_150, "fr": 20, "de": 9, "es": 5, "ja": 3},
        classifiers=(
            Classifier(
                "toxicity",
                "5f" * 8,
                "hate or offensive",
                {"average precision": (0.9912, "chance: 0.831"), "ROC AUC": (0.963, "chance: 0.5")},
                [
                    ClassRow("hate", 277, Rate(0.494, 0.386, 0.602), Rate(0.141, 0.105, 0.186), 0.219),
                    ClassRow("none", 0, None, None, None),
                ],
                [GroupRow("en/gender_female", 589, 529, Rate(0.95, 0.93, 0.97), Rate(0.95, 0.93, 0.97), None)],
                "en/age_old (3)",
                [(0.05, 0.1), (0.5, 0.4), (0.95, 0.9)],
                [(0.06, 0.06), (0.51, 0.5), (0.97, 0.97)],
                "It has learned the judgement of those who labelled.",
            ),
            Classifier("quality", "6a" * 8, "positive", {"ROC AUC": (0.9, "chance: 0.5")}),
        ),
        duplicates=Duplicates(
            how="Sets of 5 words in a row, 14 bands of 8 rows.",
            min_similarity=0.8,
            curve=[(at / 50, 1 - (1 - (at / 50) ** 8) ** 14) for at in range(51)],
            similarities={
                place / 20: count for place, count in enumerate([0] * 10 + [3, 9, 40, 80, 120, 90, 150, 300, 420, 700])
            },
            removed={"copies": 204, "near duplicates, verified": 511},
            buckets={2: 4_210, 8: 312, 64: 11, 1_000: 1, 10_000: 0},
            held_back=0.034,
            pairs=(Pair(0.812, f"{url}put", page, f"{url}post", page.replace("encrypted", "signed")),),
            crossings=(Crossing(1, 1, 400), Crossing(2, 1, 300), Crossing(2, 2, 15)),
        ),
        clusters=Clusters(
            sizes={2: 214, 3: 71, 4: 22, 5: 9, 8: 4, 13: 2, 41: 1},
            biggest=(
                Cluster(f"{url}tag-resource", 41, tuple(Removed(f"{url}tag-resource-{i}", 0.99 - i / 50) for i in range(4))),
                Cluster(f"{url}list-tags", 13, tuple(Removed(f"{url}list-tags-{i}", 0.93 - i / 50) for i in range(3))),
            ),
        ),
        scores=SCORES,
        tuned=(
            Tuned("sft", "tuned on conversations (`instruct/0123`)", [BeforeAfter("loss", 5.25, 4.5)]),
            Tuned(
                "dpo",
                "aligned with preferences <b>",
                [BeforeAfter("preference.accuracy", 0.5, 0.96875, "0.891 to 1", 64), BeforeAfter("length.cut", 0.25, 0.125)],
            ),
        ),
        training=Training(
            [
                {"step": int(at), "train_loss": float(value), "valid_loss": float(value) + 0.11 if at % 60 == 0 else None}
                for at, value in zip(steps, train, strict=True)
            ]
        ),
        evaluation=(
            Evaluation("perplexity", 11.83, baseline=412.6, baseline_name="unigram"),
            Evaluation("bits per byte", 1.024, baseline=2.41, baseline_name="unigram"),
            Evaluation("next-token accuracy", 0.447, baseline=0.052, baseline_name="most frequent token", better="higher"),
        ),
        generations=(
            Generation(
                "The operation returns",
                " a list of the resources that match the specified filters.",
                "temperature 0.8, top-k 50, seed 1",
            ),
            Generation("To delete a bucket", ", you must first delete all objects in it.", "greedy"),
        ),
        costs=(
            StepCost("crawl", 61.2, 0.41),
            StepCost("extract", 22.9, 0.2),
            StepCost("filter", 3.4, 0.03),
            StepCost("dedup", 9.8, 0.08),
            StepCost("tokenise", 8.1, None, "loaded"),
            StepCost("pretrain", 312.5, 2.31),
        ),
        audit=Audit(
            (
                Disparity("identity", "en/religion_muslim", "gopher_hash_per_word", 164, 157, 636, 66, 9.23, 7.31, 11.65, True),
                Disparity("domain", "127.0.0.3", "fineweb_char_dup_share", 812, 96, 5_576, 602, 1.09, 0.89, 1.33, False),
            ),
            {"identity": 320, "domain": 240},
            {"identity": 1, "domain": 0},
            1.25,
            0.01,
            0.95,
        ),
        shares=(Share("source", "web", 2_000, 500, 0.8, 0.5), Share("source", "books", 500, 500, 0.2, 0.5)),
        copies=(Copies("swap", 300, 212, 1_904), Copies("noise", 150, 150, 7_012)),
        contamination=(Contamination("gsm8k", 1_319, 1_318, 12, 9),),
        tokenisation=Tokenisation(
            "A WordPiece tokeniser of 8,192 tokens.",
            (
                TokenGroup("all", "all", 3_187, 1_200_345, 1.31, 1.29, 1.33, 4.02, 0.0004, 0.97, False),
                TokenGroup("language", "en", 3_170, 1_200_000, 1.3, 1.28, 1.32, 4.1, 0.0, 0.97, False),
                TokenGroup("language", "mn", 17, 345, 3.25, None, None, 1.9, 0.25, 0.0002, True),
            ),
            {"source": 12},
            ("capitals", "accents"),
        ),
        validation=Validation(
            "published",
            "warning",
            (
                ValidationRow(
                    "expect_column_values_to_match_regex",
                    "doc_id",
                    "passed",
                    "critical",
                    "100 %",
                    "matching '^[0-9a-f]{32}$'",
                    0.0,
                ),
                ValidationRow(
                    "expect_column_value_lengths_to_be_between",
                    "text",
                    "failed",
                    "warning",
                    "93.11 %",
                    "at least 100, for 95 % of values",
                    6.89,
                ),
                ValidationRow(
                    "expect_column_values_to_be_between", "removal_rate_dedup", "not evaluated", "warning", "–", "at most 0.8"
                ),
            ),
        ),
    )


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(realistic())


def assert_loads_nothing(html: str) -> None:
    """No element or style of the page fetches anything: not a script, sheet, picture, font or frame."""
    for tag, attrs in Page(html).elements:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}, tag
        for name in ("src", "srcset", "href", "xlink:href", "data", "poster", "background"):
            value = attrs.get(name) or ""
            assert not value or value.startswith("#") or (tag == "a" and name == "href"), f"<{tag} {name}={value!r}>"
    assert not re.search(r"@import|url\((?!#)", html)


def test_the_page_loads_nothing(html: str) -> None:
    assert_loads_nothing(html)


def test_every_element_is_closed_and_every_id_is_used_once(html: str) -> None:
    page = Page(html)
    assert page.open == []
    ids = page.ids()
    assert len(ids) == len(set(ids))
    targets = [str(attrs["href"])[1:] for tag, attrs in page.elements if tag == "a" and str(attrs["href"]).startswith("#")]
    assert targets and set(targets) <= set(ids)


def test_figures_and_tables_say_what_they_are(html: str) -> None:
    page = Page(html)
    figures = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert len(figures) == 13
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in figures)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == tags.count("table") == 21
    headings = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(headings))


def test_the_funnel_shows_each_rule_with_its_share_of_what_the_step_was_given(html: str) -> None:
    text = Page(html).text
    assert "gopher_num_words 1,702 26.6 %" in text
    assert "dedup 3,902 3,187 715 18.3 %" in text
    # the most frequent rule first
    assert text.index("near duplicate") < text.index("exact duplicate")


def test_the_audit_shows_its_worst_rows_and_what_they_do_not_show(html: str) -> None:
    text = Page(html).text
    assert (
        "identity 320 (1), domain 240 (0)." in text
        and "more than 1.25 times as often, at a rate higher by at least 1 in a hundred" in text
    )
    assert "157 of 164 95.7 % 10.4 % 9.23 (7.31–11.65) flagged" in text and "1.09 (0.89–1.33) not flagged" in text
    assert "are not written by it" in text and "too small to show one" in text
    at_all = replace(realistic().audit, by_length=False)  # type: ignore[type-var]
    assert "beside other documents of like length; filled" in Page(html).text
    told = Page(render_report(ReportFacts("x", audit=at_all))).text
    assert "beside other documents; filled" in told and "length" not in told
    quiet = replace(realistic().audit, worst=(), flagged={"identity": 0, "domain": 0})  # type: ignore[type-var]
    assert "No rule drops any group" in Page(render_report(ReportFacts("x", audit=quiet))).text


def test_sampling_shows_shares_before_and_after_and_copies_by_kind(html: str) -> None:
    text = Page(html).text
    assert "web source 2,000 80.0 % 500 50.0 %" in text and "swap 300 212 1,904" in text


def test_contamination_shows_each_evaluation_set_with_what_was_found(html: str) -> None:
    assert "gsm8k 1,319 1,318 12 9" in Page(html).text


def test_duplicates_are_shown_by_level_crawl_and_pair_beside_the_curve_with_its_threshold(html: str) -> None:
    text = Page(html).text
    assert "copies 204" in text and "near duplicates, verified 511" in text
    assert "crawl 1 400 0" in text and "crawl 2 300 15" in text
    assert "from the threshold 0.8 on" in text and "full ones held back 3.4 % of the pairs" in text
    assert "2 to 7" in text and "1,000 to 9,999" in text and "10,000 and more" not in text
    assert "Similarity 0.812" in text and "objects that were signed" in text
    bare = Page(render_report(ReportFacts("x", duplicates=Duplicates("Nothing was compared.")))).text
    assert "Nothing was compared." in bare and "threshold" not in bare and "Stays in crawl" not in bare


def test_every_drop_is_shown_with_value_and_threshold_and_every_rule_with_its_count_and_meaning(html: str) -> None:
    text = Page(html).text
    assert text.count("/put-") == 5
    assert "measured 12 , threshold 50" in text
    assert "gopher_num_words · filter · 1,702 dropped, 26.6 % num_words below 50" in text
    assert "no text · extract · 21 dropped" in text
    assert "(no text)" in text


def test_what_the_web_wrote_is_escaped() -> None:
    hostile = "<script>alert(1)</script><img src=http://x>"
    facts = replace(
        realistic(),
        run_name=hostile,
        drops=(Drop("filter", hostile, hostile, hostile),),
        languages={hostile: 3},
        generations=(Generation(hostile, hostile),),
    )
    page = render_report(facts)
    assert_loads_nothing(page)
    assert Page(page).text.count("<script>alert(1)</script>") >= 5


def test_links_are_anchors_and_letters(html: str) -> None:
    page = Page(html)
    for link in realistic().links:
        assert ("a", {"href": link.url, "rel": "noreferrer"}) in page.elements
        assert link.url in page.text


def test_a_classifier_is_shown_with_intervals_and_with_what_it_does_not_show(html: str) -> None:
    text = Page(html).text
    assert "hate 277 0.494 (0.386–0.602) 0.141 (0.105–0.186) 0.219" in text
    assert "none 0 – – –" in text and "en/age_old (3)" in text
    assert "What this does not show. It has learned the judgement" in text
    assert "share of positives" in text and text.count("as fastText gives it") == 1  # the other one has no reliability


def test_what_later_steps_changed_is_told_before_and_after(html: str) -> None:
    text = Page(html).text
    assert "sft tuned on conversations (`instruct/0123`) loss 5.25 4.5 – –" in text
    assert "preference.accuracy 0.5 0.9688 0.891 to 1 64" in text and "length.cut 0.25 0.125" in text


def test_energy_is_called_estimated_and_summed_over_what_is_known(html: str) -> None:
    text = Page(html).text
    assert "Wh, estimated" in text
    assert "tokenise 8.1 s – loaded" in text
    assert "all 6 min 58 s 3.03" in text


@pytest.mark.parametrize("name", [item.name for item in fields(ReportFacts) if item.name != "run_name"])
def test_every_part_stands_alone_and_the_others_may_be_absent(name: str) -> None:
    page = Page(render_report(replace(ReportFacts("x"), **{name: getattr(realistic(), name)})))
    assert page.open == []
    sections = {str(attrs["id"]) for tag, attrs in page.elements if tag == "section"}
    assert sections == ({SECTIONS[name]} if name in SECTIONS else set())
    assert len(page.text) > len(Page(render_report(ReportFacts("x"))).text)


def test_a_run_that_tells_only_its_name_still_has_a_page() -> None:
    page = Page(render_report(ReportFacts("quiet")))
    assert page.open == [] and "quiet" in page.text
    assert not [tag for tag, _ in page.elements if tag in {"section", "table", "svg"}]


def test_an_empty_corpus_has_a_page() -> None:
    facts = ReportFacts("empty", funnel=(StepCount("crawl", 0, 0),), text_chars=Histogram([1, 2], [0]), clusters=Clusters({}))
    text = Page(render_report(facts)).text
    assert "crawl 0 0 0 –" in text and "No document had a duplicate." in text


def test_equal_facts_give_equal_pages(html: str) -> None:
    assert render_report(realistic()) == html


def test_the_page_is_small_enough_to_send(html: str) -> None:
    assert len(html.encode()) < 200_000


def test_what_the_tokeniser_loses_and_which_groups_are_too_small_is_told() -> None:
    page = Page(render_report(realistic()))
    assert "What does not come back as it was: capitals, accents." in page.text
    assert "en language 3,170 1,200,000 1.3 (1.28–1.32) 4.1 0.0 % 97.0 %" in page.text
    assert "mn language too small to tell 17 345 3.25 1.9 25.0 % < 0.1 %" in page.text
    assert "12 more source groups, with less text, are in the version’s fertility.json" in page.text
    whole = Tokenisation("A byte-level BPE.", (TokenGroup("all", "all", 0, 0, None, None, None, None, None, 0.0, True),))
    alone = render_report(ReportFacts("run", tokenisation=whole))
    assert "Every string it was tried with came back as it was." in alone and "<figure>" not in alone


def test_scores_are_shown_by_dimension_beside_the_champion_and_the_other_versions(html: str) -> None:
    text = Page(html).text
    assert "heldout.perplexity 31.5 29 to 34.25 per token 812 lower is better" in text
    assert "bias not measured" in text and "efficiency.tokens_per_s 4,021" in text
    assert "heldout.bits_per_byte.source.<b> 1.5 1.25 to 1.75 bits per byte 12 too small to tell" in text
    assert "The gate would not promote this model. heldout.bits_per_byte: worse" in text
    assert "Not decided: tasks.pack_cloze.accuracy: too small to tell (3 items in common)" in text
    assert "heldout.bits_per_byte 1.5 1.25 0.25 0.125 to 0.375 812 worse" in text
    assert "<b>1.25</b>" in html and "<b>1.5</b>" not in html and "1 champion" in text
    assert "Reliability of next-token predictions" in html
