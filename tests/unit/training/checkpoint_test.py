"""Checkpoints and the best weights: whole, the newest few, the right ones."""

from __future__ import annotations

import pytest
import torch

from graftlm.core.errors import TrainingError
from graftlm.training.best import BestWeights
from graftlm.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint


def steps(folder) -> list[int]:
    return [step for step, _ in list_checkpoints(folder)]


def test_the_newest_are_kept(tmp_path):
    for step in (5, 10, 1000, 15):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert steps(tmp_path) == [15, 1000]
    assert load_checkpoint(tmp_path / "step-0001000") == {"step": 1000}
    save_checkpoint(tmp_path, 20, {}, keep=0)
    assert steps(tmp_path) == [15, 20, 1000]


def test_half_written_and_foreign_folders_are_not_seen(tmp_path):
    save_checkpoint(tmp_path, 5, {}, keep=2)
    for name in (".step-0000010.123.part", "best", "step-12", "step-0000012.old"):
        (tmp_path / name).mkdir()
    assert steps(tmp_path) == [5]
    assert steps(tmp_path / "absent") == []


def test_an_unreadable_checkpoint_says_what_to_do(tmp_path):
    path = save_checkpoint(tmp_path, 5, {"a": torch.ones(3)}, keep=2)
    (path / "state.pt").write_bytes((path / "state.pt").read_bytes()[:100])
    with pytest.raises(
        TrainingError, match=r"step-0000005: the checkpoint cannot be read(?s:.*)fix: delete this folder"
    ):
        load_checkpoint(path)


def test_no_code_runs_when_a_checkpoint_is_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return print, ("trapped",)

    path = save_checkpoint(tmp_path, 5, {"a": Trap()}, keep=2)
    with pytest.raises(TrainingError):
        load_checkpoint(path)


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value])}


def test_the_best_as_of_each_checkpoint_stays(tmp_path):
    best = BestWeights(tmp_path)
    best.save(10, weights(1), checkpoint_steps=[])
    best.save(20, weights(2), checkpoint_steps=[])
    assert steps(tmp_path) == [20], "no checkpoint: a killed run starts anew"
    best.save(30, weights(3), checkpoint_steps=[25])
    assert steps(tmp_path) == [20, 30], "a run resumed at 25 needs the best of 20"
    best.save(40, weights(4), checkpoint_steps=[25, 35])
    assert steps(tmp_path) == [20, 30, 40]
    best.prune([35, 45])
    assert steps(tmp_path) == [30, 40]
    best.forget_after(35)
    assert steps(tmp_path) == [30]
    assert best.load(30, {"w": torch.zeros(1)})["w"].tolist() == [3.0]
    best.forget_after(-1)
    assert steps(tmp_path) == []
