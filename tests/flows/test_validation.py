"""Suites at the command line and in the `validate` step: verdicts, exit codes, pages, stages, drift, and what a second run asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expectations.verdict import GateFailed
from flows.single import find_step
from infra import dataset, ledger, storage
from infra.dataset import Outcome, ShardSet
from infra.settings import settings
from tasks.validate import ValidateConfig, earlier

from . import english
from .driver import Ended, commands

NUM_ROWS = 30


def rows(first: int = 0, count: int = NUM_ROWS, **changed: Any) -> pa.Table:
    """Documents that the suite `published` has nothing against, but for what is changed."""
    numbers = range(first, first + count)
    ids = [f"{number:032x}" for number in numbers]
    columns = {
        "doc_id": ids,
        "content_id": ids,
        "source": ["web"] * count,
        "url": [f"https://h{number % 4}.example/{number}" for number in numbers],
        "host": [f"h{number % 4}.example" for number in numbers],
        "text": [english.text(number) for number in numbers],
        "text_digest": ids,
        "language": ["en"] * count,
        "language_score": pa.array([0.9] * count, pa.float32()),
        "cluster": ids,
    }
    return pa.table({**columns, **changed})


class Said:
    """All commands of this module, run once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, table in {
            "good": rows(),
            "short": rows(text=["A short text, of which there are many here."] * NUM_ROWS),
            "broken": rows(doc_id=[*(f"{n:032x}" for n in range(NUM_ROWS - 1)), "no id"]),
            "other": pa.table({"name": ["a", "b"], "size": [1, 2]}),
            "none": rows().slice(0, 0),
        }.items():
            (root / name / "inside").mkdir(parents=True)
            half = table.num_rows // 2
            pq.write_table(table.slice(0, half), root / name / "a.parquet")
            pq.write_table(table.slice(half), root / name / "inside" / "b.parquet")
        (root / "damaged.parquet").write_bytes((root / "good" / "a.parquet").read_bytes()[:-100])
        (root / "wrong.json").write_text(
            '{"name": "wrong", "schema": "any", "expectations": [{"type": "expect_nothing", "kwargs": {}}]}'
        )
        words = {
            name: ["validate", str(root / name), "--suite", "published", "--output", str(root / "out" / name)]
            for name in ("good", "short", "broken", "other", "none", "nowhere", "damaged.parquet")
        }
        words |= {
            "no suite": ["validate", str(root / "good"), "--suite", "publishd"],
            "bad suite": ["validate", str(root / "good"), "--suite", str(root / "wrong.json")],
            "propose": ["suite", "propose", str(root / "other"), "--name", "mine", "--output", str(root / "mine.json")],
            "print": ["suite", "propose", str(root / "other" / "a.parquet")],
            "again": ["suite", "propose", str(root / "other"), "--output", str(root / "mine.json")],
            "drafted": ["validate", str(root / "other"), "--suite", str(root / "mine.json"), "-o", str(root / "out" / "drafted")],
            "list": ["suite", "list"],
            "check": ["suite", "check", "published"],
            "check bad": ["suite", "check", str(root / "wrong.json")],
        }
        self.ended: dict[str, Ended] = dict(zip(words, commands(root / "home", *words.values()), strict=True))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    return Said(tmp_path_factory.mktemp("validation"))


def test_the_exit_code_tells_passed_warning_failed_and_not_judged_apart(said: Said) -> None:
    codes = {name: ended.code for name, ended in said.ended.items()}
    assert codes == {
        **{"good": 0, "short": 3, "broken": 1, "other": 1, "none": 2, "nowhere": 2, "damaged.parquet": 2},
        **{
            "no suite": 2,
            "bad suite": 2,
            "propose": 0,
            "print": 0,
            "again": 2,
            "drafted": 0,
            "list": 0,
            "check": 0,
            "check bad": 2,
        },
    }
    assert not any("Traceback" in ended.output for ended in said.ended.values())


