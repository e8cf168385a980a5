"""Groups of lm-evaluation-harness: a file that names tasks, found by what the files beside it say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from graftlm.core.errors import DataError
from graftlm.evaluation.benchmarks.harness_yaml import read_harness_yaml
from graftlm.evaluation.benchmarks.suite_file import Member, Pool, SuiteFile


def is_group(tree: Mapping[str, Any]) -> bool:
    """Whether a file of the harness names tasks instead of being one."""
    return isinstance(tree.get("task"), list)


def read_harness_group(path: Path) -> SuiteFile:
    """A group file: its tasks, groups and tags are looked for below its folder.

    Raises:
        DataError: a member that is not there, or settings of a member that are not supported.
    """
    tree = read_harness_yaml(path)
    how = [one for one in tree.get("aggregate_metric_list") or [] if isinstance(one, dict)]
    metric = how[0].get("metric") if how else None
    names = _names(str(path.parent))
    members = [member for entry in tree["task"] for member in _members(entry, names, metric, path)]
    pool: Pool = "items" if not how or how[0].get("weight_by_size", True) else "mean"
    title = str(tree.get("group_alias") or "")
    return SuiteFile(name=str(tree.get("group", path.stem)), title=title, members=members, pool=pool)


def _members(entry: Any, names: Mapping[str, list[tuple[str, bool]]], metric: Any, path: Path) -> list[Member]:
    settings = dict(entry) if isinstance(entry, dict) else {"task": entry}
    name, shots = settings.pop("task", None), settings.pop("num_fewshot", None)
    if settings:
        reason = f"`{next(iter(settings))}` of a member is not supported"
        raise DataError(reason, where=path, fix="give the member a file of its own")
    if name not in names:
        raise DataError(f"no task, group or tag `{name}` below {path.parent}", where=path, fix="check the name")
    return [
        Member(suite=file) if group else Member(task=file, shots=shots, metric=metric) for file, group in names[name]
    ]


@lru_cache(maxsize=8)
def _names(folder: str) -> Mapping[str, list[tuple[str, bool]]]:
    """name → (file, whether it is a group) of what the files below a folder call themselves, tags among it."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for file in sorted(Path(folder).rglob("*.yaml")):
        try:
            tree = read_harness_yaml(file)
        except DataError:
            continue  # a file that only others include, or one of another tool
        if is_group(tree):
            found.setdefault(str(tree.get("group")), []).append((str(file), True))
        elif isinstance(tree.get("task"), str):
            tags = tree.get("tag") or []
            for name in [tree["task"], *([tags] if isinstance(tags, str) else tags)]:
                found.setdefault(str(name), []).append((str(file), False))
    return found
