"""Ollama's templates: an interpreter of the part of Go's template language that they use renders what the chat
template renders, token by token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from graftlm.core.errors import ModelError
from graftlm.data.samples import Turn
from graftlm.data.templates import TEMPLATES, named_template, tokenizer_template
from graftlm.data.templates.ollama import RegularForm, conversations, go_template, measure, modelfile

IRREGULAR = ("chatglm2",)  # counts its rounds
REGULAR = [name for name in TEMPLATES if name not in IRREGULAR]


class Go:
    """Go's text/template, as far as: text, strings, fields, variables, if/else if/else, range, eq, not, len, slice."""

    def __init__(self, source: str) -> None:
        parts = re.split(r'(\{\{(?:"(?:\\.|[^"\\])*"|[^"])*?\}\})', source)
        self.tokens = [part for part in parts if part]
        self.place = 0
        self.body = self.block(())
        assert self.place == len(self.tokens), "an `end` too many"

    def block(self, enders: tuple[str, ...]) -> list[Any]:
        found: list[Any] = []
        while self.place < len(self.tokens):
            token = self.tokens[self.place]
            action = token[2:-2].strip() if token.startswith("{{") else None
            if action is not None and action.split()[0] in enders:
                return found
            self.place += 1
            if action is None:
                found.append(("text", token))
            elif action.startswith("if "):
                found.append(self.branch(action[3:]))
            elif action.startswith("range "):
                names, _, source = action[6:].partition(":=")
                body = self.block(("end",))
                self.place += 1
                found.append(("range", [name.strip() for name in names.split(",")], source.strip(), body))
            elif ":=" in action:
                name, _, value = action.partition(":=")
                found.append(("set", name.strip(), value.strip()))
            else:
                found.append(("show", action))
        assert not enders, "a block without end"
        return found

    def branch(self, condition: str) -> tuple[Any, ...]:
        then = self.block(("else", "end"))
        action = self.tokens[self.place][2:-2].strip()
        self.place += 1
        if action == "end":
            return "if", condition, then, []
        if action.startswith("else if "):
            return "if", condition, then, [self.branch(action[8:])]
        other = self.block(("end",))
        self.place += 1
        return "if", condition, then, other

    def render(self, system: str, messages: list[dict[str, str]]) -> str:
        data = {"System": system, "Messages": messages}
        return "".join(self.run(self.body, {"$": data, ".": data}))

    def run(self, body: list[Any], names: dict[str, Any]) -> Iterator[str]:
        for kind, *rest in body:
            if kind == "text":
                yield rest[0]
            elif kind == "show":
                yield str(evaluate(rest[0], names))
            elif kind == "set":
                names[rest[0]] = evaluate(rest[1], names)
            elif kind == "if":
                yield from self.run(rest[1] if evaluate(rest[0], names) else rest[2], names)
            else:
                (number, item), source, inner = rest
                for place, value in enumerate(evaluate(source, names)):
                    yield from self.run(inner, names | {number: place, item: value, ".": value})


def evaluate(expression: str, names: dict[str, Any]) -> Any:
    tokens = re.findall(r'"(?:\\.|[^"\\])*"|[()]|[^\s()]+', expression)
    value, rest = operand_or_call(tokens, names)
    assert not rest, rest
    return value


def operand_or_call(tokens: list[str], names: dict[str, Any]) -> tuple[Any, list[str]]:
    functions = {
        "eq": lambda a, b: a == b, "not": lambda a: not a, "len": len, "slice": lambda a, start: a[start:],
    }  # fmt: skip
    head = tokens[0]
    if head not in functions:
        return operand(tokens, names)
    rest, arguments = tokens[1:], []
    while rest and rest[0] != ")":
        value, rest = operand(rest, names)
        arguments.append(value)
    return functions[head](*arguments), rest


def operand(tokens: list[str], names: dict[str, Any]) -> tuple[Any, list[str]]:
    head, rest = tokens[0], tokens[1:]
    if head == "(":
        value, rest = operand_or_call(rest, names)
        assert rest[0] == ")"
        return value, rest[1:]
    if head.startswith('"'):
        return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), head[1:-1]), rest
    if head.isdigit():
        return int(head), rest
    start, *fields = head.split(".")
    value = names[start or "."]
    for field in fields:
        value = value[field]
    return value, rest


def rendered(form: RegularForm, turns: list[Turn]) -> str:
    """As Ollama calls a template: system messages stand in .System and in .Messages."""
    system = "".join(turn.content for turn in turns if turn.role == "system")
    return Go(go_template(form)).render(system, [{"Role": turn.role, "Content": turn.content} for turn in turns])


def templates():
    for name in REGULAR:
        yield pytest.param(named_template(name, bos="<|begin|>", eos="<|end|>"), id=name)


@pytest.mark.parametrize("template", templates())
def test_every_named_template_renders_alike(template):
    form = measure(template)
    for turns in conversations(with_system=form.before_system is not None, count=24):
        assert rendered(form, turns) == template.render(turns, generation_prompt=True).text


def test_the_rootstock_reads_the_same_tokens():
    from graftlm.models.loading import load_tokenizer

    tokenizer = load_tokenizer("rootstock")
    template = tokenizer_template(tokenizer)
    form = measure(template)
    for turns in conversations(with_system=True):
        asked = [{"role": turn.role, "content": turn.content} for turn in turns]
        wanted = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
        assert tokenizer(rendered(form, turns), add_special_tokens=False)["input_ids"] == wanted


def test_an_answer_at_the_end_is_left_open():
    form = measure(named_template("chatml"))
    turns = [Turn("user", "a"), Turn("assistant", "It")]
    assert rendered(form, turns).endswith("<|im_start|>assistant\nIt")


@pytest.mark.parametrize("name", IRREGULAR)
def test_an_irregular_format_is_refused(name):
    with pytest.raises(ModelError, match=r"cannot be written for Ollama: a conversation of \d turns"):
        measure(named_template(name, bos="<s>", eos="</s>"))


def test_braces_and_quotes_of_a_format_are_no_instructions():
    form = RegularForm('{{ "x" }}\\', None, None, '\n{{', '"""', "}}\n{{")
    turns = [Turn("user", "{{ a }}"), Turn("assistant", "b"), Turn("user", "c")]
    assert rendered(form, turns) == form.render(turns) == '{{ "x" }}\\{{ a }}\n{{b"""c}}\n{{'
    assert go_template(form).count('"""') == 0


def test_the_begin_token_is_left_to_a_reader_that_adds_it():
    form = measure(named_template("llama2", bos="<s>", eos="</s>"))
    bare = form.without_begin("<s>")
    for turns in conversations(with_system=True, count=8):
        assert "<s>" + bare.render(turns) == form.render(turns)


def test_the_modelfile():
    form = RegularForm("<u>", "<s>", "<u>", "<a>", "<u>", "<a>")
    text = modelfile("model.gguf", form, ["<end>", "<u>"])
    assert text.startswith('FROM ./model.gguf\nTEMPLATE """{{ if .System }}<s>{{ .System }}<u>{{ else }}<u>{{ end }}')
    assert text.endswith('"""\nPARAMETER stop "<end>"\nPARAMETER stop "<u>"\n')
