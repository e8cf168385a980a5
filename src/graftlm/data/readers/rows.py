"""What a reader yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from graftlm.data.samples import Origin

TextSplit = Literal["file", "paragraph", "line"]


class Row(NamedTuple):
    """One record as the file holds it, before any schema is applied."""

    origin: Origin
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """One row (or file) that was not kept, and why. Printed as `file:line: reason`."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"
