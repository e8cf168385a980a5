"""Learning from which answer is better: DPO and its variants, KTO, ORPO, SimPO."""

from __future__ import annotations

from collections.abc import Callable

import torch

from graftlm.core.console import say
from graftlm.core.receipts import PairQuality, Receipt
from graftlm.data.packing import PackingPlan
from graftlm.evaluation.pairs import pair_quality
from graftlm.objectives.diagnosis import diagnose
from graftlm.objectives.preference import DPO, KTO, ORPO, PairObjective, SimPO
from graftlm.objectives.reference import Reference, reference_log_probabilities
from graftlm.objectives.scores import PairScores, pair_scores, unpaired_scores
from graftlm.recipes.stage_settings import DpoStage, KtoStage, OrpoStage, PreferenceStage, SimpoStage
from graftlm.recipes.stages.comparing import compare_stage
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import save_language_model, whole_model, write_receipt
from graftlm.recipes.stages.reward import say_quality
from graftlm.recipes.stages.rewards import build_reward
from graftlm.recipes.stages.tuning import fit, load_trainable
from graftlm.training.objective import Objective


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, PreferenceStage)
    loaded = load_trainable(stage)
    judge: list[Callable[[], PairScores]] = []
    before: list[PairScores] = []

    def make_objective(model: torch.nn.Module, plans: list[PackingPlan]) -> Objective:
        objective = choose_objective(stage, settings, model, plans)
        if len(plans) > 1:
            judge.append(lambda: score(stage, objective, model, plans[1]))
            before.append(judge[0]())
        return objective

    trainer, mixture = fit(stage, loaded, make_objective)
    quality = compare_pairs(before[0], judge[0]()) if judge else None
    save_language_model(stage, whole_model(stage, loaded))
    receipt = write_receipt(stage, loaded, trainer, mixture)
    diagnosis = diagnose(receipt.losses, kind=settings.stage, pairs=quality)
    say(f"  {say_quality(quality) if quality else 'no pair was kept back: its accuracy is not known'}\n  {diagnosis}")
    judges = build_reward(stage, settings.reward) if settings.reward and stage.world.first else None
    comparison = compare_stage(stage, judges) if stage.world.first else None
    return receipt.model_copy(update={"pairs": quality, "comparison": comparison, "diagnosis": diagnosis})


def choose_objective(
    stage: StageContext, settings: PreferenceStage, model: torch.nn.Module, plans: list[PackingPlan]
) -> PairObjective | KTO:
    """The stage's loss; those with a reference have it computed here, before the first step."""
    if isinstance(settings, OrpoStage):
        return ORPO(settings.beta, sft_weight=settings.sft_weight)
    if isinstance(settings, SimpoStage):
        return SimPO(settings.beta, settings.target_margin, sft_weight=settings.sft_weight)
    reference = make_reference(stage, model, plans)
    if isinstance(settings, KtoStage):
        return KTO(
            settings.beta,
            reference,
            desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight,
            sft_weight=settings.sft_weight,
        )
    assert isinstance(settings, DpoStage)
    return DPO(
        settings.beta,
        reference,
        kind=settings.loss,
        label_smoothing=settings.label_smoothing,
        sft_weight=settings.sft_weight,
    )


def make_reference(stage: StageContext, model: torch.nn.Module, plans: list[PackingPlan]) -> Reference:
    pad_rows = stage.device.type == "cuda"
    return reference_log_probabilities(
        model, plans, pad_rows=pad_rows, bf16=stage.bf16, key=stage.start.key, world=stage.world
    )


def score(
    stage: StageContext, objective: PairObjective | KTO, model: torch.nn.Module, held_out: PackingPlan
) -> PairScores:
    """Implicit rewards of held-out pairs; for thumbs a pair is one wanted and one unwanted answer, in their order."""
    pad_rows = stage.device.type == "cuda"
    if isinstance(objective, PairObjective):
        return pair_scores(objective, model, held_out, pad_rows=pad_rows, bf16=stage.bf16)
    found = unpaired_scores(objective, model, held_out, pad_rows=pad_rows, bf16=stage.bf16)
    up, down = found.value > 0, found.value < 0
    pairs = min(int(up.sum()), int(down.sum()))
    return PairScores(
        found.score[up][:pairs], found.score[down][:pairs], found.tokens[up][:pairs], found.tokens[down][:pairs]
    )


def compare_pairs(before: PairScores, after: PairScores) -> PairQuality | None:
    """None where the held-out answers are all wanted or all unwanted."""
    if not len(after.chosen):
        return None
    return pair_quality(
        after.chosen.tolist(),
        after.rejected.tolist(),
        after.chosen_tokens.tolist(),
        after.rejected_tokens.tolist(),
        margin_before=float((before.chosen - before.rejected).mean()),
    )
