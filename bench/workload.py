"""What the speed benches share: model shapes, rows, the timed run, and how a result is printed."""

from __future__ import annotations

import datetime
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from graftlm.data.encode import Encoded
from graftlm.data.packing import PackingPlan, pack_samples
from graftlm.data.store import TokenStore
from graftlm.models.trunk import prepare_trunk
from graftlm.objectives.causal_lm import CausalLM
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
"""LLaMA-2-7B, Llama-3-8B, Qwen2.5-0.5B; tiny tries a bench on a CPU."""

WARM_UP = 4
"""Steps before the clock starts: compilation, the allocator, the optimizer's state."""


def random_model(shape: str, device: torch.device) -> LlamaForCausalLM:
    """Random weights in bf16, ready for packed rows."""
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


def plan_of(lengths: list[int], row_tokens: int, vocabulary: int, rows: int) -> PackingPlan:
    """The first `rows` packed rows of random documents; every token is a target."""
    rng = np.random.default_rng(0)
    documents = [Encoded(rng.integers(5, vocabulary, n, dtype=np.uint32), np.ones(n, np.bool_)) for n in lengths]
    plan = pack_samples(TokenStore.in_memory(documents), row_tokens)
    assert plan.rows >= rows, "too few documents for the rows of this bench"
    return PackingPlan(plan.mixture, plan.order, plan.row_edges[: rows + 1], row_tokens, 1)


@dataclass(frozen=True)
class Timed:
    """What a timed training run found, warm-up left out.

    Attributes:
        useful: non-padding tokens a second, from the median step.
        seconds: of each step.
        squares: Σ over the documents of a step of their squared length, a step; for the attention's FLOPs.
        peak_gib: of GPU memory.
    """

    useful: float
    seconds: list[float]
    squares: float
    peak_gib: float
    losses: list[float] = field(default_factory=list)


def timed_training(model: torch.nn.Module, plan: PackingPlan, *, learning_rate: float = 1e-5, **settings: Any) -> Timed:
    """Train one step a row with graft's own trainer, each step timed by itself."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    marks = []

    def on_step(_: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    trainer = Trainer(
        model, CausalLM(), plan, TrainingSettings(learning_rate, pad_rows=True, log_every=1000, **settings)
    )
    record = trainer.fit(on_step)
    seconds = np.diff(marks)[WARM_UP - 1 :].tolist()
    lengths = plan.mixture.lengths[plan.order]
    useful = np.add.reduceat(lengths, plan.row_edges[:-1])[WARM_UP:]
    squares = np.add.reduceat(lengths.astype(float) ** 2, plan.row_edges[:-1])[WARM_UP:]
    rate = median(u / s for u, s in zip(useful, seconds, strict=True))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return Timed(rate, seconds, float(squares.mean()), peak, [entry["loss"] for entry in record.losses])


def model_flops(model: torch.nn.Module, timed: Timed, *, frozen: bool) -> float:
    """FLOP of one useful token: 6 (frozen weights: 4) a weight that is multiplied, and causal attention.

    Causal attention of a document of n tokens: 4·n²/2 FLOP a head and head dimension forward, twice that backward.
    """
    config = model.config if hasattr(model, "config") else model.get_base_model().config  # type: ignore[operator]
    names = [(name, p) for name, p in model.named_parameters() if "lora_" not in name]
    tied = bool(config.tie_word_embeddings)
    matmul = sum(p.numel() for name, p in names if p.ndim > 1 and ("embed_tokens" not in name or tied))
    head_size = config.hidden_size // config.num_attention_heads
    tokens = timed.useful * median(timed.seconds)
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * head_size * timed.squares / tokens
    return (4 if frozen else 6) * matmul + attention


def gemm_rate(seconds: float = 3.0, size: tuple[int, int, int] = (16384, 4096, 11008)) -> tuple[float, float]:
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
    short, began, found = rate(10), time.perf_counter(), []
    while time.perf_counter() - began < seconds:
        found.append(rate(50))
    return short, median(found[len(found) // 2 :])


def report(bench: str, rows: list[dict[str, Any]], receipt: Path | None) -> None:
    """A table, then one JSON line, which is written to `receipt` as well."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_shown(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    for line in [columns, *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    result = {
        "bench": bench,
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__},
        "rows": rows,
    }  # fmt: skip
    if receipt is not None:
        receipt.parent.mkdir(parents=True, exist_ok=True)
        receipt.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    sys.stdout.flush()


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def main_work(work: Callable[[], None]) -> None:
    torch.set_float32_matmul_precision("high")
    work()
