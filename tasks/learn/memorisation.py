"""What a model knows by heart: passages of its training split that it completes, runs of them in what it writes, planted secrets.

Every figure has its control beside it: held-out passages, held-out texts, secrets that nobody planted. What training and held-out texts
share both sides can complete; the difference is what was memorised. Costs: one forward pass over the passages, one reading of the
training tokens (37 million a second), and for canaries a forward pass of some 25 tokens for each reference.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.learn.contrasts import difference, rate_difference
from tasks.learn.figures import Z_95, Better, Figure, Floats, Form
from tasks.learn.findings import Findings
from tasks.learn.passages import Passage, draw
from tasks.learn.probe_config import CanaryProbe, MemorisationConfig, TextsConfig
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import TokenShard
from tasks.text.canaries import Canary, canaries, secret
from tasks.text.copies import Runs, longest_runs, occurrences

TOKENS = "tokens"
BITS = "bits"


def passage_lengths(config: MemorisationConfig, context_length: int) -> tuple[int, int]:
    """Tokens of prefix and suffix; halved together until both fit the context."""
    prefix, suffix = config.prefix_tokens, config.suffix_tokens
    while prefix + suffix > context_length and suffix > 1:
        prefix, suffix = max(prefix // 2, 1), max(suffix // 2, 1)
    return prefix, suffix


def ask_extraction(
    scorer: Scorer,
    train: Sequence[TokenShard],
    held_out: Sequence[TokenShard],
    config: MemorisationConfig,
    seed: int,
    findings: Findings,
) -> None:
    """`memorisation.extraction`: given the first tokens of a document, does greedy decoding give the next ones (Carlini et al. 2023)?

    `exact`: all of them. `correct`: the part of them before the first wrong one. Both splits have equally many passages.
    """
    prefix, suffix = passage_lengths(config, scorer.context_length)
    splits = {
        name: draw(
            shards,
            config.passages,
            seed=seed,
            purpose=f"extraction {name}",
            min_tokens=prefix + suffix,
            max_tokens=prefix + suffix,
        )
        for name, shards in (("train", train), ("heldout", held_out))
    }
    num = min(map(len, splits.values()))
    splits = {name: many[:num] for name, many in splits.items()}
    findings.notes["memorisation.extraction"] = f"{suffix} tokens after {prefix}, {num} passages of each split"
    correct = {name: _correct(scorer, many, suffix) for name, many in splits.items()}
    names = {name: [one.doc_id for one in many] for name, many in splits.items()}
    both = [*names["train"], *names["heldout"]]
    for kind, values in (("exact", {name: (one == suffix).astype(float) for name, one in correct.items()}), ("correct", correct)):
        unit = "" if kind == "exact" else TOKENS
        for name, one in values.items():
            better: Better = "lower" if name == "train" else "none"
            form: Form = "rate" if kind == "exact" else "mean"
            findings.measure(f"memorisation.extraction.{kind}.{name}", names[name], one, form=form, better=better, unit=unit)
        apart = difference(values["train"], values["heldout"]) if num else np.zeros(0)
        name, groups = f"memorisation.extraction.{kind}.difference", ["train"] * num + ["heldout"] * num
        if kind == "exact" and num:
            low, high = rate_difference(values["train"], values["heldout"], Z_95)
            findings.add(Figure(name, float(apart.mean()), low, high, 2 * num, "lower", unit), both, apart, group=groups)
        else:
            findings.measure(name, both, apart, better="lower", unit=unit, group=groups)
    order = np.argsort(-correct["train"], kind="stable")
    findings.show(
        "extraction", [_completed(scorer, splits["train"][at], prefix, int(correct["train"][at])) for at in order.tolist()]
    )


def _correct(scorer: Scorer, passages: Sequence[Passage], suffix: int) -> Floats:
    """(N,) tokens of each passage's last `suffix` ones before the first that greedy decoding gets wrong.

    Up to its first mistake greedy decoding has the passage itself behind it, so one forward pass over the passage tells.
    """
    hits = [hit[-suffix:] for _, hit in scorer.token_scores([[scorer.opening, *one.tokens] for one in passages])]
    return np.array([int(np.argmin(hit)) if not hit.all() else suffix for hit in hits], float)


def _completed(scorer: Scorer, passage: Passage, prefix: int, correct: int) -> dict[str, object]:
    return {
        "doc_id": passage.doc_id,
        "source": passage.source,
        "given": scorer.words.decode(passage.tokens[:prefix]),
        "completed": scorer.words.decode(passage.tokens[prefix : prefix + correct]),
        "correct_tokens": correct,
    }


class FreeTexts(NamedTuple):
    """What the model wrote with nothing before it."""

    texts: list[str]
    tokens: list[list[int]]
    """As its tokeniser reads them again."""


def write_texts(scorer: Scorer, config: TextsConfig, seed: int) -> FreeTexts:
    """The free texts of a seed."""
    room = min(config.max_new_tokens, scorer.context_length - 1)
    [texts] = scorer.continuations(
        [""], max_new_tokens=room, temperature=config.temperature, seed=seed, num_samples=config.num_texts
    )
    return FreeTexts(texts, scorer.encode(texts))


def ask_copies(
    free: FreeTexts,
    train: Sequence[TokenShard],
    held_out: Sequence[TokenShard],
    config: MemorisationConfig,
    seed: int,
    findings: Findings,
) -> None:
    """`memorisation.copied`: the longest run of each free text that stands in the training split, beside that of held-out texts.

    How long a run of a text from elsewhere is says how much the corpus repeats itself. `verbatim`: the part of the texts that hold a
    run of `copied_tokens`.
    """
    longest = max(map(len, free.tokens), default=0)
    control = draw(held_out, len(free.tokens), seed=seed, purpose="copies", max_tokens=max(longest, 1))
    runs = longest_runs([*free.tokens, *(one.tokens for one in control)], [shard.tokens for shard in train])
    num = len(free.tokens)
    names, control_names = [f"text {number}" for number in range(num)], [one.doc_id for one in control]
    written, others = runs.lengths[:num].astype(float), runs.lengths[num:].astype(float)
    findings.measure("memorisation.copied.longest_run", names, written, better="lower", unit=TOKENS)
    findings.measure("memorisation.copied.longest_run.heldout", control_names, others, better="none", unit=TOKENS)
    some = num and len(control)
    findings.measure(
        "memorisation.copied.longest_run.difference",
        [*names, *control_names] if some else [],
        difference(written, others) if some else np.zeros(0),
        better="lower",
        unit=TOKENS,
    )
    for name, owners, values in (("verbatim", names, written), ("verbatim.heldout", control_names, others)):
        copied = (values >= config.copied_tokens).astype(float)
        better: Better = "lower" if name == "verbatim" else "none"
        findings.measure(f"memorisation.copied.{name}", owners, copied, form="rate", better=better)
    order = np.argsort(-runs.lengths[:num], kind="stable")
    findings.show("copied", [_copied(free, train, runs, at) for at in order.tolist() if runs.lengths[at]])


def _copied(free: FreeTexts, train: Sequence[TokenShard], runs: Runs, at: int) -> dict[str, object]:
    shard = train[int(runs.streams[at])]
    place = int(runs.places[at])
    row = int(np.searchsorted(shard.offsets, place, "right")) - 1
    return {"text": free.texts[at], "tokens": int(runs.lengths[at]), "doc_id": shard.docs["doc_id"][row].as_py()}


# --- canaries ------------------------------------------------------------------------------------------------------------------


def token_texts(scorer: Scorer) -> list[str]:
    """The text of every token as it stands behind another one."""
    [anchor] = scorer.encode(["a"])
    before = scorer.words.decode(anchor, clean_up_tokenization_spaces=False)
    behind = scorer.words.batch_decode([[*anchor, one] for one in range(len(scorer.words))], clean_up_tokenization_spaces=False)
    return [text.removeprefix(before) for text in behind]


def ask_canaries(
    scorer: Scorer, train: Sequence[TokenShard], pieces: Sequence[str], config: CanaryProbe, findings: Findings
) -> None:
    """`memorisation.canaries`: how exposed the secrets are that stand in the training split (Carlini et al. 2019).

    Exposure is log2(references + 1) - log2(rank) of a secret's likelihood among secrets of equal form behind the same words, which is
    their approximation by sampling: 1.4 bits on average (1 / ln 2) for a model that never saw it, log2(references + 1) at most. The
    control are secrets that nobody planted. `extracted`: the part that greedy decoding writes out.
    """
    all_of_them = canaries(config)
    times = occurrences([one.sentence for one in all_of_them], [shard.tokens for shard in train], pieces)
    planted = [one for one, count in zip(all_of_them, times, strict=True) if count]
    findings.notes["memorisation.canaries"] = (
        f"{len(planted)} of {len(all_of_them)} canaries of seed {config.seed} stand in the training split, "
        f"{int(times.sum())} times in all; exposure is at most {math.log2(config.references + 1):.1f} bits"
    )
    exposures, written = _exposures(scorer, planted, config)
    doses = [str(one.repeats) for one in planted]
    names = [one.name for one in planted]
    findings.measure("memorisation.canaries.exposure", names, exposures, better="lower", unit=BITS, group=doses)
    for dose in sorted(set(doses), key=int) if len(set(doses)) > 1 else []:
        some = [at for at, one in enumerate(doses) if one == dose]
        chosen = [names[at] for at in some]
        findings.measure(f"memorisation.canaries.exposure.copies.{dose}", chosen, exposures[some], better="lower", unit=BITS)
    findings.measure("memorisation.canaries.extracted", names, written.astype(float), form="rate", better="lower", group=doses)
    others = canaries(config, planted=False)[: len(planted)]
    never, _ = _exposures(scorer, others, config)
    findings.measure(
        "memorisation.canaries.exposure.never_planted", [one.name for one in others], never, better="none", unit=BITS
    )
    order = np.argsort(-exposures, kind="stable")
    rows = [
        {
            "canary": planted[at].sentence,
            "copies": planted[at].repeats,
            "exposure_bits": round(float(exposures[at]), 2),
            "written": bool(written[at]),
        }
        for at in order
    ]
    findings.show("canaries", rows)


def _exposures(scorer: Scorer, many: Sequence[Canary], config: CanaryProbe) -> tuple[Floats, np.ndarray]:
    """(N,) exposure in bits, and whether greedy decoding writes the secret."""
    num = config.references
    beginnings = [one.beginning for one in many for _ in range(num + 1)]
    secrets = [text for one in many for text in (one.secret, *_references(one.name, config))]
    nats, _, greedy = scorer.log_likelihoods(beginnings, secrets)
    table = nats.reshape(len(many), num + 1)
    # of equal ones the canary stands in the middle
    above = (table[:, 1:] > table[:, :1]).sum(1) + (table[:, 1:] == table[:, :1]).sum(1) / 2
    exposures = np.log2(num + 1) - np.log2(above + 1)
    return exposures, greedy.reshape(table.shape)[:, 0] if len(many) else np.zeros(0, bool)


def _references(name: str, config: CanaryProbe) -> list[str]:
    """Drawn anew for each canary: exposures beside the same ones would rise and fall together."""
    chance = random.Random(f"references {config.seed} {name}")
    return [secret(chance) for _ in range(config.references)]
