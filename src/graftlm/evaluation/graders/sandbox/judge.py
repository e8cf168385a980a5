"""The process that runs the test: the program is in another one, and its functions are called from here.

The verdict is written by this process, to which the program has no way but the values that it returns.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from graftlm.evaluation.graders.sandbox.confine import begin
from graftlm.evaluation.graders.sandbox.settings import READY
from graftlm.evaluation.graders.sandbox.wire import Channel, decode, encode

_SHOWN = 300


class Program:
    """The other process, with the names of it that are tested.

    Raises:
        Exception: what the program raised, as the builtin exception of that name.
        EOFError: it ended early.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def load(self, source: str, tested: list[str]) -> dict[str, Any]:
        self._channel.send([source, tested])
        loaded: dict[str, Any] = self._answer()
        return loaded

    def ask(self, *request: Any) -> Any:
        self._channel.send(encode(request, _number))
        return self._answer()

    def _answer(self) -> Any:
        kind, *content = self._channel.receive()
        if kind == "value":
            return decode(content[0], lambda number: Handle(self, number))
        raise _raised(str(content[0]), str(content[1]))


class Handle:
    """An object of the program. It equals nothing but itself, so that the program has no say in a comparison."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._program.ask("call", self, positional, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._program.ask("items", self))

    def __bool__(self) -> bool:
        return bool(self._program.ask("truth", self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other._number == self._number

    def __hash__(self) -> int:
        return hash(self._number)


def main() -> None:
    job = json.load(sys.stdin)
    verdict = os.dup(1)  # the test may print
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    os.close(quiet)
    settings = begin()
    channel = Channel(settings.reads, settings.writes)
    channel.receive()  # that the other process is confined
    os.write(verdict, READY.encode())
    program = Program(channel)
    reason = _judge(program, job["program"], job["tested"], job["prelude"], job["tests"])
    os.write(verdict, json.dumps({"passed": reason == "", "reason": reason}).encode())


def _judge(program: Program, source: str, tested: list[str], prelude: str, tests: str) -> str:
    """Why the program has not passed; "" if it has."""
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        tests_code = compile(tests, "<tests>", "exec")
        exec(compile(prelude, "<prelude>", "exec"), namespace)
        loaded = program.load(source, tested)
        absent = [name for name in tested if name not in loaded]
        if absent:
            return f"the program does not define {', '.join(absent)}"
        namespace.update({name: loaded[name] for name in tested})  # the program may have sent others, too
        exec(tests_code, namespace)
    except BaseException as error:
        return f"{type(error).__name__}: {str(error) or _failing_line(error, tests)}"[:_SHOWN]
    return ""


def _failing_line(error: BaseException, tests: str) -> str:
    """The line of the tests that raised; "" where it was not one of them."""
    number, place = 0, error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename == "<tests>":
            number = place.tb_lineno
        place = place.tb_next
    return tests.splitlines()[number - 1].strip() if number else ""


def _number(value: Any) -> int:
    if not isinstance(value, Handle):
        raise TypeError(f"the test gives the program a {type(value).__name__}, which cannot be sent to it")
    return value._number


def _raised(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    # StopIteration would end a loop of the test over `map(function, …)` early, and quietly.
    if not isinstance(kind, type) or not issubclass(kind, Exception) or issubclass(kind, StopIteration):
        return RuntimeError(f"{name}: {text}")
    try:
        return kind(text)
    except TypeError:  # UnicodeDecodeError and its like take more than a text
        return RuntimeError(f"{name}: {text}")
