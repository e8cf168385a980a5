"""Layouts with two answers, of which one is better."""

from __future__ import annotations

import re
from typing import Any

from graftlm.data.records.conversations import Values, is_message_list, message_turns, question
from graftlm.data.records.turns import (
    RowError,
    check_prompt,
    filled_text,
    refuse_media,
    turns_of,
    with_system,
)
from graftlm.data.samples import Origin, Preference, Turn

PAIR_COLUMNS = (
    ("chosen", "rejected"),
    ("response_chosen", "response_rejected"),
    ("chosen_messages", "rejected_messages"),
    ("response_j", "response_k"),  # stack-exchange-paired: j has the higher score
)
_HH_MARK = re.compile(r"\n\n(Human|Assistant):")


def pair_columns(row: Values) -> tuple[str, str] | None:
    return next((pair for pair in PAIR_COLUMNS if pair[0] in row and pair[1] in row), None)


def _pair(row: Values) -> tuple[Any, Any]:
    columns = pair_columns(row)
    if columns is None:
        raise RowError("the row has no pair of answers")
    return row[columns[0]], row[columns[1]]


def _preference(prompt: list[Turn], chosen: str, rejected: str, origin: Origin) -> Preference:
    if chosen == rejected:
        raise RowError("chosen and rejected are the same: there is no preference to learn")
    return Preference(check_prompt(prompt), chosen, rejected, origin)


def _answer(value: Any, name: str) -> str:
    """An answer as a string, one message, or a list of one assistant message."""
    if isinstance(value, dict):
        value = [value]
    if not is_message_list(value):
        return filled_text(value, name)
    turns = turns_of(value)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise RowError(f"{name} is not exactly one assistant message")
    return turns[0].content


def conversation_pair(row: Values, origin: Origin) -> Preference:
    """`conversations` or `messages`, and the two answers (LLaMA-Factory, MedicalGPT from 2.6 on)."""
    chosen, rejected = _pair(row)
    turns = message_turns(row)
    return _preference(turns, _answer(chosen, "chosen"), _answer(rejected, "rejected"), origin)


def prompt_pair(row: Values, origin: Origin) -> Preference:
    """prompt | question | instruction (+ input, system, history), and the two answers."""
    refuse_media(row)
    chosen, rejected = _pair(row)
    return _preference(question(row), _answer(chosen, "chosen"), _answer(rejected, "rejected"), origin)


def shared_history(row: Values, origin: Origin) -> Preference:
    """Two whole conversations that part at their last turn (Firefly, UltraFeedback, LLaMA-Factory v1)."""
    refuse_media(row)
    chosen, rejected = (turns_of(value) for value in _pair(row))
    prompt = _common_prompt(chosen, rejected)
    return _preference(
        with_system(prompt, row.get("system")), chosen[-1].content, rejected[-1].content, origin
    )


def _common_prompt(chosen: list[Turn], rejected: list[Turn]) -> list[Turn]:
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            raise RowError(f"{name} does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        raise RowError("chosen and rejected part before their last turn: they do not share a prompt")
    return chosen[:-1]


def is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def transcripts(row: Values, origin: Origin) -> Preference:
    """HH: two transcripts with "Human:" and "Assistant:" marks; space around a turn belongs to the marks."""
    first, second = _pair(row)
    chosen, rejected = _transcript_turns(first, "chosen"), _transcript_turns(second, "rejected")
    return _preference(_common_prompt(chosen, rejected), chosen[-1].content, rejected[-1].content, origin)


def _transcript_turns(value: Any, name: str) -> list[Turn]:
    text = filled_text(value, name)
    marks = list(_HH_MARK.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns = []
    for number, (mark, end) in enumerate(zip(marks, ends, strict=True), start=1):
        content = filled_text(text[mark.end() : end].strip(), f"turn {number} of {name}")
        turns.append(Turn("user" if mark.group(1) == "Human" else "assistant", content))
    return turns


def judged_pair(row: Values, origin: Origin) -> Preference:
    """{"input", "output_1", "output_2", "label": 1 | 2} (LLMBar): the label names the better one."""
    winner = str(row["label"])
    if winner not in ("1", "2"):
        raise RowError(f"label is {row['label']!r}: 1 or 2 names the better output")
    outputs = {number: filled_text(row[f"output_{number}"], f"output_{number}") for number in ("1", "2")}
    loser = "2" if winner == "1" else "1"
    turns = [Turn("user", filled_text(row["input"], "input"))]
    return _preference(turns, outputs[winner], outputs[loser], origin)
