"""Answers that must follow a rule: before a token is chosen, those that the rule does not allow are taken out.

The rule is held against tokens, not against text, so it costs no tries: choosing goes on as ever among what is left.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from graftlm.core.errors import GraftError

if TYPE_CHECKING:
    from graftlm.inference.request import Request


class Constraint(Protocol):
    """The rule of one answer, and how far the answer has come."""

    def allowed(self, V: int) -> Tensor:
        """[V] bool: which tokens may come next; at least one while it is not `done`."""

    def push(self, token: int) -> None:
        """The answer goes on with an allowed token that does not end it."""

    @property
    def done(self) -> bool:
        """Whether the answer ends here, because nothing can follow."""


class OneOf:
    """The answer is one of a list.

    Args:
        choices: the tokens of each possible answer, none empty.
        stop_ids: tokens that end an answer; needed where one choice is the beginning of another.

    Raises:
        GraftError: no choice, an empty one, or no token to end a choice with that another one continues.
    """

    def __init__(self, choices: Sequence[Sequence[int]], stop_ids: Collection[int]) -> None:
        self._paths = sorted({tuple(choice) for choice in choices})
        self._stop_ids, self._taken = frozenset(stop_ids), 0
        if not self._paths or not self._paths[0]:
            raise GraftError("an answer can only be chosen among answers that have tokens", fix="leave empty ones out")
        neighbours = zip(self._paths, self._paths[1:], strict=False)
        if not self._stop_ids and any(longer[: len(path)] == path for path, longer in neighbours):
            raise GraftError("one choice is the beginning of another, and no token ends an answer", fix="name stop_ids")

    def allowed(self, V: int) -> Tensor:
        found_V = torch.zeros(V, dtype=torch.bool)
        found_V[[path[self._taken] for path in self._paths if len(path) > self._taken]] = True
        if self._ends_here:
            found_V[list(self._stop_ids)] = True
        return found_V

    def push(self, token: int) -> None:
        self._paths = [path for path in self._paths if len(path) > self._taken and path[self._taken] == token]
        self._taken += 1

    @property
    def done(self) -> bool:
        return self._ends_here and len(self._paths) == 1

    @property
    def _ends_here(self) -> bool:
        return any(len(path) == self._taken for path in self._paths)


def only_allowed(logits_BV: Tensor, requests: Sequence[Request | None]) -> Tensor:
    """The logits with -inf for tokens that a row's rule does not allow; the same tensor where no row has one."""
    rules = {
        row: request.constraint
        for row, request in enumerate(requests)
        if request is not None and request.constraint is not None and request.finish is None
    }
    if not rules:
        return logits_BV
    allowed_BV = torch.ones(logits_BV.shape, dtype=torch.bool)
    for row, rule in rules.items():
        allowed_BV[row] = rule.allowed(logits_BV.shape[1])
    return logits_BV.masked_fill(~allowed_BV.to(logits_BV.device), float("-inf"))
