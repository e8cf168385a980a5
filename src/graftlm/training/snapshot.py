"""A checkpoint's tensors between the disk and a run that may be spread over another number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from graftlm.core.seeds import restore_random_state, seed_everything
from graftlm.training.checkpoint import load_checkpoint, unreadable
from graftlm.training.distributed import World, as_part
from graftlm.training.sharded_checkpoint import is_sharded, read_shards


def read_state(
    path: Path, weights: dict[str, torch.Tensor], world: World, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """The state that one or many processes wrote, its tensors spread as this run's weights are.

    Args:
        weights: trained weights by name.
        optimizer: its states are numbered in the order of its parameter groups.

    Raises:
        TrainingError: it cannot be read.
    """
    numbered = [p for group in optimizer.param_groups for p in group["params"]] if optimizer is not None else []
    like = weights | {str(number): parameter for number, parameter in enumerate(numbered)}
    if is_sharded(path):
        try:
            return read_shards(path, like, world)
        except Exception as error:
            raise unreadable(path, error) from error
    state = load_checkpoint(path)
    state["weights"] = {name: as_part(weight, weights[name]) for name, weight in state["weights"].items()}
    for number, entry in state.get("optimizer", {}).get("state", {}).items():
        for key, value in entry.items():
            if isinstance(value, torch.Tensor):
                entry[key] = as_part(value, like[str(number)])
    if not world.first and "random" in state:
        state["random"] = None  # that of the one process is the first one's
    return state


def seed_process(seed: int, world: World) -> None:
    """Other dropout in each process; the first one draws as if it were alone."""
    seed_everything(seed + 1_000_003 * world.rank)


def take_up_random(state: dict[str, Any] | None, seed: int, step: int, world: World) -> None:
    """The random state of this process at the checkpoint; one that was not there then begins its own."""
    if state is None:
        seed_process(seed + 7919 * step, world)
    else:
        restore_random_state(state)
