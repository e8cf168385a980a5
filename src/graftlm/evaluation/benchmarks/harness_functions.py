"""Python that stands beside a task file of lm-evaluation-harness: run only when the user trusts it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftlm.core.errors import DataError

Row = dict[str, Any]
Transform = Callable[[list[Row]], list[Row]]


@dataclass(frozen=True)
class Function:
    """`!function module.name`: not yet loaded."""

    name: str


class Trusted:
    """The functions of one task file.

    Args:
        path: the task file; modules stand beside it.
        trust: whether they may be loaded at all.
    """

    def __init__(self, path: Path, trust: bool) -> None:
        self._path, self._trust = path, trust
        self._fields: dict[str, Callable[[Row], Any]] = {}

    def field(self, function: Function, key: str) -> str:
        """A template for what the function makes of a row: a field that `transform` adds to every row."""
        self._fields[f"_{key}"] = self._load(function)
        return f"{{{{ _{key} }}}}"

    def transform(self, process_docs: Any) -> Transform | None:
        """What is done to all rows first; None where the file has no function.

        Raises:
            DataError: a function without trust, or one that is not there.
        """
        whole = self._load(process_docs) if isinstance(process_docs, Function) else None
        fields = dict(self._fields)
        if whole is None and not fields:
            return None

        def change(rows: list[Row]) -> list[Row]:
            changed = rows if whole is None else list(whole(_dataset(rows)))
            return [{**row, **{key: make(row) for key, make in fields.items()}} for row in changed]

        return change

    def _load(self, function: Function) -> Callable[..., Any]:
        if not self._trust:
            reason = f"it runs Python that stands beside it: {function.name}"
            raise DataError(reason, where=self._path, fix="read that file, and add --trust if you trust it")
        module_name, _, name = function.name.rpartition(".")
        file = self._path.parent / f"{module_name}.py"
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None or not file.is_file():
            raise DataError(f"there is no {file.name}", where=self._path, fix="put it beside the task file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = getattr(module, name, None)
        if not callable(found):
            raise DataError(f"{file.name} has no function `{name}`", where=self._path, fix="check the name")
        made: Callable[..., Any] = found
        return made


def _dataset(rows: list[Row]) -> Any:
    """Rows as the functions expect them.

    Raises:
        DataError: the `datasets` library is missing.
    """
    if importlib.util.find_spec("datasets") is None:
        raise DataError("process_docs needs the 'datasets' library", fix="pip install 'graftlm[hub]'")
    import datasets

    return datasets.Dataset.from_list(rows)
