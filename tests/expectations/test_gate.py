from __future__ import annotations

import itertools
import pickle
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expectations.counts import combine, summed
from expectations.gate import check_dataset, judged, load_suite, validate_shard
from expectations.numbers import DRIFT
from expectations.profile import profile
from expectations.schemas import CONVERSATIONS, OPTIONAL
from expectations.suites import Expectation, Suite
from expectations.verdict import MAX_SAMPLES, CheckResult, GateFailed, Verdict, judge, problems
from tasks.text.signals import SCORE_NAMES


def suite(*asked: dict[str, Any]) -> Suite:
    return Suite(name="test", schema="documents", expectations=tuple(Expectation(**one) for one in asked))


def ask(kind: str, column: str, scope: str = "shard", severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": {"column": column, **kwargs}, "scope": scope, "severity": severity}


def check(table: pa.Table, *asked: dict[str, Any]) -> list[CheckResult]:
    return combine([validate_shard(table, suite(*asked))], suite(*asked))


def documents(count: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + count)
    ids = [f"{number:032x}" for number in numbers]
    return pa.table(
        {
            "doc_id": ids,
            "content_id": ids,
            "source": ["crawl"] * count,
            "url": [f"http://127.0.0.{1 + n % 4}/{n}" for n in numbers],
            "host": [f"127.0.0.{1 + n % 4}" for n in numbers],
            "text": [f"Operation {n} returns the resources that match the filters. " * 8 for n in numbers],
            "text_digest": ids,
            "language": ["en"] * count,
        }
    )


LENGTHS = ask("column_value_lengths_to_be_between", "text", min_value=2, max_value=4, mostly=0.6)
PRESENT = ask("column_values_to_not_be_null", "text", mostly=0.7)
ABSENT = ask("column_values_to_be_null", "text", mostly=0.3)
RANGE = ask("column_values_to_be_between", "n", min_value=3, mostly=0.5)
NAMED = ask("column_values_to_be_in_set", "text", value_set=["a", "abc"], mostly=0.4)
PATTERN = ask("column_values_to_match_regex", "text", regex="^a", mostly=0.5)
PAIR = {
    "type": "expect_column_pair_values_to_be_equal",
    "kwargs": {"column_A": "n", "column_B": "m", "mostly": 0.5},
}
MANY = suite(LENGTHS, PRESENT, ABSENT, RANGE, NAMED, PATTERN, PAIR)
TABLE = pa.schema([("doc_id", pa.string()), ("text", pa.string()), ("n", pa.int64()), ("m", pa.int64())])
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from(["", "a", "ab", "abc", "bcdef"])),
        st.one_of(st.none(), st.integers(0, 6)),
        st.one_of(st.none(), st.integers(0, 6)),
    ),
    min_size=1,
    max_size=24,
)


def as_table(rows: list[tuple[Any, ...]]) -> pa.Table:
    records = [dict(zip(TABLE.names, (f"{i:02d}", *row), strict=True)) for i, row in enumerate(rows)]
    return pa.Table.from_pylist(records, TABLE)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.lists(st.integers(0, 24), max_size=3), st.randoms(use_true_random=False))
def test_any_cut_into_shards_in_any_order_gives_the_answer_of_the_whole_table(rows: Any, cuts: Any, random: Any) -> None:
    table = as_table(rows)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    shards = [table.slice(start, stop - start) for start, stop in itertools.pairwise(edges)]
    random.shuffle(shards)
    whole = combine([validate_shard(table, MANY)], MANY)
    parts = combine([validate_shard(shard, MANY) for shard in shards], MANY)
    for left, right in zip(whole, parts, strict=True):
        assert (left.success, left.observed, left.unexpected_count) == (right.success, right.observed, right.unexpected_count)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS)
def test_the_combined_answer_is_great_expectations_own(rows: Any) -> None:
    import great_expectations as gx

    table = as_table(rows)
    batches = gx.get_context(mode="ephemeral").data_sources.add_pandas("p").add_dataframe_asset("a")
    batch = batches.add_batch_definition_whole_dataframe("b").get_batch({"dataframe": table.to_pandas()})
    ours = combine([validate_shard(table, MANY)], MANY)
    for expectation, mine in zip(MANY.expectations, ours, strict=True):
        kind = gx.expectations.registry.get_expectation_impl(expectation.type)
        theirs = batch.validate(kind(**expectation.kwargs))
        assert mine.success == theirs.success
        assert mine.unexpected_count == theirs.result["unexpected_count"]
        if mine.unexpected_count:
            assert mine.unexpected_percent == pytest.approx(theirs.result["unexpected_percent"])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.integers(1, 24))
