"""The recipe: one validated value that says everything about a run. Unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from graftlm.data.mixing import Order

Side = Literal["domain", "general"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Source(Part):
    """Where samples come from: files, a hub data set, or a generated world; exactly one of `path`, `hub`, `world`."""

    path: str | None = Field(None, description="file, folder or glob; relative paths start at the recipe's folder")
    hub: str | None = Field(None, description="hub data set: owner/name, optionally :split")
    world: str | None = Field(None, description="generated corpus: general or clinic")
    part: str | None = Field(None, description="part of the world: documents, consultations, exam …")
    count: int | None = Field(None, gt=0, description="samples to generate from a world's stream")
    start: int = Field(0, ge=0, description="first sample of a world's stream")
    world_seed: int = Field(0, description="seed of the world itself")
    size: dict[str, int] = Field(default_factory=dict, description="sizes of the world, as diseases: 16")
    kind: Literal["auto", "text", "chat", "preference", "labelled"] = "auto"
    schema_name: str | None = Field(None, alias="schema", description="record layout, when detection is wrong")
    columns: dict[str, str] = Field(default_factory=dict, description="our field name: the file's column name")
    split: Literal["file", "paragraph", "line"] = Field("file", description="what is one document of a txt or md file")
    limit: int | None = Field(None, gt=0, description="use at most this many samples")

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        given = [name for name in ("path", "hub", "world") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, hub and world (given: {', '.join(given) or 'none'})")
        if self.world and not self.part:
            raise ValueError("a world needs a part, as part: documents")
        return self


class Block(Source):
    """Data to train on. Some of it can be kept back to measure the held-out loss."""

    held_out: float = Field(0.02, ge=0, lt=1, description="share of the samples kept back, 200 samples at most")


class TaskSettings(Source):
    """A test set and how it is scored."""

    metric: Literal["choice", "generate", "extract", "abstain", "bits_per_byte"]
    side: Side
    style: Literal["text", "letters"] = Field("text", description="how options are shown and scored")
    max_new_tokens: int = Field(32, gt=0)


class LoraSettings(Part):
    rank: int = Field(default=8, gt=0)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"


class TrainingStage(Part):
    """Settings that every training stage has."""

    start_from: str | None = Field(
        None, alias="from", description="stage whose model to start from; the one before by default"
    )
    blocks: dict[str, float] | list[str] = Field(
        description="share of the tokens of each block, or a list: as they come"
    )
    mix: Order | None = Field(None, description="hybrid (shuffled together) or sequential; the recipe's by default")
    tokens: int | None = Field(None, gt=0, description="train on this many tokens")
    epochs: float | Literal["auto"] = Field(
        "auto", description="passes over the first block; auto: rule of thumb by size"
    )
    method: Literal["full", "lora"] = "full"
    lora: LoraSettings = Field(default_factory=LoraSettings)
    learning_rate: float | None = Field(None, gt=0, description="by default 2e-5 (full) or 2e-4 (lora)")
    weight_decay: float = Field(0.1, ge=0)
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    clip: float = Field(1.0, gt=0)
    row_tokens: int = Field(2048, gt=1, description="tokens of one packed row, the unit of a forward pass")
    step_tokens: int | None = Field(None, gt=1, description="tokens of one optimizer step; one row by default")
    max_tokens: int | None = Field(None, gt=1, description="longest sample; a row by default")
    recompute: bool = Field(False, description="gradient checkpointing: less memory, about 30 % more time")
    evaluate_every: int = Field(0, ge=0, description="steps between held-out losses; 0: ten times a stage")
    patience: int = Field(0, ge=0, description="stop after this many held-out losses without a new best; 0: never")
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

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or (2e-4 if self.method == "lora" else 2e-5)

    @property
    def longest(self) -> int:
        return min(self.max_tokens or self.row_tokens, self.row_tokens)

    @property
    def rows_per_step(self) -> int:
        return max(1, round((self.step_tokens or self.row_tokens) / self.row_tokens))


class PretrainStage(TrainingStage):
    """Continued pre-training: text blocks train every token, instruction blocks their answers."""

    stage: Literal["pretrain"] = "pretrain"


class SftStage(TrainingStage):
    """Instruction tuning: every assistant turn, its stop token included."""

    stage: Literal["sft"] = "sft"


class DpoStage(TrainingStage):
    """Direct preference optimisation."""

    stage: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0)
    epochs: float | Literal["auto"] = 1.0


Stage = Annotated[PretrainStage | SftStage | DpoStage, Field(discriminator="stage")]
STAGE_KINDS = ("pretrain", "sft", "dpo")


class NewBase(Part):
    """A model from nothing: its architecture, and the blocks that its tokenizer is trained on."""

    architecture: dict[str, Any] = Field(description="transformers configuration: model_type and sizes")
    vocabulary: int = Field(gt=300)
    tokenizer_blocks: list[str]
    tokenizer_samples: int = Field(50_000, gt=0, description="samples of each block that the tokenizer sees")


class Recipe(Part):
    """A whole run."""

    name: str = Field(pattern=r"^[\w.-]+$")
    base: str | NewBase
    output: str | None = Field(None, description="run folder; runs/<name> by default")
    seed: int = 0
    offline: bool = Field(False, description="open no socket")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    template: str = Field("own", description="chat template: the tokenizer's own, or a named one")
    mix: Order = "hybrid"
    save_as: Literal["fp32", "bf16"] = Field("fp32", description="number format of the saved weights")
    data: dict[str, Block]
    stages: dict[str, Stage]
    evaluation: dict[str, TaskSettings] = Field(default_factory=dict)
    samples_in_report: int = Field(6, ge=0)

    @model_validator(mode="after")
    def _references(self) -> Recipe:
        known = set(self.data)
        used = [(f"stages.{name}.blocks", block) for name, stage in self.stages.items() for block in stage.blocks]
        if isinstance(self.base, NewBase):
            used += [("base.tokenizer_blocks", block) for block in self.base.tokenizer_blocks]
        for where, block in used:
            if block not in known:
                raise ValueError(
                    f"{where} names `{block}`, which `data` does not have (it has: {', '.join(sorted(known))})"
                )
        earlier: list[str] = []
        for name, stage in self.stages.items():
            if stage.start_from and stage.start_from not in [*earlier, "base"]:
                raise ValueError(f"stages.{name}.from names `{stage.start_from}`, which is not an earlier stage")
            earlier.append(name)
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output or f"runs/{self.name}")

    def start_of(self, name: str) -> str:
        """The stage whose model a stage starts from, or `base`."""
        names = list(self.stages)
        place = names.index(name)
        return self.stages[name].start_from or (names[place - 1] if place else "base")
