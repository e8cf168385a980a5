"""A run that is killed and taken up again ends where an uninterrupted one ends, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graftlm.core.errors import TrainingError
from graftlm.core.seeds import seed_everything
from graftlm.models.adapters import Adaptation, Expand, Freeze, Heads, Lora, Method, Prefix, make_trainable
from graftlm.objectives.causal_lm import CausalLM
from graftlm.training.checkpoint import list_checkpoints
from graftlm.training.trainer import Trainer, TrainingSettings

SETTINGS = TrainingSettings(
    learning_rate=1e-2, warmup=0.1, log_every=3, save_every=4, evaluate_every=5, seed=7, keep=2
)
STEPS = 20


@pytest.fixture
def plans(make_plan):
    """(training, held-out) rows."""
    plan = make_plan([12, 20, 7, 25] * 21, row_tokens=32, rows_per_step=2, learnable=True)
    plan = replace(plan, row_edges=plan.row_edges[: STEPS * 2 + 1])
    assert plan.steps == STEPS == plan.rows / 2
    return plan, make_plan([20] * 3, row_tokens=64, seed=3, learnable=True)


@pytest.fixture
def start(tiny_model, plans):
    """A new process: the model anew, the adapter anew, other random numbers drawn before."""

    def make(
        folder: Path | None,
        method: Method | Adaptation = "full",
        settings: TrainingSettings = SETTINGS,
        weights: torch.dtype = torch.float32,
        **options,
    ) -> Trainer:
        seed_everything(11)
        model = make_trainable(
            tiny_model(spread=0.1, num_hidden_layers=1, intermediate_size=144),  # 32 × 144 weights get 8-bit moments
            method,
            rank=4,
            dropout=0.2 if method == "lora" else 0.0,
            weights=weights,
        )
        torch.rand(3)
        options = {"held_out": plans[1], "key": "k"} | options
        return Trainer(model, CausalLM(), plans[0], settings, folder=folder, **options)

    return make


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def assert_bit_equal(one: Trainer, other: Trainer) -> None:
    for name, weight in weights(one).items():
        assert torch.equal(weight, weights(other)[name]), name
    states = [trainer.optimizer.state_dict() for trainer in (one, other)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, state in states[0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, states[1]["state"][number][name])
    assert one.record.losses == other.record.losses
    assert one.record.held_out == other.record.held_out
    assert (one.record.steps, one.record.stopped, one.record.best_step) == (
        other.record.steps, other.record.stopped, other.record.best_step,
    )  # fmt: skip
    counts = [
        {name: n for name, n in trainer.meter.state().items() if name != "seconds"}
        for trainer in (one, other)
    ]
    assert counts[0] == counts[1], "tokens are counted once, and none is lost"


OTHERS = [
    Freeze(last=1), Lora(rank=2, kind="dora"), Lora(rank=2, kind="pissa"), Prefix(tokens=3, dropout=0.2),
    Prefix(tokens=3, projection=True), Heads(((0, 1), (0, 2))), Expand(1),
]  # fmt: skip


@pytest.mark.parametrize("method", OTHERS, ids=repr)
def test_a_killed_run_of_every_method(start, tmp_path, method, fit_until):
    """With LoRA+'s two rates, where there are two kinds of parameters."""
    settings = replace(SETTINGS, rates={"lora_B": 4.0})
    whole = start(tmp_path / "whole", method, settings)
    whole.fit()
    fit_until(start(tmp_path / "killed", method, settings), 6)
    again = start(tmp_path / "killed", method, settings)
    again.fit()
    assert again.record.resumed_from == [4]
    assert_bit_equal(again, whole)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("killed", [[4], [19], [6, 9, 14]])
