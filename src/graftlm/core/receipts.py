"""Receipts: what a stage did, from what, how fast, how well. Written last: a receipt means "finished"."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

import graftlm


class Interval(BaseModel):
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float


class Speed(BaseModel):
    """Tokens a second while training: every position, those that are not padding, those with a target."""

    all: float
    non_padding: float
    target: float
    mfu: float | None = None
    mfu_formula: str | None = None


class Memory(BaseModel):
    """Peak memory in GiB: planned before the run and measured in it."""

    predicted_gib: float | None = None
    measured_gib: float | None = None
    what: str = ""


class BlockShare(BaseModel):
    """One data block of a mix: what was asked for and what was trained on."""

    requested: float
    realised: float
    samples: int
    tokens: int
    epochs: float


class Receipt(BaseModel):
    """What a stage did."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    kind: str
    key: str
    seed: int
    seconds: float
    started: str
    versions: dict[str, str]
    inputs: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    steps: int = 0
    tokens: int = 0
    targets: int = 0
    stopped: str = ""
    speed: Speed | None = None
    memory: Memory | None = None
    shares: dict[str, BlockShare] = Field(default_factory=dict)
    losses: list[dict[str, float]] = Field(default_factory=list)
    held_out: list[dict[str, float]] = Field(default_factory=list)
    accounting: dict[str, dict[str, int]] = Field(default_factory=dict)
    parameters: dict[str, int] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    names = ("torch", "transformers", "tokenizers", "peft", "numpy")
    return {
        "graft": graftlm.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: metadata.version(name) for name in names},
    }
