"""Schedule, optimizer, epochs rule, meter."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from graftlm.training import meter as meter_module
from graftlm.training.epochs import epochs_for
from graftlm.training.meter import Meter, attended_pairs, attention_width
from graftlm.training.optimizer import adamw, cosine_schedule


def factors(steps: int, warmup: float) -> list[float]:
    return [cosine_schedule(step, steps, warmup=warmup) for step in range(steps)]


def test_the_schedule_rises_linearly_then_falls_to_a_tenth():
    found = factors(100, 0.1)
    assert found[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert found[10] == 1.0
    assert found[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(found[10:]))
    assert found[10 + 89 // 2] == pytest.approx(0.55, abs=0.01)


@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 0.99])
def test_the_schedule_stays_between_its_bounds(steps, warmup):
    found = factors(steps, warmup)
    assert all(0 < factor <= 1 for factor in found)
    assert max(found) == 1.0
    if warmup == 0 and steps > 1:
        assert (found[0], found[-1]) == pytest.approx((1.0, 0.1))


def test_adamw_decays_matrices_only():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {
        id(model[0].weight): 0.5,
        id(model[0].bias): 0.0,
        id(model[1].weight): 0.0,
        id(model[1].bias): 0.0,
        id(model[2].bias): 0.0,
    }
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    for name, p in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if name == "0.weight" else before[name]
        torch.testing.assert_close(p.detach(), expected)


def test_adamw_of_matrices_alone_has_one_group():
    assert len(adamw(torch.nn.Linear(2, 2, bias=False), learning_rate=1, weight_decay=0).param_groups) == 1


@pytest.mark.parametrize(
    ("samples", "epochs"), [(1, 15.0), (100, 15.0), (1_000, 10.0), (10_000, 2.0), (10**9, 2.0), (316, 12.5)]
)
def test_epochs_at_the_points_of_the_table(samples, epochs):
    assert epochs_for(samples) == pytest.approx(epochs, abs=0.01)


def test_epochs_never_rise_with_the_number_of_samples():
    found = [epochs_for(samples) for samples in range(1, 12_000, 7)]
    assert all(a >= b for a, b in itertools.pairwise(found))
    assert len(set(found)) > 1000, "the rule is no staircase"


def row(lengths: list[int], *, padding: int = 0) -> Any:
    """What is looked at to count pairs."""
    boundaries = torch.tensor([0, *lengths, *([padding] if padding else [])]).cumsum(0)
    return SimpleNamespace(boundaries=boundaries, padding=padding, documents=len(lengths))


def count(meter: Meter, lengths: list[int], *, padding: int = 0, targets: int = 0) -> None:
    """Count one row."""
    pairs = attended_pairs(row(lengths, padding=padding))
    meter.count(tokens=sum(lengths) + padding, padding=padding, targets=targets, pairs=pairs)


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(meter_module.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_the_meter_counts_tokens_three_ways_and_only_while_it_runs(clock):
    meter = Meter()
    clock.now += 50  # loading
    meter.resume()
    clock.now += 4
    count(meter, [900], padding=100, targets=300)
    meter.pause()
    clock.now += 1000  # held-out loss
    meter.resume()
    clock.now += 6
    count(meter, [500], targets=200)
    assert meter.rate() == 150
    meter.pause()
    speed = meter.speed(matmul_parameters=10, lora=False, device=torch.device("cpu"))
    assert (speed.all, speed.non_padding, speed.target) == (150, 140, 50)
    assert speed.mfu is None
    assert speed.mfu_formula is None


def test_a_resumed_meter_goes_on_counting(clock):
    meter = Meter()
    meter.resume()
    clock.now += 5
    count(meter, [50, 40], padding=10, targets=20)
    state = meter.state()
    again = Meter()
    again.restore(state)
    clock.now += 77
    again.resume()
    clock.now += 5
    count(again, [90], padding=10, targets=20)
    again.pause()
    pairs = 25 * 51 + 20 * 41 + 45 * 91
    assert again.state() == {"seconds": 10, "all": 200, "padding": 20, "target": 40, "pairs": pairs}


@pytest.mark.parametrize(("lora", "per_token"), [(False, 6), (True, 4)])
def test_utilisation_on_a_known_gpu(clock, monkeypatch, lora, per_token):
    monkeypatch.setattr(meter_module, "device_peak", lambda device: 1e6)
    meter = Meter()
    meter.resume()
    clock.now += 1
    count(meter, [30, 50], padding=20)
    meter.pause()
    speed = meter.speed(matmul_parameters=500, lora=lora, device=torch.device("cuda"))
    assert speed.mfu == pytest.approx(per_token * 500 * 100 / 1e6)
    assert f"({per_token} · parameters" in (speed.mfu_formula or "")
    pairs = 30 * 31 / 2 + 50 * 51 / 2
    assert speed.mean_context == pairs / 80
    speed = meter.speed(matmul_parameters=500, lora=lora, device=torch.device("cuda"), attention_width=7)
    assert speed.mfu == pytest.approx((per_token * 500 * 100 + 12 * 7 * pairs) / 1e6)


def test_attention_operations_are_those_of_the_two_products():
    """Counted by torch over one causal document, halves that are masked out included."""
    from torch.utils.flop_counter import FlopCounterMode

    heads, size, tokens = 3, 8, 40
    query, key, value = (torch.randn(1, heads, tokens, size, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        (query @ key.transpose(-1, -2) @ value).sum().backward()
    every_pair = attended_pairs(row([tokens])) * 2 - tokens
    assert counter.get_total_flops() == 12 * heads * size * every_pair


def test_attention_width_is_that_of_the_heads():
    assert attention_width(LlamaConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=3)) == 3 * 64
    assert attention_width(Qwen3Config(num_attention_heads=4, num_hidden_layers=3, head_dim=128)) == 3 * 512
