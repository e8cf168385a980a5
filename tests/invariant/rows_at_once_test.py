"""How many rows a pass takes, by the budget or because memory ran out, does not change what is learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graftlm.core.errors import TrainingError
from graftlm.data.packing import PackedBatch, PackingPlan
from graftlm.models.adapters import make_trainable
from graftlm.objectives.causal_lm import CausalLM
from graftlm.objectives.preference import DPO
from graftlm.objectives.reference import reference_log_probabilities
from graftlm.training import trainer as trainer_module
from graftlm.training.objective import Loss
from graftlm.training.trainer import Trainer, TrainingSettings

SETTINGS = TrainingSettings(learning_rate=3e-3, warmup=0.0, log_every=1, save_every=2)
AT_ONCE = (1, 2, 4)


@pytest.fixture
def start(tiny_model: Callable[..., Any], make_plan: Callable[..., PackingPlan]) -> Callable[..., Trainer]:
    """objective, rows at once → a trainer of four rows a step, the last step shorter."""
    random = np.random.default_rng(0)
    plans = {
        "language": make_plan(random.integers(20, 33, 21).tolist(), row_tokens=33, rows_per_step=4),
        "pairs": make_plan(random.integers(6, 12, 60).tolist(), group=2, row_tokens=48, rows_per_step=4),
    }

    def make(kind: str, rows_at_once: int, method: str = "full", folder: Path | None = None, **more: Any) -> Trainer:
        torch.manual_seed(0)
        model = make_trainable(tiny_model(spread=0.1), method, rank=4)  # type: ignore[arg-type]
        plan = plans[kind]
        assert plan.rows % 4
        objective: Any = CausalLM()
        if kind == "pairs":
            objective = DPO(0.1, reference_log_probabilities(model, [plan], pad_rows=False, bf16=False))
        settings = replace(SETTINGS, rows_at_once=rows_at_once, **more)
        return Trainer(model, objective, plan, settings, folder=folder, key="k")

    return make


def assert_near(found: Trainer, wanted: Trainer) -> None:
    assert found.record.steps == wanted.record.steps >= 3
    for entry, expected in zip(found.record.losses, wanted.record.losses, strict=True):
        if entry["step"] == 1:  # both answers are still worth nothing: rounding decides which one seems better
            entry, expected = ({k: v for k, v in one.items() if k != "accuracy"} for one in (entry, expected))
        assert entry == pytest.approx(expected, rel=2e-4, abs=2e-6)
    for name, weight in found.trained.items():
        torch.testing.assert_close(weight, wanted.trained[name], rtol=1e-3, atol=2e-5)
    counts = [trainer.meter.state() | {"seconds": 0} for trainer in (found, wanted)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("pad_rows", [False, True])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["language", "pairs"])
def test_one_two_and_four_rows_at_once_learn_the_same(start, kind, method, pad_rows):
    trainers = [start(kind, rows, method, pad_rows=pad_rows) for rows in AT_ONCE]
    before = {name: weight.detach().clone() for name, weight in trainers[0].trained.items()}
    for trainer in trainers:
        trainer.fit()
    assert any(not torch.equal(weight, trainers[0].trained[name]) for name, weight in before.items())
    for trainer in trainers[1:]:
        assert_near(trainer, trainers[0])


def test_padding_of_many_rows_stays_inside_the_positions_of_a_model(tiny_model, make_plan):
    """Learned positions end somewhere: half-empty rows, joined, must not make one document beyond that."""
    plan = make_plan([70] * 8, row_tokens=128, rows_per_step=8)  # as long as the model's positions
    found = []
    for rows in (1, 8):
        trainer = Trainer(
            tiny_model("gpt2", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
            CausalLM(),
            plan,
            replace(SETTINGS, pad_rows=True, rows_at_once=rows),
        )
        found.append(trainer.fit().losses)
    assert found[1][0] == pytest.approx(found[0][0], rel=2e-4)


@pytest.mark.parametrize("kind", ["language", "pairs"])
@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 1), (1, 2)])
def test_a_run_goes_on_with_other_passes(start, fit_until, tmp_path, kind, before, after):
    whole = start(kind, before)
    whole.fit()
    fit_until(start(kind, before, folder=tmp_path), 3)
    cut = start(kind, after, folder=tmp_path)
    cut.fit()
    assert cut.record.resumed_from == [2]
    assert_near(cut, whole)
    if before == after:
        for name, weight in cut.trained.items():
            assert torch.equal(weight, whole.trained[name]), name


class SmallMemory:
    """An objective for which passes of more than `room` tokens run out of memory, in the middle of the step `at`."""

    def __init__(self, inner: Any, room: int, at: int = 0) -> None:
        self.inner, self.room, self.at = inner, room, at
        self.seen: list[int] = []
        self.passes: list[int] = []

    def units(self, batch: PackedBatch) -> int:
        return int(self.inner.units(batch))

    def __call__(self, model: torch.nn.Module, batch: PackedBatch) -> Loss:
        self.passes.append(len(batch.tokens))
        if len(batch.tokens) > self.room and len(self.passes) > self.at:
            raise torch.OutOfMemoryError("out of memory")
        self.seen += batch.document[: batch.documents].tolist()
        return self.inner(model, batch)  # type: ignore[no-any-return]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(trainer_module, "say", lines.append)
    return lines


@pytest.mark.parametrize("kind", ["language", "pairs"])
@pytest.mark.parametrize(("rows_at_once", "rows_of_room"), [(2, 1), (4, 2), (4, 1)])
def test_where_memory_runs_out_the_step_is_done_again_with_smaller_passes(
    start, said, kind, rows_at_once, rows_of_room
):
    wanted = start(kind, rows_of_room)
    wanted.fit()
    trainer = start(kind, rows_at_once)
    plan = trainer.feed
    trainer.objective = small = SmallMemory(trainer.objective, rows_of_room * plan.row_tokens)
    trainer.fit()
    assert len(said) == (2 if rows_at_once // rows_of_room == 4 else 1), "a notice for each halving, once a run"
    assert all("out of memory in step 1: done again with" in line for line in said)
    documents = [number for row in range(plan.rows) for number in plan.row(row).document.tolist()]
    assert small.seen == documents, "each once, in order"
    assert_near(trainer, wanted)
    for name, weight in trainer.trained.items():
        assert torch.equal(weight, wanted.trained[name]), name


def test_gradients_of_passes_before_the_one_that_failed_do_not_count_twice(start, said):
    """Memory runs out in the second pass of the second step: the first pass of that step has gone backward already."""
    wanted = start("language", 1)
    wanted.fit()
    trainer = start("language", 2)
    trainer.objective = small = SmallMemory(trainer.objective, trainer.feed.row_tokens, at=3)
    trainer.fit()
    assert len(said) == 1 and "in step 2" in said[0]
    assert small.passes[2] > 33 and small.passes[3] > 33 and max(small.passes[4:]) <= 33
    assert_near(trainer, wanted)


def test_a_single_row_that_does_not_fit_is_an_error_with_a_fix(start, said):
    trainer = start("language", 2)
    trainer.objective = SmallMemory(trainer.objective, 10)
    with pytest.raises(TrainingError, match=r"out of memory in step 1 with \d+ tokens a pass(?s:.*)fix: lower row_tok"):
        trainer.fit()
    assert len(said) == 1
    assert trainer.record.steps == 0
