"""The lines of a training in TensorBoard's files and in MLflow, also after a resume and while MLflow does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infra import tracking
from infra.curves import Curves
from infra.tracking import Track


class Server:
    """MLflow's client as far as it is used, of a server that is away at times."""

    def __init__(self) -> None:
        self.away = False
        self.told: list[tuple[str, float, int]] = []

    def log_batch(self, run_id: str, metrics: Sequence[Metric]) -> None:
        if self.away:
            raise MlflowException("no answer")
        self.told += [(one.key, one.value, one.step) for one in metrics]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()
    monkeypatch.setattr(tracking, "_client", lambda: made)
    return made


def line(step: int, loss: float, **more: Any) -> dict[str, float | None]:
    return {"step": step, "train_loss": loss, "valid_loss": None, **more}


def test_an_mlflow_that_does_not_answer_ends_no_training_and_is_told_later(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    curves = Curves(tmp_path, Track("run", "experiment"))
    curves.add(line(1, 3.0))
    server.away = True
    curves.add(line(2, 2.5))
    curves.add(line(3, 2.0))
    assert server.told == [("train_loss", 3.0, 1)] and "was not told 2 lines" in caplog.text
    server.away = False
    curves.close()
    assert server.told == [("train_loss", 3.0, 1), ("train_loss", 2.5, 2), ("train_loss", 2.0, 3)]


def test_after_a_resume_a_run_in_mlflow_is_told_each_step_once_and_another_run_all_of_them(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "tensorboard"
    for run, steps in (("run", (1, 2, 3)), ("run", (2, 3, 4)), ("other", (3, 4))):
        curves = Curves(folder, Track(run, "experiment"))
        for step in steps:
            curves.add(line(step, float(step)))
        curves.close()
    assert [step for _, _, step in server.told] == [1, 2, 3, 4, 3, 4]


def test_after_a_resume_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    for steps, shift in (((1, 2, 3), 0.0), ((2, 3, 4), 10.0)):
        curves = Curves(tmp_path, None)
        for step in steps:
            curves.add(line(step, step + shift, **{"valid_loss.web": 1.0}))
        curves.close()
        # a name of its own for the next try's file, which has the second in it
        [file] = [one for one in tmp_path.iterdir() if one.suffix != ".try"]
        file.rename(file.with_name(f"{len(list(tmp_path.iterdir()))}.tfevents.try"))
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(one.step, one.value) for one in read.Scalars("train_loss")] == [(1, 1.0), (2, 12.0), (3, 13.0), (4, 14.0)]
    assert len(read.Scalars("valid_loss/web")) == 4
