"""Log-probabilities of targets equal their definition, also by chunks; no target, no loss, no gradient."""

from __future__ import annotations

import pytest
import torch

from graftlm.ops import cross_entropy
from graftlm.ops.cross_entropy import (
    IGNORE,
    Head,
    token_log_probabilities,
    token_log_probabilities_reference,
)

T, D, V = 1500, 16, 40


def inputs(targets_share: float = 0.7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(T, D, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, requires_grad=True)
    bias = torch.randn(V, generator=generator, requires_grad=True)
    targets = torch.randint(0, V, (T,), generator=generator)
    targets[torch.rand(T, generator=generator) > targets_share] = IGNORE
    return hidden, weight, bias, targets


def by_definition(hidden, weight, bias, targets, scale, softcap) -> torch.Tensor:
    """In double precision, written out apart from the code under test."""
    logits = (hidden.double() @ weight.double().T + (0 if bias is None else bias.double())) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    chosen = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0] - logits.exp().sum(1).log()
    return torch.where(targets == IGNORE, 0, chosen)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("scale", "softcap", "biased"), [(1.0, None, False), (0.25, 3.0, True), (2.0, None, True)]
)
def test_values_and_gradients(monkeypatch, chunked, scale, softcap, biased):
    if chunked:
        monkeypatch.setattr(cross_entropy, "LOGITS_KEPT", 1)
    hidden, weight, bias, targets = inputs()
    parameters = [hidden, weight, *([bias] if biased else [])]
    head = Head(weight, bias if biased else None, scale, softcap)
    expected = by_definition(hidden, weight, bias if biased else None, targets, scale, softcap)
    probe = torch.linspace(-1, 1, T)
    wanted = torch.autograd.grad((expected * probe).sum(), parameters)
    for function in (token_log_probabilities, token_log_probabilities_reference):
        found = function(hidden, head, targets)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-5)
        gradients = torch.autograd.grad((found * probe).sum(), parameters)
        for one, other in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_long_rows_are_recomputed_by_chunks(monkeypatch):
    calls = []
    plain = cross_entropy.checkpoint
    monkeypatch.setattr(
        cross_entropy, "checkpoint", lambda *args, **kw: calls.append(len(args[1])) or plain(*args, **kw)
    )
    hidden, weight, _, targets = inputs()
    token_log_probabilities(hidden, Head(weight), targets)
    assert not calls, "a row whose logits fit is not recomputed"
    monkeypatch.setattr(cross_entropy, "LOGITS_KEPT", 4 * V * 300)
    token_log_probabilities(hidden, Head(weight), targets)
    assert max(calls) == 300
    assert sum(calls) == int((targets != IGNORE).sum())


def test_positions_without_target_are_exactly_zero_and_get_no_gradient():
    hidden, weight, _, targets = inputs()
    found = token_log_probabilities(hidden, Head(weight), targets)
    ignored = targets == IGNORE
    assert bool((found[ignored] == 0).all())
    assert bool((found[~ignored] < 0).all())
    found.sum().backward()
    assert bool((hidden.grad[ignored] == 0).all())
    assert bool((hidden.grad[~ignored] != 0).any())


def test_a_row_without_any_target_is_zero_and_differentiable():
    hidden, weight, _, targets = inputs()
    found = token_log_probabilities(hidden, Head(weight), torch.full_like(targets, IGNORE))
    found.sum().backward()
    assert not found.any()
    assert float(hidden.grad.abs().sum()) == 0


def test_half_precision_head_gives_fp32():
    hidden, weight, _, targets = inputs()
    found = token_log_probabilities(hidden.bfloat16(), Head(weight.bfloat16()), targets)
    assert found.dtype == torch.float32
    expected = by_definition(hidden, weight, None, targets, 1.0, None).float()
    torch.testing.assert_close(found, expected, atol=0.3, rtol=0.05)
