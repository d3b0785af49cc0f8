"""Models without the weights, units or blocks that matter least.

`zero` sets the smallest weights of the blocks' matrices to 0 (magnitude pruning: Han et al. 2015); nothing becomes smaller or, on a CPU,
faster by it. `narrow` takes units out of the feed-forward blocks, and `shorten` takes whole blocks out; those do. Units are judged by how
much they add to their block's output on a few documents (mean absolute activation times the norm of what it is multiplied by; Wanda's
product, Sun et al. 2023, for units), blocks by how much they turn the residual stream (block influence: ShortGPT, Men et al. 2024).
Embeddings, output head, norms and biases are never pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from infra.errors import InputError
from tasks.learn import parallel

Magnitude = Literal["global", "layer", "two_of_four"]
UNIT_MULTIPLE = 8
"""Units are kept in multiples of this, which products of matrices like."""


class FeedForward(NamedTuple):
    """Names in a block: what makes its units, what reads them, and how the config counts them."""

    into: tuple[str, ...]
    out: str
    size: str


FEED_FORWARD = {
    "llama": FeedForward(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size"),
    "gpt2": FeedForward(("mlp.c_fc",), "mlp.c_proj", "n_inner"),
}
LAYERS = {"llama": "num_hidden_layers", "gpt2": "n_layer"}


def matrices(model: PreTrainedModel) -> list[torch.Tensor]:
    """The matrices of the blocks, each (out, in)."""
    found = []
    for block in parallel.blocks(model):
        for module in block.modules():
            if isinstance(module, nn.Linear):
                found.append(module.weight)
            elif isinstance(module, Conv1D):
                found.append(module.weight.t())
    return found


@torch.no_grad()
def zero(model: PreTrainedModel, method: Magnitude, sparsity: float) -> None:
    """Set the smallest weights of the blocks' matrices to 0: of all together, of each, or two of each four in a row."""
    weights = matrices(model)
    if method == "two_of_four":
        for weight in weights:
            _zero_half(weight)
        return
    groups = [weights] if method == "global" else [[weight] for weight in weights]
    for group in groups:
        sizes = torch.cat([weight.abs().flatten() for weight in group])
        if num := int(sparsity * len(sizes)):
            largest = sizes.kthvalue(num).values
            for weight in group:
                weight.masked_fill_(weight.abs() <= largest, 0.0)


def _zero_half(weight: torch.Tensor) -> None:
    """The two smaller of each four neighbours of a row; what is left over at the end of a row stays."""
    whole = weight.shape[1] // 4 * 4
    fours = weight[:, :whole].reshape(len(weight), whole // 4, 4)
    smaller = torch.argsort(fours.abs(), dim=-1, stable=True)[..., :2]
    weight[:, :whole] = fours.scatter(-1, smaller, 0.0).flatten(1)


@torch.no_grad()
def narrow(model: PreTrainedModel, share: float, texts: Sequence[Sequence[int]]) -> None:
    """Take this share of the units out of each feed-forward block, those that add least on `texts` (token ids).

    Raises:
        InputError: nobody has said what the feed-forward blocks of such a model are.
    """
    names = _known(FEED_FORWARD, model)
    size: int = getattr(model.config, names.size) or 4 * model.config.hidden_size
    kept = max(UNIT_MULTIPLE, round(size * (1 - share) / UNIT_MULTIPLE) * UNIT_MULTIPLE)
    if kept >= size:
        return
    blocks = parallel.blocks(model)
    readers = [block.get_submodule(names.out) for block in blocks]
    sums = [torch.zeros(size, device=model.device) for _ in blocks]

    def watch(number: int, given: tuple[Any, ...], _: Any) -> None:
        sums[number] += given[0].abs().flatten(0, -2).sum(0)

    with _watched(readers, watch):
        _read(model, texts)
    for block, reader, activity in zip(blocks, readers, sums, strict=True):
        norms = _out_first(reader).norm(dim=0)
        units = (activity * norms).topk(kept).indices.sort().values
        for name in names.into:
            _take(block.get_submodule(name), units, 0)
        _take(reader, units, 1)
    setattr(model.config, names.size, kept)


@torch.no_grad()
def shorten(model: PreTrainedModel, share: float, texts: Sequence[Sequence[int]]) -> None:
    """Take this share of the blocks out, those whose output is most like their input on `texts` (token ids).

    Raises:
        InputError: nobody has said how the config of such a model counts its blocks.
    """
    counted = _known(LAYERS, model)
    blocks = parallel.blocks(model)
    num_gone = min(round(share * len(blocks)), len(blocks) - 1)
    likeness = torch.zeros(len(blocks), device=model.device)

    def watch(number: int, given: tuple[Any, ...], made: Any) -> None:
        out = made[0] if isinstance(made, tuple) else made
        likeness[number] += nn.functional.cosine_similarity(given[0].float(), out.float(), dim=-1).sum()

    with _watched(blocks, watch):
        _read(model, texts)
    gone = set(likeness.topk(num_gone).indices.tolist())
    left = nn.ModuleList(one for number, one in enumerate(blocks) if number not in gone)
    for number, block in enumerate(left):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment]  # its place in the cache
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(blocks) and module[0] is blocks[0]:
            model.set_submodule(name, left)
            break
    setattr(model.config, counted, len(left))
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [one for number, one in enumerate(model.config.layer_types) if number not in gone]


def zeros_of(model: PreTrainedModel) -> float:
    """Part of the weights of the blocks' matrices that is 0."""
    weights = matrices(model)
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def _known(what: dict[str, Any], model: PreTrainedModel) -> Any:
    kind = model.config.model_type
    if kind not in what:
        raise InputError(
            f"prune: method width and depth know {', '.join(sorted(what))} (got {kind}); take global, layer or two_of_four"
        )
    return what[kind]


@contextmanager
def _watched(modules: Sequence[nn.Module], watch: Callable[[int, tuple[Any, ...], Any], None]) -> Iterator[None]:
    """`watch` gets the number of a module, its positional inputs and its output each time that it runs."""

    def of(number: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda _, given, made: watch(number, given, made)

    hooks = [module.register_forward_hook(of(number)) for number, module in enumerate(modules)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _read(model: PreTrainedModel, texts: Sequence[Sequence[int]]) -> None:
    for ids in texts:
        if len(ids):
            model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)


def _out_first(module: nn.Module) -> torch.Tensor:
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return weight.t() if isinstance(module, Conv1D) else weight


def _take(module: nn.Module, units: torch.Tensor, axis: int) -> None:
    """Keep these rows (0: what comes out) or columns (1: what goes in) of a layer."""
    kept = _out_first(module).index_select(axis, units).contiguous()
    module.weight = nn.Parameter(kept.t().contiguous() if isinstance(module, Conv1D) else kept)
    if axis == 0:
        if isinstance(bias := getattr(module, "bias", None), torch.Tensor):
            module.bias = nn.Parameter(bias[units].clone())
        setattr(module, "nf" if isinstance(module, Conv1D) else "out_features", len(units))
    else:
        setattr(module, "nx" if isinstance(module, Conv1D) else "in_features", len(units))
