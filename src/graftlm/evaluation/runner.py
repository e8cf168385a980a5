"""Runs tasks on a model: ask, grade, put an interval on every number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from graftlm.core.errors import DataError
from graftlm.core.hashing import hash_value
from graftlm.data.samples import Labelled, Text
from graftlm.evaluation.grading import GRADERS, Graded
from graftlm.evaluation.results import SampleAnswer, TaskResult
from graftlm.evaluation.statistics import Estimate, Scores, estimate
from graftlm.evaluation.subject import Subject
from graftlm.evaluation.tasks import LOWER_IS_BETTER, Side, Task

Progress = Callable[[str, int, int], None]
"""Called with the task's name, the items done and the items in all."""


def run_tasks(
    subject: Subject, tasks: Sequence[Task], *, progress: Progress | None = None, samples: int = 6
) -> list[TaskResult]:
    """Put every task to the subject.

    Args:
        subject: the model that sits the test (`language_model(...)` for a real one).
        tasks: their names must differ.
        progress: called as items are finished.
        samples: answers a task that are kept to be read, spread evenly over its items.

    Returns:
        One result a task, in order; every metric with its 95 % interval.

    Raises:
        DataError: two tasks of one name, or an item that cannot be asked.
        ModelError: likelihoods that are not finite.
    """
    names = [task.name for task in tasks]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"two tasks have the name {min(twice)!r}", fix="rename one")
    return [_run(subject, task, progress, samples) for task in tasks]


def _run(subject: Subject, task: Task, progress: Progress | None, samples: int) -> TaskResult:
    done, total = 0, len(task.items)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(task.name, done, total)

    started = time.perf_counter()
    graded = GRADERS[task.kind](subject, task, advance)
    return task_result(
        task.name,
        task.side,
        task.metric,
        graded,
        kinds=[item.kind for item in task.labelled()],
        items_hash=hash_items(task.items),
        seconds=time.perf_counter() - started,
        samples=samples,
    )


def task_result(
    name: str,
    side: Side,
    metric: str,
    graded: Graded,
    *,
    kinds: Sequence[str],
    items_hash: str,
    seconds: float,
    samples: int,
) -> TaskResult:
    """A task's scores with an interval on every number.

    Args:
        metric: the headline.
        kinds: of each item, or empty; the headline is broken down where there are several.
        samples: answers that are kept to be read, spread evenly over the items.

    Raises:
        DataError: no item bears on the headline.
    """
    headline, metrics = graded.metrics[metric], _estimates(graded.metrics)
    if metric not in metrics:
        reason = f"no item of the task bears on its metric {metric}"
        raise DataError(reason, where=name, fix="choose another headline, or add such items")
    found = metrics[metric]
    return TaskResult(
        name=name,
        side=side,
        metric=metric,
        higher_is_better=metric not in LOWER_IS_BETTER,
        value=found.value,
        low=found.low,
        high=found.high,
        n=len(headline),
        metrics=metrics,
        kinds=_by_kind(kinds, headline),
        scores=headline.numerators.tolist(),
        weights=headline.denominators.tolist(),
        samples=_spread(graded, samples),
        items_hash=items_hash,
        seconds=seconds,
    )


def _estimates(metrics: dict[str, Scores]) -> dict[str, Estimate]:
    """Every metric that some item bears on."""
    return {name: estimate(scores) for name, scores in metrics.items() if scores.denominators.sum() > 0}


def _by_kind(kinds: Sequence[str], headline: Scores) -> dict[str, Estimate]:
    """The headline by kind of item; empty where there is only one kind."""
    places: dict[str, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    if len(places) < 2:
        return {}
    return _estimates({kind: headline.at(places[kind]) for kind in sorted(places)})


def _spread(graded: Graded, count: int) -> list[SampleAnswer]:
    total = len(graded.samples)
    count = min(count, total)
    return [graded.samples[place * total // count] for place in range(count)]


def hash_items(items: Sequence[Labelled | Text]) -> str:
    """Identity of a test's items: their prompts, answers and options in order."""
    return hash_value([_content(item) for item in items])


def _content(item: Labelled | Text) -> list[object]:
    if isinstance(item, Text):
        return [item.text]
    turns = [[turn.role, turn.content] for turn in item.prompt]
    return [turns, list(item.answers), list(item.choices)]
