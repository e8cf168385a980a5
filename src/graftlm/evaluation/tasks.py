"""What is measured: a named set of items, the way they are judged, and the side of the ledger they stand
on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from graftlm.core.errors import DataError
from graftlm.data.samples import Labelled, Text, Turn

Side: TypeAlias = Literal["domain", "general"]
Kind: TypeAlias = Literal["choice", "generate", "extract", "abstain", "bits_per_byte"]

HEADLINES: dict[Kind, tuple[str, ...]] = {
    "choice": ("accuracy", "answer_probability", "ece", "brier"),
    "generate": ("exact_match", "contains", "rouge_1", "rouge_2", "rouge_l", "token_f1", "stop_rate"),
    "extract": ("set_f1", "precision", "recall", "exact_set", "stop_rate"),
    "abstain": ("abstention_rate", "hallucination_rate", "false_abstention_rate", "stop_rate"),
    "bits_per_byte": ("bits_per_byte",),
}
"""The metrics of each kind; the first is its headline unless the task names another."""

LOWER_IS_BETTER = frozenset({"bits_per_byte", "hallucination_rate", "false_abstention_rate", "ece", "brier"})

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ASK_FOR_LETTER = {"en": "Answer with the letter only.", "zh": "请只回答选项的字母。"}


@dataclass(frozen=True)
class Task:
    """A test.

    Attributes:
        name: unique among the tasks of a run.
        side: "domain" (should gain) or "general" (must not be forgotten).
        kind: how items are judged. choice: the most likely option. generate: the greedy answer against the
            accepted ones. extract: the items that the greedy answer lists. abstain: whether the model admits
            that it does not know (an item is unanswerable when it has no answer, or an answer that is itself
            an abstention).
            bits_per_byte: the likelihood of plain text.
        items: Text for bits_per_byte, Labelled otherwise.
        headline: the metric that stands for the task; the kind's first one when None.
        normalisation: of an option's log-probability before options are compared; "characters" divides by its
            length, so that long options are not at a disadvantage.
        style: "text" scores the options themselves; "letters" lists them in the prompt and scores A, B, C …
            (MMLU, CMMLU).
        max_new_tokens: the longest answer.

    Raises:
        DataError: no items, an item of the wrong type, or a choice item without exactly one right option.
    """

    name: str
    side: Side
    kind: Kind
    items: Sequence[Labelled | Text]
    headline: str | None = None
    normalisation: Literal["none", "characters"] = "none"
    style: Literal["text", "letters"] = "text"
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if not self.items:
            raise DataError("the task has no items", where=self.name, fix="check the file and its filters")
        if self.headline is not None and self.headline not in HEADLINES[self.kind]:
            known = ", ".join(HEADLINES[self.kind])
            raise DataError(
                f"no metric {self.headline!r} for {self.kind}", where=self.name, fix=f"one of: {known}"
            )
        for item in self.items:
            _check(item, self)

    @property
    def metric(self) -> str:
        return self.headline or HEADLINES[self.kind][0]

    def labelled(self) -> list[Labelled]:
        return [item for item in self.items if isinstance(item, Labelled)]

    def texts(self) -> list[Text]:
        return [item for item in self.items if isinstance(item, Text)]


def _check(item: Labelled | Text, task: Task) -> None:
    wanted = Text if task.kind == "bits_per_byte" else Labelled
    if not isinstance(item, wanted):
        reason = f"{task.kind} needs {wanted.__name__} items, this is {type(item).__name__}"
        raise DataError(reason, where=str(item.origin))
    if isinstance(item, Text):
        if not item.text:
            raise DataError("the text is empty", where=str(item.origin), fix="remove it")
        return
    if not item.prompt:
        raise DataError("the item has no prompt", where=str(item.origin))
    if task.kind == "generate" and not item.answers:
        raise DataError("the item has no accepted answer", where=str(item.origin))
    if task.kind == "choice":
        _check_choice(item, task)


def _check_choice(item: Labelled, task: Task) -> None:
    right = [choice for choice in item.choices if choice in item.answers]
    if len(right) != 1 or len(item.choices) < 2:
        reason = f"{len(right)} of {len(item.choices)} options are right"
        raise DataError(
            reason, where=str(item.origin), fix="give two or more options, one of them the answer"
        )
    if task.style == "letters" and len(item.choices) > len(LETTERS):
        raise DataError(f"{len(item.choices)} options, {len(LETTERS)} letters", where=str(item.origin))


def choice_question(
    item: Labelled, style: Literal["text", "letters"]
) -> tuple[tuple[Turn, ...], tuple[str, ...], int]:
    """A choice item as it is scored: the turns, the continuations, and the place of the right one."""
    right = next(place for place, choice in enumerate(item.choices) if choice in item.answers)
    if style == "text":
        return item.prompt, item.choices, right
    letters = tuple(LETTERS[: len(item.choices)])
    options = [f"{letter}. {choice}" for letter, choice in zip(letters, item.choices, strict=True)]
    ask = _ASK_FOR_LETTER.get(item.language, _ASK_FOR_LETTER["en"])
    last = item.prompt[-1]
    asked = Turn(last.role, "\n".join([last.content, *options, ask]))
    return (*item.prompt[:-1], asked), letters, right
