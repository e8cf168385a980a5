"""Checkpoints: whole or absent, exact to resume, the last few kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from graftlm.core.errors import TrainingError
from graftlm.core.files import atomic_folder, remove_folder

NAME = re.compile(r"step-(\d{7})")


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:07d}"


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the checkpoint after `step` steps; delete all but the newest `keep` (0: delete none)."""
    path = checkpoint_path(folder, step)
    with atomic_folder(path) as temporary:
        torch.save(state, temporary / "state.pt")
    keep_newest(folder, keep)
    return path


def keep_newest(folder: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep` (0: delete none)."""
    for _, old in list_checkpoints(folder)[:-keep]:
        remove_folder(old)


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path), oldest first. Half-written ones have another name and are not seen."""
    if not folder.is_dir():
        return []
    found = [(NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state, in host memory (random states must lie there; weights are copied to where they belong).

    Raises:
        TrainingError: the file cannot be read.
    """
    try:
        return torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> TrainingError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return TrainingError(
        f"the checkpoint cannot be read: {first}",
        where=path,
        fix="delete this folder; the run goes on from the one before",
    )
