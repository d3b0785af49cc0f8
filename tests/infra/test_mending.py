"""Damaged files are made again with the digest of before, and a version has one maker at a time."""

from __future__ import annotations

import json
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel, ConfigDict, Field

from infra import mending, steps, storage
from infra.dataset import GUARD, Outcome, ShardCorrupt, ShardRef, ShardSet, rejects_table
from infra.errors import InputError
from infra.mending import verified_loads
from infra.steps import Output, Step

NUM_SHARDS = 4


class Config(BaseModel):
    model_config = ConfigDict(frozen=True)

    base: int = 0
    log: str = ""
    """File in which every shard that is made leaves a line."""
    seconds: float = 0.0
    means: str = Field("", json_schema_extra=GUARD)


def numbers(config: Config, out: Output) -> None:
    out.map(partial(number_shard, config=config), range(NUM_SHARDS))
    storage.write_bytes(storage.join(out.folder, "words.txt"), b"words")
    out.keep_file("words.txt")


def number_shard(index: int, config: Config) -> Outcome:
    with Path(config.log).open("a") as log:
        log.write(f"numbers {index}{config.means}\n")
    time.sleep(config.seconds)
    rejects = rejects_table([{"doc_id": f"gone {index}", "rule": "odd"}])
    return Outcome(pa.table({"value": [config.base + index]}), rejects)


def doubles(source: ShardSet, config: Config, out: Output) -> None:
    halved = out.map_aside("halved", partial(double_shard, config=config, name="halves"), source.shards())
    out.map(partial(double_shard, config=config, name="doubles"), halved)


def double_shard(shard: ShardRef, config: Config, name: str) -> Outcome:
    table = shard.read()
    with Path(config.log).open("a") as log:
        log.write(f"{name} {shard.index}\n")
    if name == "halves" and shard.index == 3:  # disk rot while the step is at work
        first = Path(shard.path).parents[2] / "rot"
        if first.exists():
            spoil(Path(first.read_text()))
            first.unlink()
    return Outcome(pa.table({"value": [2 * value.as_py() for value in table["value"]]}))


# the code of a step is that of its module; a test module is none of ours, so these borrow one
for function in (numbers, doubles):
    function.__module__ = "infra.ids"
NUMBERS = Step(numbers, "numbers", lambda config: {})
DOUBLES = Step(doubles, "numbers", lambda config: {})


