"""The report's part on preferences and rewards: one table over all such stages, then each stage by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from graftlm.core.receipts import Interval, PairQuality, Receipt
from graftlm.evaluation.retention import Retention
from graftlm.recipes.formatting import count, decimal, decimal_span, percent, signed, span
from graftlm.recipes.schema import Recipe
from graftlm.recipes.score_tables import Cell
from graftlm.recipes.stage_charts import figures, small_figures
from graftlm.recipes.stage_settings import BaseStage, ComparedStage, RewardSettings, RewardStage
from graftlm.recipes.summary import RunReceipt

LEARNT_ALL = "all data seen"
"""What a receipt says of a stage that ran to its end."""


@dataclass(frozen=True)
class Row:
    """A stage in the table that compares them: cells are None where nothing was measured."""

    name: str
    kind: str
    start: str
    teacher: str
    seconds: float
    accuracy: Cell | None
    reward: Cell | None
    gain: Cell | None
    kl: Cell | None
    length: Cell | None
    domain: Cell | None
    kept: Cell | None


@dataclass(frozen=True)
class Fact:
    what: str
    value: str
    small: str = ""


@dataclass(frozen=True)
class Part:
    """One stage's part of the page; `stopped` says why it ended early, if it did."""

    receipt: Receipt
    start: str
    facts: list[Fact]
    figures: list[Markup]
    small: list[Markup]
    stopped: str


def learns_from_judgement(stage: BaseStage) -> bool:
    """Whether a stage learns from preferences or rewards."""
    return isinstance(stage, RewardStage | ComparedStage)


def alignment(run: RunReceipt, recipe: Recipe) -> dict[str, Any]:
    """What the template lays out.

    Returns:
        rows: of the table. parts: one a finished stage. prompts_differ: whether the rewards are of different prompts.
    """
    found = [
        (stage.receipt, stage.started_from)
        for stage in run.stages
        if stage.receipt and learns_from_judgement(recipe.stages[stage.name])
    ]
    first_blocks = {next(iter(recipe.stages[r.stage].blocks)) for r, _ in found if r.comparison}
    return {
        "rows": [
            _row(receipt, start, recipe.stages[receipt.stage], run.against_start.get(receipt.stage))
            for receipt, start in found
        ],
        "parts": [_part(receipt, start) for receipt, start in found],
        "prompts_differ": len(first_blocks) > 1,
    }


def _row(receipt: Receipt, start: str, settings: BaseStage, change: Retention | None) -> Row:
    compared, pairs = receipt.comparison, receipt.pairs
    domain = change.domain.difference if change else None
    kept = change.general.retained if change else None
    return Row(
        name=receipt.stage,
        kind=receipt.kind,
        start=_start_of(settings, start),
        teacher=_teacher(settings),
        seconds=receipt.seconds,
        accuracy=Cell(percent(pairs.accuracy.value), span("", pairs.accuracy)) if pairs else None,
        reward=_from_to(compared.reward_before, compared.reward_after) if compared else None,
        gain=Cell(f"{signed(compared.gain)} sd") if compared and compared.gain is not None else None,
        kl=Cell(decimal(compared.kl.value), decimal_span(compared.kl)) if compared else None,
        length=Cell(f"{compared.tokens_before:.1f} → {compared.tokens_after:.1f}") if compared else None,
        domain=Cell(signed_points(domain.value), _points_span(domain.low, domain.high)) if domain else None,
        kept=Cell(percent(kept.value), f"{percent(kept.low)} – {percent(kept.high)}") if kept else None,
    )


def _from_to(before: Interval | None, after: Interval | None) -> Cell | None:
    if before is None or after is None:
        return None
    return Cell(f"{decimal(before.value)} → {decimal(after.value)}", f"after: {decimal_span(after)}")


def signed_points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _points_span(low: float, high: float) -> str:
    return f"{signed_points(low)} to {signed_points(high)}"


def _start_of(settings: BaseStage, start: str) -> str:
    return settings.model if isinstance(settings, RewardStage) and settings.model else start


