"""How often to go over N samples: a rule of thumb, and nothing more."""

from __future__ import annotations

import math
from itertools import pairwise

POINTS = ((100, 15.0), (1_000, 10.0), (10_000, 2.0))
HEURISTIC = (
    "a rule of thumb (100 samples → 15 epochs, 1,000 → 10, 10,000 → 2), not a law: watch the held-out loss"
)


def epochs_for(samples: int) -> float:
    """Epochs for a number of samples: linear in log(samples) between the points, constant outside them."""
    if samples <= POINTS[0][0]:
        return POINTS[0][1]
    for (n0, e0), (n1, e1) in pairwise(POINTS):
        if samples <= n1:
            return e0 + (e1 - e0) * (math.log(samples / n0) / math.log(n1 / n0))
    return POINTS[-1][1]
