from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infra.curves import Curves


def shown(folder: Path, name: str) -> list[tuple[int, float]]:
    """What TensorBoard draws of a number."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(one.step, one.value) for one in accumulator.Scalars(name)]


def test_lines_are_curves_by_step_and_source(tmp_path: Path) -> None:
    curves = Curves(tmp_path, None)
    curves.add({"step": 1, "train_loss": 4.0, "valid_loss": None, "train_loss.web": 4.5})
    curves.add({"step": 5, "train_loss": 3.0, "valid_loss": 3.5, "train_loss.web": 3.25})
    curves.close()
    assert shown(tmp_path, "train_loss") == [(1, 4.0), (5, 3.0)]
    assert shown(tmp_path, "valid_loss") == [(5, 3.5)] and shown(tmp_path, "train_loss/web") == [(1, 4.5), (5, 3.25)]


def test_a_training_that_goes_on_from_a_checkpoint_draws_no_line_twice(tmp_path: Path) -> None:
    for steps in ((1, 2, 3, 4), (3, 4, 5)):
        curves = Curves(tmp_path, None)
        for step in steps:
            curves.add({"step": step, "train_loss": float(step)})
        curves.close()
    assert shown(tmp_path, "train_loss") == [(float(step), float(step)) for step in range(1, 6)]
