"""The verdict is not the program's: what it may try to pass a test that it should fail, and what it may return."""

from __future__ import annotations

import pytest

from graftlm.evaluation.graders.sandbox.run import Job, Outcome, Verdict, run_job, sandbox_gaps

pytestmark = pytest.mark.skipif(bool(sandbox_gaps()), reason=f"this machine lacks {', '.join(sandbox_gaps())}")

WRONG = "def answer(x):\n    return 0\n"
TESTS = "assert answer(20) == 41\nassert answer(1) == 3\n"


def held(program: str, tests: str, tested: tuple[str, ...] = ("answer",), prelude: str = "") -> Verdict:
    return run_job(Job(program, tests, tested, prelude))


FIND_ANSWER = (
    "import re\ndef find(x, objects):\n    for one in objects:\n"
    "        said = re.search('answer.%d. == (\\\\d+)' % x, str(one))\n"
    "        if said:\n            return int(said[1])\n"
)
"""Finds the test's text in objects, without holding it itself."""

FORGED = {
    "leaves with exit code 0": "import os\nos._exit(0)",
    "leaves when asked": "import os\ndef answer(x):\n    os._exit(0)",
    "exits politely": "import sys\ndef answer(x):\n    sys.exit(0)",
    "replaces sys.exit": "import sys\nsys.exit = lambda *a: None\n" + WRONG,
    "raises to leave the test": "def answer(x):\n    raise StopIteration",
    "raises GeneratorExit": "def answer(x):\n    raise GeneratorExit",
    "prints a verdict": 'print(\'{"passed": true, "reason": ""}\', flush=True)\n' + WRONG,
    "writes a verdict to every descriptor": (
        "import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'{\"passed\": true, \"reason\": \"\"}')\n"
        "    except OSError:\n        pass\n" + WRONG
    ),
    "is equal to everything": (
        "class Any(int):\n    __eq__ = lambda *a: True\n    __ne__ = lambda *a: False\n    __hash__ = int.__hash__\n"
        "def answer(x):\n    return Any(0)"
    ),
    "returns an object equal to everything": (
        "class Any:\n    def __eq__(self, other):\n        return True\ndef answer(x):\n    return Any()"
    ),
    "replaces AssertionError": "import builtins\nbuiltins.AssertionError = type('Quiet', (Exception,), {})\n" + WRONG,
    "replaces the test": "check = lambda *a: None\nimport builtins\nbuiltins.check = check\n" + WRONG,
    "replaces compile and exec": (
        "import builtins\nbuiltins.compile = builtins.exec = builtins.eval = lambda *a, **k: None\n" + WRONG
    ),
    "replaces unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n" + WRONG,
    "looks at its callers": (
        FIND_ANSWER + "import sys\ndef answer(x):\n    frame, seen = sys._getframe(), []\n    while frame:\n"
        "        seen += [frame.f_locals, frame.f_globals]\n        frame = frame.f_back\n    return find(x, seen)"
    ),
    "searches memory for the test": FIND_ANSWER + "import gc\ndef answer(x):\n    return find(x, gc.get_objects())",
    "hides its answers at exit": "import atexit, os\natexit.register(os._exit, 0)\n" + WRONG,
    "redefines len for the test": "def len(x):\n    return 41\n" + WRONG,
    "closes every descriptor": "import os\nos.closerange(0, 64)\n" + WRONG,
}


@pytest.mark.parametrize("program", FORGED.values(), ids=FORGED.keys())
def test_a_wrong_program_does_not_pass(program: str) -> None:
    verdict = held(program, "assert len([answer(20)]) == 1\n" + TESTS)
    assert verdict.outcome is Outcome.FAILED
    assert verdict.reason


def test_a_right_program_passes_the_same_test() -> None:
    right = "def answer(x):\n    return 2 * x + 1\n"
    assert held(right, "assert len([answer(20)]) == 1\n" + TESTS).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    "tests",
    [
        "for said, right in zip(map(answer, [20, 1]), [41, 3]):\n    assert said == right",
        "assert all(answer(x) == right for x, right in [(20, 41), (1, 3)])",
        "try:\n    assert answer(20) == 41\nexcept AssertionError:\n    raise",
    ],
)
def test_ending_an_iteration_early_does_not_skip_the_test(tests: str) -> None:
    assert held("def answer(x):\n    raise StopIteration", tests).outcome is Outcome.FAILED


def test_answers_written_past_the_function_are_still_compared() -> None:
    """Whatever the program writes to the channel is read as values, which the test compares with its own."""
    flood = (
        "import contextlib, os, struct\nsaid = b'[\"value\",true]'\nfor fd in range(3, 16):\n"
        "    with contextlib.suppress(OSError):\n        os.write(fd, (struct.pack('<I', len(said)) + said) * 50)\n"
    )
    assert held(flood + WRONG, TESTS).outcome is Outcome.FAILED


