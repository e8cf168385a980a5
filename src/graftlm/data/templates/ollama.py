"""A chat template in Go's template language, for Ollama's Modelfile.

Ollama cannot read Jinja. But nearly every chat format is regular: what stands before the first question, between a
question and its answer, and between an answer and the next question is always the same text. So the template is not
translated: those texts are measured, random conversations prove that they are all there is, and they are written down
again in Go.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from graftlm.core.errors import GraftError, ModelError
from graftlm.data.samples import Turn
from graftlm.data.templates.rendering import ChatTemplate

_SYSTEM, _ASKED, _ANSWERED, _NEXT = "graft-system-1", "graft-question-2", "graft-answer-3", "graft-question-4"
_WORDS = ("fever", "发烧", "3.5 mg", "a\nb", "<b>", "{{x}}", '"quoted"', "don't", "é", "100 %", "\\n", "😀")


@dataclass(frozen=True)
class RegularForm:
    """The texts of a chat format around what is said.

    Attributes:
        opening: before the first question where there is no system message.
        before_system, after_system: around a system message, up to the first question; None where the format has none.
        before_answer: between a question and its answer in a conversation.
        before_next: between an answer and the next question.
        prompt: behind the last question, where an answer is to be written.
    """

    opening: str
    before_system: str | None
    after_system: str | None
    before_answer: str
    before_next: str
    prompt: str

    def render(self, turns: Sequence[Turn]) -> str:
        """A conversation that ends with a question."""
        system = turns[0].content if turns[0].role == "system" else None
        said = [turn for turn in turns if turn.role != "system"]
        text = self.opening if system is None else f"{self.before_system}{system}{self.after_system}"
        for turn in said[:-1]:
            text += turn.content + (self.before_answer if turn.role == "user" else self.before_next)
        return text + said[-1].content + self.prompt

    def without_begin(self, begin: str) -> RegularForm:
        """For readers that put the begin token there themselves."""
        system = self.before_system.removeprefix(begin) if self.before_system is not None else None
        return replace(self, opening=self.opening.removeprefix(begin), before_system=system)


def measure(template: ChatTemplate) -> RegularForm:
    """The texts that a template puts around what is said.

    Raises:
        ModelError: the format is not regular (it counts rounds, changes what is said, …).
    """
    asked, answered, following = Turn("user", _ASKED), Turn("assistant", _ANSWERED), Turn("user", _NEXT)
    opening, prompt = _around(template, [asked], [_ASKED])
    _, before_answer, before_next, _ = _around(template, [asked, answered, following], [_ASKED, _ANSWERED, _NEXT])
    before_system = after_system = None
    if _takes_system(template):
        system = Turn("system", _SYSTEM)
        before_system, after_system, _ = _around(template, [system, asked], [_SYSTEM, _ASKED])
    form = RegularForm(opening, before_system, after_system, before_answer, before_next, prompt)
    for turns in conversations(with_system=before_system is not None):
        found, wanted = form.render(turns), template.render(turns, generation_prompt=True).text
        if found != wanted:
            raise _irregular(template, f"a conversation of {len(turns)} turns has other texts than the first")
    return form


def conversations(*, with_system: bool, count: int = 60) -> list[list[Turn]]:
    """Random conversations that end with a question; nothing said begins or ends with white space."""
    draw = random.Random(7)

    def said() -> str:
        return " ".join(draw.choices(_WORDS, k=draw.randint(1, 5)))

    found = []
    for number in range(count):
        turns = [Turn("system", said())] if with_system and number % 2 else []
        for _ in range(number % 4):
            turns += [Turn("user", said()), Turn("assistant", said())]
        found.append([*turns, Turn("user", said())])
    return found


def go_template(form: RegularForm) -> str:
    """The text of Ollama's `TEMPLATE`: renders .Messages, and .System, which Ollama takes out of them."""
    opening = _literal(form.opening)
    if form.before_system is not None:
        system = f"{_literal(form.before_system)}{{{{ .System }}}}{_literal(form.after_system or '')}"
        opening = f"{{{{ if .System }}}}{system}{{{{ else }}}}{opening}{{{{ end }}}}"
    last = _literal(form.before_answer)
    if form.prompt != form.before_answer:
        last = "{{ if $last }}" + _literal(form.prompt) + "{{ else }}" + last + "{{ end }}"
    following = "{{ if not $last }}" + _literal(form.before_next) + "{{ end }}"
    return (
        opening
        + "{{ range $i, $message := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        + '{{ if eq $message.Role "user" }}{{ $message.Content }}'
        + last
        + '{{ else if eq $message.Role "assistant" }}{{ $message.Content }}'
        + following
        + "{{ end }}{{ end }}"
    )


def modelfile(gguf: str, form: RegularForm, stops: Sequence[str]) -> str:
    """Ollama's Modelfile beside a GGUF file.

    Args:
        gguf: the file's name.
        stops: what ends an answer.
    """
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{go_template(form)}"""']
    return "\n".join([*lines, *(f'PARAMETER stop "{stop}"' for stop in stops)]) + "\n"


def _literal(text: str) -> str:
    """Text as a Go template says it: as it is, or, where it would be read as an instruction, as a Go string."""
    if "{{" not in text and '"""' not in text:
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '{{ "' + quoted + '" }}'


def _around(template: ChatTemplate, turns: list[Turn], said: list[str]) -> list[str]:
    """The texts before, between and after what is said."""
    rest, found = template.render(turns, generation_prompt=turns[-1].role == "user").text, []
    for content in said:
        before, there, rest = rest.partition(content)
        if not there or content in rest:
            raise _irregular(template, "what is said does not stand in it once, in order")
        found.append(before)
    return [*found, rest]


def _takes_system(template: ChatTemplate) -> bool:
    try:
        text = template.render([Turn("system", _SYSTEM), Turn("user", _ASKED)], generation_prompt=True).text
    except GraftError:
        return False
    return _SYSTEM in text


def _irregular(template: ChatTemplate, reason: str) -> ModelError:
    return ModelError(
        f"it cannot be written for Ollama: {reason}",
        where=f"chat template {template.name}",
        fix="export with --to gguf: llama.cpp reads the template itself",
    )
