"""DPO, killed and taken up again: the reference stays the start model, and the end is the same, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.core.seeds import seed_everything
from graftlm.data.mixing import Mixture
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.store import TokenStore
from graftlm.models.adapters import make_trainable
from graftlm.objectives.preference import DPO
from graftlm.objectives.reference import reference_log_probabilities
from graftlm.training.trainer import Trainer, TrainingSettings

SETTINGS = TrainingSettings(learning_rate=5e-3, warmup=0.1, log_every=3, save_every=4, evaluate_every=5, seed=7)


@pytest.fixture
def plans(make_plan: Callable[..., PackingPlan], make_store: Callable[..., TokenStore]) -> list[PackingPlan]:
    """Sixty pairs to train on, and eight that are kept back."""
    training = make_plan([8, 11] * 60, group=2, row_tokens=48, rows_per_step=2)
    store = make_store([7, 9] * 8, group=2, seed=3)
    rest = Mixture(("h",), (store,), np.zeros(8, np.int64), np.arange(8), store.sample_lengths, first_block=1)
    return [training, pack(rest, row_tokens=48)]


@pytest.fixture
def start(tiny_model: Callable[..., Any], plans: list[PackingPlan]) -> Callable[..., Trainer]:
    """A new process; with a key the reference is kept beside the tokens and read from there."""

    def make(folder: Path | None, method: str = "full", key: str | None = None) -> Trainer:
        seed_everything(11)
        dropout = 0.2 if method == "lora" else 0.0
        model = make_trainable(tiny_model(num_hidden_layers=1), method, rank=4, dropout=dropout)  # type: ignore[arg-type]
        torch.rand(3)
        reference = reference_log_probabilities(model, plans, pad_rows=False, bf16=False, key=key)
        return Trainer(model, DPO(0.1, reference), plans[0], SETTINGS, held_out=plans[1], folder=folder, key="k")

    return make


def kept(plans: list[PackingPlan]) -> list[Path]:
    return [file for plan in plans for store in plan.mixture.stores for file in store.path.glob("reference-*")]  # type: ignore[union-attr]


def assert_bit_equal(one: Trainer, other: Trainer) -> None:
    for name, weight in one.trained.items():
        assert torch.equal(weight, other.trained[name]), name
    assert (one.record.losses, one.record.held_out) == (other.record.losses, other.record.held_out)
    for block, values in one.objective.reference.values.items():  # type: ignore[attr-defined]
        assert np.array_equal(values, other.objective.reference.values[block], equal_nan=True)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("key", [None, "start-model"], ids=["recomputed", "read"])
@pytest.mark.parametrize("killed", [[5], [6, 9, 13]], ids=str)
def test_killed_and_resumed_equals_uninterrupted(method, key, killed, start, plans, tmp_path, fit_until):
    whole = start(tmp_path / "whole", method)
    whole.fit()
    assert len(whole.record.losses) >= 4 and not kept(plans)
    for step in killed:
        fit_until(start(tmp_path / "cut", method, key), step)
    cut = start(tmp_path / "cut", method, key)
    assert len(kept(plans)) == (0 if key is None else 2), "one for each store"
    cut.fit()
    assert cut.record.resumed_from == [step // 4 * 4 for step in killed]
    assert_bit_equal(cut, whole)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_starts_at_ln_2_and_leaves_it(method, start, plans):
    """Against a reference that moved along, the loss would stay there."""
    trainer = start(None, method)
    record = trainer.fit()
    assert record.held_out[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    trainer.held_out = plans[0]
    assert trainer.held_out_means()["loss"] < math.log(2) - 0.01, "of the pairs that were learnt"
