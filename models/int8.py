"""Models in int8 for CPUs: weights with a scale for each row of a matrix, activations made int8 as they come, with one for each token.

Torch's compiled products of int8 matrices do the work (`torch.ops.quantized`, as torch.ao's dynamic quantisation uses them); its own scale
is one for a whole batch, so that an answer depends on its neighbours, and its error is twice as large (docs/compress.md). The output head
and the table of embeddings are int8, too; norms and biases stay float32. A folder holds `int8.safetensors`, and its config.json names the
method: transformers finds no weights it knows and refuses it. Equal folders give equal logits on one machine.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from infra.errors import InputError

METHOD = "gristmill-int8"
"""What config.json calls it, as quantization_config.quant_method."""
FORMAT = 1
WEIGHTS = "int8.safetensors"
COUNT = "original_parameters"
"""In config.json, and of a loaded model: how many weights the original has."""
LEVELS = 127
"""Of int8, each side of 0."""
LEVELS_WITHOUT_VNNI = 63
"""Of activations where the processor sums two products in 16 bits (no VNNI): more would overflow, and silently (fbgemm)."""


class Int8Linear(nn.Module):
    """x @ weight.T + bias of a weight (N, K) in int8 with a scale for each of N rows; (…, K) → (…, N), float32."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # such tensors are to leave torch one day; the files have none, so other kernels can read them then
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
            zeros = torch.zeros(len(scale), dtype=torch.long)
            quantised = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
        self.packed = torch.ops.quantized.linear_prepack(quantised, None)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.levels = LEVELS if torch.cpu._is_vnni_supported() else LEVELS_WITHOUT_VNNI

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Each token is scaled to [-1, 1] before the product, and back behind it."""
        x = x.float()
        largest = x.abs().amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
        y: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / largest, 1 / self.levels, self.levels + 1, self.packed
        )
        y = y.mul_(largest)
        return y if self.bias is None else y.add_(self.bias)


class Int8Embedding(nn.Module):
    """Rows of a table (V, K) in int8 with a scale for each."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(…) token ids → (…, K)."""
        return nn.functional.embedding(ids, self.rows).float() * self.scale[ids].unsqueeze(-1)


def write(model: PreTrainedModel, folder: Path | str) -> int:
    """Keep a model in int8 in a folder, without its tokeniser; how many of its weights became int8.

    Raises:
        InputError: it has no matrix that can be int8, or is int8 already.
    """
    if any(isinstance(one, Int8Linear) for one in model.modules()):
        raise InputError("int8: the model is int8 already; give the one that it was made of")
    chosen: dict[str, nn.Module] = {
        name: one
        for name, one in model.named_modules()
        if isinstance(one, nn.Linear | Conv1D) or one is model.get_input_embeddings()
    }
    if len(chosen) < 2:
        raise InputError(f"int8: a {type(model).__name__} has no linear layers that could be int8")
    tensors = {name: one.float() for name, one in model.state_dict().items() if name.rpartition(".")[0] not in chosen}
    first: dict[int, str] = {}
    for name, module in chosen.items():
        weight: torch.Tensor = module.weight.detach()  # type: ignore[operator]
        if first.setdefault(id(module.weight), name) == name:
            tensors[f"{name}.weight"], tensors[f"{name}.scale"] = rounded(weight.t() if isinstance(module, Conv1D) else weight)
        if isinstance(bias := getattr(module, "bias", None), torch.Tensor):
            tensors[f"{name}.bias"] = bias.detach().float()
    save_file({name: one.contiguous().clone() for name, one in tensors.items()}, Path(folder, WEIGHTS), {"format": "pt"})
    _write_config(model, Path(folder), {name: first[id(module.weight)] for name, module in chosen.items()})
    return sum(one.numel() for one in tensors.values() if one.dtype == torch.int8)


def _write_config(model: PreTrainedModel, folder: Path, modules: Mapping[str, str]) -> None:
    """`modules`: those that are int8, and whose rows they have: tied ones have those of another."""
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    path = folder / "config.json"
    told = json.loads(path.read_text("utf-8"))
    kept = {"format": FORMAT, "modules": dict(modules), COUNT: int(model.num_parameters())}
    told["quantization_config"] = {"quant_method": METHOD, **kept}
    path.write_text(json.dumps(told, indent=2), "utf-8")


def is_int8(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a model that `write` left."""
    return (config.get("quantization_config") or {}).get("quant_method") == METHOD


def load(folder: Path | str, kind: Any) -> PreTrainedModel:
    """The model that `write` left in a folder, in eval mode; `kind` is transformers' Auto class for it.

    Raises:
        InputError: the folder is not whole, or of another format.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    told = config.quantization_config
    if told.get("format") != FORMAT:
        raise InputError(
            f"{folder}: is int8 of format {told.get('format')!r}, and {FORMAT} is read here: quantise the model again"
        )
    del config.quantization_config
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = kind.from_config(config, trust_remote_code=False)
    try:
        _fill(model, load_file(Path(folder, WEIGHTS)), told["modules"])
        setattr(model, COUNT, told[COUNT])
    except (OSError, SafetensorError, KeyError, AttributeError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise InputError(f"{folder}: {WEIGHTS} is not whole ({why}); quantise the model again") from error
    if Path(folder, "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.requires_grad_(False).eval()


def _fill(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], modules: Mapping[str, str]) -> None:
    """Put weights into an empty model; a KeyError names what is missing."""
    for name, of in modules.items():
        weight, scale, bias = tensors[f"{of}.weight"], tensors[f"{of}.scale"], tensors.get(f"{name}.bias")
        table = isinstance(model.get_submodule(name), nn.Embedding)
        model.set_submodule(name, Int8Embedding(weight, scale) if table else Int8Linear(weight, scale, bias))
    others = {name: one for name, one in tensors.items() if name.rpartition(".")[0] not in modules}
    model.load_state_dict(others, strict=False, assign=True)
    for name, one in model.named_parameters():
        if one.is_meta:
            raise KeyError(name)


def num_parameters(model: PreTrainedModel) -> int:
    """Weights of a model; of one in int8 those of the original."""
    known = getattr(model, COUNT, None)
    return int(model.num_parameters() if known is None else known)


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 rows, their scales) nearest to a matrix (N, K); a row of zeros has the scale 1."""
    scale = weight.float().abs().amax(1) / LEVELS
    scale[scale == 0] = 1.0
    return (weight.float() / scale[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale
