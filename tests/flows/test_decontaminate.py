"""Planted evaluation items are found, removed or marked, and certified, all the way to the model's MLflow run."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import mlcroissant
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.config import ConfigError, RunConfig, load, require_sources
from flows.prepare import prepare
from flows.publish import publish
from infra import dataset, ledger, storage, tracking
from infra.cluster import DaskConfig, pool
from infra.dataset import ShardSet, open_version, seal, write_shard
from infra.errors import InputError
from tasks.decontaminate import decontaminate
from tasks.ingest import ingest
from tasks.publish import PublishConfig
from tasks.publish import publish as publish_step
from tasks.register import RegisterConfig, register
from tasks.report import render_run
from tasks.text.contamination import DecontaminateConfig
from tasks.text.evaluation_sets import read_set
from tasks.text.readers import IngestConfig

from . import english, made_model
from .driver import commands
from .processes import finished_parts, kill_when, receipts, start

NUM_ROWS = 120
NAMES = ("Derek", "Theresa", "Grace", "Omar", "Lucia", "Pavel", "Ingrid", "Kofi")


def questions(count: int = 8) -> list[dict[str, str]]:
    """Word problems in the shape of GSM8K; no two share eight words."""
    made = []
    for n in range(count):
        draw = random.Random(n)
        things = [f"{draw.choice('bdfgklmnprst')}{draw.choice('aeiou')}{draw.choice('klmnrt')}{n}{k}" for k in range(12)]
        made.append(
            {
                "question": f"{NAMES[n]} bought {n + 3} {things[0]} and {things[1]}, then gave {things[2]} of the {things[3]} to "
                f"{things[4]}. After {things[5]} lost {n + 1} {things[6]}, how many {things[7]} does {NAMES[n]} have in {things[8]}?",
                "answer": f"{NAMES[n]} has {n + 40} {things[9]} because {things[10]} keeps {things[11]} #### {n}",
            }
        )
    return made


def write_set(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def planted() -> dict[int, str]:
    """Row → what it holds: question 0 as it is, 1 in capitals over several lines, 2 with one word changed, 3 only a half of it."""
    asked = [row["question"] for row in questions()]
    words = asked[2].split()
    return {
        5: asked[0],
        40: asked[1].upper().replace(" ", "\n"),
        77: " ".join([*words[:-1], "Lagos?"]),
        90: " ".join(asked[3].split()[:11]),
    }


def rows(also: Mapping[int, str] | None = None) -> list[dict[str, str]]:
    holds = planted() | dict(also or {})
    made = []
    for n in range(NUM_ROWS):
        text = english.text(n, 2)
        if n in holds:
            text = f"{text}\n\n{holds[n]}\n\n{english.text(1000 + n, 1)}"
        made.append({"text": text, "url": f"http://h{n % 7}.example/{n}"})
    return made


def documents(
    home: Path, *, backwards: bool = False, shard_bytes: int = 20_000, also: Mapping[int, str] | None = None
) -> ShardSet:
    folder = home / f"rows-{backwards}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows(also)]
    (folder / "rows.jsonl").write_text("\n".join(reversed(lines) if backwards else lines))
    config = {"sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": shard_bytes}
    return ingest(config=IngestConfig.model_validate(config))


def config(path: Path, **more: Any) -> DecontaminateConfig:
    return DecontaminateConfig.model_validate({"sets": [{"name": "sums", "path": str(path)}], **more})


def rejected(version: ShardSet) -> dict[str, dict[str, Any]]:
    found = dataset.dataset(version.folder, rejects=True)
    return {row["url"]: row for row in found.to_table().to_pylist()} if found is not None else {}


def kept(version: ShardSet) -> pa.Table:
    return pa.concat_tables([shard.read() for shard in version.shards()])


def urls_of(numbers: list[int]) -> set[str]:
    return {f"http://h{n % 7}.example/{n}" for n in numbers}


def told(version: ShardSet) -> dict[str, Any]:
    return dict(storage.read_json(version.file("contamination/certificate.json")))


def test_planted_items_are_removed_with_their_reason_and_half_an_item_stays(home: Path) -> None:
    given = documents(home)
    made = decontaminate(given, config=config(write_set(home / "sums.jsonl", questions())))
    gone = rejected(made)
    assert gone.keys() == urls_of([5, 40, 77]) and made.counts.dropped == {"contaminated": 3}
    assert made.counts.total == NUM_ROWS and "contaminated" not in kept(made).column_names
    whole = gone["http://h5.example/5"]
    assert (whole["value"], whole["threshold"]) == (1.0, 1.0)
    assert whole["detail"].startswith("sums, item 0 (0): the whole question: derek bought 3 ")
    changed = gone["http://h0.example/77"]
    num_8_grams = len(planted()[77].replace(",", " ").split()) - 7
    assert changed["value"] == pytest.approx(1 - 1 / num_8_grams) and changed["threshold"] == 0.8
    assert changed["detail"].startswith("sums, item 2 (2): share of the 8-grams of the question: grace bought 5 ")


def test_the_certificate_says_what_was_looked_for_in_what_and_every_item_has_its_flag(home: Path) -> None:
    given, path = documents(home), write_set(home / "sums.jsonl", [*questions(), {"question": "Why?", "answer": "42"}])
    made = decontaminate(given, config=config(path))
    said = told(made)
    assert said["documents"] == {
        "step": "ingest",
        "version": given.version,
        "digest": given.digest,
        "documents": NUM_ROWS,
        "held_out_still": 0,
    }
    [one] = said["sets"]
    assert one["files"] == {"sums.jsonl": dataset.bytes_digest(path.read_bytes())}
    assert (one["items"], one["tested"], one["too_short"], one["contaminated_items"], one["contaminated_documents"]) == (
        9,
        8,
        1,
        3,
        3,
    )
    by_method = {(row["method"], row["ngram_words"]): (row["items_overlapping"], row["items"]) for row in one["found"]}
    assert by_method["exact", 0] == (2, 2)
    assert by_method["ngram", 8] == (4, 0)  # half of question 3 shares 8-grams, which are measured and do not decide
    assert by_method["ngram", 13] == (3, 3) and by_method["containment", 8] == (4, 3)
    assert said["statement"] == (
        "120 documents searched for 9 items of sums: 3 items found in 3 documents, which went. 1 item too short to look for."
    )
    assert {(hit["index"], hit["url"], hit["method"]) for hit in said["hits"] if hit["method"] == "exact"} == {
        (0, "http://h5.example/5", "exact"),
        (1, "http://h5.example/40", "exact"),
    }
    flags = pq.read_table(made.file("contamination/items.parquet")).to_pylist()
    assert [row["state"] for row in flags] == ["contaminated"] * 3 + ["clean"] * 5 + ["too_short"]
    assert 0 < flags[3]["containment_8"] < 0.8 and flags[3]["ngram_13"] == 0 and flags[4]["containment_8"] == 0
    hits = pq.read_table(made.file("contamination/hits.parquet")).to_pylist()
    assert hits == said["hits"] and len(hits) == said["num_hits"]
    for name, digest in said["files"].items():
        assert dataset.file_entry(made.folder, name).digest == digest
    html = render_run("", [given, made])
    assert 'id="contamination"' in html and "sums 9 8 3 3" in " ".join(re.sub("<[^>]+>", " ", html).split())
    page = Path(made.file("contamination/certificate.md")).read_text()
    assert said["statement"] in page and given.digest in page and one["digest"] in page and "http://h5.example/40" in page
    assert {entry.name for entry in made.manifest().files} == {
        f"contamination/{name}" for name in ("certificate.json", "certificate.md", "hits.parquet", "items.parquet")
    }


def test_marked_documents_stay_and_say_of_which_sets_they_hold_items(home: Path) -> None:
    given = documents(home)
    first = write_set(home / "first.jsonl", questions()[:2])
    second = write_set(home / "second.jsonl", questions()[1:3])
    sets = [{"name": "first", "path": str(first)}, {"name": "second", "path": str(second)}]
    both = DecontaminateConfig.model_validate({"sets": sets, "action": "mark"})
    made = decontaminate(given, config=both)
    table = kept(made)
    marks = {row["url"]: row["contaminated"] for row in table.select(["url", "contaminated"]).to_pylist() if row["contaminated"]}
    assert made.counts.kept == NUM_ROWS and table["contaminated"].null_count == NUM_ROWS - 3
    assert marks == {
        "http://h5.example/5": ["first"],
        "http://h5.example/40": ["first", "second"],
        "http://h0.example/77": ["second"],
    }
    assert kept(given).equals(table.drop_columns(["contaminated"]))
    # a second look keeps the marks of the first
    one = decontaminate(given, config=both.model_copy(update={"sets": both.sets[:1]}))
    again = kept(decontaminate(one, config=both.model_copy(update={"sets": both.sets[1:]})))
    assert again.equals(table)


def test_any_shards_order_and_workers_give_the_same_findings(home: Path, two_workers: DaskConfig) -> None:
    path = write_set(home / "sums.jsonl", questions())
    # in documents of far shards: question 0, which is long, and answer 5, which is looked for as a whole only or by its 8-grams
    again, answer = questions()[0]["question"], questions()[5]["answer"]
    also = {110: again, 20: answer, 100: answer}
    few = documents(home, shard_bytes=10_000_000, also=also)
    many = documents(home, backwards=True, shard_bytes=9_000, also=also)
    assert len(few.shards()) == 1 and len(many.shards()) > 5
    # a guard that one shard alone does not see
    common = config(path, max_documents=1)
    for rules in (config(path), common):
        one, other = decontaminate(few, config=rules), decontaminate(many, config=rules)
        for name in ("hits.parquet", "items.parquet"):
            assert Path(one.file(f"contamination/{name}")).read_bytes() == Path(other.file(f"contamination/{name}")).read_bytes()
        first, second = ({**told(version), "documents": None} for version in (one, other))
        assert first == second
        flags = pq.read_table(other.file("contamination/items.parquet")).to_pylist()
        assert flags[0]["documents"] == 2 and (flags[0]["ngram_13"] == 0) is (rules is common)
        assert flags[5]["state"] == ("common" if rules is common else "contaminated")
    with pool(two_workers):
        parallel = decontaminate.run((many,), common, str(home / "elsewhere"))
    assert not parallel.loaded and parallel.shards.digest == other.digest


def test_what_stands_in_many_documents_is_common_wherever_the_shards_end(home: Path) -> None:
    phrase = "terms and conditions apply to every offer that you may find here"
    folder = home / "rows"
    folder.mkdir(parents=True)
    made = [{"text": f"{english.text(n, 2)} {phrase} {n}.", "url": f"http://h.example/{n}"} for n in range(30)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, made)))
    path = write_set(home / "sums.jsonl", [{"question": f"{phrase}", "answer": "None of it is."}])
    found = []
    for shard_bytes in (5_000, 10_000_000):
        source = {"sources": [{"kind": "folder", "path": str(folder)}], "shard_bytes": shard_bytes}
        given = ingest(config=IngestConfig.model_validate(source))
        found.append(told(decontaminate(given, config=config(path))))
        assert rejected(decontaminate(given, config=config(path, max_documents=30))).keys() == {row["url"] for row in made}
    [one] = found[0]["sets"]
    assert (one["tested"], one["common"], one["contaminated_items"]) == (1, 1, 0)
    assert "1 item stands in more than 10 documents each and was taken for common phrases." in found[0]["statement"]
    assert found[0]["contaminated_documents"] == found[1]["contaminated_documents"] == 0
    assert found[0]["common"] == found[1]["common"]
    assert found[0]["common"]["examples"][0] == {"documents": 30, "words": "terms and conditions apply to every offer that"}
    assert found[0]["common"]["by_words"] == {"8": 5, "10": 3, "12": 1}


def test_a_changed_evaluation_set_makes_the_step_again_and_nothing_before_it(home: Path) -> None:
    path = write_set(home / "sums.jsonl", questions()[:1])
    raw = {
        "dask": {"kind": "none"},
        "ingest": {"sources": [{"kind": "folder", "path": str(documents(home) and home / "rows-False")}]},
        "decontaminate": {"sets": [{"name": "sums", "path": str(path)}]},
    }
    versions: dict[str, dict[str, str]] = {}
    for name, some in (("one", 1), ("again", 1), ("more", 3)):
        write_set(path, questions()[:some])  # the same bytes at another time are the same set
        with ledger.run(name):
            prepare.fn(RunConfig.model_validate(raw))
        versions[name] = {entry.step: entry.version for entry in ledger.entries(name)}
    assert versions["one"] == versions["again"]
    changed = {step for step, version in versions["more"].items() if version != versions["one"][step]}
    assert changed == {"decontaminate", "redact", "validate"}


def version_of_texts(folder: Path, texts: list[str], split: list[str] | None) -> ShardSet:
    """A version of one shard, with splits or without."""
    columns = {
        "doc_id": [f"{n:032x}" for n in range(len(texts))],
        "url": [f"http://old.example/{n}" for n in range(len(texts))],
        "source": ["old"] * len(texts),
        "text": texts,
    }
    table = pa.table(columns | ({"split": split} if split else {}))
    receipt = write_shard(str(folder), 0, dataset.Outcome(table))
    recipe = {"step": "split", "inputs": {}, "config": {}, "files": {}, "code": "0" * 12, "libraries": {}}
    seal(str(folder), step="split", schema_name="split_documents", recipe=recipe, receipts=[receipt], files=[], facts={})
    return open_version(str(folder))


@pytest.mark.parametrize("tested", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_the_certificate_goes_with_the_dataset_to_the_mlflow_run_and_the_cards_of_the_model(
    home: Path, mlflow_store: Any, tested: bool
) -> None:
    path = write_set(home / "sums.jsonl", questions())
    raw = {
        "dask": {"kind": "none"},
        "ingest": {"sources": [{"kind": "folder", "path": str(documents(home) and home / "rows-False")}]},
        "decontaminate": {"sets": [{"name": "sums", "path": str(path)}] if tested else [], "action": "mark"},
    }
    run_config = RunConfig.model_validate(raw)
    with ledger.run("whole"):
        prepared = prepare.fn(run_config)
        published = publish.fn(prepared, run_config)
    steps = [entry.step for entry in ledger.entries("whole")]
    names = {f"contamination/{name}" for name in ("certificate.json", "certificate.md", "hits.parquet", "items.parquet")}
    card = Path(published.file("README.md")).read_text()
    if tested:
        assert steps.index("dedup") + 1 == steps.index("decontaminate") == steps.index("redact") - 1
        assert names <= {entry.name for entry in published.manifest().files}
        marks = {row["url"]: row["contaminated"] for row in kept(published).to_pylist() if row["contaminated"]}
        assert marks == {url: ["sums"] for url in urls_of([5, 77])}  # the lines of one word each went in rewrite
        loaded = datasets.load_dataset(published.folder, cache_dir=str(home / "cache"))
        assert sum(split.num_rows for split in loaded.values()) == published.counts.kept
        assert "contaminated" in loaded["train"].column_names
        read = mlcroissant.Dataset(published.file("croissant.json"))
        assert not read.metadata.issues.errors and len(list(read.records("train"))) == loaded["train"].num_rows
        assert told(published)["statement"] in card and "[Certificate](contamination/certificate.md)" in card
    else:
        assert "decontaminate" not in steps and "contaminated" not in kept(published).column_names
        assert "whether the documents hold items of evaluation sets was not tested" in card
    model = made_model.trained(home / "model")
    measured = {"perplexity": 3.0, "perplexity.unigram": 9.0, "bits_per_byte": 1.0, "accuracy": 0.5}
    scores = made_model.scored(model, home / "scores", "evaluate", facts=measured)
    with tracking.run("register", tags={}, key={"test": "one"}) as track:
        registered = register(model, published, [scores], config=RegisterConfig(name="tiny"))
    assert track is not None
    [version] = mlflow_store.search_model_versions("name = 'tiny'")
    assert version.run_id == track.run_id
    [logged] = mlflow_store.search_logged_models([track.experiment_id])
    model_card = Path(registered.file("README.md")).read_text()
    attached = {one.path for one in mlflow_store.list_artifacts(track.run_id, "contamination")}
    if tested:
        assert attached == names
        for name in names:
            copy = mlflow_store.download_artifacts(track.run_id, name, str(home))
            assert Path(copy).read_bytes() == Path(published.file(name)).read_bytes()
            assert Path(registered.file(name)).exists()
        beside = Path(logged.artifact_location.removeprefix("file://"), "contamination", "certificate.json")
        assert json.loads(beside.read_text()) == told(published)
        assert version.tags["contamination"] == told(published)["statement"]
        certificate = Path(published.file("contamination/certificate.json")).read_bytes()
        assert version.tags["contamination.digest"] == dataset.bytes_digest(certificate)
        assert f"Contamination: {told(published)['statement']} [Certificate](contamination/certificate.md)." in model_card
    else:
        assert attached == set() and version.tags["contamination"] == "not tested"
        assert "whether the documents hold items of evaluation sets was not tested" in model_card


def test_held_out_documents_of_a_version_of_ours_are_a_set_and_none_is_found_in_itself(home: Path) -> None:
    asked = [row["question"] for row in questions()]
    old = home / "old"
    version_of_texts(old, asked[:4], ["train", "test", "test", "train"])
    made = decontaminate(documents(home), config=config(old))
    assert [(row["id"], row["state"]) for row in pq.read_table(made.file("contamination/items.parquet")).to_pylist()] == [
        (f"{1:032x}", "contaminated"),
        (f"{2:032x}", "contaminated"),
    ]
    assert rejected(made).keys() == urls_of([40, 77])
    with pytest.raises(InputError, match=r"sums: .*no document of this version is in split 'dev'; mend `split`"):
        decontaminate(documents(home), config=config(old, sets=[{"name": "sums", "path": str(old), "split": "dev"}]))
    itself = decontaminate(open_version(str(old)), config=config(old))
    assert itself.counts.dropped == {} and told(itself)["contaminated_items"] == 0
    assert told(itself)["documents"]["held_out_still"] == 2
    assert "2 documents of the sets themselves, held out still, not counted." in told(itself)["statement"]


@pytest.mark.parametrize("split", [None, ["train"] * 4, ["test", "train", "test", "train"]])
def test_a_held_out_page_that_may_be_trained_on_is_a_hit_though_it_is_called_as_the_item(
    home: Path, split: list[str] | None
) -> None:
    asked = [row["question"] for row in questions()][:4]
    held_out = version_of_texts(home / "old", asked, ["train", "test", "test", "train"])
    new = version_of_texts(home / "new", asked, split)
    made = decontaminate(new, config=config(Path(held_out.folder)))
    gone = {2} if split and split[2] == "test" else set()
    assert {row["doc_id"] for row in rejected(made).values()} == {f"{n:032x}" for n in {1, 2} - gone}
    assert told(made)["documents"]["held_out_still"] == len(gone)
    # rows of a file are called by their place, or as they like: no document is one of them
    rows = [{"doc_id": f"{n:032x}", "question": text} for n, text in enumerate(asked)]
    path = write_set(home / "rows.jsonl", rows)
    assert (
        decontaminate(held_out, config=config(path, sets=[{"name": "rows", "path": str(path), "split": "test"}])).counts.kept == 0
    )


@pytest.mark.soak
def test_the_command_tests_a_published_version_or_files_against_a_new_set(home: Path) -> None:
    path = write_set(home / "gsm8k_test.jsonl", questions())
    (home / "clean").mkdir()
    pq.write_table(pa.table({"doc_id": ["0" * 32]}), home / "clean" / "rows.parquet")
    (home / "data").mkdir()
    (home / "data" / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()))
    words = ["step", "decontaminate", "--input", str(home / "data"), "--set", f"sets=[{{name: gsm8k, path: {path}}}]", "-w", "1"]
    suite = home / "clean.json"
    asked = {
        "type": "expect_column_values_to_be_null",
        "kwargs": {"column": "contaminated"},
        "severity": "critical",
        "scope": "shard",
    }
    suite.write_text(json.dumps({"name": "clean", "schema": "published", "expectations": [asked]}))
    judge = ["validate", "--suite", str(suite), "--output", str(home / "judged"), "-w", "1"]
    marked, removed, unknown, none, dirty, clean = commands(
        home / "home",
        [*words, "--set", "action=mark", "--output", str(home / "marked")],
        [*words[:3], str(home / "marked"), *words[4:], "--output", str(home / "out")],
        [*words[:4], "-w", "1", "--output", str(home / "x"), "--set", f"sets=[{{name: gsm8k, path: {home}/nowhere.jsonl}}]"],
        [*words[:4], "-w", "1", "--output", str(home / "y")],
        [*judge, str(home / "marked")],
        [*judge, str(home / "clean")],
    )
    assert marked.code == 0, marked.output
    said = {line.split()[0]: line.split()[-1] for line in marked.output.splitlines() if line.split()}
    assert said["num_contaminated_items"] == said["num_contaminated_documents"] == "3" and said["num_tested"] == "8"
    assert removed.code == 0 and "decontaminate: 120 in, 117 kept, 3 dropped" in removed.output
    assert dirty.code == 1 and "3 values (2.5 %) are not as asked" in dirty.output
    assert clean.code == 0, clean.output  # a column that only marking makes is not missed
    assert unknown.code == 2 and f"decontaminate.sets: gsm8k: {home}/nowhere.jsonl: no such file; mend `path`" in unknown.output
    assert none.code == 2 and "decontaminate.sets: no evaluation set is given; name one:" in none.output


def test_a_run_whose_evaluation_set_is_missing_does_not_begin(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"decontaminate: {{sets: [{{name: sums, path: {tmp_path}/none.jsonl}}]}}")
    with pytest.raises(ConfigError, match=r"decontaminate\.sets\.0\.path: no such file or folder"):
        require_sources(load(str(path)))
    with pytest.raises(InputError, match="no evaluation set is given"):
        decontaminate(documents(home), config=DecontaminateConfig())


def test_a_certificate_that_was_changed_is_neither_published_nor_registered(home: Path) -> None:
    looked = decontaminate(documents(home), config=config(write_set(home / "sums.jsonl", questions()), action="mark"))
    right = Path(looked.file("contamination/certificate.json")).read_text()

    def forged(version: ShardSet) -> None:
        Path(version.file("contamination/certificate.json")).write_text(right.replace("3 items found", "0 items found"))

    forged(looked)
    published = publish_step(looked, [], config=PublishConfig())
    assert Path(published.file("contamination/certificate.json")).read_text() == right  # it was made again
    assert "3 items found in 3 documents" in Path(published.file("README.md")).read_text()
    looked.read_file("contamination/hits.parquet")
    for change in (forged, lambda version: Path(version.file("contamination/certificate.json")).unlink()):
        change(looked)
        with pytest.raises(dataset.ShardCorrupt, match=r"contamination/certificate\.json: (digest|no such file)"):
            looked.read_file("contamination/certificate.json")


def test_a_long_item_is_found_in_all_of_more_documents_of_one_shard_than_make_a_phrase_common(home: Path) -> None:
    asked = questions()
    edited = " ".join([*asked[1]["question"].split()[:-1], "Lagos"])
    texts = [f"{n} {asked[0]['question']} {n}" for n in range(12)] + [f"{n} {edited}" for n in range(12)] + ["nothing of it"]
    made = decontaminate(version_of_texts(home / "texts", texts, None), config=config(write_set(home / "sums.jsonl", asked)))
    assert made.counts.kept == 1 and made.counts.dropped == {"contaminated": 24}
    states = pq.read_table(made.file("contamination/items.parquet")).to_pylist()
    assert [(row["state"], row["documents"]) for row in states[:3]] == [("contaminated", 12), ("contaminated", 12), ("clean", 0)]
    assert {(hit["index"], hit["method"]) for hit in told(made)["hits"]} == {
        (0, "exact"),
        (0, "containment"),
        (1, "containment"),
    }


def test_a_set_that_changes_while_it_is_read_is_not_certified(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_set(home / "sums.jsonl", questions())
    given = version_of_texts(home / "texts", ["nothing"], None)

    def read_late(wanted: Any) -> Any:
        write_set(path, questions()[:2])
        return read_set(wanted)

    monkeypatch.setattr(sys.modules["tasks.decontaminate"], "read_set", read_late)
    with pytest.raises(InputError, match=r"sums sums\.jsonl: changed while it was read; run again"):
        decontaminate(given, config=config(path))


KILLED = """
import json, sys
from infra.dataset import open_version
from infra.settings import adopt_quiet_environment
from tasks.decontaminate import decontaminate
from tasks.text.contamination import DecontaminateConfig

