"""`graft quantize`: which model, with what data and what exam; the work is `quantisation.py`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from graftlm.core.console import say
from graftlm.core.errors import GraftError
from graftlm.models.loading import load_tokenizer
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.quantisation import Job, quantise_folder
from graftlm.recipes.quantisation_data import exam_of, gather_evidence
from graftlm.recipes.schema import Block, Recipe
from graftlm.recipes.stage_settings import QuantizeStage
from graftlm.recipes.stages.context import choose_template
from graftlm.recipes.talking import newest_model

DATA = "data"


def quantize(model: str, output: Path, data: Path | None, recipe_file: Path | None, **options: Any) -> None:
    """Quantise a model, hub name or run folder into a new folder.

    Args:
        data: a file of texts or conversations; without it the blocks of the recipe.
        recipe_file: its evaluation judges; the run folder's own recipe where there is one.
        options: keys of the stage `quantize`; None means not given.

    Raises:
        GraftError: no data, an option that does not fit, or the output folder exists.
        ModelError: the gate stopped it.
    """
    if output.exists():
        raise GraftError("it exists", where=output, fix="name a new folder, or delete this one")
    recipe = _recipe_of(model, recipe_file)
    blocks = _blocks_of(recipe, data)
    settings = _settings({"blocks": list(blocks)} | {key: value for key, value in options.items() if value is not None})
    start = newest_model(model)
    tokenizer = load_tokenizer(start)
    template = choose_template(recipe.template if recipe else "own", tokenizer)
    exam = exam_of(recipe, settings.exam) if recipe else None
    evidence = gather_evidence(blocks, exam, settings, tokenizer, template, recipe.seed if recipe else 0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quantise_folder(Job(start, settings, evidence, tokenizer, template, device, "graft quantize"), output)
    say(f"quantised: {output}")


def _recipe_of(model: str, recipe_file: Path | None) -> Recipe | None:
    own = Path(model) / "recipe.yaml"
    place = recipe_file or (own if own.is_file() else None)
    return load_recipe(place) if place else None


def _blocks_of(recipe: Recipe | None, data: Path | None) -> dict[str, Block]:
    """The file, or the blocks that the recipe's language-model training was made of."""
    if data is not None:
        return {DATA: Block.model_validate({"path": str(data), "split": "paragraph", "held_out": 0.1})}
    trained = [stage for stage in recipe.stages.values() if stage.stage in ("pretrain", "sft")] if recipe else []
    names = list(dict.fromkeys(name for stage in trained for name in stage.blocks))
    if recipe is None or not names:
        raise GraftError(
            "nothing to calibrate with and to judge by", where="graft quantize", fix="give --data FILE or --recipe FILE"
        )
    return {name: recipe.data[name] for name in names}


def _settings(options: dict[str, Any]) -> QuantizeStage:
    try:
        return QuantizeStage.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(str(part) for part in first["loc"]).replace("_", "-")
        reason = first["msg"].removeprefix("Value error, ")
        raise GraftError(reason, where=option if first["loc"] else None, fix="see `graft quantize --help`") from None
