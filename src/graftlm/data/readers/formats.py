"""One reader a file format. Each takes an open binary stream and yields rows and faults."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

from graftlm.data.readers.encodings import Line, decoded_lines
from graftlm.data.readers.rows import Fault, Row, TextSplit
from graftlm.data.samples import Origin

NEWLINE = "\n"
_LETTERS = frozenset("ABCD")
_HENDRYCKS_HEADER = ["question", "A", "B", "C", "D", "answer"]


def read_text(
    stream: IO[bytes], name: str, encoding: str | None = None, split: TextSplit = "file"
) -> Iterator[Row | Fault]:
    """Documents as {"text": ...}. Line breaks become LF; blank lines that part documents are dropped."""
    if split not in ("file", "paragraph", "line"):
        raise ValueError(f"split is 'file', 'paragraph' or 'line', not {split!r}")
    lines: list[Line] = []
    for line in decoded_lines(stream, encoding):
        blank = line.text is not None and not line.text.strip()
        if split != "file" and blank:
            if lines:
                yield _document(lines, name)
            lines = []
            continue
        lines.append(line)
        if split == "line":
            yield _document(lines, name)
            lines = []
    if lines:
        yield _document(lines, name)


def _document(lines: list[Line], name: str) -> Row | Fault:
    for line in lines:
        if line.text is None:
            return Fault(Origin(name, line.number), _encoding_reason(line))
    text = "\n".join(line.text or "" for line in lines).replace("\r", "\n")
    return Row(Origin(name, lines[0].number), {"text": text})


def _encoding_reason(line: Line) -> str:
    return (
        f"wrong encoding: the line is not valid {line.encoding} (detected from the file); "
        "fix: save the file as UTF-8 or give its encoding"
    )


def read_jsonl(stream: IO[bytes], name: str, encoding: str | None = None) -> Iterator[Row | Fault]:
    """One JSON object a line, streamed; blank lines are not rows.

    A line that is a list of messages becomes {"messages": list}.
    """
    for line in decoded_lines(stream, encoding):
        origin = Origin(name, line.number)
        if line.text is None:
            yield Fault(origin, _encoding_reason(line))
            continue
        if not line.text.strip():
            continue
        try:
            value = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            yield Fault(origin, f"broken JSON: {_json_reason(error)}")
            continue
        yield _row(value, origin)


def _json_reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return str(error) or type(error).__name__


def _row(value: Any, origin: Origin, columns: Sequence[str] | None = None) -> Row | Fault:
    if isinstance(value, dict):
        return Row(origin, value)
    if isinstance(value, list) and columns is not None and len(value) == len(columns):
        return Row(origin, dict(zip(columns, value, strict=True)))
    if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value):
        return Row(origin, {"messages": value})
    return Fault(origin, f"not an object but {_json_kind(value)}")


def _json_kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return "a string"
    return "null" if value is None else f"{type(value).__name__} {value}"


def read_json(
    stream: IO[bytes], name: str, encoding: str | None = None, columns: Sequence[str] | None = None
) -> Iterator[Row | Fault]:
    """An array of objects, an object that holds one, a single object, or JSON lines under a .json name.

    With `columns`, an array of lists is read as well: they name what stands in each list.

    The array is decoded element by element, so the rows before a broken one are kept.
    """
    data = stream.read()
    lines = list(decoded_lines(io.BytesIO(data), encoding))
    bad = next((line for line in lines if line.text is None), None)
    if bad is not None:
        yield Fault(Origin(name, bad.number), _encoding_reason(bad) + "; the whole file is lost")
        return
    text = "\n".join(line.text or "" for line in lines)
    start = _skip_space(text, 0)
    if start == len(text):
        return
    if text[start] == "[":
        yield from _array(text, start, name, columns)
        return
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        if text[start] == "{" and _first_line_is_object(text[start:]):
            yield from read_jsonl(io.BytesIO(data), name, encoding)
        else:
            yield Fault(Origin(name, _line_of(text, error)), f"broken JSON: {_json_reason(error)}")
        return
    if _skip_space(text, end) < len(text):
        yield from read_jsonl(io.BytesIO(data), name, encoding)
        return
    yield from _object(value, name)


def _object(value: Any, name: str) -> Iterator[Row | Fault]:
    """The one array of objects inside an object is its rows; an object without one is a row itself."""
    if not isinstance(value, dict):
        yield _row(value, Origin(name, 1))
        return
    arrays = [
        member
        for member in value.values()
        if isinstance(member, list) and member and all(isinstance(row, dict) for row in member)
    ]
    # A single record may hold a list of objects too: its messages. Those are turns, not rows.
    turns = len(arrays) == 1 and all({"role", "from", "human"} & row.keys() for row in arrays[0])
    if len(arrays) != 1 or turns:
        yield Row(Origin(name, 1), value)
        return
    for number, row in enumerate(arrays[0], start=1):
        yield _row(row, Origin(name, number))


def _array(text: str, start: int, name: str, columns: Sequence[str] | None) -> Iterator[Row | Fault]:
    decoder = json.JSONDecoder()
    position, number = _skip_space(text, start + 1), 0
    if text[position : position + 1] == "]":
        return
    while True:
        number += 1
        origin = Origin(name, number)
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            place = f"broken JSON (line {_line_of(text, error)} of the file)"
            yield Fault(origin, f"{place}: {_json_reason(error)}; the rest of the array is lost")
            return
        yield _row(value, origin, columns)
        position = _skip_space(text, position)
        mark = text[position : position + 1]
        if mark == "]":
            return
        if mark != ",":
            place = f"broken JSON (line {text.count(NEWLINE, 0, position) + 1} of the file)"
            reason = f"{place}: ',' or ']' expected; the rest of the array is lost"
            yield Fault(Origin(name, number + 1), reason)
            return
        position = _skip_space(text, position + 1)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\n\r":
        position += 1
    return position


def _first_line_is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text.split("\n", 1)[0]), dict)
    except ValueError:
        return False


def _line_of(text: str, error: Exception) -> int:
    return text.count("\n", 0, error.pos) + 1 if isinstance(error, json.JSONDecodeError) else 1


def read_csv(
    stream: IO[bytes],
    name: str,
    encoding: str | None = None,
    delimiter: str = ",",
    columns: Sequence[str] | None = None,
) -> Iterator[Row | Fault]:
    """Rows named by the header, or by `columns` in a file without one.

    Quoted fields may hold line breaks; a row of another width is a Fault.

    The original MMLU files have no header: six columns that end in a letter A-D are given one.
    """
    csv.field_size_limit(1 << 31 - 1)  # the default of 128 KiB refuses long documents
    bad_lines: set[int] = set()
    reader = csv.reader(_csv_lines(stream, encoding, bad_lines), delimiter=delimiter, strict=True)
    header: list[str] | None = list(columns) if columns is not None else None
    number, last_line = 0, 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += header is not None
            place = f"broken csv (lines {last_line + 1}-{reader.line_num})"
            yield Fault(Origin(name, number), f"{place}: {error}")
            last_line = reader.line_num
            continue
        lines = range(last_line + 1, reader.line_num + 1)
        last_line = reader.line_num
        if not any(field.strip() for field in fields):
            continue  # a blank line is not a row
        if header is None:
            if not _is_headerless(fields):
                header = _unique(fields)
                continue
            header = _HENDRYCKS_HEADER
        number += 1
        origin = Origin(name, number)
        if not bad_lines.isdisjoint(lines):
            yield Fault(origin, "wrong encoding: the row is not valid in the encoding of the file")
        elif len(fields) != len(header):
            place = f"lines {lines.start}-{last_line}"
            yield Fault(origin, f"{len(fields)} fields where the header has {len(header)} ({place})")
        else:
            yield Row(origin, dict(zip(header, fields, strict=True)))


def _csv_lines(stream: IO[bytes], encoding: str | None, bad_lines: set[int]) -> Iterator[str]:
    for line in decoded_lines(stream, encoding):
        if line.text is None:
            bad_lines.add(line.number)
        # An undecodable line keeps its ASCII part, so that commas and quotes around the damage still count.
        text = line.raw_bytes.decode("ascii", errors="replace") if line.text is None else line.text
        yield text + "\n"


def _is_headerless(fields: list[str]) -> bool:
    return len(fields) == 6 and fields[5].strip() in _LETTERS and fields[0].strip().lower() != "question"


def _unique(header: list[str]) -> list[str]:
    """Column names, the second "x" renamed "x.2": a repeated name must not hide a column."""
    names: list[str] = []
    for field in header:
        field, base = field.strip(), field.strip()
        copies = 1
        while field in names:
            copies += 1
            field = f"{base}.{copies}"
        names.append(field)
    return names


def read_parquet(stream: IO[bytes], name: str) -> Iterator[Row | Fault]:
    """Rows of a parquet file, read in batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        table = pq.ParquetFile(stream if stream.seekable() else io.BytesIO(stream.read()))
        for batch in table.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(Origin(name, number), values)
    except (pa.ArrowInvalid, OSError) as error:
        yield Fault(Origin(name, number + 1), f"not a readable parquet file: {str(error).splitlines()[0]}")
