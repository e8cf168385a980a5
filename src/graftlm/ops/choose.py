"""Which of several kernels is the fastest here: found out by measuring, once a device and shape."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from statistics import median

import torch

from graftlm.ops.attention import Kernel, Layout, kernels_for, lay_out, packed_attention

TOKENS = 8192
"""Tokens of the row that attention is measured on; its documents have 16 to 2,048 tokens, 335 on the average."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, the milliseconds of each candidate, and why those that cannot run here failed."""

    chosen: Kernel
    milliseconds: dict[Kernel, float]
    failed: dict[Kernel, str] = field(default_factory=dict)

    def __str__(self) -> str:
        times = [f"{name} {ms:.2f} ms" for name, ms in self.milliseconds.items()]
        failures = [f"{name} failed: {reason}" for name, reason in self.failed.items()]
        return f"{self.chosen} ({', '.join(times + failures)})" if times else self.chosen


@cache
def attention_kernel(device: torch.device, H: int, G: int, D: int, window: int | None = None) -> Choice:
    """The fastest attention over packed rows, forward and backward in bf16."""
    names: list[Kernel] = kernels_for(device, D)
    if len(names) == 1:
        return Choice(names[0], {})
    rng, lengths = random.Random(0), [0]
    while sum(lengths) < TOKENS:
        lengths.append(min(2048, TOKENS - sum(lengths), max(16, int(rng.lognormvariate(5.5, 0.8)))))
    boundaries = torch.tensor(lengths, device=device).cumsum(0).int()
    q, k, v = (
        torch.randn(TOKENS, heads, D, device=device, dtype=torch.bfloat16, requires_grad=True) for heads in (H, G, G)
    )

    def step(layout: Layout) -> None:
        torch.autograd.grad(packed_attention(q, k, v, layout, window=window), (q, k, v), q.detach())

    found: dict[Kernel, float] = {}
    failed: dict[Kernel, str] = {}
    for name in names:
        try:
            layout = lay_out(boundaries, TOKENS, max(lengths), name)
            found[name] = milliseconds(lambda layout=layout: step(layout))  # type: ignore[misc]
        except (RuntimeError, NotImplementedError, ValueError) as error:  # not for this device or shape
            failed[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
    # Others must beat ours by a tenth: a host that is busy for a moment slows down whichever is measured then, and what
    # flex needs for its mask, once a row, is not in its time.
    return Choice(min(found, key=lambda name: found[name] * (1.0 if name == "documents" else 1.1)), found, failed)


def milliseconds(work: Callable[[], object], times: int = 10) -> float:
    """Time of `work` on the current CUDA device: the median of three runs of it, `times` in a row, after a warm-up.

    In a row, because the device is to be measured and not the host that feeds it.
    """
    work()
    found = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / times)
    return median(found)
