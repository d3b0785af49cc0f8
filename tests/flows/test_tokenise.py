"""The step `tokenise`: one tokeniser whatever the shards, WordPiece and other makers' tokenisers up to a trained model, and its figures."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from expectations.schemas import PUBLISHED
from infra import dataset, ids, storage
from infra.cluster import DaskConfig, pool
from infra.dataset import Outcome, ShardCorrupt, ShardSet
from infra.errors import InputError
from infra.mending import verified_loads
from models import tokeniser
from models.presets import ModelConfig
from models.tokeniser import TokeniserConfig
from tasks.evaluate import evaluate
from tasks.learn import tokens
from tasks.learn.config import EvaluateConfig, SampleConfig, TrainConfig
from tasks.pretrain import pretrain
from tasks.report import render_run
from tasks.tokenise import FERTILITY, tokenise

from . import english

GERMAN = "Der alte Müller sagte gestern, dass die Mühle Nummer {} am großen Fluss das Korn der Bauern mahlt."
SMALL = TokeniserConfig(vocab_size=400, sample_bytes=9_000)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def rows() -> list[dict[str, Any]]:
    """40 English texts of two sources, 30 German ones, three without a language; the last five are held out."""
    texts = [(english.text(number)[:700], "web" if number % 3 else "books", "en") for number in range(40)]
    texts += [(GERMAN.format(number), "web", "de") for number in range(30)]
    texts += [(f"<|endoftext|>[SEP]</s> {number}", "odd", None) for number in range(3)]
    texts += [(english.text(number)[:700], "web", "en") for number in range(90, 95)]
    return [
        {
            "doc_id": ids.text_digest(f"{number}"),
            "text": text,
            "source": source,
            "language": language,
            "url": f"http://h.example/{number}",
        }
        for number, (text, source, language) in enumerate(texts)
    ]


def published(
    name: str, parts: list[list[dict[str, Any]]], held_out: list[dict[str, Any]], validation: list[dict[str, Any]] | None = None
) -> ShardSet:
    """A published version with these shards for training and one held out, and another one for validation where it is given."""
    recipe = {"step": "publish", "inputs": {}, "config": {"title": name}}
    folder = storage.join(dataset.folder_of("publish"), dataset.version_of(recipe))
    shards = [pa.Table.from_pylist(part, schema=PUBLISHED) for part in [*parts, held_out, *([validation] if validation else [])]]
    receipts = [dataset.write_shard(folder, number, Outcome(one)) for number, one in enumerate(shards)]
    splits = {"train": list(range(len(parts))), "test": [len(parts)]}
    splits |= {"validation": [len(parts) + 1]} if validation else {}
    dataset.seal(
        folder, step="publish", schema_name="published", recipe=recipe, receipts=receipts, files=[], facts={"splits": splits}
    )
    return dataset.open_version(folder)


def whole(name: str = "one") -> ShardSet:
    return published(name, [rows()[:50], rows()[50:-5]], rows()[-5:])


def tokeniser_bytes(made: ShardSet) -> dict[str, bytes]:
    return {name: made.read_file(f"tokeniser/{name}") for name in ("tokenizer.json", "tokenizer_config.json")}


def told(made: ShardSet) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.read_file(FERTILITY))
    return found


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_the_tokeniser_and_the_figures_are_the_same_for_any_shards_order_and_workers(
    kind: Any, home: Path, two_workers: DaskConfig
) -> None:
    config = SMALL.model_copy(update={"kind": kind})
    train, held_out = rows()[:-5], rows()[-5:]
    shuffled = random.Random(4).sample(train, len(train))
    one = tokenise(published("one", [train], held_out), config=config)
    four = published("four", [shuffled[:3], shuffled[3:4], [], shuffled[4:]], held_out)
    with pool(two_workers):
        other = tokenise(four, config=config)
    assert tokeniser_bytes(one) == tokeniser_bytes(other)
    assert told(one) == told(other)
    facts = one.manifest().facts
    assert 9_000 <= facts["sample_bytes"] < 9_000 + 1_000 and 9 <= facts["sample_documents"] < 70
    assert {name: value for name, value in other.manifest().facts.items() if name != "splits"} == {
        name: value for name, value in facts.items() if name != "splits"
    }
    seeded = tokenise(published("one", [train], held_out), config=config.model_copy(update={"seed": 2}))
    assert tokeniser_bytes(seeded) != tokeniser_bytes(one)


def test_held_out_documents_teach_nothing(home: Path) -> None:
    secret = [{**rows()[-1], "text": "zyzzyva " * 3000}]
    made = tokenise(published("secret", [rows()[:-5]], secret), config=SMALL.model_copy(update={"sample_bytes": 10**9}))
    plain = tokenise(published("plain", [rows()[:-5]], rows()[-5:]), config=SMALL.model_copy(update={"sample_bytes": 10**9}))
    assert tokeniser_bytes(made) == tokeniser_bytes(plain)


def test_figures_by_language_source_and_split_are_kept_shown_and_logged(home: Path) -> None:
    made = tokenise(whole(), config=SMALL)
    groups = {(one["kind"], one["name"]): one for one in told(made)["groups"]}
    assert {(kind, name): one["documents"] for (kind, name), one in groups.items()} == {
        ("all", "all"): 78, ("split", "train"): 73, ("split", "test"): 5, ("language", "en"): 45, ("language", "de"): 30,
        ("language", "not known"): 3, ("source", "web"): 61, ("source", "books"): 14, ("source", "odd"): 3,
    }  # fmt: skip
    assert sum(groups["language", name]["tokens"] for name in ("en", "de", "not known")) == groups["all", "all"]["tokens"]
    facts = made.manifest().facts
    # the closing token of each document is in the streams and not in the figures
    assert groups["all", "all"]["tokens"] == facts["num_tokens.train"] + facts["num_tokens.test"] - 78
    assert facts["bytes_per_token"] == groups["all", "all"]["bytes_per_token"]
    assert facts["unknown_rate"] == 0 and facts["strings_lost"] == 0 and told(made)["lost"] == []
    assert facts["fertility.language.de"] == groups["language", "de"]["fertility"]
    assert "fertility.language.not known" not in facts and "fertility.source.books" not in facts  # too small
    page = render_run("", [made])
    assert 'id="tokens"' in page and "A byte-level BPE of 400 tokens, learnt from" in page
    assert "&lt;|endoftext|&gt; closes documents." in page
    assert page.count("too small to tell") == 4  # test, not known, books, odd
    few = tokenise(published("plain", [[{**one, "language": None} for one in rows()[:4]]], rows()[-5:]), config=SMALL)
    assert {one["name"] for one in told(few)["groups"] if one["kind"] == "language"} == {"not known", "en"}


@pytest.mark.soak
def test_wordpiece_goes_all_the_way_to_a_model_that_is_scored_and_writes(home: Path) -> None:
    made = tokenise(whole(), config=SMALL.model_copy(update={"kind": "wordpiece"}))
    facts = made.manifest().facts
    assert facts["closing_token"] == "[SEP]" and "capitals" in told(made)["lost"]
    page = render_run("", [made])
    assert "A WordPiece tokeniser of" in page and "What does not come back as it was:</b> capitals, accents" in page
    for index in range(3):
        shard = tokens.read_shard(made.folder, index)
        ends = [int(shard.tokens[at + size - 1]) for at, size in zip(shard.offsets, shard.lengths, strict=True)]
        assert ends == [3] * shard.docs.num_rows and int((shard.tokens == 3).sum()) == shard.docs.num_rows
    shape = ModelConfig(preset="nano", hidden_size=32, num_layers=1, intermediate_size=64, context_length=32)
    training = TrainConfig(model=shape, max_steps=3, warmup_steps=1, eval_batches=1, batch_size=4, num_threads=1, device="cpu")
    model = pretrain(made, config=training)
    saved = json.loads(model.read_file("model/config.json"))
    assert (saved["vocab_size"], saved["eos_token_id"], saved["bos_token_id"], saved["pad_token_id"]) == (
        facts["vocab_size"],
        3,
        3,
        0,
    )
    scores = evaluate(
        model,
        made,
        config=EvaluateConfig(num_threads=1, device="cpu", samples=SampleConfig(prompts=("The mill",), max_new_tokens=3)),
    )
    assert scores.manifest().facts["perplexity"] > 1


def test_a_given_tokeniser_is_used_noted_in_the_recipe_and_shown(home: Path, tmp_path: Path) -> None:
    given = str(tmp_path / "given")
    tokeniser.save(tokeniser.train_bpe(["the mill grinds the corn"] * 9, TokeniserConfig(vocab_size=270)), given)
    corpus, config = whole(), TokeniserConfig(tokeniser=given)
    made = tokenise(corpus, config=config)
    manifest = made.manifest()
    assert tokeniser_bytes(made)["tokenizer.json"] == (tmp_path / "given" / "tokenizer.json").read_bytes()
    assert set(manifest.recipe["files"]) == {
        f"tokeniser/{name}" for name in ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
    }
    assert manifest.facts["vocab_size"] == 270 and "sample_bytes" not in manifest.facts
    assert f"The tokeniser {given} of 270 tokens." in render_run("", [made])
    assert tokenise(corpus, config=config) == made  # loaded
    (tmp_path / "given" / "chat_template.jinja").write_text("{{ messages }}")
    again = tokenise(corpus, config=config)
    assert again.version != made.version and again.read_file("tokeniser/chat_template.jinja") == b"{{ messages }}"
    with pytest.raises(InputError, match=r"tokenise\.tokeniser: .*nowhere: no such folder"):
        tokenise(corpus, config=TokeniserConfig(tokeniser=str(tmp_path / "nowhere")))


def test_a_split_without_text_is_told(home: Path) -> None:
    empty = published("empty", [[{**one, "text": ""} for one in rows()[:3]]], rows()[-5:])
    with pytest.raises(InputError, match="there is no text to learn from; the training split is empty"):
        tokenise(empty, config=SMALL)


@pytest.mark.parametrize("found", ["by its size", "by its bytes", "gone"])
def test_a_damaged_stream_is_made_again_and_no_other(home: Path, monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    made = tokenise(whole(), config=SMALL)
    paths = [Path(made.file(tokens.bin_name(index))) for index in range(3)]
    before = [path.read_bytes() for path in paths]
    others = [path.stat().st_mtime_ns for path in paths]
    if found == "gone":
        paths[1].unlink()
    else:
        paths[1].write_bytes(before[1][:-2] + (b"" if found == "by its size" else b"\x00\x01"))
    # a retry of a run reads all bytes; any other run looks at sizes
    with verified_loads(found == "by its bytes"):
        again = tokenise(whole(), config=SMALL)
    assert again.digest == made.digest and [path.read_bytes() for path in paths] == before
    assert [path.stat().st_mtime_ns for path in paths][::2] == others[::2]


@pytest.mark.soak
def test_a_stream_that_training_finds_damaged_is_made_again(home: Path) -> None:
    made = tokenise(whole(), config=SMALL)
    path = Path(made.file(tokens.bin_name(0)))
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    with pytest.raises(ShardCorrupt, match="not the bytes that the manifest names") as caught:
        tokens.open_shards(made, [1, 0])
    assert caught.value.path == str(path)
    shape = ModelConfig(preset="nano", hidden_size=32, num_layers=1, intermediate_size=64, context_length=32)
    training = TrainConfig(model=shape, max_steps=1, warmup_steps=0, eval_batches=1, batch_size=1, num_threads=1, device="cpu")
    pretrain(made, config=training)
    assert path.read_bytes() == before
    opened = tokens.open_shards(made, [2, 0])
    assert [len(shard.tokens) for shard in opened] == [len(tokens.read_shard(made.folder, index).tokens) for index in (2, 0)]
    path.write_bytes(before[:-2] + b"\x01\x01")
    with pytest.raises(ShardCorrupt, match="not the bytes that the manifest names"):
        tokens.open_shards(made, [0])


def test_damaged_sums_are_made_again(home: Path) -> None:
    made = tokenise(whole(), config=SMALL)
    path = Path(made.file("groups/part-00000.parquet"))
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    with verified_loads():
        again = tokenise(whole(), config=SMALL)
    assert again.digest == made.digest and path.read_bytes() == before
