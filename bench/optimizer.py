"""One AdamW step, in every format: measured, and the floor that the memory sets.

    python bench/optimizer.py [parameters in billions] [--receipt FILE]     needs a CUDA device

The floor is bytes read and written ÷ the bandwidth of a large copy, which is measured here.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from receipt import finish

from graftlm.ops.adamw import Moments, Rounding
from graftlm.training.optimizer import AdamW, adamw, clip_and_step, kept_bytes

SHAPES = [(4096, 4096)] * 4 + [(11008, 4096)] * 3 + [(4096,)] * 2
"""A layer of LLaMA-2 7B: 202 million weights."""

FORMATS: list[tuple[torch.dtype, Moments, Rounding]] = [
    (torch.float32, "fp32", "stochastic"),  # torch's fused AdamW
    (torch.float32, "8bit", "stochastic"),
    (torch.bfloat16, "fp32", "stochastic"),
    (torch.bfloat16, "bf16", "stochastic"),
    (torch.bfloat16, "bf16", "nearest"),
    (torch.bfloat16, "8bit", "stochastic"),
    (torch.bfloat16, "fp32", "master"),
    (torch.bfloat16, "bf16", "master"),
    (torch.bfloat16, "8bit", "master"),
]


def milliseconds(work: Callable[[], object], times: int = 10) -> float:
    """Median of single runs on the device."""
    found = []
    for _ in range(3):
        work()
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end))
    return statistics.median(found)


def bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 4 GiB."""
    source = torch.empty(2**30, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * 4 * 2**30 / (milliseconds(lambda: target.copy_(source)) / 1e3)


def step_time(dtype: torch.dtype, moments: Moments, rounding: Rounding, layers: int) -> tuple[float, float, int]:
    """(ms of an update, ms of clipping and update, weights)."""
    model = torch.nn.ParameterList(
        torch.nn.Parameter(torch.randn(shape, device="cuda", dtype=dtype)) for _ in range(layers) for shape in SHAPES
    )
    for weight in model:
        weight.grad = torch.randn_like(weight)
    optimizer = adamw(model, learning_rate=1e-5, weight_decay=0.1, moments=moments, rounding=rounding)
    factor = torch.ones((), device="cuda")

    def update() -> None:
        if isinstance(optimizer, AdamW):
            optimizer.step(factor=factor)
        else:
            optimizer.step()

    weights = list(model.parameters())
    alone = milliseconds(update)
    return alone, milliseconds(lambda: clip_and_step(optimizer, weights, 1.0)), sum(w.numel() for w in weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("billions", type=float, nargs="?", default=2.0, help="parameters")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    layers = max(1, round(options.billions * 1e9 / 202_383_360))
    speed, rows = bandwidth(), []
    print(f"copy {speed / 1e12:.2f} TB/s, {layers} layers of LLaMA-2 7B")
    table = [("weights, moments, rounding", "ms", "floor", "of floor", "clip + step")]
    for dtype, moments, rounding in FORMATS:
        in_bf16 = dtype == torch.bfloat16
        kept = kept_bytes(moments, rounding if in_bf16 else "nearest")
        alone, clipped, weights = step_time(dtype, moments, rounding, layers)
        floor = weights * (3 * dtype.itemsize + 2 * kept) / speed * 1e3
        name = "bf16" if in_bf16 else "fp32"
        cells = f"{alone:.2f}", f"{floor:.2f}", f"{floor / alone:.0%}", f"{clipped:.2f}"
        table.append((f"{name}, {moments}, {rounding}", *cells))
        rows.append({"weights": name, "moments": moments, "rounding": rounding, "ms": alone, "floor_ms": floor,
                     "clip_and_step_ms": clipped, "parameters": weights})  # fmt: skip
        torch.cuda.empty_cache()
    finish({"bench": "optimizer", "bytes_per_second": speed, "rows": rows}, table, options.receipt)


if __name__ == "__main__":
    main()