def test_killed_and_resumed_equals_uninterrupted(start, tmp_path, method, killed, fit_until):
    whole = start(tmp_path / "whole", method)
    whole.fit()
    assert len(whole.record.losses) == 7
    for step in killed:
        fit_until(start(tmp_path / "cut", method), step)
    cut = start(tmp_path / "cut", method)
    cut.fit()
    assert cut.record.resumed_from == [step // 4 * 4 for step in killed]
    assert whole.record.resumed_from == []
    assert_bit_equal(cut, whole)


@pytest.mark.parametrize(
    ("weights", "moments", "rounding"),
    [
        (torch.bfloat16, "bf16", "stochastic"),
        (torch.bfloat16, "8bit", "stochastic"),
        (torch.bfloat16, "8bit", "master"),
        (torch.float32, "8bit", "stochastic"),
    ],
)
def test_weights_and_moments_of_few_bits_resume_alike(start, tmp_path, weights, moments, rounding, fit_until):
    settings = replace(SETTINGS, moments=moments, rounding=rounding)
    whole = start(tmp_path / "whole", settings=settings, weights=weights)
    whole.fit()
    assert whole.record.losses[-1]["loss"] < whole.record.losses[0]["loss"]
    fit_until(start(tmp_path / "cut", settings=settings, weights=weights), 9)
    cut = start(tmp_path / "cut", settings=settings, weights=weights)
    cut.fit()
    formats = {slot.dtype for slots in cut.optimizer.state.values() for slot in slots.values()}
    assert (torch.uint8 in formats) == (moments == "8bit") and (torch.int16 in formats) == (rounding == "master")
    assert_bit_equal(cut, whole)


def test_dropout_takes_part_in_this(start, tmp_path):
    """The tests above would not see a lost random state if dropout did nothing."""
    with_dropout, without = start(None, "lora"), start(None, "lora")
    for module in without.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert with_dropout.fit().losses != without.fit().losses


def test_checkpoints_do_not_change_the_run(start, tmp_path):
    """Neither the weights nor the log: checkpoints by the clock fall on other steps each time."""
    saved = start(tmp_path / "saved")
    unsaved = start(None, settings=replace(SETTINGS, save_every=0))
    often = start(tmp_path / "often", settings=replace(SETTINGS, save_every=0, save_seconds=1e-9))
    for trainer in (saved, unsaved, often):
        trainer.fit()
    assert_bit_equal(saved, unsaved)
    assert_bit_equal(often, unsaved)
    assert [step for step, _ in list_checkpoints(tmp_path / "often")] == [18, 19]


def test_the_last_checkpoints_are_kept(start, tmp_path):
    start(tmp_path).fit()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [12, 16], "the end is saved by whoever called"


def test_a_checkpoint_of_another_run_is_refused(start, tmp_path, fit_until):
    fit_until(start(tmp_path), 5)
    with pytest.raises(TrainingError, match=r"another recipe(?s:.*)fix: delete the folder"):
        start(tmp_path, key="other").fit()


def test_a_half_written_checkpoint_is_ignored(start, tmp_path, fit_until):
    fit_until(start(tmp_path), 6)
    half = tmp_path / ".step-0000008.99999999.part"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    resumed = start(tmp_path)
    resumed.fit()
    assert resumed.record.resumed_from == [4]
    assert not half.exists(), "the next writer of that checkpoint clears it away"


def test_a_corrupt_checkpoint_is_a_clear_error_and_the_one_before_serves(start, tmp_path, fit_until):
    whole = start(None)
    whole.fit()
    fit_until(start(tmp_path), 9)
    newest = list_checkpoints(tmp_path)[-1][1]
    (newest / "state.pt").write_bytes(b"\x00" * 100)
    with pytest.raises(
        TrainingError, match=r"step-0000008: the checkpoint cannot be read(?s:.*)delete this folder"
    ):
        start(tmp_path).fit()
    (newest / "state.pt").unlink()
    newest.rmdir()
    cut = start(tmp_path)
    cut.fit()
    assert cut.record.resumed_from == [4]
    assert_bit_equal(cut, whole)


class Scripted(CausalLM):
    """Held-out losses by a script, whatever the weights are; remembers the weights at each."""

    def __init__(self, script: dict[int, float]) -> None:
        self.script, self.seen = script, {}
        self.trainer: Trainer

    def __call__(self, model, batch):
        loss = super().__call__(model, batch)
        if model.training:
            return loss
        step = self.trainer.record.steps
        self.seen[step] = weights(self.trainer)
        return replace(loss, total=loss.total * 0 + self.script[step] * loss.units)


def early(start, folder: Path, script: list[float], patience: int, **settings) -> Trainer:
    """A run whose held-out losses at steps 0, 2, 4 … are those of the script."""
    options = {"log_every": 3, "save_every": 3, "evaluate_every": 2} | settings
    trainer = start(folder, settings=replace(SETTINGS, patience=patience, **options))
    trainer.objective = Scripted({2 * i: loss for i, loss in enumerate(script)})
    trainer.objective.trainer = trainer
    return trainer


FALLS_THEN_RISES = [9, 8, 7, 6, 6.5, 6.2, 6.1, 5, 4, 3, 2]
STILL_FALLS = [9, 8, 7, 6, 6.5, 5, 5.5, 4, 4.5, 3, 2]
BEST_EARLY = [9, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


def test_early_stopping_goes_back_to_the_best_weights(start, tmp_path):
    trainer = early(start, tmp_path, FALLS_THEN_RISES, patience=3)
    record = trainer.fit()
    assert record.steps == 12
    assert "not fallen for 3 evaluations (step 12)" in record.stopped
    assert record.best_step == 6
    assert [entry["loss"] for entry in record.held_out] == pytest.approx(FALLS_THEN_RISES[:7])
    assert record.losses[-1]["step"] == 12, "the log reaches the last step"
    for name, weight in weights(trainer).items():
        assert torch.equal(weight, trainer.objective.seen[6][name])


def test_a_run_to_the_end_also_has_its_best_weights(start, tmp_path):
    trainer = early(start, tmp_path, [*STILL_FALLS[:-1], 3.5], patience=9)
    record = trainer.fit()
    assert (record.steps, record.best_step, record.stopped) == (STEPS, 18, "all data seen")
    assert all(
        torch.equal(weight, trainer.objective.seen[18][name]) for name, weight in weights(trainer).items()
    )


@pytest.mark.parametrize("script", [FALLS_THEN_RISES, STILL_FALLS, BEST_EARLY])
@pytest.mark.parametrize("killed", [[8], [2, 5, 11]])
@pytest.mark.parametrize("save_every", [0, 3])
def test_early_stopping_survives_kills(start, tmp_path, script, killed, save_every, fit_until):
    whole = early(start, tmp_path / "whole", script, patience=3, save_every=save_every)
    whole.fit()
    for step in killed:
        if step <= whole.record.steps:
            fit_until(early(start, tmp_path / "cut", script, 3, save_every=save_every), step)
    cut = early(start, tmp_path / "cut", script, 3, save_every=save_every)
    cut.fit()
    assert_bit_equal(cut, whole)


def test_best_weights_of_a_later_past_do_not_come_back(start, tmp_path, fit_until):
    """What a killed run saved after the checkpoint is forgotten, even if the resumed run goes another way."""
    fit_until(early(start, tmp_path, [9, 8, 7, 6, 6.5, 1], patience=3, save_every=6), 11)
    other_way = [9, 8, 7, 6, 5, 6.6, 6.7, 6.8]
    resumed = early(start, tmp_path, other_way, patience=3, save_every=6)
    record = resumed.fit()
    assert record.resumed_from == [6]
    assert record.best_step == 8
    again = early(start, tmp_path / "fresh", other_way, patience=3, save_every=6)
    again.fit()
    assert_bit_equal(resumed, again)


def test_best_weights_of_an_earlier_run_do_not_come_back(start, tmp_path, fit_until):
    """The folder still holds the best of a run that left no checkpoint to resume from."""
    fit_until(early(start, tmp_path, [9, 8, 7, 6, 1], patience=3, save_every=0), 8)
    trainer = early(start, tmp_path, [9, 5, 6, 7, 8], patience=3, save_every=0)
    assert trainer.fit().best_step == 2
    assert all(
        torch.equal(weight, trainer.objective.seen[2][name]) for name, weight in weights(trainer).items()
    )


def test_a_resumed_run_that_had_already_stopped_trains_no_further(start, tmp_path):
    first = early(start, tmp_path, BEST_EARLY, patience=2, save_every=6)
    first.fit()
    assert first.record.steps == 6
    again = early(start, tmp_path, BEST_EARLY, patience=2, save_every=6)
    steps: list[int] = []
    again.fit(steps.append)
    assert steps == []
    assert_bit_equal(again, first)


@pytest.mark.parametrize("missing", ["held_out", "folder"])
def test_early_stopping_with_nothing_to_watch_is_an_error(start, tmp_path, missing):
    options = {"held_out": None} if missing == "held_out" else {}
    with pytest.raises(TrainingError, match="early stopping"):
        start(None if missing == "folder" else tmp_path, settings=replace(SETTINGS, patience=1), **options)


def test_a_held_out_loss_that_is_not_finite_stops_the_run(start, tmp_path):
    with pytest.raises(TrainingError, match=r"not finite at or just before step 4 \(held-out loss nan"):
        early(start, tmp_path, [9, 8, float("nan")], patience=3).fit()


def test_a_checkpoint_never_holds_weights_that_a_check_would_have_refused(start, tmp_path):
    """The loss breaks at step 5, the log comes at 9, a checkpoint is due at 6: it must not be written."""

    class BreaksLate(CausalLM):
        calls = 0

        def __call__(self, model, batch):
            loss = super().__call__(model, batch)
            BreaksLate.calls += 1
            return replace(loss, total=loss.total * (float("inf") if BreaksLate.calls > 4 * 2 else 1))

    trainer = start(tmp_path, settings=replace(SETTINGS, log_every=9, save_every=3, evaluate_every=0))
    trainer.objective = BreaksLate()
    with pytest.raises(TrainingError, match="not finite"):
        trainer.fit()
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3]