def test_the_pieces_of_a_shard_are_the_shard(rows: Any, size: int) -> None:
    table = as_table(rows)
    pieces = [validate_shard(table.slice(start, size), MANY) for start in range(0, len(rows), size)]
    assert summed(pieces, MANY).num_rows == len(rows)
    whole, parts = combine([validate_shard(table, MANY)], MANY), combine([summed(pieces, MANY)], MANY)
    for left, right in zip(whole, parts, strict=True):
        assert (left.observed, left.unexpected_count) == (right.observed, right.unexpected_count)
        assert [sample.doc_id for sample in left.samples] == [sample.doc_id for sample in right.samples]
    broken = summed([validate_shard(table, MANY), validate_shard(table.drop_columns(["text"]), MANY)], MANY)
    assert broken.checks[0].error == "the table has no column 'text'"


def test_mostly_is_applied_to_the_whole_and_not_to_each_shard() -> None:
    bad, good = pa.table({"text": ["x"] * 10}), pa.table({"text": ["long enough"] * 90})
    lengths = suite(ask("column_value_lengths_to_be_between", "text", min_value=5, mostly=0.9))
    results = [validate_shard(bad, lengths), validate_shard(good, lengths)]
    assert combine(results[:1], lengths)[0].success is False
    assert combine(results, lengths)[0].success is True
    stricter = suite(ask("column_value_lengths_to_be_between", "text", min_value=5, mostly=0.901))
    assert combine(results, stricter)[0].success is False


def test_failing_rows_are_shown_with_their_documents_and_at_most_five() -> None:
    table = documents(40)
    table = table.set_column(5, "text", pa.array([None if n % 4 == 0 else "x" * 500 for n in range(40)]))
    found = check(table, PRESENT, ask("column_value_lengths_to_be_between", "text", max_value=499))
    assert [sample.doc_id for sample in found[0].samples] == [f"{n:032x}" for n in (0, 4, 8, 12, 16)]
    assert {sample.value for sample in found[0].samples} == {"null"}
    assert len(found[1].samples) == MAX_SAMPLES and len(found[1].samples[0].value) == 160
    assert (found[1].unexpected_count, found[1].unexpected_percent) == (30, 100.0)


def test_a_hundred_thousand_failing_rows_are_counted_without_a_python_loop_over_them() -> None:
    many = pa.table({"doc_id": [f"{n:032x}" for n in range(100_000)], "text": ["x" * 20] * 100_000})
    assert check(many, ask("column_value_lengths_to_be_between", "text", max_value=3))[0].unexpected_count == 100_000


def test_what_cannot_be_evaluated_is_not_what_failed() -> None:
    table = documents(3)
    missing, wrong_type, failed, held = check(
        table,
        ask("column_values_to_not_be_null", "txt"),
        ask("column_values_to_be_between", "text", min_value=2),
        ask("column_values_to_be_in_set", "text", value_set=["nothing"]),
        ask("column_values_to_not_be_null", "text"),
    )
    assert (missing.evaluated, missing.success) == (False, False)
    assert missing.error == "the table has no column 'txt', did you mean 'text'? (in 1 of 1 shards)"
    assert not wrong_type.evaluated and "must either be None or of the same type" in str(wrong_type.error)
    assert (failed.evaluated, failed.success, failed.error) == (True, False, None)
    assert (held.evaluated, held.success) == (True, True)


def test_one_shard_that_cannot_be_judged_is_not_outvoted_by_the_others() -> None:
    asked = suite(ask("column_values_to_not_be_null", "text", mostly=0.1))
    results = [validate_shard(table, asked) for table in (documents(5), documents(5).drop_columns(["text"]), documents(5))]
    found = combine(results, asked)[0]
    assert not found.evaluated and "1 of 3 shards" in str(found.error)


def test_no_shard_at_all_is_not_a_pass() -> None:
    found = combine([], suite(PRESENT))[0]
    assert (found.evaluated, found.success, found.error) == (False, False, "no shard was judged")


