"""The processes that train together: one, or as many as torchrun started; plain, DDP or FSDP2.

Every rank reads its part of each forward pass and all of them count the targets of the whole step, so the gradient is that of one
process, whatever their number. State is gathered to whole tensors, so a checkpoint does not know how many ranks wrote it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from infra.errors import InputError
from tasks.learn.loss import Objective


@dataclass(frozen=True)
class Ranks:
    """How many processes train, and which one this is."""

    number: int = 1
    mine: int = 0
    local: int = 0
    """Place on this machine: the GPU that is mine."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and tells."""
        return self.mine == 0


@contextmanager
def joined(ranks: int, device: str) -> Iterator[Ranks]:
    """Join the group of `ranks` processes that torchrun started; alone nothing is to be joined.

    Raises:
        InputError: there are not as many GPUs here.
    """
    if ranks == 1:
        yield Ranks()
        return
    local = dist.get_node_local_rank()
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(f"pretrain.ranks: {ranks} ranks for {torch.cuda.device_count()} GPUs; each needs one")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_world_size(), dist.get_rank(), local)
    finally:
        dist.destroy_process_group()


def wrapped(objective: Objective, ranks: Ranks, parallel: Literal["ddp", "fsdp"], device: str, precision: str) -> nn.Module:
    """The objective, made on the CPU, on its device and as the ranks share it.

    With fsdp its parameters are divided in place, and `fully_shard` moves what each call divides: a GPU holds one block whole at a time, or
    what is outside of blocks, and never the model.
    """
    divided = ranks.number > 1 and parallel == "fsdp"
    if not divided:
        objective.to(device)
    if ranks.number == 1:
        return objective
    if not divided:
        return DistributedDataParallel(objective, device_ids=[ranks.local] if device == "cuda" else None)
    mesh = init_device_mesh(device, (ranks.number,))
    # products are narrowed under autocast as in one process; here it is what travels between the ranks, and from block to block
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if precision == "bf16"
        else MixedPrecisionPolicy()
    )
    for block in blocks(objective.model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(objective, mesh=mesh, mp_policy=policy)
    return objective


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated layers of a transformer: those that its class says must not be split."""
    names = getattr(model, "_no_split_modules", None) or ()
    return [
        one
        for one in model.modules()
        if type(one).__name__ in names and len(list(one.children())) and "Embedding" not in type(one).__name__
    ]


@contextmanager
def gathering(module: nn.Module, last: bool) -> Iterator[None]:
    """Gradients travel between the ranks in the last forward pass of a step only."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        yield
    elif isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    else:
        yield


def summed(values: npt.NDArray[np.float64], ranks: Ranks, device: str) -> npt.NDArray[np.float64]:
    """The sum of an array over all ranks."""
    if ranks.number == 1:
        return values
    tensor = torch.from_numpy(np.ascontiguousarray(values)).to(device)
    dist.all_reduce(tensor)
    result: npt.NDArray[np.float64] = tensor.cpu().numpy()
    return result


def wait_for_all(ranks: Ranks, device: str) -> None:
    """Go on when all ranks are here."""
    summed(np.zeros(1), ranks, device)


def whole(tensor: torch.Tensor, *, keep: bool = True) -> torch.Tensor:
    """A tensor on the CPU as one process would have it, or an empty one; with fsdp all ranks must ask together.

    Args:
        keep: whether this rank has a use for it: else each would hold all of a model and its moments in the machine's memory.
    """
    full = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
    return full.cpu() if keep else torch.empty(0)


@torch.no_grad()
def put(target: torch.Tensor, value: torch.Tensor) -> None:
    """Write a whole tensor where this rank holds its part of it."""
    if isinstance(target, DTensor):
        value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)


def whole_state(model: nn.Module, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a model by name, as `whole` gives them; tied ones are one tensor, as they are in the model."""
    made: dict[int, torch.Tensor] = {}
    for tensor in (state := model.state_dict(keep_vars=True)).values():
        if id(tensor) not in made:
            made[id(tensor)] = whole(tensor, keep=keep)
    return {name: made[id(tensor)] for name, tensor in state.items()}


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """`<parameter>::<moment>` → tensor as `whole` gives it, for all that the optimiser remembers."""
    names = {id(one): name for name, one in model.named_parameters()}
    return {
        f"{names[id(one)]}::{moment}": whole(value, keep=keep)
        for one, state in optimizer.state.items()
        for moment, value in state.items()
        if isinstance(value, torch.Tensor)
    }


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Give an optimiser back what `optimizer_state` took.

    Raises:
        KeyError: a parameter is of another model.
    """
    parameters = dict(model.named_parameters())
    for key, value in saved.items():
        name, _, moment = key.rpartition("::")
        one = parameters[name]
        if value.shape != one.shape:
            # a counter, which fused kernels want where the parameter is, and others on the CPU
            optimizer.state[one][moment] = value.to(one.device if optimizer.defaults.get("fused") else "cpu", copy=True)
            continue
        optimizer.state[one][moment] = torch.zeros_like(one)
        put(optimizer.state[one][moment], value)
