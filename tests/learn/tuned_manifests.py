"""Manifests of steps that change a model, with the facts that they leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.dataset import Counts, Manifest

DPO_FACTS: Mapping[str, Any] = {
    "family": "llama",
    "objective": "causal",
    "num_parameters": 158_016,
    "rows": 129,
    "preference.longer": 0.4,
    "after.preference.accuracy": 1.0,
    **{"before.preference.likelier": 0.41, "before.preference.likelier.low": 0.3, "before.preference.likelier.high": 0.5},
    **{"after.preference.likelier": 0.93, "after.preference.likelier.low": 0.85, "after.preference.likelier.high": 0.97},
    **{"before.preference.likelier.n": 51, "after.preference.likelier.n": 51},
    **{"before.loss": 2.5, "after.loss": 2.25},
}
"""As `dpo` leaves them, fewer."""


def made(
    step: str,
    facts: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Manifest:
    """A version of a step, named by the step's first letter."""
    recipe = {
        "step": step,
        "inputs": dict(inputs or {}),
        "config": dict(config or {}),
        "files": {},
        "code": "c0de",
        "libraries": {},
    }
    told = {"version": step[0] * 16, "step": step, "schema_name": "model", "recipe": recipe, "facts": dict(facts or {})}
    return Manifest.model_validate(
        {**told, "digest": step[0] * 32, "shards": [], "files": [], "counts": Counts(total=129, kept=129)}
    )
