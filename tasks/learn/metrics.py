"""Scores a trained model on held-out documents, and lets it write.

Every document is scored from its start as a stream of its own, the end-of-text token as its only context: the windows' targets do
not overlap, each token is predicted once, and a last, short window is filled up with the tokens before it (what
lm-evaluation-harness calls rolling log-likelihood). The closing end-of-text token is not scored, so that bits per byte
compare across tokenisers. Rows are batched by length. Costs one forward pass of the model over the tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from infra.errors import InputError
from tasks.learn import device
from tasks.learn.config import Device, EvalConfig
from tasks.learn.tokens import TokenShard

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
class EvalResult:
    """The model's score, what it must beat, and its score by source in alphabetical order."""

    model: Score
    baselines: tuple[Score, ...]
    """`uniform`: every token equally likely; `unigram`: token frequencies of the training data, plus one each."""
    sources: tuple[Score, ...]
    device: str
    device_reason: str
    precision: str


@dataclass(frozen=True)
class _Chosen:
    """Documents to score, from all shards: (D,) each, in shard order."""

    shard: Ints
    row: Ints
    source: npt.NDArray[np.object_]
    num_tokens: Ints
    num_bytes: Ints


@dataclass
class _Rows:
    """Windows to score within one shard: (R,) each. Inputs are `length` tokens before `end`, the last `scored` targets count."""

    document: Ints
    end: Ints
    length: Ints
    scored: Ints
    opens: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))


def evaluate(
    model_folder: Path | str, shards: Sequence[TokenShard], config: EvalConfig, *, train_counts: Ints | None = None
) -> EvalResult:
    """Score a Hugging Face causal model on the documents of `shards`, which its own tokeniser made.

    `train_counts` (V,) are the training data's token counts (tokens.token_counts) for the unigram baseline.

    Raises:
        EvaluationError: no document with text, or the shards are of another tokeniser.
        NoDevice: CUDA was asked for and does not work.
    """
    name, reason = device.resolve(config.device)
    precision, _ = device.resolve_precision(config.precision, name)
    device.use_threads(config.num_threads)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).to(name).eval()
    chosen = _choose(shards, config.max_documents)
    nats, hits = np.zeros(len(chosen.row)), np.zeros(len(chosen.row))
    for number, shard in enumerate(shards):
        mine = np.flatnonzero(chosen.shard == number)
        if len(mine):
            _check_vocabulary(shard, model.config.vocab_size)
            nats[mine], hits[mine] = _score_shard(model, shard, chosen.row[mine], config.batch_tokens, precision)
    everything = np.ones(len(nats), bool)
    return EvalResult(
        model=_score("model", chosen, nats, hits, everything),
        baselines=_baselines(shards, chosen, model.config.vocab_size, train_counts),
        sources=tuple(
            _score(source, chosen, nats, hits, chosen.source == source) for source in sorted(set(chosen.source.tolist()))
        ),
        device=name,
        device_reason=reason,
        precision=precision,
    )


def _choose(shards: Sequence[TokenShard], max_documents: int | None) -> _Chosen:
    """All documents, or the `max_documents` with the smallest doc_id."""
    sizes = [shard.docs.num_rows for shard in shards]
    if not sum(sizes):
        raise EvaluationError("evaluation: there are no held-out documents; enlarge the validation part of the split")
    doc_ids = np.concatenate([shard.docs["doc_id"].to_numpy() for shard in shards])
    kept = np.sort(np.argsort(doc_ids, kind="stable")[:max_documents])
    chosen = _Chosen(
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
def _score_shard(
    model: PreTrainedModel, shard: TokenShard, documents: Ints, batch_tokens: int, precision: str
) -> tuple[Floats, Floats]:
    """Nats (D,) and hits (D,) of the given documents of a shard."""
    rows = _rows(shard, documents, model.config.max_position_embeddings)
    end_token = int(shard.tokens[int(shard.offsets[0] + shard.lengths[0]) - 1])
    nats, hits = np.zeros(len(rows.end)), np.zeros(len(rows.end))
    for batch in _by_length(rows.length, batch_tokens):
        inputs, targets, counts = _gather(shard, rows, batch, end_token)
        wanted = torch.from_numpy(targets).to(model.device)
        with device.autocast(model.device.type, precision):
            logits = model(input_ids=torch.from_numpy(inputs).to(model.device), use_cache=False).logits
        losses = functional.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
        right = (logits.argmax(-1) == wanted).cpu().numpy()
        nats[batch] = (losses.view(wanted.shape).double().cpu().numpy() * counts).sum(1)
        hits[batch] = (right & counts).sum(1)
    nats_sum, hits_sum = np.zeros(len(documents)), np.zeros(len(documents))
    np.add.at(nats_sum, rows.document, nats)
    np.add.at(hits_sum, rows.document, hits)
    return nats_sum, hits_sum


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


def _gather(shard: TokenShard, rows: _Rows, batch: Ints, end_token: int) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Inputs, targets and which targets count, (B, L) each; what fills up on the right is masked out and, causally, unseen."""
    length, column = rows.length[batch][:, None], np.arange(int(rows.length[batch].max()) + 1)
    places = np.clip(rows.end[batch][:, None] - length - 1 + column, 0, len(shard.tokens) - 1)
    tokens = shard.tokens[places].astype(np.int64)
    tokens[rows.opens[batch], 0] = end_token
    inside = column[:-1] < length
    return tokens[:, :-1], tokens[:, 1:], inside & (column[:-1] >= length - rows.scored[batch][:, None])


def _baselines(shards: Sequence[TokenShard], chosen: _Chosen, vocab_size: int, train_counts: Ints | None) -> tuple[Score, ...]:
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


def _score(name: str, chosen: _Chosen, nats: Floats, hits: Floats, mask: npt.NDArray[np.bool_]) -> Score:
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


def sample_texts(
    model_folder: Path | str,
    prompts: Sequence[str],
    max_new_tokens: int,
    seed: int,
    temperature: float,
    *,
    device_name: Device = "auto",
) -> list[dict[str, str]]:
    """Continue each prompt as the start of a document: `prompt` and the `text` that follows it. Equal seeds give equal texts.

    Temperature 0 takes the likeliest token each time. A prompt too long for the context keeps its end.

    Raises:
        EvaluationError: `max_new_tokens` leaves no room for a prompt, or the temperature is negative.
    """
    name, _ = device.resolve(device_name)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).to(name).eval()
    words = AutoTokenizer.from_pretrained(model_folder)
    room = model.config.max_position_embeddings - max_new_tokens
    if room < 1 or temperature < 0:
        raise EvaluationError(
            f"samples: max_new_tokens must be below the context of {model.config.max_position_embeddings} (got {max_new_tokens}), "
            f"temperature at least 0 (got {temperature})"
        )
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    samples = []
    for number, prompt in enumerate(prompts):
        # [-room:] also drops the opening token of a prompt that fills the context
        ids = [model.config.bos_token_id, *words(prompt, add_special_tokens=False)["input_ids"]][-room:]
        given = torch.tensor([ids], device=name)
        with torch.random.fork_rng(), torch.no_grad():
            # a seed of its own for each prompt: adding one changes no other text
            torch.manual_seed(seed + number)
            out = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=max_new_tokens, **how)
        samples.append({"prompt": prompt, "text": words.decode(out[0, len(ids) :], skip_special_tokens=True)})
    return samples
