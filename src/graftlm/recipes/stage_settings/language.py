"""Settings of the stages that train a language model on given text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from graftlm.recipes.method_settings import Part
from graftlm.recipes.stage_settings.base import TrainingStage


class PretrainStage(TrainingStage):
    """Continued pre-training: text blocks train every token, instruction blocks their answers."""

    stage: Literal["pretrain"] = "pretrain"


class ShrinkSettings(Part):
    """A share of the embedding's gradient that moves from one value to another."""

    start: float = Field(0.2, gt=0, le=1)
    end: float = Field(1.0, gt=0, le=1)
    after: int = Field(0, ge=0, description="steps at the first value")
    over: int = Field(1, gt=0, description="steps from there to the second")


class InfillStage(TrainingStage):
    """Blank infilling: what is masked in texts, and the answers to instructions, is filled in."""

    stage: Literal["infill"] = "infill"
    row_tokens: int = Field(2048, ge=64, description="tokens of one packed row, the unit of a forward pass")
    masks: dict[Literal["mask", "smask", "gmask"], float] = Field(
        {"gmask": 0.7, "mask": 0.3},
        description="share of the tokens of each mask: short spans, sentences, the tail of a text",
    )
    mask_ratio: float = Field(0.15, gt=0, lt=1, description="share of the tokens that mask and smask leave out")
    span: float = Field(3.0, gt=0, description="mean length of a mask's spans (Poisson)")
    least_tail: float = Field(0.2, gt=0, le=1, description="least share of a text that gmask leaves out")
    mask_window: int = Field(512, ge=32, description="tokens of a text in which spans and sentences are masked")
    embedding_gradient: Annotated[float, Field(gt=0, le=1)] | ShrinkSettings | None = Field(
        None, description="share of the gradient that reaches the embedding; the model's own by default"
    )

    @field_validator("masks")
    @classmethod
    def _some_mask(cls, masks: dict[str, float]) -> dict[str, float]:
        if min(masks.values(), default=0) < 0 or sum(masks.values()) <= 0:
            raise ValueError("shares must not be below 0, and one must be above it")
        return masks

    @property
    def longest(self) -> int:
        """A mark has to fit beside the longest sample."""
        return min(self.max_tokens or self.row_tokens, self.row_tokens - 1)


class SftStage(TrainingStage):
    """Instruction tuning: every assistant turn, its stop token included."""

    stage: Literal["sft"] = "sft"
    loss: Literal["token", "example"] = Field(
        "token", description="what counts once: a target token, or an example (short answers are not drowned)"
    )
