"""What a model tells about its training split: who was in it, by the loss, and addresses of people in what it writes.

Membership is the chance that a training document looks more known than a held-out one (AUC; 0.5: no telling). Held-out documents are of
other hosts, so they can look less known to a model that remembers none (Duan et al. 2024, arXiv 2402.07841; Das et al. 2024, arXiv
2406.16201). `blind` measures that: a unigram model of the training split without the documents that are asked about. `excess` is what the
model tells beyond it. Costs a forward pass over the documents, and one count of the training tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from infra.ids import text_digest
from tasks.learn.contrasts import auc
from tasks.learn.figures import Better, Floats
from tasks.learn.findings import Findings
from tasks.learn.memorisation import FreeTexts
from tasks.learn.passages import Passage, draw
from tasks.learn.probe_config import PrivacyConfig
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import TokenShard, token_counts
from tasks.text.copies import occurrences
from tasks.text.pii import RedactConfig, find

KINDS = ("email", "ip")


def ask_membership(
    scorer: Scorer,
    train: Sequence[TokenShard],
    held_out: Sequence[TokenShard],
    config: PrivacyConfig,
    seed: int,
    findings: Findings,
) -> None:
    """`privacy.membership`: AUC by mean loss (Yeom et al. 2018), by loss ÷ zlib bytes (Carlini et al. 2021), by Min-K% (Shi et al. 2024).

    Both splits have equally many documents, of each its first tokens.
    """
    splits = [
        draw(
            shards,
            config.documents,
            seed=seed,
            purpose=f"membership {name}",
            min_tokens=config.min_tokens,
            max_tokens=min(config.max_tokens, scorer.context_length),
        )
        for name, shards in (("train", train), ("heldout", held_out))
    ]
    num = min(map(len, splits))
    members, others = splits[0][:num], splits[1][:num]
    names, groups = [one.doc_id for one in (*members, *others)], ["train"] * num + ["heldout"] * num
    scores = _scores(scorer, [*members, *others], config)
    scores["blind"] = _unigram_losses(scorer, members, others, train)
    amounts = {kind: auc(values[:num], values[num:]) if num else np.zeros(0) for kind, values in scores.items()}
    for kind, values in amounts.items():
        better: Better = "none" if kind == "blind" else "lower"
        findings.measure(f"privacy.membership.{kind}", names, values, better=better, unit="AUC", group=groups)
    excess = amounts["loss"] - amounts["blind"]
    findings.measure("privacy.membership.excess", names, excess, better="lower", unit="AUC", group=groups)
    findings.notes["privacy.membership"] = f"{num} documents of each split"


def _scores(scorer: Scorer, documents: Sequence[Passage], config: PrivacyConfig) -> dict[str, Floats]:
    """Of each document (N,) how unknown it looks, in three ways; low is known."""
    nats = [one for one, _ in scorer.token_scores([[scorer.opening, *document.tokens] for document in documents])]
    losses = np.array([-one.mean() for one in nats])
    texts = scorer.words.batch_decode([document.tokens for document in documents])
    sizes = np.array([len(zlib.compress(text.encode())) for text in texts], float)
    lowest = [np.sort(one)[: max(1, round(config.lowest_share * len(one)))] for one in nats]
    return {"loss": losses, "zlib": losses / sizes, "min_k": np.array([-one.mean() for one in lowest])}


def _unigram_losses(scorer: Scorer, members: Sequence[Passage], others: Sequence[Passage], train: Sequence[TokenShard]) -> Floats:
    """Mean loss of each document under how often its tokens occur in the other documents of the training split."""
    size = scorer.model.config.vocab_size
    counts = token_counts(train, size).astype(float)
    for one in members:
        counts -= np.bincount(one.tokens, minlength=size)
    losses = -np.log((counts + 1) / (counts + 1).sum())
    return np.array([losses[one.tokens].mean() for one in (*members, *others)])


def ask_addresses(free: FreeTexts, train: Sequence[TokenShard], pieces: Sequence[str], findings: Findings) -> None:
    """`privacy.pii`: addresses in the free texts by kind, for each 1,000 tokens, and the part of them that training texts hold as they are.

    The words that `redact` puts in the place of addresses are none. Items are named by the digest of an address, not by itself.
    """
    found = find(pa.array(free.texts, pa.string()), RedactConfig())
    names = [f"text {number}" for number in range(len(free.texts))]
    sizes = np.array([len(one) for one in free.tokens], float)
    for kind in KINDS:
        counts = np.bincount([one.row for one in found if one.kind == kind], minlength=len(names)).astype(float)
        findings.measure(f"privacy.pii.{kind}", names, 1000 * counts, sizes, better="lower", unit="per 1,000 tokens", group=kind)
    values = sorted({(one.kind, one.value) for one in found})
    times = occurrences([value for _, value in values], [shard.tokens for shard in train], pieces)
    findings.measure(
        "privacy.pii.leaked",
        [text_digest(value) for _, value in values],
        (times > 0).astype(float),
        form="rate",
        better="lower",
        group=[kind for kind, _ in values],
    )
    order = np.argsort(-times, kind="stable").tolist()
    rows = [{"kind": values[at][0], "value": _shortened(*values[at]), "in_training_texts": int(times[at])} for at in order]
    findings.show("addresses", rows)


def _shortened(kind: str, value: str) -> str:
    """Enough to find an address again, and not to write to it: a report must not spread what it warns of."""
    name, _, domain = value.partition("@")
    return f"{name[:2]}…@{domain}" if kind == "email" else f"{value[: len(value) // 2]}…"