def test_an_empty_shard_adds_nothing() -> None:
    asked = suite(PRESENT, LENGTHS)
    rows = validate_shard(documents(4), asked)
    empty = validate_shard(documents(4).slice(0, 0), asked)
    assert empty.num_rows == 0 and len(empty.checks) == 2
    assert combine([rows, empty], asked) == combine([rows], asked)


def test_dataset_numbers_are_judged_and_missing_or_empty_ones_cannot_be() -> None:
    asked = suite(
        ask("column_values_to_be_between", "num_rows", "dataset", min_value=3, max_value=3),
        ask("column_values_to_be_between", "duplicate_doc_ids", "dataset", max_value=0),
        ask("column_values_to_be_between", "removal_rat", "dataset", max_value=1),
        ask("column_values_to_be_between", "text_chars_p50", "dataset", min_value=1),
    )
    rows = pa.table({"doc_id": ["a", "a", "b"], "text": pa.array([None] * 3, pa.string())})
    found = check_dataset(profile(pads.dataset(rows), {"removal_rate": 0.1}), asked)
    assert [(one.evaluated, one.success, one.observed) for one in found] == [
        (True, True, 3),
        (True, False, 1),
        (False, False, None),
        (False, False, None),
    ]
    assert found[2].error == "the profile has no column 'removal_rat', did you mean 'removal_rate'?"
    assert "no row to measure" in str(found[3].error)


def test_numbers_that_the_dataset_cannot_have_are_not_applicable_and_mistaken_names_are_not_among_them() -> None:
    asked = suite(
        ask("column_values_to_be_between", "drift_rows_ratio", "dataset", min_value=0.5),
        ask("column_values_to_be_between", "drift_rwos_ratio", "dataset", min_value=0.5),
    )
    without, mistaken = check_dataset({"num_rows": 3}, asked, {"drift_rows_ratio": "no earlier version"})
    assert (without.applicable, without.success, without.error) == (False, True, "no earlier version")
    assert (mistaken.applicable, mistaken.evaluated) == (True, False)
    assert judge([without]) is Verdict.PASSED and not problems([("corpus", "test", [without])])
    measured, _ = check_dataset({"num_rows": 3, "drift_rows_ratio": 0.1}, asked, {"drift_rows_ratio": "no earlier version"})
    assert (measured.applicable, measured.success, measured.observed) == (True, False, 0.1)


def test_results_and_failures_cross_processes() -> None:
    asked = suite(PRESENT)
    result = validate_shard(documents(3).set_column(5, "text", pa.array([None, "a", "b"])), asked)
    assert pickle.loads(pickle.dumps(result)) == result
    failed = GateFailed(problems([("corpus", "test", combine([result], suite({**PRESENT, "kwargs": {"column": "text"}})))]))
    assert str(failed) and str(pickle.loads(pickle.dumps(failed))) == str(failed)


@pytest.mark.parametrize(
    ("critical", "warning", "verdict"),
    [(True, True, Verdict.PASSED), (True, False, Verdict.WARNING), (False, True, Verdict.FAILED), (False, False, Verdict.FAILED)],
)
def test_critical_stops_and_warning_is_recorded(critical: bool, warning: bool, verdict: Verdict) -> None:
    results = check(
        documents(4),
        ask("column_values_to_match_regex", "doc_id", regex="^0" if critical else "^z"),
        ask("column_values_to_match_regex", "text", severity="warning", regex="^Op" if warning else "^z"),
    )
    assert judge(results) is verdict
    assert bool(problems([("corpus", "test", results)])) is (verdict is Verdict.FAILED)


def test_a_stopped_flow_is_told_suite_expectation_column_value_and_what_to_do() -> None:
    asked = ask("column_values_to_match_regex", "doc_id", regex="^1") | {"note": "Ids begin with one."}
    found = check(documents(4), asked, ask("column_values_to_not_be_null", "nowhere"))
    said = problems([("redact", "published", found), ("dedup", "clustered_documents", check(documents(4), PRESENT))])
    assert "dedup" not in said
    for words in (
        "suite 'published': 2 of 2 expectations stop redact",
        "expect_column_values_to_match_regex on 'doc_id': 4 values (100 %) are not as asked (matching '^1', for 100 % of values)",
        f"for example '{0:032x}' in document {0:032x}. Ids begin with one.",
        "expect_column_values_to_not_be_null on 'nowhere': could not be evaluated: the table has no column 'nowhere'",
        "Nothing was published.",
    ):
        assert words in said


