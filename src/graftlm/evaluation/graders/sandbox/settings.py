"""How a process of the sandbox is started, and what it is told.

What these processes import is kept small (no dataclasses, no pathlib: a third of the time that they take to start).
"""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple

from graftlm.evaluation.graders.sandbox.confine import Bounds, confine

_PACKAGES = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 4))
_START = (
    "import sys; sys.path.append({packages!r}); "
    "from graftlm.evaluation.graders.sandbox.{role} import main; sys.path.pop(); main()"
)


class Settings(NamedTuple):
    """
    Attributes:
        bounds: what the process may use.
        reads, writes: file descriptors of the channel to the other process; -1 for none.
        strict: end where a guard is missing.
        parent: the process that started this one.
    """

    bounds: Bounds
    reads: int = -1
    writes: int = -1
    strict: bool = True
    parent: int = 0


def command(role: str, settings: Settings) -> list[str]:
    """The command line of a process: Python without installed packages and without the user's settings."""
    start = _START.format(packages=_PACKAGES, role=role)
    return [sys.executable, "-s", "-S", "-P", "-c", start, json.dumps(settings)]


def begin() -> Settings:
    """The settings of this process, which from here on is confined.

    Raises:
        SystemExit: the process must be confined and cannot be.
    """
    bounds, *rest = json.loads(sys.argv.pop())
    settings = Settings(Bounds(*bounds), *rest)
    sys.set_int_max_str_digits(0)  # a large answer is not an error
    missing = confine(settings.bounds)
    if missing and settings.strict:
        sys.exit("; ".join(missing))
    if os.getppid() != settings.parent:
        sys.exit("the caller died before this process asked to die with it")
    return settings
