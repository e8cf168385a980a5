"""Products with weights that are not trained, in bf16 or in 8-bit floating point.

Shapes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from graftlm.ops.float8 import quantise_rows, quantise_rows_by, scaled_product


@dataclass(frozen=True)
class Frozen:
    """A frozen weight [O, I], and in 8-bit floating point where products are to be done in it.

    Attributes:
        rows: (e4m3 [O, I], scale [O, 1]) for the forward product.
        columns: (e4m3 [I, O], scale [I, 1]) for the backward one.
    """

    weight: torch.Tensor
    rows: tuple[torch.Tensor, torch.Tensor] | None = None
    columns: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward_in_8_bits(self) -> Frozen:
        return replace(self, rows=quantise_rows(self.weight))

    def backward_in_8_bits(self) -> Frozen:
        return replace(self, columns=quantise_rows(self.weight.t().contiguous()))

    def forward(self, x_TI: torch.Tensor, largest_T1: torch.Tensor | None = None) -> torch.Tensor:
        """x·Wᵀ; `largest_T1`: the largest absolute value of each token, where it is known."""
        if self.rows is None:
            return x_TI @ self.weight.t()
        return scaled_product(*_cast(x_TI, largest_T1), *self.rows)

    def backward(self, dy_TO: torch.Tensor, largest_T1: torch.Tensor | None = None) -> torch.Tensor:
        """dy·W."""
        if self.columns is None:
            return dy_TO @ self.weight
        return scaled_product(*_cast(dy_TO, largest_T1), *self.columns)


def _cast(x_TK: torch.Tensor, largest_T1: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    return quantise_rows(x_TK) if largest_T1 is None else quantise_rows_by(x_TK, largest_T1)


class FrozenSiblings(torch.autograd.Function):
    """x·Wᵀ for the frozen weights of several layers on one input: one product forward, one each backward.

    Forward all weights are one tensor (`whole`) and the outputs views of one. Backward the layers' gradients come from
    different places; putting them together first would write and read them once more.

    x: [T, I]; bias: [O] or None; parts: `Frozen` of each layer. Returns [T, O] of each layer.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TI: torch.Tensor, whole: Frozen, bias_O: torch.Tensor | None, parts: tuple[Frozen, ...]
    ) -> tuple[torch.Tensor, ...]:
        ctx.parts = parts
        y_TO = whole.forward(x_TI)
        y_TO = y_TO if bias_O is None else y_TO + bias_O
        return y_TO.split([len(part.weight) for part in parts], dim=-1)

    @staticmethod
    def backward(ctx: Any, *dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dx = [part.backward(one) for part, one in zip(ctx.parts, dy, strict=True)]
        return sum(dx[1:], dx[0]), None, None, None
