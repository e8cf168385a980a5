"""Settings of the stages without gradients, which make another model of the one before."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from graftlm.models.agreement import Bounds
from graftlm.models.merging import MergeMethod
from graftlm.recipes.method_settings import Part
from graftlm.recipes.stage_settings.base import BaseStage


class ConvertStage(BaseStage):
    """The model in another layout, or with fewer key/value heads; see docs/families.md."""

    stage: Literal["convert"] = "convert"
    to: Literal["hugging-face", "chatglm", "baichuan", "meta"] = "hugging-face"
    kv_heads: int | None = Field(None, gt=0, description="pool keys and values to so many heads")

    @property
    def makes_language_model(self) -> bool:
        return self.to == "hugging-face"


class QuantizeStage(BaseStage):
    """Weights in 8 or 4 bits, made without gradients; a gate compares the model before and after."""

    stage: Literal["quantize"] = "quantize"
    blocks: dict[str, float] | list[str] = Field(description="texts and conversations to calibrate with and judge by")
    method: Literal["absmax", "gptq", "awq", "nf4"] = "gptq"
    bits: Literal[4, 8] = 4
    group: Literal[0, 32, 64, 128] | None = Field(
        None, description="weights that share a scale; 0: a row; by default 64 in 4 bits and a row in 8"
    )
    symmetric: bool = Field(True, description="false: a zero point a group; vLLM and graft load it")
    mean_bits: float | None = Field(None, gt=4, le=16, description="4, 8 or 16 bits a layer, by measured error")
    head: bool = Field(False, description="also the output head, where it is not the embedding")
    rest: Literal["bf16", "fp32"] = Field("bf16", description="format of what is not quantised, and of the scales")
    rows: int = Field(128, gt=0, description="rows of text to calibrate with")
    row_tokens: int = Field(512, gt=1)
    exam: str | None = Field(None, description="task of `evaluation` that judges; the first of the domain by default")
    max_exam_loss: float | None = Field(None, ge=0, description="points; by default 0.5 in 8 bits and 2 in 4")
    max_kl: float | None = Field(None, ge=0, description="nats a token; without an exam 0.01 in 8 bits and 0.1 in 4")
    keep_failed: bool = Field(False, description="keep the model also where the gate stops it")

    @model_validator(mode="after")
    def _nf4_is_fixed(self) -> QuantizeStage:
        if self.method == "nf4" and (self.bits != 4 or self.group or self.mean_bits or self.head):
            raise ValueError("nf4 has 4 bits, groups of 64, and neither mean_bits nor head")
        return self

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale; None: a row."""
        return (self.group or None) if self.group is not None else {4: 64, 8: None}[self.bits]


class PruneVocabularyStage(BaseStage):
    """Keep the pieces of the vocabulary that the blocks' texts need; no gradients."""

    stage: Literal["prune_vocabulary"] = "prune_vocabulary"
    blocks: dict[str, float] | list[str] = Field(min_length=1, description="blocks whose texts say what is needed")
    at_least: int = Field(1, gt=0, description="keep pieces that stand in the texts so often")


class GateSettings(Part):
    """How far a merged adapter may be from the unmerged model; divergences in nats a token."""

    mean_kl: float = Field(default=0.01, gt=0, description="mean divergence")
    max_kl: float = Field(default=0.5, gt=0, description="greatest divergence")
    greedy: float = Field(default=0.98, ge=0, le=1, description="share of the positions with the same likeliest token")

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.mean_kl, self.max_kl, self.greedy)


class MergeStage(BaseStage):
    """Several models made one, or an adapter merged into the model before."""

    stage: Literal["merge"] = "merge"
    models: dict[str, float] | list[str] = Field(
        min_length=1, description="stages, folders or hub names, with weights or as a list; one adapter's folder alone"
    )
    method: MergeMethod = Field("linear", description="rule of merging")
    base: str | None = Field(None, description="what the models were trained from; the model of `from` by default")
    density: float = Field(0.5, gt=0, le=1, description="share of each change that TIES and DARE keep")
    scale: float = Field(1.0, description="factor on the merged change")
    alpha: float = Field(0.5, ge=0, le=1, description="where between the two ends of slerp and wise-ft")
    gate: GateSettings = Field(default_factory=GateSettings)

    @property
    def weighted(self) -> dict[str, float]:
        return self.models if isinstance(self.models, dict) else dict.fromkeys(self.models, 1.0)


class ExportStage(BaseStage):
    """The model before it, for another program; makes nothing that later stages could start from."""

    stage: Literal["export"] = "export"
    to: Literal["hugging-face", "gguf", "ollama"] = Field(description="which program's format")
    type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] | None = Field(
        None, description="format of the weights; as they are stored by default"
    )
    licence: str | None = Field(None, description="for the model card, as apache-2.0")

    @model_validator(mode="after")
    def _hub_types(self) -> ExportStage:
        if self.to == "hugging-face" and (self.type or "f32") not in ("f32", "f16", "bf16"):
            raise ValueError(f"type: {self.type} belongs to gguf and ollama")
        return self

    @property
    def makes_language_model(self) -> bool:
        return False


class VocabularyStage(BaseStage):
    """More pieces for the tokenizer, learnt from its blocks or taken from a SentencePiece model, and rows for them."""

    stage: Literal["vocabulary"] = "vocabulary"
    blocks: dict[str, float] | list[str] = Field(min_length=1, description="the domain's texts; shares do not matter")
    general: list[str] = Field(
        default_factory=list, description="blocks whose encoding is compared; graft's own general text by default"
    )
    pieces: int | None = Field(None, gt=0, description="new pieces at most; all of `sentencepiece`, else 8,000")
    sentencepiece: str | None = Field(None, description="SentencePiece model to take the pieces from")
    kind: Literal["auto", "spm-bpe", "spm-unigram", "byte-level"] = Field(
        "auto", description="how pieces are learnt; auto: the base's own merges go on"
    )
    ascii: bool = Field(False, description="also pieces of ASCII signs only: English is then encoded differently")
    init: Literal["mean", "noise"] = Field("mean", description="new rows: mean of the old pieces' rows, or beside it")
    multiple: int = Field(1, gt=0, description="the model's rows are rounded up to a multiple of this")


def merged_models(stage: BaseStage) -> list[str]:
    """What a merge stage is made of, by name."""
    return [*stage.weighted, *([stage.base] if stage.base else [])] if isinstance(stage, MergeStage) else []
