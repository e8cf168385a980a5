"""The scorer on MMLU with five examples, beside lm-evaluation-harness' `hf` backend.

    python bench/scorer.py --peer-python PYTHON_WITH_LM_EVAL --receipt bench/receipts/scorer.json
    python bench/scorer.py --shape 7b --device cuda --peer-python PYTHON_WITH_LM_EVAL

The requests are those of lm-eval's MMLU: description, five examples, the question, and one of four letters. `rootstock`
is graft's own small model, all others have random weights; all have rootstock's tokenizer. Both sides get the same
weights from the same folder and the same tokens, encoded before the clock runs. The peer's batch size is the best of
--batches on every tenth question. Then both score the questions by turns; medians. What is shared makes ours faster the
more questions a subject has, the peer's rate does not depend on them: with --peer-stride N it scores every N-th only.
On a CPU the rate is of processor seconds with --threads threads, which other work on the machine does not blur; on a
GPU of seconds. fp32 on a CPU, bf16 on a GPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from receipt import finish
from transformers import LlamaConfig, LlamaForCausalLM
from workload import SHAPES

from graftlm.inference.scorer import score_choices
from graftlm.models.loading import ROOTSTOCK, load_model, load_tokenizer

LETTERS = "ABCD"
SUBJECTS = ("business_ethics", "global_facts", "international_law", "management")
RANDOM = SHAPES | {
    "100m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
             "num_key_value_heads": 12, "vocab_size": 32000, "tie_word_embeddings": True},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
           "num_key_value_heads": 4, "vocab_size": 32000},
}  # fmt: skip
POSITIONS = 4096
Request = tuple[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("GRAFT_DATA", "../shared/data")))
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS)
    parser.add_argument("--questions", type=int, help="of each subject; all of them when left out")
    parser.add_argument("--shape", choices=[ROOTSTOCK, *RANDOM], default=ROOTSTOCK)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", nargs="+", default=["auto", "8", "32"], help="of the peer")
    parser.add_argument("--peer-stride", type=int, default=1, help="the peer scores every so many questions")
    parser.add_argument("--peer-python", default=os.environ.get("GRAFT_PEER_PYTHON"), help="one with lm-eval")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.data / "eval/mmlu"
    requests = [one for subject in options.subjects for one in mmlu(folder, subject, options.questions)]
    with tempfile.TemporaryDirectory() as scratch:
        write_model(options.shape, options.device, Path(scratch))
        measure(options, requests, Path(scratch))


def measure(options: argparse.Namespace, requests: list[Request], folder: Path) -> None:
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    model = load_model(str(folder), dtype=getattr(torch, dtype), device=torch.device(options.device)).eval()
    clock = "seconds" if options.device == "cuda" else "processor"
    peer = Peer(options, requests, folder, dtype) if options.peer_python else None
    if peer is None:
        print("no peer: give --peer-python, an interpreter that has lm-eval")
    tokens = peer.tokens if peer else encoded(requests, folder)
    score(model, tokens[: 4 * len(LETTERS)])  # warm
    tried: dict[str, float] = {}
    for batch in options.batches if peer else ():
        tried[batch] = peer.score(batch, max(10, options.peer_stride))[clock]
    times: dict[str, list[float]] = {"ours": [], "lm-eval": []}
    theirs: dict[str, Any] = {}
    for _ in range(options.rounds):
        found, taken = score(model, tokens)
        times["ours"].append(taken[clock])
        if peer:
            theirs = peer.score(min(tried, key=tried.__getitem__), options.peer_stride)
            times["lm-eval"].append(theirs[clock])
            print(f"ours {times['ours'][-1]:.2f} s, lm-eval {times['lm-eval'][-1]:.2f} s", flush=True)
    result = {
        "bench": f"scorer {options.shape}", "device": options.device, "dtype": dtype, "threads": options.threads,
        "subjects": list(options.subjects), "tokens": sum(len(one) + len(other) - 1 for one, other in tokens),
        "clock": clock, "times": times, "tried": tried,
    }  # fmt: skip
    if peer:
        result["peer"] = f"lm_eval {peer.version}"
        peer.close()
    report(options, result, found, theirs)


def report(options: argparse.Namespace, result: dict[str, Any], ours: list[float], theirs: dict[str, Any]) -> None:
    counts = {"ours": len(ours) // len(LETTERS), "lm-eval": len(theirs.get("numbers", ())) // len(LETTERS)}
    rate = {name: counts[name] / statistics.median(some) for name, some in result["times"].items() if some}
    table = [(f"{options.shape}, {counts['ours']} questions", "items/s", f"{result['clock']} s", "of questions")]
    for name, speed in rate.items():
        table.append((name, f"{speed:.2f}", f"{counts[name] / speed:.2f}", str(counts[name])))
    result |= {"items": counts, "items_s": rate}
    if theirs:
        pairs = [(ours[n], float(other)) for n, (other, _) in zip(theirs["numbers"], theirs["found"], strict=True)]
        away = max(abs(one - other) for one, other in pairs)
        both = [choices(side) for side in zip(*pairs, strict=True)]
        same = sum(one == other for one, other in zip(*both, strict=True)) / len(both[0])
        best, ratio = min(result["tried"], key=result["tried"].__getitem__), rate["ours"] / rate["lm-eval"]
        table += [
            ("ratio", f"{ratio:.2f}", "", ""),
            ("lm-eval's batch size", best, "", f"of {', '.join(result['tried'])}"),
            ("largest |Δ log p|", f"{away:.1e}", "", ""),
            ("equal choices", f"{same:.1%}", "", ""),
        ]
        result |= {"ratio": ratio, "batch": best, "largest_difference": away, "equal_choices": same}
    finish(result, table, options.receipt)


def score(model: torch.nn.Module, tokens: Sequence[Sequence[list[int]]]) -> tuple[list[float], dict[str, float]]:
    """log p of each request, those of a question side by side, and what it took."""
    firsts = range(0, len(tokens), len(LETTERS))
    contexts = [tokens[first][0] for first in firsts]
    continuations = [[after for _, after in tokens[first : first + len(LETTERS)]] for first in firsts]
    began, spent = time.perf_counter(), time.process_time()
    scores = score_choices(model, contexts, continuations, pad_id=0)
    taken = {"seconds": time.perf_counter() - began, "processor": time.process_time() - spent}
    return [one.log_probability for row in scores for one in row], taken


def choices(log_ps: Sequence[float]) -> list[int]:
    """The likeliest letter of each question."""
    fours = [log_ps[first : first + len(LETTERS)] for first in range(0, len(log_ps), len(LETTERS))]
    return [max(range(len(four)), key=four.__getitem__) for four in fours]


def mmlu(folder: Path, subject: str, questions: int | None) -> list[Request]:
    """(context, continuation) of each letter of each question."""
    examples, asked = (read(folder / part / f"{subject}_{part}.csv") for part in ("dev", "test"))
    header = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    header += "".join(f"{ask(row)} {LETTERS[int(row['answer'])]}\n\n" for row in examples[:5])
    return [(header + ask(row), f" {letter}") for row in asked[:questions] for letter in LETTERS]


def read(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        raise SystemExit(f"{file} is absent; give --data, a folder that has eval/mmlu/dev and test")
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def ask(row: dict[str, str]) -> str:
    choices = "".join(f"{letter}. {row[f'choice{n}']}\n" for n, letter in enumerate(LETTERS))
    return f"{row['question'].strip()}\n{choices}Answer:"


def write_model(shape: str, device: str, folder: Path) -> None:
    """The model, with room for five examples, and the tokenizer."""
    if shape == ROOTSTOCK:
        model = load_model(ROOTSTOCK, dtype=torch.float32, device=torch.device("cpu"))
        model.config.max_position_embeddings = POSITIONS
    else:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**RANDOM[shape], max_position_embeddings=POSITIONS))
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    load_tokenizer(ROOTSTOCK).save_pretrained(folder)


def encoded(requests: list[Request], folder: Path) -> list[tuple[list[int], list[int]]]:
    """Tokens of each request as lm-eval makes them: of the whole, cut where the context's own end."""
    tokenizer = load_tokenizer(str(folder))
    befores = tokenizer([context for context, _ in requests])["input_ids"]
    wholes = tokenizer([context + option for context, option in requests])["input_ids"]
    return [(before, whole[len(before) :]) for before, whole in zip(befores, wholes, strict=True)]


class Peer:
    """lm-eval in a process of its own, which waits while ours runs."""

    def __init__(self, options: argparse.Namespace, requests: list[Request], folder: Path, dtype: str) -> None:
        file = folder / "requests.json"
        file.write_text(json.dumps(requests), encoding="utf-8")
        script = Path(__file__).parent / "peers/lm_eval.py"
        command = [options.peer_python, str(script), str(folder), str(file)]
        command += [options.device, dtype, str(options.threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        first = self._read()
        self.version, self.tokens = first["version"], first["tokens"]

    def score(self, batch: str, stride: int) -> dict[str, Any]:
        """What every `stride`-th question took, and its requests' scores."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{batch} {stride}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        sys.exit("the peer failed; is lm-eval installed in its interpreter?")


if __name__ == "__main__":
    main()
