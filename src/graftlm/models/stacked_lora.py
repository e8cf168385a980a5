"""LoRA layers on one input as one matmul: queries, keys and values; gate and up projection.

The frozen weights of such siblings are laid end to end, so that their input is read once instead of once a layer, by
the big product and by the adapters' small ones, and its gradient is written once instead of added up. The adapters
stay peft's, parameter by parameter; only `forward` changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft.tuners.lora import Linear as LoraLinear
from transformers.activations import SiLUActivation

from graftlm.ops.frozen import Frozen, FrozenSiblings
from graftlm.ops.lora_mlp import LoraMlp

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that read one input, by transformers' names, in the order in which they are called."""


class Stack:
    """Sibling LoRA layers (or one alone), whose frozen weights are one tensor.

    The first sibling that is called computes the outputs of all, the last one forgets them.
    """

    def __init__(self, layers: list[LoraLinear], float8: bool) -> None:
        bases: list[torch.nn.Linear] = [layer.get_base_layer() for layer in layers]  # type: ignore[misc]
        names = [layer.active_adapters[0] for layer in layers]
        self.A: list[torch.nn.Linear] = [layer.lora_A[name] for layer, name in zip(layers, names, strict=True)]  # type: ignore[misc]
        self.B: list[torch.nn.Linear] = [layer.lora_B[name] for layer, name in zip(layers, names, strict=True)]  # type: ignore[misc]
        self.scaling = [layer.scaling[name] for layer, name in zip(layers, names, strict=True)]
        weight = torch.cat([base.weight.data for base in bases])
        rows = weight.split([base.out_features for base in bases])
        for base, part in zip(bases, rows, strict=True):
            base.weight.data = part
        self.whole, self.parts = Frozen(weight), tuple(Frozen(part) for part in rows)
        if float8:  # forward all layers at once, backward each by itself
            self.whole = self.whole.forward_in_8_bits()
            self.parts = tuple(part.backward_in_8_bits() for part in self.parts)
        self.bias = _joint_bias(bases)
        self._input: torch.Tensor | None = None
        self._outputs: list[torch.Tensor] = []

    def output(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """What layer number `place` makes of x."""
        if self._input is not x:
            self._input, self._outputs = x, self._all_outputs(x)
        out = self._outputs[place]
        if place == len(self.parts) - 1:
            self._input, self._outputs = None, []
        return out

    def go_backward_at_once(self) -> None:
        """For a user of `whole` alone, in both directions."""
        if self.whole.rows is not None:
            self.parts = tuple(Frozen(part.weight) for part in self.parts)  # first: each copy is a byte a weight
            self.whole = self.whole.backward_in_8_bits()

    def _all_outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x [..., I] → [..., O] of each layer: x·Wᵀ + scaling·(x·Aᵀ)·Bᵀ."""
        A, B = self.matrices(x.dtype)
        x_TI = x.flatten(0, -2)
        low = (x_TI @ torch.cat([a * scale for a, scale in zip(A, self.scaling, strict=True)]).t()).split(
            [len(a) for a in A], dim=-1
        )
        wide = FrozenSiblings.apply(x_TI, self.whole, self.bias, self.parts)
        return [(y + part @ b.t()).unflatten(0, x.shape[:-1]) for y, part, b in zip(wide, low, B, strict=True)]

    def matrices(self, kind: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The A [rank, I] and B [O, rank] matrices of the layers."""
        return [layer.weight.to(kind) for layer in self.A], [layer.weight.to(kind) for layer in self.B]


def _joint_bias(bases: list[torch.nn.Linear]) -> torch.Tensor | None:
    """[O] of all layers, zeros where one has none; None where none has one."""
    if all(base.bias is None for base in bases):
        return None
    none = bases[0].weight.new_zeros
    return torch.cat([none(base.out_features) if base.bias is None else base.bias.data for base in bases])


class StackedLoraLinear(LoraLinear):
    """A peft layer whose forward pass is its stack's. An existing layer becomes one by its class, as FSDP2's do."""

    stack: Stack
    place: int

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        return self.stack.output(self.place, x)


class StackedMlp(torch.nn.Module):
    """A gated MLP whose layers are stacked, done by `ops.lora_mlp`. An existing MLP becomes one by its class."""

    gate_proj: StackedLoraLinear
    down_proj: StackedLoraLinear
    plain: type[torch.nn.Module]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate_proj
        if not isinstance(gate, StackedLoraLinear) or gate.disable_adapters or gate.merged:
            return self.plain.forward(self, x)
        both, down = self.gate_proj.stack, self.down_proj.stack
        (gate_A, up_A), (gate_B, up_B) = both.matrices(x.dtype)
        (down_A,), (down_B,) = down.matrices(x.dtype)
        y = LoraMlp.apply(
            x.flatten(0, -2), torch.cat([gate_A, up_A]), gate_B, up_B, down_A, down_B, both.whole, down.whole,
            (*both.scaling, *down.scaling),
        )  # fmt: skip
        return y.unflatten(0, x.shape[:-1])


def stack_mlps(model: torch.nn.Module) -> int:
    """Fuse the MLPs that `stack_lora` has stacked, where Triton runs; returns how many."""
    found = [module for module in model.modules() if _fusable(module)]
    for module in found:
        module.gate_proj.stack.go_backward_at_once()  # type: ignore[union-attr,operator]
        module.down_proj.stack.go_backward_at_once()  # type: ignore[union-attr,operator]
        module.plain = type(module)  # type: ignore[assignment]
        module.__class__ = StackedMlp
    return len(found)


def _fusable(module: torch.nn.Module) -> bool:
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(layer, StackedLoraLinear) for layer in layers):
        return False
    gate, up, down = (layer.stack for layer in layers)  # type: ignore[union-attr]
    stacks_fit = gate is up and len(down.parts) == 1 and gate.bias is None and down.bias is None
    swish = isinstance(getattr(module, "act_fn", None), torch.nn.SiLU | SiLUActivation)
    one_rank = len({layer.out_features for layer in gate.A}) == 1
    return stacks_fit and swish and one_rank and gate.whole.weight.dtype == torch.bfloat16


