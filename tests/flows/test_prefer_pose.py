"""Preference pairs and problems from every shape of rows: each row is kept or a reject with its reason, in the same bytes however made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from expectations import gate
from expectations.schemas import PREFERENCES, PROBLEMS, RATINGS
from infra import dataset
from infra.cluster import DaskConfig, pool
from infra.dataset import ShardSet
from infra.errors import InputError
from tasks.learn.problems import PoseConfig
from tasks.pose import pose
from tasks.prefer import prefer
from tasks.rate import rate
from tasks.text.preferences import PreferConfig
from tasks.text.rated import RateConfig

SHAREGPT = Path(__file__).parents[3] / "shared" / "data" / "tuning" / "dpo_en_demo.json"
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "tasks" / "gsm8k_test.jsonl"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def preferred(path: Path, output: Path, **settings: Any) -> ShardSet:
    config = PreferConfig.model_validate({"sources": [{"kind": "folder", "name": "pairs", "path": str(path)}], **settings})
    return prefer.run([], config, str(output)).shards


def posed(output: Path, path: Path | None = None, source: dict[str, Any] | None = None, **settings: Any) -> ShardSet:
    sources = [{"kind": "folder", "name": "asked", "path": str(path), **(source or {})}] if path else []
    return pose.run([], PoseConfig.model_validate({"sources": sources, **settings}), str(output)).shards


def kept(version: ShardSet) -> list[dict[str, Any]]:
    return [row for shard in version.shards() for row in shard.read().to_pylist()]


def dropped(version: ShardSet) -> list[dict[str, Any]]:
    rows = dataset.dataset(version.folder, rejects=True)
    return rows.to_table().to_pylist() if rows is not None else []


GOOD = [
    ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, "pair"),
    ({"prompt": user("Who?"), "chosen": [said("Me.")], "rejected": [said("You.")]}, "pair"),
    (
        {
            "conversations": [{"from": "human", "value": "Where?"}],
            "chosen": {"from": "gpt", "value": "Here."},
            "rejected": {"from": "gpt", "value": "There."},
        },
        "sharegpt",
    ),
    ({"chosen": [*user("When?"), said("Now.")], "rejected": [*user("When?"), said("Then.")]}, "conversation"),
    (
        {"chosen": "\n\nHuman: How?\n\nAssistant: Thus.", "rejected": "\n\nHuman: How?\n\nAssistant: Somehow."},
        "conversation",
    ),
    ({"prompt": user("Which?"), "chosen": "This.", "rejected": "That.", "origin": "vote 17", "source": "votes"}, "pair"),
]
BAD = [
    ({"prompt": "Equal?", "chosen": "Same.", "rejected": " Same. "}, "equal_answers"),
    ({"prompt": "Empty?", "chosen": " ", "rejected": "No."}, "no_chosen"),
    ({"prompt": "Missing?", "chosen": "Yes."}, "no_rejected"),
    ({"prompt": [*user("a"), said("b")], "chosen": "c", "rejected": "d"}, "wrong_roles"),
    ({"prompt": "Whose?", "chosen": user("Mine."), "rejected": "Yours."}, "wrong_roles"),
    ({"chosen": "no", "rejected": "prompt"}, "no_prompt"),
    ({"chosen": [*user("a"), said("x")], "rejected": [*user("b"), said("y")]}, "other_prompt"),
    ('{"prompt": ', "broken_json"),
    ("[1]", "not_an_object"),
]


def test_every_shape_is_read_and_every_bad_row_has_its_reason(tmp_path: Path) -> None:
    version = preferred(write(tmp_path / "rows.jsonl", [row for row, _ in (*GOOD, *BAD)]), tmp_path / "out")
    rows = kept(version)
    assert Counter(row["task"] for row in rows) == Counter(task for _, task in GOOD)
    assert Counter(row["rule"] for row in dropped(version)) == Counter(rule for _, rule in BAD)
    assert version.counts.total == len(GOOD) + len(BAD)
    assert sorted(row["prompt"][-1]["content"] for row in rows) == ["How?", "When?", "Where?", "Which?", "Who?", "Why?"]
    vote = next(row for row in rows if row["chosen"] == "This.")
    assert (vote["source"], vote["origin"]) == ("votes", "vote 17")
    assert next(row for row in rows if row["chosen"] == "So.")["origin"] == "rows.jsonl:1"
    assert [row["row_id"] for row in rows] == sorted(row["row_id"] for row in rows)


def test_of_contradicting_pairs_the_more_frequent_way_stays_once(tmp_path: Path) -> None:
    def vote(number: int, prompt: str, chosen: str, rejected: str) -> dict[str, str]:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "id": f"vote {number}"}

    rows = [
        *(vote(number, "clear", "a", "b") for number in range(3)),
        *(vote(number, "split", *(("a", "b") if number % 2 else ("b", "a"))) for number in range(4)),
        *(vote(number, "lost", *(("a", "b") if number else ("b", "a"))) for number in range(3)),
        *({"prompt": "again", "chosen": "a", "rejected": "b"} for _ in range(3)),  # no votes: one row, copied
        {"prompt": "again", "chosen": "b", "rejected": "a"},
    ]
    version = preferred(write(tmp_path / "rows.jsonl", rows), tmp_path / "out")
    assert sorted((row["prompt"][0]["content"], row["chosen"]) for row in kept(version)) == [("clear", "a"), ("lost", "a")]
    assert version.counts.dropped == {"duplicate": 3, "outvoted": 1, "contradicted": 8}


VOTE = st.tuples(st.sampled_from("pq"), st.sampled_from(["ab", "ba", "ac"]), st.integers(0, 3))


@pytest.mark.soak
@given(votes=st.lists(VOTE, min_size=1, max_size=12), shard_bytes=st.sampled_from([1, 100, 10_000]))
@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_stays_is_what_a_plain_count_says(
    votes: list[tuple[str, str, int]], shard_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("votes")
    rows = [{"prompt": prompt, "chosen": way[0], "rejected": way[1], "id": f"{voter}"} for prompt, way, voter in votes]
    counts = Counter((prompt, way) for prompt, way, _ in set(votes))
    wanted = sorted((prompt, way[0], way[1]) for (prompt, way), count in counts.items() if count > counts[prompt, way[::-1]])
    try:
        version = preferred(write(folder / "rows.jsonl", rows), folder / "out", shard_bytes=shard_bytes)
    except InputError:
        assert not wanted
        return
    assert sorted((row["prompt"][0]["content"], row["chosen"], row["rejected"]) for row in kept(version)) == wanted
    assert version.counts.total == len(rows)


def test_preferences_are_of_their_schema_and_pass_their_suite(tmp_path: Path) -> None:
    if not SHAREGPT.exists():
        pytest.skip("no shared data here")
    version = preferred(SHAREGPT, tmp_path / "out", test_share=0.2)
    table = version.shards()[0].read()
    assert table.schema.equals(PREFERENCES)
    assert version.counts.kept + sum(version.counts.dropped.values()) == 300
    facts = version.manifest().facts
    assert facts["num_rows.test"] == sum(row["split"] == "test" for row in kept(version)) > 20
    sides: dict[str, set[str]] = {}
    for row in kept(version):
        sides.setdefault(json.dumps(row["prompt"]), set()).add(row["split"])
    assert all(len(one) == 1 for one in sides.values())


@pytest.mark.soak
def test_both_pass_their_suites(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}?", "chosen": "a", "rejected": "b"} for number in range(300)]
    pairs = preferred(write(tmp_path / "rows.jsonl", rows), tmp_path / "pairs")
    problems = posed(tmp_path / "problems", arithmetic={"num_items": 300})
    for version, suite in ((pairs, "preferences"), (problems, "problems")):
        section = gate.judged_table(suite, version.shards()[0].read(), suite, {})
        assert not [check for check in section.results if not check.success]


def test_the_same_rows_give_the_same_bytes_for_any_workers(tmp_path: Path, two_workers: DaskConfig) -> None:
    rows = [{"prompt": f"{number % 40}?", "chosen": f"{number}", "rejected": "x"} for number in range(60)]
    path = write(tmp_path / "rows.jsonl", rows)
    alone = preferred(path, tmp_path / "alone", shard_bytes=500)
    with pool(two_workers):
        together = preferred(path, tmp_path / "together", shard_bytes=500)
    assert alone.digest == together.digest
    assert len(alone.shards()) > 2


def test_columns_of_parquet_are_named_by_fields(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": ["Why?"], "good": ["So."], "bad": ["No."]}), tmp_path / "rows.parquet")
    fields = {"prompt": "q", "text": "good", "rejected": "bad"}
    config = PreferConfig.model_validate(
        {"sources": [{"kind": "folder", "path": str(tmp_path / "rows.parquet"), "fields": fields}]}
    )
    assert kept(prefer.run([], config, str(tmp_path / "out")).shards)[0]["chosen"] == "So."


def test_nothing_to_read_and_nothing_of_use_are_errors_that_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prefer\.sources: none given"):
        prefer.run([], PreferConfig(), str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"none of 1 rows is a pair \(no_chosen 1\)"):
        preferred(write(tmp_path / "rows.jsonl", [{"text": "x"}]), tmp_path / "useless")
    with pytest.raises(InputError, match=r"pose\.sources"):
        pose.run([], PoseConfig(), str(tmp_path / "no problems"))


def test_rated_answers_are_read_decided_and_every_bad_row_has_its_reason(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": "Why?", "completion": "So.", "label": True},
        {"prompt": user("Why?"), "completion": [said("No.")], "label": False},
        {"prompt": "Who?", "completion": "Me.", "label": "up", "source": "votes", "origin": "vote 17"},
        *({"prompt": "Who?", "completion": "You.", "label": way, "id": f"{n}"} for n, way in enumerate((1, 0, 0))),
        *({"prompt": "Who?", "completion": "They.", "label": way} for way in (True, False)),
        {"prompt": "Whose?", "completion": "Mine.", "label": "so-so"},
        {"prompt": "Whose?", "completion": "Mine."},
        {"prompt": "Whose?", "completion": " ", "label": True},
        {"completion": "Mine.", "label": True},
        '{"prompt": ',
    ]
    fields = {"text": "completion", "good": "label"}
    source = {"kind": "folder", "name": "thumbs", "path": str(write(tmp_path / "rows.jsonl", rows)), "fields": fields}
    version = rate.run([], RateConfig.model_validate({"sources": [source], "test_share": 0.5}), str(tmp_path / "out")).shards
    found = {(row["prompt"][0]["content"], row["answer"]): row for row in kept(version)}
    assert {key: row["good"] for key, row in found.items()} == {
        **{("Why?", "So."): True, ("Why?", "No."): False},
        **{("Who?", "Me."): True, ("Who?", "You."): False},
    }
    assert (found["Who?", "Me."]["source"], found["Who?", "Me."]["origin"]) == ("votes", "vote 17")
    assert found["Why?", "So."]["split"] == found["Why?", "No."]["split"]
    whys = {"outvoted": 1, "duplicate": 1, "contradicted": 2, "no_rating": 2, "no_answer": 1, "no_prompt": 1, "broken_json": 1}
    assert version.counts.dropped == whys and version.counts.total == len(rows)
    table = version.shards()[0].read()
    assert table.schema.equals(RATINGS)
    failed = [check for check in gate.judged_table("ratings", table, "ratings", {}).results if not check.success]
    assert {check.severity for check in failed} <= {"warning"}
    with pytest.raises(InputError, match=r"none of 13 rows is a rated answer .*`fields\.good`"):
        plain = {"sources": [source | {"fields": {"text": "completion"}}]}
        rate.run([], RateConfig.model_validate(plain), str(tmp_path / "useless"))


def test_problems_are_read_checked_and_generated(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2 + 2?", "check": "number", "answer": "2 + 2 = 4\n#### 4"},
        {"prompt": user("Say yes."), "check": "regex", "answer": "(?i)yes[.!]?"},
        {"prompt": "Give a list.", "check": "json_schema", "answer": json.dumps({"type": "array"})},
        {"prompt": "Say a word.", "check": "exact", "answer": "word"},
        {"prompt": "Say a word.", "check": "exact", "answer": "word"},
        {"prompt": "3 + 3?", "check": "number", "answer": "6"},
        {"prompt": "3 + 3?", "check": "number", "answer": "7"},
        {"prompt": "Pattern?", "check": "regex", "answer": "(a"},
        {"prompt": "Number?", "check": "number", "answer": "none"},
        {"prompt": "Kind?", "check": "taste", "answer": "good"},
        {"prompt": "Check?", "answer": "what"},
        {"check": "exact", "answer": "x"},
    ]
    arithmetic = {"num_items": 60, "levels": [1, 2], "largest": 9}
    version = posed(
        tmp_path / "out", write(tmp_path / "rows.jsonl", rows), arithmetic=arithmetic, system="Be brief.", test_share=0.3
    )
    found = kept(version)
    assert version.counts.dropped == {"bad_answer": 3, "contradicted": 2, "duplicate": 1, "no_check": 1, "no_prompt": 1}
    assert Counter(row["task"] for row in found) == {
        **dict.fromkeys(("number", "regex", "json_schema", "exact"), 1),
        **dict.fromkeys(("arithmetic.1", "arithmetic.2"), 30),
    }
    assert all(row["prompt"][0] == {"role": "system", "content": "Be brief."} for row in found)
    assert next(row for row in found if row["task"] == "number")["answer"] == "4"
    table = pa.concat_tables([shard.read() for shard in version.shards()])
    assert table.schema.equals(PROBLEMS)
    again = posed(tmp_path / "again", tmp_path / "rows.jsonl", arithmetic=arithmetic, system="Be brief.", test_share=0.3)
    assert again.digest == version.digest


def test_worked_solutions_are_problems_of_numbers(tmp_path: Path) -> None:
    if not GSM8K.exists():
        pytest.skip("no shared data here")
    version = posed(tmp_path / "out", GSM8K, {"check": "number", "fields": {"text": "question"}})
    assert version.counts.kept == 1319
    assert all(row["answer"].lstrip("-").replace(".", "").isdigit() for row in kept(version))
