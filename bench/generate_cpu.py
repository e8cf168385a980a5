"""Generation on a CPU: the engine beside transformers' generate, 32 prompts at once, greedy, fp32.

    python bench/generate_cpu.py [--model rootstock] [--rounds 5] [--receipt FILE]

The prompts are questions of the generated clinic world and their documents' beginnings, 8 to 64 tokens; every answer has
64 tokens. Rounds take turns; the medians are told, of the wall clock and of the process's CPU time, which other work on
the machine does not stretch. Both write the same tokens, which is checked. With `--draft` also the engine that guesses.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from receipt import finish

from graftlm.data import worlds
from graftlm.inference.decoding import Decoding
from graftlm.inference.engine import Engine
from graftlm.inference.request import open_requests
from graftlm.models.loading import load_model, load_tokenizer

BATCH, NEW, PAD = 32, 64, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rootstock")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draft", type=int, default=4, help="tokens to guess, in a third column; 0: none")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    model = load_model(options.model, dtype=torch.float32, device=torch.device("cpu")).eval()
    plain = load_model(options.model, dtype=torch.float32, device=torch.device("cpu")).eval()
    plain.set_attn_implementation("sdpa")
    prompts = clinic_prompts(load_tokenizer(options.model))
    works = {"transformers": lambda: of_transformers(plain, prompts), "engine": lambda: of_engine(model, prompts, 0)}
    if options.draft:
        works[f"engine, {options.draft} guesses"] = lambda: of_engine(model, prompts, options.draft)
    same = works["transformers"]() == works["engine"]()
    seconds = measure(works, options.rounds)
    table, rows = [("", "tok/s", "tok/CPU s", "× transformers", "× by CPU time")], []
    slow = seconds["transformers"]
    for name, (wall, cpu) in seconds.items():
        rates, gains = (BATCH * NEW / wall, BATCH * NEW / cpu), (slow[0] / wall, slow[1] / cpu)
        table.append((name, *(f"{rate:,.0f}" for rate in rates), *(f"{gain:.2f}" for gain in gains)))
        rows.append({"work": name, "tok_s": rates[0], "tok_cpu_s": rates[1], "times": gains[0], "times_cpu": gains[1]})
    result = {"bench": f"generate_cpu {options.model}", "threads": torch.get_num_threads(), "rounds": options.rounds}
    finish(result | {"batch": BATCH, "new": NEW, "same_tokens": same, "rows": rows}, table, options.receipt)


def clinic_prompts(tokenizer: object) -> list[list[int]]:
    rng, found = random.Random(0), []
    for sample in worlds.generate("clinic", "documents", count=BATCH, start=0, seed=0):
        tokens = tokenizer(sample.text, add_special_tokens=False)["input_ids"]  # type: ignore[operator,union-attr]
        found.append(tokens[: rng.randrange(8, 65)])
    return found


def measure(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of wall and CPU seconds of each, a round of all after the other."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: (median(w for w, _ in times), median(c for _, c in times)) for name, times in found.items()}


def of_engine(model: torch.nn.Module, prompts: list[list[int]], draft: int) -> list[list[int]]:
    requests = open_requests(model, prompts, Decoding(greedy=True, max_new_tokens=NEW), [], None, None)
    Engine(model, slots=BATCH, positions=max(map(len, prompts)) + NEW, draft=draft).run(requests)
    return [request.tokens for request in requests]


@torch.inference_mode()
def of_transformers(model: torch.nn.Module, prompts: list[list[int]]) -> list[list[int]]:
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    found = model.generate(  # type: ignore[operator]
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=PAD
    )
    return found[:, width:].tolist()


if __name__ == "__main__":
    main()
