"""The fused softmax gradient equals torch's cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from graftlm.ops.cross_entropy import IGNORE

pytest.importorskip("triton")

from graftlm.ops.kernels.cross_entropy import COLUMNS, softmax_gradient


@pytest.mark.parametrize("V", [7, COLUMNS, 2 * COLUMNS + 3])
def test_log_probabilities_and_gradients_are_torchs(V, device, close):
    logits = (torch.randn(6, V, generator=torch.Generator().manual_seed(V)) * 4).to(device)
    logits[2] += 300  # a naive exponential would overflow
    targets = torch.tensor([0, V - 1, V // 2, IGNORE, 1, 2], device=device)
    gradient = torch.full_like(logits, float("nan"))
    log_p = softmax_gradient(logits, targets, gradient, IGNORE)
    wanted = logits.clone().requires_grad_()
    loss = F.cross_entropy(wanted, targets, ignore_index=IGNORE, reduction="none")
    (expected,) = torch.autograd.grad(loss.sum(), wanted)
    close(log_p, -loss.detach())
    close(gradient, expected)
    assert log_p[3] == 0
    assert not gradient[3].any()
