"""The memory plan beside what training takes, over shapes, methods, passes and formats.

    python bench/memory_plan.py --receipt bench/receipts/memory_plan.json      needs a CUDA device

Two steps each; large shapes are cut to eight layers. Prints predicted and measured peak; the aim is 5 %.
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import Any

import torch
from receipt import finish
from workload import Work, timed

from graftlm.core.errors import TrainingError

WORKS = [
    Work("7b-8", row_tokens=16_384),
    Work("7b-8", row_tokens=4_096),
    Work("7b-8", row_tokens=16_384, recompute="cheap"),
    Work("7b-8", row_tokens=16_384, float8=True),
    Work("7b-8", "full", length=4096, row_tokens=16_384),
    Work("7b-8", "full", length=4096, row_tokens=8_192, passes=2),
    Work("7b-8", "full", length=4096, row_tokens=16_384, recompute="cheap"),
    Work("7b-8", "full", length=4096, row_tokens=16_384, float8=True),
    Work("7b-8", row_tokens=4_096, bits=4),
    Work("7b-8", row_tokens=4_096, bits=8),
    Work("8b-8", row_tokens=8_192),
    Work("8b-8", "full", length=4096, row_tokens=8_192),
    Work("0.5b", row_tokens=16_384),
    Work("0.5b", "full", row_tokens=8_192),
    Work("0.5b", "full", length=4096, row_tokens=16_384, passes=2),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    table, rows = [("", "predicted", "measured", "ratio")], []
    for work in WORKS:
        before = torch.cuda.memory_allocated()
        found: dict[str, Any] = {"work": str(work), "held_before_gib": before / 2**30}
        try:
            run = timed(work, torch.device("cuda"), steps=1)
        except (RuntimeError, TrainingError) as error:
            table.append((str(work), "failed", repr(error)[:80], ""))
            continue
        finally:
            gc.collect()
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()
        found |= {"predicted_gib": run.predicted_gib, "measured_gib": run.peak_gib - before / 2**30}
        found["ratio"] = found["predicted_gib"] / found["measured_gib"]
        print(f"{work}: {found['ratio']:.3f}", flush=True)
        rows.append(found)
        table.append((str(work), *(f"{found[name]:.3f}" for name in ("predicted_gib", "measured_gib", "ratio"))))
    worst = max((abs(row["ratio"] - 1) for row in rows), default=0.0)
    print(f"largest difference of {len(rows)} configurations: {worst:.1%}")
    finish({"bench": "memory_plan", "rows": rows, "worst": worst}, table, options.receipt)


if __name__ == "__main__":
    main()
