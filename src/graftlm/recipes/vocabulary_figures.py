"""What more pieces save and cost, and whether they are worth it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.models.vocabulary import Extension, row_weights
from graftlm.models.vocabulary_pruning import count_tokens, vocabulary_tables

LEAST_SAVING = 0.10
"""Share of the domain's tokens that must be saved."""
MOST_COST = 0.95
"""Multiplications for the same text, over those before, at most."""
SEEN_OFTEN = 50
"""Times that a new piece must stand in the texts, so that its row gets some gradients."""
LEAST_OFTEN = 0.5
"""Share of the new pieces that must be seen often."""
RULE = (
    f"worth it when held-out text needs at least {LEAST_SAVING:.0%} fewer tokens, a text costs at most "
    f"{MOST_COST:.0%} of the multiplications, and at least {LEAST_OFTEN:.0%} of the new pieces stand {SEEN_OFTEN} "
    "times in the texts"
)


@dataclass(frozen=True)
class TextFigures:
    """Of texts: tokens a character with the old and the new tokenizer, and the share of texts encoded as before."""

    before: float
    after: float
    unchanged: float

    @property
    def saving(self) -> float:
        return 1 - self.after / self.before


def compare_texts(old: Tokenizer, new: Tokenizer, texts: Sequence[str]) -> TextFigures:
    first, second = plain_ids(old, texts), plain_ids(new, texts)
    characters = sum(map(len, texts))
    same = sum(one == other for one, other in zip(first, second, strict=True))
    return TextFigures(sum(map(len, first)) / characters, sum(map(len, second)) / characters, same / len(texts))


def plain_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Tokens without special ones."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


@dataclass(frozen=True)
class Cost:
    """Sizes of the model before and after.

    Attributes:
        matmul: parameters that a token is multiplied with: all but an untied embedding.
        row_bytes: of the new rows, as stored.
    """

    parameters_before: int
    parameters_after: int
    matmul_before: int
    matmul_after: int
    row_bytes: int

    @property
    def per_token(self) -> float:
        """Multiplications for a token after, over those before."""
        return self.matmul_after / self.matmul_before


def count_matmul(model: PreTrainedModel) -> tuple[int, int]:
    """(all parameters, those that a token is multiplied with)."""
    every = sum(parameter.numel() for parameter in model.parameters())
    embedding, head = vocabulary_tables(model)
    return every, every - (0 if head.weight is embedding.weight else embedding.weight.numel())


def cost_of(model: PreTrainedModel, before: tuple[int, int]) -> Cost:
    """Of a model that was extended."""
    after = count_matmul(model)
    size = row_weights(model)[0].element_size()
    return Cost(before[0], after[0], before[1], after[1], (after[0] - before[0]) * size)


@dataclass(frozen=True)
class Measured:
    """Everything that is said about an extension."""

    pieces: int
    domain: TextFigures
    general: TextFigures
    seen: list[int]
    cost: Cost
    logit_change: float

    @property
    def text_cost(self) -> float:
        """Multiplications for the same text of the domain, over those before."""
        return (1 - self.domain.saving) * self.cost.per_token

    @property
    def seen_often(self) -> float:
        return sum(count >= SEEN_OFTEN for count in self.seen) / len(self.seen)

    @property
    def objections(self) -> list[str]:
        """Why it is not worth it; nothing when it is."""
        found = []
        if self.domain.saving < LEAST_SAVING:
            found.append(f"held-out text needs only {self.domain.saving:.1%} fewer tokens")
        if self.text_cost > MOST_COST:
            found.append(f"the same text costs {self.text_cost:.0%} of the multiplications")
        if self.seen_often < LEAST_OFTEN:
            enough = sum(count >= SEEN_OFTEN for count in self.seen)
            found.append(
                f"only {enough:,} of {self.pieces:,} new pieces stand {SEEN_OFTEN} times in the texts, so learn fewer "
                "or give more text"
            )
        return found

    @property
    def advice(self) -> str:
        if not self.objections:
            return f"worth it ({RULE})"
        return f"not worth it: {'; '.join(self.objections)} ({RULE})"

    def figures(self) -> dict[str, float | str]:
        """For the receipt."""
        cost = self.cost
        return {
            "new pieces": self.pieces,
            "tokens a character before": round(self.domain.before, 4),
            "tokens a character after": round(self.domain.after, 4),
            "tokens saved": round(self.domain.saving, 4),
            "general: tokens a character before": round(self.general.before, 4),
            "general: tokens a character after": round(self.general.after, 4),
            "general: texts encoded as before": round(self.general.unchanged, 4),
            "new pieces seen in the texts": round(sum(count > 0 for count in self.seen) / len(self.seen), 4),
            f"new pieces seen {SEEN_OFTEN} times": round(self.seen_often, 4),
            "median times a new piece is seen": statistics.median(self.seen),
            "parameters before": cost.parameters_before,
            "parameters after": cost.parameters_after,
            "MiB of the new rows": round(cost.row_bytes / 2**20, 2),
            "multiplications a token, over before": round(cost.per_token, 4),
            "multiplications a text, over before": round(self.text_cost, 4),
            "tokens to cache for a text, over before": round(1 - self.domain.saving, 4),
            "largest change of an old logit": self.logit_change,
            "advice": self.advice,
        }


def count_seen(extension: Extension, texts: Sequence[str]) -> list[int]:
    """How often each new piece stands in the texts."""
    counts = count_tokens(extension.tokenizer, texts)
    first = extension.rules.first_new
    return [counts[first + place] for place in range(len(extension.parts))]
