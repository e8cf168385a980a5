"""A model's answers to an arena's questions, turn by turn, with MT-bench's temperatures."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence

from graftlm.data.samples import Turn
from graftlm.evaluation.arena.questions import ModelAnswer, Question
from graftlm.evaluation.arena.record_log import RecordLog
from graftlm.evaluation.language_model import LanguageModel
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate

CHUNK = 64
"""Questions that are answered and then written together."""


def answer_questions(
    subject: LanguageModel,
    name: str,
    questions: Sequence[Question],
    log: RecordLog[ModelAnswer],
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float | None,
    advance: Callable[[int], None],
) -> int:
    """Answer what the log lacks.

    Args:
        temperature: of all answers; by the question's category when None. 0 is greedy.

    Returns:
        How many of the new answers were cut at `max_new_tokens`.
    """
    done = {answer.question_id for answer in log.read()}
    cut = 0
    for start in range(0, len(questions), CHUNK):
        chunk = [question for question in questions[start : start + CHUNK] if question.question_id not in done]
        talks = _Talks(subject, chunk, max_new_tokens, seed, temperature)
        for turn in range(max((len(question.turns) for question in chunk), default=0)):
            cut += talks.answer(turn)
        log.append([_answer(name, question, said) for question, said in zip(chunk, talks.said, strict=True)])
        advance(len(chunk))
    return cut


def _answer(name: str, question: Question, said: list[str]) -> ModelAnswer:
    row = {"question_id": question.question_id, "model_id": name, "choices": [{"turns": said}]}
    return ModelAnswer.model_validate(row)


class _Talks:
    """Conversations over some questions: what was said so far, and the next turn of all."""

    def __init__(
        self,
        subject: LanguageModel,
        questions: Sequence[Question],
        max_new_tokens: int,
        seed: int,
        temperature: float | None,
    ) -> None:
        self._subject, self._questions = subject, questions
        self._longest, self._seed, self._temperature = max_new_tokens, seed, temperature
        self.said: list[list[str]] = [[] for _ in questions]

    def answer(self, turn: int) -> int:
        """Answer this turn of every question that has it; how many answers were cut."""
        groups: dict[float, list[int]] = defaultdict(list)
        for place, question in enumerate(self._questions):
            if turn < len(question.turns):
                warmth = question.temperature if self._temperature is None else self._temperature
                groups[warmth].append(place)
        return sum(self._answer_alike(turn, warmth, places) for warmth, places in groups.items())

    def _answer_alike(self, turn: int, temperature: float, places: Sequence[int]) -> int:
        subject = self._subject
        decoding = Decoding(
            greedy=temperature == 0, temperature=temperature, max_new_tokens=self._longest, stop=subject.stop_strings
        )
        answers = generate(
            subject.model, [subject.encode(self._history(place, turn)) for place in places], decoding,
            stop_ids=subject.stop_ids, pad_id=subject.pad_id, batch_size=subject.batch_size,
            batch_tokens=subject.batch_tokens, decode=subject.decode,
            seeds=[self._drawn(place, turn) for place in places],
        )  # fmt: skip
        for place, answer in zip(places, answers, strict=True):
            self.said[place].append((answer.text or "").strip())
        return sum(answer.finish_reason != "stop" for answer in answers)

    def _history(self, place: int, turn: int) -> list[Turn]:
        asked = self._questions[place].turns
        turns = []
        for question, answer in zip(asked[:turn], self.said[place], strict=True):
            turns += [Turn("user", question), Turn("assistant", answer)]
        return [*turns, Turn("user", asked[turn])]

    def _drawn(self, place: int, turn: int) -> int:
        """A seed of its own for every answer, whichever questions stand beside it."""
        return zlib.crc32(f"{self._seed}/{self._questions[place].question_id}/{turn}".encode())
