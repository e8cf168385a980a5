"""One plain line on how a preference run went, from its own numbers: what moved where, and what to do about it.

The rules are tried in order; the first that fits speaks. Their thresholds are rules of thumb.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from graftlm.core.receipts import PairQuality

LENGTH_CORRELATION = 0.6
"""From here on length explains more than a third (0.36) of the variance of the scores."""
NEAR_CHANCE = 0.6
"""A held-out accuracy below it, whose interval holds 0.5, is no better than a coin."""
BY_HEART = 0.2
"""So much more accurate on the pairs trained on than on held-out ones."""
UNRELATED_DRIFT = 10.0
"""Nats an answer that KTO's policy has moved on mismatched answers; with beta 0.1 that is a whole unit of reward."""
LESS = "fewer epochs, a lower rate, or more data"
SFT = "the SFT term (sft_weight)"


class Move(NamedTuple):
    """How far the good and the bad answers have moved.

    Attributes:
        good, bad: by how much.
        unit: of what.
        least: what counts as a move; beside a large move, so does only a tenth of it.
        names: of the good and the bad answers.
    """

    good: float
    bad: float
    unit: str
    least: float
    names: tuple[str, str] = ("chosen", "rejected")

    @property
    def still(self) -> bool:
        return max(abs(self.good), abs(self.bad)) < self.least

    def rises(self, change: float) -> bool:
        return change > max(self.least, 0.1 * max(abs(self.good), abs(self.bad)))

    def falls(self, change: float) -> bool:
        return self.rises(-change)

    def __str__(self) -> str:
        return f"{self.names[0]} {_signed(self.good)}, {self.names[1]} {_signed(self.bad)} {self.unit}"


@dataclass(frozen=True)
class Run:
    """What the rules look at.

    Attributes:
        kind: dpo, kto, orpo, simpo or reward.
        first, last: means of the first and the last tenth of the log entries.
        move: where the answers went.
        pairs: quality on held-out pairs, if there are any.
    """

    kind: str
    first: dict[str, float]
    last: dict[str, float]
    move: Move
    pairs: PairQuality | None


def diagnose(losses: list[dict[str, float]], *, kind: str, pairs: PairQuality | None) -> str:
    """One line on a run; empty where there is no log or the kind of stage has no such diagnosis.

    Args:
        losses: the log entries of a run with an objective of `preference.py` or `reward.py`.
        kind: dpo, kto, orpo, simpo or reward.
        pairs: quality on held-out pairs, or None.
    """
    if not losses or kind not in MOVES:
        return ""
    tenth = max(1, len(losses) // 10)
    first, last = _mean(losses[:tenth]), _mean(losses[-tenth:])
    run = Run(kind, first, last, MOVES[kind](first, last), pairs)
    return next(line for rule in RULES if (line := rule(run)))


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(entry[name] for entry in entries) / len(entries) for name in entries[0]}


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _drift(first: dict[str, float], last: dict[str, float]) -> Move:
    """With a reference: log π − log ref, which is 0 before the first step and compares an answer with itself."""
    return Move(last["chosen_drift"], last["rejected_drift"], "nats an answer", 0.1)


def _log_p(first: dict[str, float], last: dict[str, float]) -> Move:
    """Without: the answers of the last steps against other answers, those of the first."""
    good, bad = (last[name] - first[name] for name in ("chosen_log_p", "rejected_log_p"))
    return Move(good, bad, "nats a token", 0.01)


def _kto_rewards(first: dict[str, float], last: dict[str, float]) -> Move:
    """Mean rewards of the desirable and the undesirable answers, taken apart from their sums and differences."""
    share, both, signed = (last[name] for name in ("desirable_share", "reward", "signed_reward"))
    good = (both + signed) / (2 * share) if share else 0.0
    bad = (both - signed) / (2 * (1 - share)) if share < 1 else 0.0
    return Move(good, bad, "of reward", 0.01, ("desirable", "undesirable"))


