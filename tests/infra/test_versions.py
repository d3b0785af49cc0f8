"""Code versions: what a step reaches counts, words and doors do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import versions
from infra.settings import PROJECT


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A copy of the sources to change, and a way to forget what was read of them."""
    for package in versions.FIRST_PARTY:
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(versions, "PROJECT", tmp_path)

    def forget() -> None:
        for cached in (versions._closure, versions._source, versions._meaning, versions._imports, versions.code_version):
            cached.cache_clear()

    forget()
    yield forget
    monkeypatch.undo()
    forget()


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_changed_helper_changes_every_step_that_reaches_it(copy: Callable[[], None], tmp_path: Path) -> None:
    before = {name: versions.code_of(f"tasks.{name}") for name in ("signals", "filter", "dedup")}
    with (tmp_path / "tasks/text/minhash.py").open("a") as file:
        file.write("\nADDED = 1\n")
    copy()
    assert versions.code_of("tasks.dedup") != before["dedup"]
    assert versions.code_of("tasks.signals") == before["signals"]


def test_words_of_a_docstring_or_comment_change_nothing(copy: Callable[[], None], tmp_path: Path) -> None:
    before = versions.code_of("tasks.dedup")
    whole = versions.code_version()
    edited(tmp_path / "tasks/dedup.py", '"""dedup:', '"""dedup, in other words:')
    with (tmp_path / "tasks/dedup.py").open("a") as file:
        file.write("\n# a remark\n")
    copy()
    assert versions.code_of("tasks.dedup") == before
    assert versions.code_version() != whole


def test_servers_and_tracking_are_no_part_of_a_step(copy: Callable[[], None], tmp_path: Path) -> None:
    before = versions.code_of("tasks.dedup")
    for name in ("servers", "tracking", "orchestration", "cluster"):
        with (tmp_path / f"infra/{name}.py").open("a") as file:
            file.write("\nADDED = 1\n")
    copy()
    assert versions.code_of("tasks.dedup") == before


def test_libraries_that_decide_bytes_are_in_the_recipe() -> None:
    _, libraries = versions.code_of("tasks.dedup")
    assert {"pyarrow", "numpy", "numba", "xxhash"} <= libraries.keys()
    assert not {"prefect", "mlflow", "pydantic"} & libraries.keys()


@pytest.mark.parametrize("step", ["sft", "dpo", "kto", "reward", "reinforce"])
def test_what_trainers_work_and_write_by_is_in_the_recipe(step: str) -> None:
    assert {"trl", "transformers", "accelerate", "safetensors"} <= versions.code_of(f"tasks.{step}")[1].keys()


def test_what_reads_a_gguf_file_is_in_the_recipe() -> None:
    assert "gguf" in versions.code_of("tasks.adopt")[1]


def test_how_a_training_is_kept_is_part_of_its_step() -> None:
    assert ["infra.trainings" in versions._closure(f"tasks.{name}")[0] for name in ("sft", "adopt", "dedup")] == [
        True,
        True,
        False,
    ]


def test_steps_import_no_step_to_align() -> None:
    for step in ("sft", "dpo", "kto", "reward", "reinforce"):
        others = {one for one in versions._imports(f"tasks.{step}") if one.count(".") == 1 and one.startswith("tasks.")}
        assert others <= {"tasks.learn"}


def test_what_only_estimates_is_no_part_of_a_step() -> None:
    sources, _ = versions._closure("tasks.index")
    assert "tasks.text.clusters" in sources and not sources & set(versions.ESTIMATES)
    assert all((PROJECT / f"{name.replace('.', '/')}.py").exists() for name in versions.ESTIMATES)


def test_a_package_is_found_in_the_distribution_that_all_of_them_together_name() -> None:
    owners = versions._distributions()
    tops = ["pyarrow", "sklearn", "yaml", "fasttext", "fastwarc", "PIL", "dateutil", "idna", "google", "attr", "nothing_of_ours"]
    assert [versions._distribution(top) for top in tops] == [next(iter(sorted(owners.get(top, []))), None) for top in tops]
