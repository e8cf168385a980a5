"""What a person sees while graft works: one console, one look for progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

# Output that goes to a file or a pipe has no width of its own: 120 columns hold every table. `:x:` is no emoji.
console = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
error_console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def progress_bar() -> Progress:
    """A bar with count, free text `note` (tokens/s, loss) and time left; silent without a terminal."""
    return Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Also append every line of the story to a file, without colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        _logs.append(Console(file=file, color_system=None, width=200, highlight=False, soft_wrap=True))
        try:
            yield
        finally:
            _logs.pop()


def silence() -> None:
    """Print nothing from here on: of several processes one tells the story."""
    console.quiet = error_console.quiet = True


_logs: list[Console] = []


def say(what: RenderableType = "") -> None:
    """Print one line, or a table, of the run's story."""
    for target in (console, *_logs):
        target.print(what)


def warn(text: str) -> None:
    for target in (error_console, *_logs):
        target.print(f"[yellow]warning:[/yellow] {text}")
