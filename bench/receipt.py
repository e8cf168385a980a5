"""How a bench ends: a small table, a receipt if one is asked for, and the result as JSON on the last line."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from graftlm.core.receipts import versions


def finish(result: dict[str, Any], rows: list[tuple[str, ...]], receipt: Path | None) -> None:
    """Print `rows` (the first is the header) and the result; write the result as a receipt.

    Args:
        result: what was measured; date, versions and machine are added.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        print("  ".join([first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(others, widths[1:], strict=True))]))
    whole = result | {"date": datetime.date.today().isoformat(), "versions": versions(), "machine": machine()}
    if receipt is not None:
        receipt.parent.mkdir(parents=True, exist_ok=True)
        receipt.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(whole, ensure_ascii=False))


def machine() -> dict[str, Any]:
    """Processor, the cores that this process may use, and the GPU if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"processor": _processor(), "cores": cores, "load": round(os.getloadavg()[0], 2)} | gpu


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
