"""Asking a model that fills blanks (models/families/glm130b.py): where the answer begins, and blank after blank."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.inference.request import Completion
from graftlm.models.families.glm130b_config import MARKS, Glm130bConfig
from graftlm.models.trunk import causal_lm


@dataclass(frozen=True)
class Filled:
    """A text with its blanks filled.

    Attributes:
        tokens: the whole text, the fillings in the places of their marks; a [gMASK]'s at the end.
        fillings: what was generated, in the order of the blanks.
    """

    tokens: list[int]
    fillings: list[Completion]


def blank_config(model: nn.Module) -> Glm130bConfig | None:
    """The configuration of a model that fills blanks; None for another."""
    config = causal_lm(model).config
    return config if isinstance(config, Glm130bConfig) and config.sop_token_id is not None else None


def open_answer(tokens: Sequence[int], config: Glm130bConfig) -> list[int]:
    """The prompt up to where its answer begins: a [gMASK] where it has no mark, then `sop`."""
    assert config.gmask_token_id is not None and config.sop_token_id is not None
    marked = {config.mask_token_id, config.smask_token_id, config.gmask_token_id} & {*tokens}
    return [*tokens, *([] if marked else [config.gmask_token_id]), config.sop_token_id]


def fill_blanks(
    model: nn.Module, tokens: Sequence[int], decoding: Decoding, *, stop_ids: Collection[int], pad_id: int
) -> Filled:
    """Fill every [MASK] and [sMASK] from left to right, each seeing the fillings before it, then a [gMASK] at the end.

    A text without a mark is continued. Marks that the model writes itself are left out.

    Raises:
        ValueError: the model does not fill blanks.
        DataError: the text fills all the model's positions.
    """
    config = blank_config(model)
    if config is None:
        raise ValueError(f"{type(causal_lm(model)).__name__} does not fill blanks")
    marks = {getattr(config, name) for name in MARKS}
    blanks = {config.mask_token_id, config.smask_token_id}
    text, fillings, count = list(tokens), [], sum(token in blanks for token in tokens)
    tail = count == 0 or config.gmask_token_id in text
    for is_tail in [False] * count + [True] * tail:
        found = generate(model, [open_answer(text, config)], decoding, stop_ids=stop_ids, pad_id=pad_id)[0]
        answer = [token for token in found.tokens if token not in marks]
        if is_tail:
            text = [token for token in text if token not in marks] + answer
        else:
            place = next(place for place, token in enumerate(text) if token in blanks)
            text[place : place + 1] = answer
        fillings.append(found)
    return Filled(text, fillings)
