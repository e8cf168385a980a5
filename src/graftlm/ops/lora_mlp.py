"""A gated MLP whose three projections are frozen and have LoRA adapters, with its backward pass.

Written out by hand, since what is kept and what is done in one pass decide the speed: of each token only the input,
the two projections and the ranks are kept, and between the matmuls there is one pass over memory in each direction.
"""

from __future__ import annotations

from typing import Any

import torch

from graftlm.ops.frozen import Frozen


class LoraMlp(torch.autograd.Function):
    """down(silu(gate(x)) · up(x)) + adapters.

    x_TD: [T, D]. gate_up, down: `Frozen` of [2I, D] and [D, I]. up_down_scaling: factors on the adapters of gate, up
    and down. A and B matrices in the dtype of x: A_gate_up [2r, D] (both, end to end), gate_B, up_B [I, r],
    down_A [s, I], down_B [D, s].
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx: Any, x_TD, A_gate_up, gate_B, up_B, down_A, down_B, gate_up: Frozen, down: Frozen, scaling
    ) -> torch.Tensor:
        from graftlm.ops.kernels.lora_swiglu import lora_swiglu

        low_T2r = (x_TD @ A_gate_up.t()) * _factors(scaling, A_gate_up)
        gate_up_T2I = gate_up.forward(x_TD)
        h_TI, largest_PT, low_PTs = lora_swiglu(gate_up_T2I, low_T2r, gate_B, up_B, down_A)
        y_TD = down.forward(h_TI, largest_PT.amax(0)[:, None])
        low_Ts = (low_PTs.sum(0) * scaling[2]).to(x_TD.dtype)
        ctx.save_for_backward(x_TD, gate_up_T2I, low_T2r, low_Ts, A_gate_up, gate_B, up_B, down_A, down_B)
        ctx.frozen, ctx.scaling = (gate_up, down), scaling
        return y_TD + low_Ts @ down_B.t()

    @staticmethod
    def backward(ctx: Any, dy_TD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from graftlm.ops.kernels.lora_swiglu import lora_swiglu_backward

        x_TD, gate_up_T2I, low_T2r, low_Ts, A_gate_up, gate_B, up_B, down_A, down_B = ctx.saved_tensors
        (gate_up, down), scaling, r = ctx.frozen, ctx.scaling, gate_B.shape[1]
        dlow_Ts = (dy_TD @ down_B) * scaling[2]
        dgu_T2I, largest_PT, dlow_PT2r, h_TI = lora_swiglu_backward(
            down.backward(dy_TD), dlow_Ts, gate_up_T2I, low_T2r, gate_B, up_B, down_A
        )
        dx_TD = gate_up.backward(dgu_T2I, largest_PT.amax(0)[:, None])
        dlow_T2r = (dlow_PT2r.sum(0) * _factors(scaling, A_gate_up)).to(dy_TD.dtype)
        both = dgu_T2I.t() @ low_T2r  # one pass over the largest tensor; the two blocks off the diagonal mean nothing
        I = len(gate_B)
        return (
            dx_TD + dlow_T2r @ A_gate_up, dlow_T2r.t() @ x_TD, both[:I, :r], both[I:, r:],
            dlow_Ts.t() @ h_TI, dy_TD.t() @ low_Ts, None, None, None,
        )  # fmt: skip


def _factors(scaling: tuple[float, float, float], A_gate_up: torch.Tensor) -> float | torch.Tensor:
    """Factor on each of the 2r columns; one number where gate and up agree, as they nearly always do."""
    gate, up, _ = scaling
    if gate == up:
        return gate
    half = A_gate_up.new_ones(len(A_gate_up) // 2)
    return torch.cat([half * gate, half * up])
