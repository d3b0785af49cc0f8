"""The report's section on a training: which curves are drawn of which lines, and what of the outliers is shown."""

from __future__ import annotations

import re
from dataclasses import replace

from infra import training_page
from infra.report import ReportFacts, render_report
from infra.training_page import MAX_DOCUMENTS, MAX_SKIPPED, Line, Skipped, Source, Training
from tests.infra.test_report import Page


def line(step: int) -> Line:
    """As a training with two sources tells it, looking at the validation loss every other time."""
    valid = {"valid_loss": 5.2, "valid_accuracy": 0.1, "valid_f1": 0.01, "valid_loss.web": 5.0, "valid_loss.plays": 5.5}
    return {
        "step": step,
        "train_loss": 7.0 - step / 100,
        "train_accuracy": 0.1,
        "train_loss.web": 6.5,
        "train_loss.plays": 7.5,
        "lr": 0.003,
        "grad_norm": 0.7,
        "seconds": step * 0.2,
        "tokens_per_s": 6000.0 + step,
        "mfu": 0.03,
        **(valid if step % 20 == 0 else {"valid_loss": None}),
    }


WHOLE = Training(
    [line(step) for step in range(10, 101, 10)],
    what="A LLaMA-style causal language model of 158,016 parameters, trained from scratch.",
    notes=["Samples of 64 tokens."],
    machine={"Device": "cpu (asked for by the config)", "MFU": "3.2% of the measured peak of matrix products"},
    kept_step=80,
    skipped=[Skipped(50 + number, 9.5, 31.25, [f"{number:032x}"] * 3) for number in range(MAX_SKIPPED + 2)],
    sources=[Source("web", 900, 0.25, 1.5, 6.5, 5.0), Source("plays", 300, 0.75, 4.0, 7.5)],
)


def captions(training: Training) -> list[str]:
    return [one.caption for one in training_page.others(training)]


def page(training: Training) -> str:
    return Page(render_report(ReportFacts("x", training=training))).text


def test_all_that_was_measured_is_drawn_and_nothing_else() -> None:
    assert [caption.partition(",")[0].partition(":")[0] for caption in captions(WHOLE)] == [
        "Training loss by source",
        "Validation loss by source",
        "Part of the targets that are the likeliest token (accuracy)",
        "Learning rate",
        "Norm of the gradient before it is clipped",
        "Tokens per second",
        "MFU in percent",
    ]
    # a run of an older version, which kept no speed, and of one source
    few = Training([{"step": step, "train_loss": 2.0, "lr": 0.1} for step in (1, 2)], sources=WHOLE.sources[:1])
    assert captions(few) == ["Learning rate"]
    assert training_page.loss(Training([{"step": 1, "lr": 0.1}])) is None is training_page.loss(None)


def test_the_loss_shows_which_step_is_kept_and_which_were_skipped() -> None:
    drawn = training_page.loss(WHOLE)
    assert drawn is not None and drawn.caption.endswith("the last: train 6, valid 5.2")
    assert ">kept<" in drawn.svg and ">skipped<" in drawn.svg
    plain = training_page.loss(replace(WHOLE, kept_step=None, skipped=()))
    assert plain is not None and ">kept<" not in plain.svg and ">skipped<" not in plain.svg


def test_speed_is_drawn_over_time_and_mfu_in_percent() -> None:
    *_, speed, mfu = training_page.others(WHOLE)
    assert ">seconds<" in speed.svg and ">6,100<" in speed.svg
    levels = [float(one) for one in re.findall(r">([\d.]+)</text>", mfu.svg)]
    assert min(levels) <= 3.0 <= max(levels)


def test_of_many_sources_those_with_the_most_tokens_are_drawn() -> None:
    names = [f"s{number}" for number in range(6)]
    lines: list[Line] = [{"step": 1, **{f"train_loss.{name}": 3.0 for name in names}}]
    many = Training(lines, sources=[Source(name, 9 - at, 0.1, 1.0) for at, name in enumerate(names)])
    [drawn] = training_page.others(many)
    assert drawn.caption == "Training loss by source (those with the most tokens)"
    assert ">s3<" in drawn.svg and ">s4<" not in drawn.svg


def test_sources_and_outliers_are_tables_and_what_is_left_out_is_counted() -> None:
    text = page(WHOLE)
    assert "web 900 25.0 % 1.5 6.5 5" in text and "plays 300 75.0 % 4 7.5 –" in text
    assert f"50 9.5 31.25 {'0' * 32} {'0' * 32} and {3 - MAX_DOCUMENTS} more" in text
    assert text.count("31.25") == MAX_SKIPPED and "2 more steps, and all documents, are in the version’s skipped.json" in text
    assert "Device cpu (asked for by the config)" in text
    bare = page(Training([line(10)]))
    assert "skipped.json" not in bare and "What it took" not in bare and "What was read" not in bare
