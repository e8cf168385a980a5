"""The loss that never holds all logits equals the one that does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from graftlm.ops import linear_cross_entropy as module
from graftlm.ops.cross_entropy import IGNORE, Head
from graftlm.ops.linear_cross_entropy import linear_cross_entropy


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_on_a_cpu_it_is_the_sum_of_the_log_probabilities(softcap):
    hidden, weight = torch.randn(9, 8), torch.randn(11, 8)
    targets = torch.tensor([1, IGNORE, 3, 10, IGNORE, 0, 5, IGNORE, 2])
    found = linear_cross_entropy(hidden, Head(weight, softcap=softcap), targets, 6)
    logits = Head(weight, softcap=softcap).logits(hidden)
    torch.testing.assert_close(found, F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum"))


@pytest.mark.gpu
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_on_a_gpu_chunks_give_the_same_gradients(frozen, kind, monkeypatch):
    monkeypatch.setattr(module, "LOGITS_HELD", 256 * 4 * 1000)  # several chunks of 256 targets
    torch.manual_seed(0)
    hidden = torch.randn(700, 64, device="cuda", dtype=kind, requires_grad=True)
    weight = torch.randn(1000, 64, device="cuda", dtype=kind, requires_grad=not frozen)
    targets = torch.randint(0, 1000, (700,), device="cuda")
    targets[::7] = IGNORE
    found = linear_cross_entropy(hidden, Head(weight), targets, int((targets != IGNORE).sum()))
    logits = hidden.float() @ weight.float().T
    wanted = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    assert float(found) == pytest.approx(float(wanted), rel=1e-5 if kind == torch.float32 else 1e-3)
    inputs = [hidden] if frozen else [hidden, weight]
    scaled = [torch.autograd.grad(loss * 0.5, inputs) for loss in (found, wanted)]
    for one, other in zip(*scaled, strict=True):
        assert (one.float() - other.float()).norm() <= (1e-4 if kind == torch.float32 else 1e-2) * other.float().norm()
