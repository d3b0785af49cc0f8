"""Loads a language model and its tokeniser from a folder: safetensors only, never a pickle, and no code that comes with a model is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import InputError
from models.given_model import GUESSES, WEIGHTS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_causal(folder: Path | str, dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model that continues texts, on the CPU and in eval mode, and its tokeniser.

    Args:
        dtype: of its weights; None: float32.

    Raises:
        InputError: there is no such model in the folder, or it is not in safetensors.
    """
    if is_masked(folder):
        raise InputError(f"{folder}: its model guesses masked tokens and does not write; give one that continues texts")
    return load(folder, dtype)


def load(folder: Path | str, dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As `load_causal`, also of a model that guesses masked tokens.

    Raises:
        InputError: there is no such model in the folder, or it is not in safetensors.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    if not any(Path(folder).glob(WEIGHTS)):
        raise InputError(f"{folder}: there are no weights in safetensors ({WEIGHTS}); others are not read")
    kind = AutoModelForMaskedLM if is_masked(folder) else AutoModelForCausalLM
    safely = {"trust_remote_code": False, "local_files_only": True}
    model: PreTrainedModel = kind.from_pretrained(folder, dtype=dtype or torch.float32, use_safetensors=True, **safely)
    return model.eval(), AutoTokenizer.from_pretrained(folder, **safely)


def is_masked(folder: Path | str) -> bool:
    """Whether a model folder holds a masked language model, by the architecture that its config names."""
    architectures = read_config(folder).get("architectures") or []
    return any(name.endswith(GUESSES) for name in architectures)


def read_config(folder: Path | str) -> Mapping[str, Any]:
    """What config.json of a model folder says.

    Raises:
        InputError: there is none.
    """
    path = Path(folder, "config.json")
    try:
        config: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the folder of a Hugging Face model") from error
    return config
