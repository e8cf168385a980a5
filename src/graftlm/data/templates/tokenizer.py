"""A tokenizer's own (jinja) chat template, and where its answers stand in the text.

Three ways, tried in this order:
1. `{% generation %}` marks in the template name the answers outright.
2. Growing prefixes: the text of the turns before an answer, with generation prompt, and the text up to and
   with the answer must both begin the whole text; the answer is what lies between.
3. Templates that render earlier turns otherwise once later ones exist (they strip the thinking, for instance)
   are searched: each turn's text is looked for behind the end of the turn before it.

All of that takes several renderings a conversation. Where the template allows it, the first two ways are gone once for
all conversations with the same roles (see graftlm.data.templates.tracing); the result is the same.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from graftlm.core.errors import ModelError
from graftlm.data.samples import Turn
from graftlm.data.templates.rendering import ChatTemplate, Rendered
from graftlm.data.templates.tracing import FIRST, Shape, TracedTemplate, Untraceable

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SENTINEL = "graft-answer-4711"
_FIX = "choose a named template (`template: chatml`, see graftlm.data.templates.TEMPLATES)"


def tokenizer_template(tokenizer: Any) -> ChatTemplate:
    """The chat template that comes with a tokenizer.

    Raises:
        ModelError: the tokenizer has none; or, on rendering, the template refuses the turns or its answers
            cannot be located.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError("the tokenizer has no chat template of its own", where=_name(tokenizer), fix=_FIX)
    return _TokenizerTemplate(tokenizer)


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "tokenizer")


def _special_strings(tokenizer: Any) -> tuple[str, ...]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *(t.content for t in added if t.special)]))


