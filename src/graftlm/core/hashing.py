"""Content hashes: what a stage is keyed by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePath
from typing import Any


def hash_value(value: Any) -> str:
    """16 hex digits of the SHA-256 of a JSON-able value (paths too), the same for equal values in any key
    order.

    Raises:
        TypeError: a value whose text could differ between two runs (a set, an object that prints its
            address).
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_path_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path_text(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be hashed stably")


def hash_file(path: Path) -> str:
    """16 hex digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def hash_folder(path: Path) -> str:
    """Hash of every file below `path`: names and bytes."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return hash_value({str(file.relative_to(path)): hash_file(file) for file in files})
