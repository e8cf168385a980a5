"""From the message lists of the many layouts to checked turns.

Rules (a row that breaks one is refused with its reason, never repaired):
- after an optional system turn, a user turn comes first; user and assistant alternate; tool results follow
  an assistant turn (several may, for parallel calls) and an assistant turn follows them;
- no turn is empty, no text holds half a surrogate pair, no content is an image, sound or video;
- an assistant turn that asks for no loss is refused: every answer of a `Chat` bears loss.

Harmless changes made in silence: an empty system text counts as none. Content is never stripped.
Flattened to text: content lists (their text parts, joined), OpenAI tool calls (a JSON object {"name",
"arguments"} a line, after the content), reasoning (`<think>` block before the content), the tool list of a
row (after the system text, see `with_tools`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from graftlm.data.samples import Role, Turn


class RowError(Exception):
    """Why one row cannot become a sample. `load_samples` turns it into a Fault."""


ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "用户"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "chatgpt", "model", "bard", "bing", "function_call", "tool_call", "助手"),
        "assistant",
    ),
    **dict.fromkeys(
        ("tool", "observation", "function", "function_response", "tool_response", "ipython"), "tool"
    ),
}

ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
MEDIA_COLUMNS = ("image", "images", "video", "videos", "audio", "audios")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def text_of(value: Any, name: str) -> str:
    """A column or message content as text: a string as it is, a number spelled out, a content list joined."""
    if isinstance(value, list):
        value = "".join(_part_text(part, name) for part in value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RowError(f"{name} is not text but {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(f"{name} holds half a surrogate pair: broken characters, save the file anew") from None
    return value


def filled_text(value: Any, name: str) -> str:
    text = "" if value is None else text_of(value, name)
    if not text.strip():
        raise RowError(f"{name} is empty")
    return text


def optional_text(value: Any, name: str) -> str:
    """The text, or "" for a missing, null or blank one."""
    text = "" if value is None else text_of(value, name)
    return text if text.strip() else ""


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _part_text(part: Any, name: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise RowError(f"{name} holds a part that is {_kind(part)}")
    if part.get("type", "text") != "text":
        raise RowError(f"{name} holds '{part['type']}': graft reads text only")
    return text_of(part.get("text", part.get("value")), name)


def refuse_media(row: Mapping[str, Any]) -> None:
    for column in MEDIA_COLUMNS:
        if row.get(column):
            raise RowError(f"the row has '{column}': graft reads text only")


def turns_of(messages: Any, *, system: Any = None, tools: Any = None) -> list[Turn]:
    """Message dictionaries to turns, unchecked as to their order (see `check_order`)."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise RowError(f"the messages are not a list but {_kind(messages)}")
    if not messages:
        raise RowError("the list of messages is empty")
    turns = [_turn(message, number) for number, message in enumerate(messages, start=1)]
    return with_tools(with_system([turn for turn in turns if turn is not None], system), tools)


def _turn(message: Any, number: int) -> Turn | None:
    name = f"message {number}"
    if not isinstance(message, Mapping):
        raise RowError(f"{name} is not an object but {_kind(message)}")
    role_name = _first_of(message, ROLE_KEYS)
    role = ROLES.get(str(role_name).strip().lower())
    if role is None:
        known = ", ".join(ROLES)
        raise RowError(f"{name} has no known role ({role_name!r}; known: {known})")
    if role == "assistant" and (message.get("loss") is False or message.get("loss_weight") == 0):
        raise RowError(f"{name} is an answer that asks for no loss: leave it out or turn its loss on")
    content = _content(message, name)
    if not content.strip():
        if role == "system":
            return None
        raise RowError(f"{name} ({role}) is empty")
    return Turn(role, content)


def _first_of(message: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    for key in keys:
        if key in message:
            return message[key]
    return None


def _content(message: Mapping[str, Any], name: str) -> str:
    content = _first_of(message, CONTENT_KEYS)
    if len(message) == 2 and isinstance(content, str):
        return text_of(content, name)  # role and content alone: most messages of most files
    pieces = [] if content is None else [text_of(content, name)]
    reasoning = next((message[key] for key in _REASONING_KEYS if message.get(key)), None)
    if reasoning:
        pieces.insert(0, f"<think>\n{text_of(reasoning, name).strip()}\n</think>\n")
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    pieces += [_tool_call(call, name) for call in calls]
    return "\n".join(piece for piece in pieces if piece.strip())


def _tool_call(call: Any, name: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise RowError(f"{name} has a tool call without a function name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise RowError(f"{name} calls {function['name']} with arguments that are not JSON") from None
    return json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)


def with_system(turns: list[Turn], system: Any) -> list[Turn]:
    """Put the system column before the turns; a row that states two system texts is refused."""
    text = optional_text(system, "system")
    if not text:
        return turns
    if turns and turns[0].role == "system":
        raise RowError("the row has a system column and a system message: keep one")
    return [Turn("system", text), *turns]


def with_tools(turns: list[Turn], tools: Any) -> list[Turn]:
    """Append the tools a row offers to its system text, as the JSON that the data set holds."""
    if isinstance(tools, (list, dict)):
        tools = json.dumps(tools, ensure_ascii=False) if tools else ""
    text = optional_text(tools, "tools")
    if not text or text.strip() in ("[]", "{}"):
        return turns
    listing = f"Tools:\n{text.strip()}"
    if turns and turns[0].role == "system":
        return [Turn("system", f"{turns[0].content}\n\n{listing}"), *turns[1:]]
    return [Turn("system", listing), *turns]


_FOLLOWERS: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


def check_order(turns: Sequence[Turn]) -> None:
    """Refuse turns out of alternation."""
    before: Role | None = None
    for number, turn in enumerate(turns, start=1):
        if turn.role not in _FOLLOWERS[before]:
            place = f"after a {before} turn" if before else "at the start"
            wanted = " or ".join(_FOLLOWERS[before])
            raise RowError(f"turn {number} is a {turn.role} turn {place}, where {wanted} belongs")
        before = turn.role


def check_chat(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """A conversation to be trained on: in order, with an answer at its end."""
    check_order(turns)
    if not any(turn.role == "assistant" for turn in turns):
        raise RowError("there is no assistant turn: nothing to learn")
    if turns[-1].role != "assistant":
        raise RowError(f"the last turn is a {turns[-1].role} turn without an answer: remove or answer it")
    return tuple(turns)


def check_prompt(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """A conversation to be answered: in order, ending on a user turn or a tool result."""
    check_order(turns)
    if not turns or turns[-1].role not in ("user", "tool"):
        raise RowError("the prompt does not end with a user turn")
    return tuple(turns)


def history_turns(history: Any) -> list[Turn]:
    """Earlier rounds as [[question, answer], ...] (LLaMA-Factory, MedicalGPT)."""
    if history is None or history == "":
        return []
    if not isinstance(history, Sequence) or isinstance(history, str):
        raise RowError(f"history is not a list but {_kind(history)}")
    turns: list[Turn] = []
    for number, pair in enumerate(history, start=1):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise RowError(f"history entry {number} is not a [question, answer] pair")
        turns.append(Turn("user", filled_text(pair[0], f"question {number} of the history")))
        turns.append(Turn("assistant", filled_text(pair[1], f"answer {number} of the history")))
    return turns
