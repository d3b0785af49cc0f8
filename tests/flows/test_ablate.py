"""`gristmill ablate`: damage is found, a change of nothing is not, no held-out document is trained on, and the command tells it all."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from expectations.schemas import AUGMENTED, PUBLISHED
from flows import ablate as ablation
from flows.ablate import Asked, Variant
from flows.config import RunConfig
from infra import dataset, ids, ledger, storage
from infra.dataset import Outcome, ShardSet
from infra.errors import InputError
from tasks.ablate import AblateConfig, VariantConfig, ablate
from tasks.learn.figures import figure, items
from tasks.withhold import WithholdConfig, withhold

from . import english
from .driver import commands

BITS = "heldout.bits_per_byte"
NUM_TRAIN, NUM_TEST = 240, 60


def document(number: int, text: str = "", **fields: Any) -> dict[str, Any]:
    text = text or english.text(number)[:450]
    own = {"doc_id": ids.digest_of(str(number)), "content_id": ids.content_id(text), "text_digest": ids.text_digest(text)}
    return {**own, "text": text, "source": "web", "host": f"h{number}.example", "url": f"http://h{number}.example/", **fields}


def published(
    name: str,
    train: Sequence[Sequence[dict[str, Any]]],
    test: Sequence[dict[str, Any]],
    validation: Sequence[dict[str, Any]] | None = None,
    **facts: Any,
) -> ShardSet:
    """A published version of these training shards and one or, with `validation`, two held out."""
    recipe = {"step": "publish", "inputs": {}, "config": {"title": name}}
    folder = storage.join(dataset.folder_of("publish"), dataset.version_of(recipe))
    schema = pa.schema([*PUBLISHED, *AUGMENTED])
    held_out = {"validation": validation, "test": test} if validation else {"test": test}
    shards = [pa.Table.from_pylist(list(part), schema=schema) for part in (*train, *held_out.values())]
    receipts = [dataset.write_shard(folder, number, Outcome(one)) for number, one in enumerate(shards)]
    splits = {"train": list(range(len(train))), **{split: [len(train) + at] for at, split in enumerate(held_out)}}
    told = {"splits": splits, **facts}
    dataset.seal(folder, step="publish", schema_name="published", recipe=recipe, receipts=receipts, files=[], facts=told)
    return dataset.open_version(folder)


def shuffled(text: str, seed: int) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def test_no_held_out_document_is_trained_on_under_whatever_name(home: Path) -> None:
    test = [document(n, host="held.example") for n in range(5)]
    named = {
        "held_out_document": document(50, doc_id=test[0]["doc_id"]),
        "held_out_copy": document(51, augmented="noise", augmented_from=test[1]["doc_id"]),
        "held_out_content": document(52, content_id=test[2]["content_id"]),
        "held_out_text": document(53, text=test[3]["text"], content_id=None),
        "held_out_host": document(54, host="held.example"),
    }
    # of unknown names none is that of another document
    unknown = [document(n, content_id=None, text_digest=None, host=None) for n in (60, 61)]
    clean = [*(document(n) for n in (70, 71)), document(72, augmented="noise", augmented_from=ids.digest_of("70"))]
    of_test = [*test, document(5, content_id=None, text_digest=None, host="held.example")]
    base = published("base", [[document(80)]], of_test, held_out_by="host")
    variant = published("variant", [[*named.values(), clean[0]], [*unknown, *clean[1:]]], [document(90)])
    made = withhold(variant, base, config=WithholdConfig())
    manifest, shards = made.manifest(), made.shards()
    assert manifest.counts.dropped == dict.fromkeys(named, 1)
    assert manifest.facts["splits"] == {"train": [0, 1], "test": [2]} and manifest.facts["held_out_by"] == "host"
    kept = {name for shard in shards[:2] for name in shard.read(["doc_id"])["doc_id"].to_pylist()}
    assert kept == {one["doc_id"] for one in (*unknown, *clean)}
    assert shards[2].read(["doc_id"])["doc_id"].to_pylist() == [one["doc_id"] for one in of_test]
    rejects = dataset.dataset(made.folder, rejects=True)
    assert rejects is not None
    rows = {row["doc_id"]: row for row in rejects.to_table().to_pylist()}
    assert {rows[one["doc_id"]]["rule"]: rows[one["doc_id"]]["detail"] for one in named.values()} == {
        "held_out_document": test[0]["doc_id"],
        "held_out_copy": test[1]["doc_id"],
        "held_out_content": test[2]["content_id"],
        "held_out_text": test[3]["text_digest"],
        "held_out_host": "held.example",
    }


def test_all_variants_have_the_validation_split_of_the_baseline_and_train_on_none_of_it(home: Path) -> None:
    validation, test = [document(n, host="looked.example") for n in range(5)], [document(n) for n in range(10, 13)]
    base = published("base", [[document(80)]], test, validation, held_out_by="host")
    leaks = [
        document(50, doc_id=validation[0]["doc_id"]),
        document(51, host="looked.example"),
        document(52, text=test[0]["text"]),
    ]
    variant = published("variant", [[*leaks, document(70)]], [document(90)], [document(91)])
    made = [withhold(one, base, config=WithholdConfig()) for one in (base, variant)]
    facts = made[1].manifest().facts
    assert facts["splits"] == {"train": [0], "validation": [1], "test": [2]}
    assert [facts[f"num_documents.{name}"] for name in ("train", "validation", "test")] == [1, 5, 3]
    assert made[1].counts.dropped == {"held_out_content": 1, "held_out_document": 1, "held_out_host": 1}
    own, mine = ([shard.read(["doc_id"])["doc_id"].to_pylist() for shard in one.shards()] for one in made)
    assert own[1:] == mine[1:] == [[one["doc_id"] for one in some] for some in (validation, test)]
    assert mine[0] == [document(70)["doc_id"]]


def test_where_documents_were_held_out_and_not_hosts_a_host_is_no_reason(home: Path) -> None:
    base = published("base", [[document(1)]], [document(2, host="one.example")], held_out_by="cluster")
    made = withhold(published("variant", [[document(3, host="one.example")]], []), base, config=WithholdConfig())
    assert made.manifest().counts.dropped == {} and made.manifest().facts["held_out_by"] == "document"


def test_versions_that_cannot_be_compared_are_refused_in_words(home: Path) -> None:
    test = [document(n) for n in range(3)]
    base, bare = published("base", [[document(9)]], test), published("bare", [[document(9)]], [])
    with pytest.raises(InputError, match=r"has no test split.*split\.test_share"):
        withhold(base, bare, config=WithholdConfig())
    with pytest.raises(InputError, match="no training document is left"):
        withhold(published("all held out", [test], []), base, config=WithholdConfig())
    with pytest.raises(InputError, match="at least one variant, and two seeds"):
        ablation.ablate([Variant("base", base)], Asked(RunConfig()))
    with pytest.raises(InputError, match="two variants have the name"):
        ablation.of_versions([f"one={base.folder}", f"one={bare.folder}"])
    quiet = Asked(RunConfig()).tell
    for change, words in (
        ("lonely", "write NAME=dotted.key=value"),
        ("x=pretrain.max_steps=5", "pretrain is no part that makes the corpus"),
        ("baseline=filter.disabled=[]", "two variants have the name 'baseline'"),
    ):
        with pytest.raises(InputError, match=words):
            ablation.of_changes("small", [], [change], quiet)
    site = ["crawl.sources=[{kind: site, name: s, urls: [http://s.example/]}]", "ingest.sources=[]"]
    with pytest.raises(InputError, match="have no stored crawl of snapshot"):
        ablation.of_changes("small", site, ["x=filter.disabled=[]"], quiet)


def sealed(step: str, name: str, files: dict[str, Any], config: dict[str, Any], inputs: dict[str, Any], **facts: Any) -> ShardSet:
    """A version as a step leaves it, with these files (JSON, or a table) and facts, without its shards."""
    recipe = {"step": step, "inputs": inputs, "config": {"name": name, **config} if step != "pretrain" else config}
    folder = storage.join(dataset.folder_of(step), dataset.version_of({**recipe, "of": name}))
    for file, held in files.items():
        if isinstance(held, pa.Table):
            dataset.write_table(storage.join(folder, file), held)
        else:
            storage.write_json(storage.join(folder, file), held)
    entries = [dataset.file_entry(folder, file) for file in files]
    storage.write_json(storage.join(folder, dataset.RUN), {})
    dataset.seal(folder, step=step, schema_name=step, recipe=recipe, receipts=[], files=entries, facts=facts)
    return dataset.open_version(folder)


def finished(effect: float, words: str = "w", steps: int = 8, tokens: int = 100) -> dict[str, list[ShardSet]]:
    """What the steps before `ablate` leave of a baseline and a variant, two seeds each, whose scores differ by `effect`."""
    rng = np.random.default_rng(1)
    hard = rng.lognormal(0, 0.5, 50)
    made: dict[str, list[ShardSet]] = {"documents": [], "tokens": [], "models": [], "scores": []}
    for number, name in enumerate(("base", "mine")):
        inputs = {"documents": name, "held_out": "publish/base@1"}
        counts = {"num_documents.train": 10, "num_documents.test": 50, "held_out_by": "host"}
        made["documents"].append(sealed("withhold", name, {}, {}, inputs, **counts))
        file = {"tokeniser/tokenizer.json": words if number else "w"}
        made["tokens"].append(sealed("tokenise", name, file, {}, {}, **{"num_tokens.train": tokens if number else 1000}))
        for seed in (1, 2):
            history = [{"step": at, "valid_loss": 4 / at + number * effect} for at in (4, 8)] + [{"step": 9, "valid_loss": None}]
            facts = {"steps": steps if number else 8, "tokens": 2048, "num_parameters": 5}
            made["models"].append(sealed("pretrain", f"{name} {seed}", {"history.json": history}, {"seed": seed}, {}, **facts))
            amounts = hard + number * effect + rng.normal(0, 0.02, 50)
            figures = {"figures": [figure(BITS, amounts, better="lower", unit="bits per byte").as_json()], "tokeniser": "w"}
            table = items(BITS, [f"{n:03d}" for n in range(50)], amounts)
            made["scores"].append(sealed("evaluate", f"{name} {seed}", {"scores.json": figures, "items.parquet": table}, {}, {}))
    return made


CONFIG = AblateConfig(variants=(VariantConfig(name="base"), VariantConfig(name="mine <&>", differs="filter.x=1")), seeds=(1, 2))


def test_scores_become_verdicts_a_page_that_loads_nothing_and_tables(home: Path) -> None:
    made = ablate(*finished(0.3).values(), config=CONFIG)
    told = ablation.told(made)
    [base, mine] = told["effects"]
    assert (base["verdict"], mine["verdict"], mine["n"]) == (None, "worse", 50)
    assert mine["difference"] == pytest.approx(0.3, abs=0.02) and mine["difference_low"] > 0
    assert told["curves"] == {"steps": [4, 8], "valid_loss": {"base": [1.0, 0.5], "mine <&>": [1.3, 0.8]}}
    assert made.manifest().facts[f"mine <&>.{BITS}.difference"] == mine["difference"]
    # 2,048 tokens are read of the 100 that there are
    [warning] = told["warnings"]
    assert warning.startswith("mine <&>: its 100 tokens are read 20.5 times; above 4")
    page = made.read_file("ablation.html").decode()
    assert page.count("<svg") == 3 and "mine &lt;&amp;&gt;: worse than the baseline, +0." in page and "mine <" not in page
    assert not re.search(r'(?:src|href)="(?!#)|@import|url\((?!#)|<script', page)
    console = Console(file=io.StringIO(), width=180)
    ablation.show(told, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "mine <&>: worse than the baseline" in said and "filter.x=1" in said and "20.48" in said
    equal = ablation.told(ablate(*finished(0.0).values(), config=CONFIG))
    assert equal["effects"][1]["verdict"] == "no difference beyond noise"


def test_what_was_not_done_in_the_same_way_is_not_compared(home: Path) -> None:
    for changed, config, words in (
        ({"steps": 7}, CONFIG, "ended after 8, 8, 7, 7 steps"),
        ({"words": "other"}, CONFIG, "several tokenisers"),
        ({}, CONFIG.model_copy(update={"seeds": (1, 3)}), "with the same seeds"),
        ({}, CONFIG.model_copy(update={"metrics": ("tasks.*",)}), "none of tasks"),
    ):
        given = finished(0.0, **changed)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=words):
            ablate(*given.values(), config=config)


def rows(home: Path) -> Path:
    """Documents of prose and of links, on twelve hosts."""
    folder = home / "rows"
    folder.mkdir(parents=True)
    texts = [english.text(number) for number in range(24)] + [" | ".join([f"Home {n} Cart"] * 40) for n in range(6)]
    lines = [json.dumps({"url": f"http://h{n % 12}.example/{n}", "text": text}) for n, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder


def test_changes_of_a_configuration_are_curated_and_nobody_is_told(home: Path) -> None:
    (home / "config.yaml").parent.mkdir(parents=True)
    config = {
        "name": "mine",
        "dask": {"kind": "none"},
        "ingest": {"sources": [{"kind": "folder", "path": str(rows(home))}]},
        "filter": {"profile": "gopher", "languages": []},
        "split": {"test_share": 0.1},
    }
    (home / "config.yaml").write_text(json.dumps(config))
    told: list[str] = []
    changes = ["all=filter.profile=null", "same=publish.title=another"]
    base, everything, same = ablation.of_changes(str(home / "config.yaml"), [], changes, told.append)
    assert told == ["curate baseline", "curate all", "curate same"]
    assert [one.differs for one in (base, everything, same)] == ["", "filter.profile=null", "publish.title=another"]
    assert (base.version.counts.kept, everything.version.counts.kept) == (24, 30)
    assert same.version.version != base.version.version and same.version.num_shards == base.version.num_shards
    # no corpus has a new `latest`, and no run has models that `train` or `evaluate` would take for those of the corpus
    assert ledger.published("mine") == [] and ledger.runs() == []
    # what the variant holds of the held-out hosts is not trained on
    made = withhold(everything.version, base.version, config=WithholdConfig())
    hosts = [{host for shard in some for host in shard.read(["host"])["host"].to_pylist()} for some in split(made)]
    assert hosts[1] and not hosts[0] & hosts[1]


def split(version: ShardSet) -> list[list[dataset.ShardRef]]:
    shards, splits = version.shards(), version.manifest().facts["splits"]
    return [[shards[index] for index in splits[name]] for name in ("train", "test")]


# --- with models that are trained, which takes minutes -----------------------------------------------------------------------------


class Trained(NamedTuple):
    told: dict[str, Any]
    config: RunConfig
    variants: list[Variant]
    lines: list[str]
    client: Any
    """Of MLflow."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The same documents in other shards, other documents like them, and the same with the words of four documents in five shuffled."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", str(home))
        patch.setenv("GRISTMILL_MLFLOW_URL", f"sqlite:///{home}/mlflow.db")
        patch.chdir(home)
        from mlflow import MlflowClient

        docs, test = [document(n) for n in range(NUM_TRAIN)], [document(n) for n in range(1000, 1000 + NUM_TEST)]
        others = [document(n) for n in range(2000, 2000 + NUM_TRAIN)]
        damaged = [document(n, shuffled(one["text"], n) if n % 5 else "", doc_id=one["doc_id"]) for n, one in enumerate(docs)]
        variants = [
            Variant("base", published("base", [docs[:120], docs[120:]], test)),
            Variant("sharded", published("sharded", [docs[:50], docs[50:200], docs[200:]], test), "other shards"),
            Variant("others", published("others", [others, test[:5]], test), "other documents, and five that are held out"),
            Variant("damaged", published("damaged", [damaged], test), "words shuffled"),
        ]
        shape = {"preset": "nano", "hidden_size": 64, "num_layers": 1, "intermediate_size": 128, "context_length": 32}
        config = RunConfig.model_validate(
            {
                "dask": {"kind": "none"},
                "tokenise": {"vocab_size": 400, "sample_bytes": 60_000},
                "pretrain": {
                    **{"model": shape, "max_steps": 60, "warmup_steps": 5, "batch_size": 16, "learning_rate": 1e-2},
                    **{"num_threads": 1, "device": "cpu", "eval_every_steps": 20, "eval_batches": 2},
                },
                "evaluate": {
                    **{"num_threads": 1, "device": "cpu", "samples": {"prompts": ["The"], "max_new_tokens": 3}},
                    "robustness": {"perturbations": []},
                },
            }
        )
        lines: list[str] = []
        told = ablation.told(ablation.ablate(variants, Asked(config, tell=lines.append)))
        client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
        yield Trained(told, config, variants, lines, client)


