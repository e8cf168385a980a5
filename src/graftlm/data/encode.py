"""From text to token ids with a target mask, by the character offsets of one single tokenisation.

The whole rendered text is tokenised once. Pieces are never tokenised apart and joined: tokens at the seams
would differ from what the model meets at generation.

Which token is a target: one whose character span *starts* inside a target span, zero-width spans included. So
- a token that begins before an answer and reaches into it is not learnt (its beginning is given, not said);
- a token that begins in an answer and reaches past its end is learnt;
- the tokens of one multi-byte character all have the character's span and go together;
- a zero-width token (the "▁" that SentencePiece tokenizers put at the head of a segment) goes with the text
  that follows it: right after the generation prompt it is the first thing the model has to say.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from graftlm.core.errors import ModelError
from graftlm.data.samples import Chat, Preference, Text, Turn, Unpaired
from graftlm.data.templates import ChatTemplate, Rendered
from graftlm.data.token_places import Located, locate

BATCH = 1000
"""Texts given to the tokenizer at a time: it splits them over the CPU cores, and memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document in tokens.

    Attributes:
        tokens: [n] uint32 ids.
        targets: [n] bool; whether this token is to be predicted; never the first: nothing precedes it.
        value: a number that belongs to the document: the strength of a preference (on both its answers), 1 or
            -1 for an answer that is wanted or not.
    """

    tokens: np.ndarray
    targets: np.ndarray
    value: float = 0.0


def encode_texts(tokenizer: Any, texts: Sequence[Text | str]) -> list[Encoded]:
    """Documents for pre-training: bos or the tokenizer's own prefix, if any, the text, eos (if it has one).

    Every token but the first, or but the prefix, is a target. Special tokens spelled out in a document are plain
    characters.
    """
    check_tokenizer(tokenizer)
    plain = [text if isinstance(text, str) else text.text for text in texts]
    head = document_prefix(tokenizer)
    tail = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    encoded: list[Encoded] = []
    for start in range(0, len(plain), BATCH):
        batch = tokenizer(
            plain[start : start + BATCH],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            split_special_tokens=True,
            verbose=False,
        )
        tokens, edges, ends = array("I"), array("q"), array("q", [0])
        for ids in batch["input_ids"]:
            tokens.fromlist([*head, *ids, *tail])
            ends.append(len(tokens))
            edges.fromlist([ends[-2] + len(head), ends[-1]])
        encoded += _documents(Located(np.array(tokens, np.uint32), np.array(edges), np.array(ends)))
    return encoded


def encode_chats(
    tokenizer: Any, template: ChatTemplate, chats: Sequence[Chat | Sequence[Turn]]
) -> list[Encoded]:
    """Conversations for instruction tuning: every answer is a target, its stop marker included."""
    rendered = []
    for chat in chats:
        whole = template.render(chat.turns if isinstance(chat, Chat) else chat)
        last_only = isinstance(chat, Chat) and chat.last_only
        rendered.append(Rendered(whole.text, whole.targets[-1:]) if last_only else whole)
    return _encode_rendered(tokenizer, rendered)


def encode_preferences(
    tokenizer: Any, template: ChatTemplate, preferences: Sequence[Preference]
) -> list[tuple[Encoded, Encoded]]:
    """(chosen, rejected) for each pair; only the final answer is a target, its stop marker included.

    Both carry the strength of the preference as their value (0 where nobody said).
    """
    answers = [(one.prompt, text) for one in preferences for text in (one.chosen, one.rejected)]
    encoded = _valued(
        encode_answers(tokenizer, template, answers),
        [preference.strength or 0.0 for preference in preferences for _ in range(2)],
    )
    return list(zip(encoded[0::2], encoded[1::2], strict=True))


def encode_unpaired(
    tokenizer: Any, template: ChatTemplate, answers: Sequence[Unpaired]
) -> list[tuple[Encoded, Encoded]]:
    """(answer, mismatched answer) for each sample: its own, of value 1 or -1, and an earlier one's to another prompt.

    The mismatched one tells how far the policy has moved on unrelated text: KTO's reference point.
    """
    texts = [
        (one.prompt, text)
        for place, one in enumerate(answers)
        for text in (one.completion, _unrelated(answers, place).completion)
    ]
    values = [value for one in answers for value in (1.0 if one.desirable else -1.0, 0.0)]
    encoded = _valued(encode_answers(tokenizer, template, texts), values)
    return list(zip(encoded[0::2], encoded[1::2], strict=True))


def _unrelated(answers: Sequence[Unpaired], place: int) -> Unpaired:
    """The nearest answer before this one (from the end again) to another prompt; itself when all are to one prompt."""
    others = (answers[place - back] for back in range(1, len(answers)))
    return next((other for other in others if other.prompt != answers[place].prompt), answers[place])


def encode_answers(
    tokenizer: Any, template: ChatTemplate, answers: Sequence[tuple[Sequence[Turn], str]]
) -> list[Encoded]:
    """(conversation, answer) each as one document; only the answer is a target, its stop marker included."""
    rendered = []
    for prompt, answer in answers:
        whole = template.render([*prompt, Turn("assistant", answer)])
        rendered.append(Rendered(whole.text, whole.targets[-1:]))
    return _encode_rendered(tokenizer, rendered)


def encode_question_answers(
    tokenizer: Any, pairs: Sequence[tuple[Sequence[Turn], str]], *, max_tokens: int | None = None
) -> list[Encoded]:
    """(conversation, answer) each as a pair of segments for an encoder, special tokens included.

    The question is the last user's turn alone when there is only one turn, else one line a turn. One that is too
    long loses its beginning, never the answer's end. The last token alone is a target: a document whose answer
    alone exceeds `max_tokens` comes back as long as it is, and `truncate` then drops and counts it.
    """
    check_tokenizer(tokenizer)
    encoded = []
    for start in range(0, len(pairs), BATCH):
        part = pairs[start : start + BATCH]
        asked = [
            turns[0].content if len(turns) == 1 else "\n".join(f"{turn.role}: {turn.content}" for turn in turns)
            for turns, _ in part
        ]
        batch = tokenizer(
            asked,
            [answer for _, answer in part],
            return_attention_mask=False,
            split_special_tokens=True,
            verbose=False,
        )
        for number, ids in enumerate(batch["input_ids"]):
            tokens = np.array(ids, dtype=np.uint32)
            question = np.array([segment == 0 for segment in batch.sequence_ids(number)], dtype=bool)
            excess = max(0, len(tokens) - (max_tokens or len(tokens)))
            tokens = tokens[~(question & (np.cumsum(question) <= excess))]
            encoded.append(Encoded(tokens, np.arange(len(tokens)) == len(tokens) - 1))
    return encoded


def _valued(encoded: Sequence[Encoded], values: Sequence[float]) -> list[Encoded]:
    return [replace(one, value=value) for one, value in zip(encoded, values, strict=True)]


def encode_prompt(tokenizer: Any, template: ChatTemplate, turns: Sequence[Turn]) -> list[int]:
    """Token ids of a conversation to be answered, up to where the answer begins."""
    rendered = template.render(turns, generation_prompt=True)
    return [int(token) for token in _encode_rendered(tokenizer, [rendered])[0].tokens]


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that does not tell the characters of its tokens."""
    if getattr(tokenizer, "is_fast", False):
        return
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    reason = "the tokenizer does not give character offsets, which the target mask is made from"
    fix = "load it as a fast one (use_fast=True) or convert it: save it as tokenizer.json with transformers"
    raise ModelError(reason, where=name, fix=fix)


