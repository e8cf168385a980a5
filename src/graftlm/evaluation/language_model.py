"""A transformers model that sits a test: turns and text become tokens, answers and likelihoods come back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from graftlm.data.encode import document_prefix, encode_chats, encode_prompt
from graftlm.data.samples import Turn
from graftlm.data.templates import ChatTemplate, Rendered
from graftlm.evaluation.subject import Advance, Answer, Turns
from graftlm.inference.blanks import blank_config, open_answer
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.inference.likelihood import text_log_probability
from graftlm.inference.scorer import score_choices

_PROBE = "graft-answer-4711"


@dataclass(frozen=True)
class LanguageModel:
    """A `Subject` made of a causal language model and the callables around it; it knows no template.

    Attributes:
        model: a transformers causal language model, peft-wrapped or not.
        encode: a conversation → its tokens up to where the assistant's answer begins.
        encode_text: plain text → tokens, no special tokens added.
        decode: tokens → text, special tokens left out.
        stop_ids: tokens that end an answer.
        pad_id: any token id.
        encode_options: a conversation and possible answers → each answer's tokens as they follow
            `encode(conversation)`; `encode_text` of each when None.
        document_start: what is put before a document and not scored; without it the first token goes unscored.
        stop_strings: strings that end an answer, for templates whose stop is not a token.
        batch_size, batch_tokens: what runs at once.
    """

    model: nn.Module
    encode: Callable[[Turns], list[int]]
    encode_text: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    stop_ids: Collection[int]
    pad_id: int
    encode_options: Callable[[Turns, Sequence[str]], list[list[int]]] | None = None
    document_start: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    batch_size: int = 64
    batch_tokens: int = 32_768

    def option_log_probabilities(
        self, prompts: Sequence[Turns], options: Sequence[Sequence[str]], advance: Advance
    ) -> list[list[float]]:
        scores = score_choices(
            self.model,
            [self.encode(prompt) for prompt in prompts],
            [self._options(prompt, some) for prompt, some in zip(prompts, options, strict=True)],
            pad_id=self.pad_id,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            on_progress=advance,
        )
        return [[score.log_probability for score in row] for row in scores]

    def answers(self, prompts: Sequence[Turns], max_new_tokens: int, advance: Advance) -> list[Answer]:
        completions = generate(
            self.model,
            [self.encode(prompt) for prompt in prompts],
            Decoding(greedy=True, max_new_tokens=max_new_tokens, stop=self.stop_strings),
            stop_ids=self.stop_ids,
            pad_id=self.pad_id,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            decode=self.decode,
            on_progress=advance,
        )
        return [Answer((c.text or "").strip(), c.finish_reason == "stop") for c in completions]

    def text_log_probabilities(self, texts: Sequence[str], advance: Advance) -> list[float]:
        start, blanks = list(self.document_start), blank_config(self.model)
        documents = [self.encode_text(text) for text in texts]
        if blanks is not None:  # a text is what fills a blank behind an empty context
            opened = [open_answer(start, blanks)] * len(texts)
            rows = score_choices(self.model, opened, [[document] for document in documents], pad_id=self.pad_id)
            advance(len(texts))
            return [row[0].log_probability for row in rows]
        found = text_log_probability(self.model, [start + document for document in documents])
        advance(len(texts))
        if len(self.document_start) < 2:
            return [log_p for log_p, _ in found]
        [(of_start, _)] = text_log_probability(self.model, [self.document_start])
        return [log_p - of_start for log_p, _ in found]

    def _options(self, prompt: Turns, options: Sequence[str]) -> list[list[int]]:
        if self.encode_options is None:
            return [self.encode_text(option) for option in options]
        return self.encode_options(prompt, options)


def language_model(
    model: nn.Module,
    tokenizer: Any,
    template: ChatTemplate,
    *,
    batch_size: int = 64,
    batch_tokens: int = 32_768,
) -> LanguageModel:
    """The subject that a model, its tokenizer and a chat template make.

    An option is scored as the training data would hold it: tokenised in one piece with its prompt, with the
    space that the template puts before an answer, without its stop marker. Documents begin with the
    tokenizer's bos or own prefix (eos where it has none). The answer of a model that fills blanks stands behind a
    [gMASK].
    """

    def encode_text(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    blanks = blank_config(model)

    def encode(turns: Turns) -> list[int]:
        prompt = encode_prompt(tokenizer, template, turns)
        return prompt if blanks is None else open_answer(prompt, blanks)

    stop_ids, stop_strings = answer_stops(model, tokenizer, template)
    if blanks is not None and blanks.eop_token_id is not None:
        stop_ids |= {blanks.eop_token_id}
    start = document_prefix(tokenizer) or [token for token in [tokenizer.eos_token_id] if token is not None]
    return LanguageModel(
        model=model,
        encode=encode,
        encode_text=encode_text,
        decode=decode,
        stop_ids=stop_ids,
        pad_id=0,
        encode_options=_OptionEncoder(tokenizer, template),
        document_start=tuple(start),
        stop_strings=stop_strings,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
    )


class _UnstoppedTemplate(ChatTemplate):
    """A template whose answers lack their stop marker."""

    def __init__(self, template: ChatTemplate) -> None:
        self.name, self.markers = template.name, template.markers
        self._template = template
        answer = _rendered_answer(template)
        self._lead = answer[: answer.index(_PROBE)] if _PROBE in answer else ""

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> Rendered:
        """Turns that end with an assistant turn."""
        before = self._template.render(turns[:-1], generation_prompt=True).text
        text = before + self._lead + turns[-1].content
        return Rendered(text, ((len(before), len(text)),))


class _OptionEncoder:
    """Tokens of possible answers as they follow the tokens of their prompt."""

    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        self._tokenizer = tokenizer
        self._template = _UnstoppedTemplate(template)

    def __call__(self, turns: Turns, options: Sequence[str]) -> list[list[int]]:
        chats = [[*turns, Turn("assistant", option)] for option in options]
        encoded = encode_chats(self._tokenizer, self._template, chats)
        return [
            [int(token) for token in one.tokens[one.targets]] or self._alone(option)
            for option, one in zip(options, encoded, strict=True)
        ]

    def _alone(self, option: str) -> list[int]:
        """For a tokenizer that merges the whole answer into the last token of the prompt."""
        return list(self._tokenizer(option, add_special_tokens=False, verbose=False)["input_ids"])


def _rendered_answer(template: ChatTemplate) -> str:
    """How the template writes an answer, its lead and its stop marker included."""
    rendered = template.render([Turn("user", "?"), Turn("assistant", _PROBE)])
    start, end = rendered.targets[-1]
    return rendered.text[start:end]


def plain_stops(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """Tokens that end any text."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id}
    return frozenset(token for token in ends if token is not None)


def answer_stops(
    model: nn.Module, tokenizer: Any, template: ChatTemplate
) -> tuple[frozenset[int], tuple[str, ...]]:
    """Tokens that end an answer, and strings where the template's stop marker is not one token."""
    stop_ids = plain_stops(model, tokenizer)
    marker = _rendered_answer(template).rpartition(_PROBE)[2]
    tail = list(tokenizer(marker, add_special_tokens=False, verbose=False)["input_ids"]) if marker else []
    special = [token for token in tail if token in set(tokenizer.all_special_ids) | stop_ids]
    whole = special or (tail if len(tail) == 1 else [])
    strings = (marker.strip(),) if marker.strip() and not whole else ()
    return stop_ids | set(whole), strings
