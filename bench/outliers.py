"""What one outlier column does to 4-bit weights: rows of Gaussian numbers, one column 20 times as large.

    python bench/outliers.py

GLM-130B's explanation of why BLOOM loses in 4 bits what GLM does not (arXiv 2210.02414, section 4): wide tails stretch
the scale of a whole row. A scale a group keeps the harm inside the group.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from receipt import finish

from graftlm.ops.int_weights import IntFormat, dequantise, quantise

ROWS, COLUMNS, FACTOR = 256, 1024, 20
FORMATS = {
    "8 bits, rows": IntFormat(8, None),
    "4 bits, rows": IntFormat(4, None),
    "4 bits, groups of 128": IntFormat(4, 128),
    "4 bits, groups of 64": IntFormat(4, 64),
    "4 bits, groups of 32": IntFormat(4, 32),
    "4 bits, groups of 64, zero point": IntFormat(4, 64, symmetric=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    plain = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    tailed = plain.clone()
    tailed[:, 0] *= FACTOR
    found = {name: {"plain": error(plain, form), "outlier": error(tailed, form)} for name, form in FORMATS.items()}
    rows = [("relative error of the other columns", "Gaussian", f"one column × {FACTOR}")]
    rows += [(name, f"{one['plain']:.2%}", f"{one['outlier']:.2%}") for name, one in found.items()]
    finish({"bench": "outliers", "errors": found}, rows, options.receipt)


def error(weight: torch.Tensor, form: IntFormat) -> float:
    """Of all columns but the first."""
    difference = dequantise(quantise(weight, form), torch.float32) - weight
    return float(difference[:, 1:].norm() / weight[:, 1:].norm())


if __name__ == "__main__":
    main()
