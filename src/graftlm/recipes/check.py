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
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
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
from graftlm.recipes.sources import read_prompts, read_source
from graftlm.recipes.stage_settings import (
    BestOfStage,
    GradientStage,
    PolicyStage,
    RewardSettings,
    RewardStage,
    Stage,
    TrainingStage,
)
from graftlm.recipes.stages.base import prepare_base, tokenizer_key
from graftlm.recipes.stages.context import FALLBACK_TEMPLATE, choose_bf16, choose_device, choose_template
from graftlm.recipes.stages.rewards import rule_reward
from graftlm.recipes.stages.tuning import stage_memory, tokens_for_epochs
from graftlm.recipes.tokenise import Form, TokenisedBlock, form_of, token_share, tokenise
from graftlm.training.epochs import HEURISTIC
from graftlm.training.memory import GIB, available_memory

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
    if recipe.template == "own" and not tokenizer.chat_template:
        found.warn(
            "template",
            f"the tokenizer has no chat template of its own: {FALLBACK_TEMPLATE}'s is used",
            f"set `template: {FALLBACK_TEMPLATE}`, or the one that the model is to answer in (docs/data.md lists them)",
        )
    seen = Seen({}, {})
    for name, stage in recipe.stages.items():
        if isinstance(stage, PolicyStage | BestOfStage):
            _check_prompts(found, name, stage, recipe, base, seen)
            continue
        other = stage.model if isinstance(stage, RewardStage) else None
        own = load_tokenizer(other) if other else tokenizer
        blocks = _tokenise_blocks(found, name, stage, recipe, other or base, own, seen)
        if blocks:
            _check_stage(found, name, stage, recipe, other or base, blocks)
            found.example = found.example or _example(blocks, own)
        _check_rewards(found, name, stage, recipe)
    _check_leaks(found, recipe, seen.texts)
    return found


@dataclass
class Seen:
    """What the stages so far have shown: tokenised blocks by what they were made of, texts of blocks by name."""

    tokenised: dict[tuple[str, int, Form, str], TokenisedBlock]
    texts: dict[str, list[str]]


def _tokenise_blocks(
    found: CheckResult, name: str, stage: Stage, recipe: Recipe, base: str, tokenizer: Tokenizer, seen: Seen
) -> dict[str, TokenisedBlock]:
    """The stage's blocks, checked when they are met for the first time; none when one of them cannot be used."""
    form = form_of(stage, base)
    assert form is not None
    template = choose_template(recipe.template, tokenizer)
    words = tokenizer_key(tokenizer, recipe.template)
    blocks = {}
    for block in stage.blocks:
        made_of = (block, stage.longest, form, words)
        try:
            if made_of not in seen.tokenised:
                seen.tokenised[made_of] = tokenise(
                    block, recipe.data[block], tokenizer, template, words, stage.longest, form
                )
                if block not in found.blocks:
                    samples, faults = _first_samples(block, recipe.data[block])
                    seen.texts[block] = [text_of_sample(sample) for sample in samples]
                    _check_block(found, block, seen.tokenised[made_of], tokenizer, seen.texts[block], faults, form)
            blocks[block] = seen.tokenised[made_of]
        except GraftError as error:
            found.error(f"stages.{name}", f"{error.where or f'data.{block}'}: {error.reason}", error.fix or "")
    return blocks if len(blocks) == len(stage.blocks) else {}


