"""Values between the judge and the program, as JSON: plain data as copies, everything else as a handle.

Pickle would not do: a pickle can set attributes of classes, and so make everything equal to everything.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

_LARGEST = 2**24  # bytes of a message
_LENGTH = struct.Struct("<I")


class Channel:
    """Messages over two file descriptors."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes

    def send(self, message: list[Any]) -> None:
        """
        Raises:
            ValueError: the message is larger than 16 MiB, or it is not JSON.
            OSError: nobody listens.
        """
        text = json.dumps(message, separators=(",", ":")).encode()
        if len(text) > _LARGEST:
            raise ValueError(f"a value of {len(text)} bytes is too large")
        data = memoryview(_LENGTH.pack(len(text)) + text)
        while data:
            data = data[os.write(self._writes, data) :]

    def receive(self) -> Any:
        """
        Raises:
            EOFError: the other side is gone.
            ValueError: not a message.
        """
        [length] = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > _LARGEST:
            raise ValueError(f"a message of {length} bytes is too large")
        return json.loads(self._read(length))

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            part = os.read(self._reads, count)
            if not part:
                raise EOFError("the program ended early")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)



_SEQUENCES: dict[type, Callable[[Iterable[Any]], Any]] = {
    kind: kind for kind in (list, tuple, set, frozenset, deque)
}
_MAPPINGS: dict[type, Callable[[Iterable[Any]], Any]] = {kind: kind for kind in (dict, OrderedDict)}
_MAPPINGS[Counter] = lambda pairs: Counter(dict(pairs))
_SCALARS: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    complex: (lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    bytes: (bytes.hex, bytes.fromhex),
    bytearray: (bytearray.hex, bytearray.fromhex),
    range: (lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    Fraction: (str, Fraction),
    Decimal: (str, Decimal),
    date: (date.isoformat, date.fromisoformat),
    datetime: (datetime.isoformat, datetime.fromisoformat),
    time: (time.isoformat, time.fromisoformat),
    timedelta: (
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
}
_BY_NAME = {kind.__name__: kind for kind in (*_SEQUENCES, *_MAPPINGS, *_SCALARS)}
_JSON = (type(None), bool, int, float, str)
_BASES = (int, float, str, tuple, list, dict, set, frozenset)


def encode(value: Any, handle: Callable[[Any], int]) -> Any:
    """A value as JSON. An object of a subclass of a plain type goes as the plain one; `handle` numbers any other."""
    kind = type(value)
    if kind in _JSON:
        return value
    if kind in _SEQUENCES:
        return [kind.__name__, [encode(part, handle) for part in value]]
    if kind in _MAPPINGS:
        return [kind.__name__, [[encode(key, handle), encode(part, handle)] for key, part in value.items()]]
    if kind in _SCALARS:
        return [kind.__name__, _SCALARS[kind][0](value)]
    if kind is type and value in vars(builtins).values():
        return ["type", str(value.__name__)]
    for base in _BASES:
        if issubclass(kind, base):
            return encode(base(value), handle)
    return ["handle", handle(value)]


def decode(tree: Any, handle: Callable[[int], Any]) -> Any:
    """The value that `encode` has written, of exactly the plain types.

    Raises:
        ValueError, TypeError, KeyError: nothing that `encode` writes.
    """
    if not isinstance(tree, list):
        if isinstance(tree, dict):
            raise ValueError("not an encoded value")
        return tree
    name, content = tree
    if name == "handle":
        return handle(int(content))
    if name == "type":
        return _builtin_type(content)
    kind = _BY_NAME[name]
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decode(part, handle) for part in content)
    if kind in _MAPPINGS:
        return _MAPPINGS[kind](_pairs(content, handle))
    return _SCALARS[kind][1](content)


def _builtin_type(name: str) -> type:
    found = getattr(builtins, name)
    if not isinstance(found, type):
        raise ValueError(f"{name} is not a type")
    return found


def _pairs(content: Any, handle: Callable[[int], Any]) -> Iterator[tuple[Any, Any]]:
    for key, part in content:
        yield decode(key, handle), decode(part, handle)
