"""The best weights so far, for early stopping."""

from __future__ import annotations

from pathlib import Path

import torch

from graftlm.training.checkpoint import checkpoint_path, list_checkpoints
from graftlm.training.checkpoint_writer import HostCopy, forget, write_state
from graftlm.training.distributed import ALONE, World
from graftlm.training.snapshot import read_state


class BestWeights:
    """Owns the folder of weights that had the best held-out loss of their time, named by their step.

    A run that is killed goes on from a checkpoint that may be older than the latest best. So the best *as of
    each kept checkpoint* stays, and what lies after the point of resumption goes: the resumed run makes it
    again.
    """

    def __init__(self, folder: Path, world: World = ALONE) -> None:
        self.folder, self._world = folder, world

    def save(self, step: int, weights: dict[str, torch.Tensor], checkpoint_steps: list[int]) -> None:
        """Add the weights after `step` steps; drop those that no run resumed from a checkpoint asks for.

        No checkpoint may be under way: the processes talk about both over the same group.
        """
        state = {"step": step, "weights": weights, "random": None}
        write_state(self.folder, step, HostCopy(self._world)(state), keep=0, world=self._world)
        self.prune(checkpoint_steps)

    def prune(self, checkpoint_steps: list[int]) -> None:
        found = list_checkpoints(self.folder)
        wanted = {found[-1][0]} if found else set()
        for at in checkpoint_steps:
            wanted |= {max((step for step, _ in found if step <= at), default=-1)}
        forget([path for step, path in found if step not in wanted], self._world)

    def forget_after(self, step: int) -> None:
        """Drop what was saved after `step`."""
        forget([path for at, path in list_checkpoints(self.folder) if at > step], self._world)

    def load(self, step: int, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights after `step` steps, spread as `like`. Raises TrainingError when they cannot be read."""
        return read_state(checkpoint_path(self.folder, step), like, self._world)["weights"]