def _check_prompts(
    found: CheckResult, name: str, stage: PolicyStage | BestOfStage, recipe: Recipe, base: str, seen: Seen
) -> None:
    """A stage that learns from its own answers: its prompts, and whether its reward can judge them."""
    without_answers: list[str] = []
    for block in stage.blocks:
        try:
            prompts = read_prompts(block, recipe.data[block])
        except GraftError as error:
            found.error(f"stages.{name}", f"{error.where or f'data.{block}'}: {error.reason}", error.fix or "")
            continue
        seen.texts.setdefault(block, [prompt.prompt[-1].content for prompt in prompts.train[:COMPARED]])
        if not all(prompt.answers for prompt in (*prompts.train, *prompts.held_out)):
            without_answers.append(block)
        if not prompts.held_out:
            found.warn(f"stages.{name}", f"no prompt of {block} is kept back to compare answers on", "raise held_out")
    if without_answers and any(reward.exact or reward.contains for reward in stage.reward):
        found.error(
            f"stages.{name}",
            f"its reward compares with accepted answers, which prompts of {', '.join(without_answers)} do not have",
            "give labelled rows or conversations, or another reward",
        )
    _check_rewards(found, name, stage, recipe)
    plan, space = _memory(recipe, stage, base)
    rounds, answers = (
        (stage.iterations, stage.answers)
        if isinstance(stage, PolicyStage)
        else (stage.rounds, stage.prompts * stage.samples)
    )
    found.stages[name] = {
        "rounds": rounds,
        "answers": answers,
        "rate": stage.peak_rate,
        "memory": f"{plan / GIB:.2f} of {space / GIB:.0f} GiB",
    }
    _check_memory(found, name, recipe, plan, space)


def _check_rewards(found: CheckResult, name: str, stage: GradientStage, recipe: Recipe) -> None:
    """Rules, functions and addresses that cannot work."""
    rewards: list[RewardSettings] = getattr(stage, "reward", None) or []
    for reward in rewards:
        if reward.endpoint and recipe.offline:
            found.error(f"stages.{name}", f"offline, the reward at {reward.endpoint} cannot be asked", "offline: false")
        try:
            rule_reward(reward)
        except GraftError as error:
            found.error(f"stages.{name}", f"{error.where or 'reward'}: {error.reason}", error.fix or "")


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


def _check_stage(
    found: CheckResult, name: str, stage: Stage, recipe: Recipe, base: str, blocks: dict[str, TokenisedBlock]
) -> None:
    assert isinstance(stage, TrainingStage)
    if any(block.train.samples == 0 for block in blocks.values()):
        return
    notes: list[str] = []
    stores = {block: tokenised.train for block, tokenised in blocks.items()}
    shares = token_share(stage.blocks, stores)
    tokens = stage.tokens or tokens_for_epochs(stage.epochs, stores, shares, notes)
    plan, space = _memory(recipe, stage, base)
    first = next(iter(shares))
    passes = tokens * shares[first] / max(float(stores[first].offsets[-1]), 1)
    found.stages[name] = {
        "tokens": tokens,
        "epochs": f"{passes:.1f} of {first}{', by rule of thumb' if notes else ''}",
        "steps": -(-tokens // (stage.row_tokens * stage.rows_per_step)),
        "rate": stage.peak_rate,
        "memory": f"{plan / GIB:.2f} of {space / GIB:.0f} GiB",
    }
    if notes:
        found.stages[name]["note"] = HEURISTIC
    _check_memory(found, name, recipe, plan, space)


def _memory(recipe: Recipe, stage: GradientStage, base: str) -> tuple[int, int]:
    """(predicted peak, memory there is) in bytes."""
    device = choose_device(recipe)
    bf16 = choose_bf16(recipe, device)
    parameters, trained = _parameter_estimate(base, stage)
    needed = stage_memory(stage, load_config(base), parameters, trained, device=device, bf16=bf16)
    return needed, available_memory(device)


def _check_memory(found: CheckResult, name: str, recipe: Recipe, plan: int, space: int) -> None:
    if plan > space:
        found.warn(
            f"stages.{name}",
            f"needs about {plan / GIB:.1f} GiB, the {choose_device(recipe)} has {space / GIB:.1f}",
            "lower row_tokens, set recompute: true, or use method: lora",
        )


def _parameter_estimate(base: str, stage: GradientStage) -> tuple[int, int]:
    """(all, trained) parameters, from the configuration alone: no weight is loaded."""
    kind = AutoModelForSequenceClassification if isinstance(stage, RewardStage) else AutoModelForCausalLM
    with torch.device("meta"):
        model: torch.nn.Module = kind.from_config(load_config(base))
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
