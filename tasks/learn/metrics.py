"""Scores a trained model on held-out documents, token by token, and lets it write.

A causal model predicts every token from those before it: each document is a stream of its own, the end-of-text token its only context;
windows do not overlap, each token is predicted once, and a last, short window is filled up with the tokens before it (what
lm-evaluation-harness calls rolling log-likelihood). A masked model predicts the hidden tokens of a window from the others, in `mask_every`
passes that hide each token once: its pseudo-log-likelihood (Salazar et al. 2020; theirs hides one token at a time, which is
`mask_every` from the context length on). The closing end-of-text token is not scored, so that bits per byte compare across tokenisers.
Rows are batched by length. Costs one forward pass over the tokens, of a masked model `mask_every` of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infra.errors import InputError
from tasks.learn import device
from tasks.learn.calibration import NUM_BINS, bin_of
from tasks.learn.config import EvalConfig, SampleConfig
from tasks.learn.scorer import Scorer
from tasks.learn.tokens import TokenShard

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_TOKENS_AT_ONCE = 1024
"""Tokens whose probabilities over the vocabulary are held beside the logits."""


class EvaluationError(InputError):
    """Documents or prompts that cannot be evaluated with this model."""


@dataclass(frozen=True)
class Score:
    """How well something predicts a set of documents."""

    name: str
    num_documents: int
    num_tokens: int
    """Tokens predicted: all but the closing end-of-text tokens."""
    num_bytes: int
    """UTF-8 bytes of the documents' texts."""
    perplexity: float
    """exp(nats per token)."""
    bits_per_byte: float
    """All nats / ln 2 / num_bytes: what compares across tokenisers."""
    accuracy: float
    """Part of the tokens that the most likely prediction hits."""


@dataclass(frozen=True)
class Chosen:
    """Documents to score, from all shards: (D,) each, in shard order."""

    doc_id: npt.NDArray[np.object_]
    shard: Ints
    row: Ints
    source: npt.NDArray[np.object_]
    num_tokens: Ints
    num_bytes: Ints


@dataclass(frozen=True)
class Told:
    """What a model made of documents: sums over the tokens of each, (D,) but for the last two."""

    nats: Floats
    hits: Floats
    brier: Floats
    """Squared distance of the probabilities from what came, over the vocabulary: 0 to 2 a token (Brier 1950)."""
    gaps: Floats
    """(D, NUM_BINS) hits minus confidence, by bin of confidence."""
    bins: Floats
    """(NUM_BINS, 3) tokens, confidence and hits of all documents."""


@dataclass(frozen=True)
class EvalResult:
    """The model's score, what it must beat, and its score by source in alphabetical order."""

    model: Score
    baselines: tuple[Score, ...]
    """`uniform`: every token equally likely; `unigram`: token frequencies of the training data, plus one each."""
    sources: tuple[Score, ...]
    documents: Chosen
    told: Told
    tokens_per_s: float


@dataclass
class _Rows:
    """Windows to score within one shard: (R,) each. Inputs are `length` tokens before `end`, the last `scored` targets count."""

    document: Ints
    end: Ints
    length: Ints
    scored: Ints
    opens: Mask = field(default_factory=lambda: np.empty(0, bool))


def evaluate(scorer: Scorer, shards: Sequence[TokenShard], config: EvalConfig, *, train_counts: Ints | None = None) -> EvalResult:
    """Score a model on the documents of `shards`, which its own tokeniser made.

    `train_counts` (V,) are the training data's token counts (tokens.token_counts) for the unigram baseline.

    Raises:
        EvaluationError: no document with text, or the shards are of another tokeniser.
    """
    chosen = choose(shards, config.max_documents)
    started = time.monotonic()
    told = ask(scorer, shards, chosen, config)
    seconds = time.monotonic() - started
    everything = np.ones(len(chosen.row), bool)
    return EvalResult(
        model=_score("model", chosen, told.nats, told.hits, everything),
        baselines=_baselines(shards, chosen, scorer.model.config.vocab_size, train_counts),
        sources=tuple(
            _score(source, chosen, told.nats, told.hits, chosen.source == source)
            for source in sorted(set(chosen.source.tolist()))
        ),
        documents=chosen,
        told=told,
        tokens_per_s=float(chosen.num_tokens.sum()) / max(seconds, 1e-9),
    )


def ask(scorer: Scorer, shards: Sequence[TokenShard], chosen: Chosen, config: EvalConfig) -> Told:
    """What the model makes of the chosen documents.

    Raises:
        EvaluationError: the shards are of another tokeniser.
    """
    count = len(chosen.row)
    nats, hits, brier = np.zeros((3, count))
    told = Told(nats, hits, brier, gaps=np.zeros((count, NUM_BINS)), bins=np.zeros((NUM_BINS, 3)))
    for number, shard in enumerate(shards):
        mine = np.flatnonzero(chosen.shard == number)
        if len(mine):
            _check_vocabulary(shard, scorer.model.config.vocab_size)
            _ask_of_shard(scorer, shard, chosen.row[mine], mine, config, told)
    return told


