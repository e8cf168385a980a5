"""The reward model: which of two answers is better, as one number an answer."""

from __future__ import annotations

import torch

from graftlm.core.console import say
from graftlm.core.files import atomic_folder
from graftlm.core.receipts import PairQuality, Receipt
from graftlm.data.packing import PackingPlan
from graftlm.evaluation.pairs import pair_quality
from graftlm.inference.cached import evaluation_mode
from graftlm.models.adapters import merge_adapter, save_adapter
from graftlm.models.reward import document_rewards, load_reward_model, save_reward_model
from graftlm.objectives.diagnosis import diagnose
from graftlm.objectives.reward import PairwiseReward
from graftlm.recipes.stage_settings import RewardStage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import save_format, whole_model, write_receipt
from graftlm.recipes.stages.tuning import fit, load_trainable
from graftlm.training.distributed import call_gathered, give_back
from graftlm.training.objective import Objective


def run(stage: StageContext) -> Receipt:
    settings = stage.training
    assert isinstance(settings, RewardStage)
    loaded = load_trainable(stage, lambda place, dtype, device: load_reward_model(place, dtype=dtype, device=device))
    held_out: list[PackingPlan] = []

    def objective(model: torch.nn.Module, plans: list[PackingPlan]) -> Objective:
        held_out.extend(plans[1:])
        return PairwiseReward(settings.margin)

    trainer, mixture = fit(stage, loaded, objective)
    quality = judge_pairs(stage, loaded.model, held_out[0]) if held_out else None
    whole = whole_model(stage, loaded)
    if whole is not None:
        with atomic_folder(stage.model_folder) as folder:
            if settings.method == "lora":
                save_adapter(whole, str(folder / "adapter"))
            save_reward_model(merge_adapter(whole), stage.tokenizer, folder, save_format(stage))
    receipt = write_receipt(stage, loaded, trainer, mixture)
    diagnosis = diagnose(receipt.losses, kind=settings.stage, pairs=quality)
    say(f"  {say_quality(quality) if quality else 'no pair was kept back: its accuracy is not known'}\n  {diagnosis}")
    return receipt.model_copy(update={"pairs": quality, "diagnosis": diagnosis})


def judge_pairs(stage: StageContext, model: torch.nn.Module, held_out: PackingPlan) -> PairQuality:
    """How well the model orders pairs that it was not trained on."""
    scores: list[float] = []
    lengths: list[int] = []
    with evaluation_mode(model), torch.no_grad():
        for row in held_out.all_rows(pad=stage.device.type == "cuda"):
            batch = row.to(stage.device)
            with torch.autocast(stage.device.type, torch.bfloat16, enabled=stage.bf16):
                scores += call_gathered(model, document_rewards, batch).tolist()
            lengths += row.boundaries.diff()[: row.documents].tolist()
    give_back(model)
    return pair_quality(scores[0::2], scores[1::2], lengths[0::2], lengths[1::2])


def say_quality(quality: PairQuality) -> str:
    """One line: accuracy on held-out pairs and what may be wrong with it."""
    accuracy = quality.accuracy
    length = quality.length_correlation
    biased = "" if length is None else f", correlation with length {length:+.2f}"
    return (
        f"{quality.pairs} held-out pairs: {accuracy.value:.1%} in the right order ({accuracy.low:.1%}–"
        f"{accuracy.high:.1%}), mean margin {quality.margin:.2f}{biased}"
    )
