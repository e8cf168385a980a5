"""Settings of the methods: what of a model a stage trains, and how."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Method = Literal["full", "freeze", "lora", "qlora", "ptuning", "heads", "expand"]

RATES: dict[Method, float] = {
    "full": 2e-5, "freeze": 2e-5, "lora": 2e-4, "qlora": 2e-4, "ptuning": 1e-3, "heads": 2e-5, "expand": 2e-4,
}  # fmt: skip
"""Peak learning rates where the recipe names none."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class FreezeSettings(Part):
    """method: freeze. Some weights are trained as they are, the rest stays."""

    last: int | None = Field(default=None, gt=0, description="train this many of the last layers; 2 without `match`")
    match: str | None = Field(default=None, description="train the parameters in whose names this expression is found")
    embedding: bool = Field(default=False, description="train the embedding as well; a tied one is the head")
    head: bool = Field(default=False, description="train the head as well")

    @field_validator("match")
    @classmethod
    def _pattern(cls, match: str | None) -> str | None:
        try:
            re.compile(match or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return match

    @model_validator(mode="after")
    def _one_choice(self) -> FreezeSettings:
        if self.last and self.match:
            raise ValueError("give `last` or `match`, not both")
        return self


class LoraSettings(Part):
    """method: lora or qlora. Low-rank adapters."""

    rank: int = Field(default=8, gt=0)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"
    bits: Literal[4, 8] = Field(default=4, description="of the frozen weights of method: qlora")
    kind: Literal["lora", "rslora", "dora", "pissa"] = Field(default="lora", description="form of the adapter")
    plus: float = Field(default=1.0, ge=1, description="LoRA+: the B matrices' learning rate over that of all else")


class PtuningSettings(Part):
    """method: ptuning. P-Tuning v2: a learnt prefix in every layer."""

    tokens: int = Field(default=128, gt=0, description="length of the prefix")
    projection: bool = Field(default=False, description="make the prefix with a two-layer tanh MLP, which is not saved")
    hidden: int | None = Field(default=None, gt=0, description="width of the MLP; the model's by default")
    dropout: float = Field(default=0.1, ge=0, lt=1)
    std: float = Field(default=1.0, gt=0, description="spread of the first values")
    bits: Literal[4, 8] | None = Field(default=None, description="quantise the frozen weights")


class HeadsSettings(Part):
    """method: heads. Some attention heads are trained, the rest stays."""

    chosen: str | None = Field(default=None, description='the heads by layer and number, both from 0: "0.3, 5.7"')
    share: float = Field(default=0.25, gt=0, le=1, description="without `chosen`: share of all heads")
    sample: int = Field(default=8, gt=0, description="rows of the stage's data that importance is measured on")

    @field_validator("chosen")
    @classmethod
    def _pairs(cls, chosen: str | None) -> str | None:
        if chosen is not None and not re.fullmatch(r"\s*\d+\.\d+\s*(,\s*\d+\.\d+\s*)*", chosen):
            raise ValueError('name heads as layer.head in quotes: "0.3, 5.7"')
        return chosen

    @property
    def named(self) -> tuple[tuple[int, int], ...]:
        """(layer, head) of those in `chosen`."""
        pairs = (one.strip().split(".") for one in (self.chosen or "").split(",") if one.strip())
        return tuple((int(layer), int(head)) for layer, head in pairs)


class ExpandSettings(Part):
    """method: expand. New layers between the old ones, which alone are trained."""

    blocks: int | None = Field(default=None, gt=0, description="new layers; a quarter of the old ones by default")
