"""The decoding kernel joins its chunks into what the definition gives."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from graftlm.ops.kernels.slot_attention import put_states_kernel, slot_attention_kernel
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


def test_states_are_put_into_their_places(device, kind):
    keys, values = (torch.zeros(3, 2, 5, 16, device=device, dtype=kind) for _ in range(2))
    key, value = (torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(n)).to(device, kind) for n in (1, 2))
    position = torch.tensor([4, 0], device=device)
    put_states_kernel(keys, values, key, value, position)
    for states, new in ((keys, key), (values, value)):
        assert torch.equal(states[0, :, 4], new[0])
        assert torch.equal(states[1, :, 0], new[1])
        assert states.count_nonzero() == new.count_nonzero()
