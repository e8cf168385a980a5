"""The process that a model's program lives in: runs it, then does what the judge asks of its objects.

It has neither the test nor a say in the verdict. Whatever the program does to this process, the judge gets values.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import Any

from graftlm.evaluation.graders.sandbox.confine import begin
from graftlm.evaluation.graders.sandbox.wire import Channel, decode, encode

_SHOWN = 300  # characters of an error
_MODULE = "program"


class _Objects:
    """Objects that the judge holds handles of."""

    def __init__(self) -> None:
        self._held: list[Any] = []
        self._places: dict[int, int] = {}

    def number(self, value: Any) -> int:
        if id(value) not in self._places:
            self._places[id(value)] = len(self._held)
            self._held.append(value)
        return self._places[id(value)]

    def held(self, number: int) -> Any:
        return self._held[number]


def main() -> None:
    settings = begin()
    channel, objects = Channel(settings.reads, settings.writes), _Objects()
    channel.send(["ready"])
    program, tested = channel.receive()
    module = ModuleType(_MODULE)
    sys.modules[_MODULE] = module  # dataclasses look their module up
    channel.send(_outcome(lambda: _load(program, tested, module), objects))
    with contextlib.suppress(EOFError):  # the judge has its verdict
        while True:
            request = channel.receive()
            channel.send(_outcome(lambda asked=request: _do(*decode(asked, objects.held)), objects))


def _load(program: str, tested: list[str], module: ModuleType) -> dict[str, Any]:
    exec(compile(program, "<program>", "exec"), module.__dict__)
    return {name: module.__dict__[name] for name in tested if name in module.__dict__}


def _outcome(work: Any, objects: _Objects) -> list[Any]:
    """["value", …] or ["error", the exception's type, its text]."""
    try:
        return ["value", encode(work(), objects.number)]
    except BaseException as error:
        return ["error", type(error).__name__, str(error)[:_SHOWN]]


def _do(what: str, subject: Any, *rest: Any) -> Any:
    match what:
        case "call":
            positional, named = rest
            return subject(*positional, **named)
        case "get":
            return getattr(subject, rest[0])
        case "set":
            return setattr(subject, *rest)
        case "items":
            return list(subject)
        case "truth":
            return bool(subject)
    raise ValueError(what)
