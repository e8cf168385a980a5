"""Layouts with one answer: text, alpaca, sharegpt, messages, firefly, pairs of columns, KTO, bare prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftlm.data.records.turns import (
    CONTENT_KEYS,
    ROLE_KEYS,
    RowError,
    check_chat,
    check_prompt,
    filled_text,
    history_turns,
    optional_text,
    refuse_media,
    text_of,
    turns_of,
    with_system,
    with_tools,
)
from graftlm.data.samples import Chat, Labelled, Origin, Prompt, Text, Turn, Unpaired

Values = Mapping[str, Any]

TEXT_COLUMNS = ("text", "content", "contents", "document", "raw_content")
QUESTION_COLUMNS = ("query", "question", "prompt", "instruction", "input")
ANSWER_COLUMNS = ("response", "answer", "output", "completion", "std_answer", "target")
KTO_COLUMNS = ("kto_tag", "label", "desirable")

INPUT_JOIN = "\n"
"""What stands between instruction and input in a user turn. With `graftlm.data.templates.ALPACA_INPUT`
instead, the alpaca template uses its form with an input section."""


def first(row: Values, names: tuple[str, ...]) -> str | None:
    """The first of these columns that holds something."""
    return next((name for name in names if row.get(name) not in (None, "", [])), None)


def language_of(text: str) -> str:
    return "zh" if any("\u4e00" <= char <= "\u9fff" for char in text) else "en"


def is_message_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], Mapping)
        and any(key in value[0] for key in ROLE_KEYS)
        and any(key in value[0] for key in (*CONTENT_KEYS, "tool_calls"))
    )


def text_document(row: Values, origin: Origin) -> Text:
    column = first(row, TEXT_COLUMNS)
    return Text(filled_text(row.get(column or "text"), column or "text"), origin)


def alpaca(row: Values, origin: Origin, input_join: str) -> Chat:
    refuse_media(row)
    instruction = filled_text(row.get("instruction"), "instruction")
    extra = optional_text(row.get("input"), "input")
    output = row.get("output") if "output" in row else row.get("response")
    turns = [
        *history_turns(row.get("history")),
        Turn("user", f"{instruction}{input_join}{extra}" if extra else instruction),
        Turn("assistant", filled_text(output, "output")),
    ]
    return Chat(check_chat(with_tools(with_system(turns, row.get("system")), row.get("tools"))), origin)


def message_turns(row: Values) -> list[Turn]:
    refuse_media(row)
    messages = row["conversations"] if "conversations" in row else row.get("messages")
    return turns_of(messages, system=row.get("system", row.get("system_prompt")), tools=row.get("tools"))


def conversation(row: Values, origin: Origin) -> Chat:
    return Chat(check_chat(message_turns(row)), origin)


def firefly(row: Values, origin: Origin) -> Chat:
    rounds = row["conversation"]
    if not isinstance(rounds, list) or not rounds:
        raise RowError("conversation is not a list of rounds")
    turns: list[Turn] = []
    for number, entry in enumerate(rounds, start=1):
        if not isinstance(entry, Mapping):
            raise RowError(f"round {number} is not an object with 'human' and 'assistant'")
        turns.append(Turn("user", filled_text(entry.get("human"), f"human of round {number}")))
        turns.append(Turn("assistant", filled_text(entry.get("assistant"), f"assistant of round {number}")))
    return Chat(check_chat(with_system(turns, row.get("system"))), origin)


def question(row: Values, input_join: str = INPUT_JOIN) -> list[Turn]:
    """System text, history and the user turn of a row that has its question in columns.

    `passage` (AGIEval) and an `instruction` beside a question (LawBench) stand before the question.
    """
    column = first(row, QUESTION_COLUMNS)
    if column is None:
        raise RowError("the question is empty")
    if column == "query" and "question" in row:
        column = "question"  # a `query` beside a question is a search query or a ready-made prompt
    if column == "prompt" and is_message_list(row["prompt"]):
        return turns_of(row["prompt"], system=row.get("system"))
    parts = [optional_text(row.get("passage"), "passage")]
    if column in ("query", "question"):
        parts.append(optional_text(row.get("instruction"), "instruction"))
    parts.append(filled_text(row[column], column))
    if column in ("prompt", "instruction"):
        parts.append(optional_text(row.get("input"), "input"))
    content = input_join.join(part for part in parts if part)
    return with_system([*history_turns(row.get("history")), Turn("user", content)], row.get("system"))


def answer_texts(row: Values) -> list[str]:
    """The accepted answers: one string, or a list of them (possibly nested: any of these)."""
    column = first(row, ANSWER_COLUMNS)
    if column is None:
        raise RowError("the answer is empty")
    value = row[column]
    if is_message_list(value):
        turns = turns_of(value)
        if len(turns) != 1 or turns[0].role != "assistant":
            raise RowError(f"{column} is not exactly one assistant message")
        return [turns[0].content]
    return [filled_text(item, column) for item in _flat(value)]


def _flat(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in _flat(item)]


def question_answer(row: Values, origin: Origin) -> Chat:
    refuse_media(row)
    answers = answer_texts(row)
    if len(answers) != 1:
        raise RowError(f"the row has {len(answers)} answers: a chat takes one")
    return Chat(check_chat([*question(row), Turn("assistant", answers[0])]), origin)


def open_question(row: Values, origin: Origin) -> Labelled:
    prompt = check_prompt(question(row))
    kind = optional_text(row.get("subject", row.get("category")), "category")
    answers = tuple(answer_texts(row))
    return Labelled(prompt, answers, origin, kind=kind, language=language_of(prompt[-1].content))


def verifiable(row: Values, origin: Origin) -> Labelled:
    """{"prompt", "reward_model": {"ground_truth"}}: tasks for rule-based rewards."""
    prompt = check_prompt(question(row))
    truth = filled_text(row["reward_model"].get("ground_truth"), "reward_model.ground_truth")
    kind = optional_text(row.get("ability"), "ability")
    return Labelled(prompt, (truth,), origin, kind=kind, language=language_of(prompt[-1].content))


def bare_prompt(row: Values, origin: Origin) -> Prompt:
    return Prompt(check_prompt(question(row)), origin)


def open_conversation(row: Values, origin: Origin) -> Prompt:
    """The turns up to the last user turn or tool result: a closing answer is left out, to be generated."""
    turns = message_turns(row)
    return Prompt(check_prompt(turns[:-1] if turns and turns[-1].role == "assistant" else turns), origin)


def thumb(row: Values) -> bool:
    """The KTO mark of a row: true for a desirable answer."""
    value = next(row[name] for name in KTO_COLUMNS if row.get(name) is not None)
    word = str(value).strip().lower()
    if word in ("true", "1", "yes", "good", "desirable"):
        return True
    if word in ("false", "0", "no", "bad", "undesirable"):
        return False
    raise RowError(f"the mark of the answer is {value!r}, neither true nor false")


def unpaired(row: Values, origin: Origin, input_join: str) -> Unpaired:
    if "messages" in row or "conversations" in row:
        turns = list(conversation(row, origin).turns)
    elif "instruction" in row and ("output" in row or "response" in row):
        turns = list(alpaca(row, origin, input_join).turns)
    else:
        answers = answer_texts(row)
        if len(answers) != 1:
            raise RowError(f"the row has {len(answers)} answers: an unpaired row takes one")
        turns = [*question(row), Turn("assistant", answers[0])]
    return Unpaired(check_prompt(turns[:-1]), text_of(turns[-1].content, "answer"), thumb(row), origin)
