"""The check of one block of data: refused rows, masks, stop tokens, copies, test items in its place."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import GraftError
from graftlm.data.cleaning import exact_duplicates, near_duplicates
from graftlm.data.samples import Sample
from graftlm.data.store import TokenStore
from graftlm.evaluation.contamination import DIRTY, Item, find_contamination
from graftlm.recipes.contamination import read_items
from graftlm.recipes.findings import CheckResult
from graftlm.recipes.schema import Block, Recipe
from graftlm.recipes.sources import read_source, stream_source
from graftlm.recipes.suite_sheets import recipe_sheets
from graftlm.recipes.tokenise import Form, TokenisedBlock

COMPARED = 2000
"""Samples of a block that are searched for duplicates."""


def first_samples(name: str, block: Block) -> tuple[Sequence[Sample], list[str]]:
    """Samples to compare, and the refused rows. Files are read whole: every bad row is to be named."""
    rows = read_source(name, _compared(block))
    return rows.samples[:COMPARED], [str(fault) for fault in rows.faults]


def _compared(block: Block) -> Block:
    """The block; of a world not more than is compared."""
    long = block.world and block.count and block.count > COMPARED
    return block.model_copy(update={"count": COMPARED}) if long else block


def check_block(
    found: CheckResult,
    name: str,
    block: TokenisedBlock,
    tokenizer: Tokenizer,
    texts: list[str],
    faults: list[str],
    form: Form,
) -> None:
    store, where = block.train, f"data.{name}"
    tokens, targets = int(store.offsets[-1]), store.target_count
    counts = store.accounting
    exact, near = exact_duplicates(texts), near_duplicates(texts)
    copies = sum(len(group) - 1 for group in exact)
    alike = sum(len(group) - 1 for group in near)
    lost = counts["tokens_cut"] / max(tokens + counts["tokens_cut"], 1)
    trained_share = targets / max(tokens, 1)
    found.blocks[name] = {
        "read": counts.get("read", 0),
        "refused": counts.get("refused", 0),
        "dropped": counts["dropped"],
        "kept back": block.held_out.accounting["samples"],
        "samples": store.samples,
        "tokens": tokens,
        "targets": f"{trained_share:.1%}",
        "cut": f"{lost:.1%}",
        "copies": f"{copies}/{len(texts)}",
        "near copies": f"{alike}/{len(texts)}",
    }
    if faults:
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        found.warn(where, f"{len(faults)} of {counts['read']} rows are refused: {shown}", "mend or remove these rows")
    if counts["dropped"]:
        found.warn(
            where,
            f"{counts['dropped']} samples have no answer left within the length limit and are dropped",
            "raise max_tokens and row_tokens",
        )
    if lost > 0.01:
        found.warn(
            where,
            f"{lost:.1%} of the tokens are cut by the length limit ({counts['cut']} samples)",
            "raise max_tokens and row_tokens",
        )
    if copies > 0.05 * len(texts):
        found.warn(
            where,
            f"{copies} of {len(texts)} samples are exact copies of others",
            "remove them, or keep them if the repetition is wanted",
        )
    if store.samples == 0:
        found.error(where, "no sample is left to train on", "raise max_tokens, or see the refused rows")
        return
    if targets == 0:
        found.error(
            where,
            "no token is a target: the loss would be 0 and nothing learnt",
            "check the roles of the turns and the template",
        )
    if store.kind != "text" and form != "question_answer_pairs":
        if targets >= tokens - (len(store.offsets) - 1):
            found.error(
                where,
                "every token is a target: the questions would be learnt like answers",
                "use a chat template that marks the answers",
            )
        _check_stop(found, where, store, tokenizer)


def _check_stop(found: CheckResult, where: str, store: TokenStore, tokenizer: Tokenizer) -> None:
    """The last target of every answer should be a stop token, else the model never learns to end."""
    stops = {i for i in (tokenizer.eos_token_id, *tokenizer.all_special_ids) if i is not None}
    ends = 0
    documents = min(len(store.offsets) - 1, COMPARED)
    for place in range(documents):
        part = slice(store.offsets[place], store.offsets[place + 1])
        learnt = np.flatnonzero(store.targets[part])
        ends += len(learnt) > 0 and int(store.tokens[part][learnt[-1]]) in stops
    if ends < 0.5 * documents:
        found.error(
            where,
            f"only {ends} of {documents} answers end in a trained stop token: the model would not learn to stop",
            "use a template whose answers end in the tokenizer's end token, or raise max_tokens",
        )


def check_leaks(found: CheckResult, recipe: Recipe, blocks: Iterable[str]) -> None:
    """Test items that stand in the training data, with the evidence. Files are searched whole, worlds in part."""
    tasks: dict[str, Sequence[Item]] = {}
    for task, source in recipe.evaluation.items():
        try:
            tasks[task] = read_items(task, source)
        except GraftError as error:
            found.error(f"evaluation.{task}", error.reason, error.fix or "")
    for block in blocks if tasks else ():
        for overlap in find_contamination(tasks, stream_source(_compared(recipe.data[block]))).tasks:
            if overlap.whole < 0.01 * len(overlap.items):
                continue
            worst = max(overlap.items, key=lambda item: (item.in_one >= DIRTY, item.exact))
            found.warn(
                f"evaluation.{overlap.name}",
                f"{overlap.whole / len(overlap.items):.1%} of the items stand in data.{block}, "
                f"as “{worst.evidence[0].words[:80]}” ({worst.evidence[0].train})",
                "take them out of the training data, or read this score with care; `graft contamination` lists them",
            )


def check_suites(found: CheckResult, recipe: Recipe) -> None:
    """Published tests that cannot be read."""
    try:
        recipe_sheets(recipe)
    except GraftError as error:
        found.error("suites", f"{error.where}: {error.reason}" if error.where else error.reason, error.fix or "")


def example(blocks: dict[str, TokenisedBlock], tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """The first sample of the block with the fewest targets, as runs of text that are trained or not."""
    store = min((block.train for block in blocks.values()), key=lambda s: s.target_count / max(int(s.offsets[-1]), 1))
    if store.samples == 0:
        return []
    tokens, targets = store.documents(0)[0]
    edges = [0, *(np.flatnonzero(np.diff(targets)) + 1).tolist(), len(tokens)]
    return [(str(tokenizer.decode(tokens[a:b].tolist())), bool(targets[a])) for a, b in itertools.pairwise(edges)]


