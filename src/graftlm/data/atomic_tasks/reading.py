"""Outputs read back: from what a model (or the gold) answered to spans, types, and entities again."""

from __future__ import annotations

from collections.abc import Iterable

from graftlm.data.atomic_tasks.task import AtomicTask
from graftlm.data.atomic_tasks.wordings import COLON, NONE

Found = frozenset[tuple[str, str]]
"""(span, name of its type)."""


def read_list(task: AtomicTask, output: str) -> tuple[str, ...]:
    """The members of a list; none for "None"."""
    if output.strip() == NONE[task.language]:
        return ()
    return tuple(part.strip() for part in output.split(task.separator.strip()) if part.strip())


def read_typed_spans(task: AtomicTask, output: str) -> Found:
    """Lines "span: type", of the types that the task shows; other lines are left out."""
    found = set()
    for line in output.splitlines():
        for name in task.options:
            if line.strip().endswith(mark := COLON[task.language] + name):
                found.add((line.strip().removesuffix(mark), name))
    return frozenset(found)


def read_spans_by_type(task: AtomicTask, output: str) -> Found:
    """Lines "type: span, span" of the types that the task shows; other lines are left out."""
    found = set()
    for line in output.splitlines():
        for name in task.options:
            if line.startswith(mark := COLON[task.language].join((name, ""))):
                found |= {(span, name) for span in read_list(task, line.removeprefix(mark))}
    return frozenset(found)


def read_values(asked: Iterable[tuple[str, AtomicTask, str]]) -> Found:
    """Of the steps (name of the type, task, output) that extract one type's values each."""
    return frozenset((value, name) for name, task, output in asked for value in read_list(task, output))
