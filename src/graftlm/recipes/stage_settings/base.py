"""Settings that stages share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from graftlm.data.mixing import Order
from graftlm.recipes.method_settings import (
    RATES,
    ExpandSettings,
    FreezeSettings,
    HeadsSettings,
    LoraSettings,
    Method,
    Part,
    PtuningSettings,
)


def named_recompute(value: object) -> object:
    """true and false are names, too."""
    return {True: "full", False: "none"}.get(value, value) if isinstance(value, bool) else value


class BaseStage(Part):
    """Settings that every stage has; a stage without gradients adds its own to them."""

    stage: str = Field(description="its kind")
    start_from: str | None = Field(
        None, alias="from", description="stage whose model to start from; the last language model before it by default"
    )
    blocks: dict[str, float] | list[str] = Field(default_factory=list, description="blocks whose texts it looks at")

    @property
    def makes_language_model(self) -> bool:
        """Whether the stage's model can go on to other stages and be evaluated."""
        return True


class GradientStage(BaseStage):
    """Settings that every stage with gradients has."""

    blocks: dict[str, float] | list[str] = Field(
        description="share of the tokens of each block, or a list: as they come"
    )
    method: Method = "full"
    freeze: FreezeSettings = Field(default_factory=FreezeSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    ptuning: PtuningSettings = Field(default_factory=PtuningSettings)
    heads: HeadsSettings = Field(default_factory=HeadsSettings)
    expand: ExpandSettings = Field(default_factory=ExpandSettings)
    weights: Literal["fp32", "bf16", "bf16_master"] = Field(
        "fp32", description="format of weights trained in full: bf16 is rounded stochastically; _master keeps the rest"
    )
    moments: Literal["fp32", "bf16", "8bit"] = Field("fp32", description="format of AdamW's two moments")
    learning_rate: float | None = Field(None, gt=0, description="by default the method's")
    weight_decay: float = Field(0.1, ge=0)
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    clip: float = Field(1.0, gt=0)
    row_tokens: int = Field(2048, gt=1, description="tokens of one packed row, the unit of a forward pass")
    max_tokens: int | None = Field(None, gt=1, description="longest sample; a row by default")
    recompute: Annotated[Literal["auto", "none", "cheap", "full"], BeforeValidator(named_recompute)] = Field(
        "auto", description="what the backward pass computes again to save memory; auto: as little as fits on a GPU"
    )
    compile: bool = Field(True, description="on a GPU: compiled layers and stacked adapters")
    float8: bool = Field(False, description="products of the layers in 8-bit floating point, on a GPU that has it")
    save_every: int = Field(0, ge=0, description="steps between checkpoints; 0: every five minutes")
    keep: int = Field(2, gt=0, description="checkpoints to keep")

    @field_validator("blocks")
    @classmethod
    def _positive(cls, blocks: dict[str, float] | list[str]) -> dict[str, float] | list[str]:
        if not blocks:
            raise ValueError("name at least one block of data")
        if isinstance(blocks, dict) and any(share <= 0 for share in blocks.values()):
            raise ValueError("shares must be above 0")
        return blocks

    @model_validator(mode="after")
    def _adapters_are_fp32(self) -> GradientStage:
        if self.weights != "fp32" and self.method != "full":
            raise ValueError(f"weights: {self.weights} belongs to method: full; all others train in fp32")
        return self

    @model_validator(mode="after")
    def _pissa_fits(self) -> GradientStage:
        if self.method == "qlora" and self.lora.kind == "pissa":
            raise ValueError("kind: pissa changes the frozen weights, quantised ones cannot be: use method: lora")
        return self

    @model_validator(mode="after")
    def _eight_bits_come_in_sixteens(self) -> GradientStage:
        if self.float8 and self.row_tokens % 16:
            raise ValueError(f"float8 needs row_tokens that 16 divides ({self.row_tokens} does not)")
        return self

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or RATES[self.method]

    @property
    def bits(self) -> Literal[4, 8] | None:
        """Of the frozen weights, where they are quantised."""
        if self.method == "ptuning":
            return self.ptuning.bits
        return self.lora.bits if self.method == "qlora" else None

    @property
    def rounding(self) -> Literal["stochastic", "master"]:
        """Of trained weights that are bf16."""
        return "master" if self.weights == "bf16_master" else "stochastic"

    @property
    def longest(self) -> int:
        return min(self.max_tokens or self.row_tokens, self.row_tokens)


class TrainingStage(GradientStage):
    """Settings of the stages that train on given tokens."""

    mix: Order | None = Field(None, description="hybrid (shuffled together) or sequential; the recipe's by default")
    tokens: int | None = Field(None, gt=0, description="train on this many tokens")
    epochs: float | Literal["auto"] = Field(
        "auto", description="passes over the first block; auto: rule of thumb by size"
    )
    step_tokens: int | None = Field(None, gt=1, description="tokens of one optimizer step; one row by default")
    evaluate_every: int = Field(0, ge=0, description="steps between held-out losses; 0: ten times a stage")
    patience: int = Field(0, ge=0, description="stop after this many held-out losses without a new best; 0: never")

    @property
    def rows_per_step(self) -> int:
        return max(1, round((self.step_tokens or self.row_tokens) / self.row_tokens))
