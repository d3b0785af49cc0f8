"""From candidates to a trained classifier's version: which references are used, the model, its figures, its card.

What the steps that train classifiers share; they give their `Output`, asked for by its form, so nothing here knows a framework. Memory: the
references that are used, at most `max_texts_per_class` × classes × `max_chars` characters, and about 40 bytes for each one given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import storage
from infra.dataset import Counts, Outcome, Receipt, ShardRef, shard_refs
from infra.errors import InputError
from tasks.text.classifier import MODEL, choose, fit
from tasks.text.classifier_card import CARD, card
from tasks.text.references import ClassifierConfig, keep_references


class StepOutput(Protocol):
    """What of `infra.steps.Output` is used."""

    folder: str
    facts: dict[str, Any]
    counts: Counts | None

    def map(self, work: Callable[[Any], Outcome], items: Sequence[Any], what: str = ...) -> list[Receipt]:
        """Make the version's shards."""

    def keep_file(self, name: str) -> None:
        """Count a file as part of the version."""


def make_classifier(
    kind: str,
    candidates: Sequence[ShardRef],
    classes: tuple[Sequence[str], Sequence[str]],
    sources: Sequence[str],
    config: ClassifierConfig,
    out: StepOutput,
) -> None:
    """Write the references that are used as the version's shards, and the classifier, its figures and its card as files.

    Args:
        kind: name of the step.
        candidates: shards of `references.CANDIDATES`.
        classes: all labels, and those whose probability is the score.
        sources: the references in words, for the card.

    Raises:
        InputError: no row can be used, or a class has too few.
    """
    labels, positive = classes
    verdicts = _verdicts(kind, candidates, labels, config.training.max_texts_per_class)
    receipts = out.map(keep_references, list(zip(candidates, verdicts, strict=True)), "references")
    used = pa.concat_tables([shard.read(["text", "label", "key", "part"]) for shard in shard_refs(out.folder, receipts)])
    fitted = fit(used, labels, positive, config.training, kind)
    words = card(f"{kind} classifier", kind, fitted.figures, sources, config.model_dump(mode="json"), len(fitted.files[MODEL]))
    for name, data in {**fitted.files, CARD: words.encode()}.items():
        storage.write_bytes(storage.join(out.folder, name), data)
        out.keep_file(name)
    out.facts |= fitted.facts()


def _verdicts(kind: str, candidates: Sequence[ShardRef], labels: Sequence[str], most: int) -> list[np.ndarray[Any, Any]]:
    """What `choose` says of every candidate, shard by shard; of rows that cannot be used their own rule speaks."""
    tables = [shard.read(["label", "key", "rule"]) for shard in candidates]
    if not tables:
        _refuse(kind, Counter())
    whole = pa.concat_tables(tables)
    usable = pc.is_null(whole["rule"]).to_numpy()
    if not usable.any():
        _refuse(kind, Counter(whole["rule"].to_pylist()))
    codes = pc.index_in(whole["label"].combine_chunks(), pa.array(labels))
    found = np.zeros(whole.num_rows, np.int8)
    own = codes.filter(pa.array(usable)).to_numpy(zero_copy_only=False).astype(np.int64)
    found[usable] = choose(whole["key"].to_numpy()[usable], own, most)
    return np.split(found, np.cumsum([table.num_rows for table in tables])[:-1])


def _refuse(kind: str, reasons: Counter[str]) -> NoReturn:
    if not reasons:
        raise InputError(f"{kind}: the references have no rows; give files with texts")
    told = ", ".join(f"{rule} {count:,}" for rule, count in reasons.most_common())
    raise InputError(
        f"{kind}: none of {reasons.total():,} references can be used ({told}); name the fields in `fields.text` and `fields.label`, "
        "and the labels in `classes` or a source's `names`"
    )
