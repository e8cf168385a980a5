"""The safetensors files of a saved model, read and written one tensor at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from graftlm.core.errors import ModelError
from graftlm.core.files import read_json
from graftlm.models.loading import locate, unloadable

DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class TensorForm:
    """Shape and number format of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightFiles:
    """The tensors of a model folder by name; only the ones asked for are read.

    Args:
        model: a folder, a hub name, or `rootstock`.

    Raises:
        ModelError: nothing is there, or the weights are not safetensors.
    """

    def __init__(self, model: str) -> None:
        self.name = model
        self.folder = _fetch(model)
        files = sorted(self.folder.glob("*.safetensors"))
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            files = [self.folder / file for file in sorted(set(read_json(index)["weight_map"].values()))]
        if not files:
            raise ModelError("there are no safetensors files", where=model, fix="give a saved model's folder")
        try:
            self._files = {name: file for file in files for name in _names(file)}
        except Exception as error:
            raise unloadable("model", model, error) from error

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    @property
    def config(self) -> dict:
        return dict(read_json(self.folder / "config.json"))

    def form(self, name: str) -> TensorForm:
        with safe_open(self._files[name], framework="pt") as file:
            part = file.get_slice(name)
            return TensorForm(tuple(part.get_shape()), _DTYPES[part.get_dtype()])

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)

    def copy_companions(self, folder: Path) -> None:
        """Copy configuration, tokenizer and whatever else stands beside the weights, weights left out."""
        for file in sorted(self.folder.iterdir()):
            if file.is_file() and file.suffix in (".json", ".jinja", ".txt", ".model") and not _is_about_weights(file):
                shutil.copyfile(file, folder / file.name)


def write_weights(path: Path, forms: dict[str, TensorForm], make: Callable[[str], torch.Tensor]) -> None:
    """Write one safetensors file; each tensor is made when its turn comes and forgotten when it is written.

    The format: 8 bytes that hold the header's length, a JSON header with the place of each tensor, then the bytes of
    the tensors end to end. Larger number formats come first, so every tensor is aligned to its own.

    Raises:
        ValueError: a tensor is not of the form announced.
    """
    ordered = sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name in ordered:
        form = forms[name]
        size = form.dtype.itemsize * int(torch.Size(form.shape).numel())
        header[name] = {
            "dtype": DTYPE_NAMES[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            tensor = make(name)
            if TensorForm(tuple(tensor.shape), tensor.dtype) != forms[name]:
                raise ValueError(f"{name} became {tuple(tensor.shape)} {tensor.dtype}, announced was {forms[name]}")
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _fetch(model: str) -> Path:
    where = locate(model)
    if Path(where).exists():
        return Path(where)
    try:
        return Path(snapshot_download(where, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]))
    except Exception as error:
        raise unloadable("model", model, error) from error


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def _is_about_weights(file: Path) -> bool:
    return file.name.endswith(".index.json") or file.name in ("receipt.json", "adapter_config.json")
