"""Turn a checkpoint of another layout into one that graft trains, and back: the command and the stage."""

from __future__ import annotations

import time
from pathlib import Path

from rich.markup import escape

from graftlm.core.console import say
from graftlm.core.files import remove_folder
from graftlm.core.receipts import Receipt
from graftlm.models.conversion import Conversion, convert
from graftlm.models.loading import locate
from graftlm.recipes.stage_settings import ConvertStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import plain_receipt

GIB = 2**30


def convert_model(source: str, target: Path, to: str, kv_heads: int | None) -> Conversion:
    """Convert and say what was found and done.

    Raises:
        ModelError: see graftlm.models.conversion.convert.
    """
    path = Path(source).expanduser()
    done = convert(path if path.exists() else Path(locate(source)), target, to=to, kv_heads=kv_heads)
    for line in story(done):
        say(f"  {escape(line)}")
    say(escape(str(target)))
    return done


def story(done: Conversion) -> list[str]:
    """What was found and made, a line each."""
    size = f"{done.size / GIB:.2f} GiB" if done.size >= GIB / 10 else f"{done.size / 2**20:.1f} MiB"
    made = f"wrote: {done.target.what}, {size}, {done.dtype}"
    return [f"found: {done.source.what}", *(f"note: {note}" for note in done.notes), made]


def run(stage: StageContext) -> Receipt:
    """The stage: the model that it starts from, in another layout or with fewer key/value heads."""
    settings, began = stage.settings, time.perf_counter()
    assert isinstance(settings, ConvertStage)
    remove_folder(stage.model_folder)  # of a run that was killed before its receipt
    done = convert_model(stage.start.where, stage.model_folder, settings.to, settings.kv_heads)
    figures: dict[str, float | str] = {"found": done.source.what, "wrote": done.target.what, "dtype": done.dtype}
    return plain_receipt(stage, began, figures=figures | {"GiB": done.size / GIB}, notes=done.notes)