def _teacher(settings: BaseStage) -> str:
    """What a stage learns from: pairs, thumbs, or rewards."""
    if isinstance(settings, RewardStage) or "sft_weight" in type(settings).model_fields:
        return "thumbs" if getattr(settings, "stage", "") == "kto" else "pairs"
    return "reward: " + " + ".join(reward_name(one) for one in getattr(settings, "reward", None) or [])


def reward_name(settings: RewardSettings) -> str:
    """A reward in a few words."""
    name = settings.model or settings.function or settings.endpoint
    if name is None:
        name = next(kind for kind in ("exact", "contains", "format", "regex", "length") if getattr(settings, kind))
    safety = f" with {settings.safety.model} for safety" if settings.safety else ""
    weight = "" if settings.weight == 1 else f"{settings.weight:g} × "
    return f"{weight}{name}{safety}"


def _part(receipt: Receipt, start: str) -> Part:
    return Part(
        receipt=receipt,
        start=start,
        facts=[*_pair_facts(receipt), *_round_facts(receipt)],
        figures=figures(receipt),
        small=small_figures(receipt),
        stopped="" if receipt.stopped in ("", LEARNT_ALL) else receipt.stopped,
    )


def _pair_facts(receipt: Receipt) -> list[Fact]:
    pairs = receipt.pairs
    if pairs is None:
        return []
    facts = [
        Fact("Held-out pairs", count(pairs.pairs), "one wanted, one unwanted answer" if receipt.kind == "kto" else ""),
        Fact("In the right order", percent(pairs.accuracy.value), span("", pairs.accuracy)),
        Fact("Mean margin", _margin(pairs)),
        Fact("Correlation with length", _correlation(pairs.length_correlation), "of score and tokens, within pairs"),
    ]
    if receipt.kind == "reward":
        facts.append(Fact("Calibration error", f"{pairs.calibration_error:.3f}", "0 is best"))
    return facts


def _margin(pairs: PairQuality) -> str:
    after = decimal(pairs.margin)
    return after if pairs.margin_before is None else f"{decimal(pairs.margin_before)} → {after}"


def _correlation(value: float | None) -> str:
    return "all equally long" if value is None else signed(value)


def _round_facts(receipt: Receipt) -> list[Fact]:
    if not receipt.rollouts:
        return []
    return _best_facts(receipt) if receipt.kind == "best_of" else _policy_facts(receipt)


def _best_facts(receipt: Receipt) -> list[Fact]:
    first, last = receipt.rollouts[0], receipt.rollouts[-1]
    prompts, each = receipt.settings.get("prompts"), receipt.settings.get("samples")
    asked = f"{prompts} prompts, {each} answers each" if prompts and each else ""
    return [
        Fact("Rounds", str(len(receipt.rollouts)), asked),
        Fact("Mean reward of all", f"{decimal(first['reward'])} → {decimal(last['reward'])}", "first → last round"),
        Fact("Best above the mean", decimal(last["best"] - last["reward"]), "last round"),
        Fact("Prompts with a best", percent(last["answered"]), "last round"),
    ]


def _policy_facts(receipt: Receipt) -> list[Fact]:
    first, last = receipt.rollouts[0], receipt.rollouts[-1]
    wanted, answers = receipt.settings.get("iterations"), receipt.settings.get("answers")
    facts = [
        Fact(
            "Rounds",
            f"{len(receipt.rollouts)}{f' of {wanted}' if wanted else ''}",
            f"{answers} answers each" if answers else "",
        ),
        Fact("Mean reward", f"{decimal(first['reward'])} → {decimal(last['reward'])}", "first → last round"),
        Fact("Divergence at the end", decimal(last["kl"]), "nats an answer"),
        Fact("Answer length", f"{first['tokens']:.1f} → {last['tokens']:.1f}", "tokens"),
    ]
    if "kl_price" in last:
        before, after = first["kl_price"], last["kl_price"]
        facts.append(Fact("Price of a nat", f"{before:.3g} → {after:.3g}" if after != before else f"{after:.3g}"))
    return facts
