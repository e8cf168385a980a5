"""How a step is cut into rows, and in which precision it runs, does not change what is learnt."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from graftlm.core.errors import TrainingError
from graftlm.models.adapters import make_trainable
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.objective import Loss
from graftlm.training.trainer import Trainer, TrainingSettings

SETTINGS = TrainingSettings(learning_rate=3e-3, warmup=0.0, log_every=1)


def rows_of_eight(plan, rows_a_row: int):
    """The same plan with `rows_a_row` of its rows laid end to end: fewer, longer rows, the same steps."""
    return replace(
        plan,
        row_edges=plan.row_edges[::rows_a_row],
        row_tokens=plan.row_tokens * rows_a_row,
        rows_per_step=8 // rows_a_row,
    )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_eight_rows_of_one_equal_four_of_two_and_one_of_eight(tiny_model, make_plan, method):
    lengths = np.random.default_rng(0).integers(20, 33, 32).tolist()
    eight = make_plan(lengths, row_tokens=33, rows_per_step=8)
    assert (eight.rows, eight.steps) == (32, 4)
    counts = [eight.row(row).target_count for row in range(8)]
    assert max(counts) > 1.2 * min(counts), "rows must differ in targets, else a mean of means would pass"
    found = []
    for rows_a_row in (1, 2, 8):
        plan = rows_of_eight(eight, rows_a_row)
        assert plan.steps == 4
        torch.manual_seed(0)
        model = make_trainable(tiny_model(spread=0.1), method, rank=4)
        record = Trainer(model, CausalLM(), plan, SETTINGS).fit()
        found.append((record.losses, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}))
    for losses, weights in found[1:]:
        for entry, expected in zip(losses, found[0][0], strict=True):
            assert entry == pytest.approx(expected, rel=1e-4)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, found[0][1][name], rtol=1e-3, atol=2e-5)


def test_a_mean_of_row_means_would_be_seen(tiny_model, make_plan):
    """The test above can fail: with each row weighing the same, the first gradient is another one."""
    plan = make_plan(np.random.default_rng(0).integers(20, 33, 8).tolist(), row_tokens=33, rows_per_step=8)

    class MeanOfMeans(CausalLM):
        def units(self, batch):
            return 1

        def __call__(self, model, batch):
            loss = super().__call__(model, batch)
            return Loss(loss.total / loss.units, 1)

    norms = [
        Trainer(tiny_model(), objective, plan, SETTINGS).fit().losses[0]["gradient_norm"]
        for objective in (CausalLM(), MeanOfMeans())
    ]
    assert norms[0] != pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bf16_autocast_is_finite_and_near_fp32(tiny_model, make_plan, family, method):
    plan = make_plan([30] * 24, row_tokens=64, rows_per_step=2, learnable=True)
    losses = []
    for bf16 in (False, True):
        torch.manual_seed(0)
        model = make_trainable(tiny_model(family, spread=0.05), method, rank=8)
        losses.append(Trainer(model, CausalLM(), plan, replace(SETTINGS, bf16=bf16)).fit().losses)
    for exact, rough in zip(*losses, strict=True):
        assert math.isfinite(rough["gradient_norm"])
        assert rough["loss"] == pytest.approx(exact["loss"], rel=0.05)
    assert losses[0][-1] != losses[1][-1], "bf16 was really used"


def test_a_frozen_bf16_model_with_an_adapter_trains_under_autocast(tiny_model, make_plan):
    from graftlm.models.trunk import prepare_trunk

    plan = make_plan([30] * 40, row_tokens=64, learnable=True)
    model = tiny_model(spread=0.05).to(torch.bfloat16)
    assert prepare_trunk(model)
    model = make_trainable(model, "lora", rank=8)
    losses = Trainer(model, CausalLM(), plan, replace(SETTINGS, bf16=True, learning_rate=1e-2)).fit().losses
    assert losses[-1]["loss"] < losses[0]["loss"] - 0.1


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_learns(tiny_model, make_plan, method):
    plan = make_plan([40] * 200, row_tokens=128, rows_per_step=2, learnable=True, share=1.0)
    model = make_trainable(tiny_model(spread=0.1), method, rank=16)
    record = Trainer(model, CausalLM(), plan, replace(SETTINGS, learning_rate=1e-2)).fit()
    assert record.stopped == "all data seen"
    assert record.steps == plan.steps
    assert record.losses[-1]["loss"] < (0.5 if method == "full" else 0.85) * record.losses[0]["loss"]
    assert not model.training


def test_padded_rows_train_the_same(tiny_model, make_plan):
    plan = make_plan([30, 21, 9] * 6, row_tokens=64, rows_per_step=2)
    losses = [
        Trainer(tiny_model(), CausalLM(), plan, replace(SETTINGS, pad_rows=pad)).fit().losses
        for pad in (False, True)
    ]
    for one, other in zip(*losses, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_the_log_averages_its_window_and_the_meter_counts_all(tiny_model, make_plan):
    plan = make_plan([30, 21, 9] * 7, row_tokens=64, rows_per_step=2)
    each = Trainer(tiny_model(), CausalLM(), plan, SETTINGS)
    single = each.fit().losses
    windowed = Trainer(tiny_model(), CausalLM(), plan, replace(SETTINGS, log_every=3)).fit().losses
    assert [entry["step"] for entry in windowed] == [*range(3, plan.steps, 3), plan.steps]
    units = [sum(plan.row(row).target_count for row in plan.step_rows(step)) for step in range(plan.steps)]
    expected = sum(entry["loss"] * n for entry, n in zip(single[:3], units[:3], strict=True)) / sum(units[:3])
    assert windowed[0]["loss"] == pytest.approx(expected)
    assert windowed[0]["gradient_norm"] == pytest.approx(
        sum(entry["gradient_norm"] for entry in single[:3]) / 3
    )
    assert each.meter.target == sum(units)
    assert each.meter.all == plan.mixture.lengths.sum()
    assert each.meter.padding == 0
    assert each.meter.seconds > 0


def test_a_loss_that_is_not_finite_stops_with_a_fix(tiny_model, make_plan):
    plan = make_plan([30] * 8, row_tokens=64)

    class Broken(CausalLM):
        def __call__(self, model, batch):
            loss = super().__call__(model, batch)
            return Loss(loss.total * float("nan"), loss.units)

    with pytest.raises(TrainingError, match=r"not finite(?s:.*)fix: lower learning_rate"):
        Trainer(tiny_model(), Broken(), plan, SETTINGS).fit()


def test_the_held_out_loss_is_a_mean_over_targets_without_dropout(tiny_model, make_plan):
    plan = make_plan([30] * 4, row_tokens=64)
    held_out = make_plan([30, 10, 10, 5], row_tokens=32, seed=3)
    model = make_trainable(tiny_model(), "lora", dropout=0.5)
    trainer = Trainer(model, CausalLM(), plan, replace(SETTINGS, evaluate_every=1), held_out=held_out)
    losses = [CausalLM()(model.eval(), held_out.row(row)) for row in range(held_out.rows)]
    expected = sum(loss.total.item() for loss in losses) / sum(loss.units for loss in losses)
    model.train()
    assert trainer.held_out_means()["loss"] == pytest.approx(expected)
    assert model.training
    record = trainer.fit()
    assert [entry["step"] for entry in record.held_out] == list(range(plan.steps + 1))
    assert record.held_out[0]["loss"] == pytest.approx(expected)


def test_without_an_interval_the_held_out_loss_is_measured_at_the_end(tiny_model, make_plan):
    plan = make_plan([30] * 4, row_tokens=64)
    record = Trainer(tiny_model(), CausalLM(), plan, SETTINGS, held_out=plan).fit()
    assert [entry["step"] for entry in record.held_out] == [plan.steps]
