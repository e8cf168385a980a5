"""Rejection sampling: in every round the model answers, the best answers join those of all earlier rounds, it learns.

LLaMA 2 found that a model trained on the winners of its last round only forgets what earlier rounds could (its third
version lost rhyming), so the winners of all rounds are kept.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from graftlm.alignment.best_of import Winner, best_answers, under_instruction
from graftlm.alignment.prompts import draw_order
from graftlm.alignment.rewards import Reward
from graftlm.core.console import say
from graftlm.core.errors import DataError
from graftlm.core.files import read_json, write_json, write_text
from graftlm.core.receipts import Receipt
from graftlm.data.encode import encode_chats
from graftlm.data.mixing import hash_seed, mix
from graftlm.data.packing import PackingPlan, pack
from graftlm.data.samples import Chat, Origin, Prompt, Turn
from graftlm.data.store import TokenStore
from graftlm.data.truncation import truncate
from graftlm.evaluation.language_model import LanguageModel, language_model
from graftlm.models.trunk import causal_lm
from graftlm.objectives.causal_lm import CausalLM
from graftlm.recipes.stage_settings import BestOfStage
from graftlm.recipes.stages.comparing import compare_stage, encode_for_answers, room_for_prompt
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import save_language_model, write_receipt
from graftlm.recipes.stages.rewards import build_reward
from graftlm.recipes.stages.tuning import load_trainable, make_trainer, run_trainer
from graftlm.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from graftlm.training.trainer import Trainer


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, BestOfStage)
    loaded = load_trainable(stage)
    subject = language_model(causal_lm(loaded.model), stage.tokenizer, stage.template)
    reward = build_reward(stage, settings.reward)
    history: list[dict[str, float]] = []
    chats: list[dict[str, Any]] = []
    trainer: Trainer | None = None
    rounds = stage.folder / "checkpoints" / "rounds"
    for number in range(settings.rounds):
        winners, figures = answer_round(stage, subject, reward, number, rounds / f"answers-{number}.json")
        chats += winners
        history.append({"round": number, **figures})
        say(f"  round {number + 1}: mean reward {figures['reward']:.2f}, of the best {figures['best']:.2f}")
        plan = pack_winners(stage, chats)
        trainer = make_trainer(stage, loaded.model, CausalLM(), plan, part=f"round-{number}")
        if _finished_before(rounds, number, trainer):
            continue
        run_trainer(stage, trainer)
        if number < settings.rounds - 1:  # the last round's log goes into the receipt: it is never skipped
            save_checkpoint(rounds, number, {"weights": {n: p.detach() for n, p in trainer.trained.items()}}, keep=0)
    assert trainer is not None
    loaded.notes.append("steps, losses and speed are those of the last round")
    lines = (json.dumps(chat, ensure_ascii=False) for chat in chats)
    write_text(stage.folder / "winners.jsonl", "".join(line + "\n" for line in lines))
    save_language_model(stage, loaded.model)
    receipt = write_receipt(stage, loaded, trainer)
    comparison = compare_stage(stage, reward)
    return receipt.model_copy(update={"rollouts": history, "comparison": comparison, "diagnosis": diagnose(history)})


def answer_round(
    stage: StageContext, subject: LanguageModel, reward: Reward, number: int, file: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(the round's best answers, its figures); a round that was answered before is read from `file`."""
    settings = stage.settings
    assert isinstance(settings, BestOfStage)
    if file.is_file():
        kept = read_json(file)
        return kept["winners"], kept["figures"]
    seed = hash_seed(stage.recipe.seed, number)
    prompts = draw_prompts(stage, seed)
    instructions: dict[int, str] = {}
    if settings.ghost_instructions:
        instructed = under_instruction(
            subject,
            prompts,
            settings.ghost_instructions,
            max_new_tokens=settings.max_new_tokens,
            longest=room_for_prompt(stage, subject),
            seed=seed,
        )
        prompts = [prompt for prompt, _ in instructed]
        instructions = {id(prompt): instruction for prompt, instruction in instructed}
    asked, _ = encode_for_answers(stage, subject, prompts)
    winners = best_answers(
        subject,
        asked,
        reward,
        samples=settings.samples,
        max_new_tokens=settings.max_new_tokens,
        seed=hash_seed(seed, 1),
    )
    if not winners:
        raise DataError(
            f"none of the {len(asked)} prompts of round {number + 1} got an answer that ended by itself",
            where=stage.name,
            fix="raise max_new_tokens, or start from a model that was instruction-tuned",
        )
    winners = [replace(winner, instruction=instructions.get(id(winner.prompt))) for winner in winners]
    figures = {
        "reward": fmean(winner.mean for winner in winners),
        "best": fmean(winner.reward for winner in winners),
        "answered": len(winners) / settings.prompts,
    }
    rows = [_as_row(winner, number) for winner in winners]
    write_json(file, {"winners": rows, "figures": figures})
    return rows, figures


