"""Rejection sampling: several answers to a prompt, the best one kept (LLaMA 2, arXiv 2307.09288, section 3.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from graftlm.alignment.prompts import Asked
from graftlm.alignment.rewards import Reward
from graftlm.alignment.rollouts import write_answers
from graftlm.data.ghost_attention import ghost_chat, instruct_every_turn
from graftlm.data.mixing import hash_seed
from graftlm.data.samples import Chat, Prompt, Turn
from graftlm.evaluation.language_model import LanguageModel


@dataclass(frozen=True)
class Winner:
    """The best answer to a prompt.

    Attributes:
        reward: of this answer.
        mean: of all finished answers to the prompt.
        instruction: the ghost instruction that the prompt carries in every turn, if it does.
    """

    prompt: Prompt
    answer: str
    reward: float
    mean: float
    instruction: str | None = None

    def chat(self) -> Chat:
        """The conversation to train on."""
        turns = (*self.prompt.prompt, Turn("assistant", self.answer))
        if self.instruction is None:
            return Chat(turns, self.prompt.origin, last_only=True)
        return ghost_chat(turns, self.instruction, self.prompt.origin)


def best_answers(
    subject: LanguageModel,
    asked: Sequence[Asked],
    reward: Reward,
    *,
    samples: int,
    max_new_tokens: int,
    seed: int,
) -> list[Winner]:
    """The best of `samples` finished answers to each prompt; prompts without a finished answer have no winner."""
    several = [one for one in asked for _ in range(samples)]
    answers = write_answers(subject.model, subject, several, max_new_tokens=max_new_tokens, seed=seed)
    texts = [(answer.text or "").strip() for answer in answers]
    scores = reward([one.prompt for one in several], texts)
    winners = []
    for place, one in enumerate(asked):
        mine = range(place * samples, (place + 1) * samples)
        finished = [at for at in mine if answers[at].finish_reason == "stop" and texts[at]]
        if finished:
            best = max(finished, key=lambda at: scores[at])
            winners.append(Winner(one.prompt, texts[best], scores[best], fmean(scores[at] for at in finished)))
    return winners


def under_instruction(
    subject: LanguageModel,
    prompts: Sequence[Prompt],
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
    longest: int,
    seed: int,
) -> list[tuple[Prompt, str]]:
    """(prompt with an instruction in every user turn, the instruction): ghost attention's way of sampling.

    The earlier answers of a conversation are written anew, one turn after the other, because those of the data do not
    follow the instruction. Conversations that grow longer than `longest` tokens are left out.
    """
    chosen = [instructions[hash_seed(seed, place) % len(instructions)] for place in range(len(prompts))]
    asked = [[turn for turn in prompt.prompt if turn.role != "assistant"] for prompt in prompts]
    done: list[list[Turn]] = [[] for _ in prompts]
    too_long: set[int] = set()
    for step in range(max(len(turns) for turns in asked)):
        waiting = []
        for place, turns in enumerate(asked):
            if step < len(turns):
                done[place].append(turns[step])
            if step < len(turns) - 1 and turns[step].role == "user":
                waiting.append(place)
        so_far = {p: replace(prompts[p], prompt=instruct_every_turn(done[p], chosen[p])) for p in waiting}
        asked_now = {p: Asked(prompt, subject.encode(prompt.prompt)) for p, prompt in so_far.items()}
        too_long |= {place for place, one in asked_now.items() if len(one.tokens) > longest}
        open_now = {place: one for place, one in asked_now.items() if place not in too_long}
        drawn_by = hash_seed(seed, step + 1)
        answers = write_answers(
            subject.model, subject, list(open_now.values()), max_new_tokens=max_new_tokens, seed=drawn_by
        )
        for place, answer in zip(open_now, answers, strict=True):
            done[place].append(Turn("assistant", (answer.text or "").strip() or "…"))
    return [
        (replace(prompts[place], prompt=instruct_every_turn(done[place], chosen[place])), chosen[place])
        for place in range(len(prompts))
        if place not in too_long
    ]
