"""The check of a stage's method: what will not go with what, and what went wrong for others."""

from __future__ import annotations

from transformers import PretrainedConfig

from graftlm.models.adapters.head_slices import head_count
from graftlm.models.adapters.heads import Head
from graftlm.recipes.findings import CheckResult
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stage_settings import GradientStage

HIGH_PREFIX_RATE = 1e-2


def check_method(found: CheckResult, name: str, stage: GradientStage, recipe: Recipe) -> None:
    _check_start(found, name, stage, recipe)
    _check_prefix(found, name, stage, recipe)


def _check_start(found: CheckResult, name: str, stage: GradientStage, recipe: Recipe) -> None:
    """Whether the stage can begin from a model with a prefix, where an earlier one made it."""
    started = name
    while (started := recipe.start_of(started)) != "base":
        earlier = recipe.stages[started]
        if not (isinstance(earlier, GradientStage) and earlier.method == "ptuning"):
            continue
        length = earlier.ptuning.tokens
        if stage.method == "expand":
            found.error(f"stages.{name}", f"the prefix of {started} has no part for new layers", "use another method")
        if stage.method == "ptuning" and (stage.ptuning.tokens != length or stage.ptuning.projection):
            fix = f"set ptuning.tokens: {length} and projection: false, or start from another stage"
            found.error(f"stages.{name}", f"it goes on with the prefix of {started}, which has {length} tokens", fix)
        return


def _check_prefix(found: CheckResult, name: str, stage: GradientStage, recipe: Recipe) -> None:
    """A known accident of ChatGLM's users, who lost all other abilities at 2e-2 and kept them at 1e-4."""
    if stage.method != "ptuning":
        return
    if stage.peak_rate > HIGH_PREFIX_RATE:
        found.warn(
            f"stages.{name}",
            f"at {stage.peak_rate:g} a prefix may come to answer everything like its training data",
            "lower learning_rate towards 1e-4, or mix general data in",
        )
    if recipe.suites is None and not any(task.side == "general" for task in recipe.evaluation.values()):
        found.warn(f"stages.{name}", "no general task would show what a prefix makes the model forget", "evaluate one")


def planned_heads(stage: GradientStage, config: PretrainedConfig) -> tuple[Head, ...]:
    """As many heads as the stage will train: which ones shows when it begins."""
    layers, H = config.get_text_config().num_hidden_layers, head_count(config)
    first = max(1, round(stage.heads.share * layers * H))
    return stage.heads.named or tuple((number // H, number % H) for number in range(first if H else 0))
