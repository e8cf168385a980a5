"""The check before the run: what will go wrong, said before anything is trained.

Errors (nothing is trained): a block without a valid row, answers without any target or prompts that are
trained too, answers that never end in a stop token, test items in the training data's place. Warnings: refused
rows, tokens lost to truncation, duplicates, training text that contains test items, too little memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from rich.text import Text as RichText
from transformers import AutoModelForCausalLM
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.console import console, say
from graftlm.core.errors import GraftError
from graftlm.core.offline import offline
from graftlm.data.cleaning import exact_duplicates, find_overlap, near_duplicates, question_of, text_of_sample
from graftlm.data.samples import Sample
from graftlm.data.store import TokenStore
from graftlm.evaluation.metrics import split_words
from graftlm.models.adapters import make_trainable, parameter_counts
from graftlm.models.loading import load_config, load_tokenizer
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.schema import Block, Recipe
from graftlm.recipes.sources import TokenisedBlock, read_source, tokenise
from graftlm.recipes.stage_settings import Stage
from graftlm.recipes.stages.base import prepare_base, tokenizer_key
from graftlm.recipes.stages.context import FALLBACK_TEMPLATE, choose_bf16, choose_device, choose_template
from graftlm.recipes.stages.tuning import token_share, tokens_for_epochs
from graftlm.training.epochs import HEURISTIC
from graftlm.training.memory import GIB, available_memory, plan_memory

COMPARED = 2000
"""Samples of a block that are searched for duplicates and test items."""
LEAK_WORDS = 13
"""Words (characters of Chinese) in a row that a test item must share with a training text, as GPT-3's check had."""


@dataclass(frozen=True)
class Finding:
    where: str
    text: str
    fix: str = ""


@dataclass
class CheckResult:
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    example: list[tuple[str, bool]] = field(default_factory=list)

    def error(self, where: str, text: str, fix: str = "") -> None:
        self.errors.append(Finding(where, text, fix))

    def warn(self, where: str, text: str, fix: str = "") -> None:
        self.warnings.append(Finding(where, text, fix))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_file(path: Path, overrides: list[str]) -> bool:
    """`graft check`: print everything; returns whether there are errors."""
    recipe = load_recipe(path, overrides)
    with offline(recipe.offline):
        base, _ = prepare_base(recipe, recipe.folder / "00-base")
        found = check_recipe(recipe, base)
    print_check(found)
    return bool(found.errors)


def check_recipe(recipe: Recipe, base: str) -> CheckResult:
    found = CheckResult()
    tokenizer = load_tokenizer(base)
    template = choose_template(recipe.template, tokenizer)
    if recipe.template == "own" and not tokenizer.chat_template:
        found.warn(
            "template",
            f"the tokenizer has no chat template of its own: {FALLBACK_TEMPLATE}'s is used",
            f"set `template: {FALLBACK_TEMPLATE}`, or the one that the model is to answer in (docs/data.md lists them)",
        )
    words = tokenizer_key(tokenizer, recipe.template)
    compared: dict[str, list[str]] = {}
    tokenised: dict[tuple[str, int], TokenisedBlock] = {}
    for name, stage in recipe.stages.items():
        for block in stage.blocks:
            if (block, stage.longest) in tokenised:
                continue
            try:
                tokenised[block, stage.longest] = tokenise(
                    block, recipe.data[block], tokenizer, template, words, stage.longest
                )
                if block not in compared:
                    samples, faults = _first_samples(block, recipe.data[block])
                    compared[block] = [text_of_sample(sample) for sample in samples]
                    _check_block(found, block, tokenised[block, stage.longest], tokenizer, compared[block], faults)
            except GraftError as error:
                found.error(error.where or f"data.{block}", error.reason, error.fix or "")
        if all((block, stage.longest) in tokenised for block in stage.blocks):
            blocks = {block: tokenised[block, stage.longest] for block in stage.blocks}
            _check_stage(found, name, stage, recipe, base, blocks)
            if not found.example:
                found.example = _example(blocks, tokenizer)
    _check_leaks(found, recipe, compared)
    return found


def print_check(found: CheckResult, *, brief: bool = False) -> None:
    """Tables of blocks and stages, an example with its targets in colour, then warnings and errors."""
    if not brief:
        _print_table("data", found.blocks)
        _print_table("stages", found.stages)
        _print_example(found.example)
    for kind, colour, findings in (("warning", "yellow", found.warnings), ("error", "red", found.errors)):
        for finding in findings:
            line = RichText.assemble((f"{kind}: ", colour), f"{finding.where}: {finding.text}")
            say(line.append("\n  fix: ", "green").append(finding.fix) if finding.fix else line)
    verdict = "nothing is wrong" if not found.errors and not found.warnings else ""
    say(f"check: {verdict or f'{len(found.errors)} error(s), {len(found.warnings)} warning(s)'}")


def _first_samples(name: str, block: Block) -> tuple[Sequence[Sample], list[str]]:
    """Samples to compare, and the refused rows. Files are read whole: every bad row is to be named."""
    if block.world and block.count and block.count > COMPARED:
        block = block.model_copy(update={"count": COMPARED})
    rows = read_source(name, block)
    return rows.samples[:COMPARED], [str(fault) for fault in rows.faults]


