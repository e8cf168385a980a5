"""What a hostile program may try. Each attack works outside the sandbox (the control), and fails inside."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from graftlm.evaluation.graders.sandbox.run import Job, Limits, Outcome, Verdict, run_job, sandbox_gaps
from graftlm.evaluation.graders.sandbox.settings import Bounds, Settings

pytestmark = pytest.mark.skipif(bool(sandbox_gaps()), reason=f"this machine lacks {', '.join(sandbox_gaps())}")

QUICK = Limits(seconds=5.0)
TESTS = "assert answer(20) == 41\nassert answer(1) == 3\n"

REFUSED = {
    "read the accounts": "open('/etc/passwd').read()",
    "read the user's keys": "open({home!r} + '/.ssh/id').read()",
    "list the user's folder": "import os; os.listdir({home!r})",
    "write outside its folder": "open({home!r} + '/written', 'w').write('x')",
    "remove a file of the user": "import os; os.remove({home!r} + '/doomed')",
    "empty a file of the user": "import os; os.truncate({home!r} + '/kept', 0)",
    "empty it by opening": "import os; os.open({home!r} + '/kept', os.O_RDONLY | os.O_TRUNC)",
    "change the rights of a file": "import os; os.chmod({home!r} + '/kept', 0o400)",
    "change the time of a file": "import os; os.utime({home!r} + '/kept')",
    "link a file of the user into its folder": "import os; os.link({home!r} + '/kept', 'mine')",
    "open a TCP socket": "import socket; socket.socket()",
    "open a UDP socket": "import socket; socket.socket(type=socket.SOCK_DGRAM)",
    "open a socket pair": "import socket; socket.socketpair(type=socket.SOCK_DGRAM)",
    "start a program": "import subprocess; subprocess.run(['/bin/true'])",
    "start a shell": "import os; assert os.system('true') == 0",
    "fork": "import os; os.fork() or os._exit(0)",
    "start a process that outlives it": "import os; os.posix_spawn('/bin/sleep', ['sleep', '0.1'], {{}})",
    "signal its parent": "import os; os.kill(os.getppid(), 0)",
    "signal everybody": "import os, signal; os.killpg(os.getpgid(os.getppid()), signal.SIGCONT)",
    "let the kernel signal its parent": (
        "import fcntl, os; r, w = os.pipe(); assert fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid()) == 0"
    ),
    "read its parent's memory": "import os; open(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "read its own memory by the file system": "open('/proc/self/mem', 'rb')",
    "read its parent's environment": "import os; open(f'/proc/{{os.getppid()}}/environ').read()",
    "call ptrace from C": "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "leave by a namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "raise its own limits": "import resource as r; r.setrlimit(r.RLIMIT_CORE, r.getrlimit(r.RLIMIT_CORE))",
    "share memory beyond its life": "import ctypes; assert ctypes.CDLL(None).shmget(0, 4096, 0o600) >= 0",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's folder, with files to lose."""
    (tmp_path / ".ssh").mkdir()
    for name in (".ssh/id", "kept", "doomed"):
        (tmp_path / name).write_text("the user's")
    return tmp_path


def attacks(home: Path) -> str:
    """A program whose answer says what came of each attack."""
    lines = {name: body.format(home=str(home)) for name, body in REFUSED.items()}
    return (
        f"ATTACKS = {lines!r}\ndef outcome(line):\n    try:\n        exec(line, {{}})\n        return 'done'\n"
        "    except BaseException:\n        return 'refused'\n"
        "def answer():\n    return {name: outcome(line) for name, line in ATTACKS.items()}\n"
    )


def held(program: str, limits: Limits = QUICK, tests: str = TESTS) -> Verdict:
    return run_job(Job(program, tests, ("answer",)), limits)


def test_attacks_are_refused(home: Path) -> None:
    tests = "assert {name for name, came in answer().items() if came == 'done'} == set(), answer()"
    verdict = held(attacks(home), tests=tests)
    assert verdict.outcome is Outcome.PASSED, verdict.reason
    assert {file.name for file in home.iterdir()} == {".ssh", "kept", "doomed"}
    assert (home / "kept").read_text() == "the user's"


def test_the_attacks_are_real(home: Path) -> None:
    """Outside they succeed: a refusal inside is the sandbox's work. Three are refused by some machines, too."""
    script = attacks(home) + "print(answer())"
    ran = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, cwd=home, check=True)
    refused = {name for name, came in ast.literal_eval(ran.stdout).items() if came == "refused"}
    assert refused <= {"read its parent's memory", "call ptrace from C", "leave by a namespace"}


@pytest.mark.parametrize(
    "program",
    [
        "while True:\n    pass",
        (
            "import contextlib, signal\nfor number in range(1, 32):\n    with contextlib.suppress(OSError):\n"
            "        signal.signal(number, signal.SIG_IGN)\nwhile True:\n    pass"
        ),
        "import time\ntime.sleep(60)",
        "x = 9 ** 9 ** 9",
    ],
    ids=["spins", "ignores every signal", "sleeps", "computes forever"],
)
def test_a_program_without_end_is_stopped(program: str) -> None:
    began = time.monotonic()
    assert held(program, Limits(seconds=0.6)).outcome is Outcome.TIMED_OUT
    assert time.monotonic() - began < 3


