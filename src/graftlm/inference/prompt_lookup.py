"""Guesses of what comes next, looked up in what is already there: answers often repeat pieces of their prompt.

Method: prompt lookup decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding), which is inference with
reference (Yang et al. 2023, arXiv 2304.04487) whose reference is the sequence itself. Guesses are free, and a forward
pass over a few tokens of a sequence costs little more than over one, since the weights are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NGRAM = 3
"""The longest end of a sequence that is looked up; shorter ends are tried when it is not found."""


class PromptLookup:
    """An index of one growing sequence: where each of its n-grams was seen last.

    Args:
        prompt: its tokens so far.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._followed_at: dict[tuple[int, ...], int] = {}  # where what follows the n-gram begins
        for token in prompt:
            self.push(token)

    def __len__(self) -> int:
        return len(self._tokens)

    def push(self, token: int) -> None:
        """Add a token. The n-grams that it follows are indexed only now: an end must not find itself."""
        for gram in self._ends():
            self._followed_at[gram] = len(self._tokens)
        self._tokens.append(token)

    def guess(self, count: int) -> list[int]:
        """Up to `count` tokens that followed the same end before; a guess may run on into itself."""
        for gram in self._ends():
            if gram in self._followed_at:
                start = self._followed_at[gram]
                period = len(self._tokens) - start
                return [self._tokens[start + n % period] for n in range(count)]
        return []

    def _ends(self) -> list[tuple[int, ...]]:
        """The last tokens, longest n-gram first."""
        return [tuple(self._tokens[-n:]) for n in range(min(NGRAM, len(self._tokens)), 0, -1)]


@dataclass(slots=True)
class DraftCount:
    """How guessing went.

    Attributes:
        rows: sequences of forward passes in which something was guessed, each pass counted anew.
        drafted: tokens that were guessed.
        accepted: guesses that were what the model chose.
    """

    rows: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens_a_step(self) -> float:
        """New tokens of a sequence in such a pass: 1 without any luck."""
        return 1 + self.accepted / self.rows if self.rows else 1.0
