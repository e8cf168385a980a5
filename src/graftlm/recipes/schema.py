"""The recipe: one validated value that says everything about a run. Unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from graftlm.data.mixing import Order
from graftlm.recipes.atomic_tasks import AtomicTaskSettings
from graftlm.recipes.stage_settings import (
    BaseStage,
    Part,
    RewardStage,
    Stage,
    VocabularyStage,
    both_encoders,
    merged_models,
    reward_models,
)

Side = Literal["domain", "general"]


class Source(Part):
    """Where samples come from: files, a hub data set, or a generated world; exactly one of `path`, `hub`, `world`."""

    path: str | None = Field(None, description="file, folder or glob; relative paths start at the recipe's folder")
    hub: str | None = Field(None, description="hub data set: owner/name, optionally :split")
    world: str | None = Field(None, description="generated corpus: general, clinic or shop")
    part: str | None = Field(None, description="part of the world: documents, consultations, exam …")
    count: int | None = Field(None, gt=0, description="samples to generate from a world's stream")
    start: int = Field(0, ge=0, description="first sample of a world's stream")
    world_seed: int = Field(0, description="seed of the world itself")
    size: dict[str, int] = Field(default_factory=dict, description="sizes of the world, as diseases: 16")
    kind: Literal[
        "auto", "text", "chat", "preference", "unpaired", "prompt", "labelled", "classified", "tagged", "captioned"
    ] = "auto"
    schema_name: str | None = Field(None, alias="schema", description="record layout, when detection is wrong")
    columns: dict[str, str] = Field(default_factory=dict, description="our field name: the file's column name")
    split: Literal["file", "paragraph", "line"] = Field("file", description="what is one document of a txt or md file")
    limit: int | None = Field(None, gt=0, description="use at most this many samples")
    tasks: AtomicTaskSettings | None = Field(None, description="make instruction tasks of annotated rows")

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        given = [name for name in ("path", "hub", "world") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, hub and world (given: {', '.join(given) or 'none'})")
        if self.world and not self.part:
            raise ValueError("a world needs a part, as part: documents")
        if self.tasks and not self.world and self.kind not in ("tagged", "classified"):
            raise ValueError("tasks are made of annotated rows: set kind: tagged or kind: classified")
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


class SuiteSettings(Part):
    """Published tests, as `graft eval` runs them."""

    names: list[str] = Field(min_length=1, description="suites or tasks: names, or .yaml files")
    data: str | None = Field(None, description="folder of the tests' data; $GRAFT_EVAL_DATA by default")
    limit: int | None = Field(None, gt=0, description="only the first so many items of each sub-task")
    shots: int | None = Field(None, ge=0, description="solved examples before each question; as each test has it")


class NewBase(Part):
    """A model from nothing: its architecture, and the blocks that its tokenizer is trained on."""

    architecture: dict[str, Any] = Field(description="transformers configuration: model_type and sizes")
    vocabulary: int = Field(gt=300)
    tokenizer_blocks: list[str]
    tokenizer_samples: int = Field(50_000, gt=0, description="samples of each block that the tokenizer sees")


class ParallelSettings(Part):
    """How several processes, one a GPU, share the weights; a run in one process does not look at it."""

    shard: int | Literal["all"] = Field(default="all", description="processes that share one copy of the weights")
    replicate: int | None = Field(default=None, gt=0, description="copies of the weights; as many as `shard` leaves")
    regather: bool = Field(
        default=True, description="gather a layer again for its backward pass: less memory, a third more traffic"
    )
    reduce: Literal["step", "row"] = Field(
        default="step", description="sum gradients over the processes once a step, or after each row"
    )
    deepspeed: str | None = Field(default=None, description="a DeepSpeed JSON file to take settings from")

    @field_validator("shard")
    @classmethod
    def _some(cls, shard: int | Literal["all"]) -> int | Literal["all"]:
        if shard != "all" and shard < 1:
            raise ValueError("shard is `all` or a number above 0")
        return shard


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
    profile: bool = Field(False, description="write a trace of a few steps of each stage, and where their time went")
    parallel: ParallelSettings = Field(default_factory=ParallelSettings)
    data: dict[str, Block]
    stages: dict[str, Stage]
    evaluation: dict[str, TaskSettings] = Field(default_factory=dict)
    suites: SuiteSettings | None = Field(None, description="published tests, beside `evaluation`")
    samples_in_report: int = Field(6, ge=0)

    @model_validator(mode="after")
    def _references(self) -> Recipe:
        known = set(self.data)
        used = [(f"stages.{name}.blocks", block) for name, stage in self.stages.items() for block in stage.blocks]
        used += [
            (f"stages.{name}.general", block)
            for name, stage in self.stages.items()
            if isinstance(stage, VocabularyStage)
            for block in stage.general
        ]
        if isinstance(self.base, NewBase):
            used += [("base.tokenizer_blocks", block) for block in self.base.tokenizer_blocks]
        for where, block in used:
            if block not in known:
                raise ValueError(
                    f"{where} names `{block}`, which `data` does not have (it has: {', '.join(sorted(known))})"
                )
        earlier: dict[str, BaseStage] = {}
        for name, stage in self.stages.items():
            start = stage.start_from
            if start and start not in [*earlier, "base"]:
                raise ValueError(f"stages.{name}.from names `{start}`, which is not an earlier stage")
            before = earlier.get(start or "")
            if before is not None and not before.makes_language_model and not both_encoders(stage, before):
                what = "a reward model" if isinstance(before, RewardStage) else "no language model"
                raise ValueError(f"stages.{name}.from names `{start}`, which is {what}")
            for model in reward_models(stage):
                if model in self.stages and not isinstance(earlier.get(model), RewardStage):
                    raise ValueError(f"stages.{name}.reward names `{model}`, which is not an earlier reward stage")
            for model in merged_models(stage):
                if model in self.stages and (model not in earlier or not earlier[model].makes_language_model):
                    raise ValueError(f"stages.{name} merges `{model}`, which is no earlier language model")
            earlier[name] = stage
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output or f"runs/{self.name}")

    def start_of(self, name: str) -> str:
        """The stage whose model a stage starts from, or `base`."""
        start = "base"
        for earlier, stage in self.stages.items():
            if earlier == name:
                return stage.start_from or start
            start = earlier if stage.makes_language_model else start
        raise KeyError(name)
