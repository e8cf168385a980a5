"""Extend a model's vocabulary for a domain: measure what it saves and costs, and say when it is not worth it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.table import Table
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.console import say
from graftlm.core.errors import DataError, GraftError
from graftlm.core.files import atomic_folder, write_json
from graftlm.data import worlds
from graftlm.data.cleaning import text_of_sample
from graftlm.models.loading import load_config, load_model, load_tokenizer, save_model
from graftlm.models.vocabulary import extend_model, extend_tokenizer
from graftlm.recipes.schema import Block
from graftlm.recipes.sources import held_out_places, read_source
from graftlm.recipes.stage_settings import VocabularyStage
from graftlm.recipes.vocabulary_figures import (
    Measured,
    compare_texts,
    cost_of,
    count_matmul,
    count_seen,
    plain_ids,
)

PART = 2000
"""Characters of a part of a text; every tenth part is held out."""
MOST_CHARACTERS = 50_000_000
"""Pieces are learnt from so much text at most; further text would hardly change them."""
GENERAL = 2000
"""Of graft's own general texts, where no others are given."""
PROBED = 128
"""Tokens whose logits are compared before and after."""


@dataclass(frozen=True)
class Material:
    """Texts that pieces are learnt from, texts of the domain kept back, and general text that should not change."""

    learnt_from: list[str]
    held_out: list[str]
    general: list[str]


def gather(domain: dict[str, Block], general: dict[str, Block]) -> Material:
    """Read the blocks; without general ones graft's own general text is taken.

    Raises:
        DataError: a block cannot be read, or there is too little text to hold any out.
    """
    parts = list(_parts(_texts(domain), MOST_CHARACTERS))
    if len(parts) < 10:
        raise DataError(
            f"{sum(map(len, parts)):,} characters are too little to learn pieces from",
            where=f"data.{next(iter(domain))}",
            fix=f"give at least {10 * PART:,} characters",
        )
    kept = [part for number, part in enumerate(parts) if number % 10]
    others = _texts(general) if general else map(text_of_sample, worlds.generate("general", "text", count=GENERAL))
    return Material(kept, parts[::10], list(_parts(others, MOST_CHARACTERS // 10)))


def _texts(blocks: dict[str, Block]) -> Iterable[str]:
    """All but what a block keeps back to measure losses on."""
    for name, block in blocks.items():
        samples = read_source(name, block).samples
        kept_back = held_out_places(len(samples), block.held_out)
        yield from (text_of_sample(sample) for place, sample in enumerate(samples) if place not in kept_back)


def _parts(texts: Iterable[str], most: int) -> Iterable[str]:
    """Texts cut at the ends of lines into parts of about `PART` characters; short texts are joined."""
    lines: list[str] = []
    size = total = 0
    for text in texts:
        for line in text.splitlines(keepends=True):
            lines.append(line)
            size += len(line)
            if size < PART:
                continue
            yield "".join(lines)
            total += size
            lines, size = [], 0
            if total >= most:
                return
        if lines and not lines[-1].endswith("\n"):
            lines.append("\n")
    if lines:
        yield "".join(lines)


def extend_folder(
    base: str,
    folder: Path,
    material: Material,
    settings: VocabularyStage,
    *,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Measured:
    """Write the extended model and tokenizer to `folder`.

    Args:
        dtype: of the saved weights; the base's own by default.

    Raises:
        ModelError: the base cannot be extended.
    """
    tokenizer = load_tokenizer(base)
    extension = extend_tokenizer(
        tokenizer,
        material.learnt_from,
        settings.pieces,
        kind=settings.kind,
        source=Path(settings.sentencepiece) if settings.sentencepiece else None,
        ascii_pieces=settings.ascii,
    )
    own = load_config(base).dtype
    stored = dtype or (own if isinstance(own, torch.dtype) else torch.float32)
    model = load_model(base, dtype=stored, device=torch.device("cpu"))
    probe = _probe(tokenizer, material)
    before, sizes = _logits(model, probe), count_matmul(model)
    extend_model(model, extension, start=settings.init, multiple=settings.multiple, seed=seed)
    first = extension.rules.first_new
    change = (_logits(model, probe)[:, :first] - before[:, :first]).abs().max().item()
    with atomic_folder(folder) as made:
        save_model(model, extension.tokenizer, made)
    if extension.taken is not None:
        taken = extension.taken
        say(
            f"  of {taken.offered:,} pieces {taken.known:,} were known, {taken.ascii:,} are ASCII only, "
            f"{len(taken.left_out):,} are left out; {len(taken.bridges):,} bridges were added"
        )
    return Measured(
        pieces=len(extension.parts),
        domain=compare_texts(tokenizer, extension.tokenizer, material.held_out),
        general=compare_texts(tokenizer, extension.tokenizer, material.general),
        seen=count_seen(extension, material.learnt_from),
        cost=cost_of(model, sizes),
        logit_change=change,
    )


def _probe(tokenizer: Tokenizer, material: Material) -> list[int]:
    """Old tokens of both kinds of text."""
    half = PROBED // 2
    first, second = plain_ids(tokenizer, [material.held_out[0], material.general[0]])
    return first[:half] + second[:half]


@torch.no_grad()
def _logits(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """[tokens, rows] fp32."""
    return model(input_ids=torch.tensor([tokens])).logits[0].float()


def extend_vocabulary(
    base: str, folder: Path, data: Sequence[Path], settings: VocabularyStage, general: Sequence[Path] = ()
) -> None:
    """`graft vocab`: extend, write `vocabulary.json` beside the model, print the figures."""
    if folder.exists():
        raise GraftError("it exists already", where=folder, fix="name a new folder")
    material = gather(_blocks(data), _blocks(general))
    measured = extend_folder(base, folder, material, settings)
    write_json(folder / "vocabulary.json", measured.figures())
    print_figures(measured)


def vocabulary_settings(
    *, pieces: int | None, source: Path | None, kind: str, init: str, ascii_pieces: bool, multiple: int
) -> VocabularyStage:
    """The command's options as a stage has them.

    Raises:
        GraftError: an option does not fit.
    """
    try:
        return VocabularyStage.model_validate(
            {
                "blocks": ["data"],
                "pieces": pieces,
                "sentencepiece": str(source) if source else None,
                "kind": kind,
                "init": init,
                "ascii": ascii_pieces,
                "multiple": multiple,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = f"--{first['loc'][-1]}"
        raise GraftError(first["msg"], where=where, fix="see graft vocab --help") from None


def _blocks(files: Sequence[Path]) -> dict[str, Block]:
    return {str(file): Block.model_validate({"path": str(file), "held_out": 0}) for file in files}


def print_figures(measured: Measured) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    for name, value in measured.figures().items():
        if name != "advice":
            table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.4g}")
    say(table)
    say(f"  {measured.advice}")
