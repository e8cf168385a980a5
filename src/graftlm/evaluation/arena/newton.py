"""Newton's method for many small concave problems at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graftlm.evaluation.arena.matches import Floats

Loss = Callable[[Floats], Floats]
"""Parameters [R, K] → losses [R]."""
Derivatives = Callable[[Floats], tuple[Floats, Floats]]
"""Parameters [R, K] → gradients [R, K] and Hessians [R, K, K] of the losses."""

_STEPS, _HALVINGS = 100, 40


def minimise(loss: Loss, derivatives: Derivatives, start_RK: Floats, *, tolerance: float = 1e-10) -> Floats:
    """The minima of R convex losses, [R, K].

    A step that raises a loss is halved, so a problem with a minimum is solved from any start.

    Args:
        tolerance: the largest entry of the last step.

    Raises:
        FloatingPointError: no end after 100 steps: a loss without a minimum.
    """
    at_RK = start_RK.copy()
    for _ in range(_STEPS):
        gradient_RK, hessian_RKK = derivatives(at_RK)
        step_RK: Floats = np.linalg.solve(hessian_RKK, gradient_RK[..., None])[..., 0].astype(np.float64)
        at_RK = _descended(loss, at_RK, step_RK)
        if float(np.abs(step_RK).max(initial=0)) < tolerance:
            return at_RK
    raise FloatingPointError("Newton's method did not settle: the loss may have no minimum")


def _descended(loss: Loss, at_RK: Floats, step_RK: Floats) -> Floats:
    before_R = loss(at_RK)
    share_R = np.ones(len(at_RK))
    for _ in range(_HALVINGS):
        after_RK = at_RK - share_R[:, None] * step_RK
        worse_R = loss(after_RK) > before_R + 1e-9 * (1 + np.abs(before_R))
        if not worse_R.any():
            return after_RK
        share_R = np.where(worse_R, share_R / 2, share_R)
    return np.where(worse_R[:, None], at_RK, after_RK)
