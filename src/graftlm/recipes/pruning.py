"""Pruning a vocabulary to the user's texts. What `graft prune-vocabulary` calls, and the stage `prune_vocabulary`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from graftlm.core.console import say, warn
from graftlm.core.errors import DataError, ModelError
from graftlm.core.files import atomic_folder
from graftlm.data.readers import Fault, read_rows
from graftlm.models.loading import load_config, load_model, load_tokenizer, save_model
from graftlm.models.trunk import hidden_states, output_head
from graftlm.models.vocabulary_pruning import Sizes, choose_pieces, count_tokens, prune_model, prune_tokenizer
from graftlm.recipes.talking import newest_model

COMPARED = 256
"""Tokens of the texts whose logits are compared before and after."""


@dataclass(frozen=True)
class Pruned:
    """What was done.

    Attributes:
        tokens: of the texts.
        left_out: of them, those whose piece was too rare to be kept.
        difference: largest change of a kept token's logit.
    """

    before: Sizes
    after: Sizes
    tokens: int
    left_out: int
    difference: float

    def figures(self) -> dict[str, float | str]:
        return {
            "pieces before": self.before.vocabulary,
            "pieces after": self.after.vocabulary,
            "parameters before": self.before.parameters,
            "parameters after": self.after.parameters,
            "tokens of the texts": self.tokens,
            "tokens that are now cut another way": self.left_out,
            "largest change of a logit": self.difference,
        }

    def say(self) -> None:
        before, after = self.before, self.after
        say(f"  vocabulary   {before.vocabulary:>13,} → {after.vocabulary:,} pieces")
        share = after.parameters / before.parameters
        say(f"  parameters   {before.parameters:>13,} → {after.parameters:,} ({share:.0%})")
        kept = 1 - self.left_out / self.tokens
        say(f"  your texts   {self.tokens:>13,} tokens, {kept:.2%} of them cut as before")
        say(f"  kept logits  {'bit-equal' if not self.difference else f'changed by {self.difference:.1g} at most'}")


def prune_vocabulary(model: str, out: Path, files: Sequence[Path], at_least: int) -> None:
    """Write the pruned model to a folder, in its own number format.

    Raises:
        DataError: the files hold no text.
        ModelError: a tokenizer or an architecture that cannot be pruned.
    """
    where = newest_model(model)
    kind = getattr(load_config(where), "dtype", None)
    texts = [text for file in files for text in _texts(file)]
    prune(where, texts, at_least, out, dtype=kind if isinstance(kind, torch.dtype) else torch.float32).say()
    say(f"model: {out}")


def prune(where: str, texts: Sequence[str], at_least: int, out: Path, *, dtype: torch.dtype) -> Pruned:
    """Prune, prove, save.

    Raises:
        DataError: there is no text.
        ModelError: the pruned model is not the old one: nothing is saved.
    """
    tokenizer = load_tokenizer(where)
    counts = count_tokens(tokenizer, texts)
    if not counts:
        raise DataError("there is no text in them", where="the files to keep", fix="give texts of your languages")
    model = load_model(where, dtype=dtype, device=torch.device("cpu"))
    before = Sizes.of(model, tokenizer)
    kept = choose_pieces(tokenizer, model, (token for token, count in counts.items() if count >= at_least))
    smaller = prune_tokenizer(tokenizer, kept)
    new = {token: place for place, token in enumerate(kept)}
    some = _whole_texts(tokenizer, texts, new)
    if not some:
        raise DataError("no word of the texts is left whole", where="at_least", fix="lower it, or give more texts")
    for text, tokens in some:
        if smaller.encode(text, add_special_tokens=False) != [new[token] for token in tokens]:
            raise ModelError("the smaller tokenizer cuts a text another way", where=repr(text[:80]), fix="report this")
    tokens = [token for _, tokens in some for token in tokens][:COMPARED]
    logits_TN = _logits(model, tokens)[:, kept]
    prune_model(model, kept)
    difference = float((_logits(model, [new[token] for token in tokens]) - logits_TN).abs().max())
    if difference > 1e-3 * float(logits_TN.abs().max()):
        raise ModelError(f"its logits changed by {difference:.2g}", where=where, fix="leave the vocabulary whole")
    with atomic_folder(out) as folder:
        save_model(model, smaller, folder)
    left_out = sum(count for token, count in counts.items() if token not in new)
    return Pruned(before, Sizes.of(model, smaller), counts.total(), left_out, difference)


def _whole_texts(tokenizer: Any, texts: Sequence[str], new: dict[int, int]) -> list[tuple[str, list[int]]]:
    """Texts of kept pieces only, with their tokens: the first hundred; words, where no text is whole."""
    some = texts[:1000]
    parts = chain(some, (word for text in some for word in text.split()))
    cut = ((part, tokenizer.encode(part, add_special_tokens=False, verbose=False)) for part in parts)
    return list(islice(((text, tokens) for text, tokens in cut if tokens and new.keys() >= set(tokens)), 100))


@torch.no_grad()
def _logits(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    """[T, V]"""
    boundaries = torch.tensor([0, len(tokens)], dtype=torch.int32)
    return output_head(model).logits(hidden_states(model, torch.tensor(tokens), boundaries))


def _texts(file: Path) -> Iterator[str]:
    """Every string of every row of any readable file."""
    faults = 0
    for row in read_rows(file, split="line"):
        if isinstance(row, Fault):
            faults += 1
        else:
            yield from _strings(row.values)
    if faults:
        warn(f"{file}: {faults} rows could not be read and do not count")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _strings(part)
