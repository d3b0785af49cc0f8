"""Conversations packed in rows, and whether a model keeps them apart there: most of transformers' do, by position ids that begin anew.

TRL would lay the rows of a batch end to end, and attention on a CPU costs the square of that: rows of 256 tokens, eight at a time, took
ten times as long as side by side.

Tried with transformers 5.23 and SDPA: Llama, Mistral, Qwen2, Gemma2, GPT-2 and GPT-NeoX do; OPT, BLOOM and Mamba read on from one into the
next. So each model is asked, with a forward pass of a few tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from infra.errors import InputError
from tasks.learn.chats import IGNORED

LENGTHS = (7, 9)
TOLERANCE = 1e-3
"""Of the largest logit: rounding gives 1e-6, a token of the neighbour a hundred times this."""


@dataclass(frozen=True)
class SideBySide:
    """Makes batches of packed rows: (rows, length) each of `input_ids`, `labels` and `position_ids`.

    What fills up a row is one more text, of padding, of which nothing is learnt.
    """

    padding: int

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, torch.Tensor]:
        """The batch of rows with `input_ids`, `labels`, and `seq_lengths`, the lengths of the texts in them."""
        places = [torch.cat([torch.arange(length) for length in row["seq_lengths"]]) for row in rows]
        longest = max(map(len, places))
        places = [torch.cat([one, torch.arange(longest - len(one))]) for one in places]
        ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.padding),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "position_ids": torch.stack(places),
        }


@torch.no_grad()
def check(model: PreTrainedModel) -> None:
    """Compare the logits of two texts in one row with those of each alone.

    Raises:
        InputError: they differ, so packed conversations would learn from one another.
    """
    was_training = model.training
    model.eval()
    size = model.get_input_embeddings().num_embeddings
    drawn = torch.Generator().manual_seed(1)
    parts = [torch.randint(size, (1, length), generator=drawn).to(model.device) for length in LENGTHS]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None].to(model.device)
    together = model(input_ids=torch.cat(parts, 1), position_ids=positions, use_cache=False).logits
    alone = torch.cat([model(input_ids=part, use_cache=False).logits for part in parts], 1)
    model.train(was_training)
    if (together - alone).abs().max() > TOLERANCE * alone.abs().max():
        raise InputError(
            f"sft.packing: a {model.config.model_type} model does not keep conversations apart that lie in one row; set packing to false"
        )
