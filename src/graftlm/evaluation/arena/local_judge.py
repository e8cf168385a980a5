"""A model of this machine as a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from graftlm.core.errors import ModelError
from graftlm.data.samples import Turn
from graftlm.evaluation.arena.judges import Messages, Reply
from graftlm.evaluation.language_model import LanguageModel
from graftlm.evaluation.subject import Turns
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate


class LocalJudge:
    """Asks a language model, in batches.

    Args:
        name: what it is called in battles.
        model_hash: of its files: another model of the same name is another judge.
        subject: the model with its template.
        temperature: 0 is greedy.
        max_new_tokens: of a judgement.
    """

    def __init__(
        self, name: str, model_hash: str, subject: LanguageModel, *, temperature: float, max_new_tokens: int
    ) -> None:
        self.name, self._hash, self._subject = name, model_hash, subject
        self._decoding = Decoding(
            greedy=temperature == 0, temperature=temperature, max_new_tokens=max_new_tokens, stop=subject.stop_strings
        )

    def identity(self) -> dict[str, Any]:
        return {"model": self._hash, "decoding": self._decoding.model_dump(mode="json")}

    def ask(self, conversations: Sequence[Messages]) -> Iterator[tuple[int, Reply]]:
        if not conversations:
            return
        prompts = [self._encoded(messages) for messages in conversations]
        seeds = [0] * len(prompts)  # a reply depends on its own question only, so that it can be remembered
        answers = generate(
            self._subject.model, prompts, self._decoding, stop_ids=self._subject.stop_ids, pad_id=self._subject.pad_id,
            batch_size=self._subject.batch_size, batch_tokens=self._subject.batch_tokens, decode=self._subject.decode,
            seeds=seeds,
        )  # fmt: skip
        for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            yield place, Reply((answer.text or "").strip(), len(prompt), len(answer.tokens))

    def _encoded(self, messages: Messages) -> list[int]:
        """Templates without a system role get its text at the head of the user's."""
        try:
            return self._subject.encode(_turns(messages))
        except ModelError:
            whole = "\n\n".join(one["content"] for one in messages)
            return self._subject.encode([Turn("user", whole)])


def _turns(messages: Messages) -> Turns:
    return [Turn("system" if one["role"] == "system" else "user", one["content"]) for one in messages]