def draw_prompts(stage: StageContext, seed: int) -> list[Prompt]:
    settings = stage.settings
    assert isinstance(settings, BestOfStage)
    blocks = [stage.prompts[name].train for name in settings.blocks]
    shares = list(settings.blocks.values()) if isinstance(settings.blocks, dict) else [len(block) for block in blocks]
    order = draw_order([len(block) for block in blocks], shares, settings.prompts, seed)
    return [blocks[block][place] for block, place in order]


def pack_winners(stage: StageContext, chats: list[dict[str, Any]]) -> PackingPlan:
    """`epochs` passes over the best answers of all rounds so far."""
    settings = stage.settings
    assert isinstance(settings, BestOfStage)
    winners = [_from_row(row) for row in chats]
    encoded = truncate(encode_chats(stage.tokenizer, stage.template, winners), settings.longest)
    store = TokenStore.in_memory(encoded.items, kind="chat")
    passes = 1.0 if settings.epochs == "auto" else float(settings.epochs)
    tokens = settings.tokens or int(passes * float(np.sum(store.sample_lengths)))
    mixture = mix({"winners": store}, {"winners": 1.0}, tokens, "hybrid", stage.recipe.seed)
    return pack(mixture, row_tokens=settings.row_tokens, rows_per_step=settings.rows_per_step)


def diagnose(history: list[dict[str, float]]) -> str:
    first, last = history[0], history[-1]
    gap = first["best"] - first["reward"]
    rewards = " → ".join(f"{one['reward']:.2f}" for one in history)
    said = f"mean reward of all answers by round: {rewards}"
    if gap <= 1e-6:
        return f"{said}: all answers to a prompt score alike: nothing to choose from"
    if len(history) > 1 and last["reward"] <= first["reward"]:
        return f"{said}: the answers did not get better: raise learning_rate, epochs or samples"
    return f"{said}; the best of a prompt's answers score {gap:.2f} above its mean"


def _finished_before(rounds: Path, number: int, trainer: Trainer) -> bool:
    """Take up the weights that a killed run had after this round, if it came so far."""
    found = dict(list_checkpoints(rounds))
    if number not in found:
        return False
    weights = load_checkpoint(found[number])["weights"]
    with torch.no_grad():
        for name, parameter in trainer.trained.items():
            parameter.copy_(weights[name])
    return True


def _as_row(winner: Winner, number: int) -> dict[str, Any]:
    chat = winner.chat()
    return {
        "messages": [{"role": turn.role, "content": turn.content} for turn in chat.turns],
        "round": number,
        "reward": winner.reward,
        "origin": [chat.origin.path, chat.origin.line],
    }


def _from_row(row: dict[str, Any]) -> Chat:
    turns = tuple(Turn(message["role"], message["content"]) for message in row["messages"])
    return Chat(turns, Origin(*row["origin"]), last_only=True)
