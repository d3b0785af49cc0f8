"""The step `probe` on a trained version, alone and at the command line, and `gristmill canaries`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import BertConfig, BertForMaskedLM

from expectations.schemas import ITEMS, PUBLISHED
from expectations.schemas import SCORES as SCORES_SCHEMA
from flows.keys import ConfigError, overrides_of
from infra import dataset, ids, storage
from infra.dataset import Outcome, ShardSet
from infra.errors import InputError
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.learn.config import ITEMS as ITEMS_FILE
from tasks.learn.config import SCORES, TrainConfig
from tasks.learn.figures import of_all
from tasks.learn.probe_config import (
    BiasConfig,
    CanaryProbe,
    MemorisationConfig,
    PrivacyConfig,
    ProbeConfig,
    TextsConfig,
    ToxicityProbe,
)
from tasks.pretrain import pretrain
from tasks.probe import probe
from tasks.text.canaries import CanaryConfig, documents
from tasks.text.classifier import FLAG_AT, load
from tasks.tokenise import tokenise
from tasks.toxicity import ToxicityConfig, toxicity
from tests.text.planted import remark

from . import english
from .driver import commands

PARTS = dict.fromkeys(("bias", "toxicity", "texts", "memorisation", "privacy", "canaries"))
SMALL = ProbeConfig(
    device="cpu",
    num_threads=1,
    examples=2,
    bias=BiasConfig(templates=False),
    toxicity=ToxicityProbe(samples_per_beginning=1, max_new_tokens=2),
    texts=TextsConfig(num_texts=3, max_new_tokens=8),
    memorisation=MemorisationConfig(passages=4),
    privacy=PrivacyConfig(documents=4),
    canaries=CanaryProbe(seed=3, num=3, repeats=(1, 2), references=3),
)


class Made:
    """A corpus with planted canaries, its token shards, and a model of three steps."""

    def __init__(self) -> None:
        texts = [english.text(number)[:600] for number in range(20)] + [
            row["text"] for row in documents(CanaryConfig(seed=3, num=2, repeats=(1, 2)))
        ]
        parts = [self._rows(texts), self._rows([english.text(number)[:600] for number in range(90, 100)])]
        folder = storage.join(dataset.folder_of("publish"), "one")
        receipts = [
            dataset.write_shard(folder, number, Outcome(pa.Table.from_pylist(part, PUBLISHED)))
            for number, part in enumerate(parts)
        ]
        facts = {"splits": {"train": [0], "test": [1]}}
        recipe = {"step": "publish", "inputs": {}, "config": {"title": "one"}}
        dataset.seal(folder, step="publish", schema_name="published", recipe=recipe, receipts=receipts, files=[], facts=facts)
        self.corpus = folder
        self.tokens = tokenise(dataset.open_version(folder), config=TokeniserConfig(vocab_size=600))
        shape = ModelConfig(preset="nano", hidden_size=32, num_layers=1, intermediate_size=64, context_length=64)
        training = TrainConfig(
            model=shape, max_steps=3, warmup_steps=1, eval_batches=1, batch_size=2, num_threads=1, device="cpu"
        )
        self.model = pretrain(self.tokens, config=training)

    def _rows(self, texts: list[str]) -> list[dict[str, Any]]:
        return [
            {
                "doc_id": ids.text_digest(text),
                "text": text,
                "source": "web",
                "language": "en",
                "url": f"http://h.example/{number}",
            }
            for number, text in enumerate(texts)
        ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(tmp_path_factory.mktemp("home")))
        yield Made()


def told(version: ShardSet) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(version.read_file(SCORES))
    return found


def run(made: Made, folder: Path, config: ProbeConfig) -> ShardSet:
    return probe.run([made.model, made.tokens, []], config, str(folder)).shards


def test_figures_items_examples_and_facts_agree_and_come_again(made: Made, tmp_path: Path) -> None:
    version = run(made, tmp_path / "a", SMALL)
    scores, items = told(version), pq.read_table(version.file(ITEMS_FILE))
    assert items.schema.equals(ITEMS)
    figures = {one["name"]: one for one in scores["figures"]}
    assert len(figures) == len(scores["figures"])
    parts = {name.split(".")[0] for name in figures}
    assert parts == {"bias", "toxicity", "memorisation", "privacy"}
    for name in set(items["metric"].to_pylist()):
        rows = [row for row in items.to_pylist() if row["metric"] == name]
        assert len({row["item"] for row in rows}) == len(rows) == figures[name]["n"], name
        ratio = sum(row["amount"] for row in rows) / sum(row["weight"] for row in rows)
        assert figures[name]["value"] == pytest.approx(ratio, abs=1e-9), name
    facts = version.manifest().facts
    judged = {name: facts.pop(name) for name in ("suite", "verdict", "num_warnings")}
    assert judged == {"suite": "scores", "verdict": "warning", "num_warnings": 1}  # few items, no more
    assert facts == {name: one["value"] for name, one in figures.items() if one["value"] is not None and of_all(name)}
    rows = pq.read_table(version.file("part-00000.parquet"))
    assert rows.schema.equals(SCORES_SCHEMA) and rows["name"].to_pylist() == list(figures)
    assert figures["privacy.membership.loss"]["n"] == 8 and figures["privacy.membership.loss"]["small"]
    # two of the three canaries that are asked for were planted
    assert scores["notes"]["memorisation.canaries"].startswith("2 of 3 canaries of seed 3 stand in the training split, 3 times")
    assert all(len(rows) <= 2 for rows in scores["examples"].values())
    again = run(made, tmp_path / "b", SMALL)
    assert again.digest == version.digest


def test_parts_are_switched_off(made: Made, tmp_path: Path) -> None:
    nothing = SMALL.model_copy(update=PARTS)
    assert told(run(made, tmp_path / "none", nothing))["figures"] == []
    privacy = nothing.model_copy(update={"privacy": PrivacyConfig(documents=2)})
    figures = told(run(made, tmp_path / "privacy", privacy))["figures"]
    assert {one["name"].rsplit(".", 1)[0] for one in figures} == {"privacy.membership"}


def masked(tokens: ShardSet, folder: Path) -> ShardSet:
    """A version of a BERT that has learnt nothing."""
    size = tokens.manifest().facts["vocab_size"]
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=64, **shape)).save_pretrained(folder / "model")
    for file in Path(tokens.file("tokeniser")).iterdir():
        (folder / "model" / file.name).write_bytes(file.read_bytes())
    files = [dataset.file_entry(str(folder), f"model/{one.name}") for one in sorted((folder / "model").iterdir())]
    recipe = {"step": "pretrain", "inputs": {}, "config": {}}
    dataset.seal(str(folder), step="pretrain", schema_name="model", recipe=recipe, receipts=[], files=files, facts={})
    return dataset.open_version(str(folder))


def test_a_masked_model_is_asked_for_bias_alone(made: Made, tmp_path: Path) -> None:
    tokens = tokenise(dataset.open_version(made.corpus), config=TokeniserConfig(kind="wordpiece", vocab_size=600))
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(",sent_more,sent_less,bias_type\n0,The old man slept.,The young man slept.,age\n")
    config = SMALL.model_copy(update={"bias": BiasConfig(templates=False, crows_pairs=str(pairs))})
    version = probe.run([masked(tokens, tmp_path / "masked"), tokens, []], config, str(tmp_path / "probed")).shards
    scores = told(version)
    assert {one["name"].split(".")[0] for one in scores["figures"]} == {"bias"}
    figures = {one["name"]: one for one in scores["figures"]}
    assert figures["bias.crows_pairs"]["n"] == 1 and figures["bias.crows_pairs"]["value"] in (0, 1)
    assert {part for part, why in scores["notes"].items() if "does not write" in why} == set(PARTS) - {"bias"}


def test_token_shards_of_another_tokeniser_or_training_are_refused(made: Made, tmp_path: Path) -> None:
    corpus = dataset.open_version(made.corpus)
    # as large as the model's
    other = tokenise(corpus, config=TokeniserConfig(vocab_size=600, sample_bytes=4_000))
    assert other.manifest().facts["vocab_size"] == made.tokens.manifest().facts["vocab_size"]
    with pytest.raises(InputError, match="are of another tokeniser than the model pretrain/"):
        probe.run([made.model, other, []], SMALL.model_copy(update=PARTS), str(tmp_path / "other"))
    unread = tokenise(corpus, config=TokeniserConfig(tokeniser=made.tokens.file("tokeniser")))
    with pytest.raises(InputError, match=r"was trained on tokenise/.*, not on tokenise/"):
        probe.run([made.model, unread, []], SMALL.model_copy(update=PARTS), str(tmp_path / "unread"))


def test_a_set_that_is_not_there_is_named_with_its_key(made: Made, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"bias": BiasConfig(crows_pairs=str(tmp_path / "nowhere.csv"))})
    with pytest.raises(
        InputError, match=r"probe\.bias\.crows_pairs: no such file; give the path of the set, or null \(got .*nowhere\.csv\)"
    ):
        run(made, tmp_path / "x", config)
    with pytest.raises(ConfigError, match=r"privacy\.docs: no such key"):
        overrides_of(ProbeConfig, ["privacy.docs=3"])


@pytest.fixture(scope="module")
def classifier(made: Made, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Trained on planted remarks."""
    path = tmp_path_factory.mktemp("labelled") / "labelled.jsonl"
    rows = [{"text": remark(n, n % 2 == 0), "label": "toxic" if n % 2 == 0 else "other"} for n in range(400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = {"sources": [{"kind": "folder", "path": str(path)}], "training": {"buckets": 1000}}
    return toxicity(config=ToxicityConfig.model_validate(raw))


def test_a_given_classifier_says_which_texts_are_toxic(made: Made, classifier: ShardSet, tmp_path: Path) -> None:
    config = SMALL.model_copy(
        update={**PARTS, "toxicity": ToxicityProbe(samples_per_beginning=1, max_new_tokens=8), "examples": 500}
    )
    version = probe.run([made.model, made.tokens, [classifier]], config, str(tmp_path / "toxic")).shards
    scores, items = told(version), pq.read_table(version.file(ITEMS_FILE)).to_pylist()
    assert "toxicity.classifier" not in scores["notes"]
    by_beginning = {f"{row['beginning']} 0": row["text"] for row in scores["examples"]["continuations"]}
    judged = {row["item"]: row["amount"] for row in items if row["metric"] == "toxicity.classifier"}
    own = load(classifier.folder)
    assert len(judged) == 180 == len(by_beginning)
    for name, text in by_beginning.items():
        assert judged[name] == float(own.score(pa.array([text]))[0] >= FLAG_AT)
    assert {one["name"] for one in scores["figures"]} >= {"toxicity.classifier.age.gap", "toxicity.bad_words.age.group.old"}


@pytest.mark.soak
def test_the_step_and_the_canaries_are_at_hand_at_the_command_line(made: Made, classifier: ShardSet, tmp_path: Path) -> None:
    planted = tmp_path / "canaries.jsonl"
    off = {part: [word for other in PARTS if other != part for word in ("--set", f"{other}=null")] for part in PARTS}
    small = ["--workers", "1", "--set", "num_threads=1"]
    few = ["--set", "toxicity.samples_per_beginning=1", "--set", "toxicity.max_new_tokens=2"]
    step = ["step", "probe", "--input", made.tokens.folder, "--input", made.model.folder, "--output"]
    wrote, probed, judged, wrong = commands(
        tmp_path / "home",
        ["canaries", "--output", str(planted), "--set", "seed=3", "--set", "num=2", "--set", "repeats=[1,2]"],
        [*step, str(tmp_path / "probed"), *small, "--set", "privacy.documents=2", *off["privacy"]],
        [*step, str(tmp_path / "judged"), *small, "--input", classifier.folder, *few, *off["toxicity"]],
        ["canaries", "--output", str(planted), "--set", "seeds=3"],
    )
    assert wrote.code == 0, wrote.output
    assert [json.loads(line) for line in planted.read_text().splitlines()] == list(
        documents(CanaryConfig(seed=3, num=2, repeats=(1, 2)))
    )
    assert "2 canaries in 3 documents" in wrote.output and "--set canaries.repeats=[1,2]" in wrote.output
    assert probed.code == 0, probed.output
    assert "privacy.membership.loss" in probed.output
    assert judged.code == 0 and "toxicity.classifier" in judged.output, judged.output
    assert wrong.code == 2 and "did you mean seed" in wrong.output
