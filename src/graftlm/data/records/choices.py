"""Multiple-choice test items: MMLU, CMMLU, C-Eval, AGIEval, ARC, MedQA and their kin."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftlm.data.records.conversations import Values, first, language_of
from graftlm.data.records.turns import (
    RowError,
    check_prompt,
    filled_text,
    optional_text,
    text_of,
    with_system,
)
from graftlm.data.samples import Labelled, Origin, Turn

_QUESTION = ("question", "Question")
_LISTS = ("choices", "options")
_ANSWERS = ("answer_idx", "label", "answerKey", "correct", "answer", "Answer")
_LETTER_MARK = re.compile(r"\s*[(（]?([A-Z])\s*[)）.．、:：]\s*")


def is_multiple_choice(row: Values) -> bool:
    return first(row, _QUESTION) is not None and first(row, _ANSWERS) is not None and bool(_options(row))


def _options(row: Values) -> dict[str, Any]:
    """Options by their name (A, B, ...), in order; {} when the row has none."""
    for column in _LISTS:
        value = row.get(column)
        if isinstance(value, Mapping) and {"text", "label"} <= value.keys():  # ARC
            return dict(zip(map(str, value["label"]), value["text"], strict=False))
        if isinstance(value, Mapping):
            return {str(name): text for name, text in value.items()}
        if isinstance(value, list) and value and not isinstance(value[0], (dict, list)):
            return dict(zip(string.ascii_uppercase, value, strict=False))
    lettered = [name for name in string.ascii_uppercase if name in row]
    if len(lettered) >= 2 and lettered[0] == "A":
        return {name: row[name] for name in lettered if row[name] not in (None, "")}
    numbered = [name for name in (f"choice{i}" for i in range(26)) if name in row]
    return {string.ascii_uppercase[i]: row[name] for i, name in enumerate(numbered)}


def multiple_choice(row: Values, origin: Origin) -> Labelled:
    """A question with options, of which one is right. The options stay out of the prompt text.

    "(A)", "A." and the like before each option are taken off. The right one is named by letter, by its text,
    or by its number counted from 0. An item whose right option is listed twice is refused.
    """
    options = {name: text_of(value, f"option {name}") for name, value in _options(row).items()}
    if blank := [name for name, text in options.items() if not text.strip()]:
        raise RowError(f"option {blank[0]} is empty")
    named = "choice0" not in row  # `choice0...` columns come with a number, never with a letter or the text
    answer_column = first(row, _ANSWERS)
    if answer_column is None:
        raise RowError("the answer is empty")
    options = _without_letters(options)
    right = _right_option(row[answer_column], options, named)
    texts = tuple(options.values())
    if texts.count(options[right]) != 1:
        raise RowError("the right option is listed twice")
    question_column = first(row, _QUESTION)
    question = filled_text(row.get(question_column or "question"), "question")
    passage = optional_text(row.get("passage"), "passage")
    turns = with_system([Turn("user", f"{passage}\n{question}" if passage else question)], row.get("system"))
    kind = optional_text(row.get("subject", row.get("category")), "subject") or _subject_of(origin)
    language = language_of(question)
    prompt, answers = check_prompt(turns), (options[right],)
    return Labelled(prompt, answers, origin, choices=texts, kind=kind, language=language)


def unanswered_choice(row: Values, origin: Origin) -> Labelled:
    """The same row without its answer, to be chosen."""
    options = {name: filled_text(value, f"option {name}") for name, value in _options(row).items()}
    if len(options) < 2:
        raise RowError("fewer than two options to choose from")
    column = first(row, _QUESTION)
    question = filled_text(row.get(column or "question"), "question")
    passage = optional_text(row.get("passage"), "passage")
    prompt = (Turn("user", f"{passage}\n{question}" if passage else question),)
    return Labelled(prompt, (), origin, tuple(_without_letters(options).values()), language=language_of(question))


def _without_letters(options: dict[str, str]) -> dict[str, str]:
    marks = {name: _LETTER_MARK.match(text) for name, text in options.items()}
    if all(mark and mark.group(1) == name and mark.end() < len(mark.string) for name, mark in marks.items()):
        return {name: options[name][mark.end() :] for name, mark in marks.items() if mark}
    return options


def _right_option(answer: Any, options: dict[str, str], named: bool) -> str:
    if isinstance(answer, list):
        if len(answer) != 1:
            raise RowError(f"{len(answer)} options are marked right: exactly one must be")
        answer = answer[0]
    names = list(options)
    word = str(answer).strip()
    if named and isinstance(answer, str):
        if word in options:
            return word
        by_text = [name for name, text in options.items() if text == answer]
        if len(by_text) == 1:
            return by_text[0]
    if word.isdigit() and int(word) < len(names):
        return names[int(word)]
    raise RowError(f"the answer {answer!r} names none of the options {', '.join(names)}")


def _subject_of(origin: Origin) -> str:
    """Exam files are named after their subject: `virology_test.csv`."""
    if not origin.path.endswith((".csv", ".csv.gz")):
        return ""
    stem = Path(origin.path).name.split(".", 1)[0]
    return re.sub(r"_(dev|val|test)$", "", stem)
