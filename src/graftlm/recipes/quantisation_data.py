"""What a quantisation looks at: texts to calibrate with, texts kept back to judge by, and an exam."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import DataError, RecipeError
from graftlm.data.encode import encode_chats, encode_texts
from graftlm.data.samples import Chat, Text
from graftlm.data.templates import ChatTemplate
from graftlm.evaluation.tasks import LOWER_IS_BETTER, Task
from graftlm.recipes.schema import Block, Recipe
from graftlm.recipes.sources import held_out_places, read_source, source_key
from graftlm.recipes.stage_settings import BaseStage, QuantizeStage
from graftlm.recipes.stages.evaluate import load_tasks

HELD_OUT_ROWS = 32
"""Rows that the models' distributions are compared on, at most."""


@dataclass(frozen=True)
class Evidence:
    """What the model is calibrated with and judged by.

    Attributes:
        calibration_RL: rows of tokens; none of them from what was kept back.
        held_out: texts kept back.
        held_out_RL: the same as rows of tokens.
        exam: a test of the recipe.
    """

    calibration_RL: torch.Tensor
    held_out: list[Text]
    held_out_RL: torch.Tensor
    exam: Task | None


def gather_evidence(
    blocks: Mapping[str, Block],
    exam: Task | None,
    settings: QuantizeStage,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    seed: int,
) -> Evidence:
    """Read the blocks (text or conversations); samples are drawn from all blocks alike.

    Raises:
        DataError: other kinds of samples, too little text, or nothing kept back.
    """
    seen: list[Text | Chat] = []
    kept: list[Text | Chat] = []
    for name, block in blocks.items():
        samples = read_source(name, block).samples
        if not isinstance(samples[0], Text | Chat):
            raise DataError("neither text nor conversations", where=f"data.{name}", fix="name other blocks")
        places = held_out_places(len(samples), block.held_out)
        kept += [samples[place] for place in sorted(places)]  # type: ignore[misc]
        others = [place for place in range(len(samples)) if place not in places]
        # A row holds several samples: so many as the row has tokens are enough by far.
        drawn = random.Random(seed).sample(others, min(len(others), settings.rows * settings.row_tokens // 16))
        seen += [samples[place] for place in drawn]  # type: ignore[misc]
    if not kept:
        raise DataError(
            "no text is kept back to judge by",
            where=f"data.{next(iter(blocks))}",
            fix="set held_out, or give 20 samples or more",
        )
    random.Random(seed).shuffle(seen)
    random.Random(seed).shuffle(kept)
    texts = [_as_text(sample, template) for sample in kept]
    return Evidence(
        _rows(seen, settings.rows, settings.row_tokens, tokenizer, template),
        texts,
        _rows(kept, min(settings.rows, HELD_OUT_ROWS), settings.row_tokens, tokenizer, template),
        exam,
    )


def _rows(
    samples: Sequence[Text | Chat], rows: int, length: int, tokenizer: Tokenizer, template: ChatTemplate
) -> torch.Tensor:
    """[R, L] tokens of samples end to end; what does not fill the last row is left out."""
    texts = [sample for sample in samples if isinstance(sample, Text)]
    chats = [sample for sample in samples if isinstance(sample, Chat)]
    encoded = encode_texts(tokenizer, texts) if texts else []
    encoded += encode_chats(tokenizer, template, chats) if chats else []
    random.Random(len(encoded)).shuffle(encoded)
    tokens = np.concatenate([one.tokens for one in encoded]).astype(np.int64)
    length = min(length, len(tokens))
    rows = min(rows, len(tokens) // length)
    return torch.from_numpy(tokens[: rows * length]).view(rows, length)


def _as_text(sample: Text | Chat, template: ChatTemplate) -> Text:
    return sample if isinstance(sample, Text) else Text(template.render(sample.turns).text, sample.origin)


def exam_name(recipe: Recipe, wanted: str | None) -> str | None:
    """The task that judges a quantisation: the one that is named, else the first of the domain that can be right or
    wrong, else none.

    Raises:
        RecipeError: the recipe has no such task.
    """
    tasks = recipe.evaluation
    if wanted is not None and wanted not in tasks:
        raise RecipeError(f"no task `{wanted}`", where="exam", fix=f"one of: {', '.join(tasks) or 'none is there'}")
    graded = [name for name, task in tasks.items() if task.side == "domain" and task.metric != "bits_per_byte"]
    return wanted or next(iter(graded), None)


def exam_inputs(recipe: Recipe, settings: BaseStage) -> dict[str, str]:
    """Identity of the test that a stage's gate asks, by name."""
    name = exam_name(recipe, settings.exam) if isinstance(settings, QuantizeStage) else None
    return {f"exam {name}": source_key(recipe.evaluation[name])} if name else {}


def exam_of(recipe: Recipe, wanted: str | None) -> Task | None:
    """That task with its items.

    Raises:
        RecipeError: a task that counts faults.
    """
    name = exam_name(recipe, wanted)
    if name is None:
        return None
    (task,) = load_tasks(recipe.model_copy(update={"evaluation": {name: recipe.evaluation[name]}}))
    if task.metric in LOWER_IS_BETTER:
        raise RecipeError(f"`{name}` counts what should be low", where="exam", fix="name a task with right answers")
    return task