def test_memory_is_bounded() -> None:
    greedy = "def answer(x):\n    held = []\n    while True:\n        held.append(bytearray(2**24))\n"
    verdict = held(greedy, Limits(memory=2**27))
    assert verdict.outcome is Outcome.FAILED
    assert "MemoryError" in verdict.reason


def test_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    largest = 0

    def watch() -> None:
        nonlocal largest
        while running:
            for file in tmp_path.glob("*/*"):
                try:
                    largest = max(largest, sum(f.stat().st_size for f in file.parent.iterdir()))
                except OSError:
                    continue
            time.sleep(0.005)

    running, watcher = True, threading.Thread(target=watch)
    watcher.start()
    filler = (
        "n = 0\nwhile True:\n    n += 1\n    try:\n        with open(str(n), 'wb') as f:\n"
        "            while True:\n                f.write(b'x' * 2**20)\n    except OSError:\n        pass\n"
    )
    verdict = held(filler, Limits(seconds=4.0, file=2**21, folder=2**24))
    running = False
    watcher.join()
    assert verdict.outcome is Outcome.FAILED
    assert "folder" in verdict.reason
    assert largest < 2**28
    assert list(tmp_path.iterdir()) == []


def test_a_flood_of_output_goes_nowhere() -> None:
    loud = "import os, sys\nfor _ in range(500):\n    print('x' * 10**5)\n    os.write(2, b'x' * 10**5)\n"
    verdict = held(f"{loud}def answer(x):\n    return 2 * x + 1")
    assert verdict.outcome is Outcome.PASSED
    assert len(verdict.reason) < 1000


def test_a_huge_answer_is_refused() -> None:
    verdict = held("def answer(x):\n    return 'x' * 2**24", tests="assert answer(1)[:3] == 'xxx'")
    assert verdict.outcome is Outcome.FAILED


def test_a_long_error_is_cut() -> None:
    verdict = held("def answer(x):\n    raise ValueError('x' * 10**6)")
    assert verdict.outcome is Outcome.FAILED
    assert "ValueError" in verdict.reason
    assert len(verdict.reason) < 1000


def test_a_fork_bomb_makes_no_process() -> None:
    bomb = (
        "import contextlib, os\nmade = 0\nfor _ in range(200):\n    with contextlib.suppress(OSError):\n"
        "        os.fork()\n        made += 1\ndef answer():\n    return made"
    )
    verdict = held(bomb, tests="assert answer() == 0")
    assert verdict.outcome is Outcome.PASSED, verdict.reason


def test_no_secret_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    tells = "import os\ndef answer():\n    return sorted(os.environ), os.environ['HOME'] == os.getcwd(), os.listdir()"
    tests = "names, at_home, files = answer()\nassert 'API_KEY' not in names\nassert at_home and files == []"
    verdict = held(tells, tests=tests)
    assert verdict.outcome is Outcome.PASSED, verdict.reason


def test_no_descriptor_is_inherited(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        counts = (
            "import contextlib, os\ndef answer():\n    found = []\n    for number in range(64):\n"
            "        with contextlib.suppress(OSError):\n            os.fstat(number)\n"
            "            found.append(number)\n    return found"
        )
        # Its three streams, which lead nowhere, and the two ends of the channel.
        verdict = held(counts, tests="assert len(answer()) == 5, answer()")
    assert verdict.outcome is Outcome.PASSED, verdict.reason


def test_its_own_folder_can_be_used() -> None:
    uses = "def answer():\n    with open('note', 'w') as f:\n        f.write('kept')\n    return open('note').read()"
    assert held(uses, tests="assert answer() == 'kept'").outcome is Outcome.PASSED


def test_a_process_that_cannot_be_confined_does_not_begin() -> None:
    """Should the kernel refuse a guard that the probe has found, nothing runs."""
    bounds = Bounds(seconds=5, memory=2**29, file=2**20, folder=None)
    script = (
        "import sys\nfrom graftlm.evaluation.graders.sandbox import confine\n"
        "confine.restrict_calls = lambda: False\nsys.argv = ['', sys.argv[1]]\nconfine.begin()\nprint('began')"
    )
    settings = json.dumps(Settings(bounds, parent=os.getpid()))
    ran = subprocess.run([sys.executable, "-c", script, settings], capture_output=True, text=True, env=_search_path())
    assert ran.returncode == 1
    assert "seccomp" in ran.stderr
    assert "began" not in ran.stdout


def test_the_judge_ends_with_its_caller(tmp_path: Path) -> None:
    """A killed run leaves no program behind."""
    script = (
        "from graftlm.evaluation.graders.sandbox.run import Job, Limits, run_job\n"
        "run_job(Job('while True: pass', 'assert answer()', ('answer',)), Limits(seconds=30.0))"
    )
    caller = subprocess.Popen([sys.executable, "-c", script], env={**_search_path(), "TMPDIR": str(tmp_path)})
    deadline = time.monotonic() + 10
    while not (children := _children(caller.pid)) or len(children) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    caller.kill()
    caller.wait()
    while any(Path(f"/proc/{child}").exists() and _runs(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _search_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += [int(status.parent.name)] if int(fields[1]) == parent else []
    return found


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
