"""A published folder is what its cards say: it loads with `datasets`, and Croissant's own library reads its rows and checks its words. A
registered model's card has the scores of all who measured it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import mlcroissant
import pytest
import yaml
from huggingface_hub import ModelCard

from infra import tracking
from infra.dataset import open_version
from infra.errors import InputError
from tasks.learn.figures import Figure
from tasks.register import RegisterConfig, register

from . import english, made_model
from .driver import Ended, commands

NUM_ROWS = 40


def published(root: Path, *settings: str, hosts: int = 5, name: str = "publish") -> tuple[Path, list[Ended]]:
    """Rows of several hosts, ingested, split and published by single steps."""
    source, folders = root / "docs.jsonl", [str(root / one) for one in (f"{name}-split", name)]
    rows = [{"text": english.text(row), "url": f"http://h{row % hosts}.example/{row}"} for row in range(NUM_ROWS)]
    if not source.exists():  # its time is part of the recipe
        source.write_text("\n".join(json.dumps(row) for row in rows))
    words = [word for one in settings for word in ("--set", one)]
    ended = commands(
        root / "home",
        ["step", "split", "-i", str(source), "-o", folders[0], "-w", "1", "--set", "test_share=0.2"],
        ["step", "publish", "-i", folders[0], "-o", folders[1], "-w", "1", *words],
    )
    assert [one.code for one in ended] == [0, 0], ended
    return Path(folders[1]), ended


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ("title=Seeded prose", "licence=CC0-1.0", "notice=No sense in it.", "url=https://data.example/prose")
    return published(tmp_path_factory.mktemp("cards"), *settings)[0]


def facts(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text())["facts"])


def test_the_folder_loads_with_its_splits(folder: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))
    wanted = {name.partition(".")[2]: count for name, count in facts(folder).items() if name.startswith("num_documents.")}
    assert {name: rows.num_rows for name, rows in loaded.items()} == wanted and min(wanted.values()) > 0
    assert sum(wanted.values()) == NUM_ROWS
    urls = [url for rows in loaded.values() for url in rows["url"]]
    assert loaded.keys() == {"train", "validation", "test"} and len(set(urls)) == NUM_ROWS


def test_a_folder_with_an_empty_split_loads_too(tmp_path: Path) -> None:
    made = tmp_path / "one"
    (tmp_path / "row.jsonl").write_text(json.dumps({"text": "Alone.", "url": "http://a.example/"}))
    [ended] = commands(tmp_path / "home", ["step", "publish", "-i", str(tmp_path / "row.jsonl"), "-o", str(made), "-w", "1"])
    assert ended.code == 0, ended.output
    loaded = datasets.load_dataset(str(made), cache_dir=str(tmp_path / "cache"))
    assert {name: rows.num_rows for name, rows in loaded.items()} == {"train": 1}


def test_croissant_is_valid_and_its_rows_are_those_of_the_splits(folder: Path) -> None:
    read = mlcroissant.Dataset(str(folder / "croissant.json"))
    assert not read.metadata.issues.errors
    # a date of publication would be volatile, and no manifest knows one
    assert [one for one in read.metadata.issues.warnings if "datePublished" not in one] == []
    for split in ("train", "validation", "test"):
        records = list(read.records(split))
        assert len(records) == facts(folder)[f"num_documents.{split}"]
        assert all(record[f"{split}/text"] for record in records)


def test_croissant_names_every_file_by_its_bytes_and_what_is_known_for_responsible_use(folder: Path) -> None:
    raw = json.loads((folder / "croissant.json").read_text())
    assert {one["splits/name"]: one["splits/url"] for one in raw["recordSet"][0]["data"]} == {
        "train": "cr:TrainingSplit",
        "validation": "cr:ValidationSplit",
        "test": "cr:TestSplit",
    }
    files = {one["@id"]: one["sha256"] for one in raw["distribution"] if one["@type"] == "cr:FileObject"}
    assert files == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("part-*.parquet")}
    assert (raw["license"], raw["url"]) == ("CC0-1.0", "https://data.example/prose")
    assert raw["rai:dataLimitations"] == "No sense in it."
    assert raw["rai:personalSensitiveInformation"] == "No personal data was masked."
    assert any(line.startswith("split: 40 of 40 kept") for line in raw["rai:dataPreprocessingProtocol"])


def test_the_card_has_the_head_that_the_hub_reads(folder: Path) -> None:
    head = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (head["pretty_name"], head["license"], head["size_categories"]) == ("Seeded prose", "cc0-1.0", ["n<1K"])


@pytest.mark.soak
def test_equal_recipes_give_equal_cards_and_a_licence_in_words_is_told_as_such(folder: Path, tmp_path: Path) -> None:
    settings = ("title=Seeded prose", "licence=free to read", "notice=No sense in it.", "url=https://data.example/prose")
    one, _ = published(tmp_path, *settings, name="one")
    two, _ = published(tmp_path, *settings, name="two")
    for name in ("README.md", "croissant.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    head = yaml.safe_load((one / "README.md").read_text().split("---")[1])
    assert (head["license"], head["license_name"]) == ("other", "free to read")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_model_is_registered_with_the_scores_of_all_who_measured_it(folder: Path, home: Path, mlflow_store: Any) -> None:
    base = {"model": {"from_checkpoint": "google/bert_uncased_L-2"}}
    model = made_model.trained(
        home / "model", base, {"family": "bert", "objective": "masked"}, {"checkpoint/model.safetensors": "ab" * 16}
    )
    bits = Figure("heldout.bits_per_byte", 1.25, 1.2, 1.3, 80, "lower", "bits per byte")
    group = Figure("heldout.bits_per_byte.source.web", 1.5, 1.4, 1.6, 40, "lower", "bits per byte")
    gap = Figure("bias.swaps.gender", 0.5, -0.1, 1.1, 9, "zero", "nats")
    measured = {"perplexity": 3.0, "perplexity.unigram": 9.0, "bits_per_byte": 1.25, "accuracy": 0.5, "num_warnings": 2}
    scores = [
        made_model.scored(model, home / "probe", "probe", [gap], {"num_warnings": 1}),
        made_model.scored(model, home / "evaluate", "evaluate", [bits, group], measured),
    ]
    other = made_model.trained(home / "other", {"seed": 2})
    with pytest.raises(InputError, match=r"the scores probe/.* are those of the model pretrain/.*; run `probe` on this one"):
        register(other, open_version(str(folder)), scores, config=RegisterConfig())
    with tracking.run("register", tags={}, key={"test": "one"}) as track:
        made = register(model, open_version(str(folder)), scores, config=RegisterConfig(name="reader", licence="cc0-1.0"))
    assert track is not None
    card = Path(made.file("README.md")).read_text()
    head = ModelCard(card).data
    assert (head.pipeline_tag, head.base_model) == ("fill-mask", "google/bert_uncased_L-2")
    assert "| heldout.bits_per_byte.source.web | 1.5 bits per byte |" in card and "| bias.swaps.gender | 0.5 nats |" in card
    assert "Measured on too little to tell: bias." in card and "No sense in it." in card
    [version] = mlflow_store.search_model_versions("name = 'reader'")
    assert (version.tags["family"], version.tags["base_model"]) == ("bert", "google/bert_uncased_L-2")
    [logged] = mlflow_store.search_logged_models([track.experiment_id])
    assert logged.model_type == "masked language model"
    metrics = {one.key: one.value for one in logged.metrics}
    assert (metrics["perplexity"], metrics["heldout.bits_per_byte"], metrics["bias.swaps.gender"]) == (3.0, 1.25, 0.5)
    assert metrics["num_warnings"] == 3  # of both together
    assert not [name for name in metrics if "source" in name]  # one of a group is no score of the model
    given = mlflow_store.get_run(track.run_id).inputs.dataset_inputs
    assert {tag.value for one in given for tag in one.tags} == {"training", "evaluation"} and len(given) == 3
    assert json.loads(made.read_file("model.json"))["scores"] == {"evaluate": measured, "probe": {"num_warnings": 1}}


def test_the_command_takes_scores_in_any_order_and_refuses_what_it_has_no_use_for(
    folder: Path, home: Path, tmp_path: Path
) -> None:
    model, other = made_model.trained(home / "model"), made_model.trained(home / "other", {"seed": 2})
    measured = {"perplexity": 3.0, "bits_per_byte": 1.25, "accuracy": 0.5}
    gap = Figure("bias.swaps.gender", 0.5, -0.1, 1.1, 90, "zero", "nats")
    scores = [
        made_model.scored(model, home / "probe", "probe", [gap]),
        made_model.scored(model, home / "evaluate", "evaluate", facts=measured),
    ]
    given = [word for one in (*scores, model) for word in ("-i", one.folder)] + ["-i", str(folder)]
    made, twice = (str(tmp_path / name) for name in ("made", "twice"))
    whole, refused = commands(
        home,
        ["step", "register", *given, "-o", made, "-w", "1"],
        ["step", "register", *given, "-i", other.folder, "-o", twice, "-w", "1"],
    )
    assert whole.code == 0, whole.output
    card = Path(made, "README.md").read_text()
    assert (
        "| perplexity per token | 3.00 |" in card
        and "| bias.swaps.gender | 0.5 nats | -0.1 to 1.1 | 90 | nearer to 0 |  |" in card
    )
    assert refused.code == 2
    words = "it takes model, which `gristmill step pretrain` writes, dataset, scores, which `gristmill step evaluate` writes"
    assert "step register: has no use for the --input" in refused.output and words in refused.output
