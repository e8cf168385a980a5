"""From the files that a task names to the items that are asked, and to the solved examples before them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from graftlm.core.errors import DataError
from graftlm.core.hashing import hash_value
from graftlm.data.readers import Fault, Row, read_rows
from graftlm.data.readers.hub import read_hub
from graftlm.evaluation.benchmarks.task_file import FewShot, HubData, Rows, TaskFile
from graftlm.evaluation.benchmarks.templates import evaluate, render


@dataclass(frozen=True)
class Item:
    """A row that is asked, or shown solved.

    Attributes:
        row: its fields as the file has them.
        fields: what templates see: the same, and `row` (for names that are not words), `file`, `folder`, `subject`.
        subject: its sub-task; "" where the task has none.
        where: file:line, for complaints.
    """

    row: Mapping[str, Any]
    fields: Mapping[str, Any]
    subject: str
    where: str


@dataclass(frozen=True)
class Asked:
    """The items of a task, and the examples to choose from by sub-task ("" where they have none).

    Attributes:
        total, subjects: items and sub-tasks that were there before `limit`.
    """

    items: list[Item]
    pool: Mapping[str, Sequence[Item]]
    total: int
    subjects: int


class NoData(DataError):
    """The files of a task are not there."""


@dataclass(frozen=True)
class Source:
    """Where data may come from.

    Attributes:
        root: the folder that relative files start at.
        hub: whether sets that are not there are read from the Hugging Face hub.
    """

    root: Path
    hub: bool = False


def read_task(
    task: TaskFile, source: Source, *, shots: int, limit: int | None = None, subjects: Sequence[str] | None = None
) -> Asked:
    """Items and examples of a task.

    Args:
        limit: the first items of each sub-task, so many at most.
        subjects: only these sub-tasks.

    Raises:
        NoData: the data, or the examples, are not there, or none of the rows is to be asked.
        DataError: a row that cannot be read, or a template that does not fit.
    """
    every = read_items(task.data, source, task.name)
    if subjects is not None:
        every = _of_subjects(every, subjects, task.name)
    if not every:
        raise NoData("no row of the files fits `where`", where=task.name, fix="get the whole test")
    pool = _pool(task, every, source) if shots else []
    return Asked(_limited(every, limit), _by_subject(pool), len(every), len({item.subject for item in every}))


def read_items(rows: Rows, source: Source, task: str) -> list[Item]:
    """All rows, unfolded and filtered.

    Raises:
        NoData: no file is there, and nothing from the hub.
        DataError: a row that cannot be read, or a template that does not fit.
    """
    try:
        found = list(_read(rows, source, task))
    except DataError as fault:
        if isinstance(fault, NoData) or local_files(rows, source.root):
            raise
        raise NoData(f"no local file, and from the hub: {fault.reason}", where=task, fix=fault.fix) from None
    if found and rows.transform is not None:
        path, first = found[0]
        changed = enumerate(rows.transform([row.values for _, row in found]), start=1)
        found = [(path, Row(replace(first.origin, line=number), values)) for number, values in changed]
    return [item for path, row in found for item in _items(rows, path, row)]


def local_files(rows: Rows, root: Path) -> list[Path]:
    """The files that the patterns find, in order."""
    found: list[Path] = []
    for pattern in rows.patterns:
        path = root / Path(pattern).expanduser()
        if not any(mark in pattern for mark in "*?["):
            found += [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
            continue
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        found += sorted(match for match in anchor.glob(str(path.relative_to(path.anchor))) if match.is_file())
    return found


def _read(rows: Rows, source: Source, task: str) -> Iterator[tuple[Path, Row]]:
    files = local_files(rows, source.root)
    if not files and (rows.hub is None or not source.hub):
        missing = f"no file {' or '.join(rows.patterns)} below {source.root}" if rows.patterns else "no local file"
        online = f"; --hub reads {rows.hub.name} from the Hugging Face hub" if rows.hub is not None else ""
        fix = "give the folder of the data with --data or $GRAFT_EVAL_DATA"
        raise NoData(missing + online, where=task, fix=fix)
    columns = None if rows.header else rows.columns
    found: Iterable[tuple[Path, Row | Fault]] = (
        (file, row) for file in files for row in read_rows(file, encoding=rows.encoding, columns=columns)
    )
    if not files and rows.hub is not None:
        found = _hub_rows(rows.hub)
    for path, row in found:
        if isinstance(row, Fault):
            raise DataError(row.reason, where=str(row.origin), fix="mend the row, or leave it out")
        yield path, row


def _hub_rows(hub: HubData) -> Iterator[tuple[Path, Row | Fault]]:
    """Rows of every configuration and split; of several, the name is what the name of a file is elsewhere."""
    for config in hub.configs:
        for split in hub.splits:
            named = config if len(hub.configs) > 1 else split if len(hub.splits) > 1 else hub.name
            yield from ((Path(f"{hub.name}/{named}"), row) for row in read_hub(f"{hub.name}:{split}", config))


def _items(rows: Rows, path: Path, found: Row) -> Iterator[Item]:
    where = str(found.origin)
    nested = [] if where.startswith("hub:") else rows.unfold  # sets on the hub are flat
    for row in _unfolded(_renamed(rows, found), nested, where):
        item = _item(rows, row, path, where)
        if rows.where is None or _true(evaluate(rows.where, item.fields, where)):
            yield item


def _renamed(rows: Rows, found: Row) -> dict[str, Any]:
    if not rows.header or rows.columns is None:
        return found.values
    if len(rows.columns) != len(found.values):
        reason = f"{len(found.values)} columns, the task file names {len(rows.columns)}"
        raise DataError(reason, where=str(found.origin), fix="mend `columns`")
    return dict(zip(rows.columns, found.values.values(), strict=True))


def _unfolded(row: dict[str, Any], names: Sequence[str], where: str) -> Iterable[dict[str, Any]]:
    if not names:
        return [row]
    inner = row.get(names[0])
    if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
        raise DataError(f"`{names[0]}` is not a list of objects", where=where, fix="mend `unfold`")
    outer = {key: value for key, value in row.items() if key != names[0]}
    return [done for one in inner for done in _unfolded(outer | one, names[1:], where)]


def _item(rows: Rows, row: dict[str, Any], path: Path, where: str) -> Item:
    fields: dict[str, Any] = {**row, "row": row, "file": path.name.split(".")[0], "folder": path.parent.name}
    subject = "" if rows.subject is None else render(rows.subject, fields, where)
    return Item(row, fields if rows.subject is None else fields | {"subject": subject}, subject, where)


def _true(value: Any) -> bool:
    """The truth of an expression; of text, whether it says so."""
    return value.strip().lower() not in ("", "false", "0", "none") if isinstance(value, str) else bool(value)


def _of_subjects(items: list[Item], subjects: Sequence[str], task: str) -> list[Item]:
    """The items of those sub-tasks that are there; how many are not, the coverage says."""
    found = [item for item in items if item.subject in set(subjects)]
    if not found:
        known = sorted({item.subject for item in items})
        raise NoData(f"none of these sub-tasks: {', '.join(subjects)}", where=task, fix=f"there are: {known[:8]}")
    return found


def _limited(items: list[Item], limit: int | None) -> list[Item]:
    if limit is None:
        return items
    return [item for group in _by_subject(items).values() for item in group[:limit]]


def _by_subject(items: Iterable[Item]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.subject, []).append(item)
    return groups


def _pool(task: TaskFile, own: list[Item], source: Source) -> list[Item]:
    shown = task.fewshot
    if shown.rows is not None:
        return [_item(shown, row, Path("fewshot"), f"fewshot.rows[{n}]") for n, row in enumerate(shown.rows)]
    return read_items(shown, source, f"{task.name}, examples") if shown.patterns or shown.hub else own


def examples_for(item: Item, asked: Asked, shown: FewShot, *, shots: int, seed: int) -> list[Item]:
    """The solved examples before an item: of its own sub-task where they have one, never the item itself.

    Raises:
        DataError: there are fewer than asked for, or only so many at a time as `in_a_row` says.
    """
    if not shots:
        return []
    rows, rest = divmod(shots, shown.in_a_row)
    if rest:
        fix = f"ask for a multiple of {shown.in_a_row}"
        raise DataError(f"{shots} examples are asked for, one row has {shown.in_a_row}", where=item.where, fix=fix)
    pool = asked.pool.get("") or asked.pool.get(item.subject) or []
    if shown.order == "first":
        found = list(islice((one for one in pool if one.row != item.row), rows))
    else:
        draw = random.Random(hash_value([seed, item.where]))
        drawn = draw.sample(range(len(pool)), min(rows + 1, len(pool)))
        found = [pool[place] for place in drawn if pool[place].row != item.row][:rows]
    if len(found) < rows:
        of = f" of {item.subject}" if item.subject else ""
        reason = f"{shots} examples are asked for, {len(found) * shown.in_a_row} are there{of}"
        raise DataError(reason, where=item.where, fix="ask for fewer with --shots")
    return found
