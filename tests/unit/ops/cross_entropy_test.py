"""Log-probabilities of targets equal their definition, also by chunks; no target, no loss, no gradient."""

from __future__ import annotations

import pytest
import torch

from graftlm.ops import cross_entropy
from graftlm.ops.cross_entropy import (
    IGNORE,
    Head,
    TokenStatistics,
    shared_statistics,
    token_log_probabilities,
    token_log_probabilities_reference,
    token_statistics,
    token_statistics_reference,
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
@pytest.mark.parametrize(("scale", "softcap", "biased"), [(1.0, None, False), (0.25, 3.0, True), (2.0, None, True)])
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


STATISTICS = (token_statistics, token_statistics_reference)


def distribution(hidden, weight, bias, scale, softcap) -> torch.Tensor:
    """[T, V] log-probabilities in double precision, apart from the code under test."""
    logits = (hidden.double() @ weight.double().T + (0 if bias is None else bias.double())) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits - logits.exp().sum(1, keepdim=True).log()


@pytest.mark.parametrize("function", STATISTICS)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("scale", "softcap", "biased"), [(1.0, None, False), (0.25, 3.0, True)])
def test_statistics_and_their_gradients(monkeypatch, function, chunked, scale, softcap, biased):
    if chunked:
        monkeypatch.setattr(cross_entropy, "LOGITS_KEPT", 1)
    hidden, weight, bias, targets = inputs()
    bias = bias if biased else None
    parameters = [hidden, weight, *([bias] if biased else [])]
    bearing = targets != IGNORE
    log_p = distribution(hidden, weight, bias, scale, softcap)[bearing]
    expected = log_p.gather(1, targets[bearing, None])[:, 0], -(log_p.exp() * log_p).sum(1)
    most_likely = (log_p.argmax(1) == targets[bearing]).tolist()
    assert 10 < sum(most_likely) < len(most_likely) / 2

    found = function(hidden, Head(weight, bias, scale, softcap), targets, entropy=True, greedy=True)
    assert found.greedy.tolist() == most_likely
    assert not found.greedy.requires_grad
    probes = torch.linspace(-1, 1, len(expected[0])), torch.linspace(2, -1, len(expected[0]))
    for one, other in zip((found.log_probability, found.entropy), expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other.float(), atol=1e-4, rtol=1e-5)
    for used in ((0,), (1,), (0, 1)):  # each alone, and both through one backward pass
        wanted = sum((expected[i] * probes[i]).sum() for i in used)
        total = sum((found[i] * probes[i]).sum() for i in used)
        gradients = torch.autograd.grad(total, parameters, retain_graph=True)
        for one, other in zip(gradients, torch.autograd.grad(wanted, parameters, retain_graph=True), strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_entropy_of_known_distributions():
    """Over two tokens whose logits are 0 and log(p / (1 − p)): −p log p − (1 − p) log(1 − p)."""
    p = torch.tensor([0.5, 0.9, 1e-30])
    hidden = torch.logit(p, eps=None)[:, None]
    head = Head(torch.tensor([[0.0], [1.0]]))
    found = token_statistics(hidden, head, torch.tensor([1, 1, 0]), entropy=True, greedy=True)
    expected = [0.6931472, 0.3250830, 0.0]
    assert found.entropy.tolist() == pytest.approx(expected, abs=1e-6)
    assert found.log_probability.tolist() == pytest.approx([-0.6931472, -0.1053605, 0.0], abs=1e-6)
    assert found.greedy.tolist() == [False, True, True], "of two equally likely tokens the first is the greedy one"


def test_nothing_is_computed_unasked():
    hidden, weight, _, targets = inputs()
    assert token_statistics(hidden, Head(weight), targets)[1:] == (None, None)


@pytest.mark.parametrize("function", STATISTICS)
def test_statistics_without_any_target_are_empty_and_differentiable(function):
    hidden, weight, _, targets = inputs()
    found = function(hidden, Head(weight), torch.full_like(targets, IGNORE), entropy=True, greedy=True)
    assert isinstance(found, TokenStatistics)
    assert [len(part) for part in found] == [0, 0, 0]
    (found.log_probability.sum() + found.entropy.sum()).backward()
    assert float(hidden.grad.abs().sum()) == 0


def test_all_statistics_come_from_one_pass_over_the_logits(monkeypatch):
    rows = []
    plain = Head.logits
    monkeypatch.setattr(Head, "logits", lambda self, hidden: rows.append(len(hidden)) or plain(self, hidden))
    monkeypatch.setattr(cross_entropy, "LOGITS_KEPT", 4 * V * 300)
    hidden, weight, _, targets = inputs()
    bearing = int((targets != IGNORE).sum())
    found = token_statistics(hidden, Head(weight), targets, entropy=True, greedy=True)
    assert (sum(rows), max(rows)) == (bearing, 300)
    (found.log_probability.sum() + found.entropy.sum()).backward()
    assert (sum(rows), max(rows)) == (2 * bearing, 300), "recomputed once, by chunks"


def test_both_functions_agree_on_the_log_probabilities():
    hidden, weight, _, targets = inputs()
    found = token_log_probabilities(hidden, Head(weight), targets)
    assert torch.equal(found[targets != IGNORE], token_statistics(hidden, Head(weight), targets).log_probability)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("kept", [1, 2**26])
def test_targets_that_share_a_position(softcap, kept, monkeypatch):
    """In any order, none at some positions, several at others; by chunks of 256 positions, too."""
    monkeypatch.setattr(cross_entropy, "LOGITS_KEPT", kept)
    hidden, weight, bias, _ = (x.detach() for x in inputs())
    generator = torch.Generator().manual_seed(1)
    place = torch.randint(0, T, (2 * T,), generator=generator)
    targets = torch.randint(0, V, (2 * T,), generator=generator)
    log_p, greedy = shared_statistics(hidden, Head(weight, bias, 0.5, softcap), place, targets)
    wanted = by_definition(hidden[place], weight, bias, targets, 0.5, softcap)
    torch.testing.assert_close(log_p.double(), wanted, atol=1e-5, rtol=1e-5)
    best = (hidden @ weight.T + bias).argmax(dim=-1)
    assert torch.equal(greedy, best[place] == targets)
    assert 0 < greedy.sum() < 2 * T
