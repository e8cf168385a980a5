"""Programming problems as they are published, HumanEval and MBPP, and the program in a model's reply."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftlm.core.errors import DataError

HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where a base model's completion of a function ends (arXiv 2107.03374, section 2.1)."""

MBPP_STOPS = ("[DONE]",)
"""Where a base model's program ends (arXiv 2108.07732, section 3)."""

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = frozenset({"", "python", "python3", "py"})
_CODE_FIRST = re.compile(r"\n*(?:(?: {2,}|\t)\S|(?:async +)?def |class |import |from +\S+ +import |@|\[BEGIN\])")


@dataclass(frozen=True)
class CodeProblem:
    """
    Attributes:
        name: of the problem.
        prompt: the code that a completion continues; "" where a whole program is asked for.
        tests: trusted source that raises where a program is wrong.
        tested: the names that `tests` takes from the program.
        prelude: trusted source that the tests need: imports, helper functions.
        stops: what ends the program of a reply that is not a chat answer.
    """

    name: str
    prompt: str
    tests: str
    tested: tuple[str, ...]
    prelude: str = ""
    stops: tuple[str, ...] = ()


def humaneval_problem(row: Mapping[str, Any]) -> CodeProblem:
    """A row of HumanEval: `task_id`, `prompt`, `test` (defines `check`), `entry_point` (arXiv 2107.03374).

    Helper functions of the prompt that the test calls are the prompt's own, not the program's.

    Raises:
        DataError: a field is missing, or the test is not Python.
    """
    name, prompt, test, entry = (_field(row, key) for key in ("task_id", "prompt", "test", "entry_point"))
    tests = f"{test}\ncheck({entry})\n"
    _parsed(tests, name)
    return CodeProblem(name, prompt, tests, (entry,), _completed(prompt), HUMANEVAL_STOPS)


def mbpp_problem(row: Mapping[str, Any]) -> CodeProblem:
    """A row of MBPP: `task_id`, `test_list`, and, where it has them, `test_setup_code`, `test_imports`, `code`.

    What the reference defines and the tests name is taken from the program. The tests import for themselves what the
    reference imports.

    Raises:
        DataError: a field is missing, the tests are not Python, or they test nothing of the program.
    """
    name = f"MBPP/{_field(row, 'task_id')}"
    setup, reference = str(row.get("test_setup_code") or ""), str(row.get("code") or "")
    tests = "\n".join([setup, *_field(row, "test_list", list), ""])
    used = _names(_parsed(tests, name))
    statements = _parsed(reference, name).body
    imports = [one for one in statements if isinstance(one, ast.Import | ast.ImportFrom)]
    prelude = "\n".join([*(row.get("test_imports") or ()), *map(ast.unparse, imports)])
    tested = used & _defined(statements) if reference else used - set(dir(builtins)) - _imported(prelude)
    if not tested:
        raise DataError("the tests name nothing that the program defines", where=name)
    return CodeProblem(name, "", tests, tuple(sorted(tested)), prelude, MBPP_STOPS)


def program_of(problem: CodeProblem, reply: str) -> str:
    """The program in a reply: of a chat model, the code block that defines what is tested; else the text up to a stop.

    A block, or a text, that is only a function's body continues the prompt.
    """
    answer = reply.rpartition("</think>")[2]
    if _CODE_FIRST.match(answer):  # where the question has opened the block, the reply only closes it
        return _unfenced(problem, answer.split("\n```")[0])
    blocks = [code for language, code in _FENCE.findall(answer) if language.lower() in _PYTHON]
    if not blocks:
        return _unfenced(problem, answer)
    return _joined(problem, next((code for code in blocks if _defines(code, problem)), blocks[0]))


def _unfenced(problem: CodeProblem, text: str) -> str:
    """A whole program, or a completion of the prompt up to a stop."""
    if problem.prompt and not text.lstrip("\n")[:1].isspace() and _defines(text, problem):
        return _joined(problem, text)
    ends = [place for place in (text.find(stop) for stop in problem.stops) if place >= 0]
    return problem.prompt + text[: min(ends, default=len(text))].removeprefix("[BEGIN]")


def _joined(problem: CodeProblem, code: str) -> str:
    """A whole function stands behind the prompt, whose imports and helpers it may use; a body continues it."""
    return f"{_completed(problem.prompt)}\n\n{code}" if _defines(code, problem) else problem.prompt + code


def _defines(code: str, problem: CodeProblem) -> bool:
    names = "|".join(map(re.escape, problem.tested))
    return re.search(rf"^(?:async +def|def|class) +(?:{names})\b|^(?:{names}) *=", code, re.MULTILINE) is not None


def _completed(prompt: str) -> str:
    """A prompt that ends inside a function, as a module that runs."""
    for end in ("    pass\n", "\n    pass\n", ""):
        try:
            compile(prompt + end, "<prompt>", "exec")
        except SyntaxError:
            continue
        return prompt + end
    return ""


def _field(row: Mapping[str, Any], key: str, kind: type = object) -> Any:
    if key not in row or not isinstance(row[key], kind):
        where = str(row.get("task_id", "programming problem"))
        raise DataError(f"no {key} in the row", where=where, fix="use the fields as published")
    return row[key]


def _parsed(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise DataError(f"the test or the reference is not Python: {error}", where=name) from error


def _names(tree: ast.Module) -> set[str]:
    """Names that are read and never set."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {n.id for n in names} - {n.id for n in names if isinstance(n.ctx, ast.Store)}


def _defined(statements: list[ast.stmt]) -> set[str]:
    found = {one.name for one in statements if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    targets = [target for one in statements if isinstance(one, ast.Assign) for target in one.targets]
    return found | {target.id for target in targets if isinstance(target, ast.Name)}


def _imported(prelude: str) -> set[str]:
    aliases = [alias for one in ast.parse(prelude).body for alias in getattr(one, "names", [])]
    return {(alias.asname or alias.name).split(".")[0] for alias in aliases}
