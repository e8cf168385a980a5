"""Charts of what a stage's receipt holds: losses, pairs of answers, rounds of own answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from graftlm.core.receipts import Receipt
from graftlm.recipes import charts
from graftlm.recipes.charts import Guide, Line

Entries = Sequence[dict[str, float]]

NEAR = 0.5
"""The limit of the divergence is drawn where some round comes to this share of it."""


def loss_curve(receipt: Receipt, per: str, *, small: bool = False) -> Markup | None:
    """Training and held-out loss; None where none was written."""
    return _curves(receipt, "loss", f"Loss per {per}", _trained_and_held_out(receipt, "loss"), small=small)


def figures(receipt: Receipt) -> list[Markup]:
    """The main charts of a stage that learns from preferences or rewards."""
    if receipt.kind == "best_of":
        found = [_best_chart(receipt), loss_curve(receipt, "target token, last round")]
    elif receipt.kind in ("ppo", "grpo"):
        found = [_reward_chart(receipt), _divergence_chart(receipt), _length_chart(receipt)]
    else:
        found = _preference_charts(receipt)
    return [chart for chart in found if chart]


def small_figures(receipt: Receipt) -> list[Markup]:
    """What else a policy's rounds and steps tell."""
    if receipt.kind not in ("ppo", "grpo"):
        return []
    by_step = {"entropy": ("Entropy (nats a token)", 1), "clip_fraction": ("Tokens clipped (%)", 100)}
    by_round = {
        "finished": ("Ended by themselves (%)", 100),
        "value_explains": ("Value head explains (%)", 100),
        "groups_kept": ("Groups with a lesson (%)", 100),
    }
    found = [
        _curves(receipt, name, title, [_steps(receipt.losses, name, scale=scale)], small=True)
        for name, (title, scale) in by_step.items()
    ]
    found += [
        _curves(receipt, name, title, [_rounds(receipt, name, scale=scale)], over="round", small=True)
        for name, (title, scale) in by_round.items()
    ]
    return [chart for chart in found if chart]


def _preference_charts(receipt: Receipt) -> list[Markup | None]:
    kto = receipt.kind == "kto"
    accuracy = "On the right side (%)" if kto else "Better answer ahead (%)"
    found = [
        loss_curve(receipt, "answer" if kto else "pair", small=True),
        _curves(receipt, "accuracy", accuracy, _trained_and_held_out(receipt, "accuracy"), percent=True, small=True),
    ]
    if receipt.kind == "reward":
        return [*found, *_pair_charts(receipt)]
    margin, title = ("signed_reward", "Reward, − where unwanted") if kto else ("margin", "Margin, better − worse")
    found.append(_curves(receipt, "margin", title, _trained_and_held_out(receipt, margin), small=True))
    return [*found, _drift_chart(receipt)]


def _drift_chart(receipt: Receipt) -> Markup | None:
    """Where the answers' log-probabilities went: against the reference, or without one as they are."""
    logged = receipt.losses[0] if receipt.losses else {}
    if "z0" in logged:
        names, title = {"z0": "unrelated"}, "Drift of unrelated answers (nats)"
    elif "chosen_drift" in logged:
        names, title = {"chosen_drift": "better", "rejected_drift": "worse"}, "Drift from the start (nats)"
    else:
        names, title = {"chosen_log_p": "better", "rejected_log_p": "worse"}, "Log-probability (nats a token)"
    lines = [_steps(receipt.losses, name, label) for name, label in names.items()]
    return _curves(receipt, "drift", title, lines, small=True)


def _pair_charts(receipt: Receipt) -> list[Markup | None]:
    if receipt.pairs is None:
        return []
    name, pairs = identifier(receipt.stage), receipt.pairs
    shares = {"better": pairs.histogram["better"], "worse": pairs.histogram["worse"]}
    return [
        Markup(charts.histogram(f"{name}-rewards", "Held-out answers (%)", pairs.histogram["edges"], shares)),
        Markup(charts.calibration(f"{name}-calibration", "Calibration (numbers: pairs)", pairs.calibration)),
    ]


def _reward_chart(receipt: Receipt) -> Markup | None:
    line = _rounds(receipt, "reward")
    spread = [entry.get("reward_spread", 0.0) for entry in receipt.rollouts if "reward" in entry]
    band = Line("mean", line.x, line.y, spread=spread)
    return _curves(receipt, "reward", "Reward, mean ± one spread", [band], over="round")


def _divergence_chart(receipt: Receipt) -> Markup | None:
    line = _rounds(receipt, "kl")
    limit, target = receipt.settings.get("max_kl"), receipt.settings.get("kl_target")
    guides = [Guide(f"max_kl {limit:g}", limit)] if limit and max(line.y, default=0.0) > NEAR * limit else []
    if target and receipt.kind == "ppo":
        guides.append(Guide(f"kl_target {target:g}", target))
    return _curves(receipt, "kl", "Divergence (nats an answer)", [line], over="round", guides=guides)


def _length_chart(receipt: Receipt) -> Markup | None:
    return _curves(receipt, "tokens", "Answer length (tokens)", [_rounds(receipt, "tokens")], over="round")


def _best_chart(receipt: Receipt) -> Markup | None:
    lines = [_rounds(receipt, "reward", "all answers"), _rounds(receipt, "best", "best of each prompt")]
    return _curves(receipt, "reward", "Mean reward of a round's answers", lines, over="round")


def _curves(
    receipt: Receipt,
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    percent: bool = False,
    over: str = "step",
    guides: Sequence[Guide] = (),
    small: bool = False,
) -> Markup | None:
    drawn = [line for line in lines if line.x]
    if not drawn:
        return None
    name = f"{identifier(receipt.stage)}-{name}"
    return Markup(charts.curves(name, title, drawn, percent=percent, over=over, guides=guides, small=small))


def _trained_and_held_out(receipt: Receipt, name: str) -> list[Line]:
    kept = [
        [entry for entry in entries if name != "accuracy" or not _all_tied(entry)]
        for entries in (receipt.losses, receipt.held_out)
    ]
    held_out = _steps(kept[1], name, "held-out")
    return [_steps(kept[0], name, "training"), Line(held_out.label, held_out.x, held_out.y)]


def _all_tied(entry: dict[str, float]) -> bool:
    """Before the first step all answers score alike: an accuracy of 0 would say more than is known."""
    return entry.get("margin", entry.get("signed_reward")) == 0


def _steps(entries: Entries, name: str, label: str = "", *, scale: float = 1) -> Line:
    found = [(entry["step"], entry[name] * scale) for entry in entries if name in entry]
    return Line(label, [step for step, _ in found], [value for _, value in found], noisy=True)


def _rounds(receipt: Receipt, name: str, label: str = "", *, scale: float = 1) -> Line:
    found = [(entry["round"] + 1, entry[name] * scale) for entry in receipt.rollouts if name in entry]
    return Line(label, [number for number, _ in found], [value for _, value in found])


def identifier(name: str) -> str:
    """A name that can stand in an SVG id."""
    return re.sub(r"[^A-Za-z0-9]", lambda letter: f"_{ord(letter[0]):x}", name)
