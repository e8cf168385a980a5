"""The product of one row equals the product."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from graftlm.ops.kernels.one_row import one_row


@pytest.mark.parametrize(("O", "I"), [(9, 40), (16, 1500)])
def test_one_row_is_multiplied(O, I, device, kind, close):
    random = torch.Generator().manual_seed(O)
    x, weight = (torch.randn(n, I, generator=random).to(device, kind) for n in (1, O))
    close(one_row(x, weight), (x.float() @ weight.float().t()).to(kind))