def _encode_rendered(tokenizer: Any, rendered: Sequence[Rendered]) -> list[Encoded]:
    check_tokenizer(tokenizer)
    bos = tokenizer.bos_token if _adds_bos(tokenizer) else None
    encoded: list[Encoded] = []
    for start in range(0, len(rendered), BATCH):
        encoded += _documents(locate(tokenizer, rendered[start : start + BATCH], bos))
    return encoded


def document_prefix(tokenizer: Any) -> list[int]:
    """What documents begin with: bos; of a tokenizer without one what it puts itself before a text (ChatGLM: two
    marks), if that is all it adds; else nothing."""
    if tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id]
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    return list(whole[: -len(plain)]) if whole[-len(plain) :] == plain else []


def _documents(located: Located) -> list[Encoded]:
    """One document a text, as views of what they have in common."""
    T = len(located.tokens)
    # An odd number of edges at or before a token: it stands inside a span.
    targets_T = np.cumsum(np.bincount(located.edges, minlength=T + 1)[:T]) % 2 == 1
    targets_T[located.ends[:-1][np.diff(located.ends) > 0]] = False  # nothing precedes the first one
    return [Encoded(located.tokens[a:b], targets_T[a:b]) for a, b in pairwise(located.ends.tolist())]


def _adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself begins every text with bos (Llama does, Qwen and GPT-2 do not)."""
    if tokenizer.bos_token_id is None:
        return False
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id
