"""Whether a model keeps conversations apart that lie in one row: most of transformers' do, by position ids that begin anew; some do not.

Tried with transformers 5.23 and SDPA: Llama, Mistral, Qwen2, Gemma2, GPT-2 and GPT-NeoX do; OPT, BLOOM and Mamba read on from one into the
next. So each model is asked, with a forward pass of a few tokens.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from infra.errors import InputError

LENGTHS = (7, 9)
TOLERANCE = 1e-3
"""Of the largest logit: rounding gives 1e-6, a token of the neighbour a hundred times this."""


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
