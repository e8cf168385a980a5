"""Where the time of a training step goes: a trace of a few steps, and a table by class of work."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from graftlm.core.files import write_json

SKIPPED, RECORDED = 3, 3
"""Steps that warm up (allocator, compilation, lazily made moments), and steps that are recorded after them."""

CLASSES = (
    ("communication", r"nccl|allreduce|all_gather|allgather|reduce_scatter|c10d|gloo"),
    ("optimizer", r"adam"),
    ("attention", r"flash|fmha|attention|attn|sdpa|mha_"),
    ("loss", r"softmax|cross_entropy|nll_loss|logsumexp"),
    ("matmul", r"gemm|gemv|nvjet|cutlass|cublas|wgmma|xmma|aten::(mm|addmm|bmm|baddbmm|matmul|linear)$|4bit|int8"),
    ("copy and gather", r"memcpy|memset|copy_|cat$|catarray|fill|aten::(contiguous|clone|zero_)$|index|gather|scatter"),
)
"""Class of a GPU kernel or CPU operation: the first whose pattern is found in its name, in lower case."""

ELEMENTWISE, IDLE = "norm and elementwise", "idle and host"


class StepProfile:
    """Called after every step of a trainer; records steps 4 to 6 of the process.

    Args:
        folder: gets `trace.json` (open it in chrome://tracing or ui.perfetto.dev) and `profile.json`.

    Attributes:
        milliseconds: class → mean time of a step; None until the steps are recorded. On a GPU the time in kernels, and
            `idle and host` is when none ran; on a CPU the operations' own time, and `idle and host` is the rest.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.milliseconds: dict[str, float] | None = None
        self._steps = 0
        self._began = 0.0
        self._profile: Any = None

    def __call__(self, step: int) -> None:
        self._steps += 1
        if self._steps == SKIPPED:
            self._start()
        elif self._steps == SKIPPED + RECORDED:
            self.close()

    def close(self) -> None:
        """Write what was recorded, also when training ends before all steps were; nothing when none was."""
        if self._profile is None:
            return
        recorded, found, self._profile = self._steps - SKIPPED, self._profile, None
        self._wait()
        wall = (time.perf_counter() - self._began) * 1e3
        found.stop()
        if recorded < 1:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(self.folder / "trace.json"))
        self.milliseconds = breakdown(found.events(), wall, on_gpu=self.device.type == "cuda", steps=recorded)
        write_json(self.folder / "profile.json", {"steps": recorded, "milliseconds_a_step": self.milliseconds})

    def table(self) -> Table | None:
        """For the screen; None when no step was recorded."""
        if self.milliseconds is None:
            return None
        whole = sum(self.milliseconds.values())
        table = Table("where a step's time goes", "ms", "%", box=None)
        for name, spent in sorted(self.milliseconds.items(), key=lambda item: -item[1]):
            table.add_row(name, f"{spent:,.2f}", f"{spent / whole:.1%}")
        table.add_row("step", f"{whole:,.2f}", "")
        return table

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)
        self._wait()
        self._profile.start()
        self._began = time.perf_counter()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def breakdown(events: Any, wall: float, *, on_gpu: bool, steps: int) -> dict[str, float]:
    """Milliseconds of a step by class; they add up to the wall time.

    Args:
        events: of torch's profiler.
        wall: milliseconds of all steps together.
    """
    spent: dict[str, float] = defaultdict(float)
    intervals = []
    for event in events:
        if on_gpu != (event.device_type == torch.autograd.DeviceType.CUDA):
            continue
        if on_gpu:
            if getattr(event, "is_user_annotation", False):
                continue  # a range on the time line that holds kernels
            intervals.append((event.time_range.start, event.time_range.end))
            spent[class_of(event.name)] += event.time_range.elapsed_us() / 1e3
        else:
            spent["optimizer" if _in_optimizer(event) else class_of(event.name)] += event.self_cpu_time_total / 1e3
    busy = covered(intervals) / 1e3 if on_gpu else sum(spent.values())
    # Kernels that run beside each other are scaled down to the time that they took together.
    shrink = min(busy, wall) / max(sum(spent.values()), 1e-9)
    found = {name: time_spent * shrink / steps for name, time_spent in spent.items()}
    found[IDLE] = max(wall - busy, 0.0) / steps
    return found


def _in_optimizer(event: Any) -> bool:
    """Whether a CPU operation was called by an optimizer's step, which torch marks."""
    while event is not None:
        if event.name.startswith("Optimizer.step"):
            return True
        event = event.cpu_parent
    return False


def covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def class_of(name: str) -> str:
    """The class of work of a kernel or operation."""
    lowered = name.lower()
    return next((kind for kind, pattern in CLASSES if re.search(pattern, lowered)), ELEMENTWISE)
