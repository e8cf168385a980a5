"""Attention of decoding equals a softmax over each slot's own positions."""

from __future__ import annotations

import pytest
import torch

from graftlm.ops.slot_attention import several_slot_attention, slot_attention


def by_definition(query, keys, values, lengths, scale, window):
    found = torch.zeros(query.shape)
    group = query.shape[1] // keys.shape[1]
    for s, length in enumerate(lengths.tolist()):
        first = max(0, length - window) if window else 0
        for h in range(query.shape[1]):
            k, v = keys[s, h // group, first:length].float(), values[s, h // group, first:length].float()
            if length:
                found[s, h] = (k @ query[s, h].float() * scale).softmax(0) @ v
    return found


def slots(S, H, G, L, D, kind=torch.float32, device="cpu"):
    random = torch.Generator().manual_seed(S * H + D)
    shapes = ((S, H, D), (S, G, L, D), (S, G, L, D))
    return [torch.randn(*shape, generator=random).to(kind).to(device) for shape in shapes]


@pytest.mark.parametrize("window", [None, 5, 1000])
@pytest.mark.parametrize(("H", "G"), [(4, 4), (6, 2), (3, 1)])
def test_each_slot_sees_its_own_positions(H, G, window):
    query, keys, values = slots(5, H, G, 40, 16)
    lengths = torch.tensor([1, 40, 7, 23, 2])
    found = slot_attention(query, keys, values, lengths, scale=0.3, window=window)
    torch.testing.assert_close(found, by_definition(query, keys, values, lengths, 0.3, window), atol=2e-6, rtol=1e-5)


def test_what_lies_behind_the_end_of_a_slot_changes_nothing():
    query, keys, values = slots(3, 4, 2, 32, 16)
    lengths = torch.tensor([3, 9, 30])
    before = slot_attention(query, keys, values, lengths)
    for s, length in enumerate(lengths.tolist()):
        keys[s, :, length:], values[s, :, length:] = 1e4, -1e4
    torch.testing.assert_close(slot_attention(query, keys, values, lengths), before)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("D", [64, 128])
@pytest.mark.parametrize(("H", "G"), [(8, 8), (8, 2), (32, 1)])
def test_the_kernel_equals_the_definition_on_a_gpu(H, G, D, window):
    query, keys, values = slots(6, H, G, 700, D, torch.bfloat16, "cuda")
    lengths = torch.tensor([1, 700, 0, 256, 257, 333], device="cuda")
    found = slot_attention(query, keys, values, lengths, window=window).float().cpu()
    wanted = by_definition(query.cpu(), keys.cpu(), values.cpu(), lengths.cpu(), D**-0.5, window)
    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("window", [None, 5])
def test_several_queries_of_a_slot_see_what_each_would_see_alone(window):
    _, keys, values = slots(4, 6, 2, 40, 16)
    query_SHKD = torch.randn(4, 6, 3, 16, generator=torch.Generator().manual_seed(1))
    lengths_SK = torch.tensor([[1, 2, 3], [38, 39, 40], [7, 8, 8], [20, 3, 11]])
    found = several_slot_attention(query_SHKD, keys, values, lengths_SK, scale=0.3, window=window)
    for k in range(3):
        wanted = by_definition(query_SHKD[:, :, k], keys, values, lengths_SK[:, k], 0.3, window)
        torch.testing.assert_close(found[:, :, k], wanted, atol=2e-6, rtol=1e-5)
