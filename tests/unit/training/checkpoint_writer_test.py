"""Checkpoints beside the training: the state of the moment, one write at a time, errors that come to light."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from graftlm.core.errors import TrainingError
from graftlm.training import checkpoint_writer
from graftlm.training.checkpoint import list_checkpoints, load_checkpoint
from graftlm.training.checkpoint_writer import CheckpointWriter
from graftlm.training.distributed import ALONE


def test_what_is_written_is_the_state_at_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, write = threading.Event(), checkpoint_writer.write_state

    def late(*arguments: object) -> None:
        gate.wait(10)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint_writer, "write_state", late)
    writer = CheckpointWriter(tmp_path, 2, ALONE)
    weight, log = torch.ones(3), [{"loss": 1.0}]
    writer.save(5, {"weights": {"w": weight}, "window": log})
    assert list_checkpoints(tmp_path) == [], "training goes on while it is written"
    assert writer.steps() == [5], "but it counts: the best weights as of it must stay"
    weight.mul_(2)
    log.clear()
    gate.set()
    writer.wait()
    [(step, path)] = list_checkpoints(tmp_path)
    assert step == 5
    state = load_checkpoint(path)
    assert state["weights"]["w"].tolist() == [1.0] * 3 and state["window"] == [{"loss": 1.0}]


def test_a_write_waits_for_the_one_before(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 2, ALONE)
    for step in (1, 2, 3):
        writer.save(step, {"step": step})
    writer.wait()
    writer.wait()
    assert writer.steps() == [2, 3]


def test_an_error_of_the_writer_is_a_training_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint_writer, "write_state", full)
    writer = CheckpointWriter(tmp_path, 2, ALONE)
    writer.save(5, {})
    with pytest.raises(TrainingError, match=r"step 5 could not be written: No space left(?s:.*)make room on the disk"):
        writer.save(6, {})
    writer.save(7, {})
    writer.abandon()
    assert writer.steps() == []
