"""`gristmill read-by` tells of every step the tokens that training was given, and of every document the steps that were told with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from expectations.schemas import AUGMENTED, PUBLISHED
from flows import read_by
from flows.trained import Training, find, training_of
from infra import dataset, ids, ledger, storage, tracking
from infra.dataset import Outcome, ShardSet
from infra.errors import InputError
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.learn import tokens, trainer, training
from tasks.learn.config import TrainConfig
from tasks.learn.data_config import DataConfig
from tasks.learn.sampler import IGNORED, ORDER, Batch, Sampler
from tasks.pretrain import pretrain
from tasks.tokenise import tokenise

from . import english
from .driver import commands, environment
from .made_store import make

TINY = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "context_length": 32}
SMALL: dict[str, Any] = {"batch_size": 4, "gradient_accumulation": 2, "num_threads": 1, "device": "cpu", "precision": "fp32"}
CONFIGS = {
    # step 15 is an outlier, for its loss is made one
    "mixed": TrainConfig(
        **SMALL, model=ModelConfig(preset="nano", num_kv_heads=2, **TINY), max_steps=20, warmup_steps=2, eval_batches=1, keep="last",
        data=DataConfig(packing="best_fit", weights={"books": 0.4}),
    ),
    # diverges, so that the model is that of an early step
    "early": TrainConfig(
        **SMALL, model=ModelConfig(preset="nano", num_kv_heads=2, **TINY), max_steps=40, warmup_steps=39, eval_batches=1,
        eval_every_steps=2, early_stopping=3, learning_rate=3.0, skip_spikes=0, data=DataConfig(packing="documents"),
    ),
    "masked": TrainConfig(
        **SMALL, model=ModelConfig(preset="nano", family="bert", **TINY), max_steps=5, warmup_steps=1, eval_batches=1, keep="last",
        data=DataConfig(packing="stream", epochs={"web": 2}),
    ),
}  # fmt: skip
SPIKED = 15
Record = dict[int, Batch]
"""What training was given, by the first sample."""


@dataclass(frozen=True)
class Trained:
    """A model, what is told of it, and what its training was given."""

    model: ShardSet
    told: Training
    record: Record
    dataset: ShardSet

    @property
    def spans(self) -> list[dict[str, Any]]:
        """All that is told of all its steps."""
        return [one for step in range(1, self.told.steps + 1) for one in read_by.of_step(self.told, step)["spans"]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("read-by") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(folder))
        for name in ("GRISTMILL_STORAGE", "GRISTMILL_PREFECT_API_URL", "GRISTMILL_MLFLOW_URL"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def trained(home: Path) -> dict[str, Trained]:
    """The trained models, by the names of their configurations; the last run has the mixed one."""
    published = publish()
    given = {kind: tokenise(published, config=TokeniserConfig(kind=kind, vocab_size=400)) for kind in ("bpe", "wordpiece")}
    found = {}
    for name in ("masked", "early", "mixed"):
        made_of = given["wordpiece" if name == "masked" else "bpe"]
        with ledger.run(f"run-{name}"), recorded(name) as record:
            ledger.enter(ledger.Entry.of(published, loaded=True, seconds=0.0))
            model = pretrain(
                tokenise(published, config=TokeniserConfig(**made_of.manifest().recipe["config"])), config=CONFIGS[name]
            )
        found[name] = Trained(model, training_of(model), record, published)
        registered = {
            "name": "mine",
            "version": str(len(found)),
            "digest": model.digest,
            "model_id": "m",
            "url": "http://mlflow.example/",
        }
        make("register", None, inputs={"model": model, "dataset": published}, config={"name": name}, schema="registry",
             noted={"registered": registered})  # fmt: skip
    return found


class recorded:  # noqa: N801 -- used as a function
    """Train in this process, and keep what the loop asks for."""

    def __init__(self, name: str) -> None:
        self.name, self.patch, self.record = name, pytest.MonkeyPatch(), Record()

    def __enter__(self) -> Record:
        self.patch.setattr("tasks.pretrain.run", run_here)
        self.patch.setattr(trainer, "of_training", self.of_training)
        if self.name == "mixed":
            self.patch.setattr("tasks.learn.spikes.WINDOW", 8)
            self.patch.setattr(trainer._Measured, "add", spiking(trainer._Measured.add))
        return self.record

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def of_training(self, *given: Any, **more: Any) -> Sampler:
        from tasks.learn.sampler import of_training

        made = of_training(*given, **more)
        batch = made.batch

        def keeping(first: int, count: int) -> Batch:
            if count > 1:  # as the loop asks; the fingerprint of a masked model asks for single ones
                self.record[first] = batch(first, count)
            return batch(first, count)

        made.batch = keeping  # type: ignore[method-assign]
        return made


def spiking(add: Callable[..., None]) -> Callable[..., None]:
    seen = [0]

    def spike(self: Any, rows: slice, *given: Any) -> None:
        add(self, rows, *given)
        last = len(self.nats) == 8 and rows.start == 4  # the second of two passes of a step
        seen[0] += last
        if seen[0] == SPIKED and last:
            self.nats *= 100

    return spike


def run_here(job: Any, environment: Mapping[str, str], **hears: Any) -> dict[str, Any]:
    """What `tasks.learn.job.run` does, without a process of its own: that takes seconds to import torch."""
    training._train(job)
    told = [json.loads(line) for line in Path(job.events).read_text().splitlines()]
    result: dict[str, Any] = next(one["result"] for one in told if "result" in one)
    return result


def rows() -> list[dict[str, Any]]:
    """50 documents of two sources and three hosts, one of them a copy; the last six are held out, the first two of them for validation."""
    hosts = ("a.example", "www.a.example", "b.example")
    found = []
    for number in range(50):
        text = english.text(number)[: 40 + number * 37 % 600]
        url = f"http://{hosts[number % 3]}/{number}"
        source = "web" if number % 4 else "books"
        found.append(
            {"doc_id": ids.doc_id(source, url, text), "text": text, "source": source, "url": url, "host": hosts[number % 3]}
        )
    found[7] |= {"augmented": "noise", "augmented_from": found[3]["doc_id"], "url": None, "host": None}
    return found


def publish() -> ShardSet:
    recipe = {"step": "publish", "inputs": {}, "config": {"title": "T"}}
    folder = storage.join(dataset.folder_of("publish"), dataset.version_of(recipe))
    schema = pa.schema([*PUBLISHED, *AUGMENTED])
    parts = [rows()[:20], rows()[20:-6], rows()[-6:-4], rows()[-4:]]
    receipts = [
        dataset.write_shard(folder, number, Outcome(pa.Table.from_pylist(one, schema=schema))) for number, one in enumerate(parts)
    ]
    splits = {"train": [0, 1], "validation": [2], "test": [3]}
    storage.write_json(storage.join(folder, "run.json"), {})
    dataset.seal(
        folder, step="publish", schema_name="published", recipe=recipe, receipts=receipts, files=[], facts={"splits": splits}
    )
    return dataset.open_version(folder)


def tokens_of(made_of: ShardSet) -> dict[str, list[int]]:
    """The tokens of every document, from the files."""
    found = {}
    for index in range(4):
        shard = tokens.read_shard(made_of.folder, index)
        for one in shard.docs.to_pylist():
            found[one["doc_id"]] = shard.tokens[one["offset"] : one["offset"] + one["num_tokens"]].tolist()
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tokens_told_of_a_step_are_those_that_training_was_given(name: str, trained: dict[str, Trained]) -> None:
    one, per_step = trained[name], CONFIGS[name].samples_per_step
    assert sorted(one.record) == [step * per_step for step in range(one.told.steps)] and not one.told.doubts
    texts = tokens_of(one.told.tokens)
    for first, batch in one.record.items():
        told = read_by.of_step(one.told, first // per_step + 1)
        for row in range(per_step):
            spans = [span for span in told["spans"] if span["sample"] == first + row]
            said = [at for span in spans for at in texts[span["doc_id"]][span["first_token"] :][: span["num_tokens"]]]
            learned = batch.labels[row] != IGNORED
            # of a masked model the labels are the tokens that are hidden, and all others are in its inputs
            given = np.where(learned, batch.labels[row], batch.inputs[row]) if one.told.masked else batch.labels[row][learned]
            assert given[: len(said)].tolist() == said and not learned[len(said) :].any()
            assert sum(span["num_targets"] for span in spans) == learned.sum() > 0
            assert {span["source"] for span in spans} == {one.told.sampler.sources[batch.sources[row]]}
    assert {span["doc_id"] for span in one.spans} <= set(one.told.train.ids.to_pylist())


@pytest.mark.parametrize("name", CONFIGS)
def test_from_documents_to_steps_is_the_inverse_of_from_steps_to_documents(name: str, trained: dict[str, Trained]) -> None:
    one = trained[name]
    answers = [read_by.of_document(one.told, doc) for doc in one.told.train.ids.to_pylist()]
    back = [span for answer in answers for span in answer["spans"]]
    # a document's answer has its copy's spans, too
    distinct = {json.dumps(span, sort_keys=True) for span in back}
    assert distinct == {json.dumps(span, sort_keys=True) for span in one.spans} and len(distinct) == len(one.spans)
    for summary in {told["doc_id"]: told for answer in answers for told in answer["documents"]}.values():
        own = [span for span in one.spans if span["doc_id"] == summary["doc_id"]]
        learned = [span for span in own if span["effect"] == "learned"]
        times = Counter(at for span in learned for at in range(span["first_token"], span["first_token"] + span["num_tokens"]))
        counted = [times[at] for at in range(summary["num_tokens"])]
        assert summary["times"] == [min(counted), max(counted)] and summary["tokens_read"] == sum(counted)
        assert summary["samples_learned"] == len({span["sample"] for span in learned})
        steps = [span["step"] for span in learned]
        assert [summary["first_step"], summary["last_step"]] == ([min(steps), max(steps)] if steps else [None, None])


@pytest.mark.parametrize("name", CONFIGS)
def test_sources_and_domains_are_the_sums_of_what_their_documents_were_read(name: str, trained: dict[str, Trained]) -> None:
    one, of = trained[name], {row["doc_id"]: row for row in rows()}
    learned = [span for span in one.spans if span["effect"] == "learned"]
    answer = read_by.of_groups(one.told, ["books", "web"], ["a.example", "B.example", "example", "nowhere.example"])
    hosts = [("a.example", "www.a.example"), ("b.example",), ("a.example", "www.a.example", "b.example"), ()]
    members = [*([doc for doc in of if of[doc]["source"] == source] for source in ("books", "web")),
               *([doc for doc in of if of[doc]["host"] in some] for some in hosts)]  # fmt: skip
    held_out = {row["doc_id"] for row in rows()[-6:]}
    sizes = {doc: len(some) for doc, some in tokens_of(one.told.tokens).items()}
    for group, docs in zip(answer["groups"], members, strict=True):
        spans = [span for span in learned if span["doc_id"] in docs]
        train = [doc for doc in docs if doc not in held_out]
        assert (group["documents"], group["documents_held_out"]) == (len(train), len(docs) - len(train))
        assert group["documents_read"] == len({span["doc_id"] for span in spans})
        assert group["tokens"] == sum(sizes[doc] for doc in train)
        assert group["tokens_read"] == sum(span["num_tokens"] for span in spans)
        different = {(span["doc_id"], span["first_token"] + at) for span in spans for at in range(span["num_tokens"])}
        assert group["different_tokens_read"] == len(different)
        assert group["samples"] == len({span["sample"] for span in spans})
        steps = [span["step"] for span in spans]
        assert [group["first_step"], group["last_step"]] == ([min(steps), max(steps)] if steps else [None, None])


def test_a_step_that_was_an_outlier_taught_nothing_and_says_so(trained: dict[str, Trained]) -> None:
    one = trained["mixed"].told
    answer = read_by.of_step(one, SPIKED)
    [noted] = json.loads(one.model.read_file("skipped.json"))
    assert noted["step"] == SPIKED and answer["outlier"] == {"loss": noted["loss"], "norm": noted["norm"]}
    # which documents these were training wrote down itself
    assert list(dict.fromkeys(span["doc_id"] for span in answer["spans"])) == noted["documents"]
    assert {span["effect"] for span in answer["spans"]} == {"skipped"}
    summaries = read_by.of_document(one, noted["documents"][0])["documents"]
    assert summaries[0]["samples_skipped"] >= 1
    assert read_by.of_step(one, SPIKED - 1)["outlier"] is None


def test_steps_after_the_one_whose_weights_are_kept_are_told_apart(trained: dict[str, Trained]) -> None:
    one = trained["early"].told
    assert one.kept_step == one.steps - 6 and one.steps < CONFIGS["early"].max_steps
    effects = {step: read_by.of_step(one, step)["effect"] for step in range(1, one.steps + 1)}
    assert effects == {step: "learned" if step <= one.kept_step else "later" for step in effects}
    with pytest.raises(InputError, match=rf"--step 41: pretrain/\w+ was trained in {one.steps} steps, of 40 that were planned"):
        read_by.of_step(one, 41)
    with pytest.raises(InputError, match=r"--step 21: pretrain/\w+ was trained in 20 steps; give one from 1 to that"):
        read_by.of_step(trained["mixed"].told, 21)


def test_the_text_of_spans_is_that_of_the_document(trained: dict[str, Trained]) -> None:
    one, row = trained["mixed"].told, rows()[12]
    answer = read_by.of_document(one, row["url"], text=True)
    parts = {span["first_token"]: span["text"] for span in answer["spans"]}
    assert answer["documents"][0]["times"][0] >= 1 and len(parts) > 1
    assert "".join(parts[at] for at in sorted(parts)) == row["text"] + "<|endoftext|>"


def test_a_document_is_known_by_url_and_id_with_its_copies_and_a_held_out_one_as_such(trained: dict[str, Trained]) -> None:
    one = trained["mixed"].told
    original, copy, held_out = rows()[3], rows()[7], rows()[-1]
    by_url = read_by.of_document(one, original["url"].upper().replace("HTTP", "http"))
    assert by_url["spans"] == read_by.of_document(one, original["doc_id"])["spans"]
    assert {told["doc_id"]: told["augmented_from"] for told in by_url["documents"]} == {
        original["doc_id"]: None,
        copy["doc_id"]: original["doc_id"],
    }
    for row, split in ((held_out, "test"), (rows()[-5], "validation")):
        answer = read_by.of_document(one, row["url"])
        [told] = answer["documents"]
        assert told["split"] == split and told["samples_learned"] == 0 and answer["spans"] == []
    assert read_by.in_words(one, rows()[-5]["doc_id"]) == "held out for validation: not learned from"
    with pytest.raises(InputError, match=r"nowhere: is not among the documents of tokenise/\w+, .*`gristmill trace` says"):
        read_by.of_document(one, "http://a.example/nowhere")
    with pytest.raises(InputError, match=r"--source bocks: no document .* nearest: books"):
        read_by.of_groups(one, ["bocks"], [])
    with pytest.raises(InputError, match=r"--domain http://a\.example/: a domain has no scheme"):
        read_by.of_groups(one, [], ["http://a.example/"])


@pytest.mark.parametrize(("column", "number"), [("url", 12), ("doc_id", 3)])
def test_the_text_of_a_document_that_was_taken_down_is_not_shown(column: str, number: int, trained: dict[str, Trained]) -> None:
    one, row = trained["mixed"].told, rows()[number]
    forgotten = make("forget", None, config={f"{column}s": [row[column]]}, schema="forgotten")
    try:
        answer = read_by.of_document(one, row["url"], text=True)
        assert len(answer["documents"]) == (2 if number == 3 else 1)  # with its copy
        assert {span["text"] for span in answer["spans"]} == {"(taken down)"}
        assert "(taken down)" not in {span["text"] for span in read_by.of_document(one, rows()[13]["url"], text=True)["spans"]}
    finally:
        storage.remove(forgotten.folder)


def copied(model: ShardSet, folder: Path, config: Mapping[str, Any] | None = None, **facts: Any) -> ShardSet:
    """The same model with other facts, of which None takes one away, and keys of its configuration."""
    manifest = model.manifest()
    data = {name: value for name, value in {**manifest.facts["data"], **facts}.items() if value is not None}
    recipe = {**manifest.recipe, "config": {**manifest.recipe["config"], **(config or {})}, "code": "0ther"}
    storage.write_json(str(folder / "run.json"), {"code_version": "0ld"})
    storage.write_bytes(str(folder / "skipped.json"), model.read_file("skipped.json"))
    dataset.seal(str(folder), step="pretrain", schema_name="model", recipe=recipe, receipts=[], files=[],
                 facts={**manifest.facts, "data": data})  # fmt: skip
    return dataset.open_version(str(folder))


def test_an_order_that_is_not_the_trainings_is_refused_and_one_that_nothing_proves_is_doubted(
    trained: dict[str, Trained], tmp_path: Path
) -> None:
    model = trained["mixed"].model
    assert not training_of(copied(model, tmp_path / "same")).doubts  # other code, and the same order
    [doubt] = training_of(copied(model, tmp_path / "unproved", **{ORDER: None})).doubts
    assert "was trained by other code (version 0ld)" in doubt
    for name, change in (("order", {ORDER: "0" * 32}), ("plan", {"num_samples": 5, ORDER: None})):
        with pytest.raises(InputError, match=r"in another order than this code does .*ask the code that trained it, version 0ld"):
            training_of(copied(model, tmp_path / name, **change))
    with pytest.raises(InputError, match=r"another release, whose configuration means nothing here \(hum: Extra inputs"):
        training_of(copied(model, tmp_path / "config", {"hum": 1}))
    with pytest.raises(InputError, match=r"another order than this code does \(order: not as"):
        training_of(copied(model, tmp_path / "seed", {"seed": 2}))


def test_a_model_whose_tokens_are_gone_says_what_to_do(trained: dict[str, Trained], tmp_path: Path) -> None:
    model = trained["mixed"].model
    folder, aside = Path(trained["mixed"].told.tokens.folder), tmp_path / "aside"
    folder.rename(aside)
    try:
        with pytest.raises(
            InputError, match=r"follows from tokenise/\w+, which is not in the store as it was .*gristmill rerun RUN"
        ):
            training_of(model)
    finally:
        aside.rename(folder)


def test_a_continued_model_tells_of_its_own_training_though_its_checkpoint_is_gone(
    trained: dict[str, Trained], tmp_path: Path
) -> None:
    base = trained["masked"]
    config = TrainConfig(**SMALL, model=ModelConfig(from_checkpoint=base.model.path), max_steps=2, warmup_steps=0, eval_batches=1)
    with recorded("continued") as record:
        model = pretrain(base.told.tokens, config=config)
    folder, aside = Path(base.model.folder), tmp_path / "aside"
    folder.rename(aside)
    try:
        told = training_of(model)
        assert told.masked and told.as_json()["goes_on_from"] == base.model.path
        spans = read_by.of_step(told, 2)["spans"]
        assert sum(span["num_targets"] for span in spans) == (record[8].labels != IGNORED).sum()
    finally:
        aside.rename(folder)


def test_models_are_found_by_the_names_that_lineage_takes(trained: dict[str, Trained]) -> None:
    mixed = trained["mixed"].model
    names = ["latest", mixed.version, f"pretrain/{mixed.version}", mixed.digest[:8], "mine:3", "run-mixed", mixed.folder]
    assert [find(name, pytest.fail) for name in names[:-1]] == [mixed] * 6 and find(names[-1], pytest.fail).digest == mixed.digest
    with pytest.raises(InputError, match=r"mine: these are 3 models \(mine:1, mine:2, mine:3\); give one"):
        find("mine", pytest.fail)
    with pytest.raises(InputError, match=r"publish \w+ is no model that was trained in steps"):
        find(trained["mixed"].dataset.version, pytest.fail)
    with pytest.raises(InputError, match="nobody: no model, version or run of that name"):
        find("nobody", pytest.fail)
    with pytest.raises(InputError, match="holds published, and no model that was trained in steps"):
        training_of(trained["mixed"].dataset)


def test_an_alias_is_asked_of_the_registry(trained: dict[str, Trained], monkeypatch: pytest.MonkeyPatch) -> None:
    early = trained["early"].model
    rows = [{"name": "mine", "version": "2", "digest": early.digest, "aliases": ["champion"], "url": "http://mlflow.example/"}]
    for name, answer in (("enabled", True), ("reachable", True), ("registered_models", rows)):
        monkeypatch.setattr(tracking, name, lambda answer=answer: answer)
    assert find("mine@champion", pytest.fail) == early
    with pytest.raises(InputError, match="mine@challenger: no model"):
        find("mine@challenger", pytest.fail)


def test_the_command_and_trace_tell_it(trained: dict[str, Trained], home: Path) -> None:
    one, row = trained["mixed"].told, rows()[12]
    step, page, shown, text, groups, wrong, none, beyond, traced, held_out = commands(
        home,
        ["read-by", "latest", "--step", "3", "--format", "json"],
        ["read-by", "mine:3", "--document", row["url"], "--format", "json"],
        ["read-by", "mine:3", "--document", row["url"], "--num", "1"],
        ["read-by", "mine:3", "--step", str(SPIKED), "--text"],
        ["read-by", "mine:1", "--source", "books", "--domain", "a.example"],
        ["read-by", "mine:3", "--step", "3", "--source", "books"],
        ["read-by", "mine:3"],
        ["read-by", "mine:3", "--step", "21"],
        ["trace", row["url"]],
        ["trace", rows()[-1]["url"]],
    )
    assert (step.code, page.code, wrong.code, none.code, beyond.code) == (0, 0, 2, 2, 2)
    assert json.loads(step.output) == read_by.of_step(one, 3) and json.loads(step.output)["order"] == "proved"
    expected = read_by.of_document(one, row["url"])
    assert json.loads(page.output) == expected
    [summary] = expected["documents"]
    words = f"learned from in {summary['samples_learned']} samples, first in step {summary['first_step']}, last in step"
    assert words in shown.output and f"… and {len(expected['spans']) - 1} more" in shown.output and row["doc_id"] in shown.output
    assert "it was an outlier (loss" in text.output and "changed nothing" in text.output and "tokens from" in text.output
    assert "source books" in groups.output and "domain a.example" in groups.output
    assert "Give one of --step" in wrong.output and "Give one of --step" in none.output and "--step 21:" in beyond.output
    assert f"pretrain   {words}" in traced.output and f"(version {one.model.version})" in traced.output
    assert "pretrain   held out: not learned from" in held_out.output


def test_no_torch_is_needed(trained: dict[str, Trained], home: Path) -> None:
    asked = ["read-by", "latest", "--step", "1", "--text"]
    code = f"import sys; sys.argv = ['gristmill', *{asked}]; from flows.__main__ import app; app(standalone_mode=False); " \
           "assert not {'torch', 'transformers', 'mlflow', 'prefect'} & set(sys.modules)"  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", code], env=environment(home), capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "tokens from" in ended.stdout, ended.stderr