def _check_block(
    found: CheckResult,
    name: str,
    block: TokenisedBlock,
    tokenizer: Tokenizer,
    texts: list[str],
    faults: list[str],
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
    if store.kind != "text":
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


def _check_stage(
    found: CheckResult, name: str, stage: Stage, recipe: Recipe, base: str, blocks: dict[str, TokenisedBlock]
) -> None:
    if any(block.train.samples == 0 for block in blocks.values()):
        return
    for block, tokenised in blocks.items():
        pairs = tokenised.train.group == 2
        if pairs != (stage.stage == "dpo"):
            text = (
                f"data.{block} holds {'pairs of answers, which only dpo trains on' if pairs else 'no pairs of answers'}"
            )
            found.errors.append(
                Finding(f"stages.{name}", text, "dpo takes rows with `chosen` and `rejected`, the others do not")
            )
    notes: list[str] = []
    stores = {block: tokenised.train for block, tokenised in blocks.items()}
    shares = token_share(stage.blocks, stores)
    tokens = stage.tokens or tokens_for_epochs(stage.epochs, stores, shares, notes)
    device = choose_device(recipe)
    bf16 = choose_bf16(recipe, device)
    parameters, trained = _parameter_estimate(base, stage)
    plan = plan_memory(
        load_config(base),
        parameters=parameters,
        trained=trained,
        row_tokens=stage.row_tokens,
        compute_bytes=2 if bf16 else 4,
        frozen_bytes=2 if bf16 else 4,
        recompute=stage.recompute,
        on_cpu=device.type == "cpu",
    )
    space = available_memory(device)
    first = next(iter(shares))
    passes = tokens * shares[first] / max(float(stores[first].offsets[-1]), 1)
    found.stages[name] = {
        "tokens": tokens,
        "epochs": f"{passes:.1f} of {first}{', by rule of thumb' if notes else ''}",
        "steps": -(-tokens // (stage.row_tokens * stage.rows_per_step)),
        "rate": stage.peak_rate,
        "memory": f"{plan.total / GIB:.2f} of {space / GIB:.0f} GiB",
    }
    if notes:
        found.stages[name]["note"] = HEURISTIC
    if plan.total > space:
        found.warn(
            f"stages.{name}",
            f"needs about {plan.total / GIB:.1f} GiB, the {device} has {space / GIB:.1f}",
            "lower row_tokens, set recompute: true, or use method: lora",
        )


def _parameter_estimate(base: str, stage: Stage) -> tuple[int, int]:
    """(all, trained) parameters, from the configuration alone: no weight is loaded."""
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForCausalLM.from_config(load_config(base))
        lora = stage.lora
        model = make_trainable(model, stage.method, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
    counts = parameter_counts(model)
    return counts["all"], counts["trained"]


def _check_leaks(found: CheckResult, recipe: Recipe, compared: dict[str, list[str]]) -> None:
    """Test items that stand in the training text, with the evidence."""
    for task, source in recipe.evaluation.items():
        try:
            items = [question_of(sample) for sample in read_source(task, source).samples[:COMPARED]]
        except GraftError as error:
            found.error(f"evaluation.{task}", error.reason, error.fix or "")
            continue
        long_items = [text for text in items if len(split_words(text)) >= LEAK_WORDS]
        for block, texts in compared.items():
            overlaps = find_overlap(texts, long_items, n=LEAK_WORDS)
            share = len({overlap.test for overlap in overlaps}) / len(items)
            if share >= 0.01:
                longest = max(overlaps, key=lambda overlap: len(overlap.passage)).passage
                found.warn(
                    f"evaluation.{task}",
                    f"{share:.1%} of the items stand in data.{block}, as “{longest[:80]}”",
                    "take these items out of the training data, or read this score with care",
                )


def _example(blocks: dict[str, TokenisedBlock], tokenizer: Tokenizer) -> list[tuple[str, bool]]:
    """The first sample of the block with the fewest targets, as runs of text that are trained or not."""
    store = min((block.train for block in blocks.values()), key=lambda s: s.target_count / max(int(s.offsets[-1]), 1))
    if store.samples == 0:
        return []
    tokens, targets = store.documents(0)[0]
    edges = [0, *(np.flatnonzero(np.diff(targets)) + 1).tolist(), len(tokens)]
    return [(str(tokenizer.decode(tokens[a:b].tolist())), bool(targets[a])) for a, b in itertools.pairwise(edges)]


def _print_example(example: list[tuple[str, bool]]) -> None:
    if example:
        say("example ([green]trained[/green], [dim]read only[/dim]):")
        console.print(RichText.assemble(*((text, "green" if trained else "dim") for text, trained in example)))


def _print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows.values() for column in row if column != "note"))
    table = Table(box=None, pad_edge=False, padding=(0, 1), title=title, title_justify="left")
    for column in ["", *columns]:
        table.add_column(column, justify="left" if column in ("", "epochs", "memory") else "right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[c]:,}" if isinstance(row.get(c), int) else str(row.get(c, "")) for c in columns))
    say(table)
    for name, row in rows.items():
        if "note" in row:
            say(f"  {name}: {row['note']}")
