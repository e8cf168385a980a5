"""Puts planned tasks to a subject."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graftlm.core.errors import DataError
from graftlm.core.hashing import hash_value
from graftlm.evaluation.benchmarks.grading import grade
from graftlm.evaluation.benchmarks.items import Asked, Item, Source, examples_for, read_task
from graftlm.evaluation.benchmarks.library import as_tree
from graftlm.evaluation.benchmarks.plan import PlannedTask
from graftlm.evaluation.benchmarks.questions import Frame, Question, ask, settled, solved
from graftlm.evaluation.benchmarks.task_file import NOT_HEADLINES, TaskFile
from graftlm.evaluation.grading import Graded
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.runner import task_result
from graftlm.evaluation.statistics import Estimate, Scores
from graftlm.evaluation.subject import Advance
from graftlm.evaluation.text_subject import Options, TextSubject


@dataclass(frozen=True)
class TaskRun:
    """A task's result, and what suites pool it from.

    Attributes:
        metrics: item scores of every metric.
        subjects: the sub-task of each item.
        chance: what guessing scores on each item.
    """

    result: TaskResult
    metrics: dict[str, Scores]
    subjects: list[str]
    chance: list[float]


@dataclass(frozen=True)
class Sheet:
    """A task read and written out, ready to be asked."""

    planned: PlannedTask
    items: list[Item]
    questions: list[Question]
    chance: list[float]
    coverage: str
    items_hash: str


def prepare(
    planned: PlannedTask, source: Source, *, limit: int | None = None, seed: int = 0, frame: Frame | None = None
) -> Sheet:
    """Read a task's data and write out its questions.

    Args:
        limit: the first items of each sub-task, so many at most.
        seed: of examples that are drawn.
        frame: puts questions into a chat.

    Raises:
        NoData: the data are not there.
        DataError: a row or a template at fault.
    """
    asked = read_task(planned.file, source, shots=planned.shots, limit=limit, subjects=planned.subjects)
    task = settled(planned.file, asked.items[0])
    written: dict[int, str] = {}  # most items share their examples

    def shown(item: Item) -> str:
        examples = examples_for(item, asked, task.fewshot, shots=planned.shots, seed=seed)
        for one in examples:
            if id(one) not in written:
                written[id(one)] = solved(task, one)
        return "".join(written[id(one)] for one in examples)

    questions = [ask(task, item, shown(item), frame) for item in asked.items]
    chance = [_chance(task, item, question) for item, question in zip(asked.items, questions, strict=True)]
    pool = [[subject, [repr(one.row) for one in rows]] for subject, rows in asked.pool.items()]
    rows = [repr(item.row) for item in asked.items]
    items_hash = hash_value([as_tree(task), planned.shots, seed if planned.shots else 0, pool, rows])
    return Sheet(planned, asked.items, questions, chance, _coverage(planned, asked), items_hash)


def run_sheet(
    subject: TextSubject, sheet: Sheet, *, seed: int = 0, samples: int = 6, advance: Advance = lambda _: None
) -> TaskRun:
    """Ask a prepared task and score the answers.

    Args:
        seed: of sampled answers.
        samples: answers that are kept to be read.

    Raises:
        DataError, ModelError: as for `grading.grade`.
    """
    started, cut = time.perf_counter(), subject.truncated
    task, subjects = sheet.planned.file, [item.subject for item in sheet.items]
    graded = grade(subject, task, sheet.items, sheet.questions, seed, advance)
    graded = _pooled(graded, subjects) if task.pool == "subjects" else graded
    result = task_result(
        sheet.planned.name,
        task.side,
        task.headline,
        graded,
        kinds=subjects,
        items_hash=sheet.items_hash,
        seconds=time.perf_counter() - started,
        samples=samples,
    )
    cut = subject.truncated - cut
    more = {
        "metrics": _powers(task, result),
        "version": task.version,
        "shots": sheet.planned.shots,
        "coverage": sheet.coverage,
        "notes": [f"{cut:,} prompts lost their beginning: they are longer than the model's positions"] if cut else [],
    }
    return TaskRun(result.model_copy(update=more), graded.metrics, subjects, sheet.chance)


def _powers(task: TaskFile, result: TaskResult) -> dict[str, Estimate]:
    """Perplexities are e to the mean that was scored."""
    powers = {metric.shown for metric in task.metrics if metric.name in NOT_HEADLINES}
    return {name: _power(found) if name in powers else found for name, found in result.metrics.items()}


def _power(found: Estimate) -> Estimate:
    value, low, high = np.exp([found.value, found.low, found.high]).tolist()
    return Estimate(value=value, low=low, high=high, n=found.n)


def _pooled(graded: Graded, subjects: Sequence[str]) -> Graded:
    """Items weighted so that their mean is the mean of the sub-tasks' means."""
    counts = Counter(subjects)
    weights = np.array([1 / counts[subject] for subject in subjects])
    metrics = {
        name: Scores(scores.numerators * weights, scores.denominators * weights)
        for name, scores in graded.metrics.items()
    }
    return Graded(metrics, graded.samples)


def _chance(task: TaskFile, item: Item, question: Question) -> float:
    if isinstance(task.chance, dict):
        if item.subject not in task.chance:
            raise DataError(f"`chance` has no number for {item.subject!r}", where=task.name, fix="add it")
        return task.chance[item.subject]
    if isinstance(task.chance, float | int):
        return float(task.chance)
    if isinstance(question, Options) and task.request == "choice":
        return len(question.right) / len(question.contexts)
    return 0.0


def _coverage(planned: PlannedTask, asked: Asked) -> str:
    """What part of the published test, or of the sub-tasks that a suite names, this is; "" for all of it."""
    published, named = planned.file.data.published, planned.subjects
    subjects = published.subjects if named is None else len(named)
    parts = []
    if subjects is not None and asked.subjects < subjects:
        parts.append(f"{asked.subjects} of {subjects} sub-tasks")
    items = published.items if published.items is not None and named is None else asked.total
    if len(asked.items) < items:
        parts.append(f"{len(asked.items):,} of {items:,} items")
    return ", ".join(parts)
