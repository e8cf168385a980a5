"""The memory budget of a stage, settled before weights are loaded: how it is trained, and what that will need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PretrainedConfig

from graftlm.models.quantised import frozen_bytes
from graftlm.recipes.adapting import LORA
from graftlm.recipes.stage_settings import (
    BestOfStage,
    GradientStage,
    InfillStage,
    PolicyStage,
    TrainingStage,
    reward_models,
)
from graftlm.training.accelerated_memory import Recompute, plan_accelerated
from graftlm.training.memory import GIB, available_memory, plan_memory
from graftlm.training.optimizer import kept_bytes

USABLE = 0.93
"""Share of the memory that a plan may fill: the plan is right to 5 %, and the allocator leaves gaps."""

LONGEST_PASS = 32_768
"""Tokens of one pass beyond which nothing gets faster (0.5B on one H200: 16,384 to 32,768 brings 5 %)."""


@dataclass(frozen=True)
class Budget:
    """How a stage is trained.

    Attributes:
        accelerated: with compiled layers and stacked adapters.
        float8: with products in 8 bits.
        rows_at_once: rows that one forward and backward pass takes.
        recompute: what the backward pass computes again.
        needed, available: bytes of memory.
    """

    accelerated: bool
    float8: bool
    rows_at_once: int
    recompute: Recompute
    needed: int
    available: int

    @property
    def fits(self) -> bool:
        return self.needed <= USABLE * self.available

    def __str__(self) -> str:
        return f"needs about {self.needed / GIB:.2f} of {self.available / GIB:.0f} GiB"


def settle(
    settings: GradientStage,
    config: PretrainedConfig,
    parameters: int,
    trained: int,
    *,
    device: torch.device,
    bf16: bool,
    processes: int = 1,
    shards: int = 1,
    layers: int | None = None,
    copied: int = 0,
    compilable: bool = True,
) -> Budget:
    """The first of the ways to train that fits, the fastest first; the most frugal one where none does.

    Args:
        parameters, trained: number of all and of trained parameters.
        processes: that train together; layers are compiled in one alone.
        shards: how many of them share the weights.
        layers: that the backward pass goes through; all when None.
        copied: weights that a pass puts together anew and keeps.
        compilable: whether the model's layers can be compiled; attention with a prefix cannot.
    """
    available = available_memory(device)
    found, eight = None, settings.float8 and multiplies_in_8_bits(device)
    for accelerated, rows, recompute in _ways(settings, device, bf16, processes, compilable):
        if accelerated:
            needed = _accelerated_memory(settings, config, parameters, trained, rows, recompute, float8=eight)
        else:
            again = recompute == "full"
            needed = stage_memory(
                settings, config, parameters, trained,
                device=device, bf16=bf16, shards=shards, recompute=again, layers=layers, copied=copied,
            )  # fmt: skip
        found = Budget(accelerated, accelerated and eight, rows, recompute, needed, available)
        if found.fits:
            break
    assert found is not None
    return found


def _ways(
    settings: GradientStage, device: torch.device, bf16: bool, processes: int, compilable: bool
) -> Iterator[tuple[bool, int, Recompute]]:
    """(accelerated, rows at once, recompute), the fastest first."""
    asked = settings.recompute
    gpu = device.type == "cuda"
    compiles = bf16 and processes == 1 and settings.compile and compilable and _compiles(settings)
    if gpu and compiles and asked != "full":
        policies: list[Recompute] = ["none", "cheap"] if asked == "auto" else [asked]
        for recompute in policies:
            yield from ((True, rows, recompute) for rows in _passes(settings))
    if asked == "auto" and gpu:
        yield from ((False, 1, "none"), (False, 1, "full"))
    else:
        yield False, 1, "full" if asked == "full" else "none"


def multiplies_in_8_bits(device: torch.device) -> bool:
    """Ada, Hopper and newer cards do (compute capability 8.9)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def _compiles(settings: GradientStage) -> bool:
    """Rollouts write answers token by token with the model that is trained, and rows of blanks are of many shapes:
    compiling would cost more than it gives. Of adapters those that stacked layers compute exactly: not DoRA's."""
    exact = settings.method == "full" or (settings.method == "lora" and settings.lora.kind != "dora")
    return isinstance(settings, TrainingStage) and not isinstance(settings, BestOfStage | InfillStage) and exact


def _passes(settings: GradientStage) -> Iterator[int]:
    """Rows of one pass: what divides the rows of a step, the most first."""
    assert isinstance(settings, TrainingStage)
    step, most = settings.rows_per_step, max(1, LONGEST_PASS // settings.row_tokens)
    return (rows for rows in range(min(step, most), 0, -1) if step % rows == 0)


def _accelerated_memory(
    settings: GradientStage,
    config: PretrainedConfig,
    parameters: int,
    trained: int,
    rows: int,
    recompute: Recompute,
    *,
    float8: bool,
) -> int:
    assert isinstance(settings, TrainingStage)
    in_fp32 = settings.method == "full" and settings.weights == "fp32"
    return plan_accelerated(
        config,
        parameters=parameters,
        trained=trained,
        tokens=rows * settings.row_tokens,
        weight_bytes=4 if in_fp32 else 2,
        copy_bytes=2 if in_fp32 else 0,
        moment_bytes=kept_bytes(settings.moments, settings.rounding),
        float8=float8,
        recompute=recompute,
        accumulates=settings.rows_per_step > rows,
    ).total


def stage_memory(
    settings: GradientStage,
    config: PretrainedConfig,
    parameters: int,
    trained: int,
    *,
    device: torch.device,
    bf16: bool,
    shards: int = 1,
    recompute: bool = False,
    layers: int | None = None,
    copied: int = 0,
) -> int:
    """Predicted peak in bytes of a stage that is not accelerated, of one of `shards` processes.

    A policy that is not an adapter keeps a copy of what it was; a reward model is taken to be as large as the policy.
    The keys and values of answers being written are left out.
    """
    held = 2 if bf16 or settings.weights != "fp32" else 4
    adapter: Literal["none", "lora", "dora"] = "none"
    if settings.method in LORA:
        adapter = "dora" if settings.lora.kind == "dora" else "lora"
    plan = plan_memory(
        config,
        parameters=parameters,
        trained=trained,
        row_tokens=settings.row_tokens,
        compute_bytes=held,
        frozen_bytes=frozen_bytes(config, parameters, settings.bits, held) if settings.bits else held,
        recompute=recompute,
        layers=layers,
        adapter=adapter,
        on_cpu=device.type == "cpu",
    )
    plan = replace(plan, optimizer=int(trained * kept_bytes(settings.moments, settings.rounding)))
    if settings.weights != "fp32":
        plan = replace(plan, weights=2 * parameters, gradients=2 * trained)
    plan = replace(plan, weights=plan.weights + copied * held)
    copies = isinstance(settings, PolicyStage) and settings.method not in LORA
    copy = (4 if settings.weights == "fp32" else 2) * parameters if copies else 0
    judges = held * parameters * len(reward_models(settings)) if isinstance(settings, PolicyStage | BestOfStage) else 0
    spread = (plan.weights + plan.gradients + plan.optimizer) * (shards - 1) // shards
    return plan.total - spread + copy + judges
