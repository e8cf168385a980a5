"""The table of an arena: rating with its interval, rank range, battles, win rate, and who beats whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graftlm.core.errors import DataError
from graftlm.core.receipts import Interval
from graftlm.evaluation.arena.battles import Battle
from graftlm.evaluation.arena.bradley_terry import resampled_strengths, strengths
from graftlm.evaluation.arena.elo import BASE, SCALE, START
from graftlm.evaluation.arena.matches import STYLE_NAMES, Floats, Matches, Pairs, matches_of
from graftlm.evaluation.arena.resampling import battle_weights, profiles
from graftlm.evaluation.arena.style import standardised, styled_strengths

BOOTSTRAPS = 500
POINTS = SCALE / math.log(BASE)
"""Points of a rating in one nat of strength: 173.7."""


@dataclass(frozen=True)
class Anchor:
    """The model whose rating is set, and what to."""

    model: str
    rating: float = START


@dataclass(frozen=True)
class Rated:
    """One model's row.

    Attributes:
        rating: in points, with the 95 % interval of the bootstrap; an anchor's has no width.
        best, worst: the ranks that the intervals leave open; two models tie where their intervals overlap.
        battles: rated ones that it fought.
        win_rate: its points of them, a tie being half a one.
    """

    model: str
    rating: Interval
    best: int
    worst: int
    battles: int
    win_rate: float


@dataclass(frozen=True)
class Effect:
    """What style does to a verdict: points of rating that one standard deviation more of it is worth."""

    name: str
    points: Interval


@dataclass(frozen=True)
class RatingTable:
    """What an arena found.

    Attributes:
        rows: the models, the best first.
        wins_MM: [i, j]: the share of points that row i got from row j; NaN where they did not meet.
        met_MM: [i, j]: how often they met.
        effects: of style, where it was controlled for.
        notes: what a reader must know of the figures.
        bootstraps: resamples behind each interval.
    """

    rows: list[Rated]
    wins_MM: Floats
    met_MM: Floats
    effects: list[Effect]
    notes: list[str]
    bootstraps: int


def rate(
    battles: Sequence[Battle],
    *,
    anchor: Anchor | None = None,
    style_control: bool = False,
    bootstraps: int = BOOTSTRAPS,
    seed: int = 0,
) -> RatingTable:
    """Bradley–Terry ratings, at equal style if asked for.

    Questions are resampled by multinomial counts and every resample is rated anew; intervals are the 2.5 % and 97.5 %
    quantiles. Without an anchor the mean rating is 1000.

    Raises:
        DataError: no rated battle; models that never met; an anchor that did not fight.
    """
    matches = matches_of(battles, styled=style_control)
    pairs = matches.pairs()
    plain_M, outside = strengths(pairs)  # also where style counts: it says who never met
    generator = np.random.default_rng(seed)
    notes = _unbounded(outside)
    effects: list[Effect] = []
    if style_control:
        styled = standardised(matches)
        drawn_RN = battle_weights(styled, generator, bootstraps)
        fits = styled_strengths(styled, np.concatenate([np.ones((1, len(styled))), drawn_RN]))
        found_M, drawn_RM = fits.strengths_RM[0], fits.strengths_RM[1:]
        effects = _effects(fits.effects_RF, styled)
    else:
        found_M = plain_M
        drawn_RM = resampled_strengths(pairs, *profiles(matches).resampled(generator, bootstraps))
    points_M, points_RM = _points(matches.models, found_M, drawn_RM, anchor)
    low_M, high_M = _interval(points_RM)
    return _table(pairs, points_M, low_M, high_M, effects, notes, bootstraps)


def _interval(drawn_RK: Floats) -> Floats:
    """Where 95 % of R draws lie, [2, K]. Weibull's quantiles leave 2.5 % outside on either side on average; numpy's own
    leave 3.0 % of 200 draws."""
    return np.asarray(np.quantile(drawn_RK, [0.025, 0.975], axis=0, method="weibull"))


def _points(
    models: Sequence[str], found_M: Floats, drawn_RM: Floats, anchor: Anchor | None
) -> tuple[Floats, Floats]:
    """Strengths as points: the mean at 1000, or one model where its anchor says."""
    found, drawn = START + POINTS * found_M, START + POINTS * drawn_RM
    if anchor is None:
        return found, drawn
    if anchor.model not in models:
        raise DataError(f"the anchor {anchor.model} fought no battle", fix=f"take one of: {', '.join(models)}")
    place = models.index(anchor.model)
    return found + anchor.rating - found[place], drawn + anchor.rating - drawn[:, place, None]


def _table(
    pairs: Pairs, points_M: Floats, low_M: Floats, high_M: Floats, effects: list[Effect], notes: list[str], drawn: int
) -> RatingTable:
    order = np.lexsort((np.arange(len(points_M)), -points_M))
    won_MM, met_MM = pairs.points_MM(), pairs.battles_MM()
    fought_M = met_MM.sum(axis=1)
    rows = [
        Rated(
            model=pairs.models[place],
            rating=Interval(value=float(points_M[place]), low=float(low_M[place]), high=float(high_M[place])),
            best=1 + int((low_M > high_M[place]).sum()),
            worst=len(points_M) - int((high_M < low_M[place]).sum()),
            battles=int(fought_M[place]),
            win_rate=float(won_MM[place].sum() / fought_M[place]),
        )
        for place in order
    ]
    sorted_met = met_MM[np.ix_(order, order)]
    with np.errstate(invalid="ignore"):
        shares_MM = won_MM[np.ix_(order, order)] / sorted_met
    return RatingTable(rows, shares_MM, sorted_met, effects, notes, drawn)


def _effects(effects_RF: Floats, styled: Matches) -> list[Effect]:
    """Of the features that differ anywhere; the first row is of all battles, the others of their resamples."""
    whole_F = effects_RF[0]
    low_F, high_F = _interval(effects_RF[1:])
    seen_F = np.abs(styled.style_NF).max(axis=0) > 0
    return [
        Effect(name, Interval(value=POINTS * float(value), low=POINTS * float(low), high=POINTS * float(high)))
        for name, value, low, high, seen in zip(STYLE_NAMES, whole_F, low_F, high_F, seen_F, strict=True)
        if seen
    ]


def _unbounded(outside: list[str]) -> list[str]:
    if not outside:
        return []
    return [
        f"{', '.join(outside)}: all points against the others went one way, so the likeliest rating is infinite. A "
        "weak prior (a standard deviation of 566 points) holds all ratings; more battles make it needless"
    ]
