"""Canaries: made-up secrets that are planted in the training data, and how far training has exposed them.

Carlini et al. 2019, "The Secret Sharer" (arXiv 1802.08232): a canary holds a secret drawn uniformly from a space R. Its
rank is its place among all members of R by the model's likelihood, and

    exposure = log₂|R| − log₂ rank

so a model that does not know it has a uniform rank, 1.44 bits in the mean (1/ln 2), and one that prefers it to all
others has log₂|R| bits: the bits of the secret that guessing by the model saves.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graftlm.inference.scorer import score_choices

Floats = NDArray[np.float64]
FORMS = (("The access code of ", " is ", "."), ("", "的门禁密码是 ", "。"))
"""Before the owner's name, between name and secret, and behind: in English and in Chinese by turns."""
EXACT = 1_000
"""Spaces up to this size are ranked whole; of larger ones as many members are sampled."""
RESOLVED = 10
"""A rank in a sample from here on is an estimate; a smaller one is extrapolated."""
_AT_ONCE = 125
_SYLLABLES = ("ka", "lo", "mi", "ren", "sa", "tu", "vel", "zor", "ban", "dri", "fen", "gos")


@dataclass(frozen=True)
class Canary:
    """A planted text: what stands before the secret, the secret of so many digits, what stands behind."""

    before: str
    secret: str
    after: str

    @property
    def text(self) -> str:
        return self.with_secret(self.secret)

    @property
    def space(self) -> int:
        """|R|."""
        return 10 ** len(self.secret)

    def with_secret(self, secret: str) -> str:
        return f"{self.before}{secret}{self.after}"

    def others(self, count: int, seed: int = 0) -> list[str]:
        """Other members of the space: all when there are at most `count`, else so many drawn without replacement."""
        own, digits = int(self.secret), len(self.secret)
        if self.space - 1 <= count:
            return [f"{number:0{digits}d}" for number in range(self.space) if number != own]
        drawn = random.Random(f"{seed} {self.text}").sample(range(self.space - 1), count)
        return [f"{number + (number >= own):0{digits}d}" for number in drawn]


def make_canaries(count: int, digits: int, seed: int = 0) -> list[Canary]:
    """Canaries with owners of different names, English and Chinese by turns."""
    drawn = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(drawn.choices(_SYLLABLES, k=3)).capitalize()] = None
    return [
        Canary(f"{first}{name}{middle}", f"{drawn.randrange(10**digits):0{digits}d}", last)
        for name, (first, middle, last) in zip(names, _forms(), strict=False)
    ]


def _forms() -> Iterator[tuple[str, str, str]]:
    while True:
        yield from FORMS


@dataclass(frozen=True)
class Exposure:
    """How exposed a secret is, in bits; `how`: exact, sampled, or extrapolated. `most` is log₂|R|."""

    bits: float
    most: float
    how: str


def measure_exposure(
    model: nn.Module, canary: Canary, encode: Callable[[Sequence[str]], list[list[int]]], *, seed: int = 0
) -> Exposure:
    """The exposure of one canary under a model.

    Args:
        model: a transformers causal language model.
        encode: texts → the tokens that training sees of them.
        seed: of the sampled members of a large space.
    """
    texts = [canary.text, *(canary.with_secret(other) for other in canary.others(EXACT - 1, seed))]
    log_p = _log_probabilities(model, encode(texts))
    return exposure(log_p[0], log_p[1:], canary.space)


def _log_probabilities(model: nn.Module, documents: list[list[int]]) -> Floats:
    """log p of each document but for the tokens that all begin with, which change no rank."""
    longest = min(map(len, documents)) - 1
    first = np.array([document[:longest] for document in documents])
    differ = np.flatnonzero((first != first[0]).any(axis=0))
    shared = int(differ[0]) if len(differ) else longest
    parts = [documents[start : start + _AT_ONCE] for start in range(0, len(documents), _AT_ONCE)]
    scored = score_choices(
        model, [documents[0][:shared]] * len(parts), [[one[shared:] for one in part] for part in parts], pad_id=0
    )
    return np.array([score.log_probability for part in scored for score in part])


def exposure(own: float, others: Floats, space: int) -> Exposure:
    """Exposure from the canary's log p and those of other members of its space.

    With all others the rank is exact. With a sample of S, the rank in the sample stands for the rank in the space where
    it is `RESOLVED` or more; else the tail of a skew normal distribution that is fitted to −log p tells the share of
    the space that is likelier (section 4.3 of the paper), at most log₂|R| bits. A tie counts against the canary's rank.
    """
    most = math.log2(space)
    rank = 1 + int((others >= own).sum())
    if len(others) == space - 1:
        return Exposure(most - math.log2(rank), most, "exact")
    if rank >= RESOLVED:
        return Exposure(math.log2((len(others) + 1) / rank), most, "sampled")
    tail = skew_normal_log_cdf(-own, *fit_skew_normal(-others))
    return Exposure(min(most, -tail / math.log(2)), most, "extrapolated")


def chance_exposure(space: int) -> float:
    """Mean exposure in bits under a model that knows nothing: the rank is uniform. 1/ln 2 for large spaces."""
    if space > EXACT:
        return 1 / math.log(2) - math.log2(2 * math.pi * space) / (2 * space)  # Stirling
    return math.log2(space) - float(np.log2(np.arange(1, space + 1)).mean())


def fit_skew_normal(values: Floats) -> tuple[float, float, float]:
    """Location, scale and shape of the skew normal distribution (Azzalini 1985) with the values' mean, deviation and
    skewness; a skewness beyond what it can have (0.995) is cut to 0.99."""
    mean, deviation = float(values.mean()), float(values.std())
    skewness = float(((values - mean) ** 3).mean() / max(deviation, 1e-12) ** 3)
    part = min(abs(skewness), 0.99) ** (2 / 3)
    delta = math.copysign(math.sqrt(math.pi / 2 * part / (part + ((4 - math.pi) / 2) ** (2 / 3))), skewness)
    scale = max(deviation, 1e-12) / math.sqrt(1 - 2 * delta**2 / math.pi)
    return mean - scale * delta * math.sqrt(2 / math.pi), scale, delta / math.sqrt(1 - delta**2)


def skew_normal_log_cdf(value: float, location: float, scale: float, shape: float) -> float:
    """log of the probability of a smaller value: the density 2 φ(z) Φ(shape·z), summed in logarithms, as tails need."""
    z = (value - location) / scale
    steps = torch.linspace(-40.0, 0.0, 40_001, dtype=torch.float64)
    at = z + steps  # the density falls like exp(-z²/2): what is farther out does not count
    density = math.log(2) - at**2 / 2 - math.log(2 * math.pi) / 2 + torch.special.log_ndtr(shape * at)
    width = float(steps[1] - steps[0])
    weights = torch.full_like(steps, math.log(width))
    weights[[0, -1]] -= math.log(2)  # trapezoids
    return min(0.0, float(torch.logsumexp(density + weights, dim=0)))
