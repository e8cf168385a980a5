"""Checkpoints beside the training: copied to host memory at once, written by a thread while the next steps run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from graftlm.core.errors import TrainingError
from graftlm.core.files import remove_folder
from graftlm.training.background import Background
from graftlm.training.checkpoint import checkpoint_path, keep_newest, list_checkpoints, save_checkpoint
from graftlm.training.distributed import World
from graftlm.training.sharded_checkpoint import write_shards


class CheckpointWriter:
    """Owns the checkpoints of one run.

    Args:
        keep: checkpoints to keep.
    """

    def __init__(self, folder: Path, keep: int, world: World) -> None:
        self._folder, self._keep, self._world = folder, keep, world
        self._host = HostCopy(world)
        self._background = Background()
        self._pending: int | None = None

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, and of the one that is being written."""
        written = {step for step, _ in list_checkpoints(self._folder)}
        return sorted(written | ({self._pending} if self._pending is not None else set()))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state and begin to write it; waits for the checkpoint before, if that is still being written.

        Raises:
            TrainingError: the checkpoint before could not be written.
        """
        self.wait()
        self._pending = step
        self._background.start(partial(write_state, self._folder, step, self._host(state), self._keep, self._world))

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            TrainingError: it could not be written.
        """
        if not self._background.busy:
            return
        step, self._pending = self._pending, None
        try:
            self._background.result()
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TrainingError(
                f"the checkpoint of step {step} could not be written: {first}",
                where=self._folder,
                fix="make room on the disk and run the same command again; the checkpoint before is whole",
            ) from error

    def abandon(self) -> None:
        """After another error: let a write that is under way finish, if it can."""
        self._background.abandon(patience=60.0)
        self._pending = None


def write_state(folder: Path, step: int, state: dict[str, Any], keep: int, world: World) -> None:
    """Write the checkpoint after `step` steps, many processes one file each; delete all but the newest `keep`."""
    if world.size == 1:
        save_checkpoint(folder, step, state, keep)
        return
    write_shards(checkpoint_path(folder, step), state, world)
    if world.first:
        keep_newest(folder, keep)


class HostCopy:
    """Copies nested states into host memory; page-locked buffers of GPU tensors are used again the next time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._buffers: dict[tuple[Any, ...], torch.Tensor] = {}

    def __call__(self, state: dict[str, Any]) -> dict[str, Any]:
        """The copy; it shares nothing with `state`, and is overwritten by the next call."""
        copied = self._copy(state, ())
        if self._buffers:
            torch.cuda.current_stream().synchronize()  # the copies were only queued
        return copied

    def _copy(self, value: Any, place: tuple[Any, ...]) -> Any:
        if isinstance(value, dict):
            return {key: self._copy(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(inner, (*place, number)) for number, inner in enumerate(value))
        if isinstance(value, DTensor):
            mesh = self._world.host_mesh
            assert mesh is not None
            return DTensor.from_local(
                self._to_host(value.to_local(), place),
                mesh if value.device_mesh.ndim == mesh.ndim else mesh["shard"],
                value.placements,
                run_check=False,
                shape=value.shape,
                stride=value.stride(),
            )
        return self._to_host(value, place) if isinstance(value, torch.Tensor) else value

    def _to_host(self, tensor: torch.Tensor, place: tuple[Any, ...]) -> torch.Tensor:
        if tensor.device.type == "cpu":
            return tensor.detach().clone()
        buffer = self._buffers.get(place)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._buffers[place] = buffer
        return buffer.copy_(tensor.detach(), non_blocking=True)


def forget(paths: list[Path], world: World) -> None:
    """Delete folders, once for all processes."""
    if world.first:
        for path in paths:
            remove_folder(path)
