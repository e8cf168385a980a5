"""What the check found, and how it is printed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text as RichText

from graftlm.core.console import console, say


@dataclass(frozen=True)
class Finding:
    where: str
    text: str
    fix: str = ""


@dataclass
class CheckResult:
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    example: list[tuple[str, bool]] = field(default_factory=list)

    def error(self, where: str, text: str, fix: str = "") -> None:
        self.errors.append(Finding(where, text, fix))

    def warn(self, where: str, text: str, fix: str = "") -> None:
        self.warnings.append(Finding(where, text, fix))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def print_check(found: CheckResult, *, brief: bool = False) -> None:
    """Tables of blocks and stages, an example with its targets in colour, then warnings and errors."""
    if not brief:
        _print_table("data", found.blocks)
        _print_table("stages", found.stages)
        _print_example(found.example)
    for kind, colour, findings in (("warning", "yellow", found.warnings), ("error", "red", found.errors)):
        for finding in findings:
            line = RichText.assemble((f"{kind}: ", colour), f"{finding.where}: {finding.text}")
            say(line.append("\n  fix: ", "green").append(finding.fix) if finding.fix else line)
    verdict = "nothing is wrong" if not found.errors and not found.warnings else ""
    say(f"check: {verdict or f'{len(found.errors)} error(s), {len(found.warnings)} warning(s)'}")


def _print_example(example: list[tuple[str, bool]]) -> None:
    if example:
        say("example ([green]trained[/green], [dim]read only[/dim]):")
        console.print(RichText.assemble(*((text, "green" if trained else "dim") for text, trained in example)))


def _print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows.values() for column in row if column != "note"))
    table = Table(box=None, pad_edge=False, padding=(0, 1), title=title, title_justify="left")
    for column in ["", *columns]:
        table.add_column(column, justify="left" if column in ("", "epochs", "memory") else "right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(name, *(f"{row[c]:,}" if isinstance(row.get(c), int) else str(row.get(c, "")) for c in columns))
    say(table)
    for name, row in rows.items():
        if "note" in row:
            say(f"  {name}: {row['note']}")
