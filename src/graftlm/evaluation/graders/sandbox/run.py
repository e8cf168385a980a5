"""Runs a program written by a model against a test, in two confined processes: one for the program, one for the test.

The kernel holds both: Landlock (files), seccomp (network, processes, signals), resource limits. The program's process
does not have the test, and only the test's process writes the verdict. What is left: a fault of the kernel or of
Python's JSON reader. Where Landlock or seccomp is missing, running is refused unless the caller allows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from functools import cache

from graftlm.core.errors import GraftError
from graftlm.evaluation.graders.sandbox.settings import READY, Bounds, Settings, command

_LOOK_EVERY = 0.02  # seconds between looks at the clock and at the folder
_MOST_FILES = 256


class Outcome(Enum):
    """How a program ended."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Verdict:
    """How a program ended, and why it has not passed, in at most a few hundred characters."""

    outcome: Outcome
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASSED


@dataclass(frozen=True)
class Limits:
    """What a program and its test may use.

    Attributes:
        seconds: of wall-clock time for both together; each may use as much processor time.
        memory: bytes of address space of each process.
        file, folder: bytes of one file, and of all files.
    """

    seconds: float = 5.0
    memory: int = 2**29
    file: int = 2**23
    folder: int = 2**25


@dataclass(frozen=True)
class Job:
    """
    Attributes:
        program: Python source that a model wrote.
        tests: trusted source that raises where the program is wrong.
        tested: names that the tests take from the program; all other names are the tests' own.
        prelude: trusted source that the tests need, run before those names are set.
    """

    program: str
    tests: str
    tested: tuple[str, ...]
    prelude: str = ""


@cache
def sandbox_gaps() -> tuple[str, ...]:
    """The guards that this machine lacks, in words; empty where the sandbox is whole. Found out once.

    Raises:
        GraftError: not even a limited process can be started here.
    """
    asking = command("probe", Settings(Bounds(seconds=5, memory=2**29, file=2**20, folder=None)))
    try:
        asked = subprocess.run(asking, capture_output=True, text=True, timeout=30, env=_environment("/"))
        return tuple(json.loads(asked.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        reason = f"no process can be confined here ({error})"
        raise GraftError(reason, where="code sandbox", fix="run it on Linux or macOS") from error


def require_sandbox(*, allow_weak: bool = False) -> None:
    """
    Raises:
        GraftError: a guard is missing, and the caller does not allow that.
    """
    gaps = sandbox_gaps()
    if gaps and not allow_weak:
        raise GraftError(
            f"programs written by a model cannot be held on this machine; missing: {'; '.join(gaps)}",
            where="code sandbox",
            fix="run it on such a Linux, or in a container that you can lose, with allow_weak=True",
        )


def run_job(job: Job, limits: Limits | None = None, *, allow_weak: bool = False) -> Verdict:
    """Run a program against its test.

    Raises:
        GraftError: the sandbox is not whole on this machine and `allow_weak` is not set.
    """
    require_sandbox(allow_weak=allow_weak)
    limits = limits or Limits()
    with (
        tempfile.TemporaryDirectory(prefix="graft-code-", ignore_cleanup_errors=True) as folder,
        _pair(folder, limits, strict=not allow_weak) as judge,
    ):
        return _watched(judge, json.dumps(asdict(job)), folder, limits)


@contextlib.contextmanager
def _pair(folder: str, limits: Limits, *, strict: bool) -> Iterator[subprocess.Popen[str]]:
    """Both processes with pipes between them; the judge is yielded, and both are dead afterwards."""
    started: list[subprocess.Popen[str]] = []
    try:
        with _pipe() as to_judge, _pipe() as to_program:
            started.append(_started("candidate", folder, to_program[0], to_judge[1], limits, strict))
            started.append(_started("judge", None, to_judge[0], to_program[1], limits, strict))
        yield started[1]
    finally:
        for process in started:
            _kill(process)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """Both ends, open until they are handed out: a process sees the end of a pipe once nobody else can write to it."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _started(
    role: str, folder: str | None, reads: int, writes: int, limits: Limits, strict: bool
) -> subprocess.Popen[str]:
    bounds = Bounds(int(limits.seconds) + 1, limits.memory, limits.file, folder)
    talks = subprocess.PIPE if role == "judge" else subprocess.DEVNULL
    return subprocess.Popen(
        command(role, Settings(bounds, reads, writes, strict, os.getpid())),
        cwd=folder or "/",
        env=_environment(folder or "/"),
        stdin=talks,
        stdout=talks,
        stderr=subprocess.DEVNULL,
        pass_fds=(reads, writes),
        start_new_session=True,
        text=True,
    )


def _environment(folder: str) -> dict[str, str]:
    """All that a process gets to know; the fixed hash seed makes the order of sets the same in every run."""
    return {"PATH": "", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


def _watched(judge: subprocess.Popen[str], job: str, folder: str, limits: Limits) -> Verdict:
    deadline = time.monotonic() + limits.seconds
    unsent: str | None = job
    while True:
        try:
            said, _ = judge.communicate(unsent, timeout=_LOOK_EVERY)
            return _verdict(said)
        except subprocess.TimeoutExpired:
            unsent = None
        if time.monotonic() > deadline:
            return Verdict(Outcome.TIMED_OUT, f"no end within {limits.seconds:g} s")
        if _full(folder, limits.folder):
            allowed = f"{limits.folder} bytes, {_MOST_FILES} files"
            return Verdict(Outcome.FAILED, f"the program filled its folder ({allowed})")


def _verdict(said: str) -> Verdict:
    if not said.startswith(READY):
        reason = "a process of the sandbox did not start"
        raise GraftError(reason, where="code sandbox", fix="see whether memory ran out, and use fewer workers")
    try:
        found = json.loads(said.removeprefix(READY))
    except ValueError:
        return Verdict(Outcome.FAILED, "the test ended without a verdict (memory or time)")
    return Verdict(Outcome.PASSED if found["passed"] else Outcome.FAILED, found["reason"])


def _full(folder: str, most: int) -> bool:
    size = count = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # removed meanwhile
            size += entry.stat(follow_symlinks=False).st_size
        count += 1
    return size > most or count > _MOST_FILES


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process with all of its group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
