"""What the speed benches share: model shapes, rows of documents, the timed run, floors and peers."""

from __future__ import annotations

import json
import random
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig

from graftlm.data.encode import Encoded
from graftlm.data.packing import PackingPlan, pack_samples
from graftlm.data.store import TokenStore
from graftlm.models.acceleration import accelerate, compiled_layers
from graftlm.models.adapters import make_trainable, parameter_counts
from graftlm.models.loading import load_model
from graftlm.models.quantised import Bits, frozen_bytes
from graftlm.models.trunk import causal_lm, prepare_trunk
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.accelerated_memory import Recompute, plan_accelerated
from graftlm.training.memory import MemoryPlan, plan_memory
from graftlm.training.meter import attention_width
from graftlm.training.optimizer import kept_bytes
from graftlm.training.trainer import Trainer, TrainingSettings

SHAPES: dict[str, dict[str, Any]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
               "num_key_value_heads": 32, "vocab_size": 32000},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
               "num_key_value_heads": 8, "vocab_size": 128256},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                 "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "vocab_size": 512},
}  # fmt: skip
"""LLaMA-2-7B, Llama-3-8B, Qwen2.5-0.5B; tiny tries a bench on a CPU. Those with -8 are cut to eight layers."""
SHAPES |= {f"{name}-8": SHAPES[name] | {"num_hidden_layers": 8} for name in ("7b", "8b")}

WARM_UP = 4
"""Steps before the clock starts: compilation, the allocator, the optimizer's state."""


def random_model(shape: str, device: torch.device, bits: Bits | None = None) -> LlamaForCausalLM:
    """Random weights in bf16, ready for packed rows; by way of a folder where they are to be quantised."""
    if bits is not None:
        with tempfile.TemporaryDirectory() as folder:
            random_model(shape, device).save_pretrained(folder)
            return load_model(folder, dtype=torch.bfloat16, device=device, bits=bits)
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    prepare_trunk(model)
    return model


def mixed_lengths(count: int, longest: int = 2048) -> list[int]:
    """Lengths of instruction samples: log-normal, mean 335, 16 to 2,048."""
    rng = random.Random(0)
    return [min(longest, max(16, int(rng.lognormvariate(5.5, 0.8)))) for _ in range(count)]


def uniform_lengths(count: int, length: int) -> list[int]:
    return [length] * count


@dataclass(frozen=True)
class Work:
    """One configuration to be timed.

    Attributes:
        lengths: of documents; None: of mixed length, else all of this one.
        row_tokens: tokens of one forward and backward pass.
        passes: passes of one optimizer step.
        recompute: `cheap` recomputes all but the matmuls.
        bits: of the frozen weights, where they are quantised: QLoRA, whose layers are not compiled.
    """

    shape: str
    method: str = "lora"
    float8: bool = False
    length: int | None = None
    row_tokens: int = 16_384
    passes: int = 1
    recompute: Recompute = "none"
    compiled: bool = True
    bits: Bits | None = None

    def __str__(self) -> str:
        kind = f"rows of {self.length:,}" if self.length else "mixed lengths"
        bits = {4: "nf4", 8: "int8"}[self.bits] if self.bits else "e4m3" if self.float8 else "bf16"
        passes = f"{self.passes} x {self.row_tokens:,}"
        again = "" if self.recompute == "none" else f", recompute {self.recompute}"
        return f"{self.shape} {self.method} {bits}, {kind}, {passes}{again}"


@dataclass(frozen=True)
class Timed:
    """What a timed run found, warm-up left out.

    Attributes:
        useful: non-padding tokens a second, from the median step.
        operations: FLOP of a useful token, by the formula in `floating_point_operations`.
        predicted_gib, peak_gib: of GPU memory.
        matmul: parameters that take part in products.
    """

    useful: float
    operations: float
    predicted_gib: float
    peak_gib: float
    matmul: int

    @property
    def tflops(self) -> float:
        return self.useful * self.operations / 1e12


