"""What a stage is given: its settings, the model to start from, its data, and its folder."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import RecipeError
from graftlm.data.encode import document_prefix
from graftlm.data.templates import ChatTemplate, named_template, tokenizer_template
from graftlm.recipes.schema import Recipe
from graftlm.recipes.sources import Prompts
from graftlm.recipes.stage_settings import BaseStage, GradientStage
from graftlm.recipes.tokenise import TokenisedBlock
from graftlm.training.distributed import ALONE, World


@dataclass(frozen=True)
class Grown:
    """A model of the run: where it is and what it is made of."""

    where: str
    key: str


@dataclass(frozen=True)
class StageContext:
    """A stage about to run.

    Attributes:
        start: the model to start from.
        models: the run's models so far by stage name, reward models among them.
        blocks: tokenised data; empty for stages that learn from their own answers.
        prompts: what such stages answer, and what others are compared on.
        inputs: name: hash of everything that the stage is made of.
        world: the processes that run it.
    """

    recipe: Recipe
    name: str
    settings: BaseStage
    start: Grown
    models: Mapping[str, Grown]
    tokenizer: Tokenizer
    template: ChatTemplate
    blocks: dict[str, TokenisedBlock]
    prompts: dict[str, Prompts]
    folder: Path
    key: str
    inputs: dict[str, str]
    device: torch.device
    bf16: bool
    world: World = ALONE

    @property
    def training(self) -> GradientStage:
        """The settings of a stage with gradients."""
        assert isinstance(self.settings, GradientStage)
        return self.settings

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"


def choose_device(recipe: Recipe) -> torch.device:
    if recipe.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(recipe.device)


def choose_bf16(recipe: Recipe, device: torch.device) -> bool:
    """bf16 autocast where the hardware has it; fp32 on a CPU unless the recipe asks otherwise."""
    if recipe.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return recipe.precision == "bf16"


FALLBACK_TEMPLATE = "vicuna"
"""For base models, whose tokenizers have no chat template: plain-text markers, answers ended by the end token."""


def choose_template(name: str, tokenizer: Tokenizer) -> ChatTemplate:
    """The tokenizer's own chat template, or a named one with what the tokenizer begins and ends texts with (an
    encoder with its separator; it has no use for a template)."""
    if name == "own" and tokenizer.chat_template:
        return tokenizer_template(tokenizer)
    chosen = FALLBACK_TEMPLATE if name == "own" else name
    bos = "".join(tokenizer.convert_ids_to_tokens(document_prefix(tokenizer)))
    return named_template(chosen, bos=bos, eos=tokenizer.eos_token or tokenizer.sep_token or "")


def require_one_process(stage: StageContext) -> None:
    """Raises RecipeError where several processes run a stage that is not made for them."""
    if stage.world.size > 1:
        raise RecipeError(
            f"a stage `{stage.settings.stage}` is trained in one process",
            where=f"stages.{stage.name}",
            fix="run it without --gpus: such models are small",
        )


def now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
