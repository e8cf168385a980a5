"""Which tasks a list of suites asks for, and how their scores are to be pooled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from graftlm.core.errors import DataError
from graftlm.core.settings_file import nearest
from graftlm.evaluation.benchmarks.library import find_file, load_file
from graftlm.evaluation.benchmarks.suite_file import Member, Pool
from graftlm.evaluation.benchmarks.task_file import TaskFile


@dataclass(frozen=True)
class PlannedTask:
    """A task as it will be run.

    Attributes:
        name: in results: the file's own, with the shots where two suites ask for different numbers, and "part" where
            one of them asks for some sub-tasks only.
        subjects: only these sub-tasks; all when None.
    """

    name: str
    file: TaskFile
    shots: int
    subjects: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PlannedMember:
    """A task or suite in a suite, and the metrics of the task whose mean counts."""

    what: PlannedTask | PlannedSuite
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedSuite:
    name: str
    title: str
    pool: Pool
    members: tuple[PlannedMember, ...]
    absent: dict[str, str] = field(default_factory=dict)

    def tasks(self) -> Iterator[PlannedTask]:
        for member in self.members:
            if isinstance(member.what, PlannedTask):
                yield member.what
            else:
                yield from member.what.tasks()


@dataclass(frozen=True)
class Plan:
    """Tasks, each once, and the suites that pool them."""

    tasks: list[PlannedTask]
    suites: list[PlannedSuite]

    def all_suites(self) -> list[PlannedSuite]:
        """The suites asked for, each followed by those inside it; each name once."""
        found: dict[str, PlannedSuite] = {}
        for suite in self.suites:
            for one in _with_inner(suite):
                found.setdefault(one.name, one)
        return list(found.values())


def make_plan(names: Sequence[str], *, shots: int | None = None, trust: bool = False) -> Plan:
    """Resolve names or paths of tasks and suites.

    Args:
        shots: for every task, in place of the files' numbers.
        trust: whether Python that stands beside a task file may run.

    Raises:
        DataError: a name that does not exist, a file at fault, a suite that holds itself, or a metric that a member
            does not have.
    """
    roots = [_resolve(name, None, _Wish(shots, trust), ()) for name in names]
    wanted: dict[tuple[str, int, tuple[str, ...] | None], PlannedTask] = {}
    for root in roots:
        for task in [root] if isinstance(root, PlannedTask) else root.tasks():
            wanted.setdefault((task.file.name, task.shots, task.subjects), task)
    names_of = _result_names(list(wanted))
    tasks = [replace(task, name=names_of[key]) for key, task in wanted.items()]
    suites = [_renamed(root, names_of) for root in roots if isinstance(root, PlannedSuite)]
    return Plan(tasks, suites)


@dataclass(frozen=True)
class _Wish:
    """What holds for all files of a plan."""

    shots: int | None
    trust: bool


def _resolve(name: str, beside: Path | None, wish: _Wish, above: tuple[str, ...]) -> PlannedTask | PlannedSuite:
    path = find_file(name, beside)
    file = load_file(path, trust=wish.trust)
    if isinstance(file, TaskFile):
        return PlannedTask(file.name, file, file.fewshot.shots if wish.shots is None else wish.shots)
    if file.name in above:
        raise DataError(f"suite `{file.name}` holds itself", where=path, fix="take it out of its members")
    members = tuple(_member(member, path, wish, (*above, file.name)) for member in file.members)
    return PlannedSuite(file.name, file.title, file.pool, members, dict(file.absent))


def _member(member: Member, path: Path, wish: _Wish, above: tuple[str, ...]) -> PlannedMember:
    own = wish if wish.shots is not None else replace(wish, shots=member.shots)
    what = _resolve(member.name, path.parent, own, above)
    if isinstance(what, PlannedSuite):
        return PlannedMember(what)
    subjects = tuple(member.subjects) if member.subjects is not None else None
    known = [metric.shown for metric in what.file.metrics]
    asked = [member.metric] if isinstance(member.metric, str) else list(member.metric or known[:1])
    unknown = [metric for metric in asked if metric not in known]
    if unknown:
        reason = f"task `{member.name}` has no metric `{unknown[0]}`"
        raise DataError(reason, where=path, fix=nearest(unknown[0], known))
    return PlannedMember(replace(what, subjects=subjects), tuple(asked))


def _result_names(keys: list[tuple[str, int, tuple[str, ...] | None]]) -> dict[tuple[str, int, object], str]:
    """The task's own name; with the shots, or "part", where several runs of one task would share it."""
    names: dict[tuple[str, int, object], str] = {}
    for key in keys:
        name, shots, subjects = key
        alike = [other for other in keys if other[0] == name]
        shown = name if len({other[1] for other in alike}) == 1 else f"{name}_{shots}shot"
        shown += "_part" if subjects is not None and len(alike) > 1 else ""
        while shown in names.values():
            shown += "_2"
        names[key] = shown
    return names


def _renamed(suite: PlannedSuite, names: dict[tuple[str, int, object], str]) -> PlannedSuite:
    members = []
    for member in suite.members:
        what = member.what
        if isinstance(what, PlannedTask):
            what = replace(what, name=names[what.file.name, what.shots, what.subjects])
        else:
            what = _renamed(what, names)
        members.append(replace(member, what=what))
    return replace(suite, members=tuple(members))


def _with_inner(suite: PlannedSuite) -> Iterator[PlannedSuite]:
    yield suite
    for member in suite.members:
        if isinstance(member.what, PlannedSuite):
            yield from _with_inner(member.what)
