"""Numbers and text as people read them."""

from __future__ import annotations

from graftlm.core.receipts import Interval
from graftlm.evaluation.statistics import Difference, Estimate

LONGEST = 1200
"""Characters of a prompt or answer that the page shows."""


def number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "bits_per_byte" else f"{value:.1%}"


def rounded(value: float) -> str:
    """Whole percents, but never a 0 % or 100 % that is not one."""
    whole = f"{value:.0%}"
    return f"{value:.1%}" if whole in ("0%", "100%") and value not in (0, 1) else whole


def span(metric: str, found: Interval | Estimate | Difference) -> str:
    return f"{number(metric, found.low)} – {number(metric, found.high)}"


def decimal(value: float) -> str:
    """A number without a unit, as rewards are: two digits from 1 on, else three."""
    return f"{value:.{2 if abs(value) >= 1 else 3}f}".replace("-", "−")


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def decimal_span(found: Interval) -> str:
    return f"{decimal(found.low)} to {decimal(found.high)}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(text: str) -> str:
    """A long text's beginning, with a word on what is left out."""
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]} … ({left:,} more characters)"
