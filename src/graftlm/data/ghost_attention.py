"""Ghost attention: an instruction of the first turn that holds through the whole conversation.

LLaMA 2 (arXiv 2307.09288, section 3.3): answers are sampled with the instruction before *every* user turn, so that
each of them follows it; training then shows the instruction in the first user turn alone, and the loss is on the
last answer alone: the earlier ones were given under an instruction that the text no longer repeats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from graftlm.core.errors import DataError
from graftlm.data.records.turns import RowError, check_chat
from graftlm.data.samples import Chat, Origin, Turn

_INSIDE_A_WORD = re.compile(r"[A-Za-z0-9]{2}")
"""At the seam of two texts. Chinese has no spaces between words: there, any seam may be one of words."""


def instruct_every_turn(turns: Sequence[Turn], instruction: str) -> tuple[Turn, ...]:
    """The conversation to sample an answer to: the instruction stands before every user turn.

    A line break joins the two. A user turn that begins with the instruction stays as it is; so do all other turns.

    Raises:
        DataError: the instruction is empty.
    """
    wanted = _filled(instruction)
    return tuple(Turn("user", _instructed(turn.content, wanted)) if turn.role == "user" else turn for turn in turns)


def ghost_chat(turns: Sequence[Turn], instruction: str, origin: Origin) -> Chat:
    """The sampled conversation to train on: the instruction in the first user turn alone, the loss on the last answer.

    Args:
        turns: the conversation with its answers, with or without the instruction in its user turns. A system turn
            stays first, as it is.
        instruction: what the answers were sampled with.
        origin: where the conversation was read.

    Raises:
        DataError: the conversation does not end with an answer or is out of order, or the instruction is empty.
    """
    wanted = _filled(instruction)
    try:
        check_chat(turns)
    except RowError as error:
        fix = "give a conversation of user and assistant turns with the sampled answer as its last turn"
        raise DataError(f"no conversation for ghost attention: {error}", where=str(origin), fix=fix) from None
    first = next(place for place, turn in enumerate(turns) if turn.role == "user")
    plain = [Turn("user", _bare(turn.content, wanted)) if turn.role == "user" else turn for turn in turns]
    plain[first] = Turn("user", _instructed(plain[first].content, wanted))
    return Chat(tuple(plain), origin, last_only=True)


def _filled(instruction: str) -> str:
    text = instruction.strip()
    if not text:
        raise DataError("the instruction of ghost attention is empty", fix="write what is to hold, or leave it out")
    return text


def _begins(content: str, instruction: str) -> bool:
    """Whether the instruction stands at the beginning, as whole words ("Be brief" does not begin "Be briefed")."""
    if not content.startswith(instruction):
        return False
    return not _INSIDE_A_WORD.match(content, len(instruction) - 1)


def _instructed(content: str, instruction: str) -> str:
    return content if _begins(content, instruction) else f"{instruction}\n{content}"


def _bare(content: str, instruction: str) -> str:
    """The turn without the instruction; a user who said nothing else keeps his words: no turn is empty."""
    if not _begins(content, instruction):
        return content
    return content[len(instruction) :].lstrip() or content
