"""Products with weights that are not trained, in bf16 or in 8-bit floating point.

Shapes: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graftlm.ops.float8 import FrozenWeight, quantise_rows, quantise_rows_by, scaled_product


@dataclass(frozen=True)
class Frozen:
    """A frozen weight [O, I], and in 8-bit floating point if products are to be done in it."""

    weight: torch.Tensor
    float8: FrozenWeight | None = None

    def forward(self, x_TI: torch.Tensor, largest_T1: torch.Tensor | None = None) -> torch.Tensor:
        """x·Wᵀ; `largest_T1`: the largest absolute value of each token, where it is known."""
        if self.float8 is None:
            return x_TI @ self.weight.t()
        return scaled_product(*_cast(x_TI, largest_T1), self.float8.rows, self.float8.rows_scale)

    def backward(self, dy_TO: torch.Tensor, largest_T1: torch.Tensor | None = None) -> torch.Tensor:
        """dy·W."""
        if self.float8 is None:
            return dy_TO @ self.weight
        return scaled_product(*_cast(dy_TO, largest_T1), self.float8.columns, self.float8.columns_scale)


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
