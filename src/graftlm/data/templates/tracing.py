"""A jinja chat template run once for all conversations of the same roles.

Two or more renderings through jinja cost 60 µs each, more than the Rust tokenizer takes for the text. But what a
template writes around the turns hardly ever depends on them. So it is run on *traced* contents: strings of one private
character that know how to be joined to others, answer the questions that templates ask as a plain text would, and
remember the questions. Anything else that is done to them ends the attempt. The result is a skeleton that holds for
every conversation whose contents give the same answers (Shape.fits); all others are rendered by jinja as ever.

Why this is exact: jinja's code reaches a value through operators, methods, filters, tests and calls. Operators and
methods are those of `Traced`; filters, tests and calls are let through only if they are known to look at a content in
no other way; and a template with an operator that would read a traced string behind its back is refused (`_refused`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.runtime import LoopContext, Macro
from jinja2.visitor import NodeTransformer

FIRST = 0xE000
"""The private character of the first content; the next ones follow, 6,400 in all."""
LAST = 0xF8FF

_METHODS = frozenset({"startswith", "endswith", "strip", "lstrip", "rstrip", "split"})
_FILTERS_OF_TEXTS = frozenset({"trim", "default", "d"})
_FILTERS = _FILTERS_OF_TEXTS | {"length", "count", "first", "last", "list"}
_TESTS = frozenset({"string", "defined", "undefined", "none", "true", "false", "mapping", "boolean", "number"})


class Untraceable(BaseException):
    """The template does something with a content that only a real one can answer.

    Not an Exception: jinja's own tests and its optimizer swallow these.
    """


def _untraceable(*_: Any, **__: Any) -> Any:
    raise Untraceable


class Traced(str):
    """A text in which each private character stands for a content: neither empty nor with space at its ends.

    Attributes:
        asked: the strings that a content must not hold for the answers given so far to be right; shared by all.
    """

    asked: set[str]
    __slots__ = ("asked",)

    def __new__(cls, text: str, asked: set[str]) -> Traced:
        made = super().__new__(cls, text)
        made.asked = asked
        return made

    def __getattribute__(self, name: str) -> Any:
        if name in _METHODS or name == "asked" or name.startswith("__"):
            return super().__getattribute__(name)
        raise Untraceable

    def _holds(self, wanted: object) -> bool:
        """Whether the content holds, is, begins or ends with `wanted`: no, and that is remembered."""
        if len(self) != 1 or not isinstance(wanted, str) or isinstance(wanted, Traced) or not wanted:
            raise Untraceable
        self.asked.add(wanted)
        return False

    def __add__(self, other: str) -> Traced:
        return Traced(str.__add__(self, other), self.asked)

    def __radd__(self, other: str) -> Traced:
        return Traced(str.__add__(other, self), self.asked)

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        return True

    def __contains__(self, wanted: object) -> bool:
        return Traced._holds(self, wanted)

    def __eq__(self, other: object) -> bool:
        # No content is empty, and none is anything but a string.
        return Traced._holds(self, other) if isinstance(other, str) and other else False

    def __ne__(self, other: object) -> bool:
        return not self == other

    def startswith(self, wanted: Any) -> bool:  # type: ignore[override]
        return Traced._holds(self, wanted)

    endswith = startswith  # type: ignore[assignment]

    def strip(self, characters: str | None = None) -> Traced:
        if len(self) != 1 or (characters is not None and characters.strip()):
            raise Untraceable
        return self

    lstrip = rstrip = strip

    def split(self, mark: Any) -> list[Traced]:  # type: ignore[override]
        Traced._holds(self, mark)
        return [self]

    __getitem__ = __iter__ = __hash__ = __format__ = _untraceable
    __mul__ = __rmul__ = __mod__ = __rmod__ = _untraceable
    __lt__ = __le__ = __gt__ = __ge__ = _untraceable


class TracedTemplate:
    """A template, compiled to be run on traced contents.

    Args:
        source: the template.
        variables: what it is given beside the messages (the tokenizer's special tokens).

    Raises:
        Untraceable: the template cannot be traced, whatever the conversation.
    """

    def __init__(self, source: str, variables: dict[str, Any]) -> None:
        try:
            from transformers.utils.chat_template_utils import _compile_jinja_template
        except ImportError:  # it is private: other versions may have it elsewhere
            raise Untraceable from None
        plain = _compile_jinja_template(source).environment
        tree = _PlusForTilde().visit(plain.parse(source))
        if any(FIRST <= ord(char) <= LAST for char in source) or _refused(tree):
            raise Untraceable
        environment = plain.overlay()
        environment.filters = {name: _guarded_filter(name, run) for name, run in plain.filters.items()}
        environment.tests = {name: run if name in _TESTS else _untraceable for name, run in plain.tests.items()}
        environment.concat = _concatenated
        environment.call = functools.partial(_guarded_call, environment.call, environment.globals)
        self._template = environment.from_string(tree)
        self._variables = variables
        self._trackers = [one for one in environment.extensions.values() if hasattr(one, "activate_tracker")]

    def run(
        self, roles: Sequence[str], asked: set[str], *, generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The skeleton of a conversation, and where its `{% generation %}` blocks stand in it.

        Raises:
            Untraceable: it depends on the contents.
            Exception: whatever the template raises.
        """
        messages = [{"role": role, "content": Traced(chr(FIRST + n), asked)} for n, role in enumerate(roles)]
        variables = self._variables | {"tools": None, "documents": None, "add_generation_prompt": generation_prompt}
        blocks: list[str] = []
        spans: list[tuple[int, int]] = []
        if len(roles) > LAST - FIRST or len(self._trackers) != 1:
            raise Untraceable
        with self._trackers[0].activate_tracker(blocks, spans):
            for block in self._template.generate(messages=messages, **variables):
                blocks.append(block)
        return "".join(blocks), spans


class Shape:
    """The skeleton of all conversations with the same roles.

    Args:
        skeleton: the text, a private character for each content.
        spans: places in it.
        asked: what no content may hold.
    """

    def __init__(self, skeleton: str, spans: Iterable[tuple[int, int]], asked: Iterable[str]) -> None:
        self._asked = tuple(asked)
        self._pieces: list[str | int] = [""]  # texts, and numbers of contents
        before: list[int] = []  # for each place of the skeleton, the contents before it
        contents = 0
        for char in skeleton:
            before.append(contents)
            place = ord(char) - FIRST
            if 0 <= place <= LAST - FIRST:
                contents += 1
                self._pieces += [place, ""]
            else:
                self._pieces[-1] += char  # type: ignore[operator]
        before.append(contents)
        self._order = [piece for piece in self._pieces if isinstance(piece, int)]
        self._edges = [(edge - before[edge], before[edge]) for span in spans for edge in span]

    def fits(self, contents: Sequence[str]) -> bool:
        """Whether these contents give the answers that the skeleton was made with."""
        for content in contents:
            if not content or content[0].isspace() or content[-1].isspace():
                return False
            for wanted in self._asked:
                if wanted in content:
                    return False
        return True

    def fill(self, contents: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text of the conversation, and the spans in it."""
        text = "".join([contents[piece] if isinstance(piece, int) else piece for piece in self._pieces])
        lengths = [0]  # of the first n contents in the text
        for place in self._order:
            lengths.append(lengths[-1] + len(contents[place]))
        edges = [fixed + lengths[number] for fixed, number in self._edges]
        return text, tuple(zip(edges[0::2], edges[1::2], strict=True))


class _PlusForTilde(NodeTransformer):
    """`a ~ b` as `a + b`: jinja's own `~` reads strings without asking them. Numbers make an error of it, no text."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return functools.reduce(lambda left, right: nodes.Add(left, right, lineno=node.lineno), node.nodes)


def _refused(tree: nodes.Template) -> bool:
    """Whether the template has an operator that reads a string without asking it.

    These are formatting with %, and `in` where the string to be looked for may be a content.
    """
    if any(not isinstance(getattr(node.right, "value", None), int) for node in tree.find_all(nodes.Mod)):
        return True
    for node in tree.find_all(nodes.Compare):
        inside = any(operand.op in ("in", "notin") for operand in node.ops)
        listed = all(isinstance(operand.expr, nodes.List | nodes.Tuple) for operand in node.ops)
        if inside and not (len(node.ops) == 1 and (listed or isinstance(node.expr, nodes.Const))):
            return True
    return False


def _concatenated(pieces: Iterable[str]) -> str:
    parts = list(pieces)
    traced = next((part for part in parts if isinstance(part, Traced)), None)
    return "".join(parts) if traced is None else Traced("".join(parts), traced.asked)


def _guarded_filter(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def guarded(*args: Any, **named: Any) -> Any:
        traced = any(isinstance(value, Traced) for value in (*args, *named.values()))
        if name not in (_FILTERS_OF_TEXTS if traced else _FILTERS):
            raise Untraceable
        return run(*args, **named)

    return guarded


def _guarded_call(
    call: Callable[..., Any], known: dict[str, Any], context: Any, function: Any, *args: Any, **named: Any
) -> Any:
    owner = getattr(function, "__self__", None)
    if isinstance(function, Macro) or function is known["namespace"] or isinstance(owner, Extension):
        return call(context, function, *args, **named)
    given = [*args, *(value for name, value in named.items() if name not in ("_loop_vars", "_block_vars"))]
    plain = all(type(value) in (str, int, bool, type(None)) for value in given)
    safe = function in (range, known["range"], known["raise_exception"]) or isinstance(owner, str | dict | LoopContext)
    if not (plain and safe):
        raise Untraceable
    return call(context, function, *args, **named)
