"""Packing a million samples into rows: seconds and fill, beside TRL's best fit decreasing and a sort of the lengths.

    python bench/pack.py --peer-python PYTHON_WITH_TRL --receipt bench/receipts/pack.json

Lengths are drawn from a log-normal distribution of mean 335 tokens (sigma 1), at most one row. Floor: numpy's sort of
the lengths. Peer: trl.pack_dataset, strategy "bfd" (bench/peers/trl_pack.py), over one byte a token; the ratio is to
its better way. It also copies the tokens into rows, which ours does while training. Ours: `pack` of one block, and of
three whose shares are kept; windows keep the order of the mix, which the peer's one batch does not. By turns, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from receipt import finish

from graftlm.data.mixing import Mixture
from graftlm.data.packing import pack

MEAN = 335


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--row-tokens", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-python", default=os.environ.get("GRAFT_PEER_PYTHON"), help="an interpreter with trl")
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    table = [(f"{options.samples:,} samples", "seconds", "of the peer", "fill")]
    result: dict[str, Any] = {"bench": "pack", "samples": options.samples}
    for row_tokens in options.row_tokens:
        found = measure(options, row_tokens)
        best = min((one["seconds"] for name, one in found.items() if name.startswith("peer")), default=None)
        for name, one in found.items():
            ratio = f"{best / one['seconds']:.2f}×" if best else "–"
            fill = f"{one['fill']:.4f}" if one["fill"] else "–"
            table.append((f"rows of {row_tokens:,}: {name}", f"{one['seconds']:.3f}", ratio, fill))
        result[str(row_tokens)] = found | {"ratio": best / found["ours, one block"]["seconds"] if best else None}
    if not options.peer_python:
        print("no peer: give --peer-python, an interpreter that has trl")
    finish(result, table, options.receipt)


def measure(options: argparse.Namespace, row_tokens: int) -> dict[str, dict[str, float]]:
    """Median seconds and the fill of each way."""
    lengths = drawn_lengths(options.samples, row_tokens)
    seconds: dict[str, list[float]] = {}
    fill: dict[str, float] = {}
    for _ in range(options.repeats):
        start = time.perf_counter()
        np.sort(lengths)
        seconds.setdefault("floor, a sort of the lengths", []).append(time.perf_counter() - start)
        for name, blocks in (("ours, one block", 1), ("ours, three blocks", 3)):
            mixture = mixed(lengths, blocks)
            start = time.perf_counter()
            fill[name] = pack(mixture, row_tokens=row_tokens).fill
            seconds.setdefault(name, []).append(time.perf_counter() - start)
        for name, one in (peer(options.peer_python, lengths, row_tokens) if options.peer_python else {}).items():
            seconds.setdefault(name, []).append(one["seconds"])
            fill[name] = one["fill"]
    return {
        name: {"seconds": statistics.median(times), "fill": fill.get(name, 0.0)} for name, times in seconds.items()
    }


def drawn_lengths(samples: int, row_tokens: int) -> np.ndarray:
    """[samples] int64, log-normal, mean `MEAN` before the longest are cut to a row."""
    drawn = np.random.default_rng(0).lognormal(np.log(MEAN) - 0.5, 1.0, samples)
    return np.clip(np.round(drawn), 2, row_tokens).astype(np.int64)


def mixed(lengths: np.ndarray, blocks: int) -> Mixture:
    """Samples of several blocks in random order; packing never looks into the stores."""
    block = np.random.default_rng(1).integers(0, blocks, len(lengths))
    return Mixture(tuple(map(str, range(blocks))), (), block, np.arange(len(lengths)), lengths)


def peer(python: str, lengths: np.ndarray, row_tokens: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lengths.npy"
        np.save(file, lengths)
        command = [python, str(Path(__file__).parent / "peers/trl_pack.py"), str(file), str(row_tokens)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"the peer failed; is trl installed in {python}?\n{ran.stderr[-2000:]}")
    found = json.loads(ran.stdout.splitlines()[-1])["found"]
    return {f"peer, {name.partition(' ')[2]}": one for name, one in found.items()}


if __name__ == "__main__":
    main()
