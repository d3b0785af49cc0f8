"""Steps: the version follows from the recipe, a complete one is loaded, an interrupted one goes on where it stood."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import BaseModel, ConfigDict

from infra import dataset, ledger
from infra.dataset import Outcome, ShardRef, ShardSet
from infra.steps import Output, Step

CALLS: list[int] = []


class DoubleConfig(BaseModel):
    model_config = ConfigDict(frozen=True)

    factor: int = 2
    fail_at: int = -1


def numbers(config: DoubleConfig, out: Output) -> None:
    out.map(number_shard, [0, 1, 2, 3])


def number_shard(index: int) -> Outcome:
    return Outcome(pa.table({"value": [index, index + 10]}))


def double(source: ShardSet, config: DoubleConfig, out: Output) -> None:
    out.map(DoubleShard(config), source.shards())


class DoubleShard:
    def __init__(self, config: DoubleConfig) -> None:
        self.config = config

    def __call__(self, shard: ShardRef) -> Outcome:
        CALLS.append(shard.index)
        if shard.index == self.config.fail_at and not (Path(shard.path).parent / "mended").exists():
            raise RuntimeError("as if killed")
        return Outcome(pa.table({"value": [value.as_py() * self.config.factor for value in shard.read()["value"]]}))


# the code of a step is that of its module; a test module is none of ours, so these borrow one
for function in (numbers, double):
    function.__module__ = "infra.ids"
NUMBERS = Step(numbers, "numbers", lambda config: {})
DOUBLE = Step(double, "numbers", lambda config: {})


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def test_a_complete_version_is_loaded_and_not_made_again(home: Path) -> None:
    source = NUMBERS(config=DoubleConfig())
    made = DOUBLE(source, config=DoubleConfig())
    assert sorted(CALLS) == [0, 1, 2, 3]
    assert DOUBLE.run([source], DoubleConfig()).loaded
    assert DOUBLE(source, config=DoubleConfig()) == made
    assert len(CALLS) == 4


def test_what_a_next_try_could_go_on_from_stays_until_the_version_is_complete(home: Path, tmp_path: Path) -> None:
    def scratching(config: DoubleConfig, out: Output) -> None:
        out.scratch.append(tmp_path / "checkpoints")
        out.scratch[0].mkdir(exist_ok=True)
        if config.fail_at >= 0:
            raise RuntimeError("as if the store had refused what was made")
        numbers(config, out)

    scratching.__module__ = "infra.ids"
    step = Step(scratching, "numbers", lambda config: {})
    with pytest.raises(RuntimeError):
        step(config=DoubleConfig(fail_at=1))
    assert (tmp_path / "checkpoints").exists()
    step(config=DoubleConfig())
    assert not (tmp_path / "checkpoints").exists()


def test_a_changed_config_is_another_version(home: Path) -> None:
    source = NUMBERS(config=DoubleConfig())
    two, three = DOUBLE(source, config=DoubleConfig()), DOUBLE(source, config=DoubleConfig(factor=3))
    assert two.version != three.version
    assert two.digest != three.digest


def test_an_interrupted_step_makes_only_the_shards_that_are_missing(home: Path) -> None:
    source = NUMBERS(config=DoubleConfig())
    config = DoubleConfig(fail_at=2)
    with pytest.raises(RuntimeError, match="as if killed"):
        DOUBLE(source, config=config)
    assert CALLS == [0, 1, 2]
    (Path(source.folder) / "mended").touch()
    result = DOUBLE.run([source], config)
    assert CALLS == [0, 1, 2, 2, 3]
    assert result.resumed_shards == 2
    assert result.shards.digest == DOUBLE(source, config=DoubleConfig()).digest


def test_a_lost_shard_is_made_again_and_the_others_stay(home: Path) -> None:
    source = NUMBERS(config=DoubleConfig())
    made = DOUBLE(source, config=DoubleConfig())
    CALLS.clear()
    (Path(made.folder) / "part-00001.parquet").unlink()
    assert DOUBLE(source, config=DoubleConfig()).digest == made.digest
    assert CALLS == [1]


def test_an_output_folder_with_other_files_is_refused(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "thesis.txt").write_text("do not mix")
    with pytest.raises(dataset.VersionConflict, match="not empty and not a Gristmill version"):
        NUMBERS.run([], DoubleConfig(), str(folder))


def test_unfinished_work_of_another_recipe_is_refused(home: Path, tmp_path: Path) -> None:
    source = NUMBERS(config=DoubleConfig())
    with pytest.raises(RuntimeError):
        DOUBLE.run([source], DoubleConfig(fail_at=1), str(tmp_path / "out"))
    with pytest.raises(dataset.VersionConflict, match="unfinished work of another recipe"):
        DOUBLE.run([source], DoubleConfig(factor=5), str(tmp_path / "out"))


def test_steps_enter_the_ledger_of_their_run_in_order(home: Path) -> None:
    with ledger.run("first"):
        DOUBLE(NUMBERS(config=DoubleConfig()), config=DoubleConfig())
    entries = ledger.entries("first")
    assert [entry.step for entry in entries] == ["numbers", "double"]
    assert entries[1].shards().digest == entries[1].digest
    assert ledger.find_run("latest") == "first"
