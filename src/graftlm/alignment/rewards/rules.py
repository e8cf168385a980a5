"""Rewards that need no model: the accepted answer, a form, a length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftlm.core.errors import DataError, RecipeError
from graftlm.data.samples import Prompt
from graftlm.evaluation.metrics import AnswerMetric, contains_answer, exact_match, split_words

if TYPE_CHECKING:
    from graftlm.alignment.rewards import Reward


def exact_reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
    """1 for an answer that equals an accepted one (case, width, spacing and final punctuation apart), else 0.

    Raises:
        DataError: a prompt has no accepted answers.
    """
    return _judged(exact_match, prompts, answers)


def contains_reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
    """1 for an answer in which an accepted one stands word for word, else 0.

    Raises:
        DataError: a prompt has no accepted answers.
    """
    return _judged(contains_answer, prompts, answers)


def _judged(metric: AnswerMetric, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
    pairs = zip(prompts, answers, strict=True)
    return [metric(answer, _accepted(prompt)) for prompt, answer in pairs]


def _accepted(prompt: Prompt) -> tuple[str, ...]:
    if prompt.answers:
        return prompt.answers
    raise DataError(
        "the prompt has no accepted answer, which the rewards `exact` and `contains` compare with",
        where=str(prompt.origin),
        fix="give rows with a question and its answer, or take another reward",
    )


def format_reward(pattern: str) -> Reward:
    """1 where the whole answer, white space at its ends apart, matches the regular expression, else 0.

    A dot matches line breaks, too: a form such as `<think>.*</think>.*` spans lines.

    Raises:
        RecipeError: the regular expression is broken.
    """
    expression = _compiled(pattern, re.DOTALL)

    def reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        return [float(expression.fullmatch(answer.strip()) is not None) for answer in answers]

    return reward


def regex_reward(pattern: str) -> Reward:
    """1 where the regular expression is found somewhere in the answer, else 0.

    Raises:
        RecipeError: the regular expression is broken.
    """
    expression = _compiled(pattern)

    def reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        return [float(expression.search(answer) is not None) for answer in answers]

    return reward


def _compiled(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except re.error as error:
        place = "" if error.pos is None else f" at character {error.pos + 1}"
        raise RecipeError(
            f"the regular expression {pattern!r} is broken{place}: {error.msg}",
            fix="mend it (Python's syntax; a backslash before . * + ? ( ) [ ] { } | ^ $ \\ takes it literally)",
        ) from None


def length_reward(words: int) -> Reward:
    """Minus the share of an answer's words above `words`: 0 up to there, nearing -1 for endless answers.

    A Chinese character is a word, as in the metrics.
    """

    def reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        return [_excess(len(split_words(answer)), words) for answer in answers]

    return reward


def _excess(words: int, allowed: int) -> float:
    return -max(0, words - allowed) / max(words, 1)