class _TokenizerTemplate(ChatTemplate):
    def __init__(self, tokenizer: Any) -> None:
        self.name = _name(tokenizer)
        self.markers = _special_strings(tokenizer)
        self._tokenizer = tokenizer
        self._source: str = tokenizer.get_chat_template()
        self._marked = _GENERATION_MARK.search(self._source) is not None
        self._stop: str | None = None
        self._shapes: dict[tuple[str, ...], Shape | None] = {}
        self._traced: TracedTemplate | None = None
        with contextlib.suppress(Untraceable):
            self._traced = TracedTemplate(self._source, dict(tokenizer.special_tokens_map))

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> Rendered:
        if not generation_prompt and self._traced is not None:
            roles, contents = tuple(turn.role for turn in turns), [turn.content for turn in turns]
            if roles not in self._shapes:
                self._shapes[roles] = self._shape(self._traced, roles)
            shape = self._shapes[roles]
            if shape is not None and shape.fits(contents):
                return Rendered(*shape.fill(contents))
        return self._rendered(turns, generation_prompt)

    def _rendered(self, turns: Sequence[Turn], generation_prompt: bool = False) -> Rendered:
        text = self._text(turns, generation_prompt)
        if not any(turn.role == "assistant" for turn in turns):
            return Rendered(text, ())
        if self._marked:
            return Rendered(text, self._marked_spans(turns, text))
        spans = self._prefix_spans(turns, text, self._text) or self._searched_spans(turns, text)
        return Rendered(text, spans)

    def _shape(self, traced: TracedTemplate, roles: tuple[str, ...]) -> Shape | None:
        """What all conversations with these roles have in common; None where that depends on their contents."""
        try:
            shape = self._traced_shape(traced, roles)
            probe = [Turn(role, f"{_SENTINEL}-{number}") for number, role in enumerate(roles)]  # type: ignore[arg-type]
            wanted = self._rendered(probe)
        except (Untraceable, Exception):  # what is wrong with the conversation, if anything, jinja shall say
            return None
        contents = [turn.content for turn in probe]
        alike = shape.fits(contents) and shape.fill(contents) == (wanted.text, wanted.targets)
        return shape if alike else None

    def _traced_shape(self, traced: TracedTemplate, roles: tuple[str, ...]) -> Shape:
        asked: set[str] = set()

        def text_of(turns: Sequence[Turn], generation_prompt: bool) -> str:
            return traced.run([turn.role for turn in turns], asked, generation_prompt=generation_prompt)[0]

        turns = [Turn(role, chr(FIRST + number)) for number, role in enumerate(roles)]  # type: ignore[arg-type]
        skeleton, marked = traced.run(roles, asked, generation_prompt=False)
        if "assistant" not in roles:
            return Shape(skeleton, (), asked)
        stop = self._stop_marker()
        if self._marked:
            spans = self._checked_marks(turns, skeleton, marked)
            asked.update([stop] if stop else [])
            # A block that is nothing but the content: whether the stop marker ends it is asked. In any other, what
            # stands behind the content would have to be looked at, too.
            blocks = [skeleton[start:end].rstrip() for start, end in marked]
            sure = all(len(block) == 1 or block.endswith(stop) for block in blocks)
        else:
            found = self._prefix_spans(turns, skeleton, text_of)
            spans, sure = found or (), bool(found)
        if not sure or not all(skeleton.endswith(stop, 0, end) for _, end in spans):
            raise Untraceable
        return Shape(skeleton, spans, asked)

    def _text(self, turns: Sequence[Turn], generation_prompt: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                _messages(turns), tokenize=False, add_generation_prompt=generation_prompt
            )
        except Exception as error:  # templates raise jinja errors, and Python's own from inside expressions
            reason = f"the tokenizer's chat template refuses the conversation: {error}"
            raise ModelError(reason, where=self.name, fix=_FIX) from error
        return str(text)

    def _marked_spans(self, turns: Sequence[Turn], text: str) -> tuple[tuple[int, int], ...]:
        from transformers.utils.chat_template_utils import render_jinja_template

        special = self._tokenizer.special_tokens_map
        result: Any = render_jinja_template(  # with the mask asked for, it returns a pair
            [_messages(turns)], chat_template=self._source, return_assistant_tokens_mask=True, **special
        )
        rendered, spans = result
        if not text.startswith(rendered[0]):
            raise ModelError("the template's generation marks do not fit its text", where=self.name, fix=_FIX)
        return self._checked_marks(turns, text, spans[0])

    def _checked_marks(
        self, turns: Sequence[Turn], text: str, spans: Sequence[tuple[int, int]]
    ) -> tuple[tuple[int, int], ...]:
        answers = sum(turn.role == "assistant" for turn in turns)
        if len(spans) != answers:
            reason = f"the template marks {len(spans)} of {answers} answers for generation"
            raise ModelError(reason, where=self.name, fix=_FIX)
        return tuple(self._with_stop(text, start, end) for start, end in spans)

    def _with_stop(self, text: str, start: int, end: int) -> tuple[int, int]:
        """Marks that leave the stop marker outside would train a model that never stops: take it in."""
        stop = self._stop_marker()
        marked = text[start:end].rstrip()
        if stop and marked.endswith(stop):
            return start, start + len(marked)
        return (start, end + len(stop)) if text.startswith(stop, end) else (start, end)

    def _stop_marker(self) -> str:
        """What follows an answer at the end of the text, without its trailing space."""
        if self._stop is None:
            probe = self._text([Turn("user", "?"), Turn("assistant", _SENTINEL)], False)
            self._stop = probe.rpartition(_SENTINEL)[2].rstrip()
        return self._stop

    def _prefix_spans(
        self, turns: Sequence[Turn], text: str, text_of: Callable[[Sequence[Turn], bool], str]
    ) -> tuple[tuple[int, int], ...] | None:
        spans: list[tuple[int, int]] = []
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            try:
                before = text_of(turns[:number], True)
                after = text if number + 1 == len(turns) else text_of(turns[: number + 1], False)
            except ModelError:
                return None  # some templates refuse a conversation that stops early; searching may still work
            stop = self._stop_marker()
            # Only the space behind the stop marker is cut: an answer may itself end in space.
            cut = after.rstrip() if stop and after.rstrip().endswith(stop) else after
            if not (text.startswith(before) and text.startswith(cut) and len(before) < len(cut)):
                return None
            if turn.content.strip() not in cut[len(before) :]:
                return None
            spans.append((len(before), len(cut)))
        return tuple(spans)

    def _searched_spans(self, turns: Sequence[Turn], text: str) -> tuple[tuple[int, int], ...]:
        spans: list[tuple[int, int]] = []
        header = self._answer_header()
        stop = self._stop_marker()
        cursor = 0
        for number, turn in enumerate(turns, start=1):
            if turn.role != "assistant":
                cursor = self._find(turn.content.strip(), text, cursor, number, turn.role)[1]
                continue
            # A generation prompt may close an empty thought; an answer that thinks opens without that.
            short = header.partition("<think>")[0]
            found, opening = self._find(short, text, cursor, number, "opening of the assistant")
            if text.startswith(header, found):
                opening = found + len(header)
            cursor = self._answer_end(_spoken(turn.content), text, opening, number, stop)
            spans.append((opening, cursor))
        return tuple(spans)

    def _answer_end(self, answer: str, text: str, start: int, number: int, stop: str) -> int:
        """Behind the stop marker that follows the answer: the same words may stand in its thinking, too."""
        while True:
            start, end = self._find(answer, text, start, number, "assistant")
            if not stop:
                return end
            behind = len(text[end:]) - len(text[end:].lstrip())
            if text.startswith(stop, end + behind):
                return end + behind + len(stop)
            start += 1

    def _answer_header(self) -> str:
        """The generation prompt alone."""
        turns = [Turn("user", "?")]
        with_prompt, without = self._text(turns, True), self._text(turns, False)
        return with_prompt.removeprefix(without) if with_prompt.startswith(without) else ""

    def _find(self, part: str, text: str, cursor: int, number: int, what: str) -> tuple[int, int]:
        start = text.find(part, cursor)
        if start < 0:
            reason = f"the text of turn {number} ({what}) is not found in what the tokenizer's template made"
            raise ModelError(reason, where=self.name, fix=_FIX)
        return start, start + len(part)


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _spoken(answer: str) -> str:
    """An answer without its thinking, the part that every template keeps."""
    return answer.rpartition("</think>")[2].strip()
