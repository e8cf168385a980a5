"""From a path, a folder, a glob or a hub name to rows."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from graftlm.core.errors import DataError
from graftlm.data.readers.formats import read_csv, read_json, read_jsonl, read_parquet, read_text
from graftlm.data.readers.hub import is_saved_dataset, read_hub
from graftlm.data.readers.rows import Fault, Row, TextSplit
from graftlm.data.samples import Origin

_TEXT_SUFFIXES = (".txt", ".md")
_STREAM_READERS: dict[str, Callable[[IO[bytes], str, str | None], Iterator[Row | Fault]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
}
SUFFIXES = (*_TEXT_SUFFIXES, *_STREAM_READERS, ".json", ".csv", ".tsv", ".parquet")
_KINDS = ", ".join(SUFFIXES)


def read_rows(
    path: str | Path,
    *,
    split: TextSplit = "file",
    encoding: str | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[Row | Fault]:
    """Every row under `path`, in a fixed order; nothing is skipped without a Fault.

    Args:
        path: a file, a folder (read recursively, sorted; hidden files are not looked at), a glob, a folder
            saved by the `datasets` library, or `hub:owner/name[:split]`. Types: .txt .md .jsonl .ndjson .json
            .csv .tsv .parquet, each also with .gz.
        split: what one document of a .txt or .md file is: the whole file, a paragraph (parted by blank lines)
            or a line.
        encoding: a codec name; None detects UTF-8, UTF-16/32 and GB18030 for each file.
        columns: names of the columns of .csv and .tsv files that have no header row, and of the lists in a .json file.

    Yields:
        `Row` for what could be read and `Fault` for what could not. Line numbers count lines in text and
        jsonl files, rows in the other ones (a csv header is not a row); 0 stands for the file as a whole.

    Raises:
        DataError: the path does not exist, matches nothing, or cannot be opened; `datasets` is needed but
            missing.
    """
    name = str(path)
    if name.startswith("hub:"):
        yield from read_hub(name.removeprefix("hub:"))
        return
    for file in _files(Path(path)):
        if file.is_dir():
            yield from read_hub(str(file))
        else:
            yield from _read_file(file, split, encoding, columns)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = _files_below(path)
        if not found:
            raise DataError("the folder holds no file", where=path, fix=f"put files there ({_KINDS})")
        return found
    if any(mark in str(path) for mark in "*?["):
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        found = sorted(anchor.glob(str(path.relative_to(path.anchor))))
        if not found:
            raise DataError("the pattern matches nothing", where=path, fix="check folder and spelling")
        return [file for match in found for file in _files(match)]
    raise DataError("there is no such file or folder", where=path, fix=_nearby(path))


def _files_below(folder: Path) -> list[Path]:
    if is_saved_dataset(folder):
        return [folder]  # the reader of saved data sets takes it whole
    found: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        found += _files_below(entry) if entry.is_dir() else [entry]
    return found


def _nearby(path: Path) -> str:
    parent = next(folder for folder in [*path.parents, Path()] if folder.is_dir())
    names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))[:8]
    return f"{parent}/ holds: {', '.join(names) or 'nothing'}"


def _read_file(
    file: Path, split: TextSplit, encoding: str | None, columns: Sequence[str] | None
) -> Iterator[Row | Fault]:
    zipped = file.suffix.lower() == ".gz"
    suffix = Path(file.stem).suffix.lower() if zipped else file.suffix.lower()
    whole = Origin(str(file), 0)
    if suffix not in SUFFIXES:
        kind = file.suffix or file.name
        yield Fault(whole, f"not read: no reader for '{kind}' files (known: {_KINDS}, also .gz)")
        return
    rows = 0
    try:
        # gzip's type is not IO[bytes] to a type checker, though it reads like one.
        with cast("IO[bytes]", gzip.open(file, "rb")) if zipped else file.open("rb") as stream:
            for row in _rows(stream, suffix, str(file), split, encoding, columns):
                rows += 1
                yield row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield Fault(whole, f"the compressed file is damaged ({error}); rows after the first {rows} are lost")
        return
    except OSError as error:
        reason = f"cannot be opened: {error.strerror or error}"
        raise DataError(reason, where=file, fix="check the permissions and the disk") from error
    if rows == 0:
        yield Fault(whole, "the file is empty")


def _rows(
    stream: IO[bytes],
    suffix: str,
    name: str,
    split: TextSplit,
    encoding: str | None,
    columns: Sequence[str] | None,
) -> Iterator[Row | Fault]:
    if suffix in _TEXT_SUFFIXES:
        return read_text(stream, name, encoding, split)
    if suffix == ".parquet":
        return read_parquet(stream, name)
    if suffix == ".json":
        return read_json(stream, name, encoding, columns)
    if suffix in (".csv", ".tsv"):
        return read_csv(stream, name, encoding, "," if suffix == ".csv" else "\t", columns)
    return _STREAM_READERS[suffix](stream, name, encoding)
