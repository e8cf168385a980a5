"""IFEval's verdict on a response, strict and loose (Zhou et al. 2023, arXiv 2311.07911)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftlm.core.errors import DataError
from graftlm.evaluation.graders.instructions import CHECKS, Arguments


@dataclass(frozen=True)
class Verdict:
    """Whether each instruction of a prompt was followed, in the prompt's order."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def follow_instructions(response: str, names: Sequence[str], arguments: Sequence[Arguments]) -> Verdict:
    """Check a response against the instructions of its prompt.

    Strict takes the response as it is. Loose is content if any of eight forms follows the instruction: with or
    without the first line, the last line, and the stars of markdown. An empty form follows nothing.

    Raises:
        DataError: an instruction that IFEval does not have.
    """
    for name in names:
        if name not in CHECKS:
            raise DataError(f"unknown instruction {name!r}", fix=f"one of: {', '.join(sorted(CHECKS))}")
    pairs = list(zip(names, arguments, strict=True))
    forms = _loose_forms(response)
    strict = tuple(_follows(response, name, given) for name, given in pairs)
    loose = tuple(any(_follows(form, name, given) for form in forms) for name, given in pairs)
    return Verdict(strict, loose)


def _follows(text: str, name: str, given: Arguments) -> bool:
    return bool(text.strip()) and CHECKS[name](text, given)


def _loose_forms(response: str) -> list[str]:
    lines = response.split("\n")
    cuts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cuts, *(cut.replace("*", "") for cut in cuts)]