def test_the_table_says_what_was_seen_and_the_lines_below_what_is_wrong(said: Said) -> None:
    broken = said.ended["broken"].output
    assert "failed: 1 failed, 17 passed, 8 not applicable" in broken
    assert "expect_column_values_to_match_regex on 'doc_id': 1 values (3.33 %) are not as asked" in broken
    assert "for example 'no id' in document no id" in broken
    assert "could not be evaluated: the table has no column 'doc_id'" in said.ended["other"].output
    assert "warning: " in said.ended["short"].output and "passed: 18 passed, 8 not applicable" in said.ended["good"].output


def test_the_page_and_the_results_are_written_whatever_the_verdict(said: Said) -> None:
    for name, verdict in (("good", "passed"), ("short", "warning"), ("broken", "failed"), ("other", "failed")):
        found = json.loads((said.root / "out" / name / "validation.json").read_text())
        assert found["verdict"] == verdict and len(found["checks"]) == 26
        page = (said.root / "out" / name / "validation.html").read_text()
        assert f"<title>Validation {verdict}" in page and "nothing was published" not in page
    assert "no id" in (said.root / "out" / "broken" / "validation.html").read_text()


def test_errors_name_the_file_and_what_to_do(said: Said) -> None:
    for name, words in {
        "none": "has no rows to judge",
        "nowhere": "no such file or folder",
        "damaged.parquet": "damaged.parquet: ",
        "no suite": "publishd: no such suite, did you mean 'published'?",
        "bad suite": "expectations[0].type: no expectation 'expect_nothing'",
        "again": "mine.json: is there already",
        "check bad": "expectations[0].type: no expectation 'expect_nothing'",
    }.items():
        assert words in said.ended[name].output, name


def test_a_draft_is_a_suite_that_its_data_passes(said: Said) -> None:
    drafted = json.loads((said.root / "mine.json").read_text())
    assert drafted["name"] == "mine" and {one["kwargs"]["column"] for one in drafted["expectations"]} >= {
        "name",
        "size",
        "num_rows",
    }
    assert json.loads(said.ended["print"].output)["name"] == "a"
    assert "passed: " in said.ended["drafted"].output
    assert "published" in said.ended["list"].output and "good, 26 expectations" in said.ended["check"].output


def version(step: str, schema: str, *tables: pa.Table, inputs: dict[str, Any] | None = None, total: int = 0) -> ShardSet:
    """A complete version as a step leaves it."""
    recipe = {"step": step, "inputs": inputs or {}, "tables": [table.to_pydict() for table in tables]}
    recipe["tables"] = str(recipe["tables"])
    folder = storage.join(settings().store, step, dataset.version_of(recipe))
    receipts = [dataset.write_shard(folder, index, Outcome(table)) for index, table in enumerate(tables)]
    kept = sum(table.num_rows for table in tables)
    counts = dataset.Counts(total=max(total, kept), kept=kept)
    dataset.seal(folder, step=step, schema_name=schema, recipe=recipe, receipts=receipts, files=[], facts={}, counts=counts)
    return dataset.open_version(folder)


