"""The table of layouts: how each is told from the row, what it gives, how that becomes the kind asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from graftlm.core.errors import RecipeError
from graftlm.data.readers.rows import Row
from graftlm.data.records import annotations as marked
from graftlm.data.records import conversations as plain
from graftlm.data.records import preferences as pairs
from graftlm.data.records.choices import is_multiple_choice, multiple_choice
from graftlm.data.records.conversations import INPUT_JOIN, Values, is_message_list
from graftlm.data.records.turns import RowError
from graftlm.data.samples import (
    Captioned,
    Chat,
    Classified,
    Labelled,
    Origin,
    Preference,
    Prompt,
    Sample,
    Tagged,
    Text,
    Turn,
    Unpaired,
)

Kind = Literal["text", "chat", "preference", "unpaired", "prompt", "labelled", "classified", "tagged", "captioned"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Schema:
    """One layout.

    Attributes:
        matches: whether a row has this layout (its columns, never its content's quality).
        builders: how to build each kind that the layout gives without conversion; the natural one first.
        columns: the fields it reads, the names a `columns` mapping may use.
    """

    name: str
    matches: Callable[[Values], bool]
    builders: Mapping[Kind, Callable[[Values, Origin, str], Sample]]
    columns: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        return next(iter(self.builders))


def _builder(build: Callable[[Values, Origin], Sample]) -> Callable[[Values, Origin, str], Sample]:
    return lambda row, origin, input_join: build(row, origin)


def _has_pair(row: Values) -> bool:
    return pairs.pair_columns(row) is not None


def _pair_is(row: Values, test: Callable[[Any], bool]) -> bool:
    columns = pairs.pair_columns(row)
    return columns is not None and all(test(row[name]) for name in columns)


def _is_whole_conversation(value: Any) -> bool:
    return is_message_list(value) and len(value) > 1


def _has_messages(row: Values) -> bool:
    return "messages" in row or "conversations" in row


def _is_sharegpt(row: Values) -> bool:
    messages = row.get("conversations", row.get("messages"))
    return _has_messages(row) and isinstance(messages, list) and bool(messages) and "from" in messages[0]


def _has_thumb(row: Values) -> bool:
    if row.get("kto_tag") is not None or row.get("desirable") is not None:
        return True
    return isinstance(row.get("label"), bool) and (_has_messages(row) or _has_question(row))


def _has_question(row: Values) -> bool:
    return any(name in row for name in plain.QUESTION_COLUMNS)


def _has_answer(row: Values) -> bool:
    return any(name in row for name in plain.ANSWER_COLUMNS)


_QA = _builder(plain.question_answer)
_ANSWERS: dict[Kind, Callable[[Values, Origin, str], Sample]] = {
    "chat": _QA,
    "labelled": _builder(plain.open_question),
}
_CONVERSATION: dict[Kind, Callable[[Values, Origin, str], Sample]] = {
    "chat": _builder(plain.conversation),
    "prompt": _builder(plain.open_conversation),
}
_QUESTION = (*plain.QUESTION_COLUMNS, "system", "history")
_MESSAGES = ("conversations", "messages", "system", "tools")
_PAIR = ("chosen", "rejected", *pairs.STRENGTH_COLUMNS)

# Order is precedence: the more specific layout stands first.
_TABLE = (
    Schema("hh", lambda row: _pair_is(row, pairs.is_transcript), {"preference": _builder(pairs.transcripts)},
           _PAIR),
    Schema("shared_history", lambda row: _pair_is(row, _is_whole_conversation),
           {"preference": _builder(pairs.shared_history)}, (*_PAIR, "system")),
    Schema("conversation_pair", lambda row: _has_pair(row) and _has_messages(row),
           {"preference": _builder(pairs.conversation_pair)}, (*_MESSAGES, *_PAIR)),
    Schema("prompt_pair", lambda row: _has_pair(row) and _has_question(row),
           {"preference": _builder(pairs.prompt_pair)}, (*_QUESTION, *_PAIR)),
    Schema("judged_pair", lambda row: all(name in row for name in ("input", "output_1", "output_2", "label")),
           {"preference": _builder(pairs.judged_pair)},
           ("input", "output_1", "output_2", "label", *pairs.STRENGTH_COLUMNS)),
    Schema("kto", _has_thumb, {"unpaired": plain.unpaired},
           (*_MESSAGES, *_QUESTION, *plain.ANSWER_COLUMNS, *plain.KTO_COLUMNS)),
    Schema("sharegpt", _is_sharegpt, _CONVERSATION, _MESSAGES),
    Schema("messages", _has_messages, _CONVERSATION, _MESSAGES),
    Schema("firefly", lambda row: "conversation" in row, {"chat": _builder(plain.firefly)},
           ("conversation", "system")),
    Schema("multiple_choice", is_multiple_choice, {"labelled": _builder(multiple_choice)},
           ("question", "passage", "choices", *"ABCDEFGHIJ", "answer", "subject", "system")),
    Schema("verifiable", lambda row: isinstance(row.get("reward_model"), Mapping) and "prompt" in row,
           {"labelled": _builder(plain.verifiable)}, ("prompt", "reward_model", "ability", "system")),
    Schema("alpaca", lambda row: "instruction" in row and ("output" in row or "response" in row),
           {"chat": plain.alpaca},
           ("instruction", "input", "output", "response", "system", "history", "tools")),
    Schema("prompt_completion", lambda row: "prompt" in row and "completion" in row, _ANSWERS,
           ("prompt", "completion", "system", "history")),
    Schema("question_answer", lambda row: _has_question(row) and _has_answer(row), _ANSWERS,
           (*_QUESTION, *plain.ANSWER_COLUMNS, "passage", "category")),
    Schema("text", lambda row: any(name in row for name in plain.TEXT_COLUMNS),
           {"text": _builder(plain.text_document)}, plain.TEXT_COLUMNS),
    Schema("prompt", _has_question, {"prompt": _builder(plain.bare_prompt)}, _QUESTION),
    # Rows for encoders, which are asked for by their kind: a text with a label is a text for all others.
    Schema("tagged", marked.is_tagged, {"tagged": _builder(marked.tagged)}, marked.TAGGED_COLUMNS),
    Schema("captioned", marked.is_captioned, {"captioned": _builder(marked.captioned)}, marked.CAPTIONED_COLUMNS),
    Schema("classified", marked.is_classified, {"classified": _builder(marked.classified)},
           marked.CLASSIFIED_COLUMNS),
)  # fmt: skip
SCHEMAS: Mapping[str, Schema] = {schema.name: schema for schema in _TABLE}


def detect(row: Values, kind: Kind | None = None) -> str | None:
    """The name of the row's layout, or None.

    With `kind`, layouts that can give it go before those that cannot: a row with a `text` and an
    `instruction` column is a text for pre-training and a chat for instruction tuning. Among these the order
    of the table holds, so a row with a thumb down is never taken for a plain conversation.
    """
    return next((schema.name for schema in _by_precedence(kind) if schema.matches(row)), None)


@cache
def _by_precedence(kind: Kind | None) -> tuple[Schema, ...]:
    """The table; with `kind`, behind those that can give it."""
    return _TABLE if kind is None else (*(schema for schema in _TABLE if _gives(schema, kind)), *_TABLE)


def to_sample(
    row: Row,
    kind: Kind | None = None,
    columns: Mapping[str, str] | None = None,
    schema: str | None = None,
    *,
    input_join: str = INPUT_JOIN,
) -> Sample:
    """One row as a sample of `kind` (None: the kind that its layout gives by nature).

    Args:
        row: what a reader yielded.
        columns: field of the layout -> column of the file. When given, only these columns are read.
        schema: a name of `SCHEMAS`; None detects it.
        input_join: what stands between an alpaca row's instruction and input.

    Raises:
        RowError: the row cannot become such a sample; the message is the reason.
        RecipeError: `schema` or `kind` is no known name.
    """
    check_names(kind, schema)
    values = _mapped(row.values, columns) if columns else row.values
    name = schema or detect(values, kind)
    if name is None:
        found = ", ".join(map(str, values)) or "none"
        raise RowError(f"no known layout has these columns: {found}; map them with `columns`")
    chosen = SCHEMAS[name]
    wanted = kind or chosen.kind
    build = chosen.builders.get(wanted)
    if build is not None:
        return build(values, row.origin, input_join)
    if not _converts(chosen.kind, wanted):
        raise RowError(f"a '{name}' row gives {chosen.kind} samples, which cannot become {wanted} samples")
    return _convert(chosen.builders[chosen.kind](values, row.origin, input_join), wanted)


def check_names(kind: str | None, schema: str | None) -> None:
    if kind is not None and kind not in KINDS:
        raise RecipeError(f"unknown kind of sample {kind!r}", fix=f"one of: {', '.join(KINDS)}")
    if schema is not None and schema not in SCHEMAS:
        raise RecipeError(f"unknown schema {schema!r}", fix=f"one of: {', '.join(SCHEMAS)}")


def _mapped(values: Values, columns: Mapping[str, str]) -> dict[str, Any]:
    missing = [column for column in columns.values() if column not in values]
    if missing:
        found = ", ".join(map(str, values))
        raise RowError(f"the column '{missing[0]}' that `columns` names is missing (there are: {found})")
    return {field: values[column] for field, column in columns.items()}


_CONVERSIONS: frozenset[tuple[Kind, Kind]] = frozenset({
    ("chat", "prompt"), ("chat", "labelled"),
    ("preference", "chat"), ("preference", "prompt"),
    ("unpaired", "chat"), ("unpaired", "prompt"),
    ("labelled", "prompt"), ("labelled", "chat"),
})  # fmt: skip


def _converts(source: Kind, target: Kind) -> bool:
    return source == target or (source, target) in _CONVERSIONS


def _gives(schema: Schema, kind: Kind) -> bool:
    return kind in schema.builders or _converts(schema.kind, kind)


def _convert(sample: Sample, kind: Kind) -> Sample:
    """The kinds that follow from another without inventing anything."""
    if isinstance(sample, (Prompt, Text, Classified, Tagged, Captioned)):
        raise RowError(f"a {type(sample).__name__.lower()} holds no answer")  # `_converts` keeps these away
    prompt, answer = _prompt_and_answer(sample)
    if kind == "prompt":
        return Prompt(prompt, sample.origin)
    if kind == "labelled":
        language = plain.language_of(prompt[-1].content)
        return Labelled(prompt, (answer,), sample.origin, language=language)
    if isinstance(sample, Unpaired) and not sample.desirable:
        raise RowError("the answer is marked undesirable: it is not trained on as a chat")
    if isinstance(sample, Labelled) and (len(sample.answers) != 1 or sample.choices):
        raise RowError("a chat needs one answer in full; this item has options or several answers")
    return Chat((*prompt, Turn("assistant", answer)), sample.origin)


def _prompt_and_answer(sample: Chat | Preference | Unpaired | Labelled) -> tuple[tuple[Turn, ...], str]:
    if isinstance(sample, Chat):
        return sample.turns[:-1], sample.turns[-1].content
    if isinstance(sample, Preference):
        return sample.prompt, sample.chosen
    if isinstance(sample, Unpaired):
        return sample.prompt, sample.completion
    return sample.prompt, sample.answers[0]
