"""Who judges: anything that answers a conversation; and a memory of what it was asked before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from graftlm.core.errors import GraftError
from graftlm.core.files import read_json
from graftlm.core.hashing import hash_value

Messages = list[dict[str, str]]
"""[{"role": "system" or "user", "content": …}]"""


@dataclass(frozen=True)
class Reply:
    """What a judge wrote, and what it cost in tokens; None where it does not say."""

    text: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    remembered: bool = False


class Judge(Protocol):
    """A judge with a name, which goes into each battle."""

    name: str

    def identity(self) -> dict[str, Any]:
        """All that changes its replies, besides the question."""

    def ask(self, conversations: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        """(place of the conversation, reply) for each, in the order in which they come.

        Raises:
            GraftError: some got no reply; those that did have been yielded by then.
        """


class RememberingJudge:
    """A judge that is asked everything once: replies are kept in files, named by the hash of who was asked what.

    Args:
        judge: who answers what is new.
        folder: where the replies are kept.
    """

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.name, self._judge, self._folder = judge.name, judge, folder

    def ask(self, conversations: Sequence[Messages]) -> list[Reply]:
        """A reply to each, in order; each is kept as soon as it comes, so that a failure costs none of the others."""
        found = {place: reply for place, one in enumerate(conversations) if (reply := self._recall(one))}
        new = [place for place in range(len(conversations)) if place not in found]
        for number, reply in self._judge.ask([conversations[place] for place in new]):
            found[new[number]] = reply
            self._remember(conversations[new[number]], reply)
        return [found[place] for place in range(len(conversations))]

    def _file(self, messages: Messages) -> Path:
        return self._folder / f"{hash_value({'judge': self._judge.identity(), 'messages': messages})}.json"

    def _recall(self, messages: Messages) -> Reply | None:
        file = self._file(messages)
        if not file.exists():
            return None
        try:
            kept = read_json(file)
            return Reply(kept["text"], kept["prompt_tokens"], kept["answer_tokens"], remembered=True)
        except (GraftError, KeyError, TypeError, UnicodeDecodeError):
            return None  # spoilt from outside: it is asked again

    def _remember(self, messages: Messages, reply: Reply) -> None:
        counts = {"prompt_tokens": reply.prompt_tokens, "answer_tokens": reply.answer_tokens}
        kept = json.dumps({"text": reply.text, **counts, "messages": messages}, ensure_ascii=False)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file(messages).write_text(kept, encoding="utf-8")  # a half-written one is asked again
