"""Ratings by the Bradley–Terry model (1952): the chance that i beats j is the logistic of their ratings' difference.

The likelihood is FastChat's: a tie is half a win and half a loss. Strengths are in nats here; `ratings.py` makes
points of them. The likelihood knows differences only, so strengths are those that sum to zero.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.matches import Floats, Pairs
from graftlm.evaluation.arena.newton import minimise

PRIOR = 0.5 / math.log(10) ** 2
"""The ridge on strengths in nats that FastChat's style control has (0.5 on points / 400): a normal prior with a
standard deviation of 566 points."""

_CELLS = 4_000_000
"""Numbers of a batch of Hessians, 32 MB."""

Bools = NDArray[np.bool_]


def strengths(pairs: Pairs) -> tuple[Floats, list[str]]:
    """The most likely strengths [M], and the models that beat, or lost to, all others without a point between.

    Where there are such models the likelihood has no maximum: their strengths are infinite. A weak prior (`PRIOR`)
    then keeps all strengths finite.

    Raises:
        DataError: some models never met the others, not even by way of third ones.
    """
    _check_connected(pairs)
    outside = _outside(pairs)
    ridge = PRIOR if outside else 0.0
    return _fit(pairs, pairs.battles_P[None], pairs.points_P[None], np.array([ridge]))[0], outside


def resampled_strengths(pairs: Pairs, battles_RP: Floats, points_RP: Floats) -> Floats:
    """Strengths [R, M] of R resamples of the battles; the prior keeps those finite that have no likeliest ones."""
    parts = []
    at_once = max(1, _CELLS // len(pairs.models) ** 2)
    for start in range(0, len(battles_RP), at_once):
        battles, points = battles_RP[start : start + at_once], points_RP[start : start + at_once]
        ridge_R = np.where(_bounded(pairs, battles, points), 0.0, PRIOR)
        parts.append(_fit(pairs, battles, points, ridge_R))
    return np.concatenate(parts)


def _fit(pairs: Pairs, battles_RP: Floats, points_RP: Floats, ridge_R: Floats) -> Floats:
    """[R, M]; each likelihood is divided by its battles, which leaves the maximum where it is."""
    models, first, second = len(pairs.models), pairs.first_P, pairs.second_P
    total_R = battles_RP.sum(axis=1)
    battles_RP, points_RP = battles_RP / total_R[:, None], points_RP / total_R[:, None]
    ridge_R = ridge_R / total_R

    def loss(at_RM: Floats) -> Floats:
        lead_RP = at_RM[:, first] - at_RM[:, second]
        each_RP = battles_RP * np.logaddexp(0, lead_RP) - points_RP * lead_RP
        return each_RP.sum(axis=1) + ridge_R / 2 * (at_RM**2).sum(axis=1)

    def derivatives(at_RM: Floats) -> tuple[Floats, Floats]:
        chance_RP = logistic(at_RM[:, first] - at_RM[:, second])
        surplus_RMM = np.zeros((len(at_RM), models, models))
        surplus_RMM[:, first, second] = battles_RP * chance_RP - points_RP
        gradient_RM = surplus_RMM.sum(axis=2) - surplus_RMM.sum(axis=1) + ridge_R[:, None] * at_RM
        hessian_RMM = np.zeros_like(surplus_RMM)
        hessian_RMM[:, first, second] = hessian_RMM[:, second, first] = -battles_RP * chance_RP * (1 - chance_RP)
        diagonal_RM = ridge_R[:, None] - hessian_RMM.sum(axis=2)
        hessian_RMM[:, range(models), range(models)] = diagonal_RM
        # A shift of all strengths changes nothing; the added constant makes that direction solvable, and keeps it 0.
        return gradient_RM, hessian_RMM + diagonal_RM.mean(axis=1)[:, None, None] / models

    return minimise(loss, derivatives, np.zeros((len(battles_RP), models)))


def logistic(lead: Floats) -> Floats:
    """1 / (1 + e^−x), without overflow."""
    return np.exp(-np.logaddexp(0, -lead))


def _check_connected(pairs: Pairs) -> None:
    met_MM = _reach(pairs.battles_MM()[None] > 0)[0]
    groups = {tuple(np.flatnonzero(row)) for row in met_MM}
    if len(groups) == 1:
        return
    named = [", ".join(pairs.models[place] for place in group) for group in sorted(groups)]
    raise DataError(
        f"these groups of models never met: {' | '.join(named)}",
        fix="let a model of each group fight one of the others, or rate the groups on their own",
    )


def _outside(pairs: Pairs) -> list[str]:
    """Models not in the largest group within which points flow both ways."""
    reach_MM = _reach(pairs.points_MM()[None] > 0)[0]
    mutual_MM = reach_MM & reach_MM.T
    core = mutual_MM[np.argmax(mutual_MM.sum(axis=1))]
    return [name for name, inside in zip(pairs.models, core, strict=True) if not inside]


def _bounded(pairs: Pairs, battles_RP: Floats, points_RP: Floats) -> Bools:
    """Whether finite strengths are likeliest (Ford 1957): a way of points leads from every model to every other."""
    models = len(pairs.models)
    edges_RMM = np.zeros((len(battles_RP), models, models), dtype=bool)
    edges_RMM[:, pairs.first_P, pairs.second_P] = points_RP > 0
    edges_RMM[:, pairs.second_P, pairs.first_P] = battles_RP - points_RP > 0
    return np.asarray(_reach(edges_RMM).all(axis=(1, 2)))


def _reach(edges_RMM: Bools) -> Bools:
    """Which models can be reached from which, themselves included."""
    models = edges_RMM.shape[-1]
    reach = edges_RMM | np.eye(models, dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(models)))):
        reach = np.matmul(reach.astype(np.float32), reach.astype(np.float32)) > 0
    return reach
