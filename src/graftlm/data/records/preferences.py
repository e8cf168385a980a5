"""Layouts with two answers, of which one is better."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from graftlm.data.records.conversations import Values, first, is_message_list, message_turns, question
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
STRENGTH_COLUMNS = ("strength", "preference_strength", "margin")
_STRENGTHS = {
    **dict.fromkeys(("significantly better", "significantly"), 3.0),
    "better": 2.0,
    **dict.fromkeys(("slightly better", "slightly"), 1.0),
    **dict.fromkeys(("negligibly better", "negligibly", "unsure"), 0.0),
}
_HH_MARK = re.compile(r"\n\n(Human|Assistant):")


def pair_columns(row: Values) -> tuple[str, str] | None:
    return _pair_among(tuple(row))


@lru_cache(maxsize=1024)
def _pair_among(columns: tuple[str, ...]) -> tuple[str, str] | None:
    """Asked for every row of every layout; the rows of a file have the same columns."""
    return next((pair for pair in PAIR_COLUMNS if pair[0] in columns and pair[1] in columns), None)


def _pair(row: Values) -> tuple[Any, Any]:
    columns = pair_columns(row)
    if columns is None:
        raise RowError("the row has no pair of answers")
    return row[columns[0]], row[columns[1]]


def _preference(prompt: list[Turn], chosen: str, rejected: str, row: Values, origin: Origin) -> Preference:
    if chosen == rejected:
        raise RowError("chosen and rejected are the same: there is no preference to learn")
    return Preference(check_prompt(prompt), chosen, rejected, origin, strength(row))


def strength(row: Values) -> float | None:
    """How much better the chosen answer is, 0 to 3 on LLaMA 2's scale; None where no column says so.

    Scores of the two answers (`score_chosen`, `score_rejected`) are on scales of their own and are not looked at.
    """
    column = first(row, STRENGTH_COLUMNS)
    if column is None:
        return None
    number = _strength_number(row[column])
    if number is None or not 0 <= number <= 3:  # NaN is refused here, too
        raise RowError(
            f"{column} is {row[column]!r}: a number from 0 to 3 says how much better the chosen answer is, or one of "
            f"{', '.join(_STRENGTHS)}; a column of another meaning is left out by naming the others in `columns`"
        )
    return number


def _strength_number(value: Any) -> float | None:
    """A number as it is, a word by the table; a csv file spells its numbers out."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str):
        word = " ".join(value.replace("_", " ").split()).casefold()
        value = _STRENGTHS.get(word, word)
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


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
    return _preference(turns, _answer(chosen, "chosen"), _answer(rejected, "rejected"), row, origin)


def prompt_pair(row: Values, origin: Origin) -> Preference:
    """prompt | question | instruction (+ input, system, history), and the two answers."""
    refuse_media(row)
    chosen, rejected = _pair(row)
    return _preference(question(row), _answer(chosen, "chosen"), _answer(rejected, "rejected"), row, origin)


def shared_history(row: Values, origin: Origin) -> Preference:
    """Two whole conversations that part at their last turn (Firefly, UltraFeedback, LLaMA-Factory v1)."""
    refuse_media(row)
    chosen, rejected = (turns_of(value) for value in _pair(row))
    prompt = _common_prompt(chosen, rejected)
    prompt = with_system(prompt, row.get("system"))
    return _preference(prompt, chosen[-1].content, rejected[-1].content, row, origin)


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
    better, worse = _pair(row)
    chosen, rejected = _transcript_turns(better, "chosen"), _transcript_turns(worse, "rejected")
    return _preference(_common_prompt(chosen, rejected), chosen[-1].content, rejected[-1].content, row, origin)


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
    return _preference(turns, outputs[winner], outputs[loser], row, origin)
