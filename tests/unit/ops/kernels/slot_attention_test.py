"""The decoding kernel joins its chunks into what the definition gives."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from graftlm.ops.kernels.slot_attention import slot_attention_kernel
from graftlm.ops.slot_attention import slot_attention_reference


@pytest.mark.parametrize("window", [0, 70])
@pytest.mark.parametrize(("H", "G"), [(2, 2), (4, 1)])
def test_chunks_are_joined(H, G, window, device, kind, close):
    random = torch.Generator().manual_seed(H)
    query = torch.randn(4, H, 16, generator=random).to(device, kind)
    keys, values = (torch.randn(4, G, 300, 16, generator=random).to(device, kind) for _ in range(2))
    lengths = torch.tensor([1, 300, 256, 0], device=device)
    found = slot_attention_kernel(query, keys, values, lengths, 0.25, window)
    wanted = slot_attention_reference(query, keys, values, lengths, scale=0.25, window=window or None)
    close(found[:3], wanted[:3])
    assert not found[3].any()  # an empty slot
