"""Files that are either whole or absent: write beside, flush to disk, then rename."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graftlm.core.errors import GraftError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends well; a kill leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, replacing what stood there.

    Args:
        keep: leave a folder alone that stands there by then: for folders named by their content, which another process
            may have made at the same time and already uses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_dead(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        if keep and path.exists():
            return
        remove_folder(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder, if it is there; a kill at any moment leaves it whole or absent, never half deleted."""
    if not path.exists():
        return
    doomed = path.with_name(f".{path.name}.{os.getpid()}.old.part")
    path.replace(doomed)
    shutil.rmtree(doomed)


def _clear_dead(path: Path) -> None:
    """Delete what killed runs left beside `path`; what a living process is writing there stays."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        owner = int(stale.name.removeprefix(f".{path.name}.").split(".")[0])
        if owner == os.getpid() or not _alive(owner):
            shutil.rmtree(stale, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raise GraftError, naming file and line, when the file is absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GraftError("the file does not exist", where=path, fix="check the path") from None
    except json.JSONDecodeError as error:
        raise GraftError(
            f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}", fix="mend the file"
        ) from None


def cache_folder() -> Path:
    """Where tokenised data and measurements are kept between runs: $GRAFT_CACHE, else ~/.cache/graft."""
    return Path(os.environ.get("GRAFT_CACHE") or Path.home() / ".cache" / "graft")