def spoil(path: Path) -> None:
    """Flip a bit; the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.fixture
def config(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setitem(steps.STEPS, "numbers", NUMBERS)
    (tmp_path / "log").touch()
    return Config(log=str(tmp_path / "log"))


def made(config: Config) -> list[str]:
    """What was made since the last look, in order of name."""
    lines = sorted(Path(config.log).read_text().splitlines())
    Path(config.log).write_text("")
    return lines


@pytest.mark.parametrize("name", ["part-00002.parquet", "rejects/part-00002.parquet"])
@pytest.mark.parametrize("harm", [spoil, Path.unlink], ids=["rotten", "lost"])
def test_a_retry_finds_a_damaged_file_of_what_it_loads_and_makes_just_that_shard(config: Config, name: str, harm: Any) -> None:
    before = NUMBERS(config=config)
    made(config)
    harm(Path(before.folder, name))
    with verified_loads():
        result = NUMBERS.run([], config)
    assert not result.loaded and result.shards == before
    assert made(config) == ["numbers 2"]
    with verified_loads():
        assert NUMBERS.run([], config).loaded


def test_a_retry_makes_a_file_again_that_is_no_shard(config: Config) -> None:
    before = NUMBERS(config=config)
    spoil(Path(before.file("words.txt")))
    assert NUMBERS.run([], config).loaded  # a first run trusts size and manifest
    made(config)
    with verified_loads():
        assert NUMBERS.run([], config).shards == before
    assert Path(before.file("words.txt")).read_bytes() == b"words" and made(config) == []


@pytest.mark.parametrize("harm", [spoil, Path.unlink], ids=["rotten", "lost"])
def test_a_step_that_comes_upon_a_damaged_shard_has_it_made_again_and_goes_on(config: Config, harm: Any) -> None:
    source = NUMBERS(config=config)
    undisturbed = DOUBLES(source, config=config)
    again = DOUBLES.run([source], config.model_copy(update={"base": 1}))  # another version of the same bytes
    made(config)
    harm(Path(source.folder, "part-00001.parquet"))
    result = DOUBLES.run([source], config.model_copy(update={"base": 2}))
    assert result.shards.digest == again.shards.digest == undisturbed.digest
    assert [line for line in made(config) if line.startswith("numbers")] == ["numbers 1"]
    told = json.loads(Path(result.shards.file("run.json")).read_text())
    assert told["mended"] == [str(Path(source.folder, "part-00001.parquet"))]


def test_what_no_recipe_names_is_noted_and_a_file_is_made_again_by_it(config: Config) -> None:
    source = NUMBERS(config=config.model_copy(update={"means": " by hand"}))
    assert "means" not in source.manifest().recipe["config"]
    assert json.loads(Path(source.file("run.json")).read_text())["settings"] == {"means": " by hand"}
    assert NUMBERS.run([], config).loaded
    spoil(Path(source.folder, "part-00001.parquet"))
    made(config)
    DOUBLES(source, config=config)
    assert [line for line in made(config) if line.startswith("numbers")] == ["numbers 1 by hand"]


def test_a_rotten_intermediate_shard_is_made_again_too(config: Config) -> None:
    source = NUMBERS(config=config)
    undisturbed = DOUBLES(source, config=config)
    other = config.model_copy(update={"base": 2})
    recipe = DOUBLES.recipe([source], other)
    folder = Path(undisturbed.folder).parent / steps.dataset.version_of(recipe)
    (Path(source.folder).parents[1] / "rot").write_text(str(folder / "aside" / "halved" / "part-00000.parquet"))
    made(config)
    assert DOUBLES.run([source], other).shards.digest == undisturbed.digest
    assert made(config).count("halves 0") == 2


def test_a_file_that_another_run_has_made_again_meanwhile_is_left_as_it_is(config: Config) -> None:
    source = NUMBERS(config=config)
    made(config)
    path = Path(source.folder, "part-00001.parquet")
    mending.mend(ShardCorrupt(str(path), "digest 0 where the manifest says 1"), "elsewhere", [source], steps.remake)
    assert path.exists() and made(config) == []


def test_what_cannot_be_made_again_says_why(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    source = NUMBERS(config=config)
    spoil(Path(source.folder, "part-00001.parquet"))
    monkeypatch.delitem(steps.STEPS, "numbers")
    with pytest.raises(InputError, match=r"part-00001\.parquet: digest .* cannot be made again: its step numbers is not part"):
        DOUBLES(source, config=config)


def test_a_shard_of_no_input_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ShardCorrupt, match=r"part-00000\.parquet: no such file, though the manifest names it; remove"):
        ShardRef(str(tmp_path / "part-00000.parquet"), "0" * 32, 0, 1).read()


def test_a_store_that_does_not_answer_is_not_taken_for_damage(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    before = NUMBERS(config=config)

    def silent(path: str) -> Any:
        raise storage.StorageError(f"{path}: the store did not do it") from TimeoutError()

    with monkeypatch.context() as patch:  # the store is the outside world here
        patch.setattr(storage, "open_read", lambda path: silent(path) if "part-" in path else open(path, "rb"))  # noqa: PTH123, SIM115
        with pytest.raises(storage.StorageError, match="did not do it"), verified_loads():
            NUMBERS.run([], config)
        with pytest.raises(storage.StorageError, match="did not do it"):
            before.shards()[0].read()
    assert NUMBERS.run([], config).loaded  # nothing was removed


def test_an_input_whose_folder_begins_like_the_output_is_an_input_all_the_same(config: Config, tmp_path: Path) -> None:
    source = NUMBERS.run([], config, str(tmp_path / "out-numbers")).shards
    spoil(tmp_path / "out-numbers" / "part-00001.parquet")
    made(config)
    DOUBLES.run([source], config, str(tmp_path / "out"))
    assert [line for line in made(config) if line.startswith("numbers")] == ["numbers 1"]


def _run(home: str, config: Config, began: Any, results: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRISTMILL_HOME", home)
        began.wait()
        result = NUMBERS.run([], config)
        results.put((result.loaded, result.shards.digest))


def test_two_processes_that_need_the_same_version_make_it_once(config: Config, home: Path) -> None:
    context = multiprocessing.get_context("fork")
    began, results = context.Barrier(3), context.Queue()
    slow = config.model_copy(update={"seconds": 0.2})
    runs = [context.Process(target=_run, args=(str(home), slow, began, results)) for _ in range(3)]
    for run in runs:
        run.start()
    ended = [results.get(timeout=60) for _ in runs]
    for run in runs:
        run.join(60)
    assert sorted(loaded for loaded, _ in ended) == [False, True, True]
    assert len({digest for _, digest in ended}) == 1
    assert made(config) == [f"numbers {index}" for index in range(NUM_SHARDS)]
