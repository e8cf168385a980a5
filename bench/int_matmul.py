"""Products with weights of 4 and 8 bits against bf16, for the shapes of a 7B model, and how near the memory's limit.

    python bench/int_matmul.py --receipt bench/receipts/int_matmul.json

On a CUDA device: 1, 8, 64 and 512 tokens. The limit is the time to read the weight (words and scales) once at the
bandwidth that copying a GiB shows. For 1 and 8 tokens other tiles are tried, too. Without CUDA: one small shape on the
CPU, to try the bench. Each product is compared with the dequantised weight's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from receipt import finish

from graftlm.ops.choose import milliseconds
from graftlm.ops.int_weights import IntFormat, IntWeight, dequantise, product, quantise

SHAPES = [(4096, 4096), (11008, 4096), (4096, 11008), (32000, 4096)]
"""(outputs, inputs): attention, up, down, head."""

TOKENS = (1, 8, 64, 512)
FORMATS = {"int4": IntFormat(4, 64), "int8": IntFormat(8, None)}
VECTORS = [(4, 2048, 4), (8, 1024, 4), (16, 1024, 8), (8, 2048, 8)]
MATRICES = [(32, 64, 4), (64, 64, 4), (128, 64, 8), (64, 64, 8)]
"""Outputs, inputs and warps of the tiles that are tried."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--receipt", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        found = [one_shape_on_cpu(name, form) for name, form in FORMATS.items()]
        rows = [("on the CPU", "error"), *((one["format"], f"{one['error']:.1e}") for one in found)]
        finish({"bench": "int_matmul", "device": "cpu", "products": found}, rows, options.receipt)
        return
    bandwidth = copy_bandwidth()
    rows: list[tuple[str, ...]] = [("outputs × inputs, tokens", "bf16 ms", "ours ms", "speed-up", "of limit", "error")]
    found = []
    for outputs, inputs in SHAPES:
        weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) / inputs**0.5
        for name, form in FORMATS.items():
            packed = quantise(weight, form)
            for tokens in TOKENS:
                one = compare(weight, packed, tokens, bandwidth)
                found.append({"outputs": outputs, "inputs": inputs, "format": name, "tokens": tokens} | one)
                rows.append((
                    f"{name} {outputs} × {inputs}, {tokens}", f"{one['bf16_ms']:.4f}", f"{one['ours_ms']:.4f}",
                    f"{one['speedup']:.2f}", f"{one['of_limit']:.0%}", f"{one['error']:.1e}",
                ))  # fmt: skip
    device = torch.cuda.get_device_name()
    finish({"bench": "int_matmul", "device": device, "GB/s": bandwidth / 1e9, "products": found}, rows, options.receipt)


def compare(weight: torch.Tensor, packed: IntWeight, tokens: int, bandwidth: float) -> dict[str, Any]:
    x = torch.randn(tokens, packed.inputs, device="cuda", dtype=torch.bfloat16)
    wanted = x.float() @ dequantise(packed, torch.float32).t()
    error = float((product(x, packed).float() - wanted).norm() / wanted.norm())
    assert error < 1e-2, error
    copies = [packed, *(clone(packed) for _ in range(3))]  # four in turn: one alone would stay in the cache
    plain = [weight, *(weight.clone() for _ in range(3))]
    bf16 = milliseconds(lambda: [x @ one.t() for one in plain], 5) / 4
    ours = milliseconds(lambda: [product(x, one) for one in copies], 5) / 4
    limit = 1e3 * packed.bytes / bandwidth
    found = {"bf16_ms": bf16, "ours_ms": ours, "speedup": bf16 / ours, "of_limit": limit / ours, "error": error}
    return found | ({"tiles": sweep(x, copies)} if tokens <= 8 else {})


def sweep(x: torch.Tensor, copies: list[IntWeight]) -> dict[str, float | str]:
    """Milliseconds of each tile, or why it cannot run."""
    from graftlm.ops.kernels.int_matmul import VECTOR_TOKENS, Tile, fused_product

    found: dict[str, float | str] = {}
    for outputs, inputs, warps in VECTORS if len(x) <= VECTOR_TOKENS else MATRICES:
        tile = Tile(outputs, inputs, warps, 3)
        try:
            time = milliseconds(lambda tile=tile: [fused_product(x, one, tile) for one in copies], 5) / 4  # type: ignore[misc]
            found[f"{outputs} × {inputs}, {warps} warps"] = time
        except Exception as error:  # Triton has errors of its own for a tile that does not fit
            found[f"{outputs} × {inputs}, {warps} warps"] = type(error).__name__
    return found


def clone(packed: IntWeight) -> IntWeight:
    zero = None if packed.zero is None else packed.zero.clone()
    return IntWeight(packed.words.clone(), packed.scale.clone(), zero, packed.inputs, packed.bits)


def copy_bandwidth() -> float:
    """Bytes a second that a copy of 1 GiB reads and writes."""
    block = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(block)
    return 2 * 2**30 / (milliseconds(lambda: other.copy_(block)) / 1e3)


def one_shape_on_cpu(name: str, form: IntFormat) -> dict[str, Any]:
    packed, x = quantise(torch.randn(256, 512), form), torch.randn(3, 512)
    wanted = x @ dequantise(packed, torch.float32).t()
    return {"format": name, "error": float((product(x, packed) - wanted).norm() / wanted.norm())}


if __name__ == "__main__":
    main()
