"""The best weights so far, for early stopping."""

from __future__ import annotations

from pathlib import Path

import torch

from graftlm.core.files import remove_folder
from graftlm.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint


class BestWeights:
    """Owns the folder of weights that had the best held-out loss of their time, named by their step.

    A run that is killed goes on from a checkpoint that may be older than the latest best. So the best *as of
    each kept checkpoint* stays, and what lies after the point of resumption goes: the resumed run makes it
    again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, weights: dict[str, torch.Tensor], checkpoint_steps: list[int]) -> None:
        """Add the weights after `step` steps; drop those that no run resumed from a checkpoint asks for."""
        save_checkpoint(self.folder, step, {"step": step, "weights": weights}, keep=0)
        self.prune(checkpoint_steps)

    def prune(self, checkpoint_steps: list[int]) -> None:
        found = list_checkpoints(self.folder)
        wanted = {found[-1][0]} if found else set()
        for at in checkpoint_steps:
            wanted |= {max((step for step, _ in found if step <= at), default=-1)}
        for step, path in found:
            if step not in wanted:
                remove_folder(path)

    def forget_after(self, step: int) -> None:
        """Drop what was saved after `step`."""
        for at, path in list_checkpoints(self.folder):
            if at > step:
                remove_folder(path)

    def load(self, step: int) -> dict[str, torch.Tensor]:
        """The weights after `step` steps. Raises TrainingError when they cannot be read."""
        return load_checkpoint(self.folder / f"step-{step:07d}")["weights"]
