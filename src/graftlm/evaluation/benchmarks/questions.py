"""From an item and its examples to what a model is asked: strings, and nothing but strings.

The joints are those of lm-evaluation-harness: description, then for each example prompt + target delimiter + answer +
few-shot delimiter, then the prompt; a choice follows after the target delimiter.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graftlm.core.errors import DataError
from graftlm.core.hashing import hash_value
from graftlm.evaluation.benchmarks.items import Item
from graftlm.evaluation.benchmarks.task_file import TaskFile, Template
from graftlm.evaluation.benchmarks.templates import LETTERS, evaluate, render
from graftlm.evaluation.text_subject import Open, Options, Passage

Frame = Callable[[str], str]
"""Puts a question into a chat: plain text → all that stands before the answer."""

Question = Options | Passage | Open


def ask(task: TaskFile, item: Item, shown: str = "", frame: Frame | None = None) -> Question:
    """The question that an item becomes.

    Args:
        shown: solved examples, to stand before it.
        frame: puts it into a chat; a choice then follows without delimiter.

    Raises:
        DataError: a template that does not fit the row, or a right answer that is not among the choices.
    """
    view = _View(task, item)
    if task.request == "rolling":
        return Passage(view.text(task.prompt))
    head = view.text(task.description) + shown

    def before(prompt: str) -> str:
        return head + prompt if frame is None else frame(head + prompt)

    if task.request == "generate":
        return Open(before(view.text(task.prompt)), view.accepted(), view.solution())
    delimiter = task.target_delimiter if frame is None else ""
    if task.request == "likelihood":
        answer = view.accepted()[0]
        return Options((before(view.text(task.prompt)),), (delimiter + answer,), (answer,), (0,))
    choices, right = view.choices(), view.right()
    prompts = view.contexts() or [view.text(task.prompt)] * len(choices)
    # Where the choice stands in the context, that is the text whose length counts, as the harness has it.
    texts = choices if task.contexts is None else prompts
    contexts = tuple(before(prompt) for prompt in prompts)
    return Options(contexts, tuple(delimiter + choice for choice in choices), tuple(texts), right)


def solved(task: TaskFile, example: Item) -> str:
    """An example with its answer, and the delimiter after it.

    Raises:
        DataError: as for `ask`.
    """
    view = _View(task, example)
    answer = view.solution()
    contexts = view.contexts()
    prompt = contexts[view.right()[0]] if contexts else view.text(task.fewshot.prompt or task.prompt)
    return prompt + (task.target_delimiter if answer else "") + answer + task.fewshot_delimiter


class _View:
    """An item as the task's templates see it: its fields, and `options` in the order that they are shown."""

    def __init__(self, task: TaskFile, item: Item) -> None:
        self.task = task
        self._where = item.where
        self._fields: Mapping[str, Any] = item.fields
        self._order: list[int] | None = None  # place shown → place in the row
        if task.options is not None:
            options = self.texts(task.options)
            self._order = list(range(len(options)))
            if task.shuffle:
                random.Random(hash_value(options)).shuffle(self._order)
            self._fields = {**item.fields, "options": [options[place] for place in self._order]}

    def text(self, template: Template) -> str:
        return render(template, self._fields, self._where)

    def value(self, template: Template) -> Any:
        return evaluate(template, self._fields, self._where)

    def texts(self, templates: Template | list[Template]) -> list[str]:
        """A list of templates, or one that gives a list."""
        if isinstance(templates, list):
            return [self.text(template) for template in templates]
        value = _list_of(self.value(templates))
        if not isinstance(value, list | tuple):
            raise self._fault(f"template {templates!r} gives {value!r}, not a list", "write {{ [a, b] }}")
        return [str(one) for one in value]

    def choices(self) -> list[str]:
        if self.task.choices == "letters":
            return list(LETTERS[: len(self._fields["options"])])
        if self.task.choices is None:
            return list(self._fields["options"])
        if self.task.contexts is not None and isinstance(self.task.choices, str):
            return [self.text(self.task.choices)] * len(self.texts(self.task.contexts))
        return self.texts(self.task.choices)

    def contexts(self) -> list[str]:
        """One prompt a choice; empty where all share one."""
        if self.task.contexts is None:
            return []
        found, choices = self.texts(self.task.contexts), self.choices()
        if len(found) != len(choices):
            raise self._fault(f"{len(found)} contexts for {len(choices)} choices", "mend `contexts`")
        return found

    def accepted(self) -> tuple[str, ...]:
        """All accepted answers as text."""
        return tuple(str(one) for one in self._answers())

    def right(self) -> tuple[int, ...]:
        """The places of the right choices."""
        choices = self.choices()
        found = tuple(self._place(one, choices) for one in self._answers())
        if not found:
            raise self._fault("no choice is right", "mend `answer`, or leave such rows out with `where`")
        return found

    def solution(self) -> str:
        """The right answer as an example shows it."""
        if self.task.fewshot.answer is not None:
            return self.text(self.task.fewshot.answer)
        if self.task.request == "choice":
            return self.choices()[self.right()[0]]
        return (*self.accepted(), "")[0]

    def _answers(self) -> list[Any]:
        answer = self.task.answer
        if isinstance(answer, list):
            return [self.value(one) for one in answer]
        value = self.value(answer) if isinstance(answer, str) else answer
        if self.task.answer_is == "harness":
            value = _list_of(value)
        return list(value) if isinstance(value, list | tuple) else [value]

    def _place(self, answer: Any, choices: Sequence[str]) -> int:
        how, text = self.task.answer_is, str(int(answer) if isinstance(answer, bool) else answer)
        if how == "harness" or isinstance(answer, int):
            how = "index" if text.isdigit() else "text"
        shown = self._fields["options"] if self._order is not None else choices
        letter = text.strip().upper()
        if how in ("auto", "letter") and len(letter) == 1 and letter in LETTERS[: len(choices)]:
            return self._shown(LETTERS.index(letter))
        if how in ("auto", "text"):
            for same in (text, text.strip()):
                if same in shown:
                    return list(shown).index(same)
        if how in ("auto", "index") and text.strip().isdigit() and int(text) < len(choices):
            return self._shown(int(text))
        raise self._fault(f"the answer {answer!r} is none of {len(choices)} choices", "mend `answer` or `answer_is`")

    def _shown(self, place: int) -> int:
        return place if self._order is None else self._order.index(place)

    def _fault(self, reason: str, fix: str) -> DataError:
        return DataError(reason, where=self._where, fix=fix)


def _list_of(value: Any) -> Any:
    """The list that a text spells out, as templates of the harness do; any other value as it is."""
    if not isinstance(value, str) or not (value.startswith("[") and value.endswith("]")):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def settled(task: TaskFile, item: Item) -> TaskFile:
    """A task of the harness whose prompt turns out to be a number: its choices then are contexts (WinoGrande), the
    number says which is right, and the target is what follows. Any other task as it is.
    """
    if task.answer_is != "harness" or task.request != "choice" or task.contexts is not None:
        return task
    if not _View(task, item).text(task.prompt).isdigit():
        return task
    return task.model_copy(update={"contexts": task.choices, "answer": task.prompt, "choices": task.answer})
