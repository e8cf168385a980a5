"""A transformers model that sits a published test: strings become tokens as lm-evaluation-harness makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from graftlm.core.errors import ModelError
from graftlm.data.samples import Turn
from graftlm.data.templates import ChatTemplate
from graftlm.evaluation.language_model import answer_stops, plain_stops
from graftlm.evaluation.subject import Advance
from graftlm.evaluation.text_subject import CannotSit, Likelihood, Open, Options, Passage, Writing
from graftlm.inference.blanks import blank_config, open_answer
from graftlm.inference.cached import position_limit
from graftlm.inference.decoding import Decoding
from graftlm.inference.generation import generate
from graftlm.inference.scorer import score_choices

Tokens = list[int]


class TextModel:
    """A `TextSubject` made of a causal language model and its tokenizer.

    Context and continuation are tokenised in one piece, and cut where the context's own tokens end; spaces at the end
    of the context go to the continuation. Special tokens are added as the tokenizer does by itself. An empty context
    is the bos token, else eos. What is longer than the model's positions loses its beginning; `truncated` counts
    such rows.

    Args:
        stop_ids: tokens that end a free answer.
        stop_strings: strings that do so beside the test's own, as those of a chat template.
        max_length: positions to use; the model's own when None.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        stop_ids: frozenset[int],
        stop_strings: tuple[str, ...] = (),
        max_length: int | None = None,
        batch_size: int = 64,
        batch_tokens: int = 32_768,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.truncated = 0
        self._stop_ids, self._stop_strings = stop_ids, stop_strings
        self._limit = max_length or position_limit(model)
        self._batch_size, self._batch_tokens = batch_size, batch_tokens
        self._blanks = blank_config(model)
        if self._blanks is not None:
            self._limit = self._limit and self._limit - 2  # a mark and the answer's start stand behind the context
            if self._blanks.eop_token_id is not None:
                self._stop_ids |= {self._blanks.eop_token_id}
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if first is None:
            raise ModelError("the tokenizer has neither bos nor eos", fix="a text needs a token to begin after")
        self._first = int(first)
        self._first_text = str(tokenizer.decode([self._first]))

    def continuation_likelihoods(self, questions: Sequence[Options], advance: Advance) -> list[list[Likelihood]]:
        pairs = [pair for one in questions for pair in zip(one.contexts, one.continuations, strict=True)]
        found = iter(self._likelihoods(self.encode_pairs(pairs), [len(one.contexts) for one in questions], advance))
        return [[next(found) for _ in one.contexts] for one in questions]

    def text_likelihoods(self, passages: Sequence[Passage], advance: Advance) -> list[float]:
        """Windows as the harness rolls them: each token once, the last window reaching back as far as it can."""
        documents = self._encode([passage.text for passage in passages], special=False)
        windows = [list(rolling_windows(document, self._first, self._limit)) for document in documents]
        flat = [window for some in windows for window in some]
        found = iter(self._likelihoods(flat, [len(some) for some in windows], advance))
        return [sum(next(found).log_p for _ in some) for some in windows]

    def completions(self, prompts: Sequence[Open], writing: Writing, advance: Advance) -> list[list[str]]:
        room = writing.max_tokens
        if self._limit is not None and room >= self._limit:
            reason = f"an answer may have {room} tokens, the model has {self._limit} positions"
            raise CannotSit(reason, fix="lower generation.max_tokens in the task file")
        encoded = self._encode_prompts([prompt.prompt for prompt in prompts])
        asked = [self._open(self._cut(tokens or [self._first], room)) for tokens in encoded]
        decoding = Decoding(
            greedy=writing.temperature == 0,
            temperature=writing.temperature,
            top_p=writing.top_p,
            top_k=writing.top_k,
            max_new_tokens=room,
            seed=writing.seed,
            stop=(*writing.until, *self._stop_strings),
        )
        answers: list[list[str]] = [[] for _ in prompts]
        for sample in range(writing.samples):
            done = generate(
                self.model, asked, decoding.model_copy(update={"seed": writing.seed + sample}),
                stop_ids=self._stop_ids, pad_id=0, batch_size=self._batch_size, batch_tokens=self._batch_tokens,
                decode=self._decode, on_progress=advance if sample == 0 else None,
            )  # fmt: skip
            for texts, completion in zip(answers, done, strict=True):
                texts.append(completion.text or "")
        return answers

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
        """Tokens of each (context, continuation)."""
        moved = [_move_spaces(context, continuation) for context, continuation in pairs]
        contexts = list({context: None for context, _ in moved if context})
        of_context = dict(zip(contexts, self._encode_prompts(contexts), strict=True))
        wholes = self._encode_prompts([context + continuation for context, continuation in moved if context])
        alone = self._encode([continuation for context, continuation in moved if not context], special=False)
        whole, bare = iter(wholes), iter(alone)
        found = []
        for context, continuation in moved:
            if not context:
                found.append(self._after_nothing(next(bare)))
                continue
            head = of_context[context]
            # A tokenizer that merges the whole continuation into the context leaves nothing: it then stands alone.
            found.append((head, next(whole)[len(head) :] or self._encode([continuation], special=False)[0]))
        return found

    def _after_nothing(self, continuation: Tokens) -> tuple[Tokens, Tokens]:
        if continuation[:1] == [self._first] and len(continuation) > 1:
            return continuation[:1], continuation[1:]
        return [self._first], continuation

    def _likelihoods(
        self, pairs: list[tuple[Tokens, Tokens]], group_sizes: Sequence[int], advance: Advance
    ) -> list[Likelihood]:
        """Likelihoods in order; neighbours with the same context are scored together."""
        groups: list[tuple[Tokens, list[Tokens]]] = []
        finishes: list[int] = []  # questions that end with this group
        rest = iter(pairs)
        for size in group_sizes:
            fitted = [self._fitting(*next(rest)) for _ in range(size)]
            self.truncated += any(cut for _, _, cut in fitted)
            for place, (context, continuation, _) in enumerate(fitted):
                if place and groups[-1][0] == context:
                    groups[-1][1].append(continuation)
                else:
                    groups.append((context, [continuation]))
                    finishes.append(0)
            if size:
                finishes[-1] += 1
            else:
                advance(1)
        scores = score_choices(
            self.model,
            [self._open(context) for context, _ in groups],
            [some for _, some in groups],
            pad_id=0,
            batch_size=self._batch_size,
            batch_tokens=self._batch_tokens,
            on_progress=_questions(advance, len(groups), sum(finishes)),
        )
        return [Likelihood(one.log_probability, one.greedy) for some in scores for one in some]

    def _fitting(self, context: Tokens, continuation: Tokens) -> tuple[Tokens, Tokens, bool]:
        """The pair without its beginning where it is too long, and whether it was; the last token is never read."""
        if self._limit is None or len(context) + len(continuation) <= self._limit + 1:
            return context, continuation, False
        kept = self._limit + 1 - len(continuation)
        if kept < 1:
            reason = f"an option has {len(continuation)} tokens, the model {self._limit} positions"
            raise CannotSit(reason, fix="leave the test out")
        return context[-kept:], continuation, True

    def _cut(self, tokens: Tokens, room: int) -> Tokens:
        """The end of a prompt that leaves room for an answer."""
        if self._limit is None or len(tokens) + room <= self._limit:
            return tokens
        self.truncated += 1
        return tokens[-(self._limit - room) :]

    def _open(self, context: Tokens) -> Tokens:
        """The context of a model that fills blanks ends where its answer begins."""
        return context if self._blanks is None else open_answer(context, self._blanks)

    def _encode_prompts(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens with those that the tokenizer adds by itself, unless a text begins with bos already."""
        begun = [text.startswith(self._first_text) for text in texts]
        own = iter(self._encode([text for text, has in zip(texts, begun, strict=True) if has], special=False))
        added = iter(self._encode([text for text, has in zip(texts, begun, strict=True) if not has], special=True))
        return [next(own) if has else next(added) for has in begun]

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[Tokens]:
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False)
        return [list(tokens) for tokens in encoded["input_ids"]]

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def text_model(model: nn.Module, tokenizer: Any, template: ChatTemplate | None = None) -> TextModel:
    """The subject that a model and its tokenizer make; with a chat template, answers also end where its answers do."""
    if template is None:
        return TextModel(model, tokenizer, stop_ids=plain_stops(model, tokenizer))
    stop_ids, stop_strings = answer_stops(model, tokenizer, template)
    return TextModel(model, tokenizer, stop_ids=stop_ids, stop_strings=stop_strings)


def chat_frame(template: ChatTemplate) -> Callable[[str], str]:
    """A question, its description and examples included, as one user turn, up to where the answer begins."""
    return lambda text: template.render([Turn("user", text)], generation_prompt=True).text


def rolling_windows(tokens: Tokens, first: int, limit: int | None) -> list[tuple[Tokens, Tokens]]:
    """A document as (context, continuation) pairs that predict each token once.

    The first window follows the token `first`; each further one has `limit` tokens to read in all, so the last one,
    which predicts fewer, sees more of what stands before it (lm-evaluation-harness, loglikelihood_rolling).
    """
    if not tokens:
        return []
    limit = limit or len(tokens)
    windows = [([first], tokens[:limit])]
    for done in range(limit, len(tokens), limit):
        end = min(done + limit, len(tokens))
        windows.append((tokens[max(0, end - limit - 1) : done], tokens[done:end]))
    return windows


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def _questions(advance: Advance, groups: int, questions: int) -> Advance:
    """Turns groups that are done into questions that are done, by their share."""
    done, told = 0, 0

    def count(more: int) -> None:
        nonlocal done, told
        done += more
        now = done * questions // groups
        advance(now - told)
        told = now

    return count
