"""Generation on one GPU: one request and 256 at once, beside the limit that the memory sets and transformers' generate.

    python bench/generate.py [--shape 7b] [--receipt FILE]      needs a CUDA device

Random weights in bf16. One request: 64 tokens of prompt, 256 new ones; limit: bandwidth of a large copy ÷ bytes of
the weights that are multiplied. Many: 256 prompts of 32 to 232 tokens, 128 new tokens each; limit: weights once a
step and every sequence's keys and values, prompts at the rate of large products. The engine is warm: compiled, its
graphs captured.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from optimizer import bandwidth
from receipt import finish
from workload import SHAPES, gemm_rates, random_model

from graftlm.inference.decoding import Decoding
from graftlm.inference.engine import Engine
from graftlm.inference.request import open_requests
from graftlm.models.quant_linear import quantised_layers
from graftlm.models.weight_quantisation import Rounding, quantise_model

PROMPT, ANSWER, MANY, NEW = 64, 256, 256, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="of the decoder layers' weights, in groups of 64")
    parser.add_argument("--only-one", action="store_true", help="leave out the 256 requests")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    model = random_model(options.shape, torch.device("cuda")).eval()
    if options.bits:
        quantise_model(model, Rounding("absmax", options.bits), None)
    speed, (_, products) = bandwidth(), gemm_rates(1.0)
    config = model.config
    vocabulary = config.vocab_size
    multiplied = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    weight_bytes = 2 * multiplied
    if options.bits:
        packed = sum(module.in_features * module.out_features for module in quantised_layers(model).values())
        multiplied, weight_bytes = multiplied + packed, weight_bytes + packed * (options.bits / 8 + 2 / 64)
    states = 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # bytes of a position
    rng = random.Random(0)
    single = [[rng.randrange(5, vocabulary) for _ in range(PROMPT)]]
    many = [[rng.randrange(5, vocabulary) for _ in range(rng.randrange(32, 233))] for _ in range(MANY)]
    table, rows = [("", "tok/s", "limit", "of limit")], []

    def note(name: str, found: float, limit: float) -> None:
        table.append((name, f"{found:,.0f}", f"{limit:,.0f}", f"{found / limit:.0%}"))
        print("  ".join(table[-1]), flush=True)
        rows.append({"work": name, "tok_s": found, "limit": limit})

    one_limit = speed / weight_bytes
    works = [("one request", single, ANSWER, 1), (f"{MANY} requests", many, NEW, MANY)]
    for name, prompts, new, slots in works[: 1 if options.only_one else 2]:
        engine = Engine(model, slots=slots, positions=512, compile=not options.no_compile)
        seconds = min(timed(engine, model, prompts, new) for _ in range(3))
        if slots == 1:
            note(name, new / seconds, one_limit)
        else:
            tokens = sum(len(prompt) for prompt in prompts)
            read = new * weight_bytes + sum(states * (len(p) * new + new * new / 2) for p in prompts)
            limit = MANY * new / (read / speed + 2 * multiplied * tokens / products / 1e12)
            note(name, MANY * new / seconds, limit)
            print(f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        del engine
        torch.cuda.empty_cache()
    if not options.no_peer:
        note("transformers, one request", transformers_rate(model, single[0]), one_limit)
    result = {"bench": f"generate {options.shape}", "bits": options.bits or 16, "bandwidth": speed, "rows": rows}
    finish(result, table, options.receipt)


def timed(engine: Engine, model: torch.nn.Module, prompts: list[list[int]], new: int) -> float:
    """Seconds from the prompts to the last token."""
    requests = open_requests(model, prompts, Decoding(greedy=True, max_new_tokens=new), [], None, None)
    torch.cuda.synchronize()
    began = time.perf_counter()
    engine.run(requests)
    seconds = time.perf_counter() - began
    assert all(len(request.tokens) == new for request in requests)
    return seconds


@torch.inference_mode()
def transformers_rate(model: torch.nn.Module, prompt: list[int], new: int = 32) -> float:
    ids = torch.tensor([prompt], device="cuda")
    model.set_attn_implementation("sdpa")
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return new / seconds


if __name__ == "__main__":
    main()
