"""The benchmark that docs/signals.md and docs/proof.md quote asks for signals that it measures."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest

from benchmarks import signals as benchmark
from infra.settings import settings
from tasks.text.signals import GROUPS, measure

TEXTS = ["One line of a few words, to be measured.\nAnd another one, with them.", "Noch eine Zeile."]


@pytest.mark.skipif(not settings().language_model.exists(), reason="the language model is missing; `make setup` puts it there")
def test_every_group_has_a_rate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(1.0)
    monkeypatch.setattr(benchmark, "timed", lambda work: (work(), next(seconds)))
    benchmark.print_group_rates(TEXTS)
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == {"always", *GROUPS, "all"}


@pytest.mark.parametrize("family", benchmark.PROFILES)
def test_a_family_of_rules_is_judged_by_what_was_measured(family: str) -> None:
    kept = benchmark.kept_by_us(measure(pa.array(TEXTS), ()), family)
    assert kept.tolist() == [family == "fineweb", False]  # two sentences; one
