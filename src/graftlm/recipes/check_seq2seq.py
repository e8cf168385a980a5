"""The check of a stage that trains an encoder–decoder: its start, and rows that give a source and a target."""

from __future__ import annotations

from graftlm.core.errors import GraftError
from graftlm.models.loading import load_config
from graftlm.models.seq2seq import is_seq2seq_config
from graftlm.recipes.findings import CheckResult
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stage_settings import Seq2SeqStage
from graftlm.recipes.stages.seq2seq import read_pairs


def check_seq2seq(
    found: CheckResult, name: str, stage: Seq2SeqStage, recipe: Recipe, base: str, texts: dict[str, list[str]]
) -> None:
    """Adds to `found`, and to `texts` the sources that the blocks hold, by block."""
    where = f"stages.{name}"
    config = load_config(base)
    if not is_seq2seq_config(config):
        reason = f"it starts from `{config.model_type}`, which is no encoder–decoder"
        found.error(where, reason, "start from t5, mt5, bart or pegasus")
    if recipe.evaluation:
        found.error("evaluation", "its tasks ask a language model, and the base is none", "leave them out")
    for block in stage.blocks:
        try:
            rows = read_pairs(block, recipe.data[block], stage, "___")
        except GraftError as error:
            found.error(where, f"{error.where or f'data.{block}'}: {error.reason}", error.fix or "")
            continue
        texts.setdefault(block, [source for source, _ in rows.train[:2000]])
        found.blocks[block] = {
            "read": rows.read, "refused": rows.refused, "kept back": len(rows.held_out), "samples": len(rows.train),
        }  # fmt: skip
        if rows.refused:
            found.warn(
                f"data.{block}", f"{rows.refused} of {rows.read} rows give no source and target", "see docs/seq2seq.md"
            )
        if not rows.held_out and stage.compare:
            found.warn(where, f"no row of {block} is kept back: ROUGE is not known", "raise held_out")
    found.stages[name] = {"task": stage.task, "rate": stage.peak_rate}
