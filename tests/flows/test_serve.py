"""`gristmill serve` and `gristmill keys`: what names mean, and what is refused before anything is loaded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import registered, serve
from flows.__main__ import app
from infra import tracking
from infra.dataset import ShardSet, open_version
from infra.errors import InputError
from infra.settings import settings
from tasks.serving.config import ServeConfig

from . import made_model


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GRISTMILL_MLFLOW_URL", "GRISTMILL_PREFECT_API_URL", "GRISTMILL_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def trained(step: str, folder: Path, steps: int) -> ShardSet:
    """A version of a model, by its own name in the store."""
    texts = {"model/config.json": f'{{"steps": {steps}}}'}
    made = made_model._sealed(folder / step, step, "model", texts, {}, {"steps": steps}, {}, {})
    place = Path(settings().store, step, made.version)
    place.parent.mkdir(parents=True, exist_ok=True)
    Path(made.folder).rename(place)
    return open_version(str(place))


def resolve(what: str, name: str = "m") -> Any:
    with contextlib.ExitStack() as copies:
        return serve._resolver(name, what, copies)()


def test_a_folder_is_served_as_it_is_and_a_version_by_its_model(home: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    plain = resolve(str(tmp_path / "plain"))
    assert (plain.name, plain.version, plain.folder) == ("m", "plain", str(tmp_path / "plain"))
    (tmp_path / "plain" / "config.json").write_text('{"a": 1}')
    assert resolve(str(tmp_path / "plain")).digest != plain.digest
    version = trained("sft", tmp_path, 600)
    for what in (version.folder, f"sft/{version.version}"):
        found = resolve(what)
        assert (found.folder, found.digest) == (f"{version.folder}/model", version.digest), what
        assert found.version == f"sft/{version.version}"


def test_what_is_no_model_is_refused_with_what_to_do(home: Path, tmp_path: Path) -> None:
    model = trained("sft", tmp_path, 600)
    made_model.scored(model, Path(settings().store, "evaluate", "fedcba9876543210"), "evaluate")
    (tmp_path / "empty").mkdir()
    for what, told in (
        ("evaluate/fedcba9876543210", "has scores and no model"),
        ("sft/0000000000000000", "no such version"),
        (str(tmp_path / "empty"), "neither a model of transformers"),
        ("unheard", "the MLflow registry, which may know the name, is not running here"),
    ):
        with pytest.raises(InputError, match=told):
            resolve(what)


def test_an_alias_is_followed_and_only_looked_up_in_the_store_when_it_moves(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry is the outside world here; the real one is asked in tests/served."""
    made = [trained(step, tmp_path, place) for place, step in enumerate(("sft", "dpo"), 600)]
    rows: list[dict[str, Any]] = [
        {"name": "m", "version": str(place + 1), "digest": one.digest, "aliases": [], "tags": {"model.version": one.version}}
        for place, one in enumerate(made)
    ]
    rows[0]["aliases"], rows[1]["aliases"] = ["champion"], ["challenger"]
    asked: list[str] = []

    def rows_of(name: str = "") -> list[Mapping[str, Any]]:
        asked.append(name)
        return [one for one in rows if name in ("", one["name"])]

    monkeypatch.setattr(tracking, "reachable", lambda: True)
    monkeypatch.setattr(tracking, "registered_models", rows_of)
    with contextlib.ExitStack() as copies:
        champion = serve._resolver("m", "m", copies)
        first = champion()
        assert first.folder == f"{made[0].folder}/model" and first.version == f"m:1 (sft/{made[0].version})"
        monkeypatch.setattr(registered, "version_of", lambda *_: pytest.fail("the store was read though nothing has moved"))
        assert champion() is first
        monkeypatch.undo()
        monkeypatch.setenv("GRISTMILL_HOME", str(home))
        monkeypatch.setattr(tracking, "reachable", lambda: True)
        monkeypatch.setattr(tracking, "registered_models", rows_of)
        rows[0]["aliases"], rows[1]["aliases"] = [], ["champion", "challenger"]
        assert champion().folder == f"{made[1].folder}/model"
        assert serve._resolver("m", "m:1", copies)().digest == made[0].digest
        assert serve._resolver("m", "m@challenger", copies)().digest == made[1].digest
        for what, told in (
            ("m:9", "has no version 9 in the registry; it has: 1, 2 champion challenger"),
            ("n", "has no alias champion in the registry; registered are m"),
            ("/no/folder", "there is no such file or folder$"),
            ("./model.gguf", "there is no such file or folder; a GGUF file is taken in by `gristmill step adopt"),
        ):
            with pytest.raises(InputError, match=told):
                serve._resolver("m", what, copies)()
        rows[1]["digest"] = "0" * 32
        with pytest.raises(InputError, match="which is not in the store"):
            champion()
    assert set(asked) == {"m", "n", ""}


def test_models_have_the_names_that_they_are_given(tmp_path: Path) -> None:
    assert serve._named(["m", "m@challenger", f"mine={tmp_path}", str(tmp_path)]) == {
        **{"m": "m", "m@challenger": "m@challenger"},
        **{"mine": str(tmp_path), tmp_path.name: str(tmp_path)},
    }
    with pytest.raises(InputError, match="two models are called m"):
        serve._named(["m", "m=n"])


def test_an_address_that_is_open_to_others_needs_keys(home: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"0\.0\.0\.0 is open to others, and there are no keys"):
        serve.run([str(tmp_path)], ServeConfig(host="0.0.0.0", port=0), print)


def test_keys_are_made_listed_and_taken_away(home: Path) -> None:
    run = CliRunner().invoke
    made = run(app, ["keys", "add", "ann", "--requests-per-minute", "60"])
    assert made.exit_code == 0 and made.output.startswith("gm-")
    listed = run(app, ["keys", "list"])
    assert "ann" in listed.output and "60" in listed.output and made.output.strip() not in listed.output
    assert json.loads((home / "serving" / "keys.json").read_text())["keys"][0]["name"] == "ann"
    assert run(app, ["keys", "remove", "ann"]).exit_code == 0
    assert "ann" not in run(app, ["keys", "list"]).output
