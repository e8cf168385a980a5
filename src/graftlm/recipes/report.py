"""The report of a run: `receipt.json` for machines, `report.html` for people, both from the run folder alone.

A run that is still going, was killed, or was not evaluated gets a report too; it says what is absent.
"""

from __future__ import annotations

from pathlib import Path

from graftlm.core.files import write_json, write_text
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.page import render
from graftlm.recipes.summary import gather, read_scores


def write_report(folder: Path) -> Path:
    """Write `receipt.json` and `report.html` of a run folder; returns the page.

    Raises:
        RecipeError: the folder holds no recipe.yaml.
    """
    recipe = load_recipe(folder / "recipe.yaml")
    scores = read_scores(folder, recipe)
    receipt = gather(folder, recipe, scores)
    write_json(folder / "receipt.json", receipt.model_dump(mode="json"))
    page = folder / "report.html"
    write_text(page, render(receipt, recipe, scores, (folder / "recipe.yaml").read_text(encoding="utf-8")))
    return page
