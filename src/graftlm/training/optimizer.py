"""AdamW in the number formats that memory allows, clipping, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from graftlm.ops.adamw import AdamWStep, Moments, Rounding, adamw_, new_slots
from graftlm.ops.rounding import BLOCK
from graftlm.training.distributed import clip_gradients

BETAS, EPS = (0.9, 0.95), 1e-8
"""LLaMA 2's, arXiv 2307.09288."""


class AdamW(torch.optim.Optimizer):
    """AdamW on fp32 or bf16 weights with moments in fp32, bf16 or 8 bits (`ops.adamw` has the arithmetic).

    Args:
        parameters: weights, or groups of them, as of every torch optimizer; sharded ones (DTensor) are updated
            shard by shard.
        moments: format of the two moments.
        rounding: of bf16 weights: `stochastic`, `nearest` (small updates vanish: for comparison only), or `master`
            (nearest, and the optimizer keeps the 16 bits that are cut off).
        seed: of the rounding. A weight's random bits depend on seed, step and its place among the weights, so a
            resumed run rounds as the uninterrupted one, and so does every replica.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        weight_decay: float = 0.0,
        moments: Moments = "fp32",
        rounding: Rounding = "stochastic",
        seed: int = 0,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0}
        )
        self.moments, self.rounding, self.seed = moments, rounding, seed

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], torch.Tensor] | None = None, *, factor: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Update every weight that has a gradient.

        Args:
            factor: one fp32 number on the device that all gradients are multiplied by (clipping).
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        number = 0
        for group in self.param_groups:
            group["step"] += 1
            numbers = AdamWStep(
                learning_rate=group["lr"],
                weight_decay=group["weight_decay"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                eps=group["eps"],
                step=group["step"],
                seed=self.seed,
            )
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, numbers, number, factor)
                number += 1
        return loss

    def _update(
        self, weight: torch.Tensor, numbers: AdamWStep, number: int, factor: torch.Tensor | None
    ) -> None:
        state, near = self.state[weight], local(weight)
        if not state:
            slots = new_slots(near, self.moments, self.rounding)
            state.update({name: sharded_like(weight, slot) for name, slot in slots.items()})
        assert weight.grad is not None
        slots = {name: local(slot) for name, slot in state.items()}
        adamw_(near, local(weight.grad), slots, numbers, rounding=self.rounding, number=number, factor=factor)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but every slot keeps its format: torch's turns them all into the weight's."""
        super().load_state_dict({**state_dict, "state": {}})
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        weight_of = dict(zip(names, weights, strict=True))
        for name_of_weight, slots in state_dict["state"].items():
            weight = weight_of[name_of_weight]
            self.state[weight] = {name: slot.to(weight.device, copy=True) for name, slot in slots.items()}


def adamw(
    model: torch.nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    moments: Moments = "fp32",
    rounding: Rounding = "stochastic",
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """AdamW for what is trained; matrices decay, norms and biases do not. torch's own fused one where weights and
    moments are all fp32.

    Args:
        rates: part of a parameter's name: factor on its learning rate, as LoRA+ has (arXiv 2402.12354). Groups keep
            theirs as `factor`.
    """
    trained = [(_factor(name, rates or {}), p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay, "lr": learning_rate * factor, "factor": factor}
        for factor in sorted({factor for factor, _ in trained})
        for decay, least, most in ((weight_decay, 2, 9), (0.0, 0, 1))
        if (matrices := [p for own, p in trained if own == factor and least <= p.ndim <= most])
    ]
    if moments == "fp32" and all(p.dtype == torch.float32 for _, p in trained):
        return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, eps=EPS, fused=True)
    return AdamW(groups, lr=learning_rate, moments=moments, rounding=rounding, seed=seed)


def _factor(name: str, rates: Mapping[str, float]) -> float:
    return next((factor for part, factor in rates.items() if part in name), 1.0)


def kept_bytes(moments: Moments, rounding: Rounding) -> float:
    """Bytes that the optimizer keeps of each weight."""
    of_moments = {"fp32": 8, "bf16": 4, "8bit": 2 + 8 / BLOCK}[moments]
    return of_moments + (2 if rounding == "master" else 0)


def clip_and_step(
    optimizer: torch.optim.Optimizer, weights: list[torch.Tensor], largest_norm: float
) -> torch.Tensor:
    """Scale the gradients to at most this norm and update; returns the norm before, still on the device.

    Our own optimizer takes the factor along, which saves a pass over the gradients (4 bytes a bf16 weight).
    """
    if not isinstance(optimizer, AdamW):
        norm = clip_gradients(weights, largest_norm)
        optimizer.step()
        return norm
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    # As torch.nn.utils.get_total_norm, but in fp32: that one gives the norm of bf16 gradients with three digits.
    norms = torch._foreach_norm(gradients, 2, torch.float32)
    norm = whole(torch.linalg.vector_norm(torch.stack(norms)))
    optimizer.step(factor=(largest_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a sharded tensor (DTensor); any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def sharded_like(weight: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor as a tensor sharded as the weight is, so that checkpoints know what it is."""
    if not hasattr(weight, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(weight, DTensor)
    alike = part.shape == weight.to_local().shape  # scales of blocks are not
    return DTensor.from_local(
        part,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape if alike else None,
        stride=weight.stride() if alike else None,
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor put together; any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def cosine_schedule(step: int, steps: int, *, warmup: float, floor: float = 0.1) -> float:
    """Factor on the peak rate at 0-based `step`: linear warm-up over a share, then cosine to `floor`."""
    warmup_steps = max(1, round(warmup * steps)) if warmup > 0 else 0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
