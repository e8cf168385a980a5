"""The templates that graft knows by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields

from graftlm.core.errors import ModelError, RecipeError
from graftlm.data.samples import Turn
from graftlm.data.templates.forms import ALPACA_INPUT, FORMS, Form
from graftlm.data.templates.rendering import ChatTemplate, Rendered

TEMPLATES: tuple[str, ...] = tuple(sorted(FORMS))
_MARK_PARTS = re.compile(r"\{bos\}|\{eos\}|\{round\}")


def named_template(name: str, *, bos: str | None = None, eos: str | None = None) -> ChatTemplate:
    """A template by its name (see `TEMPLATES`).

    Args:
        name: for instance "vicuna".
        bos: the tokenizer's begin token, for the formats that write it out; None writes none.
        eos: the tokenizer's end token, which closes answers in most formats.

    Raises:
        RecipeError: no template has this name.
        ModelError: the format needs `eos` and there is none.
    """
    form = FORMS.get(name)
    if form is None:
        near = difflib.get_close_matches(name, TEMPLATES, n=3, cutoff=0.5)
        fix = f"did you mean {' or '.join(near)}?" if near else f"one of: {', '.join(TEMPLATES)}"
        raise RecipeError(f"there is no chat template named {name!r}", where="template", fix=fix)
    if not eos and any("{eos}" in text for text in _strings(form)):
        fix = "give the tokenizer an eos_token, or choose chatml, llama3 or gemma, which bring their own"
        raise ModelError(f"the template {name!r} needs an eos token, and there is none", fix=fix)
    return _NamedTemplate(name, form, bos or "", eos or "")


def _strings(form: Form) -> list[str]:
    """The strings of a form that stand in every text (default system texts apart)."""
    found: list[str] = []
    for field in fields(form):
        value = getattr(form, field.name)
        if field.name.startswith("default_"):
            continue
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, tuple):
            found += value
    return found


class _NamedTemplate(ChatTemplate):
    def __init__(self, name: str, form: Form, bos: str, eos: str) -> None:
        self.name = name
        self._form = form
        self._bos = bos
        self._eos = eos
        pieces = [piece.strip() for text in _strings(form) for piece in _MARK_PARTS.split(text)]
        pieces += [bos, eos]
        self.markers = tuple(dict.fromkeys(piece for piece in pieces if len(piece) > 1))

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> Rendered:
        return _Rendering(self._form, self._bos, self._eos).run(turns, generation_prompt)


class _Rendering:
    """One text in the making."""

    def __init__(self, form: Form, bos: str, eos: str) -> None:
        self.form = form
        self.bos = bos
        self.eos = eos
        self.text = ""
        self.targets: list[tuple[int, int]] = []
        self.round = 0
        self.opened = ""  # a role mark already written as the stop of the answer before it

    def run(self, turns: Sequence[Turn], generation_prompt: bool) -> Rendered:
        form = self.form
        self.mark(form.begin)
        system, rest = _system_and_rest(turns, form)
        if system and form.system is not None:
            self.around(form.system, system)
            system = ""
        for number, turn in enumerate(rest):
            if turn.role == "assistant":
                self.answer(turn, rest[number + 1] if number + 1 < len(rest) else None)
            elif turn.role == "tool" and form.tool is not None:
                self.around(form.tool, turn.content)
            else:
                self.user(turn, system)
                system = ""
        if generation_prompt:
            self.mark(form.answer_open)
        return Rendered(self.text, tuple(self.targets))

    def mark(self, text: str) -> None:
        self.text += text.replace("{bos}", self.bos).replace("{eos}", self.eos)

    def around(self, marks: tuple[str, str], content: str) -> None:
        self.mark(marks[0].removeprefix(self.opened))
        self.opened = ""
        self.text += content
        self.mark(marks[1])

    def user(self, turn: Turn, system: str) -> None:
        self.round += 1
        before, after = self.form.user
        content = turn.content
        if system:
            opening, closing = self.form.system_in_user
            content = f"{opening}{system}{closing}{content}"
        self.around((before.replace("{round}", str(self.round)), after), content)

    def answer(self, turn: Turn, following: Turn | None) -> None:
        form = self.form
        self.mark(form.answer_open)
        start = len(self.text)
        self.text += form.answer_lead + turn.content
        stop = form.stop
        if form.stop_opens_next:
            if following is not None and following.role == "tool" and form.tool is not None:
                stop = form.tool[0].rstrip()
            self.opened = stop
        self.mark(stop)
        self.targets.append((start, len(self.text)))
        self.mark(form.answer_tail)


def _system_and_rest(turns: Sequence[Turn], form: Form) -> tuple[str, Sequence[Turn]]:
    if turns and turns[0].role == "system":
        return turns[0].content, turns[1:]
    if turns and form.default_system_with_input and ALPACA_INPUT in turns[0].content:
        return form.default_system_with_input, turns
    return form.default_system, turns
