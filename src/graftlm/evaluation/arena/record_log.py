"""Files that grow by whole lines: one JSON record a line, and what a kill cut off is taken away again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from graftlm.core.console import warn
from graftlm.core.errors import DataError

Record = TypeVar("Record", bound=BaseModel)


class RecordLog(Generic[Record]):
    """Records of one kind in a jsonl file.

    Lines are only ever added, each in one write that reaches the disk before `append` returns. A line that a kill cut
    short is no record: reading leaves it out, and the next `append` removes it.

    Args:
        path: the file; it need not be there.
        kind: the class of the records.
    """

    def __init__(self, path: Path, kind: type[Record]) -> None:
        self.path, self._kind = path, kind
        self._mended = False

    def read(self) -> list[Record]:
        """All records, in the order of the file.

        Raises:
            DataError: a line in the file is no such record.
        """
        if not self.path.exists():
            return []
        return list(self._records(self.path.read_bytes()))

    def append(self, records: Sequence[Record]) -> None:
        """Add records at the end, as one block."""
        if not records:
            return
        if not self._mended:
            self._mend()
        lines = "".join(record.model_dump_json() + "\n" for record in records)
        with self.path.open("ab", buffering=0) as file:
            file.write(lines.encode())
            os.fsync(file.fileno())

    def _records(self, content: bytes) -> Iterator[Record]:
        *lines, tail = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield self._parsed(line, number)
        if tail.strip() and self._is_whole(tail):
            yield self._parsed(tail, len(lines) + 1)

    def _parsed(self, line: bytes, number: int) -> Record:
        try:
            return self._kind.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"])
            reason = f"no {self._kind.__name__.lower()}: {f'`{key}`: ' if key else ''}{fault['msg']}"
            raise DataError(reason, where=f"{self.path}:{number}", fix="mend or delete this line") from None

    def _is_whole(self, tail: bytes) -> bool:
        """Whether a last line without a line end is a record nevertheless: written by hand, not cut off."""
        try:
            self._kind.model_validate_json(tail)
        except ValidationError:
            return False
        return True

    def _mend(self) -> None:
        """Leave a file that ends with a line end."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = self.path.read_bytes() if self.path.exists() else b""
        tail = content.rpartition(b"\n")[2]
        if tail and self._is_whole(tail):
            with self.path.open("ab") as file:
                file.write(b"\n")
        elif tail:
            warn(f"{self.path}: removed a last line that was cut short ({len(tail)} bytes)")
            os.truncate(self.path, len(content) - len(tail))
        self._mended = True
