"""The YAML of lm-evaluation-harness: files that include others, and names of Python functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from graftlm.core.errors import DataError
from graftlm.core.settings_file import yaml_text
from graftlm.evaluation.benchmarks.harness_functions import Function


class _Loader(yaml.SafeLoader):
    """Plain YAML and `!function module.name`."""


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Function:
    return Function(str(loader.construct_scalar(node)))


_Loader.add_constructor("!function", _function)


def read_harness_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says, on top of what the files that it includes say.

    Raises:
        DataError: no such file, not YAML, or a file that includes itself.
    """
    if not path.is_file():
        raise DataError("there is no such task file", where=path, fix="check the path")
    if path in above:
        raise DataError("the file includes itself", where=path, fix="mend `include`")
    text = yaml_text(path, DataError)
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise DataError(f"not valid YAML: {getattr(fault, 'problem', fault)}", where=where, fix="mend it") from None
    if not isinstance(tree, dict):
        raise DataError("a task file is a mapping of keys", where=path, fix="mend the file")
    included = tree.pop("include", None) or []
    base: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        base |= read_harness_yaml((path.parent / name).resolve(), (*above, path.resolve()))
    return base | tree
