"""What `graft eval` prints: scores with intervals and coverage, what is on this disk, and two models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from graftlm.core.console import say
from graftlm.evaluation.benchmarks.items import local_files
from graftlm.evaluation.benchmarks.library import load_file, shipped_files
from graftlm.evaluation.benchmarks.pooling import Group
from graftlm.evaluation.benchmarks.suite_file import SuiteFile
from graftlm.evaluation.benchmarks.task_file import FewShot, Rows, TaskFile
from graftlm.evaluation.results import EvaluationResult, GroupResult, TaskResult
from graftlm.evaluation.retention import Change, compare
from graftlm.evaluation.statistics import Difference, mean_difference
from graftlm.recipes.formatting import count, duration, number, span

_WORDS = ("what part", "how", "what", "verdict")


def show_results(result: EvaluationResult) -> None:
    """All tasks and suites of one model."""
    say(f"[bold]{result.model}[/bold]: {_about(result)}")
    say(_task_table(result.tasks))
    notes = [f"{task.name}: {note}" for task in result.tasks for note in task.notes]
    if result.groups:
        say()
        say(_group_table(result.groups))
        for group in result.groups:
            notes += [f"{group.name} without {name}: {reason}" for name, reason in group.missing.items()]
    for note in notes:
        say(f"[yellow]note:[/yellow] {note}")
    items, seconds = sum(task.n for task in result.tasks), sum(task.seconds for task in result.tasks)
    rate = f", {items / seconds:,.1f} items/s" if seconds else ""
    say(f"{items:,} items in {duration(result.seconds)}{rate}")


def _about(result: EvaluationResult) -> str:
    settings = [f"{key} {value}" for key, value in result.settings.items() if value not in (None, 0)]
    size = f"{result.parameters:,} parameters, {result.precision}, {result.machine}" if result.parameters else ""
    return "; ".join([size, *settings] if size else settings) or "no model"


def _table(*columns: str, left: int = 1) -> Table:
    """Columns of numbers to the right, behind `left` columns of words."""
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", justify="left" if place < left or column in _WORDS else "right")
    return table


def _task_table(tasks: Sequence[TaskResult]) -> Table:
    table = _table("task", "metric", "shots", "items", "score", "95 % interval", "what part", left=2)
    for task in tasks:
        table.add_row(
            task.name, task.metric, str(task.shots), count(task.n), number(task.metric, task.value),
            span(task.metric, task.metrics[task.metric]), task.coverage or "all",
        )  # fmt: skip
        for metric, found in task.metrics.items():
            if metric != task.metric:
                low, value, high = (_other(metric, one) for one in (found.low, found.value, found.high))
                table.add_row("", metric, "", "", value, f"{low} – {high}", "", style="dim")
    return table


def _other(metric: str, value: float) -> str:
    if not metric.endswith("perplexity"):
        return number(metric, value)
    return f"{value:,.2f}" if value < 1e6 else f"{value:.3g}"


def _group_table(groups: Sequence[GroupResult]) -> Table:
    table = _table("suite", "score", "95 % interval", "members", "how")
    for group in groups:
        run = [member for member in group.members if member not in group.missing]
        total = len({*group.members, *group.missing})
        how = group.how
        if group.unclipped is not None:
            free = group.unclipped
            how += f"; without raising to chance {free.value:.1f} ({free.low:.1f} – {free.high:.1f})"
        table.add_row(
            group.name, f"{group.value:.1f}", f"{group.low:.1f} – {group.high:.1f}", f"{len(run)} of {total}", how
        )
    return table


def comparison_tables(
    before: EvaluationResult,
    after: EvaluationResult,
    groups_before: Mapping[str, Group],
    groups_after: Mapping[str, Group],
) -> None:
    """What the second model gained over the first and forgot of it, task by task, side by side, and as suites."""
    found = compare(before.tasks, after.tasks)
    say(f"[bold]{after.model}[/bold] against [bold]{before.model}[/bold]")
    table = _table("task", "side", "metric", "before", "after", "difference", "95 % interval", "p", "verdict", left=3)
    for change in [*found.domain.changes, *found.general.changes]:
        table.add_row(change.name, change.side, change.metric, *_changed(change))
    for name, group in groups_after.items():
        first = groups_before[name]
        moved = mean_difference(first.share, group.share, group.n)
        values = (f"{first.result.value:.1f}", f"{group.result.value:.1f}")
        table.add_row(f"[bold]{name}[/bold]", "", "suite", *values, *_difference(moved, points=True))
    say(table)
    say(found.verdict)


def _changed(change: Change) -> list[str]:
    points = change.higher_is_better
    verdict = {True: "better", False: "worse", None: "unclear"}[change.better]
    shown = [number(change.metric, value) for value in (change.before, change.after)]
    return [*shown, *_difference(change.difference, points=points)[:-1], verdict]


def _difference(moved: Difference, *, points: bool) -> list[str]:
    """Difference, interval, p, and a word; in points of 100 or in the metric's own unit."""
    scale, digits = (100, 1) if points else (1, 3)
    low, high = f"{moved.low * scale:+.{digits}f}", f"{moved.high * scale:+.{digits}f}"
    verdict = "unclear" if not moved.is_clear else "better" if moved.value > 0 else "worse"
    return [f"{moved.value * scale:+.{digits}f}", f"{low} to {high}", f"{moved.p:.3f}", verdict]


def list_suites(root: Path) -> None:
    """The suites and tasks that graft ships, and what of each is below `root`."""
    table = _table("name", "kind", "shots", "files here", "what", left=2)
    for path in shipped_files():
        file = load_file(path)
        if isinstance(file, SuiteFile):
            members = ", ".join(member.name for member in file.members)
            table.add_row(f"[bold]{file.name}[/bold]", "suite", "", "", file.title or members)
        else:
            table.add_row(file.name, file.request, str(file.fewshot.shots), _here(file, root), file.title)
    say(table)
    say(f"data are looked for below {root.resolve()} (--data or $GRAFT_EVAL_DATA)")


def _here(task: TaskFile, root: Path) -> str:
    """How many files of the rows, and of the examples."""
    tested = _files(task.data, root)
    if not task.fewshot.shots or task.fewshot.rows is not None or task.fewshot == FewShot(shots=task.fewshot.shots):
        return tested
    return f"{tested} + {_files(task.fewshot, root)}"


def _files(rows: Rows, root: Path) -> str:
    found = len(local_files(rows, root))
    return "–" if not found and rows.hub is None else "hub" if not found else count(found)
