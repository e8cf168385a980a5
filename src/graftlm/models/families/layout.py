"""What it takes to turn a checkpoint of one layout into another: every layout reads to and writes from one form."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.files import read_json
from graftlm.models.weight_files import Tensors


@dataclass(frozen=True)
class Checkpoint:
    """A model on its way between layouts.

    Attributes:
        config: as transformers has it, its class with it.
        tensors: in transformers' names; nothing is read before it is written.
        tokenizer: None where the source has none.
        copies: files that the target gets as they are, such as `tokenizer.model`, which a way back needs.
        notes: what a user should know.
    """

    config: PretrainedConfig
    tensors: Tensors
    tokenizer: Tokenizer | None = None
    copies: tuple[Path, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.tensors.values()))().dtype

    def head(self) -> Callable[[], torch.Tensor]:
        """The output matrix, also where it is the embedding."""
        return self.tensors.get("lm_head.weight") or self.tensors["model.embed_tokens.weight"]


@dataclass(frozen=True)
class Layout:
    """A way in which checkpoints lie on disk.

    Attributes:
        name: as `--to` takes it.
        what: the same for people.
        recognises: whether a folder (or file) is one of these, by its files alone.
        read: raises ModelError when the files do not fit together.
        write: into an empty folder; returns the bytes of all tensors. Raises ModelError when the model does not fit
            into this layout. None: only read.
    """

    name: str
    what: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Checkpoint]
    write: Callable[[Checkpoint, Path], int] | None = None


def config_of(folder: Path) -> dict[str, Any]:
    """The values of `config.json`; empty when there is none."""
    file = folder / "config.json"
    found = read_json(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def present(folder: Path, *names: str) -> tuple[Path, ...]:
    """Those of the files that exist."""
    return tuple(folder / name for name in names if (folder / name).is_file())


def copy_files(checkpoint: Checkpoint, folder: Path) -> None:
    for file in checkpoint.copies:
        shutil.copyfile(file, folder / file.name)


def copy_sentencepiece(checkpoint: Checkpoint, folder: Path) -> None:
    """The original tokenizer for a layout that knows no other; says so when it is not there."""
    copy_files(checkpoint, folder)
    if not (folder / "tokenizer.model").is_file():
        checkpoint.notes.append("there is no tokenizer.model: put the original one beside the weights")
