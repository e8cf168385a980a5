"""A table of how far every family's logits are from an independent implementation's, printed after the tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

BOUND = 1e-4
"""Largest difference of a logit in fp32 where logits are of size 5: rounding gives 1e-6 to 1e-5."""


@dataclass
class ParityTable:
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def __call__(self, family: str, against: str, error: float, scale: float, *, bound: float = BOUND) -> None:
        """Note and check a family's largest difference.

        Args:
            against: what it is compared with.
            scale: the largest logit; below 1 a difference could hide.
        """
        self.rows.append((family, against, f"{error:.1e}", f"{scale:.1f}"))
        assert scale > 1, f"{family}: logits of at most {scale:.2g} prove nothing"
        assert error <= bound, f"{family} is {error:.1e} away from {against}"

    def differs(self, family: str, change: str, error: float, *, at_least: float = 10 * BOUND) -> None:
        """Note and check that a change to the model shows: a comparison that misses it proves nothing."""
        self.rows.append((family, f"must differ: {change}", f"{error:.1e}", ""))
        assert error >= at_least, f"{family} with {change} differs by {error:.1e} only"


TABLE = pytest.StashKey[ParityTable]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = ParityTable()


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> ParityTable:
    table: ParityTable = request.config.stash[TABLE]
    return table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[TABLE].rows
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    terminalreporter.section("largest difference of a logit, and the largest logit")
    for row in sorted(rows):
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
