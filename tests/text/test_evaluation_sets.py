"""Evaluation sets are read as they are published, and what cannot be used is told with what to do."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from infra.errors import InputError
from tasks.text.evaluation_sets import SHAPES, EvaluationSet, Items, file_digests, read_set

DATA = Path(__file__).parents[3] / "shared" / "data" / "tasks"
GSM8K = {"question": "How many?", "answer": "Four.\n#### 4"}


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **more: Any) -> Items:
    return read_set(EvaluationSet(name="mine", path=str(path), **more))


def refused(path: Path, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("row", "passages"),
    [
        (GSM8K, ["How many?", "Four.\n#### 4"]),
        ({"sentence_good": "He ran.", "sentence_bad": "He run.", "field": "syntax"}, ["He ran.", "He run."]),
        ({"question": "Which?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}, ["Which?"]),
        ({"query": "Which?", "choices": ["a", "b"], "gold": 1}, ["Which?"]),
        ({"ctx": "He goes", "endings": ["on", "off"], "label": "0"}, ["He goes"]),
        ({"id": "5", "context": "Long.", "question": "Who?", "answers": {"text": ["I"], "answer_start": [0]}}, ["Who?"]),
        ({"text": "All of it."}, ["All of it."]),
    ],
)
def test_well_known_shapes_need_no_fields(tmp_path: Path, row: dict[str, Any], passages: list[str]) -> None:
    found = read(written(tmp_path / "rows.jsonl", [row]))
    assert list(found.passages) == passages and len(found.keys) == 1


def test_every_shape_has_passages_that_its_rows_have() -> None:
    assert all(set(passages) <= set(needed) for needed, passages in SHAPES)


def test_fields_may_be_nested_lists_or_templates_and_a_null_is_no_passage(tmp_path: Path) -> None:
    row = {
        "q": "Which?",
        "choices": {"text": ["one", "two"]},
        "turns": [{"say": "hello"}, {"say": "bye"}],
        "none": None,
        "n": 7,
    }
    found = read(
        written(tmp_path / "rows.jsonl", [row]), fields=("q", "choices.text", "turns.say", "none", "{q} {choices.text}!", "n")
    )
    assert list(zip(found.field, found.passages, strict=True)) == [
        ("q", "Which?"),
        ("choices.text", "one"),
        ("choices.text", "two"),
        ("turns.say", "hello"),
        ("turns.say", "bye"),
        ("{q} {choices.text}!", "Which? one two!"),
        ("n", "7"),
    ]


def test_all_kinds_of_files_hold_the_same_items_and_each_has_its_digest(tmp_path: Path) -> None:
    rows = [{**GSM8K, "id": f"q{n}"} for n in range(3)]
    lines = "\ufeff" + "".join(json.dumps(row) + "\n\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "d.ndjson.zst").write_bytes(zstandard.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    made = [read(path) for path in sorted(tmp_path.iterdir())]
    assert {(one.keys, one.passages, one.item) for one in made} == {
        (("q0", "q1", "q2"), ("How many?", "Four.\n#### 4") * 3, (0, 0, 1, 1, 2, 2))
    }
    assert len({one.digest for one in made}) == 5
    whole = read(tmp_path)
    assert len(whole.keys) == 15 and list(whole.files) == ["a.jsonl", "b.json", "c.jsonl.gz", "d.ndjson.zst", "e.parquet"]
    assert whole.files == file_digests(EvaluationSet(name="mine", path=str(tmp_path)))


def test_an_item_is_called_by_its_key_only_where_all_have_one(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.jsonl", [{**GSM8K, "id": 5}, {**GSM8K, "id": 9}])).keys == ("5", "9")
    assert read(written(tmp_path / "b.jsonl", [{**GSM8K, "id": 5}, GSM8K])).keys == ("0", "1")


def test_a_task_file_of_lm_eval_names_rows_and_fields_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    written(tmp_path / "rows" / "test.jsonl", [{"stem": "Who?", "options": ["he", "she"], "gold": 1, "note": "not an item"}])
    written(tmp_path / "rows" / "train.jsonl", [{"stem": "What?", "options": [], "gold": 0}])
    (tmp_path / "base.yaml").write_text("dataset_path: json\ntest_split: test\nmetric_list: !function metrics.all\n")
    (tmp_path / "task.yaml").write_text(
        "include: base.yaml\ntask: who\ndataset_kwargs: {data_files: {train: rows/train.jsonl, test: rows/test.jsonl}}\n"
        'doc_to_text: "Question: {{stem.strip()}}\\nAnswer:"\ndoc_to_target: "{{ options[gold] }}"\n'
    )
    found = read(tmp_path / "task.yaml")
    assert found.passages == ("Who?", "he", "she") and found.fields == ("stem", "options")
    assert list(found.files) == ["base.yaml", "task.yaml", "rows/test.jsonl"]
    before = found.digest
    (tmp_path / "base.yaml").write_text("dataset_path: json\ntest_split: train\n")
    assert read(tmp_path / "task.yaml").passages == ("What?",) and read(tmp_path / "task.yaml").digest != before
    for text, told in (
        ("dataset_path: openai/gsm8k\n", "only tasks with local rows can be read"),
        (
            "dataset_path: json\ndataset_kwargs: {data_files: {dev: rows/test.jsonl}}\n",
            "data_files has no split 'test' (it has: dev)",
        ),
        (
            "dataset_path: json\ndataset_kwargs: {data_files: rows/test.jsonl}\ndoc_to_text: !function utils.text\n",
            "doc_to_text is a program, which is not run; name the fields",
        ),
        ("dataset_path: json\ndataset_kwargs: {data_files: rows/test.jsonl}\n", "doc_to_text and doc_to_target name no field"),
        ("- one\n", "no task file of lm-eval"),
        ("a: [", "not YAML"),
    ):
        (tmp_path / "wrong.yaml").write_text(text)
        assert told in refused(tmp_path / "wrong.yaml"), text
    local = "dataset_path: json\ndataset_kwargs: {data_files: rows/test.jsonl}\n"
    for expression in (
        "{{ stem if stem else note }}",
        "{{ 'Q: ' + stem }} {{ gold }}",
        "{{ (stem) }} {{gold}}",
        "{{stem ~ note}}",
        "{{ ['a'][0] }} {{stem}}",
        "{{ stem | join(f(note)) }}",
        "{{ stem note }}",
        "{{}} {{stem}}",
    ):
        (tmp_path / "wrong.yaml").write_text(f"{local}doc_to_text: {json.dumps(expression)}\n")
        assert "is more than a field, which is not worked out; name the fields" in refused(tmp_path / "wrong.yaml"), expression
    for expression in (
        "{{stem}}",
        "{{- stem.strip() -}}",
        "{{ stem|trim }}",
        "{{stem | replace('a', 'b') | trim}}",
        "{{ stem[0:5] }}",
    ):
        (tmp_path / "right.yaml").write_text(f"{local}doc_to_text: {json.dumps(expression)}\n")
        assert read(tmp_path / "right.yaml").fields == ("stem",), expression
    (tmp_path / "wrong.yaml").write_text(f"{local}process_docs: !function utils.rows\ndoc_to_text: stem\n")
    assert "process_docs is a program, which is not run; name the fields" in refused(tmp_path / "wrong.yaml")
    (tmp_path / "wrong.yaml").write_text(
        "dataset_path: json\ndataset_kwargs: {data_files: rows/test.jsonl}\ndoc_to_text: !function utils.text\n"
    )
    assert read(tmp_path / "wrong.yaml", fields=("stem",)).passages == ("Who?",)


def test_what_cannot_be_used_is_told_with_file_field_and_what_to_do(tmp_path: Path) -> None:
    where = f"decontaminate.sets: mine: {tmp_path}"
    assert refused(tmp_path / "none.jsonl") == f"{where}/none.jsonl: no such file; mend `path`, or take the set out"
    assert refused(tmp_path / "none").startswith(f"{where}/none: no such file or folder")
    (tmp_path / "empty").mkdir()
    assert "nothing in it that can be read (.jsonl" in refused(tmp_path / "empty")
    (tmp_path / "no_rows.jsonl").write_text("\n")
    assert refused(tmp_path / "no_rows.jsonl").startswith(f"{where}/no_rows.jsonl: there is no item in it")
    strange = written(tmp_path / "strange.jsonl", [{"frage": "Wer?", "antwort": "Er."}])
    assert (
        refused(strange)
        == f"{where}/strange.jsonl: which fields are an item? Name them in `fields` (its first row has: frage, antwort)"
    )
    assert "row 1 has no field 'question' (it has: frage, antwort); mend `fields`" in refused(strange, fields=("question",))
    mixed = written(tmp_path / "mixed.jsonl", [GSM8K, {"question": "Who?"}])
    assert "row 2 has no field 'answer' (it has: question)" in refused(mixed)
    nested = written(tmp_path / "nested.jsonl", [{"choices": {"text": ["a"]}}])
    assert "'choices' is no text, but has fields of its own; name one in `fields`: choices.text" in refused(
        nested, fields=("choices",)
    )
    (tmp_path / "broken.jsonl").write_text(json.dumps(GSM8K) + "\n{not json\n")
    assert f"{where}/broken.jsonl: line 2 is not JSON" in refused(tmp_path / "broken.jsonl")
    (tmp_path / "list.jsonl").write_text("3\n")
    assert "line 1 is no object of fields (got '3')" in refused(tmp_path / "list.jsonl")
    for name in ("cut.jsonl.gz", "cut.jsonl.zst", "cut.parquet"):
        (tmp_path / name).write_bytes(b"\x1f\x8bnot really")
        assert f"{where}/{name}: damaged" in refused(tmp_path / name)


@pytest.mark.skipif(not DATA.exists(), reason="the evaluation sets made by others are not there")
def test_gsm8k_and_blimp_are_read_as_they_are() -> None:
    assert len(read(DATA / "gsm8k_test.jsonl").keys) == 1319
    blimp = read(DATA / "blimp_adjunct_island.jsonl")
    assert len(blimp.keys) == 1000 and len(blimp.passages) == 2000 and blimp.keys[7] == "7"


def test_a_zst_is_read_frame_by_frame_and_one_that_is_cut_is_no_shorter_set(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{"question": " ".join(f"w{draw.randrange(10**6)}" for _ in range(20)), "answer": "x"} for _ in range(2000)]
    lines = [f"{json.dumps(row)}\n".encode() for row in rows]
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"  # a frame of no data, as parallel compressors write them
    frames = [zstandard.compress(b"".join(lines[at : at + 500])) for at in range(0, 2000, 500)]
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(skipped + b"".join(frames))
    assert len(read(path).keys) == 2000
    whole = zstandard.compress(b"".join(lines))
    for size in [5, len(whole) // 3, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert f"{path}: damaged" in refused(path), size
    path.write_bytes(b"".join(frames)[:-3])
    assert f"{path}: damaged" in refused(path)


def test_what_no_set_can_be_is_told_and_never_a_crash(tmp_path: Path) -> None:
    (tmp_path / "half.jsonl").write_text('{"question": "a b"}\n{"question": "a \\ud83d b"}\n')
    assert r"half.jsonl: row 2, question: '\ud83d' is half a character (a lone surrogate); mend it" in refused(
        tmp_path / "half.jsonl"
    )
    (tmp_path / "key.jsonl").write_text('{"id": "\\udc00", "question": "a b"}\n')
    assert r"key.jsonl: row 1, id: '\udc00' is half a character" in refused(tmp_path / "key.jsonl")
    packed = bytearray(gzip.compress(b'{"question":"abc def ghi jkl mno pqr stu"}\n' * 500))
    packed[25:27] = bytes(one ^ 255 for one in packed[25:27])
    (tmp_path / "bits.jsonl.gz").write_bytes(packed)
    assert "bits.jsonl.gz: damaged" in refused(tmp_path / "bits.jsonl.gz")
    (tmp_path / "folder.jsonl").mkdir()
    assert "folder.jsonl: a folder, which is called as a file of rows" in refused(tmp_path / "folder.jsonl")
    (tmp_path / "in" / "rows.jsonl").mkdir(parents=True)
    assert "in/rows.jsonl: a folder, which is called as a file of rows" in refused(tmp_path / "in")
    for kwargs, told in (
        ("[a]", "only tasks with local rows can be read"),
        ("{data_files: 5}", "data_files: give the path of a file, or a list of such (got '5')"),
        ("{data_files: [rows.jsonl, 3]}", "data_files: give the path of a file"),
        ("{data_files: {1: rows.jsonl}}", "data_files has no split 'test' (it has: 1)"),
        ("{data_files: {test: rows.jsonl}}\ntest_split: [x]", "data_files has no split ['x'] (it has: test)"),
    ):
        (tmp_path / "task.yaml").write_text(f"dataset_path: json\ndataset_kwargs: {kwargs}\ndoc_to_text: question\n")
        assert f"{tmp_path}/task.yaml: {told}" in refused(tmp_path / "task.yaml"), kwargs
    (tmp_path / "other").mkdir()
    for manifest in ("{}", "[1", '{"format": 1}', "[]"):
        (tmp_path / "other" / "manifest.json").write_text(manifest)
        wanted = EvaluationSet(name="mine", path=str(tmp_path / "other"))
        for use in (read_set, file_digests):
            with pytest.raises(
                InputError, match=r"other/manifest\.json: no manifest of a version of ours .* give these, or take this"
            ):
                use(wanted)


def test_files_of_other_folders_are_called_by_their_names_and_not_by_where_they_lie(tmp_path: Path) -> None:
    found = []
    for home in (tmp_path / "one", tmp_path / "two"):
        for folder in ("a", "b", "tasks"):
            (home / folder).mkdir(parents=True)
        files = [str(written(home / folder / "rows.jsonl", [{"question": folder}])) for folder in ("a", "b")]
        task = f"dataset_path: json\ndataset_kwargs: {{data_files: {json.dumps([*files, files[0]])}}}\n"
        (home / "tasks" / "base.yaml").write_text("doc_to_text: question\n")
        (home / "tasks" / "task.yaml").write_text("include: base.yaml\n" + task)
        made = read(home / "tasks" / "task.yaml")
        assert list(made.files) == ["base.yaml", "task.yaml", "rows.jsonl", "rows.jsonl (2)"]
        found.append({name: digest for name, digest in made.files.items() if name != "task.yaml"})
    assert found[0] == found[1]