def _scores(first: dict[str, float], last: dict[str, float]) -> Move:
    """A reward model's scores have no zero: half the margin each way."""
    half = (last["margin"] - first["margin"]) / 2
    return Move(half, -half, "of score", 0.05)


MOVES: dict[str, Callable[[dict[str, float], dict[str, float]], Move]] = {
    "dpo": _drift,
    "kto": _kto_rewards,
    "orpo": _log_p,
    "simpo": _log_p,
    "reward": _scores,
}


def _nothing_moved(run: Run) -> str:
    if not run.move.still:
        return ""
    return f"nothing moved ({run.move}): raise the rate or train longer"


def _by_heart(run: Run) -> str:
    if run.pairs is None:
        return ""
    held_out = run.pairs.accuracy
    chance = held_out.value < NEAR_CHANCE and held_out.low <= 0.5
    if not chance or run.last["accuracy"] - held_out.value < BY_HEART:
        return ""
    accuracies = f"{held_out.value:.2f}, {run.last['accuracy']:.2f} in training"
    what = "answers" if run.kind == "kto" else "pairs"
    return f"margin grows but held-out accuracy is near chance ({accuracies}): it learns the {what} by heart: {LESS}"


def _length_wins(run: Run) -> str:
    correlation = run.pairs.length_correlation if run.pairs else None
    if correlation is None or abs(correlation) < LENGTH_CORRELATION:
        return ""
    side = "longer" if correlation > 0 else "shorter"
    instead = {"dpo": ", or use simpo"}.get(run.kind, "")
    found = f"length correlation {correlation:.1f}".replace("-", "−")
    return f"{side} answers score higher ({found}): if that is not what is wanted, balance the pairs' lengths{instead}"


def _unrelated_text_drifts(run: Run) -> str:
    z0 = run.last.get("z0", 0.0)
    if z0 < UNRELATED_DRIFT:
        return ""
    return f"the policy drifts on unrelated answers, too (z0 {z0:.1f} nats): lower the rate or raise beta"


def _wrong_way_round(run: Run) -> str:
    move = run.move
    if not move.falls(move.good) or move.bad <= move.good:
        return ""
    return f"the worse answers gain on the better ones ({move}): check which is which in the data, and lower the rate"


def _both_fall(run: Run) -> str:
    move = run.move
    if not (move.falls(move.good) and move.falls(move.bad)):
        return ""
    if run.kind == "kto":
        return f"both kinds of answers fall ({move}): lower the rate, raise desirable_weight, or add {SFT}"
    more = "raise" if run.kind == "orpo" else "add"
    return f"both log-probabilities fall ({move}): lower the rate or {more} {SFT}"


def _both_rise(run: Run) -> str:
    move = run.move
    if not (move.rises(move.good) and move.rises(move.bad)):
        return ""
    if run.kind == "kto":
        return f"both kinds of answers rise ({move}): raise undesirable_weight"
    if move.good > move.bad:
        return f"both log-probabilities rise, the better answers' more ({move}): as it should be"
    return f"both log-probabilities rise, the worse answers' as much ({move}): lower sft_weight or raise beta"


def _as_it_should_be(run: Run) -> str:
    move = run.move
    if move.good <= move.bad:
        return f"the better answers do not gain on the worse ones ({move}): raise the rate, or look at the pairs"
    if run.kind == "reward":
        accuracy = run.pairs.accuracy.value if run.pairs else run.last["accuracy"]
        seen = "held-out" if run.pairs else "training"
        return f"the better answers score higher ({seen} accuracy {accuracy:.2f}): as it should be"
    good = "rise" if move.rises(move.good) else "stay"
    bad = "fall" if move.falls(move.bad) else "stay"
    return f"the better answers {good} and the worse {bad} ({move}): as it should be"


RULES = (
    _nothing_moved,
    _by_heart,
    _length_wins,
    _unrelated_text_drifts,
    _wrong_way_round,
    _both_fall,
    _both_rise,
    _as_it_should_be,
)
