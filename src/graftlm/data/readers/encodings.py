"""Which encoding a file has, and its lines, decoded one by one.

A line that does not decode is handed on as an undecodable line instead of ending the file: one damaged row
must not cost the thousand good ones after it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

HEAD_BYTES = 1 << 20
_TWO_BYTES = re.compile(rb"[\x81-\xfe][\x40-\xfe]")

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with the UTF-16 one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its line break. `text` is None where the bytes are not valid in `encoding`."""

    number: int
    text: str | None
    encoding: str
    raw_bytes: bytes = b""


def detect_encoding(head: bytes) -> str | None:
    """UTF-8, UTF-16, UTF-32 or GB18030; None while `head` is pure ASCII, which all but UTF-16/32 share.

    Without a byte-order mark, each line that holds non-ASCII bytes votes. UTF-8 wins unless fewer than half
    of those lines are valid UTF-8 and more read as Chinese in GB18030 (hardly ever valid UTF-8). Text in a
    Western 8-bit code is neither: it counts as UTF-8 and its lines fail, so nothing is garbled unseen.
    """
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if wide := _wide_without_mark(head):
        return wide
    # The last line of the head may be cut inside a character: it votes only if it is the only one.
    lines = head.split(b"\n")
    voters = [line for line in (lines[:-1] or lines) if not line.isascii()] or [
        line for line in lines[-1:] if not line.isascii()
    ]
    if not voters:
        return None
    utf8 = sum(_decodes(line, "utf-8") for line in voters)
    gb18030 = sum(_reads_as_chinese(line) for line in voters)
    return "gb18030" if utf8 * 2 < len(voters) and gb18030 > utf8 else "utf-8"


def _wide_without_mark(head: bytes) -> str | None:
    """Text never holds NUL bytes, but UTF-16 does, in the high byte of each ASCII character or line break."""
    sample = head[: 1 << 16]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if even + odd == 0 or max(even, odd) < 8 * min(even, odd) + 1:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _reads_as_chinese(line: bytes) -> bool:
    """Valid GB18030 in which most characters have a high second byte.

    Western 8-bit text often decodes too ("é" and the letter after it as one character), but then the second
    bytes are ASCII.
    """
    if not _decodes(line, "gb18030"):
        return False
    seconds = [pair[1] for pair in _TWO_BYTES.findall(line)]
    return sum(second >= 0xA1 for second in seconds) * 2 >= len(seconds)


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def decoded_lines(stream: IO[bytes], encoding: str | None = None) -> Iterator[Line]:
    """The lines of `stream`, in constant memory; line breaks LF, CRLF and CR are all taken off.

    Args:
        stream: an open binary file, at its start.
        encoding: a Python codec name; None detects it from the first MiB.
    """
    head = stream.read(HEAD_BYTES)
    chosen = encoding or detect_encoding(head)
    if chosen is not None and codecs.lookup(chosen).name.startswith(("utf-16", "utf-32")):
        yield from _wide_lines(head, stream, chosen)
        return
    for number, raw in enumerate(_byte_lines(head.removeprefix(codecs.BOM_UTF8), stream), start=1):
        if chosen is None and not raw.isascii():
            # The first MiB was pure ASCII: the first line that is not decides.
            chosen = detect_encoding(raw)
        yield Line(number, _decode(raw, chosen or "utf-8"), chosen or "utf-8", raw)


def _decode(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def _byte_lines(head: bytes, stream: IO[bytes]) -> Iterator[bytes]:
    """Byte lines split at LF (never a trail byte in UTF-8 or GB18030), CR taken off the end.

    A lone CR breaks a line only in a file that has no LF in its head (old Macintosh files).
    """
    breaker = b"\r" if b"\r" in head and b"\n" not in head else b"\n"
    pending, block = b"", head
    while block:
        lines = (pending + block).split(breaker)
        pending = lines.pop()
        for line in lines:
            yield line.removesuffix(b"\r")
        block = stream.read(HEAD_BYTES)
    if pending:
        yield pending.removesuffix(b"\r")


def _wide_lines(head: bytes, stream: IO[bytes], encoding: str) -> Iterator[Line]:
    """Lines of UTF-16/32, where damage shows as U+FFFD after a lenient decoding."""
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    number, pending, block = 0, "", head
    while block:
        text = decoder.decode(block)
        if number == 0 and not pending:
            text = text.removeprefix("\ufeff")
        lines = (pending + text).split("\n")
        pending = lines.pop()
        for line in lines:
            number += 1
            yield _wide_line(number, line, encoding)
        block = stream.read(HEAD_BYTES)
    pending += decoder.decode(b"", final=True)
    if pending:
        yield _wide_line(number + 1, pending, encoding)


def _wide_line(number: int, text: str, encoding: str) -> Line:
    return Line(number, None if "\ufffd" in text else text.removesuffix("\r"), encoding)
