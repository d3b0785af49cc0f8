"""A trained model to ask: how likely a text is, and how it goes on.

Causal models give the log-likelihood of a continuation after its context; masked ones the pseudo-log-likelihood, each token of it
predicted from all others (Salazar et al. 2020). Requests are batched by length, so a score does not depend on its neighbours beyond
rounding. Weights are read from safetensors only. Costs one forward pass over the tokens; masked ones one per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from infra.errors import InputError
from models.loading import is_masked, load
from tasks.learn import device
from tasks.learn.config import EvalConfig

Floats = npt.NDArray[np.float64]


class ScorerError(InputError):
    """A request that this model cannot answer."""


class Scorer:
    """A Hugging Face model folder with its tokeniser, ready to be asked.

    Raises:
        NoDevice: CUDA was asked for and does not work.
    """

    def __init__(self, folder: Path | str, config: EvalConfig) -> None:
        self.device, self.device_reason = device.resolve(config.device)
        self.precision, _ = device.resolve_precision(config.precision, self.device)
        device.use_threads(config.num_threads)
        self.batch_tokens = config.batch_tokens
        self.masked = is_masked(folder)
        loaded, self.words = load(folder)
        self.model: PreTrainedModel = loaded.to(self.device)
        names = (self.words.bos_token_id, self.words.eos_token_id, self.words.sep_token_id)
        self.opening: int = next(one for one in names if one is not None)
        """Stands before every text: the end of the document before."""
        padding = self.words.pad_token_id
        self.padding: int = self.opening if padding is None else padding
        self.context_length: int = self.model.config.max_position_embeddings

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, no special token added."""
        if not texts:
            return []
        found: list[list[int]] = self.words(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def log_likelihoods(
        self, contexts: Sequence[str], continuations: Sequence[str]
    ) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Log-likelihood in nats, tokens, and whether each is what the model itself would say: (N,) each.

        A context is the beginning of a document ("" : none). It is encoded apart from its continuation, so give the space between
        the two to the continuation. What does not fit the model's context is cut from the context's left.

        Raises:
            ScorerError: a continuation has no token, or alone is longer than the context.
        """
        pairs = list(zip(self.encode(contexts), self.encode(continuations), strict=True))
        for number, (_, tail) in enumerate(pairs):
            if not 0 < len(tail) < self.context_length:
                raise ScorerError(
                    f"continuation {continuations[number][:60]!r}: {len(tail)} tokens; this model can score 1 to {self.context_length - 1}"
                )
        # the last token of a causal row is only predicted, never read
        room = self.context_length if self.masked else self.context_length + 1
        rows = [([self.opening, *head][-(room - len(tail)) :] + tail, len(tail)) for head, tail in pairs]
        nats, greedy = self._masked_scores(rows) if self.masked else self._causal_scores(rows)
        return nats, np.array([length for _, length in rows], np.int64), greedy

    @torch.no_grad()
    def _causal_scores(self, rows: Sequence[tuple[list[int], int]]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        nats, greedy = np.zeros(len(rows)), np.zeros(len(rows), bool)
        for batch in self._batches([len(ids) for ids, _ in rows]):
            longest = max(len(rows[one][0]) for one in batch)
            ids = torch.full((len(batch), longest), self.padding)
            wanted = torch.zeros(len(batch), longest - 1, dtype=torch.bool)
            for place, one in enumerate(batch):
                row, length = rows[one]
                ids[place, : len(row)] = torch.tensor(row)
                wanted[place, len(row) - 1 - length : len(row) - 1] = True
            ids, wanted = ids.to(self.device), wanted.to(self.device)
            with device.autocast(self.device, self.precision):
                logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits.float()
            losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(wanted.shape)
            nats[batch] = -(losses * wanted).double().sum(1).cpu().numpy()
            greedy[batch] = ((logits.argmax(-1) == ids[:, 1:]) | ~wanted).all(1).cpu().numpy()
        return nats, greedy

    @torch.no_grad()
    def token_scores(self, rows: Sequence[Sequence[int]]) -> list[tuple[Floats, npt.NDArray[np.bool_]]]:
        """Of every token but the first of each row of ids: nats after those before it, and whether it is the likeliest: (L - 1,) each.

        Where all are the likeliest, greedy decoding of the row's beginning gives the row.

        Raises:
            ScorerError: the model is masked, or a row is longer than its context and one.
        """
        if self.masked:
            raise ScorerError("token scores: a masked model predicts no token from those before it")
        if (longest := max(map(len, rows), default=0)) > self.context_length + 1:
            raise ScorerError(f"token scores: a row of {longest} tokens; this model can score {self.context_length + 1}")
        found: list[tuple[Floats, npt.NDArray[np.bool_]]] = [(np.zeros(0), np.zeros(0, bool))] * len(rows)
        for batch in self._batches([len(row) for row in rows]):
            longest = max(len(rows[one]) for one in batch)
            ids = torch.full((len(batch), longest), self.padding)
            for place, one in enumerate(batch):
                ids[place, : len(rows[one])] = torch.tensor(rows[one])
            ids = ids.to(self.device)
            with device.autocast(self.device, self.precision):
                logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits.float()
            losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(batch), -1)
            hits = (logits.argmax(-1) == ids[:, 1:]).cpu().numpy()
            nats = -losses.double().cpu().numpy()
            for place, one in enumerate(batch):
                size = max(len(rows[one]) - 1, 0)
                found[one] = nats[place, :size], hits[place, :size]
        return found

    def _masked_scores(self, rows: Sequence[tuple[list[int], int]]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The last tokens of each row, as many as it says."""
        places = [(number, len(ids) - length + offset) for number, (ids, length) in enumerate(rows) for offset in range(length)]
        return self.masked_scores([ids for ids, _ in rows], places)

    @torch.no_grad()
    def masked_scores(
        self, rows: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Of each row of ids: nats of its tokens at `places` (row, place), summed, and whether all are the likeliest: (N,) each.

        Every token is masked in a forward pass of its own. For masked models.
        """
        nats, greedy = np.zeros(len(rows)), np.ones(len(rows), bool)
        for batch in self._batches([len(rows[number]) for number, _ in places]):
            chosen = [places[one] for one in batch]
            longest = max(len(rows[number]) for number, _ in chosen)
            ids = torch.full((len(batch), longest), self.padding)
            seen = torch.zeros(len(batch), longest, dtype=torch.long)
            truth = torch.tensor([rows[number][place] for number, place in chosen], device=self.device)
            for line, (number, place) in enumerate(chosen):
                row = rows[number]
                ids[line, : len(row)], seen[line, : len(row)] = torch.tensor(row), 1
                ids[line, place] = self.words.mask_token_id
            with device.autocast(self.device, self.precision):
                logits = self.model(input_ids=ids.to(self.device), attention_mask=seen.to(self.device)).logits.float()
            at = logits[torch.arange(len(batch)), torch.tensor([place for _, place in chosen])]
            losses = functional.cross_entropy(at, truth, reduction="none").double().cpu().numpy()
            numbers = [number for number, _ in chosen]
            np.add.at(nats, numbers, -losses)
            np.logical_and.at(greedy, numbers, (at.argmax(-1) == truth).cpu().numpy())
        return nats, greedy

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Places of requests, the longest first, at most `batch_tokens` padded tokens a batch."""
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        start = 0
        while start < len(order):
            size = max(1, self.batch_tokens // lengths[order[start]])
            yield order[start : start + size]
            start += size

    @torch.no_grad()
    def continuations(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 1,
        num_samples: int = 1,
    ) -> list[list[str]]:
        """What the model writes after each prompt: `num_samples` texts for each of N prompts; temperature 0 takes the likeliest token.

        Prompts are the beginnings of documents; one too long for the context keeps its end. A text ends at the end of the document.
        Prompts of equal length are written together; equal seeds give equal texts.

        Raises:
            ScorerError: the model does not write, or `max_new_tokens` leaves no room for a prompt.
        """
        room = self.context_length - max_new_tokens
        if self.masked or room < 1:
            why = (
                "a masked model does not write"
                if self.masked
                else f"max_new_tokens must be below {self.context_length} (got {max_new_tokens})"
            )
            raise ScorerError(f"continuations: {why}")
        how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        rows = [[self.opening, *ids][-room:] for ids in self.encode(prompts)]
        by_length: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(number)
        texts: list[list[str]] = [[] for _ in rows]
        with torch.random.fork_rng():
            for length, numbers in sorted(by_length.items()):
                rows_at_once = max(1, self.batch_tokens // (length + max_new_tokens))
                size = max(1, rows_at_once // num_samples)
                for start in range(0, len(numbers), size):
                    chosen = numbers[start : start + size]
                    torch.manual_seed(seed + chosen[0])
                    given = torch.tensor([rows[one] for one in chosen], device=self.device)
                    # of one prompt more samples than a batch holds are written in turns
                    for first in range(0, num_samples, rows_at_once):
                        many = min(num_samples - first, rows_at_once)
                        written = self._written(given, max_new_tokens, many, how)
                        for place, one in enumerate(chosen):
                            texts[one] += written[place * many : (place + 1) * many]
        return texts

    def _written(self, given: torch.Tensor, max_new_tokens: int, num_samples: int, how: Mapping[str, Any]) -> list[str]:
        """`num_samples` texts for each row of ids, in their order."""
        out = self.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=max_new_tokens,
            num_return_sequences=num_samples,
            pad_token_id=self.padding,
            **how,
        )
        texts: list[str] = self.words.batch_decode(out[:, given.shape[1] :], skip_special_tokens=True)
        return texts
