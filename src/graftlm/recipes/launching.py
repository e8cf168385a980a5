"""A recipe on several GPUs of this machine, and what such a run cannot do."""

from __future__ import annotations

import sys
from pathlib import Path

from graftlm.core.errors import RecipeError
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.schema import ParallelSettings, Recipe
from graftlm.recipes.stage_settings import BestOfStage, PolicyStage
from graftlm.recipes.stages.context import choose_device
from graftlm.training.distributed import Sharding
from graftlm.training.launch import launch, require_gpus


def run_on(file: Path, overrides: list[str], gpus: int) -> None:
    """Run a recipe file as `gpus` processes on this machine; without a GPU they share its processor.

    Raises:
        RecipeError: of the recipe, or more GPUs than there are; nothing was started.
        GraftError: of the process that failed first.
    """
    recipe = load_recipe(file, overrides)
    if choose_device(recipe).type == "cuda":
        require_gpus(gpus)
    sharding_of(recipe.parallel).shape(gpus)
    refuse_unshared(recipe)
    launch([sys.executable, "-m", "graftlm", "run", str(file), *overrides], gpus)


def sharding_of(settings: ParallelSettings) -> Sharding:
    shard = None if settings.shard == "all" else settings.shard
    return Sharding(shard, settings.replicate, settings.regather, settings.reduce)


def refuse_unshared(recipe: Recipe) -> None:
    """Several processes train on given data only.

    Raises:
        RecipeError: a stage learns from answers that the model writes while it trains.
    """
    for name, stage in recipe.stages.items():
        if isinstance(stage, PolicyStage | BestOfStage):
            raise RecipeError(
                f"a {stage.stage} stage writes its own answers, which runs in one process only",
                where=f"stages.{name}",
                fix="run this recipe without --gpus; or end it before this stage, and go on in one process: the same "
                "command with this stage added finds the finished ones",
            )