def choose(shards: Sequence[TokenShard], max_documents: int | None) -> Chosen:
    """All documents, or the `max_documents` with the smallest doc_id.

    Raises:
        EvaluationError: no document with text.
    """
    sizes = [shard.docs.num_rows for shard in shards]
    if not sum(sizes):
        raise EvaluationError("evaluation: there are no held-out documents; enlarge the validation part of the split")
    doc_ids = np.concatenate([shard.docs["doc_id"].to_numpy() for shard in shards]).astype(object)
    kept = np.sort(np.argsort(doc_ids, kind="stable")[:max_documents])
    chosen = Chosen(
        doc_id=doc_ids[kept],
        shard=np.repeat(np.arange(len(shards)), sizes)[kept],
        row=np.concatenate([np.arange(size) for size in sizes])[kept],
        source=np.concatenate([shard.docs["source"].to_numpy() for shard in shards])[kept],
        num_tokens=np.concatenate([shard.lengths for shard in shards])[kept].astype(np.int64) - 1,
        num_bytes=np.concatenate([shard.docs["num_bytes"].to_numpy() for shard in shards])[kept].astype(np.int64),
    )
    if not chosen.num_tokens.sum():
        raise EvaluationError(f"evaluation: the {len(kept)} held-out documents are all empty")
    return chosen


def _check_vocabulary(shard: TokenShard, vocab_size: int) -> None:
    if (largest := int(shard.tokens.max())) >= vocab_size:
        raise EvaluationError(
            f"evaluation: token {largest} is beyond the model's {vocab_size}: the shards are of another tokeniser"
        )


@torch.no_grad()
def _ask_of_shard(
    scorer: Scorer, shard: TokenShard, rows_of_shard: Ints, documents: Ints, config: EvalConfig, told: Told
) -> None:
    """Add to `told`, at places `documents`, what the model makes of these rows of a shard."""
    # a masked model reads the token before its window, too
    windows = _rows(shard, rows_of_shard, scorer.context_length - scorer.masked)
    end_token = int(shard.tokens[int(shard.offsets[0] + shard.lengths[0]) - 1])
    for batch in _by_length(windows.length, config.batch_tokens):
        inputs, targets, counts = _gather(shard, windows, batch, end_token)
        wanted, of_row = torch.from_numpy(targets).to(scorer.device), documents[windows.document[batch]]
        if scorer.masked:
            for logits, hidden in _hidden_passes(scorer, inputs, targets, counts, windows.length[batch], config.mask_every):
                _add(logits, wanted, hidden, of_row, told)
        else:
            with device.autocast(scorer.device, scorer.precision):
                logits = scorer.model(input_ids=torch.from_numpy(inputs).to(scorer.device), use_cache=False).logits
            _add(logits, wanted, counts, of_row, told)


def _hidden_passes(
    scorer: Scorer, inputs: Ints, targets: Ints, counts: Mask, length: Ints, mask_every: int
) -> Iterator[tuple[torch.Tensor, Mask]]:
    """Logits (B, L, V) of the targets, and which were hidden: (B, L) targets that count are hidden once each, over all passes."""
    ids = torch.from_numpy(np.concatenate([inputs[:, :1], targets], axis=1)).to(scorer.device)
    seen = torch.from_numpy(np.arange(ids.shape[1]) <= length[:, None]).long().to(scorer.device)
    for first in range(min(mask_every, counts.shape[1])):
        hidden = counts & (np.arange(counts.shape[1]) % mask_every == first)
        if hidden.any():
            given = ids.clone()
            given[:, 1:][torch.from_numpy(hidden).to(scorer.device)] = scorer.words.mask_token_id
            with device.autocast(scorer.device, scorer.precision):
                yield scorer.model(input_ids=given, attention_mask=seen).logits[:, 1:], hidden


def _add(logits: torch.Tensor, wanted: torch.Tensor, counts: Mask, row_document: Ints, told: Told) -> None:
    """Add what (B, L, V) logits say of the (B, L) targets that count; rows are of the documents at places (B,)."""
    rows, columns = np.nonzero(counts)
    for start in range(0, len(rows), _TOKENS_AT_ONCE):
        some = slice(start, start + _TOKENS_AT_ONCE)
        at = torch.from_numpy(rows[some]).to(logits.device), torch.from_numpy(columns[some]).to(logits.device)
        logs, truth = torch.log_softmax(logits[at].float(), -1), wanted[at]
        chance = logs.exp()
        likeliest = chance.max(-1)
        of_truth = logs.gather(1, truth[:, None])[:, 0]
        brier = (chance.double() ** 2).sum(-1) - 2 * of_truth.double().exp() + 1
        hit = (likeliest.indices == truth).double()
        document = row_document[rows[some]]
        nats, brier_of, hits, confidence = (one.double().cpu().numpy() for one in (-of_truth, brier, hit, likeliest.values))
        place = bin_of(confidence)
        for sums, values in ((told.nats, nats), (told.hits, hits), (told.brier, brier_of)):
            np.add.at(sums, document, values)
        np.add.at(told.gaps, (document, place), hits - confidence)
        np.add.at(told.bins, place, np.stack([np.ones_like(hits), confidence, hits], axis=1))