def test_good_documents_pass_the_published_suite_and_each_fault_is_caught() -> None:
    published = load_suite("published")
    facts = {"removal_rate": 0.4, "removal_rate_dedup": 0.2}
    no_drift = dict.fromkeys(DRIFT, "no earlier version")

    def judged(*shards: pa.Table) -> dict[str, bool]:
        found = combine([validate_shard(shard, published) for shard in shards], published)
        found += check_dataset(
            profile(pads.dataset(pa.concat_tables(shards)), facts, asked=published.numbers), published, no_drift
        )
        assert len(found) == len(published.expectations)
        return {f"{one.expectation}:{one.column}:{one.severity}": one.success for one in found if not one.success}

    good = documents(30)
    assert judged(good, documents(30, first=30)) == {}
    assert set(judged(good, documents(30, first=29))) == {
        "expect_column_values_to_be_between:duplicate_doc_ids:critical",
        "expect_column_values_to_be_between:duplicate_texts:warning",
    }
    upper = good.set_column(0, "doc_id", pa.array(f"{n:031X}Z" for n in range(30)))
    assert set(judged(upper)) == {"expect_column_values_to_match_regex:doc_id:critical"}
    nul = good.set_column(5, "text", pa.array([f"{t}\0" for t in good["text"].to_pylist()]))
    assert set(judged(nul)) == {"expect_column_values_to_not_match_regex:text:critical"}
    other = good.set_column(7, "language", pa.array(["fr", None] + ["en"] * 28))
    assert set(judged(other)) == {
        "expect_column_values_to_not_be_null:language:critical",
        "expect_column_values_to_be_in_set:language:warning",
    }
    french = good.set_column(7, "language", pa.array(["fr"] * 10 + ["en"] * 20))
    assert "expect_column_values_to_be_between:language_share_en:warning" in judged(french)


def test_threads_of_one_worker_do_not_judge_each_others_rows() -> None:
    asked = suite(ask("column_values_to_be_in_set", "text", value_set=["good"]))
    tables = [pa.table({"text": ["bad"] * n + ["good"] * (9 - n)}) for n in range(9)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda table: validate_shard(table, asked), tables))
    assert [result.checks[0].unexpected_count for result in results] == list(range(9))


def test_judging_looks_nothing_up_and_writes_no_progress(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"network: {args}")

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    capfd.readouterr()
    check(documents(50), PRESENT, LENGTHS)
    sys.stderr.flush()
    assert capfd.readouterr() == ("", "")


def test_a_column_that_a_stage_may_lack_is_judged_where_it_is_and_not_applicable_where_it_is_not() -> None:
    assert set(OPTIONAL["signals"]) == set(SCORE_NAMES)
    table = pa.table({"doc_id": ["0" * 32] * 2, "quality_score": [0.5, 1.5], "toxicity_score": [0.0, 1.0]})
    found = judged("scored", pads.dataset(table), "signals", lambda asked, names: [validate_shard(table.select(names), asked)])
    by_column = {one.column: one for one in found.results}
    assert len(found.results) == len(load_suite("signals").expectations)
    assert [by_column[name].unexpected_count for name in ("quality_score", "toxicity_score")] == [1, 0]
    assert not by_column["quality_score"].success and by_column["toxicity_score"].success
    absent = by_column["quality_percentile"]
    assert not absent.applicable and "no classifier for it has scored these documents" in (absent.error or "")
    assert not by_column["num_words"].evaluated  # a column that every table of signals has is missed


def test_conversations_without_an_origin_a_side_or_turns_are_not_taken() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"source": "s", "origin": "rows.jsonl:1", "task": "alpaca", "split": "train", "messages": turns}
    good = [{**row, "row_id": f"{number:032x}"} for number in range(3)]

    def unexpected(**changes: Any) -> set[str]:
        table = pa.Table.from_pylist([*good, {**good[0], **changes}], schema=CONVERSATIONS)
        found = combine([validate_shard(table, load_suite("conversations"))], load_suite("conversations"))
        assert all(one.evaluated for one in found)
        return {one.column for one in found if not one.success}

    assert unexpected() == set()
    assert unexpected(origin=None, split="dev") == {"origin", "split"}
    assert unexpected(messages=None, row_id="7") == {"messages", "row_id"}
