"""The Triton attention equals the definition of packed attention, values and gradients."""

from __future__ import annotations

import pytest
import torch

from graftlm.ops.attention import packed_attention_reference

pytest.importorskip("triton")

from graftlm.ops.kernels.document_attention import (
    BACKWARD_BLOCK,
    FORWARD_BLOCK,
    document_attention,
    document_blocks,
)

CASES = [
    # lengths, query heads, key heads, head size, window
    ([7, 1, 130], 2, 1, 16, None),
    ([64, 63, 65, 3], 2, 2, 24, None),
    ([200, 64, 1], 4, 1, 16, 70),
    ([150], 1, 1, 16, 5),
    ([3, 129], 2, 2, 16, 1),
]


@pytest.mark.parametrize(("lengths", "H", "G", "D", "window"), CASES)
def test_values_and_gradients_equal_the_definition(lengths, H, G, D, window, device, kind, close):
    generator = torch.Generator().manual_seed(len(lengths))
    T = sum(lengths)
    q, k, v, weights = (torch.randn(T, heads, D, generator=generator).to(device) for heads in (H, G, G, H))
    boundaries = torch.tensor([0, *lengths, 0, 0], device=device).cumsum(0).int()  # two empty documents at the end
    inputs = [x.to(kind).requires_grad_() for x in (q, k, v)]
    blocks = [document_blocks(boundaries, T, size) for size in (FORWARD_BLOCK, BACKWARD_BLOCK)]
    fast = document_attention(*inputs, *blocks, scale=0.3, window=window)
    plain = packed_attention_reference(*(x.float() for x in inputs), boundaries, scale=0.3, window=window)
    gradients = [torch.autograd.grad((out.float() * weights).sum(), inputs) for out in (fast, plain)]
    close(fast, plain)
    for one, other in zip(*gradients, strict=True):
        close(one, other)


def test_blocks_cover_each_document_once_and_the_rest_is_empty():
    boundaries = torch.tensor([0, 5, 5, 137, 140, 140], dtype=torch.int32)
    blocks = document_blocks(boundaries, 140, 64).T.tolist()
    assert [block for block in blocks if block != [0, 0, 0]] == [
        [0, 0, 5],
        [5, 5, 137],
        [69, 5, 137],
        [133, 5, 137],
        [137, 137, 140],
    ]
    assert len(blocks) == 140 // 64 + 5  # a function of the sizes alone: rows of one length have one shape


def test_inputs_need_not_be_contiguous(device, kind, close):
    boundaries = torch.tensor([0, 9, 40], device=device).int()
    blocks = [document_blocks(boundaries, 40, size) for size in (FORWARD_BLOCK, BACKWARD_BLOCK)]
    wide = torch.randn(3, 2, 40, 16, device=device, dtype=kind)
    q, k, v = (x.transpose(0, 1).requires_grad_() for x in wide)  # [T, H, D], heads outermost in memory
    fast = document_attention(q, k, v, *blocks, scale=0.25)
    close(fast, packed_attention_reference(q.float(), k.float(), v.float(), boundaries, scale=0.25))
