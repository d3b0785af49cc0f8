"""What a step does around a training in a process of its own: where its checkpoints lie, who hears of it, and what is kept of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from infra import storage, tracking
from infra.curves import Curves
from infra.progress import report
from infra.settings import settings
from infra.steps import BESIDE, Output

CURVES = "tensorboard"
COPY_BYTES = 4 << 20

Line = Mapping[str, float | None]


def work_folder(out: Output) -> Path:
    """A local folder for checkpoints that the next try finds again: beside the version, or as the settings say when storage is remote."""
    if storage.is_local(out.folder):
        folder = Path(out.aside("checkpoints"))
    else:
        folder = settings().checkpoints / out.version
        out.scratch.append(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def followed(
    run: Callable[..., dict[str, Any]], folder: Path, in_words: Callable[[Line], str], max_steps: int = 0
) -> dict[str, Any]:
    """The result of a training, whose lines go to TensorBoard's files in `folder` and to MLflow, and its steps to who watches.

    Args:
        run: is called with `on_log`, `on_step` and `on_total` of `tasks.learn.job.run`.
        in_words: a line of history, for who waits.
        max_steps: where it is known before the training says so.
    """
    total, note = max_steps, ""

    def on_log(line: Line) -> None:
        nonlocal note
        curves.add(line)
        note = in_words(line)

    def on_total(steps: int) -> None:
        nonlocal total
        total = steps

    with closing(Curves(folder / CURVES, tracking.current())) as curves, tracking.system_metrics():
        result = run(on_log=on_log, on_step=lambda at: report(at, total, "training steps", note), on_total=on_total)
    report(result["steps"], result["steps"], "training steps", note)
    return result


def keep_model(trained: Path, folder: str, out: Output) -> None:
    """The files of a trained model, as part of the version."""
    for file in sorted(trained.iterdir()):
        name = f"{folder}/{file.name}"
        with file.open("rb") as weights, storage.open_write(storage.join(out.folder, name)) as kept:
            shutil.copyfileobj(weights, kept, COPY_BYTES)  # never whole in memory
        out.keep_file(name)


def keep_result(
    result: Mapping[str, Any],
    work: Path,
    out: Output,
    *,
    model: str,
    history: tuple[str, str],
    left_out: str,
    volatile: Sequence[str],
) -> None:
    """What a training on from a model leaves, under these names: the model, the lines of its history, its curves, and what it left out."""
    keep_model(Path(result["model_folder"]), model, out)
    keep_history(result["history"], history, volatile, out)
    keep_curves(work, out)
    keep_json(left_out, result["left_out"], out)


def keep_json(name: str, value: Any, out: Output) -> None:
    """A file of the version."""
    storage.write_json(storage.join(out.folder, name), value)
    out.keep_file(name)


def keep_history(history: Sequence[Line], names: tuple[str, str], volatile: Sequence[str], out: Output) -> None:
    """The lines of history as a file of the version, and what the clock said in them beside it.

    Args:
        names: of the two files.
        volatile: what the clock decides, which is no part of a version.
    """
    keep_json(names[0], [{key: value for key, value in line.items() if key not in volatile} for line in history], out)
    beside = f"{BESIDE}/{names[1]}"
    rows = [{key: line[key] for key in ("step", *volatile) if key in line} for line in history]
    storage.write_json(storage.join(out.folder, beside), rows)
    out.keep_beside(beside)


def keep_curves(folder: Path, out: Output) -> None:
    """TensorBoard's files, of every try; they hold times, so they lie beside the version."""
    for file in sorted((folder / CURVES).iterdir()):
        name = f"{BESIDE}/{CURVES}/{file.name}"
        storage.write_bytes(storage.join(out.folder, name), file.read_bytes())
        out.keep_beside(name)


def keep_used(used: Mapping[str, Any], out: Output) -> None:
    """What the training took, beside the version and in the run of MLflow."""
    out.volatile |= used
    if (track := tracking.current()) is not None:
        track.metrics({name: value for name, value in used.items() if isinstance(value, int | float)})
