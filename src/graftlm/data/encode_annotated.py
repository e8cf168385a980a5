"""From samples to documents for encoders: classes, tags, options, words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from graftlm.core.errors import ModelError
from graftlm.data.annotated import Annotated
from graftlm.data.encode import BATCH, check_tokenizer
from graftlm.data.samples import Classified, Labelled, Tagged, Text
from graftlm.data.tags import Offsets, tags_of_tokens
from graftlm.ops.cross_entropy import IGNORE

ROOM_FOR_QUESTION = 8
"""Tokens of the question that must find room beside the options."""


def encode_classified(
    tokenizer: Any, samples: Sequence[Classified], labels: Sequence[str], *, longest: int
) -> list[Annotated]:
    """A text, or a pair in two segments, with the number of its class at the first token; of texts that are too long
    the longer one loses its end."""
    number = {label: place for place, label in enumerate(labels)}
    return [
        Annotated.of(
            tokens,
            labels=[number.get(sample.label, IGNORE)] + [IGNORE] * (len(tokens) - 1),
            segments=segments,
            cut=cut,
        )
        for sample, (tokens, segments, cut) in zip(samples, _pairs(tokenizer, samples, longest), strict=True)
    ]


def _pairs(tokenizer: Any, samples: Sequence[Classified], longest: int) -> Iterator[tuple[list[int], list[int], int]]:
    """(tokens, segments, tokens cut)"""
    check_tokenizer(tokenizer)
    for sample in samples:
        texts = (sample.text, sample.text_b) if sample.text_b else (sample.text,)
        whole = tokenizer(*texts, return_token_type_ids=True, split_special_tokens=True, verbose=False)
        cut = len(whole["input_ids"]) - longest
        if cut > 0:
            whole = tokenizer(
                *texts,
                truncation="longest_first",
                max_length=longest,
                return_token_type_ids=True,
                split_special_tokens=True,
                verbose=False,
            )
        yield whole["input_ids"], whole["token_type_ids"], max(cut, 0)


def encode_tagged(
    tokenizer: Any, samples: Sequence[Tagged], tags: Sequence[str], *, longest: int
) -> list[tuple[Annotated, Offsets]]:
    """A text with the number of each token's tag, and the characters of its tokens; the end of one that is too long
    is left out."""
    check_tokenizer(tokenizer)
    number = {tag: place for place, tag in enumerate(tags)}
    found: list[tuple[Annotated, Offsets]] = []
    for sample in samples:
        whole = tokenizer(sample.text, return_offsets_mapping=True, split_special_tokens=True, verbose=False)
        cut = len(whole["input_ids"]) - longest
        if cut > 0:
            whole = tokenizer(
                sample.text,
                truncation=True,
                max_length=longest,
                return_offsets_mapping=True,
                split_special_tokens=True,
                verbose=False,
            )
        special = [segment is None for segment in whole.sequence_ids(0)]
        offsets = [
            (0, 0) if left_out else span for left_out, span in zip(special, whole["offset_mapping"], strict=True)
        ]
        named = tags_of_tokens(offsets, sample.entities)
        labels = [IGNORE if left_out else number[tag] for left_out, tag in zip(special, named, strict=True)]
        found.append((Annotated.of(whole["input_ids"], labels=labels, cut=max(cut, 0)), offsets))
    return found


def encode_choice(tokenizer: Any, sample: Labelled, *, longest: int) -> Annotated | None:
    """A question with its options, laid out so that their order does not count (UniMC, arXiv 2210.08590):

        [CLS] [MASK] option 1 [MASK] option 2 … [SEP] question [SEP]

    Positions of every option begin at 1, those of the rest behind the longest option; the first [SEP] and the options
    are segment 1. The label at an option's mask is 1 where it is right. A long question loses its beginning.

    Returns:
        None when the options leave no room for the question.

    Raises:
        ModelError: the tokenizer has no [CLS], [SEP] or [MASK].
    """
    cls, sep, mask = _marks(tokenizer)
    options = [[mask, *_plain(tokenizer, option)] for option in sample.choices]
    asked = _plain(tokenizer, "\n".join(turn.content for turn in sample.prompt))
    room = longest - 3 - sum(map(len, options))
    if room < min(ROOM_FOR_QUESTION, len(asked)):
        return None
    cut = max(0, len(asked) - room)
    tail = [sep, *asked[cut:], sep]
    first = 1 + max(map(len, options))
    right = [
        [int(text in sample.answers)] + [IGNORE] * (len(one) - 1)
        for text, one in zip(sample.choices, options, strict=True)
    ]
    inside = [token for option in options for token in option]
    return Annotated.of(
        [cls, *inside, *tail],
        labels=[IGNORE, *(label for one in right for label in one), *[IGNORE] * len(tail)],
        segments=[0, *[1] * (len(inside) + 1), *[0] * (len(tail) - 1)],
        positions=[0, *(1 + place for one in options for place in range(len(one))), *range(first, first + len(tail))],
        groups=[0, *(place for place, one in enumerate(options, 1) for _ in one), *[0] * len(tail)],
        cut=cut,
    )


def encode_words(tokenizer: Any, texts: Sequence[Text], *, longest: int) -> list[Annotated]:
    """Texts for masked-language modelling; every token knows its word. A long text goes on in further documents.

    Words are what the tokenizer splits a text into before it makes pieces; a Chinese character is one by itself.
    """
    check_tokenizer(tokenizer)
    cls, sep, _ = _marks(tokenizer)
    found = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            [text.text for text in texts[start : start + BATCH]],
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
        )
        for number, ids in enumerate(batch["input_ids"]):
            words = [0 if word is None else word + 1 for word in batch.word_ids(number)]
            for begin in range(0, len(ids), longest - 2):
                part = slice(begin, begin + longest - 2)
                found.append(Annotated.of([cls, *ids[part], sep], groups=[0, *words[part], 0]))
    return found


def _plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return ids


def _marks(tokenizer: Any) -> tuple[int, int, int]:
    """Ids of [CLS], [SEP] and [MASK], whatever the tokenizer calls them."""
    marks = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
    if None in marks:
        raise ModelError(
            "the tokenizer has no marks for beginning, separator and mask",
            where=str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__),
            fix="use an encoder that was trained by masking: BERT, MegatronBert, RoBERTa …",
        )
    return marks
