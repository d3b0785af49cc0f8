"""Many sources in one shape: every row keeps its origin or its reason, and the bytes do not depend on how the work is divided."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from infra import dataset
from infra.cluster import DaskConfig, pool
from infra.errors import InputError
from infra.steps import Result
from tasks.instruct import instruct
from tasks.text.conversations import InstructConfig, guessed
from tasks.text.turns import side_of

ALPACA = Path(__file__).resolve().parents[3] / "shared" / "data" / "tuning" / "alpaca_en_demo.json"


def made(folder: Path, *sources: dict[str, Any], **config: Any) -> Result:
    return instruct.run([], InstructConfig.model_validate({"sources": list(sources), **config}), str(folder))


def kept(result: Result) -> list[dict[str, Any]]:
    return [row for shard in result.shards.shards() for row in shard.read().to_pylist()]


def rejects(result: Result) -> list[dict[str, Any]]:
    found = dataset.dataset(result.shards.folder, rejects=True)
    return [] if found is None else found.to_table().to_pylist()


def folder(path: Path, form: str, **source: Any) -> dict[str, Any]:
    return {"kind": "folder", "path": str(path), "format": form, **source}


def lines(rows: Sequence[Any]) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def pair(number: Any, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"prompt": f"Is {number} a number?", "response": answer, **more}


def test_every_kind_of_file_gives_the_same_conversations_with_their_origin(tmp_path: Path) -> None:
    rows = [pair(number) for number in range(20)]
    plain = lines(rows).encode()
    files = {
        "rows.jsonl": plain,
        "rows.jsonl.gz": gzip.compress(plain),
        "rows.jsonl.zst": zstandard.compress(plain),
        "rows.json": json.dumps(rows).encode(),
    }
    found = {}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        found[name] = kept(made(tmp_path / f"of {name}", folder(tmp_path / name, "prompt_response")))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=7)
    found["rows.parquet"] = kept(made(tmp_path / "of parquet", folder(tmp_path / "rows.parquet", "prompt_response")))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(plain)
    hub = {"kind": "dataset", "dataset": str(tmp_path / "set"), "format": "prompt_response"}
    found["set"] = kept(made(tmp_path / "of set", hub))
    for name, some in found.items():
        numbers = [int(row["origin"].rpartition(":")[2]) for row in some]
        assert [row["messages"][0]["content"] for row in some] == [f"Is {number} a number?" for number in numbers], name
        place = "set/train" if name == "set" else name
        assert {row["origin"] for row in some} == {f"{place}:{number}" for number in range(20)}, name
        assert [row["row_id"] for row in some] == sorted(row["row_id"] for row in found["rows.jsonl"]), name


def test_a_row_is_named_by_its_address_or_its_own_key_before_its_place(tmp_path: Path) -> None:
    rows = [pair(1, url="https://a.example/1", id="7"), pair(2, id=8), pair(3)]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    origins = {
        row["messages"][0]["content"][3]: row["origin"]
        for row in kept(made(tmp_path / "out", folder(tmp_path / "rows.jsonl", "prompt_response")))
    }
    assert origins == {"1": "https://a.example/1", "2": "8", "3": "rows.jsonl:2"}
    # equal files elsewhere are equal bytes
    (tmp_path / "else" / "where").mkdir(parents=True)
    shutil.copy(tmp_path / "rows.jsonl", tmp_path / "else" / "where")
    digests = {
        made(tmp_path / f"out of {one}", folder(tmp_path / one, "prompt_response")).shards.digest
        for one in ("rows.jsonl", "else/where/rows.jsonl")
    }
    assert len(digests) == 1


def mixed(num: int, seed: int) -> list[Any]:
    """Rows of which some are copies, some broken and some no pair."""
    chance = random.Random(seed)
    rows: list[Any] = []
    for number in range(num):
        kind = chance.randrange(8)
        rows.append(
            '{"prompt": '
            if kind == 0
            else {"prompt": f"p{number}"}
            if kind == 1
            else pair(number, " ")
            if kind == 2
            else pair(chance.randrange(num // 4))
            if kind == 3
            else pair(number)
        )
        rows += [""] * chance.randrange(2)
    return rows


def test_how_the_work_is_divided_changes_no_row_and_every_row_is_kept_or_has_its_reason(tmp_path: Path) -> None:
    rows = mixed(120, seed=4)
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(rows))
    # as one reads it by hand
    numbered = list(enumerate(row for row in rows if row != ""))
    rules, first, places = Counter[str](), {}, []
    for number, row in numbered:
        turns = None if isinstance(row, str) else (row["prompt"], row.get("response"))
        rule = "broken_json" if turns is None else "no_field" if turns[1] is None else "empty_turn" if turns[1] == " " else ""
        rule = rule or ("double" if turns in first else "")
        rules[rule] += 1
        if not rule:
            first[turns] = number
            places.append(number)
    assert min(rules.values()) > 3
    source = folder(path, "prompt_response")
    whole = made(tmp_path / "whole", source)
    cut = made(tmp_path / "cut", source, shard_bytes=700)
    assert whole.shards.num_shards == 1 < cut.shards.num_shards
    for result in (whole, cut):
        found, refused = kept(result), rejects(result)
        assert sorted(int(row["origin"].rpartition(":")[2]) for row in found) == places
        assert Counter(row["rule"] for row in refused) == rules - Counter({"": rules[""]})
        counts = result.shards.counts
        assert (counts.total, counts.kept) == (len(numbered), len(places)) and sum(counts.dropped.values()) == len(refused)
        named = {int(row["url"].rpartition(":")[2]): row for row in refused}
        assert sorted([*named, *places]) == [number for number, _ in numbered]
        ids = {row["row_id"] for row in found}
        assert all(row["detail"].split()[-1] in ids for row in refused if row["rule"] == "double")
    assert {row["row_id"] for row in kept(whole)} == {row["row_id"] for row in kept(cut)}
    facts = whole.shards.manifest().facts
    assert facts["rows.train"] + facts["rows.test"] == facts["rows.task.prompt_response"] == len(places)
    assert made(tmp_path / "again", source, shard_bytes=700).shards.digest == cut.shards.digest


@pytest.mark.soak
def test_workers_change_no_byte(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(mixed(4000, seed=5)))
    source, digests = folder(tmp_path / "rows.jsonl", "prompt_response"), set()
    for workers in (1, 2):
        with pool(DaskConfig(kind="none" if workers == 1 else "local", workers=workers)):
            digests.add(made(tmp_path / str(workers), source, shard_bytes=20_000).shards.digest)
    assert len(digests) == 1


def test_equal_questions_are_on_one_side_and_about_the_wanted_share_is_held_out() -> None:
    def side(question: str, share: float = 0.2) -> str:
        turns = [{"role": "system", "content": question[:1]}, {"role": "user", "content": question}]
        return side_of(turns, share)

    sides = Counter(side(f"question {number}") for number in range(2000))
    assert abs(sides["test"] - 400) < 60  # 3.4 standard deviations
    assert all(side(f"  Question\n{number}") == side(f"question {number}") for number in range(50))
    assert {side(str(number), 0.0) for number in range(50)} == {"train"}


def test_a_systems_words_are_added_where_a_row_has_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines([pair(1), pair(2, system="Be brief.")]))
    rows = kept(made(tmp_path / "out", folder(tmp_path / "rows.jsonl", "prompt_response", system="Be kind.")))
    assert {row["messages"][1]["content"][3]: row["messages"][0]["content"] for row in rows} == {
        "1": "Be kind.",
        "2": "Be brief.",
    }


def test_nothing_usable_is_an_error_that_says_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines([{"question": "a", "answer": "b"}] * 3))
    with pytest.raises(InputError, match=r"none of 3 rows can be used \(no_field 3\); is the format right"):
        made(tmp_path / "out", folder(tmp_path / "rows.jsonl", "prompt_response"))
    source = folder(tmp_path / "rows.jsonl", "prompt_response", fields={"prompt": "question", "response": "answer"})
    result = made(tmp_path / "named", source)
    assert (result.shards.counts.kept, result.shards.counts.dropped) == (1, {"double": 2})


def test_a_format_is_told_by_its_fields_or_asked_for(tmp_path: Path) -> None:
    rows = {
        "messages": {"messages": [{"role": "user", "content": "a"}]},
        "sharegpt": {"conversations": [{"from": "human", "value": "a"}]},
        "alpaca": {"instruction": "a", "output": "b"},
        "prompt_response": {"prompt": "a", "response": "b"},
    }
    for form, row in rows.items():
        (tmp_path / f"{form}.jsonl").write_text(lines([row]))
        assert guessed(str(tmp_path / f"{form}.jsonl")) == form
    (tmp_path / "other.jsonl").write_text(lines([{"text": "a", "label": "b"}]))
    with pytest.raises(InputError, match="its first row has the fields of none of messages, sharegpt, alpaca, prompt_response"):
        guessed(str(tmp_path / "other.jsonl"))


@pytest.mark.skipif(not ALPACA.exists(), reason="the instruction rows are not in ../shared/data")
def test_a_published_set_of_instructions_is_read_whole(tmp_path: Path) -> None:
    result = made(tmp_path / "out", folder(ALPACA, "alpaca", name="demo"))
    rows = json.loads(ALPACA.read_text())
    asked = {(row["instruction"], row["input"], row["output"]) for row in rows}
    assert result.shards.counts.total == len(rows) == 999
    assert (result.shards.counts.kept, result.shards.counts.dropped) == (len(asked), {"double": len(rows) - len(asked)})
    for row in kept(result):
        given = rows[int(row["origin"].rpartition(":")[2])]
        about = f"\n\n{given['input']}" if given["input"] else ""
        assert [turn["content"] for turn in row["messages"]] == [given["instruction"] + about, given["output"]]
