"""A linear layer whose weight is kept in 8 or 4 bits, under the names that compressed-tensors has for its parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graftlm.models.trunk import causal_lm
from graftlm.ops.int_cpu import FEW, CpuForm, cpu_form
from graftlm.ops.int_weights import Bits, IntFormat, IntWeight, dequantise, product


class QuantLinear(torch.nn.Module):
    """y = x·Ŵᵀ + b for a frozen Ŵ.

    Attributes:
        weight_packed: [O, I · bits ÷ 32] int32.
        weight_scale: [O, G].
        weight_shape: (O, I).
        weight_zero_point: [O · bits ÷ 32, G] int32; absent where the format is symmetric.
        bias: [O] or None.
    """

    weight_packed: torch.Tensor
    weight_scale: torch.Tensor
    weight_shape: torch.Tensor
    weight_zero_point: torch.Tensor | None

    def __init__(self, weight: IntWeight, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.bits: Bits = weight.bits
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight_packed", weight.words)
        self.register_buffer("weight_scale", weight.scale)
        self.register_buffer("weight_shape", torch.tensor(weight.shape, device=weight.words.device))
        self.register_buffer("weight_zero_point", weight.zero)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        self._few: CpuForm | None = None  # made at the first look at few tokens: as large as the packed weight

    @classmethod
    def empty(cls, form: IntFormat, outputs: int, inputs: int, *, bias: bool, dtype: torch.dtype) -> QuantLinear:
        """On the current default device, to be filled from a file."""
        words, groups = -(-inputs * form.bits // 32), inputs // (form.group or inputs)
        zero = None if form.symmetric else torch.empty(-(-outputs * form.bits // 32), groups, dtype=torch.int32)
        weight = IntWeight(
            torch.empty(outputs, words, dtype=torch.int32),
            torch.empty(outputs, groups, dtype=dtype),
            zero,
            inputs,
            form.bits,
        )
        return cls(weight, torch.empty(outputs, dtype=dtype) if bias else None)

    @property
    def numbers(self) -> IntWeight:
        return IntWeight(
            self.weight_packed, self.weight_scale, self.weight_zero_point, self.in_features, self.bits
        )

    @property
    def form(self) -> IntFormat:
        groups = self.weight_scale.shape[1]
        group = None if groups == 1 else self.in_features // groups
        return IntFormat(self.bits, group, self.weight_zero_point is None)

    @property
    def weight(self) -> torch.Tensor:
        """[O, I], dequantised at each look: for code that asks a head for its weight."""
        return dequantise(self.numbers, self.weight_scale.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        few = self._form_for_few(x)
        if few is None:
            y = product(x, self.numbers)
        else:
            y = few.product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def _form_for_few(self, x: torch.Tensor) -> CpuForm | None:
        if x.device.type != "cpu" or x.dtype != torch.bfloat16 or x.numel() > FEW * self.in_features:
            return None
        if torch.is_grad_enabled() and x.requires_grad:
            return None
        if self._few is None:
            self._few = cpu_form(self.numbers)
        return self._few

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> QuantLinear:
        self._few = None  # another device or format
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.form}"


def quantised_layers(model: torch.nn.Module) -> dict[str, QuantLinear]:
    """The quantised layers by name."""
    return {name: module for name, module in causal_lm(model).named_modules() if isinstance(module, QuantLinear)}


def put_in_place(model: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    """`layer` instead of the module of that name."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def dequantise_layers(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Plain linear layers in the place of the quantised ones."""
    for name, layer in quantised_layers(model).items():
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight = torch.nn.Parameter(dequantise(layer.numbers, dtype))
        plain.bias = layer.bias  # type: ignore[assignment]  # or None
        put_in_place(model, name, plain)
