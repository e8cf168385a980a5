"""Style control: what of a rating is length and Markdown, found by regression beside the models' strengths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from graftlm.evaluation.arena.bradley_terry import PRIOR, logistic
from graftlm.evaluation.arena.matches import Floats, Matches
from graftlm.evaluation.arena.newton import minimise


@dataclass(frozen=True)
class Styled:
    """Strengths at equal style [R, M], and how much each feature of style does [R, F], in nats a standard deviation."""

    strengths_RM: Floats
    effects_RF: Floats


def standardised(matches: Matches) -> Matches:
    """Differences of style in units of their size.

    FastChat takes their mean away, too. Which of two models is called a is chance there; here it is the alphabet, and a
    mean of differences would be a real one. Their root mean square around zero is used, which is the same where
    sides are drawn. A feature that no pair of answers differs in stays zero.
    """
    size_F = np.sqrt((matches.style_NF**2).mean(axis=0))
    style_NF = matches.style_NF / np.where(size_F > 0, size_F, 1)
    return replace(matches, style_NF=style_NF)


def styled_strengths(matches: Matches, weights_RN: Floats) -> Styled:
    """Logistic regression on who fought and how their answers differed, for R weightings of the battles.

    The ridge is FastChat's: 0.5 on points / 400 and on each effect.
    """
    models, features = len(matches.models), matches.style_NF.shape[1]
    ridge_K = np.concatenate([np.full(models, PRIOR), np.full(features, 0.5)])
    at_1K = np.zeros((1, models + features))
    found = []
    for weights_N in weights_RN:  # one after another: [R, N] of everything would be large, and starts are near
        at_1K = _fit(matches, weights_N, ridge_K, at_1K)
        found.append(at_1K[0])
    found_RK = np.stack(found)
    strengths_RM = found_RK[:, :models]
    return Styled(strengths_RM - strengths_RM.mean(axis=1, keepdims=True), found_RK[:, models:])


def _fit(matches: Matches, weights_N: Floats, ridge_K: Floats, start_1K: Floats) -> Floats:
    models = len(matches.models)
    first, second, style_NF = matches.first_N, matches.second_N, matches.style_NF

    def lead(at_1K: Floats) -> Floats:
        at_K = at_1K[0]
        return np.asarray(at_K[first] - at_K[second] + style_NF @ at_K[models:])

    def loss(at_1K: Floats) -> Floats:
        lead_N = lead(at_1K)
        each_N = weights_N * (np.logaddexp(0, lead_N) - matches.points_N * lead_N)
        return np.array([each_N.sum() + (ridge_K / 2 * at_1K[0] ** 2).sum()])

    def derivatives(at_1K: Floats) -> tuple[Floats, Floats]:
        chance_N = logistic(lead(at_1K))
        surplus_N = weights_N * (chance_N - matches.points_N)
        gradient_K = np.concatenate([_by_model(matches, surplus_N), surplus_N @ style_NF]) + ridge_K * at_1K[0]
        return gradient_K[None], (_curvature(matches, weights_N * chance_N * (1 - chance_N)) + np.diag(ridge_K))[None]

    return minimise(loss, derivatives, start_1K, tolerance=1e-8)


def _by_model(matches: Matches, values_N: Floats) -> Floats:
    """Sum over the battles of each model, [M]: added where it stands first, taken away where second."""
    models = len(matches.models)
    plus = np.bincount(matches.first_N, values_N, minlength=models)
    return np.asarray(plus - np.bincount(matches.second_N, values_N, minlength=models))


def _curvature(matches: Matches, weights_N: Floats) -> Floats:
    """Xᵀ W X, where a row of X has 1 and −1 at its two models, then the features; without building X."""
    models = len(matches.models)
    codes_N = matches.first_N * models + matches.second_N
    met_MM = np.bincount(codes_N, weights_N, minlength=models * models).reshape(models, models)
    met_MM = met_MM + met_MM.T
    weighted_NF = weights_N[:, None] * matches.style_NF
    columns = [_by_model(matches, column_N) for column_N in weighted_NF.T]
    mixed_MF = np.stack(columns, axis=1) if columns else np.zeros((models, 0))
    return np.block(
        [[np.diag(met_MM.sum(axis=1)) - met_MM, mixed_MF], [mixed_MF.T, weighted_NF.T @ matches.style_NF]]
    )
