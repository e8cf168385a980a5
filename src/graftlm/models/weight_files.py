"""Weights on disk, a tensor at a time: models larger than memory can be read, renamed and written again.

safetensors are read tensor by tensor; `.bin` and `.pth` are mapped into memory, with weights_only, so that no pickle
runs code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from graftlm.core.errors import ModelError
from graftlm.core.files import read_json, write_json

Tensors = dict[str, Callable[[], torch.Tensor]]
"""Tensors by name, each read when it is called for."""

SHARD_BYTES = 4 * 2**30


class Weights:
    """The tensors of a checkpoint's files, and which of them were asked for.

    Raises:
        ModelError: a file is damaged, or not of tensors only.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._readers: Tensors = {}
        self._asked: set[str] = set()
        for file in files:
            self._readers |= file_tensors(file)

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    @property
    def names(self) -> list[str]:
        return list(self._readers)

    def tensor(self, name: str) -> Callable[[], torch.Tensor]:
        """How to read a tensor. Raises ModelError when there is none of that name."""
        if name not in self._readers:
            raise ModelError(f"the checkpoint has no tensor `{name}`", fix="download its files again: one is missing")
        self._asked.add(name)
        return self._readers[name]

    def refuse_rest(self, besides: str) -> None:
        """Raise ModelError when there are tensors that nobody asked for, other than those that `besides` matches."""
        rest = [name for name in self._readers if name not in self._asked and not re.search(besides, name)]
        if rest:
            raise ModelError(
                f"{len(rest)} tensors would be lost, `{rest[0]}` among them",
                fix="this is not a plain checkpoint of its family (quantised, or with an adapter?)",
            )


def model_files(folder: Path) -> list[Path]:
    """The weight files of a folder in Hugging Face's manner: safetensors before `.bin`. Empty when there are none."""
    for stem, end in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = folder / f"{stem}.{end}.index.json"
        if index.is_file():
            return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
        found = sorted(folder.glob(f"{stem}.{end}")) or sorted(folder.glob(f"{stem}-*-of-*.{end}"))
        if found:
            return found
    return []


def open_weights(folder: Path) -> Weights:
    """Raises ModelError when the folder has no weights."""
    files = model_files(folder)
    if not files:
        raise ModelError("no weights (*.safetensors or pytorch_model*.bin)", where=folder, fix="download them")
    return Weights(files)


def file_tensors(file: Path) -> Tensors:
    if not file.is_file():
        raise ModelError("the file does not exist, but the index names it", where=file, fix="download it")
    if file.suffix == ".safetensors":
        return _safetensors(file)
    return {name: lambda tensor=tensor: tensor for name, tensor in _pickled(file).items()}  # type: ignore[misc]


def _safetensors(file: Path) -> Tensors:
    try:
        opened = safe_open(file, framework="pt")
    except Exception as error:
        raise ModelError(f"damaged: {error}", where=file, fix="download it again") from error
    return {name: lambda name=name: opened.get_tensor(name) for name in opened.keys()}  # type: ignore[misc] # noqa: SIM118


def _pickled(file: Path) -> dict[str, torch.Tensor]:
    try:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # files older than torch 1.6 cannot be mapped
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"no plain file of tensors: {reason}", where=file, fix="download it again") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError("holds more than named tensors", where=file, fix="give the model's own weight files")
    return loaded


def write_safetensors(folder: Path, tensors: Tensors, shard_bytes: int = SHARD_BYTES) -> int:
    """Write `model*.safetensors` with their index, holding at most one shard in memory; returns the bytes of all
    tensors."""
    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    size = total = 0

    def flush() -> None:
        nonlocal held, size
        save_file(held, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(held))
        held, size = {}, 0

    for name, read in tensors.items():
        tensor = read().contiguous()
        if held and size + tensor.nbytes > shard_bytes:
            flush()
        # A part of a larger tensor would be written with the whole of its storage, and parts may not share one.
        held[name] = tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / "model.safetensors")
        return total
    places: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"shard-{number}").rename(folder / file)
        places |= dict.fromkeys(names, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    return total


def rows(read: Callable[[], torch.Tensor], start: int, end: int) -> Callable[[], torch.Tensor]:
    """Some rows of a tensor."""
    return lambda: read()[start:end]


def joined(parts: Iterable[Callable[[], torch.Tensor]], dim: int = 0) -> Callable[[], torch.Tensor]:
    """Several tensors as one."""
    listed = list(parts)
    return lambda: torch.cat([read() for read in listed], dim)
