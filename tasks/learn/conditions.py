"""By which settings figures were measured, and which of these keep two models' figures from being compared.

What a setting decides is said here and nowhere else: a new one that changes figures gets its line below. What only says how many items are
asked decides nothing, since items that both models have are compared; nor does what changes bits by rounding alone (threads, device, size
of batches), nor a seed of draws. How long a context is belongs to the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from infra.dataset import Manifest

Conditions = Mapping[str, Any]
"""`<step>.<key>` → value, of the steps that measured a model."""

KIND = "evaluate.kind"
"""masked or causal: the probabilities of a masked model are of another kind, for it sees what follows."""
MASK_EVERY = "evaluate.mask_every"
EVALUATE = ("evaluate.precision", KIND, MASK_EVERY)
FREE_TEXTS = ("probe.texts.max_new_tokens", "probe.texts.temperature")
DECIDED_BY: Mapping[str, tuple[str, ...]] = {
    **{f"{name}.*": EVALUATE for name in ("heldout", "calibration", "robustness", "fairness", "contamination")},
    "heldout.*.half.*": ("evaluate.overlap_words",),
    "contamination.*": ("evaluate.overlap_words",),
    "robustness.typos.*": ("evaluate.robustness.typo_rate", "evaluate.robustness.seed"),
    **{f"{name}.*": ("benchmark.precision", f"benchmark.{name}.*") for name in ("reasoning", "hallucination")},
    "tasks.*": ("benchmark.precision",),
    "bias.*": ("probe.precision", KIND),
    **{f"{name}.*": ("probe.precision",) for name in ("memorisation", "privacy")},
    "bias.crows_pairs.*": ("probe.bias.crows_pairs",),
    "bias.winogender.*": ("probe.bias.winogender",),
    "toxicity.*": ("probe.precision", "probe.toxicity.*", "probe.classifier"),
    "memorisation.extraction.*": ("probe.memorisation.prefix_tokens", "probe.memorisation.suffix_tokens"),
    "memorisation.copied.*": ("probe.memorisation.copied_tokens", *FREE_TEXTS),
    "memorisation.canaries.*": ("probe.canaries.*",),
    "privacy.membership.*": ("probe.privacy.min_tokens", "probe.privacy.max_tokens", "probe.privacy.lowest_share"),
    "privacy.pii.*": FREE_TEXTS,
}
"""Names of figures → the settings that decide them; of `tasks.NAME.*` beside these all of the task."""
HOW_MANY = frozenset({"num_items", "limit", "modes", "samples_per_beginning"})
"""Last parts of keys that only say which items are asked, all of which have names of their own."""


def conditions_of(manifest: Manifest, kind: str | None) -> Conditions:
    """The settings of a version of scores. A file stands for its content: the same one lies elsewhere on another machine.

    Args:
        kind: masked or causal, where the version says so.
    """
    recipe = manifest.recipe
    files = recipe.get("files", {})
    config = dict(recipe["config"])
    config["tasks"] = {task["name"]: task for task in config.get("tasks") or ()}
    found = {f"{manifest.step}.{key}": files.get(value, value) for key, value in _flat(config)}
    found |= {f"{manifest.step}.{key}": digest for key, digest in files.items() if f"{manifest.step}.{key}" in found}
    if manifest.step == "probe":
        found["probe.classifier"] = recipe["inputs"].get("toxicity")
    if kind is not None:
        found[KIND] = kind
    if kind == "causal":
        found.pop(MASK_EVERY, None)
    return found


def differing(name: str, one: Conditions, other: Conditions) -> list[str]:
    """What keeps two models' figures of a name from being compared, as "key value beside value"; what one does not tell is left out."""
    return [
        f"{key} {one[key]} beside {other[key]}"
        for key in sorted(one.keys() & other.keys())
        if one[key] != other[key] and _decides(key, name)
    ]


def _decides(key: str, name: str) -> bool:
    if key.rpartition(".")[2] in HOW_MANY:
        return False
    _, task, *_ = (*name.split("."), "")
    if name.startswith("tasks.") and key.startswith(f"benchmark.tasks.{task}."):
        return True
    return any(fnmatchcase(name, pattern) and any(fnmatchcase(key, one) for one in keys) for pattern, keys in DECIDED_BY.items())


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value); lists as text, so that each value can be looked up and compared."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else value
