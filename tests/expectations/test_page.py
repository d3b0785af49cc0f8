from __future__ import annotations

import re
from html.parser import HTMLParser

from expectations.page import Section, as_json, for_report, outcome, render, table
from expectations.suites import Expectation, Suite
from expectations.verdict import CheckResult, Sample
from infra.report import ReportFacts, render_report

SUITE = Suite(
    name="published",
    schema="published",
    meta={"about": "What a dataset about to be published must look like."},
    expectations=(Expectation(type="expect_column_values_to_not_be_null", kwargs={"column": "text"}),),
)
PASSED = CheckResult(
    "expect_column_values_to_not_be_null", "doc_id", "critical", "shard", True, True, 1.0, "for 100 % of values", 0, 0.0
)
WARNED = CheckResult(
    "expect_column_value_lengths_to_be_between",
    "text",
    "warning",
    "shard",
    False,
    True,
    0.9311,
    "at least 100, for 95 % of values",
    220,
    6.89,
    (Sample("0a" * 16, "Deletes the <b>bucket</b>."), Sample(None, "")),
    note="Texts below 100 characters mean that rewrite took most of them.",
)
STOPPED = CheckResult(
    "expect_column_values_to_be_between", "duplicate_doc_ids", "critical", "dataset", False, True, 12, "at most 0"
)
UNKNOWN = CheckResult(
    "expect_column_values_to_be_between",
    "removal_rate_dedup",
    "warning",
    "dataset",
    False,
    False,
    None,
    "at most 0.8",
    error="the profile has no column 'removal_rate_dedup'",
)
NOTHING = CheckResult(
    "expect_column_values_to_be_between",
    "drift_rows_ratio",
    "warning",
    "dataset",
    True,
    True,
    None,
    "at least 0.5",
    error="no earlier version",
    note="A crawl that lost a site shows here.",
    applicable=False,
)
FACTS = {"dataset": "3a" * 16, "rows": "3,187", "shards": "8"}


def section(results: list[CheckResult], title: str = "corpus") -> Section:
    return Section(title, SUITE, results, {"num_rows": 3})


def words(html: str) -> str:
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(html[html.index("<body>") :])
    return " ".join(" ".join(found).split())


def test_the_page_shows_the_verdict_the_counts_and_the_facts() -> None:
    text = words(render(section([PASSED, WARNED, UNKNOWN]), facts=FACTS))
    assert text.startswith("Gristmill validation published warning")
    for said in ("passed 1", "failed 1", "not evaluated 1", "3,187", "3a" * 16, "220 (6.9 %)", "93.11 %"):
        assert said in text


def test_failures_come_first_with_their_samples_and_notes() -> None:
    text = words(render(section([PASSED, WARNED, UNKNOWN, STOPPED]), facts={}))
    places = [
        text.index(word)
        for word in (
            "duplicate_doc_ids",
            "Deletes the <b>bucket</b>.",
            "removal_rate_dedup",
            "doc_id expect_column_values_to_not",
        )
    ]
    assert places == sorted(places)
    assert "so the flow stopped here" in text
    assert "Texts below 100 characters mean" in text and "no doc_id (empty)" in text


def test_what_could_not_be_evaluated_is_not_called_failed() -> None:
    text = words(render(section([UNKNOWN]), facts={}))
    assert outcome(UNKNOWN) == "not evaluated" and outcome(STOPPED) == "failed" and outcome(PASSED) == "passed"
    assert "Could not be evaluated: the profile has no column" in text and "failed 0" in text


def test_the_page_loads_nothing_and_escapes_what_documents_say() -> None:
    page = render(section([WARNED]), facts={"<script>": "<img src=x>"})
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\((?!#)|<[^>]*\b(src|href)=", page)
    assert "&lt;b&gt;bucket" in page


def test_one_bad_value_among_millions_is_not_shown_as_all_good() -> None:
    nearly = CheckResult("e", "c", "warning", "shard", False, True, 0.9999999, "t", 1, 0.00001)
    text = words(render(section([nearly]), facts={}))
    assert "99.99 %" in text and "1 (< 0.1 %)" in text and "100 %" not in text


def test_the_run_report_shows_the_same_verdict_in_the_suites_order() -> None:
    validation = for_report(SUITE.name, [PASSED, WARNED, UNKNOWN])
    assert [row.outcome for row in validation.rows] == ["passed", "failed", "not evaluated"]
    assert validation.verdict == "warning"
    assert "93.11 %" in words(render_report(ReportFacts("run", validation=validation)))
    of_a_stage = for_report(SUITE.name, [PASSED], [("extract", [PASSED]), ("crawl", [WARNED])])
    assert of_a_stage.verdict == "warning"
    assert [row.expectation for row in of_a_stage.rows] == [PASSED.expectation, f"crawl: {WARNED.expectation}"]


def test_what_has_nothing_to_speak_of_is_neither_failed_nor_asked() -> None:
    assert outcome(NOTHING) == "not applicable"
    text = words(render(section([PASSED, NOTHING])))
    assert text.startswith("Gristmill validation published passed")
    assert "not applicable 1" in text and "no earlier version" in text and "A crawl that lost" not in text
    assert for_report(SUITE.name, [NOTHING]).rows[0].outcome == "not applicable"
    assert "not applicable" in words(render_report(ReportFacts("run", validation=for_report(SUITE.name, [NOTHING]))))


def test_the_versions_before_are_sections_whose_critical_failures_count() -> None:
    stages = [section([PASSED], "extract"), section([STOPPED], "dedup")]
    text = words(render(section([PASSED, WARNED]), stages, {}))
    assert text.startswith("Gristmill validation published failed")
    places = [text.index(said) for said in ("Expectations", "The versions it was made from", "extract passed", "dedup failed")]
    assert places == sorted(places)
    found = as_json(section([PASSED]), stages, {"dataset": "x"})
    assert found["verdict"] == "failed" and found["facts"] == {"dataset": "x", "num_rows": 3}
    assert [(stage["dataset"], len(stage["checks"])) for stage in found["stages"]] == [("extract", 1), ("dedup", 1)]


def test_the_table_has_a_row_per_result_with_failures_first_in_each_dataset() -> None:
    rows = table([section([PASSED, WARNED, UNKNOWN, NOTHING]), section([STOPPED], "dedup")])
    assert [(row["dataset"], row["outcome"]) for row in rows] == [
        ("corpus", "failed"),
        ("corpus", "not evaluated"),
        ("corpus", "passed"),
        ("corpus", "not applicable"),
        ("dedup", "failed"),
    ]
    assert (rows[0]["observed"], rows[0]["unexpected %"], rows[4]["observed"], rows[3]["observed"]) == (
        "93.11 %",
        "6.89",
        "12",
        "–",
    )
