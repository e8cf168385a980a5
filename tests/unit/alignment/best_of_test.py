"""The best of several answers, and conversations that are written under an instruction."""

from __future__ import annotations

import dataclasses
from statistics import fmean

import pytest

from graftlm.alignment.best_of import Winner, best_answers, under_instruction
from graftlm.alignment.rollouts import write_answers
from graftlm.data.samples import Origin, Prompt, Turn

INSTRUCTIONS = ("Be brief.", "Shout.", "Whisper.")


def capitals(prompts, answers):
    return [sum(letter.isupper() for letter in answer) for answer in answers]


@pytest.fixture
def talkative(letters):
    """A tenth of all tokens end an answer, so that some are finished and others are cut off."""
    return dataclasses.replace(letters, stop_ids=list(range(2, 96, 10)))


def test_the_best_finished_answer_wins(talkative, ask):
    asked = ask("abc", "de", "f", "ghij")
    found = best_answers(talkative, asked, capitals, samples=6, max_new_tokens=8, seed=3)
    several = [one for one in asked for _ in range(6)]
    answers = write_answers(talkative.model, talkative, several, max_new_tokens=8, seed=3)
    cut_off_would_win = 0
    for place, winner in enumerate(found):
        mine = answers[6 * place : 6 * place + 6]
        finished = [one.text.strip() for one in mine if one.finish_reason == "stop" and one.text.strip()]
        assert winner.prompt is asked[place].prompt and winner.answer in finished
        assert winner.reward == max(capitals([], finished))
        assert winner.mean == fmean(capitals([], finished))
        cut_off_would_win += max(capitals([], [one.text.strip() for one in mine])) > winner.reward
    assert len(found) == 4 and cut_off_would_win, "some answer that was cut off scores higher"


def test_a_prompt_without_a_finished_answer_has_no_winner(letters, ask):
    never = dataclasses.replace(letters, stop_ids=[])
    assert best_answers(never, ask("abc", "de"), capitals, samples=3, max_new_tokens=4, seed=0) == []


def test_an_empty_answer_does_not_win(letters, ask):
    """Every token ends the answer: all are finished, and all are empty."""
    mute = dataclasses.replace(letters, stop_ids=list(range(96)))
    assert best_answers(mute, ask("abc"), capitals, samples=3, max_new_tokens=4, seed=0) == []


def conversation(line: int) -> Prompt:
    turns = (Turn("user", "One?"), Turn("assistant", f"OLD-{line}"), Turn("user", "Two?"))
    return Prompt(turns, Origin("chats", line))


def test_the_instruction_stands_in_every_user_turn(letters):
    prompts = [conversation(line) for line in range(12)] + [Prompt((Turn("user", "Hi?"),), Origin("chats", 99))]
    found = under_instruction(letters, prompts, INSTRUCTIONS, max_new_tokens=5, longest=500, seed=1)
    assert {instruction for _, instruction in found} == set(INSTRUCTIONS), "all of them are used"
    for (made, instruction), prompt in zip(found, prompts, strict=True):
        asked = [turn.content for turn in made.prompt if turn.role == "user"]
        wanted = [turn.content for turn in prompt.prompt if turn.role == "user"]
        assert asked == [f"{instruction}\n{text}" for text in wanted]
        assert [turn.role for turn in made.prompt] == [turn.role for turn in prompt.prompt]
        assert made.origin == prompt.origin


def test_earlier_answers_are_written_anew_under_the_instruction(letters, speaker, tiny_model):
    """They are the model's own answers to the instructed conversation so far."""
    prompts = [conversation(line) for line in range(4)]
    found = under_instruction(letters, prompts, ["Shout."], max_new_tokens=5, longest=500, seed=1)
    written = [made.prompt[1].content for made, _ in found]
    assert not any("OLD" in answer for answer in written) and len(set(written)) > 1
    other = under_instruction(speaker(tiny_model(seed=1)), prompts, ["Shout."], max_new_tokens=5, longest=500, seed=1)
    assert written != [made.prompt[1].content for made, _ in other]
    again = under_instruction(letters, prompts, ["Shout."], max_new_tokens=5, longest=500, seed=1)
    assert found == again


def test_a_chat_to_train_on_holds_the_instruction_once(letters):
    prompts = [conversation(1)]
    [(prompt, instruction)] = under_instruction(letters, prompts, ["Shout."], max_new_tokens=5, longest=500, seed=1)
    chat = Winner(prompt, "BEST", 1.0, 0.0, instruction).chat()
    assert [turn.content for turn in chat.turns if turn.role == "user"] == ["Shout.\nOne?", "Two?"]
    assert chat.turns[-1] == Turn("assistant", "BEST") and chat.last_only
    assert chat.turns[1] == prompt.prompt[1] and chat.origin == prompt.origin


def test_a_chat_without_instruction_is_the_prompt_and_the_answer():
    chat = Winner(conversation(1), "BEST", 1.0, 0.0).chat()
    assert chat.turns == (*conversation(1).prompt, Turn("assistant", "BEST")) and chat.last_only


def test_a_conversation_that_is_too_long_is_left_out(letters) -> None:
    long = Prompt((Turn("user", "One?" * 50), Turn("assistant", "x"), Turn("user", "Two?")), Origin("chats", 2))
    prompts = [conversation(1), long, conversation(3)]
    found = under_instruction(letters, prompts, ["Shout."], max_new_tokens=5, longest=100, seed=1)
    assert [prompt.origin.line for prompt, _ in found] == [1, 3]