def stack_lora(model: torch.nn.Module, *, float8: bool = False) -> int:
    """Stack the LoRA layers of a model; returns how many became part of a stack.

    Args:
        float8: the frozen weights' products are done in 8-bit floating point (the bf16 weights stay for merging).
    """
    count = 0
    for layers in list(_groups(model)):
        stack = Stack(layers, float8)
        for place, layer in enumerate(layers):
            layer.__class__ = StackedLoraLinear
            layer.stack, layer.place = stack, place  # type: ignore[assignment]
        count += len(layers)
    return count


def _groups(model: torch.nn.Module) -> Iterator[list[LoraLinear]]:
    for module in model.modules():
        found: dict[str, LoraLinear] = {
            name: child
            for name, child in module.named_children()
            if type(child) is LoraLinear and _stackable(child)
        }
        for names in SIBLINGS:
            if all(name in found for name in names) and _alike([found[name] for name in names]):
                yield [found.pop(name) for name in names]
        yield from ([layer] for layer in found.values())


def _stackable(module: LoraLinear) -> bool:
    """A plain LoRA layer without dropout on a plain linear layer, with one adapter."""
    if type(module.get_base_layer()) is not torch.nn.Linear:
        return False
    if len(module.active_adapters) != 1 or module.fan_in_fan_out:
        return False
    name = module.active_adapters[0]
    plain = not module.use_dora.get(name) and name not in module.lora_variant
    return plain and isinstance(module.lora_dropout[name], torch.nn.Identity) and not module.lora_bias[name]


def _alike(layers: list[LoraLinear]) -> bool:
    bases: list[torch.nn.Linear] = [layer.get_base_layer() for layer in layers]  # type: ignore[misc]
    return len({(base.in_features, base.weight.dtype) for base in bases}) == 1
