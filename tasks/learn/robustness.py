"""The same documents with small faults: what a model loses by typos and by the lack of capitals.

Words are mistyped by the kernel of `augment` (ASCII letters alone: other scripts stay as they are). Texts are encoded anew, so what
the tokeniser loses counts, too. The loss is in bits per byte of the text as it was, document by document. Costs one scoring for each fault.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.learn import metrics
from tasks.learn.config import EvaluateConfig, Perturbation, RobustnessConfig
from tasks.learn.figures import Measured, figure, items
from tasks.learn.heldout import BITS
from tasks.learn.metrics import Chosen, Told
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import TokenShard, encode_shard
from tasks.text.augmenting import add_noise
from tasks.text.sampling import hashes


@dataclass(frozen=True)
class Plain:
    """Documents as they are, with what the model made of them."""

    documents: Chosen
    told: Told


def faulty(table: pa.Table, perturbation: Perturbation, config: RobustnessConfig) -> tuple[pa.Table, int]:
    """(the documents (doc_id, text …) with faults, how many differ from what they were)."""
    text = table["text"].combine_chunks()
    if perturbation == "typos":
        changed, _ = add_noise(text, hashes(table["doc_id"], config.seed, "robustness typos"), config.typo_rate)
    else:
        changed = pc.utf8_lower(text)
    differ = pc.sum(pc.not_equal(text, changed.cast(text.type))).as_py() or 0
    return table.set_column(table.column_names.index("text"), "text", changed), int(differ)


def measure(
    scorer: Scorer, plain: Plain, table: pa.Table, tokeniser_folder: str, config: EvaluateConfig, report: Measured
) -> dict[str, int]:
    """Add the figures of each fault; gives how many of the documents each one changed.

    Args:
        table: doc_id, source and text of the documents, which are among those of `plain`.
    """
    place = {name: number for number, name in enumerate(plain.documents.doc_id.tolist())}
    mine = np.array([place[name] for name in table["doc_id"].to_pylist()], np.int64)
    names = table["doc_id"].to_pylist()
    bits, size = plain.told.nats[mine] / math.log(2), plain.documents.num_bytes[mine].astype(np.float64)
    changed: dict[str, int] = {}
    for perturbation in config.robustness.perturbations:
        faults, changed[perturbation] = faulty(table, perturbation, config.robustness)
        shard = TokenShard(*encode_shard(faults, tokeniser_folder))
        chosen = metrics.choose([shard], None)
        told = metrics.ask(scorer, [shard], chosen, config)
        with_faults = told.nats / math.log(2)
        for name, amounts, weights in (
            (f"robustness.{perturbation}.bits_per_byte", with_faults, chosen.num_bytes.astype(np.float64)),
            (f"robustness.{perturbation}.loss", with_faults - bits, size),
        ):
            report.take(figure(name, amounts, weights, better="lower", unit=BITS), items(name, names, amounts, weights))
    return changed
