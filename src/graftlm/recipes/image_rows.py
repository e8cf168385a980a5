"""Images with their captions: what the frozen tower sees of them, each image once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graftlm.core.console import progress_bar, warn
from graftlm.core.errors import DataError
from graftlm.data.images import open_image
from graftlm.data.samples import Captioned
from graftlm.models.image_text import image_states
from graftlm.recipes.schema import Block
from graftlm.recipes.sources import held_out_places, read_source

BATCH = 32


@dataclass(frozen=True)
class SeenImages:
    """Images by path, and [images, V] what the tower sees of them."""

    place: dict[str, int]
    states: torch.Tensor


def read_captions(name: str, block: Block) -> tuple[list[Captioned], int, int]:
    """(samples, rows read, rows refused), the first refused ones said.

    Raises:
        DataError: no row has an image that is there, and a caption.
    """
    rows = read_source(name, block.model_copy(update={"kind": "captioned"}))
    if rows.faults:
        more = f"; and {len(rows.faults) - 3} more" if len(rows.faults) > 3 else ""
        shown = "; ".join(map(str, rows.faults[:3]))
        warn(f"data.{name}: {len(rows.faults)} of {rows.read} rows are refused: {shown}{more}")
    return [sample for sample in rows.samples if isinstance(sample, Captioned)], rows.read, len(rows.faults)


def split_captions(samples: list[Captioned], share: float) -> tuple[list[Captioned], list[Captioned]]:
    """(training, kept back): by image, so that none is on both sides."""
    images = list(dict.fromkeys(sample.image for sample in samples))
    kept_back = {images[place] for place in held_out_places(len(images), share)}
    train = [sample for sample in samples if sample.image not in kept_back]
    return train, [sample for sample in samples if sample.image in kept_back]


def see_images(model: Any, processor: Any, paths: Sequence[str], device: torch.device) -> SeenImages:
    """Open every image once; those that cannot be opened are named and left out.

    Raises:
        DataError: none can be opened.
    """
    kept: list[str] = []
    states: list[torch.Tensor] = []
    with progress_bar() as bar, torch.no_grad():
        task = bar.add_task("look at images", total=len(paths), note="")
        for start in range(0, len(paths), BATCH):
            part = paths[start : start + BATCH]
            opened = dict(_opened(part))
            if opened:
                pixels = processor(images=list(opened.values()), return_tensors="pt")["pixel_values"]
                states.append(image_states(model, pixels.to(device, model.dtype)).float())
                kept += opened
            bar.update(task, advance=len(part))
    if not kept:
        raise DataError("no image can be opened", where=str(Path(paths[0]).parent) if paths else None, fix="see above")
    return SeenImages({path: number for number, path in enumerate(kept)}, torch.cat(states))


def _opened(paths: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for path in paths:
        try:
            yield path, open_image(path)
        except DataError as error:
            warn(f"{error.where}: {error.reason}")
