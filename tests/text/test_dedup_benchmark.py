"""How the benchmark of deduplication runs a tool, and what it takes from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import dedup, dedup_runs, dedup_truth, edited_corpus
from benchmarks.edited_corpus import EditedCorpusConfig, Kind
from tasks.text import minhash
from tasks.web import demo

WORK = """
import pathlib, subprocess, sys, time
if len(sys.argv) > 1:
    block = bytearray(80_000_000)
    time.sleep(0.5)
    sys.exit()
child = subprocess.run([sys.executable, __file__, "child"], check=True)
pathlib.Path(__file__).with_name("run").joinpath("big").write_bytes(bytes(3_000_000))
end = time.process_time() + 0.5
while time.process_time() < end:
    pass
pathlib.Path(__file__).with_name("run").joinpath("big").unlink()
"""


def test_a_run_is_charged_for_its_children_and_for_files_it_removes(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    used = dedup_runs.measured([sys.executable, str(script)], tmp_path / "run")
    assert 0.5 <= used.cpu_s < 5
    assert used.wall_s >= 1
    assert used.largest_bytes >= 80_000_000
    assert used.total_bytes > 80_000_000
    assert used.disk_bytes >= 3_000_000


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ended with 3:\nno such corpus"):
        dedup_runs.measured([sys.executable, "-c", "print('no such corpus'); raise SystemExit(3)"], tmp_path / "run")


def test_what_is_kept_is_read_from_every_format_and_from_results_only(tmp_path: Path) -> None:
    for folder in ("cache", "kept", "jsonl/aside"):
        (tmp_path / folder).mkdir(parents=True)
    pq.write_table(pa.table({"doc_id": ["a"]}), tmp_path / "part-00000.parquet")
    pq.write_table(pa.table({"doc_id": ["no result"]}), tmp_path / "cache" / "all.parquet")
    table = pa.table({"doc_id": pa.array(["b", "c"], pa.large_string()), "text": ["one", "two"]})
    with pa.ipc.new_stream(tmp_path / "kept" / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "jsonl" / "00000.jsonl").write_text(json.dumps({"id": "d", "text": "x"}) + "\n")
    (tmp_path / "jsonl" / "aside" / "00000.jsonl").write_text(json.dumps({"id": "no result"}) + "\n")
    assert sorted(dedup_runs.kept_ids(tmp_path).to_pylist()) == ["a", "b", "c", "d"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="no kept documents"):
        dedup_runs.kept_ids(tmp_path / "empty")


def test_the_sample_for_the_truth_has_whole_families_but_not_the_huge_one() -> None:
    plan = edited_corpus.make_plan(EditedCorpusConfig(num_documents=4000, sentences=""))
    rows = dedup.sampled_rows(plan, max_documents=1000)
    assert 900 < len(rows) <= 1000
    whole = dict(zip(*np.unique(plan["family"], return_counts=True), strict=True))
    assert all(whole[family] == count for family, count in zip(*np.unique(rows["family"], return_counts=True), strict=True))
    assert Kind.BUCKET not in set(rows["kind"])
    assert len(dedup.sampled_rows(plan)) == len(plan)


@pytest.mark.soak
def test_ours_as_the_benchmark_runs_it_keeps_one_of_each_planted_group(tmp_path: Path) -> None:
    pytest.importorskip("botocore")
    texts = (text for name in ("ec2", "s3") for text in edited_corpus.documentation_of(demo._read_service(name)))
    path = tmp_path / "sentences.parquet"
    pq.write_table(pa.table({"sentence": edited_corpus.split_sentences(texts)}), path)
    config = EditedCorpusConfig(num_documents=300, median_words=300, sentences=str(path), shard_documents=100)
    corpus = dedup_runs.Corpus(
        config, edited_corpus.make(tmp_path / "corpus", config, workers=1), edited_corpus.make_plan(config)
    )
    minhash.compile_kernels()
    used, kept = dedup_runs.run_tool(dedup_runs.OURS, corpus)
    stays = dedup_runs.is_kept(corpus.plan, corpus, kept)
    assert stays.sum() == len(kept) < 300
    found = dedup_truth.score(dedup.truth_of_rows(corpus.plan, corpus), stays)
    assert found.recall >= dedup.MIN_RECALL
    assert found.precision == found.copies == 1
    assert used.cpu_s > 0
