"""Settings of the stages: what each kind of stage can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from graftlm.recipes.method_settings import (
    ExpandSettings,
    FreezeSettings,
    HeadsSettings,
    LoraSettings,
    Part,
    PtuningSettings,
)
from graftlm.recipes.stage_settings.alignment import (
    BestOfStage,
    ComparedStage,
    DpoStage,
    GrpoStage,
    KtoStage,
    OrpoStage,
    PolicyStage,
    PpoStage,
    PreferenceStage,
    Rewards,
    RewardSettings,
    RewardStage,
    SafetyReward,
    SimpoStage,
    listed_rewards,
    reward_models,
    unsafe_blocks,
)
from graftlm.recipes.stage_settings.base import (
    BaseStage,
    GradientStage,
    TrainingStage,
    named_recompute,
)
from graftlm.recipes.stage_settings.language import (
    InfillStage,
    PretrainStage,
    SftStage,
    ShrinkSettings,
)
from graftlm.recipes.stage_settings.other_models import (
    EncoderStage,
    ImageTextStage,
    OtherModelStage,
    Seq2SeqStage,
)
from graftlm.recipes.stage_settings.remaking import (
    ConvertStage,
    ExportStage,
    GateSettings,
    MergeStage,
    PruneVocabularyStage,
    QuantizeStage,
    VocabularyStage,
    merged_models,
)

__all__ = [
    "STAGE_KINDS",
    "BaseStage",
    "BestOfStage",
    "ComparedStage",
    "ConvertStage",
    "DpoStage",
    "EncoderStage",
    "ExpandSettings",
    "ExportStage",
    "FreezeSettings",
    "GateSettings",
    "GradientStage",
    "GrpoStage",
    "HeadsSettings",
    "ImageTextStage",
    "InfillStage",
    "KtoStage",
    "LoraSettings",
    "MergeStage",
    "OrpoStage",
    "OtherModelStage",
    "Part",
    "PolicyStage",
    "PpoStage",
    "PreferenceStage",
    "PretrainStage",
    "PruneVocabularyStage",
    "PtuningSettings",
    "QuantizeStage",
    "RewardSettings",
    "RewardStage",
    "Rewards",
    "SafetyReward",
    "Seq2SeqStage",
    "SftStage",
    "ShrinkSettings",
    "SimpoStage",
    "Stage",
    "TrainingStage",
    "VocabularyStage",
    "both_encoders",
    "listed_rewards",
    "merged_models",
    "named_recompute",
    "reward_models",
    "unsafe_blocks",
]

Stage = Annotated[
    PretrainStage | SftStage | RewardStage | DpoStage | KtoStage | OrpoStage | SimpoStage | PpoStage | GrpoStage
    | BestOfStage | InfillStage | ConvertStage | PruneVocabularyStage | QuantizeStage
    | EncoderStage | ImageTextStage | Seq2SeqStage | MergeStage | ExportStage | VocabularyStage,
    Field(discriminator="stage"),
]  # fmt: skip
STAGE_KINDS = (
    "pretrain", "sft", "reward", "dpo", "kto", "orpo", "simpo", "ppo", "grpo", "best_of", "infill", "convert",
    "prune_vocabulary", "encoder", "image_text", "quantize", "merge", "export", "vocabulary",
    "seq2seq",
)  # fmt: skip


def both_encoders(stage: BaseStage, start: BaseStage) -> bool:
    """Whether an encoder, or a pair of towers, goes on from an encoder's stage, a pair from a pair's, or an
    encoder–decoder from its like."""
    if isinstance(stage, Seq2SeqStage):
        return isinstance(start, Seq2SeqStage)
    if isinstance(stage, ImageTextStage):
        return isinstance(start, EncoderStage if stage.vision else ImageTextStage)
    return isinstance(stage, EncoderStage) and isinstance(start, EncoderStage)