def effect(made: Trained, variant: str, metric: str = BITS) -> dict[str, Any]:
    return next(row for row in made.told["effects"] if (row["variant"], row["metric"]) == (variant, metric))


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_damage_is_found_and_what_is_no_difference_is_called_none(trained: Trained) -> None:
    assert effect(trained, "damaged")["verdict"] == "worse" and effect(trained, "damaged")["difference"] > 0.2
    assert effect(trained, "damaged", "heldout.accuracy")["verdict"] == "worse"
    assert effect(trained, "sharded")["verdict"] == "no difference beyond noise"
    assert effect(trained, "sharded")["difference"] == pytest.approx(0, abs=1e-6)
    assert effect(trained, "others")["verdict"] == "no difference beyond noise" and effect(trained, "others")["difference"] != 0
    assert {row["n"] for row in trained.told["effects"]} == {NUM_TEST}
    curves = trained.told["curves"]["valid_loss"]
    assert curves["damaged"][-1] > curves["base"][-1] + 0.2 and len(curves["base"]) == 3


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_all_were_trained_and_scored_alike_and_on_nothing_that_is_held_out(trained: Trained) -> None:
    rows = {row["name"]: row for row in trained.told["variants"]}
    assert rows["others"]["withheld"] == {"held_out_document": 5} and rows["others"]["documents"] == NUM_TRAIN
    assert rows["sharded"]["tokens"] == rows["base"]["tokens"]
    models = [dataset.named(path).manifest() for paths in trained.told["models"].values() for path in paths]
    assert {one.facts["tokens"] for one in models} == {60 * 16 * 32} and len(models) == 12
    assert len({json.dumps({**one.recipe["config"], "seed": 0}) for one in models}) == 1
    by_seed = [one.recipe["config"]["seed"] for one in models]
    assert by_seed == [1, 2, 3] * 4
    tokenisers = {
        file.digest
        for one in models
        for file in dataset.opened(one.recipe["inputs"]["tokens"]).manifest().files
        if file.name == "tokeniser/tokenizer.json"
    }
    assert len(tokenisers) == 1


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_a_second_start_makes_nothing_and_mlflow_has_one_tree(trained: Trained) -> None:
    made: list[str] = []
    paths = [path for paths in trained.told["models"].values() for path in paths]
    times = {path: Path(dataset.folder_of(path), "manifest.json").stat().st_mtime_ns for path in paths}
    again = ablation.told(ablation.ablate(trained.variants, Asked(trained.config, tell=made.append)))
    assert again == trained.told and made == trained.lines
    assert times == {path: Path(dataset.folder_of(path), "manifest.json").stat().st_mtime_ns for path in times}
    runs = trained.client.search_runs([trained.client.get_experiment_by_name("gristmill").experiment_id], max_results=200)
    [above] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == above.info.run_id]
    assert above.info.run_name == "ablation of base" and above.info.status == "FINISHED"
    assert above.data.metrics[f"damaged.{BITS}.difference"] == pytest.approx(effect(trained, "damaged")["difference"])
    names = [run.info.run_name for run in below]
    assert len(names) == len(set(names)) == 4 + 4 + 12 + 12 + 1  # withhold, tokenise, pretrain, evaluate, ablate
    one = next(run for run in below if run.info.run_name == "pretrain damaged, seed 2")
    assert len(trained.client.get_metric_history(one.info.run_id, "valid_loss")) >= 3
    assert {artifact.path for artifact in trained.client.list_artifacts(above.info.run_id)} == {"ablation.html", "ablation.json"}
    # a run that keeps all from `gc`, but has no model that `evaluate` would take for the corpus's
    [run] = ledger.runs()
    assert [entry.step for entry in ledger.entries(run)] == ["ablate"]


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_the_command_tells_what_was_found_by_the_names_of_versions(trained: Trained, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(trained.config.model_dump_json(by_alias=True))
    home = Path(dataset.folder_of("publish")).parents[1]
    named = [f"{one.name}={one.version.version}" for one in trained.variants]
    page = tmp_path / "page.html"
    words = ["ablate", *named, "--config", str(config), "--output", str(page)]
    tables, plain, alone = commands(home, words, [*words, "--json", "--metric", BITS], ["ablate", "--config", str(config)])
    assert (tables.code, plain.code, alone.code) == (0, 0, 2)
    assert "worse than the baseline" in tables.output and "read 0.67 times" in tables.output
    assert page.read_text().count("<svg") == 3  # of the second one: one metric and the curves
    found = json.loads(plain.output[plain.output.index("{") : plain.output.rindex("}") + 1])
    assert [row["values"] for row in found["effects"]] == [
        row["values"] for row in trained.told["effects"] if row["metric"] == BITS
    ]
    assert "Give versions, or --variant" in alone.output
