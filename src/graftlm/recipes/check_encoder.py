"""The check of an encoder's stage: rows that are refused, classes that are rare, texts that are there twice."""

from __future__ import annotations

from collections import Counter

from graftlm.core.errors import GraftError
from graftlm.data.cleaning import exact_duplicates, text_of_sample
from graftlm.data.samples import Classified, Sample, Tagged
from graftlm.models.encoder import is_encoder_config
from graftlm.models.image_text import FINISHED
from graftlm.models.loading import load_config
from graftlm.recipes.check_blocks import COMPARED
from graftlm.recipes.encoder_blocks import TaskRows, read_task_rows
from graftlm.recipes.findings import CheckResult
from graftlm.recipes.schema import Recipe
from graftlm.recipes.sources import read_source
from graftlm.recipes.stage_settings import EncoderStage, ImageTextStage

RARE = 5
"""Rows of a class below which little can be learnt of it."""


def check_encoder(
    found: CheckResult, name: str, stage: EncoderStage, recipe: Recipe, base: str, texts: dict[str, list[str]]
) -> None:
    """Adds to `found`, and to `texts` what the blocks hold, by block."""
    where = f"stages.{name}"
    try:
        config = load_config(stage.model or base)
    except GraftError as error:
        found.error(where, error.reason, error.fix or "")
        return
    if not is_encoder_config(config):
        found.error(where, f"it starts from `{config.model_type}`, which is no encoder", "name one with `model`")
    elif recipe.evaluation and not stage.model:
        found.error("evaluation", "its tasks ask a language model, and the base is an encoder", "leave them out")
    counts: Counter[str] = Counter()
    for block in stage.blocks:
        try:
            rows = read_task_rows(block, recipe.data[block], stage.task)
        except GraftError as error:
            found.error(where, f"{error.where or f'data.{block}'}: {error.reason}", error.fix or "")
            continue
        texts.setdefault(block, [text_of_sample(sample) for sample in rows.train[:COMPARED]])
        counts.update(kind for sample in rows.train for kind in _kinds(sample))
        _check_rows(found, block, rows, texts[block])
    rare = [f"{kind} ({count})" for kind, count in counts.items() if count < RARE]
    if rare:
        found.warn(where, f"fewer than {RARE} rows of {', '.join(rare[:5])}", "give more rows, or join classes")
    found.stages[name] = {"task": stage.task, "classes": len(counts) or "", "rate": stage.peak_rate}


def check_image_text(
    found: CheckResult, name: str, stage: ImageTextStage, recipe: Recipe, base: str, texts: dict[str, list[str]]
) -> None:
    """The towers' kinds, and whether the images are there; they are opened when the stage runs."""
    where = f"stages.{name}"
    try:
        kind = load_config(stage.model or base).model_type
        if stage.vision is None and kind not in FINISHED:
            found.error(where, f"`{kind}` has no vision tower", "name one with `vision`")
        if stage.vision is not None:
            load_config(stage.vision)
        for block in stage.blocks:
            rows = read_source(block, recipe.data[block].model_copy(update={"kind": "captioned"}))
            texts.setdefault(block, [text_of_sample(sample) for sample in rows.samples[:COMPARED]])
            found.blocks[block] = {"read": rows.read, "refused": len(rows.faults), "samples": len(rows.samples)}
    except GraftError as error:
        found.error(where, f"{error.where}: {error.reason}" if error.where else error.reason, error.fix or "")
    found.stages[name] = {"rate": stage.peak_rate}


def _check_rows(found: CheckResult, block: str, rows: TaskRows, texts: list[str]) -> None:
    where = f"data.{block}"
    copies = sum(len(group) - 1 for group in exact_duplicates(texts))
    found.blocks[block] = {
        "read": rows.read,
        "refused": len(rows.faults),
        "kept back": len(rows.held_out),
        "samples": len(rows.train),
        "copies": f"{copies}/{len(texts)}",
    }
    if rows.faults:
        more = f"; and {len(rows.faults) - 3} more" if len(rows.faults) > 3 else ""
        shown = "; ".join(rows.faults[:3])
        found.warn(where, f"{len(rows.faults)} of {rows.read} rows are refused: {shown}{more}", "mend or remove them")
    if not rows.held_out:
        found.warn(where, "no row is kept back to score", "raise held_out, or give at least 20 rows")


def _kinds(sample: Sample) -> list[str]:
    if isinstance(sample, Classified):
        return [sample.label]
    return [one.kind for one in sample.entities] if isinstance(sample, Tagged) else []
