"""A plain training loop over transformers' own Llama, all weights trained in bf16: one JSON line.

    python bench/peers/hf_loop.py stock | liger [--shape 7b] [--rows 4] [--row-tokens 4096]

stock: with recomputation of every layer. liger: Liger's kernels, fused head and loss among them, no recomputation.
Both: SDPA, fused AdamW with bf16 moments and plain rounding, one pass a step, no padding, random weights and tokens.
The median step counts, warm-up left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import torch
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from workload import SHAPES

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setting", choices=("stock", "liger"))
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--row-tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    if options.setting == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = random_model(options.shape, device)
    if options.setting == "stock":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(model.config.vocab_size, (options.steps + WARM_UP, options.rows, options.row_tokens))
    seconds = [step(model, optimizer, rows.to(device)) for rows in ids]
    rate = options.rows * options.row_tokens / median(seconds[WARM_UP:])
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    setting = f"{options.setting}, {options.shape} full, {options.rows} x {options.row_tokens:,}"
    print(json.dumps({"peer": "hf loop", "setting": setting, "useful_tok_s": round(rate), "peak_gib": round(peak, 1)}))


def random_model(shape: str, device: torch.device) -> LlamaForCausalLM:
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return LlamaForCausalLM(config).train()
    finally:
        torch.set_default_dtype(torch.float32)


def step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> float:
    """Seconds of one step."""
    began = time.perf_counter()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