adopt_quiet_environment()
documents, config, folder = json.loads(sys.argv[1])
decontaminate.run((open_version(documents),), DecontaminateConfig.model_validate(config), folder)
"""


@pytest.mark.soak
def test_killed_in_both_phases_it_ends_with_the_same_bytes(home: Path) -> None:
    given = documents(home, shard_bytes=3_000)
    assert len(given.shards()) > 12
    wanted = config(write_set(home / "sums.jsonl", questions()))
    calm = decontaminate.run((given,), wanted, str(home / "calm")).shards
    folder = home / "killed"
    job = json.dumps([given.folder, wanted.model_dump(mode="json"), str(folder)])
    for phase in (folder / "aside" / "found", folder):
        process = start(home, "-c", KILLED, job)
        kill_when(process, lambda phase=phase: len(receipts(phase)) >= 2, timeout_s=120)
        assert not (folder / "manifest.json").exists()
    before = finished_parts(folder)
    last = start(home, "-c", KILLED, job)
    said = last.communicate(timeout=120)[0]
    assert last.returncode == 0, said
    assert open_version(str(folder)).digest == calm.digest
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("certificate.json", "certificate.md", "hits.parquet", "items.parquet"):
        assert (folder / "contamination" / name).read_bytes() == (home / "calm" / "contamination" / name).read_bytes()


def test_held_out_documents_of_a_published_version_whose_manifest_alone_knows_the_splits_are_no_hits_of_themselves(
    home: Path,
) -> None:
    asked = [row["question"] for row in questions()]
    marked = version_of_texts(home / "split", [*asked[:4], asked[1]], ["train", "test", "test", "train", "train"])
    published = publish_step(marked, [], config=PublishConfig())
    assert "split" not in kept(published).column_names
    made = decontaminate(published, config=config(Path(published.folder)))
    assert rejected(made).keys() == {"http://old.example/4"}  # a copy in the other split
    assert told(made)["documents"]["held_out_still"] == 2
