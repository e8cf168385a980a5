"""How a process of the sandbox is started, and what it is told. Nothing here is particular to Linux."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

READY = "ready\n"
"""What the judge says before its verdict: both processes are confined, and the program has not begun."""

_PACKAGES = str(Path(__file__).parents[4])
_START = (
    "import sys; sys.path.append({packages!r}); "
    "from graftlm.evaluation.graders.sandbox.{role} import main; sys.path.pop(); main()"
)


class Bounds(NamedTuple):  # a dataclass would cost a fifth of the time that a process takes to start
    """What a process may use: seconds of processor time, bytes of memory and of one file; its folder, if it has one."""

    seconds: int
    memory: int
    file: int
    folder: str | None


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


def told() -> Settings:
    """The settings that this process was started with; its arguments no longer show them."""
    bounds, *rest = json.loads(sys.argv.pop())
    return Settings(Bounds(*bounds), *rest)