def judged(
    documents: ShardSet, history: list[ShardSet], previous: list[ShardSet], **config: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    made = find_step("validate")(documents, history, previous, config=ValidateConfig(**config))
    results: dict[str, Any] = storage.read_json(made.file("validation.json"))
    return made.manifest().facts, results


def name_of(one: ShardSet) -> str:
    return f"{one.step}/{one.version}@{one.digest}"


def test_a_stage_is_judged_by_the_suite_of_its_schema_and_a_critical_failure_there_stops_the_corpus(home: Path) -> None:
    corpus = version("redact", "clustered_documents", rows(0, 20), rows(20, 10))
    extracted = version("extract", "documents", rows().drop_columns(["language", "language_score", "cluster"]))
    empty = version("ingest", "documents")
    facts, results = judged(corpus, [extracted, empty], [])
    assert [(stage["dataset"], stage["suite"]) for stage in results["stages"]] == [("extract", "documents")]
    assert (facts["verdict"], facts["suite"], facts["num_failed"], facts["num_rows"]) == ("passed", "published", 0, NUM_ROWS)
    broken = version("dedup", "clustered_documents", rows(cluster=["none"] * NUM_ROWS))
    with pytest.raises(
        GateFailed, match=r"suite 'clustered_documents': 1 of 15 expectations stop dedup(.|\n)*The page: "
    ) as caught:
        judged(corpus, [extracted, broken], [])
    page = Path(str(caught.value).rpartition("The page: ")[2]).read_text()
    assert "dedup" in page and "Validation failed" in page
    facts, results = judged(corpus, [extracted, broken], [], stages=False)
    assert facts["verdict"] == "passed" and results["stages"] == []


def test_a_stage_that_was_given_rows_and_kept_none_is_judged(home: Path) -> None:
    corpus = version("redact", "clustered_documents", rows())
    with pytest.raises(GateFailed, match=r"stop extract\n.* on 'num_rows': observed 0"):
        judged(corpus, [version("extract", "documents", rows().slice(0, 0), total=50)], [])


def test_drift_is_measured_where_there_is_an_earlier_version_and_not_applicable_where_there_is_none(home: Path) -> None:
    corpus = version("redact", "clustered_documents", rows())
    facts, results = judged(corpus, [], [])
    drifts = [one for one in results["checks"] if one["column"].startswith("drift_")]
    assert drifts and not any(one["applicable"] for one in drifts) and facts["num_not_applicable"] == len(drifts) + 1
    before = version("publish", "published", rows(10, 60))
    facts, results = judged(corpus, [], [before])
    assert (facts["drift_rows_ratio"], facts["drift_doc_ids_kept"], facts["drift_doc_ids_added"]) == (0.5, 20 / 60, 10 / 30)
    assert facts["verdict"] == "warning" and facts["num_not_applicable"] == 1  # the rate of a step that was not there
    assert results["facts"]["compared with"] == f"publish {before.version}"
    assert {one["column"] for one in results["checks"] if not one["success"]} == {"drift_doc_ids_gone"}
    # copies that augment had made beside the earlier ones are no documents that went
    copied = pa.concat_tables(
        [
            rows(10, 60).append_column("augmented", pa.nulls(60, pa.string())),
            rows(200, 40).append_column("augmented", pa.array(["swap"] * 40)),
        ]
    )
    again, _ = judged(corpus, [], [version("publish", "published", copied)])
    assert {name: again[name] for name in again if name.startswith("drift_")} == {
        name: facts[name] for name in facts if name.startswith("drift_")
    }


def test_an_edited_suite_of_a_stage_makes_another_validation(home: Path) -> None:
    recipe = find_step("validate").recipe([version("redact", "clustered_documents", rows()), [], []], ValidateConfig())
    assert {"published", "documents", "captures", "rewritten"} <= set(recipe["files"])
    alone = find_step("validate").recipe([version("redact", "clustered_documents", rows()), [], []], ValidateConfig(stages=False))
    assert set(alone["files"]) == {"published"}


def test_the_earlier_version_is_the_newest_before_these_documents_were_first_published(home: Path) -> None:
    first, second, third = (version("redact", "clustered_documents", rows(start)) for start in (0, 1, 2))

    def publish(documents: ShardSet, title: str) -> ShardSet:
        inputs = {"documents": f"split/{title}@x", "history": ["crawl/a@b", name_of(documents)]}
        made = version("publish", "published", rows().select(["doc_id"]), inputs={**inputs, "title": title})
        ledger.announce("mine", made)
        return made

    assert earlier("mine", first) == []
    one = publish(first, "one")
    assert earlier("mine", first) == [] and earlier("mine", second) == [one]
    two = publish(second, "two")
    publish(first, "once more")
    assert earlier("mine", first) == []
    assert earlier("mine", second) == [one], "the second run with nothing changed is compared with the same version"
    assert [found.version for found in earlier("mine", third)] != [two.version]
    assert earlier("other", third) == []


def test_a_published_version_that_was_removed_is_not_compared_with(home: Path) -> None:
    first, second = (version("redact", "clustered_documents", rows(start)) for start in (0, 1))
    one = version(
        "publish", "published", rows().select(["doc_id"]), inputs={"documents": "split/a@b", "history": [name_of(first)]}
    )
    ledger.announce("mine", one)
    assert earlier("mine", second) == [one]
    storage.remove(one.folder)
    assert earlier("mine", second) == []