def _rows(shard: TokenShard, documents: Ints, context: int) -> _Rows:
    """Cut documents into windows of at most `context` targets."""
    num_tokens = shard.lengths[documents].astype(np.int64) - 1
    num_windows = -(-num_tokens // context)
    document = np.repeat(np.arange(len(documents)), num_windows)
    window = np.arange(len(document)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    first = shard.offsets[documents][document]
    begin = first + window * context
    end = np.minimum(begin + context, first + num_tokens[document])
    opens = window == 0
    # a later window looks back over a whole context; the first one only has the end-of-text token before it
    return _Rows(document, end, np.where(opens, end - begin, context), end - begin, opens)


def _by_length(lengths: Ints, batch_tokens: int) -> Iterator[Ints]:
    """Rows in batches of at most `batch_tokens` padded tokens (one row at least), the longest first."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _gather(shard: TokenShard, rows: _Rows, batch: Ints, end_token: int) -> tuple[Ints, Ints, Mask]:
    """Inputs, targets and which targets count, (B, L) each; what fills up on the right is masked out and, causally, unseen."""
    length, column = rows.length[batch][:, None], np.arange(int(rows.length[batch].max()) + 1)
    places = np.clip(rows.end[batch][:, None] - length - 1 + column, 0, len(shard.tokens) - 1)
    tokens = shard.tokens[places].astype(np.int64)
    tokens[rows.opens[batch], 0] = end_token
    inside = column[:-1] < length
    return tokens[:, :-1], tokens[:, 1:], inside & (column[:-1] >= length - rows.scored[batch][:, None])


def _baselines(shards: Sequence[TokenShard], chosen: Chosen, vocab_size: int, train_counts: Ints | None) -> tuple[Score, ...]:
    """Predictors that know nothing, or only how frequent each token is."""
    known = {"uniform": np.zeros(vocab_size)}
    if train_counts is not None:
        if len(train_counts) != vocab_size:
            raise EvaluationError(f"evaluation: {len(train_counts)} token counts for a vocabulary of {vocab_size}")
        known["unigram"] = train_counts.astype(np.float64)
    everything = np.ones(len(chosen.row), bool)
    scores = []
    for name, counts in known.items():
        token_nats = -np.log((counts + 1) / (counts.sum() + vocab_size))
        token_hits = np.arange(vocab_size) == counts.argmax()
        nats, hits = np.zeros(len(chosen.row)), np.zeros(len(chosen.row))
        for number, shard in enumerate(shards):
            mine = np.flatnonzero(chosen.shard == number)
            begin = shard.offsets[chosen.row[mine]]
            end = begin + chosen.num_tokens[mine]
            for values, sums in ((token_nats, nats), (token_hits, hits)):
                running = np.concatenate([[0.0], np.cumsum(values[shard.tokens], dtype=np.float64)])
                sums[mine] = running[end] - running[begin]
        scores.append(_score(name, chosen, nats, hits, everything))
    return tuple(scores)


def _score(name: str, chosen: Chosen, nats: Floats, hits: Floats, mask: Mask) -> Score:
    num_tokens, num_bytes, total = int(chosen.num_tokens[mask].sum()), int(chosen.num_bytes[mask].sum()), float(nats[mask].sum())
    # a source may hold nothing but empty documents
    return Score(
        name=name,
        num_documents=int(mask.sum()),
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        perplexity=float(np.exp(total / num_tokens)) if num_tokens else math.nan,
        bits_per_byte=total / math.log(2) / num_bytes if num_bytes else math.nan,
        accuracy=float(hits[mask].sum()) / num_tokens if num_tokens else math.nan,
    )


def sample_texts(scorer: Scorer, config: SampleConfig) -> list[dict[str, str]]:
    """Continue each prompt as the start of a document: `prompt` and the `text` that follows it. Equal seeds give equal texts.

    Temperature 0 takes the likeliest token each time. A prompt too long for the context keeps its end. A masked model writes nothing.

    Raises:
        EvaluationError: `max_new_tokens` leaves no room for a prompt.
    """
    if scorer.masked:
        return []
    room = scorer.context_length - config.max_new_tokens
    if room < 1:
        raise EvaluationError(
            f"samples.max_new_tokens: must be below the model's context of {scorer.context_length} (got {config.max_new_tokens})"
        )
    how: dict[str, Any] = {"do_sample": False}
    if config.temperature:
        how = {"do_sample": True, "temperature": config.temperature, "top_k": 0}
    samples = []
    for number, (prompt, ids) in enumerate(zip(config.prompts, scorer.encode(config.prompts), strict=True)):
        # [-room:] also drops the opening token of a prompt that fills the context
        given = torch.tensor([[scorer.opening, *ids][-room:]], device=scorer.device)
        with torch.random.fork_rng(), torch.no_grad():
            # a seed of its own for each prompt: adding one changes no other text
            torch.manual_seed(config.seed + number)
            out = scorer.model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=config.max_new_tokens,
                pad_token_id=scorer.padding,
                **how,
            )
        text = scorer.words.decode(out[0, given.shape[1] :], skip_special_tokens=True)
        samples.append({"prompt": prompt, "text": text})
    return samples
