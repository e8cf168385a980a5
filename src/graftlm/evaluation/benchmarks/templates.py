"""Jinja templates over the fields of a row, in a sandbox: a task file can read its rows and nothing else."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from graftlm.core.errors import DataError

LETTERS = string.ascii_uppercase


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    return re.sub(pattern, replacement, text, count=count)


def _regex_search(text: str, pattern: str) -> str:
    """The first group of the first match, else the match; "" without one."""
    found = re.search(pattern, text)
    if found is None:
        return ""
    return found.group(1) if found.re.groups else found.group()


def _lettered(options: Sequence[str], mark: str = ". ", joint: str = "\n") -> str:
    """A. …\nB. … of a list."""
    return joint.join(f"{letter}{mark}{option}" for letter, option in zip(LETTERS, options, strict=False))


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters.update(regex_replace=_regex_replace, regex_search=_regex_search, lettered=_lettered)
    environment.globals["letters"] = list(LETTERS)
    return environment


_ENVIRONMENT = _environment()


def evaluate(template: str, fields: Mapping[str, Any], where: str) -> Any:
    """The value of a template that is one expression, else the text that a template makes.

    Raises:
        DataError: a fault in the template, or a field that the row lacks; it names the row, `where`.
    """
    expression = _expression(template)
    try:
        if expression is not None:
            return _defined(_compiled(expression)(fields))
        return _template(template).render(fields)
    except Exception as error:  # whatever a template calls: jinja's errors, or those of str, int, a filter
        raise _fault(template, fields, where, error) from error


def _defined(value: Any) -> Any:
    """The value itself; compiled expressions hand out what is undefined, where rendering would complain."""
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, Undefined):
            str(one)  # raises
    return value


def render(template: str, fields: Mapping[str, Any], where: str) -> str:
    """The text that a template makes.

    Raises:
        DataError: as for `evaluate`.
    """
    try:
        return _template(template).render(fields)
    except Exception as error:
        raise _fault(template, fields, where, error) from error


def _fault(template: str, fields: Mapping[str, Any], where: str, error: Exception) -> DataError:
    shown = template if len(template) < 80 else template[:77] + "…"
    if isinstance(error, TemplateSyntaxError):
        return DataError(f"template {shown!r}: {error.message}", where=where, fix="see Jinja's syntax")
    reason = str(error).splitlines()[0] if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    names = ", ".join(name for name in fields if name != "row")
    return DataError(f"template {shown!r}: {reason}", where=where, fix=f"the row has: {names}")


@lru_cache(maxsize=512)
def _expression(template: str) -> str | None:
    """What stands in the braces of a template that is `{{ … }}` and nothing else."""
    try:
        body = _ENVIRONMENT.parse(template).body
    except TemplateSyntaxError:
        return None  # rendering will say where
    match body:
        case [nodes.Output(nodes=[nodes.TemplateData()])]:
            return None
        case [nodes.Output(nodes=[_])] if template.startswith("{{") and template.endswith("}}"):
            return template[2:-2].strip("-+ \n")
    return None


@lru_cache(maxsize=512)
def _compiled(expression: str) -> Any:
    return _ENVIRONMENT.compile_expression(expression, undefined_to_none=False)


@lru_cache(maxsize=512)
def _template(template: str) -> Any:
    return _ENVIRONMENT.from_string(template)
