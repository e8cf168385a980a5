"""From a recipe's blocks to token stores, with every row accounted for."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import DataError
from graftlm.core.files import atomic_folder, cache_folder
from graftlm.core.hashing import hash_value
from graftlm.data.encode import (
    Encoded,
    encode_chats,
    encode_preferences,
    encode_question_answers,
    encode_texts,
    encode_unpaired,
)
from graftlm.data.samples import Chat, Preference, Sample, Text, Unpaired
from graftlm.data.store import TokenStore
from graftlm.data.templates import ChatTemplate
from graftlm.data.truncation import Truncation, truncate
from graftlm.models.reward import is_encoder_place
from graftlm.recipes.schema import Block
from graftlm.recipes.sources import held_out_places, read_source, source_key
from graftlm.recipes.stage_settings import (
    BaseStage,
    BestOfStage,
    EncoderStage,
    GradientStage,
    ImageTextStage,
    KtoStage,
    PolicyStage,
    PreferenceStage,
    RewardStage,
    Seq2SeqStage,
)

STORE_FORMAT = 2
CHUNK = 500
"""Samples encoded at a time, each time by one process."""

Form = Literal["language", "pairs", "question_answer_pairs", "thumbs"]
"""What a stage makes of a block: text and answers; pairs of answers (for a language model's trunk, or in the layout of
an encoder's question and answer); answers with a thumb up or down."""

UNTOKENISED = (PolicyStage, BestOfStage, EncoderStage, ImageTextStage, Seq2SeqStage)
"""Stages that answer prompts, or read their rows themselves."""

ACCEPTED: dict[Form, tuple[str, ...]] = {
    "language": ("text", "chat"),
    "pairs": ("preference",),
    "question_answer_pairs": ("preference",),
    "thumbs": ("unpaired", "preference"),
}
NEEDS: dict[Form, str] = {
    "language": "documents, or conversations that end with an answer",
    "pairs": "pairs of answers: rows with `chosen` and `rejected`",
    "question_answer_pairs": "pairs of answers: rows with `chosen` and `rejected`",
    "thumbs": "answers with a thumb up or down, or pairs of answers: rows with `chosen` and `rejected`",
}


@dataclass(frozen=True)
class TokenisedBlock:
    """A block ready for training."""

    train: TokenStore
    held_out: TokenStore


def tokenise(
    name: str,
    block: Block,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    tokenizer_key: str,
    longest: int,
    form: Form = "language",
) -> TokenisedBlock:
    """The block's token stores, from the cache when this very content was tokenised before.

    Text longer than `longest` is continued in further documents; chats and answers are cut and counted.

    Raises:
        DataError: the rows are of a kind that the form cannot be made of.
    """
    key = hash_value([STORE_FORMAT, source_key(block), tokenizer_key, longest, form])
    folder = cache_folder() / "tokens" / key
    if not (folder / "held_out" / "meta.json").is_file():
        rows = read_source(name, block)
        if rows.kind not in ACCEPTED[form]:
            raise DataError(
                f"it holds {rows.kind} rows, which this stage cannot learn from",
                where=f"data.{name}",
                fix=f"give {NEEDS[form]}; test items (labelled) belong under `evaluation`",
            )
        kept_back = held_out_places(len(rows.samples), block.held_out)
        spare = [rows.samples[place] for place in sorted(kept_back)]
        counts = {"read": rows.read, "refused": len(rows.faults)}
        encoder = Encoder(tokenizer, template, longest, form)
        with atomic_folder(folder, keep=True) as made:  # two runs may tokenise the same block at the same time
            _write_store(made / "train", Remainder(rows.samples, kept_back), encoder, rows.kind, counts)
            _write_store(made / "held_out", Remainder(spare, frozenset()), encoder, rows.kind, {})
    return TokenisedBlock(TokenStore.open(folder / "train"), TokenStore.open(folder / "held_out"))


@dataclass(frozen=True)
class Remainder:
    """Samples without those at some places."""

    samples: Sequence[Sample]
    left_out: frozenset[int]

    def part(self, start: int) -> list[Sample]:
        chunk = self.samples[start : start + CHUNK]
        return [sample for place, sample in enumerate(chunk, start) if place not in self.left_out]


@dataclass(frozen=True)
class Encoder:
    tokenizer: Tokenizer
    template: ChatTemplate
    longest: int
    form: Form = "language"

    @property
    def group(self) -> int:
        """Documents of a sample."""
        return 1 if self.form == "language" else 2

    def encode(self, samples: list[Sample]) -> tuple[list[Encoded], dict[str, int]]:
        """Documents of samples of one kind, and what the length limit cost."""
        if not samples:
            return [], {}
        if isinstance(samples[0], Text):
            whole = encode_texts(self.tokenizer, samples)  # type: ignore[arg-type]
            return [part for document in whole for part in _continued(document, self.longest)], {}
        if isinstance(samples[0], Chat):
            chats = truncate(encode_chats(self.tokenizer, self.template, samples), self.longest)  # type: ignore[arg-type]
            return chats.items, _losses(chats.truncation)
        # A pair must stand in one row, so each answer gets half of it.
        pairs = truncate(self._pairs(samples), self.longest // 2)
        return list(itertools.chain.from_iterable(pairs.items)), _losses(pairs.truncation)

    def _pairs(self, samples: list[Sample]) -> list[tuple[Encoded, Encoded]]:
        if self.form == "thumbs":
            return encode_unpaired(self.tokenizer, self.template, _thumbs(samples))
        preferences = cast("list[Preference]", samples)
        if self.form == "pairs":
            return encode_preferences(self.tokenizer, self.template, preferences)
        answers = [(one.prompt, text) for one in preferences for text in (one.chosen, one.rejected)]
        encoded = encode_question_answers(self.tokenizer, answers, max_tokens=self.longest // 2)
        strengths = [one.strength or 0.0 for one in preferences for _ in range(2)]
        valued = [replace(one, value=strength) for one, strength in zip(encoded, strengths, strict=True)]
        return list(zip(valued[0::2], valued[1::2], strict=True))


def _thumbs(samples: list[Sample]) -> list[Unpaired]:
    """Answers with a thumb; a pair gives one up and one down."""
    found: list[Unpaired] = []
    for sample in samples:
        if isinstance(sample, Preference):
            found.append(Unpaired(sample.prompt, sample.chosen, True, sample.origin))
            found.append(Unpaired(sample.prompt, sample.rejected, False, sample.origin))
        else:
            assert isinstance(sample, Unpaired)
            found.append(sample)
    return found


def _losses(lost: Truncation) -> dict[str, int]:
    return {
        "cut": lost.samples_cut,
        "dropped": lost.samples_dropped,
        "tokens_cut": lost.tokens_cut,
        "targets_cut": lost.targets_cut,
    }


def _write_store(folder: Path, samples: Remainder, encoder: Encoder, kind: str, counts: dict[str, int]) -> None:
    counts = counts | {
        "samples": len(samples.samples) - len(samples.left_out),
        "cut": 0,
        "dropped": 0,
        "tokens_cut": 0,
        "targets_cut": 0,
    }

    def documents() -> Iterator[Encoded]:
        for part, lost in _encode_parts(samples, encoder):
            for name, count in lost.items():
                counts[name] += count
            yield from part.encoded()

    TokenStore.write(folder, documents(), group=encoder.group, kind=kind, accounting=lambda: counts)


def _encode_parts(samples: Remainder, encoder: Encoder) -> Iterator[tuple[TokenStore, dict[str, int]]]:
    """Encode chunk by chunk; a large set on all cores. Workers are forks: they have the samples already."""
    starts = range(0, len(samples.samples), CHUNK)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if len(starts) < 4 or cores == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from (_encode_part(start, samples, encoder) for start in starts)
        return
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a worker, and no warning about forks
    encoder.encode(samples.part(0)[:1])  # what is found out about tokenizer and template, the workers inherit
    gc.freeze()  # else the collector of each worker would write into, and so copy, every page of the samples
    try:
        with ProcessPoolExecutor(cores, multiprocessing.get_context("fork"), _adopt, (samples, encoder)) as pool:
            yield from pool.map(_encode_adopted, starts)
    finally:
        gc.unfreeze()
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _encode_part(start: int, samples: Remainder, encoder: Encoder) -> tuple[TokenStore, dict[str, int]]:
    encoded, lost = encoder.encode(samples.part(start))
    return TokenStore.in_memory(encoded), lost  # a few arrays: a thousand documents each would be slow to send


_work: list[tuple[Remainder, Encoder]] = []


def _adopt(samples: Remainder, encoder: Encoder) -> None:
    _work.append((samples, encoder))


def _encode_adopted(start: int) -> tuple[TokenStore, dict[str, int]]:
    return _encode_part(start, *_work[0])


def _continued(document: Encoded, longest: int) -> Iterator[Encoded]:
    """Split a long text; each part begins with the last token of the one before, so that no target is lost."""
    for start in range(0, max(1, len(document.tokens) - 1), longest - 1):
        part = slice(start, start + longest)
        yield Encoded(document.tokens[part], document.targets[part])


def form_of(settings: BaseStage, start: str) -> Form | None:
    """What the stage makes of its blocks; None for stages that answer prompts, annotate rows, or have no gradients."""
    if not isinstance(settings, GradientStage) or isinstance(settings, UNTOKENISED):
        return None
    if isinstance(settings, KtoStage):
        return "thumbs"
    if isinstance(settings, RewardStage):
        return "question_answer_pairs" if is_encoder_place(start) else "pairs"
    return "pairs" if isinstance(settings, PreferenceStage) else "language"


def token_share(blocks: dict[str, float] | list[str], stores: dict[str, TokenStore]) -> dict[str, float]:
    """The requested shares; a plain list of blocks means: in proportion to their size."""
    if isinstance(blocks, dict):
        total = sum(blocks.values())
        return {name: share / total for name, share in blocks.items()}
    sizes = np.array([float(stores[name].offsets[-1]) for name in blocks])
    return dict(zip(blocks, (sizes / max(sizes.sum(), 1)).tolist(), strict=True))
