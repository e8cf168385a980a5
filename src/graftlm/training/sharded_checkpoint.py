"""Checkpoints that many processes write together and any number of processes reads (torch.distributed.checkpoint).

A folder holds `run.pt` (everything that is not spread, with a mark where a spread tensor belongs), `random-<rank>.pt`
for each process, and PyTorch's own files with the spread tensors. It appears under its name when all is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor

from graftlm.core.files import atomic_folder
from graftlm.training.distributed import World

MARK = "in the sharded files"
RUN = "run.pt"


def write_shards(path: Path, state: dict[str, Any], world: World) -> None:
    """Write a state, its tensors already in host memory, into the folder `path`; every process calls this.

    Raises:
        Exception: of any process, in all of them.
    """
    with atomic_folder(path) if world.first else nullcontext() as temporary:
        box = [str(temporary)]
        dist.broadcast_object_list(box, src=0, group=world.writer, device=torch.device("cpu"))
        folder = Path(box[0])
        random = folder / f"random-{world.rank}.pt"
        torch.save(state["random"], random)
        with random.open("rb") as written:  # the first process's disk may not be this one's
            os.fsync(written.fileno())
        if world.first:
            torch.save(_marked(state) | {"random": None}, folder / RUN)
        spread = {_key(place): value for place, value in _leaves(state) if isinstance(value, DTensor)}
        dcp.save(spread, checkpoint_id=folder, process_group=world.writer)
    dist.barrier(group=world.writer)  # only now it has its name


def is_sharded(path: Path) -> bool:
    return (path / RUN).is_file()


def read_shards(path: Path, like: dict[str, torch.Tensor], world: World) -> dict[str, Any]:
    """The state, its spread tensors spread as the tensors of the present run.

    Args:
        like: for the place of a spread tensor (weights by name, optimizer state by number): the weight it belongs to.

    Returns:
        `random` is None for a process that the writing run did not have.
    """
    state: dict[str, Any] = torch.load(path / RUN, map_location="cpu", weights_only=True)
    written = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    places = [place for place, value in _leaves(state) if isinstance(value, str) and value == MARK]
    targets = {
        _key(place): torch.empty_like(like[_owner(place)], dtype=written[_key(place)].properties.dtype)  # type: ignore[union-attr]
        for place in places
    }
    dcp.load(targets, checkpoint_id=path, process_group=world.main, no_dist=world.size == 1)
    for place in places:
        inner = state
        for part in place[:-1]:
            inner = inner[part]
        inner[place[-1]] = targets[_key(place)]
    random = path / f"random-{world.rank}.pt"
    state["random"] = torch.load(random, map_location="cpu", weights_only=True) if random.is_file() else None
    return state


def _owner(place: tuple[Any, ...]) -> str:
    """("weights", name) and ("optimizer", "state", number, key) → the key of `like`."""
    return str(place[1]) if place[0] == "weights" else str(place[2])


def _key(place: tuple[Any, ...]) -> str:
    return "/".join(str(part) for part in place)


def _leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(place, value) of everything that stands in nested dicts."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    else:
        yield place, value


def _marked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _marked(inner) for key, inner in value.items()}
    return MARK if isinstance(value, DTensor) else value
