"""Products with packed weights equal products with the weights that they stand for."""

from __future__ import annotations

import pytest
import torch

from graftlm.ops.int_weights import IntFormat, dequantise, quantise

pytest.importorskip("triton")

from graftlm.ops.kernels.int_matmul import VECTOR_TOKENS, Tile, dequantised, fused_product

FORMATS = [
    IntFormat(4, 32),
    IntFormat(4, 64, symmetric=False),
    IntFormat(4, 128),
    IntFormat(4, None),
    IntFormat(8, None),
    IntFormat(8, 64),
    IntFormat(8, 32, symmetric=False),
    IntFormat(4, None, symmetric=False),
]


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("tokens", [1, VECTOR_TOKENS, VECTOR_TOKENS + 1, 17])
def test_products_are_those_of_the_dequantised_weight(form, tokens, device, kind, close):
    generator = torch.Generator().manual_seed(tokens)
    weight = torch.randn(72, 384, generator=generator).to(device, kind)  # outputs are no multiple of a tile
    x = torch.randn(tokens, 384, generator=generator).to(device, kind)
    packed = quantise(weight, form)
    close(fused_product(x, packed), x.float() @ dequantise(packed, torch.float32).T)


def test_rows_that_do_not_fill_their_last_word(device, kind, close):
    weight, x = torch.randn(16, 70, device=device, dtype=kind), torch.randn(5, 70, device=device, dtype=kind)
    packed = quantise(weight, IntFormat(4, None))
    for rows in (x, x[:1]):
        close(fused_product(rows, packed), rows.float() @ dequantise(packed, torch.float32).T)


@pytest.mark.parametrize("tile", [Tile(16, 32, 4, 2), Tile(32, 128, 4, 3)])
def test_other_tiles_give_the_same(tile, device, kind, close):
    weight, x = torch.randn(40, 256, device=device, dtype=kind), torch.randn(20, 256, device=device, dtype=kind)
    packed = quantise(weight, IntFormat(4, 128))
    for rows in (x, x[:1]):
        close(fused_product(rows, packed, tile), rows.float() @ dequantise(packed, torch.float32).T)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_one_pass_dequantises(form, device, kind):
    packed = quantise(torch.randn(72, 384, device=device, dtype=kind), form)
    torch.testing.assert_close(dequantised(packed, kind), dequantise(packed, kind), rtol=1e-2, atol=1e-6)
