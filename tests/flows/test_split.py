"""`split` beside plain Python: whole units, three splits, no cluster in two of them, and a test split that validation does not touch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from expectations.schemas import CLUSTERED
from infra import dataset, ids, storage
from infra.dataset import Outcome, ShardSet
from tasks.publish import PublishConfig, publish
from tasks.split import MIN_HOSTS, SplitConfig, split

HELD_OUT = ("test", "validation")
Document = tuple[int, int, int]
"""Host, cluster, characters."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def rows(documents: list[Document]) -> list[dict[str, Any]]:
    made = []
    for number, (host, cluster, num_chars) in enumerate(documents):
        row = dict.fromkeys(CLUSTERED.names) | {
            "doc_id": f"{number:03d}",
            "source": "web",
            "url": f"http://h{host}.example/{number}",
        }
        made.append(row | {"host": f"h{host}.example", "cluster": f"c{cluster}", "text": "ä" * num_chars})
    return made


def clustered(documents: list[Document]) -> ShardSet:
    """A version of these documents in two shards."""
    recipe = {"step": "redact", "inputs": {}, "config": {"rows": ids.digest_of(repr(documents))}}
    folder = storage.join(dataset.folder_of("redact"), dataset.version_of(recipe))
    if not storage.exists(storage.join(folder, dataset.MANIFEST)):
        tables = [pa.Table.from_pylist(rows(documents)[part::2], CLUSTERED) for part in (0, 1)]
        receipts = [dataset.write_shard(folder, number, Outcome(table)) for number, table in enumerate(tables)]
        dataset.seal(
            folder, step="redact", schema_name="clustered_documents", recipe=recipe, receipts=receipts, files=[], facts={}
        )
    return dataset.open_version(folder)


def divided(documents: list[Document], config: SplitConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """doc_id → split of those that stay, and the facts."""
    made = split(clustered(documents), config=config)
    found = [row for shard in made.shards() for row in shard.read(["doc_id", "split"]).to_pylist()]
    return {row["doc_id"]: row["split"] for row in found}, made.manifest().facts


def plainly_divided(documents: list[Document], config: SplitConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """The same by looking at every pair of documents."""
    given = rows(documents)
    unit = "host" if config.by == "host" and len({row["host"] for row in given}) >= MIN_HOSTS else "cluster"
    chars: Counter[str] = Counter()
    for row in given:
        chars[row[unit]] += len(row["text"])
    order = sorted(chars, key=lambda name: ids.digest_of("split", str(config.seed), name))
    split_of: dict[str, str] = {}
    for name, share in zip(HELD_OUT, (config.test_share, config.validation_share), strict=True):
        for one in order[:-1]:
            if sum(chars[held] for held in split_of if split_of[held] == name) >= share * chars.total():
                break
            split_of.setdefault(one, name)
    mine = [split_of.get(row[unit], "train") for row in given]
    stays = {
        row["doc_id"]: own
        for row, own in zip(given, mine, strict=True)
        if own == "train"
        or all(theirs == own for other, theirs in zip(given, mine, strict=True) if other["cluster"] == row["cluster"])
    }
    units = {name: sorted(one for one in split_of if split_of[one] == name) for name in HELD_OUT}
    return stays, {f"held_out.{name}": some if unit == "host" else len(some) for name, some in units.items()} | {"unit": unit}


DOCUMENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 9)), max_size=14)
# a cluster in all three splits, one in each two of them, and one in each alone
ALL_WAYS = [(0, 0, 5), (1, 0, 5), (2, 0, 5), (0, 1, 5), (1, 1, 5), (1, 2, 5), (2, 2, 5), (0, 3, 5), (2, 3, 5),
            (0, 4, 5), (1, 5, 5), (2, 6, 5)]  # fmt: skip


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    DOCUMENTS,
    st.sampled_from([0.05, 0.3, 0.9]),
    st.sampled_from([0.0, 0.02, 0.4]),
    st.sampled_from(["host", "cluster"]),
    st.integers(0, 3),
)
@example(ALL_WAYS, 0.05, 0.02, "host", 0)
@example(ALL_WAYS, 0.05, 0.02, "cluster", 0)
def test_three_splits_are_those_of_plain_python_and_share_no_unit_and_no_cluster(
    home: Path, documents: list[Document], test_share: float, validation_share: float, by: Literal["host", "cluster"], seed: int
) -> None:
    config = SplitConfig(test_share=test_share, validation_share=validation_share, by=by, seed=seed)
    found, facts = divided(documents, config)
    assert (found, facts) == plainly_divided(documents, config)
    of = {row["doc_id"]: row for row in rows(documents)}
    for column in ("cluster", *(["host"] if facts["unit"] == "host" else [])):
        pairs = {(of[doc][column], name) for doc, name in found.items()}
        assert len(pairs) == len({unit for unit, _ in pairs})
    units = {row[facts["unit"]] for row in of.values()}
    held = [facts[f"held_out.{name}"] for name in HELD_OUT]
    num_held = sum(one if isinstance(one, int) else len(one) for one in held)
    assert num_held < max(len(units), 1)  # something is left for training
    if len(units) < 3 or not validation_share:
        assert not held[1]
    # what is held out for validation comes from the training documents
    without, _ = divided(documents, config.model_copy(update={"validation_share": 0.0}))
    assert [doc for doc, name in found.items() if name == "test"] == [doc for doc, name in without.items() if name == "test"]


def test_a_document_of_a_cluster_in_two_splits_is_a_reject_and_validation_changes_no_byte_of_the_test_shards(home: Path) -> None:
    made = {share: split(clustered(ALL_WAYS), config=SplitConfig(validation_share=share)) for share in (0.0, 0.02)}
    rejects = dataset.dataset(made[0.02].folder, rejects=True)
    assert rejects is not None
    # of the 4 documents of the host for validation 3 have relatives elsewhere, and so have 3 of the host for the test
    facts = made[0.02].manifest().facts
    assert [len(facts[f"held_out.{name}"]) for name in HELD_OUT] == [1, 1]
    assert made[0.02].counts.dropped == {"straddles_split": 6}
    assert {row["detail"] for row in rejects.to_table().to_pylist()} == {"c0", "c1", "c2", "c3"}
    shards = {}
    for share, version in made.items():
        published = publish(version, [], config=PublishConfig())
        manifest = published.manifest()
        assert manifest.facts["num_documents.validation"] == (1 if share else 0)
        by_index = {one.index: one.digest for one in manifest.shards}
        shards[share] = [by_index[index] for index in manifest.facts["splits"]["test"]]
    assert shards[0.0] == shards[0.02]
