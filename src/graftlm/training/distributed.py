"""Many processes, one for each GPU: they share the rows of a step and, by FSDP2, the weights and what belongs to them.

Every decoder layer is gathered when it runs and given back after; embeddings, last norm and head form the root, which
stays gathered from the start of a forward pass to the end of its backward pass, because losses read the head's weight
directly. PyTorch's `fully_shard`: Zhao et al., arXiv 2304.11277; ZeRO: Rajbhandari et al., arXiv 1910.02054; a second,
replicated dimension of the mesh makes it hybrid (HSDP).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import MethodType
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from graftlm.core.errors import TrainingError

T = TypeVar("T")

WAIT = timedelta(hours=24)
"""How long processes wait for the first one (evaluation of a large model takes hours). One that died is noticed at
once: the launcher ends the others."""


@dataclass(frozen=True)
class Sharding:
    """How weights lie over the processes; `shard` × `replicate` is their number.

    Attributes:
        shard: processes that share one copy of the weights; None: all that `replicate` leaves.
        replicate: copies; None: as many as `shard` leaves, one when that is None, too.
        regather: gather a layer again for its backward pass (ZeRO-3); else it stays from forward to backward (ZeRO-2).
        reduce: gradients are summed over the processes once a `step`, or after each `row`: more traffic, but never a
            whole gradient on one GPU.
    """

    shard: int | None = None
    replicate: int | None = None
    regather: bool = True
    reduce: Literal["step", "row"] = "step"

    def shape(self, processes: int) -> tuple[int, int]:
        """(replicate, shard); raises TrainingError when they do not make up the processes. One has nothing to share."""
        if processes == 1:
            return 1, 1
        replicate = self.replicate or (processes // self.shard if self.shard else 1)
        shard = self.shard or processes // replicate
        if shard * replicate != processes:
            raise TrainingError(
                f"shard {self.shard or 'all'} × replicate {replicate} does not make {processes} processes",
                where="parallel",
                fix=f"choose two numbers whose product is {processes}, or set one that divides it",
            )
        return replicate, shard


@dataclass(frozen=True)
class World:
    """This process among all of the run; by default it is alone.

    Attributes:
        mesh: [replicate, shard] processes; None when alone.
        host_mesh: the same over host memory, where checkpoints are written from.
        main, rows, writer: groups over host memory (gloo), one for each thread that talks: the loop, the thread that
            builds the next step's rows, and the one that writes checkpoints.
    """

    rank: int = 0
    size: int = 1
    sharding: Sharding = Sharding()
    mesh: DeviceMesh | None = None
    host_mesh: DeviceMesh | None = None
    main: dist.ProcessGroup | None = None
    rows: dist.ProcessGroup | None = None
    writer: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def copies(self) -> int:
        return self.sharding.shape(self.size)[0]

    @property
    def shards(self) -> int:
        """Processes that share one copy of the weights."""
        return self.sharding.shape(self.size)[1]

    def share(self, numbers: Sequence[int]) -> tuple[list[int], int]:
        """(this process's numbers, how many of them count): rank, rank + size, …

        All processes get equally many, because each takes part in gathering the weights: one that has none left works
        on the last number again, and the result does not count.
        """
        mine = list(numbers[self.rank :: self.size])
        rounds = -(-len(numbers) // self.size)
        return mine + list(numbers[-1:]) * (rounds - len(mine)), len(mine)

    def idle(self, rows: int) -> float:
        """Share of the work that does not count when a step has so many rows."""
        return 1 - rows / (-(-rows // self.size) * self.size)

    def total(self, values: Sequence[float], group: dist.ProcessGroup | None = None) -> list[float]:
        """Sums over the processes, in fp64 and host memory."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=group or self.main)
        return sums.tolist()

    def elementwise(self, values: np.ndarray, how: Literal["sum", "lowest"]) -> np.ndarray:
        """Sums, or the lowest, of arrays of one shape over the processes."""
        if self.size == 1:
            return values
        found = torch.from_numpy(values.astype(np.float64))
        dist.all_reduce(found, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MIN, group=self.main)
        return found.numpy()

    def agreed(self, value: T) -> T:
        """The first process's value, on all of them."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.main, device=torch.device("cpu"))
        return box[0]

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            dist.barrier(group=self.main)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The processes of a machine run the block one after the other: host memory holds one whole model at a time."""
        mine, turns = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        for _ in range(mine if self.size > 1 else 0):
            self.wait()
        yield
        for _ in range(turns - mine if self.size > 1 else 0):
            self.wait()

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first process runs the block alone, then the others: they find on disk what it made."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = World()


def processes() -> int:
    """How many processes torchrun, or `graft run --gpus`, started for this run; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


@contextmanager
def join_world(device: str, sharding: Sharding) -> Iterator[World]:
    """Meet the other processes, as torchrun's variables say; alone without them.

    Args:
        device: `cuda` (one GPU a process, NCCL) or `cpu` (gloo).

    Raises:
        TrainingError: the machine has fewer GPUs than processes, or `sharding` does not make up their number.
    """
    size = processes()
    if size == 1:
        yield ALONE
        return
    local = int(os.environ["LOCAL_RANK"])
    shape = sharding.shape(size)
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise TrainingError(
                f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}",
                where="parallel",
                fix="start one process for each GPU, or set `device: cpu`",
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    mesh, host_mesh = (init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard")) for kind in (device, "cpu"))
    main, rows, writer = (dist.new_group(backend="gloo", timeout=WAIT) for _ in range(3))
    yield World(dist.get_rank(), size, sharding, mesh, host_mesh, main, rows, writer)
    dist.destroy_process_group()  # not after an error: it would wait for processes that wait for this one


def shard_model(model: torch.nn.Module, world: World, *, bf16: bool) -> torch.nn.Module:
    """Spread a model over the processes, layer by layer, in place; alone it stays as it is.

    A model in host memory reaches the GPU one layer at a time, so no GPU ever holds all of it. Under bf16 weights are
    gathered in bf16 and gradients summed in fp32. Frozen weights are spread as well.
    """
    if world.mesh is None:
        return model
    mesh = world.mesh if world.copies > 1 else world.mesh["shard"]
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=world.sharding.regather)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # the loss is divided by all units, so gradients are summed, not averaged
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    model.call_inside = MethodType(_call_inside, model)  # type: ignore[assignment]
    register_fsdp_forward_method(model, "call_inside")
    return model


def decoder_layers(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The repeated layers: the list of modules that holds most of the weights.

    Raises:
        TrainingError: the model has no such list.
    """
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    if not lists:
        raise TrainingError(
            "it has no list of layers to spread over processes", where=type(model).__name__, fix="train it in one"
        )
    return max(lists, key=lambda layers: sum(parameter.numel() for parameter in layers.parameters()))


def _call_inside(model: torch.nn.Module, function: Callable[[torch.nn.Module], Any]) -> Any:
    return function(model)


def call_gathered(model: torch.nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(model, *arguments) with the root's weights gathered, as if it were the model's forward pass.

    Gradients flow through tensors that stand in the result as itself, or in tuples, lists and dicts of it.
    """
    if not isinstance(model, FSDPModule):
        return function(model, *arguments)
    # As one function: FSDP would take apart, and move to the GPU, whatever it finds among the arguments.
    return model.call_inside(lambda inner: function(inner, *arguments))  # type: ignore[operator]


def give_back(model: torch.nn.Module) -> None:
    """Free the gathered root after forward passes that no backward pass follows."""
    if isinstance(model, FSDPModule):
        model.reshard()


def before_row(model: torch.nn.Module, world: World, *, last: bool) -> None:
    """Gradients of a step's rows add up where they are; the last row's backward pass sums them over the processes."""
    if not isinstance(model, FSDPModule):
        return
    model.set_is_last_backward(last)
    if world.sharding.reduce == "step":
        model.set_requires_gradient_sync(last)
    else:
        model.set_requires_all_reduce(last)  # copies of the weights still need each other only once a step


def clip_gradients(parameters: list[torch.Tensor], most: float) -> torch.Tensor:
    """Scale gradients to a norm of at most `most`; the norm before, over all processes, on the device."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    torch.nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=True)
    return norm


def as_part(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, spread as `like` is; the tensor itself where nothing is spread."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def gather_weights(weights: dict[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """Whole weights in the first process's host memory, nothing in the others; one at a time passes the GPU."""
    found = {}
    for name, weight in weights.items():
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if world.first:
            found[name] = whole.cpu()
    return found