def timed(work: Work, device: torch.device, steps: int = 6) -> Timed:
    """Train `steps` steps after the warm-up with graft's own trainer, each timed by itself.

    Full training: weights in bf16, rounded stochastically, and moments in bf16.
    """
    model: torch.nn.Module = random_model(work.shape, device, work.bits)
    if work.method == "lora":
        model = make_trainable(model, "lora", rank=16, alpha=16)
    else:
        model.requires_grad_(True)
    if work.bits is None:
        accelerate(model, float8=work.float8)
    counts = parameter_counts(model)
    plan = plan_of(work, WARM_UP + steps)
    moments = "fp32" if work.method == "lora" else "bf16"
    settings = TrainingSettings(1e-5, pad_rows=True, log_every=1000, moments=moments, bf16=work.bits is not None)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    marks: list[float] = []

    def on_step(_: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    trainer = Trainer(model, CausalLM(), plan, settings)
    compiled = work.compiled and work.bits is None
    with compiled_layers(model, cheap_again=work.recompute == "cheap") if compiled else nullcontext():
        trainer.fit(on_step)
    lengths = plan.mixture.lengths[plan.order]
    edges = plan.row_edges[:-1:work.passes]
    useful = np.add.reduceat(lengths, edges)[WARM_UP:]
    rates = [n / s for n, s in zip(useful, np.diff(marks)[WARM_UP - 1 :], strict=True)]
    needed = planned(work, causal_lm(model).config, counts, kept_bytes(moments, "stochastic"))
    return Timed(
        useful=median(rates),
        operations=floating_point_operations(model, lengths, counts["matmul"], frozen=work.method == "lora"),
        predicted_gib=needed.total / 2**30,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0,
        matmul=counts["matmul"],
    )


def planned(work: Work, config: PretrainedConfig, counts: dict[str, int], moment_bytes: float) -> MemoryPlan:
    """The memory plan that a recipe would make."""
    if work.bits is not None:
        return plan_memory(
            config,
            parameters=counts["all"],
            trained=counts["trained"],
            row_tokens=work.row_tokens,
            compute_bytes=2,
            frozen_bytes=frozen_bytes(config, counts["all"], work.bits, 2),
            recompute=False,
            on_cpu=False,
        )
    return plan_accelerated(
        config,
        parameters=counts["all"],
        trained=counts["trained"],
        tokens=work.row_tokens,
        weight_bytes=2,
        moment_bytes=moment_bytes,
        float8=work.float8,
        recompute=work.recompute,
        accumulates=work.passes > 1,
    )


def plan_of(work: Work, steps: int) -> PackingPlan:
    """As many rows as the steps need, of random tokens, all of them targets."""
    rng, rows = np.random.default_rng(0), steps * work.passes
    if work.length is None:
        lengths = mixed_lengths(rows * work.row_tokens // 300, min(2048, work.row_tokens))
    else:
        lengths = uniform_lengths(rows * work.row_tokens // work.length, work.length)
    vocabulary = SHAPES[work.shape]["vocab_size"]
    documents = [Encoded(rng.integers(5, vocabulary, n, dtype=np.uint32), np.ones(n, np.bool_)) for n in lengths]
    plan = pack_samples(TokenStore.in_memory(documents), work.row_tokens)
    assert plan.rows >= rows, "too few documents for the rows of this bench"
    order = plan.order[: plan.row_edges[rows]]
    return PackingPlan(plan.mixture, order, plan.row_edges[: rows + 1], work.row_tokens, work.passes)


FORMULA = "(6, frozen weights 4) x weights that are multiplied + 12 x layers x heads x head size x mean context"


def floating_point_operations(
    model: torch.nn.Module, lengths: np.ndarray, matmul: int, *, frozen: bool
) -> float:
    """FLOP of one token: `FORMULA`. Mean context: tokens that a position attends to, itself included."""
    context = float((lengths * (lengths + 1)).sum() / 2 / lengths.sum())
    return (4 if frozen else 6) * matmul + 12 * attention_width(causal_lm(model).config) * context


def gemm_rates(seconds: float = 3.0, size: tuple[int, int, int] = (16384, 4096, 11008)) -> tuple[float, float]:
    """TFLOP/s of bf16 products on random data: of a burst on a cool card, and sustained under its power limit."""
    T, K, N = size
    x, w = (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) for shape in ((T, K), (K, N)))

    def rate(times: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            x @ w
        torch.cuda.synchronize()
        return times * 2 * T * K * N / (time.perf_counter() - began) / 1e12

    rate(3)
    burst, began, found = rate(10), time.perf_counter(), []
    while time.perf_counter() - began < seconds:
        found.append(rate(50))
    return burst, median(found[len(found) // 2 :])


def read_peers(path: Path | None) -> list[dict[str, Any]]:
    """The JSON lines that bench/peers/* printed; lines that are none are passed over."""
    if path is None or not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"peer"')]
