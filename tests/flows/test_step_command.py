"""`gristmill step` on local files: shards, rejects and manifest that agree, found again, resumed after a kill, never mixed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.dataset import Manifest, read_manifest

from . import english
from .driver import Ended, commands
from .processes import finished_parts, kill_when, receipts, start

STEPS = ("signals", "filter", "rewrite", "dedup", "redact", "split", "publish", "tokenise")
NUM_PLAIN, NUM_COPIES, NUM_NEAR, NUM_SHORT, NUM_BROKEN = 60, 5, 4, 3, 2
NUM_ROWS = NUM_PLAIN + NUM_COPIES + NUM_NEAR + NUM_SHORT + NUM_BROKEN
NUM_GOOD = NUM_ROWS - NUM_BROKEN


def _corpus(path: Path) -> Path:
    texts = [english.text(seed) for seed in range(NUM_PLAIN)]
    texts[7] += " Write to jane.doe@mill-town.org about the bridge."
    texts[8] += " Her address was 8.8.8.8 in that summer, and his was john@harbour.net of old."
    texts += [texts[seed].upper() for seed in range(10, 10 + NUM_COPIES)]
    texts += [texts[seed] + " Nobody answered." for seed in range(20, 20 + NUM_NEAR)]
    texts += [f"Short {'xyz'[number]}." for number in range(NUM_SHORT)]  # numbers would make them one content
    rows = [{"text": text, "url": f"http://h{number % 7}.example/{number}"} for number, text in enumerate(texts)]
    broken = ['{"text": ', '{"title": "no text"}']
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([json.dumps(row) for row in rows] + broken), encoding="utf-8")
    return path


class Made:
    """What every step left, and what was said at the first start, at the second, and with another configuration."""

    def __init__(self, root: Path) -> None:
        self.root, self.source = root, _corpus(root / "docs.jsonl")
        changed = {
            "signals": "language_floor=0.5",
            "filter": "filter.profile=gopher",
            "rewrite": "min_chars=5",
            "dedup": "min_similarity=0.9",
            "redact": "ips=false",
            "split": "test_share=0.5",
            "publish": "title=Another",
            "tokenise": "vocab_size=500",
        }
        first = [self._words(name) for name in STEPS]
        other = [[*self._words(name), "--set", changed[name]] for name in STEPS]
        ended = commands(root / "home", *first, *first, *other)
        self.first, self.second, self.other = (dict(zip(STEPS, ended[at : at + 8], strict=True)) for at in (0, 8, 16))

    def _words(self, name: str) -> list[str]:
        extra = ["--set", "vocab_size=600"] if name == "tokenise" else []
        return ["step", name, "--input", str(self.source), "--output", str(self.folder(name)), "--workers", "1", *extra]

    def folder(self, name: str) -> Path:
        return self.root / "out" / name

    def manifest(self, name: str) -> Manifest:
        return read_manifest(str(self.folder(name)))

    def kept(self, name: str) -> list[dict[str, object]]:
        return [row for path in sorted(self.folder(name).glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]

    def rejects(self, name: str) -> list[dict[str, object]]:
        paths = sorted((self.folder(name) / "rejects").glob("part-*.parquet"))
        return [row for path in paths for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("steps"))


def _ended_well(one: Ended) -> None:
    assert one.code == 0, one.output
    assert "Traceback" not in one.output


@pytest.mark.parametrize("name", STEPS)
def test_what_a_step_wrote_agrees_with_what_it_counted(made: Made, name: str) -> None:
    _ended_well(made.first[name])
    counts = made.manifest(name).counts
    assert counts.total == counts.kept + sum(counts.dropped.values()) == NUM_GOOD
    assert len(made.kept(name)) == counts.kept > 0
    assert Counter(row["rule"] for row in made.rejects(name)) == counts.dropped
    assert f"{name}: {counts.total} in, {counts.kept} kept, {counts.total - counts.kept} dropped" in made.first[name].output


def test_the_rows_that_are_no_documents_are_rejects_of_the_import(made: Made) -> None:
    counts = read_manifest(str(made.folder("signals") / "input")).counts
    assert (counts.total, counts.kept, counts.dropped) == (NUM_ROWS, NUM_GOOD, {"broken_json": 1, "no_text": 1})


def test_the_rows_that_no_step_saw_are_told_where_plain_files_are_read(made: Made) -> None:
    said = made.first["redact"].output
    assert f"ingest: {NUM_ROWS} in, {NUM_GOOD} kept, {NUM_BROKEN} dropped ({made.source})" in said
    assert "broken_json" in said and "no_text" in said
    assert any(line.split() == ["masked.email", "2"] for line in said.splitlines())


def test_planted_duplicates_are_found_and_name_the_document_that_was_kept(made: Made) -> None:
    dropped = made.manifest("dedup").counts.dropped
    assert dropped == {"exact_duplicate": NUM_COPIES, "near_duplicate": NUM_NEAR}
    kept = {row["doc_id"] for row in made.kept("dedup")}
    assert all(row["detail"] in kept for row in made.rejects("dedup"))
    # the longest of a group stays: of the near duplicates, the one with a sentence more
    assert sum(str(row["text"]).endswith("Nobody answered.") for row in made.kept("dedup")) == NUM_NEAR


def test_short_documents_are_filtered_and_whole_documents_are_written(made: Made) -> None:
    assert sum(str(row["excerpt"]).startswith("Short") for row in made.rejects("filter")) == NUM_SHORT
    assert all(len(str(row["text"]).split()) > 50 for row in made.kept("filter"))


def test_addresses_are_masked_and_counted(made: Made) -> None:
    whole = "\n".join(str(row["text"]) for row in made.kept("redact"))
    assert not any(word in whole for word in ("jane.doe", "john@harbour", "8.8.8.8"))
    assert made.manifest("redact").facts["documents_touched"] == 2


def test_split_keeps_hosts_whole_and_publish_takes_all_for_training_without_one(made: Made) -> None:
    sides: dict[object, set[object]] = {}
    for row in made.kept("split"):
        sides.setdefault(row["host"], set()).add(row["split"])
    assert all(len(found) == 1 for found in sides.values())
    assert set.union(*sides.values()) == {"train", "validation", "test"}
    assert made.manifest("publish").facts["num_documents.train"] == NUM_GOOD
    assert "README.md" in {file.name for file in made.manifest("publish").files}


def test_tokens_are_counted_and_the_tokeniser_is_part_of_the_version(made: Made) -> None:
    manifest = made.manifest("tokenise")
    assert manifest.facts["vocab_size"] == 600
    assert manifest.facts["num_tokens.train"] > 10_000
    assert {"tokeniser/tokenizer.json", "part-00000.bin"} <= {file.name for file in manifest.files}


@pytest.mark.parametrize("name", STEPS)
def test_a_second_start_finds_the_version_complete(made: Made, name: str) -> None:
    _ended_well(made.second[name])
    assert "found complete" in made.second[name].output
    assert "found complete" not in made.first[name].output


@pytest.mark.parametrize("name", STEPS)
def test_another_configuration_is_refused_in_the_same_folder(made: Made, name: str) -> None:
    ended = made.other[name]
    assert ended.code == 2
    assert f"{made.folder(name)}: holds {name} version {made.manifest(name).version}" in ended.output
    assert "give another folder" in ended.output
    assert "Traceback" not in ended.output


def test_a_filter_of_plain_files_has_the_groups_measured_that_its_profile_needs(tmp_path: Path) -> None:
    source, out, measured = _corpus(tmp_path / "docs.jsonl"), tmp_path / "out", tmp_path / "signals"
    profile = ["--set", "profile=datatrove-0.10", "--set", "languages=[]"]
    words = ["--workers", "1", "--output"]
    by_itself, signals, without = commands(
        tmp_path / "home",
        ["step", "filter", "--input", str(source), *profile, *words, str(out)],
        ["step", "signals", "--input", str(source), *words, str(measured)],
        ["step", "filter", "--input", str(measured), *profile, *words, str(tmp_path / "none")],
    )
    _ended_well(by_itself)
    counts = read_manifest(str(out)).counts
    assert counts.total == NUM_GOOD and counts.kept > 0
    # "Short 1." is one pair of words from its begin nearly to its end
    assert counts.dropped["datatrove_repetition_top_2_gram"] == NUM_SHORT
    columns = pq.read_schema(next((out / "input-signals").glob("part-*.parquet"))).names
    assert {"datatrove_num_words", "median_word_length"} <= set(columns)
    _ended_well(signals)
    assert without.code != 0
    assert "signals.groups must name datatrove" in " ".join(without.output.split())


def _many_shards(folder: Path, num_files: int) -> list[str]:
    """A folder that `ingest` makes a shard of each file of, and the words for it up to the output folder."""
    folder.mkdir()
    for number in range(num_files):
        (folder / f"{number:03d}.jsonl").write_text(json.dumps({"text": english.text(number), "id": number}))
    return ["step", "ingest", "--input", str(folder), "--set", "shard_bytes=1000", "--output"]


def test_ctrl_c_ends_a_step_with_one_sentence(tmp_path: Path) -> None:
    words = [*_many_shards(tmp_path / "many", 150), str(tmp_path / "out")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background may be told to ignore it
    process = start(tmp_path / "home", "-m", "flows", *words, "--workers", "2")
    signal.signal(signal.SIGINT, before)
    while len(receipts(tmp_path / "out")) < 20:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process of the group hears it
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Interrupted. The same words go on where it stood" in said
    assert "Traceback" not in said


def test_a_killed_step_goes_on_where_it_stood_and_ends_with_the_same_digest(tmp_path: Path) -> None:
    num_files, home = 100, tmp_path / "home"
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    words = _many_shards(tmp_path / "many", num_files)
    process = start(home, "-m", "flows", *words, str(killed), "--workers", "2")
    kill_when(process, lambda: len(receipts(killed)) >= 20)
    before = finished_parts(killed)
    assert 20 <= len(before) < num_files
    assert not (killed / "manifest.json").exists()
    # as if the kill had fallen between writing and renaming
    (killed / "shards" / ".tmp-0-00099.json").write_text('{"index": 9')
    (killed / ".tmp-0-part-00099.parquet").write_bytes(b"PAR1")

    again, undisturbed = commands(home, [*words, str(killed), "--workers", "1"], [*words, str(calm), "--workers", "1"])
    _ended_well(again)
    _ended_well(undisturbed)
    assert json.loads((killed / "run.json").read_text())["resumed_shards"] == len(before)
    assert f"{len(before)} shards from an earlier start" in again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    resumed, whole = read_manifest(str(killed)), read_manifest(str(calm))
    assert resumed.digest == whole.digest
    assert resumed.counts == whole.counts
    assert resumed.counts.kept == num_files


@pytest.mark.soak
def test_a_model_is_made_scored_and_described_by_single_steps(made: Made, tmp_path: Path) -> None:
    folders = {
        name: str(tmp_path / name) for name in ("publish", "tokenise", "pretrain", "evaluate", "benchmark", "register", "report")
    }
    nano = ("model.preset=nano", "model.hidden_size=32", "model.num_layers=1", "model.intermediate_size=64")
    training = (*nano, "model.context_length=32", "max_steps=4", "warmup_steps=1", "eval_batches=1", "num_threads=1")
    chain: dict[str, tuple[list[str], tuple[str, ...]]] = {
        "publish": ([str(made.folder("split"))], ()),
        "tokenise": ([folders["publish"]], ("vocab_size=400",)),
        "pretrain": ([folders["tokenise"]], training),
        "evaluate": (
            [folders["tokenise"], folders["pretrain"]],
            ("max_documents=2", "num_threads=1", "samples.max_new_tokens=2"),
        ),
        "benchmark": (
            [folders["publish"], folders["pretrain"]],
            ("num_threads=1", "packs.num_items=2", "reasoning=null", "hallucination.num_items=2", "hallucination.num_samples=2"),
        ),
        # in an order of its own: what only one step makes is known by its manifest
        "register": ([folders["evaluate"], folders["publish"], folders["pretrain"]], ()),
        "report": ([folders["evaluate"], folders["pretrain"], folders["publish"]], ()),
    }
    words = [
        ["step", name, "--output", folders[name], "--workers", "1"]
        + [word for path in inputs for word in ("--input", path)]
        + [word for one in settings for word in ("--set", one)]
        for name, (inputs, settings) in chain.items()
    ]
    refused = ["step", "pretrain", "--input", str(made.source), "--output", str(tmp_path / "refused"), "--workers", "1"]
    *ended, wrong = commands(tmp_path / "home", *words, refused)
    for one in ended:
        _ended_well(one)
    assert read_manifest(folders["evaluate"]).facts["perplexity"] > 1
    assert json.loads((Path(folders["benchmark"]) / "scores.json").read_text())["figures"]
    trained, registered = read_manifest(folders["pretrain"]), Path(folders["register"])
    card = (registered / "README.md").read_text()
    assert trained.digest in card and "unigram baseline" in card and "| model.preset | nano |" in card
    assert (
        "| Device | cpu (" in card
        and "| MFU | " in card
        and "| efficiency.tokens_per_s | " in card
        and "| heldout.perplexity | " in card
    )  # which differ from machine to machine, so the digest does not name the card
    assert "Not measured: tasks, reasoning, hallucination, bias" in card
    # one machine is not too few of them
    assert "efficiency" not in card.partition("Measured on too little to tell")[2]
    assert [file.name for file in read_manifest(str(registered)).files] == ["model.json"]
    assert json.loads((registered / "model.json").read_text())["dataset"]["digest"] == read_manifest(folders["publish"]).digest
    page = (Path(folders["report"]) / "report.html").read_text()
    for shown in ("LLaMA-style causal language model", "Training and validation loss by step", "tokens per second by time"):
        assert shown in page, shown
    speed = json.loads((Path(folders["pretrain"]) / "beside" / "speed.json").read_text())
    assert [row["step"] for row in speed] == [1, 4] and all(row["tokens_per_s"] > 0 for row in speed)
    assert not any("speed" in file.name or "mfu" in file.name for file in trained.files)
    assert wrong.code == 2
    assert "one --input must be tokens, which `gristmill step tokenise` writes" in wrong.output


@pytest.mark.soak
def test_a_corpus_grows_and_forgets_step_by_step(tmp_path: Path) -> None:
    for name, numbers in (("october", range(6)), ("november", range(4, 9))):
        rows = [{"text": english.text(number), "id": f"{name}-{number}"} for number in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    at = {name: str(tmp_path / name) for name in ("october-index", "both-index", "other", "unique", "left")}
    index = ["step", "index", "--workers", "1", "--input", str(tmp_path / "november.jsonl"), "--set"]
    first, grown, unlike, unique, shown, nothing, scheme, unknown = commands(
        tmp_path / "home",
        ["step", "index", "--workers", "1", "--input", str(tmp_path / "october.jsonl"), "--output", at["october-index"]],
        [*index, f"base={at['october-index']}", "--output", at["both-index"]],
        [*index, f"base={at['october-index']}", "--set", "num_bands=20", "--output", at["other"]],
        ["step", "dedup", "--workers", "1", "--input", at["both-index"], "--output", at["unique"]],
        ["rejects", os.path.relpath(at["unique"])],
        ["step", "forget", "--input", at["both-index"], "--output", at["left"]],
        ["step", "forget", "--input", at["both-index"], "--set", "domains=['https://a.example/']", "--output", at["left"]],
        ["step", "forget", "--input", at["both-index"], "--set", "domains=[a.exmaple]", "--output", at["left"]],
    )
    for ended in (first, grown, unique, shown):
        _ended_well(ended)
    assert unlike.code == 2 and "index.num_bands (got 20, there 14)" in unlike.output
    assert read_manifest(at["unique"]).counts.dropped == {"exact_duplicate": 2} and "exact_duplicate" in shown.output
    assert nothing.code == 2 and "nothing is named" in nothing.output
    assert scheme.code == 2 and "a domain has no scheme and no path" in scheme.output
    assert unknown.code == 0 and read_manifest(at["left"]).facts["names_without_documents"] == 1
