"""Settings of the stages that train models which are no decoders."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from graftlm.recipes.stage_settings.base import TrainingStage


class OtherModelStage(TrainingStage):
    """A model that is no decoder: trained in full, its layers as they are, no start for a language model's stage."""

    compile: bool = False

    @model_validator(mode="after")
    def _in_full(self) -> OtherModelStage:
        if self.method != "full":
            raise ValueError("this kind of model is small and is trained in full: use method: full")
        if self.compile:
            raise ValueError("its layers are not compiled: leave `compile` out")
        return self

    @property
    def makes_language_model(self) -> bool:
        return False


class EncoderStage(OtherModelStage):
    """An encoder (BERT and its kin) trained for one task of understanding."""

    stage: Literal["encoder"] = "encoder"
    task: Literal["classify", "match", "tag", "choice", "mlm"] = Field(
        description="class of a text, of a pair of texts, named entities, one of several options, masked words"
    )
    model: str | None = Field(None, description="start from this encoder instead of the recipe's base")
    answer_words: tuple[str, str] | None = Field(
        None, description="choice: what a right and a wrong option's mask is filled with; 是/非 or yes/no by default"
    )
    mask_share: float = Field(0.15, gt=0, lt=1, description="mlm: share of the words that are masked")
    max_tokens: int | None = Field(512, gt=1, description="longest document; the encoder's positions at most")


class ImageTextStage(OtherModelStage):
    """A text tower trained to a frozen vision tower: images and texts find each other."""

    stage: Literal["image_text"] = "image_text"
    model: str | None = Field(None, description="text encoder, or finished pair, instead of the recipe's base")
    vision: str | None = Field(None, description="vision tower: a CLIP or a ViT; none where a finished pair goes on")
    projection: int = Field(512, gt=0, description="size of the common space; a CLIP brings its own")
    learning_rate: float | None = Field(1e-4, gt=0)
    max_tokens: int | None = Field(64, gt=1, description="longest caption")


class Seq2SeqStage(OtherModelStage):
    """An encoder–decoder (T5, BART, Pegasus and their kin): texts made of texts."""

    stage: Literal["seq2seq"] = "seq2seq"
    task: Literal["answer", "gap_sentences"] = Field(
        "answer", description="the last answer of a chat from all before it, or the masked sentences of plain text"
    )
    max_target: int = Field(128, gt=1, description="longest target in tokens; what is longer is cut")
    gap_share: float = Field(0.3, gt=0, lt=1, description="gap_sentences: share of the sentences that are masked")
    compare: int = Field(100, ge=0, description="held-out rows that are answered before and after; 0: none")
    beams: int = Field(1, gt=0, description="of the search that answers them; 1: greedy")
    epochs: float | Literal["auto"] = 1.0

    @model_validator(mode="after")
    def _leaves_room(self) -> Seq2SeqStage:
        if self.max_target >= self.longest:
            raise ValueError(f"max_target ({self.max_target}) leaves no room for a source in {self.longest} tokens")
        return self

    @property
    def most_source(self) -> int:
        """Tokens of a source: what a row leaves beside a target."""
        return self.longest - self.max_target
