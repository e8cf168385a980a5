"""Training speed on one GPU: useful tokens a second, beside peers and the limit that the card's matmul rate sets.

    python bench/train.py lora --peers peers.jsonl --receipt bench/receipts/train_lora.json
    python bench/train.py full --receipt bench/receipts/train_full.json
    python bench/train.py small

`lora`: r16 on all linear layers, documents of mixed length (mean 335, at most 2,048), bf16 and e4m3. `full`: documents
of 4,096 tokens, all weights in bf16 (stochastic rounding) with bf16 moments. `small`: 0.5B with a vocabulary of 152k.
`qlora`: eight layers of the 7B shape on quantised weights, beside LoRA.
Random weights and tokens. Floor: the bf16 matmul rate that the card sustains for seconds (under its power limit) ÷
the operations of a token; the rate of a short burst is given, too. Each configuration runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from receipt import finish
from workload import FORMULA, Work, gemm_rates, read_peers, timed

SETS: dict[str, list[Work]] = {
    "lora": [
        Work("7b"),
        Work("7b", float8=True),
        Work("8b"),
        Work("8b", float8=True),
    ],
    "full": [
        Work("7b", "full", length=4096, passes=2),
        Work("7b", "full", float8=True, length=4096, passes=2),
        Work("8b", "full", length=4096, row_tokens=8192, passes=4),
        Work("8b", "full", float8=True, length=4096, row_tokens=8192, passes=4),
    ],
    "qlora": [
        Work("7b-8", row_tokens=4096),
        Work("7b-8", row_tokens=4096, bits=4),
        Work("7b-8", row_tokens=4096, bits=8),
    ],
    "small": [
        Work("0.5b", "full", length=4096, row_tokens=32_768),
        Work("0.5b", "full", row_tokens=32_768),
    ],
    "tiny": [
        Work("tiny", row_tokens=2048, compiled=False),
        Work("tiny", "full", length=512, row_tokens=2048, compiled=False),
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of configurations")
    parser.add_argument("--peers", type=Path, help="what bench/peers/* printed on this card")
    parser.add_argument("--receipt", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = timed(SETS[options.set][options.one], device)
        print(json.dumps(asdict(found) | {"tflops": found.tflops}))
        return
    burst, sustained = gemm_rates() if torch.cuda.is_available() else (0.0, 0.0)
    print(f"bf16 matmul: {burst:.0f} TFLOP/s in a burst, {sustained:.0f} sustained; operations of a token: {FORMULA}")
    table = [("", "useful tok/s", "TFLOP/s", "of sustained", "of burst", "GiB", "predicted", "ratio")]
    rows: list[dict[str, Any]] = []
    for number, work in enumerate(SETS[options.set]):
        if options.only and number not in options.only:
            continue
        found = in_own_process(options.set, number)
        if found is None:
            table.append((str(work), "failed", *[""] * 6))
            continue
        shares = [found["tflops"] / rate if rate else 0.0 for rate in (sustained, burst)]
        memory = found["predicted_gib"] / found["peak_gib"] if found["peak_gib"] else 0.0
        table.append(
            (
                str(work), f"{found['useful']:,.0f}", f"{found['tflops']:.0f}", f"{shares[0]:.0%}", f"{shares[1]:.0%}",
                f"{found['peak_gib']:.1f}", f"{found['predicted_gib']:.1f}", f"{memory:.3f}",
            )
        )  # fmt: skip
        print("  ".join(table[-1]), flush=True)  # a run that is broken off keeps what it had
        rows.append({"work": str(work), **found, "of_sustained": shares[0], "of_burst": shares[1]})
    peers = read_peers(options.peers)
    for peer in peers:
        best = rows[0]["useful"] / peer["useful_tok_s"] if rows else 0.0
        name = f"{peer['peer']}: {peer['setting']}"
        speed, memory = f"{peer['useful_tok_s']:,}", f"{peer['peak_gib']:.1f}"
        table.append((name, speed, "", "", "", memory, "", f"ours {best:.2f}x"))
    result = {"bench": f"train {options.set}", "gemm_burst": burst, "gemm_sustained": sustained, "formula": FORMULA}
    finish(result | {"rows": rows, "peers": peers}, table, options.receipt)


def in_own_process(name: str, number: int) -> dict[str, Any] | None:
    """What a configuration gave; None, and its last words, where it failed."""
    done = subprocess.run(
        [sys.executable, __file__, name, "--one", str(number)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stderr[-1500:])
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