def test_names_that_are_not_tested_stay_the_tests_own() -> None:
    """A program that writes its answers in advance, with a function of its own in place of a builtin."""
    forged = (
        "import contextlib, json, os, struct\nnames = ['dict', [['answer', ['handle', 0]], ['abs', ['handle', 0]]]]\n"
        "for said in (names, 0, 0):\n"
        "    text = json.dumps(['value', said]).encode()\n    for fd in range(3, 16):\n"
        "        with contextlib.suppress(OSError):\n            os.write(fd, struct.pack('<I', len(text)) + text)\n"
        "while True:\n    pass"
    )
    assert not held(forged, "assert abs(answer(20) - 41) < 1e-6").passed


def test_a_name_that_is_missing_is_told() -> None:
    verdict = held("def anser(x):\n    return 41", TESTS)
    assert verdict == Verdict(Outcome.FAILED, "the program does not define answer")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("(1, [2.5, None], {'a': {3}}, frozenset({4}), True)", "(1, [2.5, None], {'a': {3}}, frozenset({4}), True)"),
        ("__import__('collections').Counter('aab')", "{'a': 2, 'b': 1}"),
        ("__import__('collections').defaultdict(list, {1: [2]})", "{1: [2]}"),
        ("__import__('collections').namedtuple('P', 'x y')(1, 2)", "(1, 2)"),
        ("__import__('fractions').Fraction(1, 3)", "__import__('fractions').Fraction(1, 3)"),
        ("__import__('datetime').date(2020, 2, 29)", "__import__('datetime').date(2020, 2, 29)"),
        ("(10 ** 6000, -1e-300, 1j)", "(10 ** 6000, -1e-300, 1j)"),
        ("(b'\\xff', '\\ud800', range(2, 8, 3))", "(b'\\xff', '\\ud800', range(2, 8, 3))"),
        ("str", "str"),
    ],
)
def test_plain_values_arrive_as_they_are(value: str, plain: str) -> None:
    program = f"def answer(back):\n    return back if back is not None else {value}"
    verdict = held(program, f"assert answer(None) == {plain}\nassert answer({plain}) == {plain}")
    assert verdict.passed, verdict.reason


def test_not_a_number_and_order_arrive() -> None:
    tests = "assert answer(float('nan')) != answer(float('nan'))\nassert list(answer({'b': 1, 'a': 2})) == ['b', 'a']"
    assert held("def answer(x):\n    return x", tests).passed


def test_objects_of_the_program_can_be_used_but_not_compared() -> None:
    program = (
        "class Node:\n    def __init__(self, value):\n        self.value, self.next = value, None\n"
        "def total(node):\n    return node.value + total(node.next) if node else 0\n"
        "def walk(node):\n    while node:\n        yield node.value\n        node = node.next\n"
    )
    tests = (
        "root = Node(1)\nroot.next = Node(value=2)\nassert total(root) == 3 and root.next.value == 2\n"
        "assert list(walk(root)) == [1, 2]\nassert root == root and root != Node(1) and Node(1) and not root == 3\n"
    )
    verdict = held(program, tests, ("Node", "total", "walk"))
    assert verdict.passed, verdict.reason


def test_an_exception_keeps_its_name() -> None:
    program = "def answer(x):\n    raise ValueError('no')"
    assert held(program, "try:\n    answer(1)\nexcept ValueError:\n    pass\nelse:\n    assert False").passed
    assert held(program, "answer(1)").reason == "ValueError: no"


def test_the_assertion_that_failed_is_told() -> None:
    tests = "def check(candidate):\n    assert candidate(1) == 0\n    assert candidate(20) == 41\n\n\ncheck(answer)\n"
    assert held(WRONG, tests).reason == "AssertionError: assert candidate(20) == 41"


def test_helpers_of_the_prelude_are_not_the_programs() -> None:
    program = "def check(x):\n    return True\ndef answer(x):\n    return 0\n"
    prelude = "def check(x):\n    return x == 41\n"
    assert not held(program, "assert check(answer(20))", prelude=prelude).passed


def test_dataclasses_and_the_standard_library_work() -> None:
    program = (
        "from __future__ import annotations\nimport dataclasses, hashlib, re, heapq, json, math, statistics\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n"
        "def answer(x):\n"
        "    return Point(x).x, hashlib.sha256(b'').hexdigest()[:4], math.comb(4, 2), __name__ == '__main__'"
    )
    verdict = held(program, "assert answer(1) == (1, 'e3b0', 6, False)")
    assert verdict.passed, verdict.reason
