"""Generation on a CPU: the engine beside transformers' generate, 32 sequences at once, greedy, fp32.

    python bench/generate_cpu.py [--model rootstock] [--rounds 5] [--receipt FILE]

The prompts are beginnings of documents of the generated clinic world, 8 to 64 tokens. Two works: 32 prompts that are
all continued by 64 tokens, and 128 that are continued to the end of the sentence, 128 tokens at most, which
transformers does in four batches and the engine in 32 slots. Rounds take turns; medians of the wall clock and of the
process's CPU time, which other work on the machine does not stretch. Whether all wrote the same tokens is told.
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

BATCH, PAD = 32, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rootstock")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draft", type=int, default=4, help="tokens to guess, in a third row; 0: none")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    model = load_model(options.model, dtype=torch.float32, device=torch.device("cpu")).eval()
    plain = load_model(options.model, dtype=torch.float32, device=torch.device("cpu")).eval()
    plain.set_attn_implementation("sdpa")
    tokenizer = load_tokenizer(options.model)
    ends = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).strip() in (*".?!。！",)]
    table, rows = [("", "tok/s", "tok/CPU s", "× transformers", "× by CPU time")], []
    for title, count, new, stops in (("64 tokens", BATCH, 64, []), ("a sentence", 4 * BATCH, 128, ends)):
        prompts = clinic_prompts(tokenizer, count)
        works = {"transformers": lambda: of_transformers(plain, prompts, new, stops)}  # noqa: B023
        works["engine"] = lambda: of_engine(model, prompts, new, stops, 0)  # noqa: B023
        if options.draft:
            works[f"{options.draft} guesses"] = lambda: of_engine(model, prompts, new, stops, options.draft)  # noqa: B023
        answers = {name: work() for name, work in works.items()}
        tokens = sum(map(len, answers["engine"]))
        seconds = measure(works, options.rounds)
        slow = seconds["transformers"]
        for name, (wall, cpu) in seconds.items():
            rates, gains = (tokens / wall, tokens / cpu), (slow[0] / wall, slow[1] / cpu)
            table.append((f"{title}, {name}", *(f"{rate:,.0f}" for rate in rates), *(f"{gain:.2f}" for gain in gains)))
            figures = {"tok_s": rates[0], "tok_cpu_s": rates[1], "times": gains[0], "times_cpu": gains[1]}
            equal = sum(a == b for a, b in zip(answers[name], answers["transformers"], strict=True))
            rows.append({"work": title, "by": name, "tokens": tokens, "equal_answers": f"{equal} of {count}"} | figures)
    result = {"bench": f"generate_cpu {options.model}", "threads": torch.get_num_threads(), "rounds": options.rounds}
    finish(result | {"batch": BATCH, "rows": rows}, table, options.receipt)


def clinic_prompts(tokenizer: object, count: int) -> list[list[int]]:
    rng, found = random.Random(0), []
    for sample in worlds.generate("clinic", "documents", count=count, start=0, seed=0):
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


def of_engine(
    model: torch.nn.Module, prompts: list[list[int]], new: int, stops: list[int], draft: int
) -> list[list[int]]:
    requests = open_requests(model, prompts, Decoding(greedy=True, max_new_tokens=new), stops, None, None)
    Engine(model, slots=BATCH, positions=max(map(len, prompts)) + new, draft=draft).run(requests)
    return [request.tokens for request in requests]


@torch.inference_mode()
def of_transformers(model: torch.nn.Module, prompts: list[list[int]], new: int, stops: list[int]) -> list[list[int]]:
    """In batches of prompts in the order in which they come."""
    found = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        width = max(map(len, batch))
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        rows = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=stops or None,
            pad_token_id=PAD,
        )[:, width:].tolist()  # fmt: skip
        found += [row[: next((place for place, token in enumerate(row) if token in stops), new)] for row in rows]
    return found


if __name__ == "__main__":
    main()
