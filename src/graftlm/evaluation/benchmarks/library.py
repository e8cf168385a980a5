"""Task and suite files by name or path: those that graft ships, those of the user, and lm-evaluation-harness'."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graftlm.core.errors import DataError
from graftlm.core.settings_file import checked, parse_yaml, yaml_text
from graftlm.evaluation.benchmarks.harness_file import MARKS, read_harness_task
from graftlm.evaluation.benchmarks.harness_group import is_group, read_harness_group
from graftlm.evaluation.benchmarks.harness_yaml import read_harness_yaml
from graftlm.evaluation.benchmarks.suite_file import SuiteFile
from graftlm.evaluation.benchmarks.task_file import TaskFile

SHIPPED = Path(__file__).parent.parent / "suites"
_MANUAL = "docs/benchmarks.md"
_HARNESS = re.compile(rf"^(?:{'|'.join(MARKS)})\s*:", re.MULTILINE)


def load_file(path: Path, *, trust: bool = False) -> TaskFile | SuiteFile:
    """A task file, or a suite file (the one with `members`), of graft's own form or of lm-evaluation-harness'.

    Args:
        trust: whether Python that stands beside a file of the harness may run.

    Raises:
        DataError: the file is absent, not YAML, or does not fit the schema; it names key and line.
    """
    if not path.is_file():
        raise DataError("there is no such task or suite file", where=path, fix="check the path")
    text = yaml_text(path, DataError)
    if _HARNESS.search(text):
        return read_harness_group(path) if is_group(read_harness_yaml(path)) else read_harness_task(path, trust=trust)
    tree = parse_yaml(text, path, DataError)
    if not isinstance(tree, dict):
        raise DataError("a task file is a mapping of keys", where=path, fix=f"see {_MANUAL}")
    schema: type[TaskFile] | type[SuiteFile] = SuiteFile if "members" in tree else TaskFile
    found = checked(schema, tree, path, text, DataError, manual=_MANUAL)
    if found.name != path.stem:
        raise DataError(f"the file says `name: {found.name}`", where=path, fix="file and name must agree")
    return found


def shipped_files() -> Iterator[Path]:
    """All task and suite files that come with graft."""
    yield from sorted(SHIPPED.rglob("*.yaml"))


def find_file(name: str, beside: Path | None = None) -> Path:
    """The file of a task or suite that is named, or given as a path.

    Args:
        beside: a folder that is looked through first: that of the suite that names it.

    Raises:
        DataError: there is none; it names the nearest.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        return path if path.is_absolute() or beside is None or path.is_file() else beside / path
    own = sorted(beside.rglob(f"{name}.yaml")) if beside is not None else []
    files = {path.stem: path for path in shipped_files()}
    if own:
        return own[0]
    if name in files:
        return files[name]
    near = difflib.get_close_matches(name, list(files), n=1)
    fix = f"did you mean `{near[0]}`?" if near else "`graft eval --list` names them; or give the path of a .yaml file"
    raise DataError(f"there is no task or suite `{name}`", fix=fix)


def as_tree(file: TaskFile) -> dict[str, Any]:
    """What the file says that changes a score, defaults left out: hashed into results."""
    return file.model_dump(mode="json", exclude_defaults=True, exclude={"title", "source"})
