"""The check before the run: what will go wrong, said before anything is trained.

Errors (nothing is trained): a block without a valid row, answers without any target or prompts that are
trained too, answers that never end in a stop token, test items in the training data's place. Warnings: refused
rows, tokens lost to truncation, duplicates, training text that contains test items, too little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import GraftError, ModelError
from graftlm.core.offline import offline
from graftlm.data.cleaning import text_of_sample
from graftlm.models.adapters import copied_weights, layers_with_gradient, make_trainable, parameter_counts
from graftlm.models.gguf_export import check_type
from graftlm.models.gguf_families import family_of
from graftlm.models.loading import load_config, load_tokenizer, locate
from graftlm.models.trunk import causal_lm
from graftlm.recipes.adapting import adaptation_of
from graftlm.recipes.blanks import refuse_mismatch
from graftlm.recipes.budget import Budget, settle
from graftlm.recipes.check_blocks import COMPARED, check_block, check_leaks, check_suites, example, first_samples
from graftlm.recipes.check_encoder import check_encoder, check_image_text
from graftlm.recipes.check_methods import check_method, planned_heads
from graftlm.recipes.check_seq2seq import check_seq2seq
from graftlm.recipes.findings import CheckResult, print_check
from graftlm.recipes.launching import sharding_of
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.schema import Recipe
from graftlm.recipes.sources import read_prompts
from graftlm.recipes.stage_settings import (
    BaseStage,
    BestOfStage,
    EncoderStage,
    ExportStage,
    GradientStage,
    ImageTextStage,
    PolicyStage,
    PreferenceStage,
    RewardSettings,
    RewardStage,
    Seq2SeqStage,
    TrainingStage,
    VocabularyStage,
    merged_models,
)
from graftlm.recipes.stages.base import prepare_base, tokenizer_key
from graftlm.recipes.stages.blocks import tokens_for_epochs
from graftlm.recipes.stages.context import FALLBACK_TEMPLATE, choose_bf16, choose_device, choose_template
from graftlm.recipes.stages.rewards import rule_reward
from graftlm.recipes.tokenise import Form, TokenisedBlock, form_of, token_share, tokenise
from graftlm.recipes.vocabulary_check import check_vocabulary
from graftlm.training.distributed import processes
from graftlm.training.epochs import HEURISTIC
from graftlm.training.memory import GIB


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
    talks = any(not isinstance(stage, EncoderStage | ImageTextStage | Seq2SeqStage) for stage in recipe.stages.values())
    if recipe.template == "own" and not tokenizer.chat_template and talks:
        found.warn(
            "template",
            f"the tokenizer has no chat template of its own: {FALLBACK_TEMPLATE}'s is used",
            f"set `template: {FALLBACK_TEMPLATE}`, or the one that the model is to answer in (docs/data.md lists them)",
        )
    seen = Seen({}, {})
    for name, stage in recipe.stages.items():
        if not isinstance(stage, GradientStage):
            _check_readable(found, name, stage, recipe, base, tokenizer)
            continue
        check_method(found, name, stage, recipe)
        if isinstance(stage, PolicyStage | BestOfStage):
            _check_prompts(found, name, stage, recipe, base, seen)
            continue
        if isinstance(stage, EncoderStage):
            check_encoder(found, name, stage, recipe, base, seen.texts)
            continue
        if isinstance(stage, ImageTextStage):
            check_image_text(found, name, stage, recipe, base, seen.texts)
            continue
        if isinstance(stage, Seq2SeqStage):
            check_seq2seq(found, name, stage, recipe, base, seen.texts)
            continue
        other = stage.model if isinstance(stage, RewardStage) else None
        own = load_tokenizer(other) if other else tokenizer
        if isinstance(stage, PreferenceStage) and any(one.exact or one.contains for one in stage.reward or []):
            found.error(
                f"stages.{name}",
                "its reward compares with accepted answers, which the prompts of pairs do not have",
                "score with a reward model, a pattern, a function or an endpoint",
            )
        blocks = _tokenise_blocks(found, name, stage, recipe, other or base, own, seen)
        if blocks:
            _check_stage(found, name, stage, recipe, other or base, blocks)
            found.example = found.example or example(blocks, own)
        _check_rewards(found, name, stage, recipe)
    check_leaks(found, recipe, seen.texts)
    check_suites(found, recipe)
    return found


@dataclass
class Seen:
    """What the stages so far have shown: tokenised blocks by what they were made of, texts of blocks by name."""

    tokenised: dict[tuple[str, int, Form, str], TokenisedBlock]
    texts: dict[str, list[str]]


def _tokenise_blocks(
    found: CheckResult, name: str, stage: GradientStage, recipe: Recipe, base: str, tokenizer: Tokenizer, seen: Seen
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
                    samples, faults = first_samples(block, recipe.data[block])
                    seen.texts[block] = [text_of_sample(sample) for sample in samples]
                    check_block(found, block, seen.tokenised[made_of], tokenizer, seen.texts[block], faults, form)
            blocks[block] = seen.tokenised[made_of]
        except GraftError as error:
            found.error(f"stages.{name}", f"{error.where or f'data.{block}'}: {error.reason}", error.fix or "")
    return blocks if len(blocks) == len(stage.blocks) else {}


def _check_readable(
    found: CheckResult, name: str, stage: BaseStage, recipe: Recipe, base: str, tokenizer: Tokenizer
) -> None:
    """A stage without gradients: whether what it reads is there and what it is to write can be written."""
    try:
        for model in merged_models(stage):
            if model not in recipe.stages and model != "base":
                locate(model)
        if isinstance(stage, ExportStage) and stage.to != "hugging-face":
            check_type(stage.type or "f16")
            family_of(load_config(base), base)
    except GraftError as error:
        found.error(f"stages.{name}", f"{error.where}: {error.reason}", error.fix or "")
    for block in stage.blocks:
        try:
            first_samples(block, recipe.data[block])
        except GraftError as error:
            found.error(f"stages.{name}", f"{error.where or f'data.{block}'}: {error.reason}", error.fix or "")
    if isinstance(stage, VocabularyStage):
        check_vocabulary(found, name, stage, tokenizer)


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
    budget = _budget(recipe, stage, base)
    rounds, answers = (
        (stage.iterations, stage.answers)
        if isinstance(stage, PolicyStage)
        else (stage.rounds, stage.prompts * stage.samples)
    )
    found.stages[name] = {
        "rounds": rounds,
        "answers": answers,
        "rate": stage.peak_rate,
        "memory": str(budget),
    }
    _check_memory(found, name, recipe, budget)


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


def _check_stage(
    found: CheckResult, name: str, stage: GradientStage, recipe: Recipe, base: str, blocks: dict[str, TokenisedBlock]
) -> None:
    assert isinstance(stage, TrainingStage)
    if any(block.train.samples == 0 for block in blocks.values()):
        return
    try:
        refuse_mismatch(load_config(base), stage.stage, f"stages.{name}")
    except ModelError as error:
        found.error(f"stages.{name}", error.reason, error.fix or "")
        return
    notes: list[str] = []
    stores = {block: tokenised.train for block, tokenised in blocks.items()}
    shares = token_share(stage.blocks, stores)
    tokens = stage.tokens or tokens_for_epochs(stage.epochs, stores, shares, notes)
    budget = _budget(recipe, stage, base)
    first = next(iter(shares))
    passes = tokens * shares[first] / max(float(stores[first].offsets[-1]), 1)
    found.stages[name] = {
        "tokens": tokens,
        "epochs": f"{passes:.1f} of {first}{', by rule of thumb' if notes else ''}",
        "steps": -(-tokens // (stage.row_tokens * stage.rows_per_step)),
        "rate": stage.peak_rate,
        "memory": str(budget),
    }
    if notes:
        found.stages[name]["note"] = HEURISTIC
    _check_memory(found, name, recipe, budget)


def _budget(recipe: Recipe, stage: GradientStage, base: str) -> Budget:
    """From the configuration alone: no weight is loaded."""
    device = choose_device(recipe)
    bf16, shards = choose_bf16(recipe, device), sharding_of(recipe.parallel).shape(processes())[1]
    kind = AutoModelForSequenceClassification if isinstance(stage, RewardStage) else AutoModelForCausalLM
    with torch.device("meta"):
        model: torch.nn.Module = kind.from_config(load_config(base))
        model = make_trainable(model, adaptation_of(stage, planned_heads(stage, causal_lm(model).config)))
    counts = parameter_counts(model)
    return settle(
        stage,
        causal_lm(model).config,
        counts["all"],
        counts["trained"],
        device=device,
        bf16=bf16,
        processes=processes(),
        shards=shards,
        layers=layers_with_gradient(model),
        copied=copied_weights(model),
    )


def _check_memory(found: CheckResult, name: str, recipe: Recipe, budget: Budget) -> None:
    if budget.needed > budget.available:
        found.warn(
            f"stages.{name}",
            f"needs about {budget.needed / GIB:.1f} GiB, the {choose_device(recipe)} has {budget.available / GIB:.1f}",
            "lower row_tokens, set recompute: full, use weights and moments of fewer bits, or method: lora",
        )
