"""A traced template gives what jinja gives, for every content; what looks at a content in other ways is not traced."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from graftlm.core.errors import ModelError
from graftlm.data.samples import Turn
from graftlm.data.templates import tokenizer_template
from graftlm.data.templates.rendering import Rendered

OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def each(body: str) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}" + OPEN


CHATML = each("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n")
ANSWER = "{% if m.role == 'assistant' %}{% generation %}ANSWER{% endgeneration %}{% else %}OTHER{% endif %}"
MARKED = each(
    "<|im_start|>{{ m.role }}\n"
    + ANSWER.replace("ANSWER", "{{ m.content }}<|im_end|>").replace("OTHER", "{{ m.content }}<|im_end|>")
    + "\n"
)
THOUGHTS = each(
    "{% set text = m.content %}{% if m.role == 'assistant' and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}"
)

# Templates whose text depends on the contents in ways that a skeleton can hold, or not at all.
TRACED = {
    "plain": CHATML,
    "marked": MARKED,
    "stop outside the mark": each(
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}|"
        "{% else %}{{ m.content }}\n{% endif %}"
    ),
    "trimmed": each("<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"),
    "thoughts": THOUGHTS,
    "tilde": each("{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}"),
    "macro": "{% macro said(text) %}{{ text }}{% endmacro %}"
    + each("<|im_start|>{{ m.role }}\n{{ said(m.content) }}<|im_end|>\n"),
    "a word asked for": each(
        "<|im_start|>{{ m.role }}\n{% if m.content == 'x' or m.content.startswith('<tool') %}!{% endif %}"
        "{{ m.content }}<|im_end|>\n"
    ),
    "tools that are not there": "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML,
}
# What is put for the content: each looks at it in a way that has no answer without it.
LOOKING = {
    "length": "{% if m.content | length > 3 %}long{% endif %}{{ m.content }}",
    "letter": "{{ m.content[0] }}{{ m.content }}",
    "letters": "{% for letter in m.content %}{{ letter }}{% endfor %}",
    "upper": "{{ m.content.upper() }}{{ m.content }}",
    "filter": "{{ m.content | upper }}{{ m.content }}",
    "json": "{{ m.content | tojson }}{{ m.content }}",
    "replaced": "{{ m.content | replace('a', 'b') }}{{ m.content }}",
    "formatted": "{{ '%s' % m.content }}",
    "formatted in a row": "{% set t = '%s!' % (m.content,) %}{% if 'aa' in t %}!{% endif %}{{ t }}",
    "inside": "{% if m.content in 'abc' %}!{% endif %}{{ m.content }}",
    "joined": "{{ '-'.join([m.content, m.content]) }}",
    "order": "{% if m.content < 'm' %}!{% endif %}{{ m.content }}",
    "test": "{% if m.content is upper %}!{% endif %}{{ m.content }}",
    "strip of letters": "{{ m.content.strip('a') }}{{ m.content }}",
    "a joined text asked": "{% set t = 'a' + m.content %}{% if 'aa' in t %}!{% endif %}{{ m.content }}",
    "a macro's text asked": "{% set t = said(m.content) %}{% if 'aa' in t %}!{% endif %}{{ m.content }}",
    "a block's text asked": "{% set t %}{{ m.content }}{% endset %}{% if t.split('a')|length > 1 %}!{% endif %}{{ t }}",
    "the day": "{{ strftime_now('%d') }}{{ m.content }}",
}
PARTS = ["a", "x", "aa", "hello", "你好", "</think>", "<|im_end|>", "<tool", " ", "\n", "|", "A", "\ue000", "\ue001"]


def template(source: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    tokenizer.chat_template = source
    return tokenizer_template(tokenizer)


def chats(seed: str) -> list[list[Turn]]:
    rng = random.Random(seed)

    def content() -> str:
        return "".join(rng.choices(PARTS, k=rng.randrange(1, 4)))

    found = [[Turn("user", "a"), Turn("assistant", word)] for word in (*PARTS, "")]
    for _ in range(60):
        turns = [Turn("system", content())] if rng.random() < 0.3 else []
        for _ in range(rng.randrange(1, 4)):
            turns += [Turn("user", content()), Turn("assistant", content())]
        found.append(turns)
    return found


def outcome(render: Any, turns: list[Turn]) -> Rendered | str:
    try:
        return render(turns)
    except ModelError as error:
        return str(error)


def shapes(made: Any) -> list[Any]:
    return list(made._shapes.values())


@pytest.mark.parametrize("name", TRACED)
def test_a_traced_template_gives_what_jinja_gives(name: str) -> None:
    made = template(TRACED[name])
    traced = 0
    for turns in chats(name):
        assert outcome(made.render, turns) == outcome(made._rendered, turns)
        shape = made._shapes[tuple(turn.role for turn in turns)]
        traced += shape is not None and shape.fits([turn.content for turn in turns])
    assert traced >= 10, "the contents never fit: the comparison has no teeth"


@pytest.mark.parametrize("name", LOOKING)
def test_what_looks_at_a_content_is_not_traced(name: str) -> None:
    macro = "{% macro said(text) %}a{{ text }}{% endmacro %}"
    made = template(macro + each("<|im_start|>{{ m.role }}\n" + LOOKING[name] + "<|im_end|>\n"))
    for turns in chats(name):
        assert outcome(made.render, turns) == outcome(made._rendered, turns)
    assert not any(shapes(made))


def test_a_template_that_strips_earlier_thoughts_is_traced_only_where_prefixes_hold() -> None:
    source = each(
        "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
        "{{ m.content }}<|im_end|>\n"
    )
    made = template(source)
    pair = [Turn("user", "one"), Turn("assistant", "two")]
    for turns in (pair, pair * 2):
        assert made.render(turns) == made._rendered(turns)
    assert [shape is not None for shape in shapes(made)] == [True, False]


def test_jinja_runs_once_for_conversations_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    made = template(CHATML)
    made.render([Turn("user", "one"), Turn("assistant", "two")])
    monkeypatch.setattr(made, "_text", lambda *_: pytest.fail("jinja was asked again"))
    found = made.render([Turn("user", "three"), Turn("assistant", "four 五")])
    assert found.text.endswith("<|im_start|>assistant\nfour 五<|im_end|>\n")
    assert [found.text[start:end] for start, end in found.targets] == ["four 五<|im_end|>"]
