"""A reward that the user wrote as a Python function, and the plain values that leave graft for judging."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from graftlm.core.console import say
from graftlm.core.errors import GraftError, RecipeError
from graftlm.data.samples import Prompt

if TYPE_CHECKING:
    from graftlm.alignment.rewards import Reward

_FORM = "write `package.module:name`, for instance `my_rewards:politeness` for a function in my_rewards.py"


def function_reward(path: str) -> Reward:
    """The function at a dotted path, `package.module:name`, as a reward.

    It is called as `name(prompts, answers)`: prompts are lists of {"role", "content"} dictionaries, answers are
    strings. If it has a parameter `accepted`, it gets that by name, too: the accepted answers of each prompt, a list
    of strings (empty where none is known). It returns one finite number for each answer.

    The module is an installed one, or one of the current folder, which is put at the end of `sys.path` only if the
    module is found there and nowhere else; that is said on the console.

    Raises:
        RecipeError: there is no such function, or it cannot be called in this way.
        GraftError: when called: the function raised an exception, or returned something else.
    """
    function = _imported(path)
    wants_accepted = _wants_accepted(function, path)

    def reward(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        named = {"accepted": [list(prompt.answers) for prompt in prompts]} if wants_accepted else {}
        try:
            returned = function(plain_messages(prompts), list(answers), **named)
        except GraftError:
            raise  # it names its place and its fix already
        except Exception as error:
            raise GraftError(
                f"the reward function raised {_told(error, _file_of(function))}",
                where=path,
                fix="mend the function; it gets the prompts as lists of messages and the answers as strings",
            ) from error
        try:
            return checked_rewards(returned, len(answers))
        except ValueError as error:
            fix = "return one finite number for each answer, in their order"
            raise GraftError(f"the reward function returned {error}", where=path, fix=fix) from None

    return reward


def plain_messages(prompts: Sequence[Prompt]) -> list[list[dict[str, str]]]:
    """Each prompt as a list of messages, {"role": ..., "content": ...}."""
    return [[{"role": turn.role, "content": turn.content} for turn in prompt.prompt] for prompt in prompts]


def checked_rewards(returned: Any, answers: int) -> list[float]:
    """Rewards that came from outside: [answers] finite numbers, of a list, a tuple, an array or a tensor.

    Raises:
        ValueError: they are something else; the message says what.
    """
    values = _listed(returned)
    if values is None:
        raise ValueError(f"{_beginning(returned)}, which is no list of numbers")
    if len(values) != answers:
        raise ValueError(f"{len(values)} rewards for {answers} answers")
    return [_finite(value, f"reward {place} of {answers}") for place, value in enumerate(values, start=1)]


def _listed(returned: Any) -> list[Any] | None:
    """A list, a tuple, an array or a tensor as a list; None for anything else."""
    if hasattr(returned, "tolist"):
        returned = returned.tolist()
    return list(returned) if isinstance(returned, Sequence) and not isinstance(returned, str | bytes) else None


def _finite(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)  # float("1") would take them
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last: a tensor of several numbers
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{_beginning(value)} as {name}, which is no finite number")
    return number


def _beginning(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def _imported(path: str) -> Callable[..., Any]:
    module_name, _, name = path.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise RecipeError("this is no dotted path of a function", where=path, fix=_FORM)
    module = _imported_module(module_name, path)
    if not hasattr(module, name):
        near = get_close_matches(name, vars(module), n=1)
        file = getattr(module, "__file__", None) or module_name
        fix = f"did you mean `{module_name}:{near[0]}`?" if near else _FORM
        raise RecipeError(f"{file} has no `{name}`", where=path, fix=fix)
    function = getattr(module, name)
    if not callable(function):
        reason = f"`{name}` is no function but a {type(function).__name__}"
        raise RecipeError(reason, where=path, fix="name a function of (prompts, answers)")
    return function


def _imported_module(name: str, path: str) -> ModuleType:
    _reach(name.partition(".")[0])
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(error, name, path) from error  # the module is there; what it imports is not
        raise RecipeError(
            f"there is no module `{error.name}`, neither installed nor in {Path.cwd()}",
            where=path,
            fix=f"run graft in the folder that holds it, or install it; {_FORM}",
        ) from None
    except Exception as error:
        raise _broken(error, name, path) from error


def _reach(package: str) -> None:
    """Make a module of the current folder importable, if there is none of this name elsewhere.

    At the end of the path, the folder hides no installed module.
    """
    here = str(Path.cwd())
    if package in sys.modules or importlib.util.find_spec(package) is not None:
        return
    if PathFinder.find_spec(package, [here]) is None:
        return
    sys.path.append(here)
    say(f"reward function: `{package}` is taken from the current folder, {here}")


def _broken(error: Exception, module: str, path: str) -> RecipeError:
    reason = f"the module `{module}` cannot be imported: it raised {_told(error)}"
    return RecipeError(reason, where=path, fix=f"mend it until `python -c 'import {module}'` runs")


def _wants_accepted(function: Callable[..., Any], path: str) -> bool:
    """Whether the function has a parameter `accepted`; refuses one that cannot take what it will be given."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C do not tell
        return False
    wants = "accepted" in signature.parameters
    try:
        signature.bind([], [], **({"accepted": []} if wants else {}))
    except TypeError as error:
        reason = f"the reward function cannot be called with prompts and answers: {error}"
        fix = "let it take (prompts, answers), or (prompts, answers, accepted)"
        raise RecipeError(reason, where=path, fix=fix) from None
    return wants


def _file_of(function: Callable[..., Any]) -> str | None:
    """The file that a function was written in; for an object that can be called, the file of its call."""
    unwrapped = inspect.unwrap(function)
    code = getattr(unwrapped, "__code__", None) or getattr(type(unwrapped).__call__, "__code__", None)
    return code.co_filename if code else None


def _told(error: Exception, file: str | None = None) -> str:
    """Type, message and place of an exception: the last line in `file`, or else the last that is no import's."""
    if isinstance(error, SyntaxError) and file is None:  # of the module itself, which never ran
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _passed_through(frame.filename)]
    frames = [frame for frame in frames if frame.filename == file] or frames
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})" if frames else text


def _passed_through(file: str) -> bool:
    return file in (__file__, importlib.__file__) or file.startswith("<frozen importlib")
