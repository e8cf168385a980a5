"""The memory plan: what a training run will need, said before it starts."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PretrainedConfig

from graftlm.ops.cross_entropy import LOGITS_KEPT

GIB = 2**30

HOST_RUNTIME = int(0.46 * GIB)
"""Python, torch and transformers in host memory (a CUDA context is outside torch's count)."""

HEAP_FULL, HEAP_LORA = 1.25, 1.9
"""Resident bytes a saved byte, measured with glibc, 1 to 12 layers: LoRA frees more temporaries between what
it saves. With MALLOC_MMAP_THRESHOLD_=131072 both are 1.0, at half the speed."""


@dataclass(frozen=True)
class MemoryPlan:
    """Predicted peak in bytes, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    runtime: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.runtime

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {getattr(self, name) / GIB:.2f}" for name in self.__dataclass_fields__)
        return f"{self.total / GIB:.2f} GiB ({parts})"


def plan_memory(
    config: PretrainedConfig,
    *,
    parameters: int,
    trained: int,
    row_tokens: int,
    compute_bytes: int,
    frozen_bytes: float,
    recompute: bool,
    on_cpu: bool,
    layers: int | None = None,
    adapter: Literal["none", "lora", "dora"] = "none",
) -> MemoryPlan:
    """Predict the peak of one training step.

    Args:
        parameters, trained: number of all and of trained parameters.
        row_tokens: tokens of one forward and backward pass.
        compute_bytes: bytes of one activation value (2 under bf16 autocast, else 4).
        frozen_bytes: bytes of one frozen weight. Trained weights, gradients and moments are fp32.
        recompute: gradient checkpointing keeps one hidden state a layer, plus one layer's inside.
        adapter: on every linear layer but the head.
        layers: that the backward pass goes through, the last ones; all when None. Those below keep nothing.

    Autograd saves, a token and layer of a pre-norm decoder with a gated MLP (counted with saved-tensor hooks,
    within 1 %): 8 hidden-sized values (two norms' inputs, normalised inputs and outputs, residual, attention
    output), the queries, keys and values, and 4 MLP-sized ones. Norms work in fp32 even under autocast, and
    autocast keeps a bf16 copy of each trained weight. Logits are kept for at most one chunk. On a CPU the C
    library's heap keeps holes between what was freed and what was saved (`HEAP_FULL`, `HEAP_LORA`).
    """
    text = config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers if layers is None else layers
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    heads = getattr(text, "num_attention_heads", None) or 1
    groups = getattr(text, "num_key_value_heads", None) or heads
    head_size = getattr(text, "head_dim", None) or hidden // heads
    layer_values = 8 * hidden + (heads + 2 * groups) * head_size + 4 * inner
    layer_bytes = layer_values * compute_bytes + 4 * hidden * (4 - compute_bytes)
    saved = layers * hidden * compute_bytes + layer_bytes if recompute else layers * layer_bytes
    logits = (
        min(row_tokens * text.vocab_size * 4, LOGITS_KEPT) * 3
    )  # themselves, their exponentials, their gradient
    heap = 1.0 if not on_cpu else HEAP_FULL if adapter == "none" else HEAP_LORA
    # DoRA keeps each layer's plain output and its adapter's, to scale both.
    outputs = (heads + 2 * groups) * head_size + 2 * hidden + 2 * inner
    scaled = 2 * outputs * compute_bytes if adapter == "dora" else 0
    beside = (1 if recompute else layers) * scaled * (HEAP_FULL if on_cpu else 1.0)
    return MemoryPlan(
        weights=trained * (4 if compute_bytes == 4 else 4 + compute_bytes)
        + int((parameters - trained) * frozen_bytes),
        gradients=trained * 4,
        optimizer=trained * 8,
        activations=int(row_tokens * (saved * heap + beside)) + logits,
        runtime=HOST_RUNTIME if on_cpu else 0,
    )


def available_memory(device: torch.device) -> int:
    """Bytes that a run may use on the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def reset_peak(device: torch.device) -> None:
    """Start a new count, so that a stage's peak is its own and not that of a stage before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # no Linux, or not allowed: the peak stays the whole process's
        return


def peak_memory(device: torch.device) -> int:
    """Peak bytes since `reset_peak`: torch's count on a GPU, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text().splitlines())
        return next((int(words[1]) * 1024 for words in lines if words[0] == "VmHWM:"), _process_peak())
    return _process_peak()


def _process_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
