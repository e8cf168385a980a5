"""What the fast paths cost in accuracy: losses against fp32, and 200 steps in 8 bits against 200 in bf16, on real text.

    python bench/accuracy.py --text FILE [FILE ...] --receipt bench/receipts/accuracy.json

A byte-level Llama of 19M parameters learns the text from random weights, in full; then an adapter learns a second half
of it on the trained weights. Each in bf16 and in e4m3, from the same seeds. Curves are means of 20 steps. At the end
the trained weights' loss on held-out text by the plain model in fp32, and by the fast paths.
"""

from __future__ import annotations

import argparse
import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from receipt import finish
from transformers import LlamaConfig, LlamaForCausalLM

from graftlm.data.encode import Encoded
from graftlm.data.packing import PackingPlan, pack_samples
from graftlm.data.store import TokenStore
from graftlm.models.acceleration import accelerate, compiled_layers
from graftlm.models.adapters import make_trainable
from graftlm.models.trunk import prepare_trunk
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.trainer import Trainer, TrainingSettings

DOCUMENT, ROW = 1000, 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    text = np.frombuffer(b"".join(path.read_bytes() for path in options.text), np.uint8)
    first, second, held_out = np.split(text, [int(0.6 * len(text)), int(0.95 * len(text))])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    start = random_model(device)
    table, result = [("", "largest difference", "last loss", "last loss, e4m3")], {}
    trained = start
    for method, part, rate in (("full", first, 1e-3), ("lora", second, 1e-3)):
        curves = {}
        base = copy.deepcopy(trained)
        for float8 in (False, True):
            model, curves[float8] = learn(base, method, float8, plan_of(part, options.steps), rate)
            trained = model if method == "full" and not float8 else trained
        difference = float(np.abs(curves[True] / curves[False] - 1).max())
        table.append((f"e4m3 against bf16, {method}", f"{difference:.2%}", f"{curves[False][-1]:.4f}",
                      f"{curves[True][-1]:.4f}"))  # fmt: skip
        result[method] = {"largest": difference, "bf16": curves[False].tolist(), "e4m3": curves[True].tolist()}
    exact = loss(trained.float(), held_out, fast=False)
    for name, float8 in (("bf16", False), ("e4m3", True)):
        model = copy.deepcopy(trained).bfloat16()
        prepare_trunk(model)
        accelerate(model.requires_grad_(True), float8=float8)
        found = loss(model, held_out, fast=True)
        table.append((f"loss by the fast path in {name} against fp32", f"{abs(found / exact - 1):.1e}", f"{exact:.5f}",
                      f"{found:.5f}"))  # fmt: skip
        result[f"loss_{name}"] = {"relative": abs(found / exact - 1), "fp32": exact, "fast": found}
    finish({"bench": "accuracy", "steps": options.steps, **result}, table, options.receipt)


def random_model(device: torch.device) -> LlamaForCausalLM:
    torch.manual_seed(0)
    small = device.type == "cpu"  # to try the bench
    config = LlamaConfig(
        vocab_size=256, hidden_size=64 if small else 512, intermediate_size=96 if small else 1408,
        num_hidden_layers=2 if small else 6, num_attention_heads=2 if small else 4, num_key_value_heads=2,
        max_position_embeddings=DOCUMENT,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(device=device, dtype=torch.bfloat16)
    prepare_trunk(model)
    return model


def plan_of(text: np.ndarray, rows: int) -> PackingPlan:
    """Rows of documents of random place and length, up to 1,000 bytes."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(100, DOCUMENT, rows * ROW // 550 + 40)
    places = rng.integers(0, len(text) - DOCUMENT, len(lengths))
    documents = [
        Encoded(text[a : a + n].astype(np.uint32), np.ones(n, np.bool_)) for a, n in zip(places, lengths, strict=True)
    ]
    plan = pack_samples(TokenStore.in_memory(documents), ROW)
    rows = min(rows, plan.rows)
    return PackingPlan(plan.mixture, plan.order[: plan.row_edges[rows]], plan.row_edges[: rows + 1], ROW, 1)


def learn(
    base: LlamaForCausalLM, method: str, float8: bool, plan: PackingPlan, rate: float
) -> tuple[LlamaForCausalLM, np.ndarray]:
    """The model after training, and its losses a token, means of 20 steps."""
    model: Any = copy.deepcopy(base)
    prepare_trunk(model)
    if method == "lora":
        torch.manual_seed(0)
        model = make_trainable(model, "lora", rank=16, alpha=32)
    else:
        model.requires_grad_(True)
    accelerate(model, float8=float8)
    settings = TrainingSettings(rate, log_every=20, pad_rows=True)
    cuda = next(model.parameters()).is_cuda
    with compiled_layers(model) if cuda else nullcontext():
        record = Trainer(model, CausalLM(), plan, settings).fit()
    torch._dynamo.reset()
    return model, np.array([entry["loss"] for entry in record.losses])


@torch.no_grad()
def loss(model: LlamaForCausalLM, text: np.ndarray, *, fast: bool) -> float:
    """Nats a token on the first rows of the text."""
    device = next(model.parameters()).device
    plan, objective = plan_of(text, 4), CausalLM()
    if not fast:
        prepare_trunk(model)
    found = []
    for number in range(plan.rows):
        row = plan.row(number, pad_to=ROW).to(device)
        with torch.enable_grad() if fast else nullcontext():
            found.append((float(objective(model, row).total.detach()), row.target_count))
    return sum(total for total, _ in found) / sum(count for _, count in found)


if __name__ == "__main__":
    main()
