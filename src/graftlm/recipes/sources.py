"""From a recipe's sources to samples and token stores, with every row accounted for."""

from __future__ import annotations

import glob
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.errors import DataError
from graftlm.core.files import cache_folder
from graftlm.core.hashing import hash_file, hash_folder, hash_value
from graftlm.data import worlds
from graftlm.data.encode import Encoded, Truncation, encode_chats, encode_preferences, encode_texts, truncate
from graftlm.data.readers import Fault
from graftlm.data.records import load_samples
from graftlm.data.samples import Chat, Labelled, Preference, Prompt, Sample, Text, Unpaired
from graftlm.data.store import TokenStore
from graftlm.data.templates import ChatTemplate
from graftlm.recipes.schema import Block, Source

STORE_FORMAT = 1
CHUNK = 4096
"""Samples encoded in one call of the Rust tokenizer."""
HELD_OUT_LIMIT = 200
KINDS: dict[type, str] = {
    Text: "text",
    Chat: "chat",
    Preference: "preference",
    Labelled: "labelled",
    Unpaired: "unpaired",
    Prompt: "prompt",
}

TRAINABLE = ("text", "chat", "preference")


@dataclass(frozen=True)
class Rows:
    """What a source holds: its valid samples, all of one kind, and the rows that were refused, with reasons."""

    samples: Sequence[Sample]
    faults: list[Fault] = field(default_factory=list)
    read: int = 0

    @property
    def kind(self) -> str:
        return KINDS[type(self.samples[0])] if self.samples else "none"


@dataclass(frozen=True)
class TokenisedBlock:
    """A block ready for training."""

    train: TokenStore
    held_out: TokenStore


def read_source(name: str, source: Source) -> Rows:
    """Samples of a source.

    Raises:
        DataError: nothing can be read, no row is valid, or the rows are of several kinds.
    """
    if source.world:
        samples = _generated(source)
        if not len(samples):
            raise DataError(f"there is no sample {source.start}", where=f"data.{name}", fix="lower `start`")
        return Rows(samples, [], len(samples))
    place = f"hub:{source.hub}" if source.hub else str(source.path)
    loaded = load_samples(
        place,
        kind=None if source.kind == "auto" else source.kind,
        columns=source.columns or None,
        schema=source.schema_name,
        split=source.split,
        limit=source.limit,
    )
    rows = Rows(loaded.samples, loaded.faults, loaded.read)
    if not rows.samples:
        first = f"; the first: {rows.faults[0]}" if rows.faults else ""
        raise DataError(
            f"no valid row among {rows.read:,}{first}",
            where=f"data.{name}",
            fix="mend the file, or name its layout with `schema` and `columns`",
        )
    kinds = {type(sample) for sample in rows.samples}
    if len(kinds) > 1:
        found = ", ".join(sorted(KINDS.get(k, k.__name__) for k in kinds))
        raise DataError(f"rows of several kinds: {found}", where=f"data.{name}", fix="split the file, or set `kind`")
    return rows


def source_key(source: Source) -> str:
    """Identity of a source's content: its settings and the bytes it is made of."""
    return hash_value([source.model_dump(mode="json", exclude={"path"}), _content(source)])


def tokenise(
    name: str, block: Block, tokenizer: Tokenizer, template: ChatTemplate, tokenizer_key: str, longest: int
) -> TokenisedBlock:
    """The block's token stores, from the cache when this very content was tokenised before.

    Text longer than `longest` is continued in further documents; chats and answers are cut and counted.
    """
    key = hash_value([STORE_FORMAT, source_key(block), tokenizer_key, longest])
    folder = cache_folder() / "tokens" / key
    if not (folder / "held_out" / "meta.json").is_file():
        rows = read_source(name, block)
        if rows.kind not in TRAINABLE:
            raise DataError(
                f"no stage trains on {rows.kind} rows",
                where=f"data.{name}",
                fix=f"give {', '.join(TRAINABLE)} rows; test items (labelled) belong under `evaluation`",
            )
        kept_back = held_out_places(len(rows.samples), block.held_out)
        spare = [rows.samples[place] for place in sorted(kept_back)]
        counts = {"read": rows.read, "refused": len(rows.faults)}
        encoder = Encoder(tokenizer, template, longest)
        _write_store(folder / "train", Remainder(rows.samples, kept_back), encoder, rows.kind, counts)
        _write_store(folder / "held_out", Remainder(spare, frozenset()), encoder, rows.kind, {})
    return TokenisedBlock(TokenStore.open(folder / "train"), TokenStore.open(folder / "held_out"))


def held_out_places(samples: int, share: float) -> frozenset[int]:
    """Evenly spread places of the samples that are kept back from training; none of fewer than 20 samples."""
    count = min(HELD_OUT_LIMIT, int(samples * share)) if samples >= 20 else 0
    return frozenset(int((i + 0.5) * samples / count) for i in range(count))


@dataclass(frozen=True)
class Generated(Sequence[Sample]):
    """A stream of a world as a sequence: a sample is made when it is asked for, so that workers can share the work."""

    source: Source

    def __len__(self) -> int:
        return self.source.count or 0

    def __iter__(self) -> Iterator[Sample]:
        return _generate(self.source, self.source.start, len(self))

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return list(_generate(self.source, self.source.start + start, max(0, stop - start)))
        if not 0 <= place < len(self):
            raise IndexError(place)
        return next(_generate(self.source, self.source.start + place, 1))


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
        pairs = truncate(encode_preferences(self.tokenizer, self.template, samples), self.longest // 2)  # type: ignore[arg-type]
        return list(itertools.chain.from_iterable(pairs.items)), _losses(pairs.truncation)


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
        for encoded, lost in _encode_parts(samples, encoder):
            for name, count in lost.items():
                counts[name] += count
            yield from encoded

    TokenStore.write(folder, documents(), group=2 if kind == "preference" else 1, kind=kind, accounting=lambda: counts)


def _encode_parts(samples: Remainder, encoder: Encoder) -> Iterator[tuple[list[Encoded], dict[str, int]]]:
    """Encode chunk by chunk; a large set on all cores. Workers are forks: they have the samples already."""
    starts = range(0, len(samples.samples), CHUNK)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if len(starts) < 8 or cores == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from (encoder.encode(samples.part(start)) for start in starts)
        return
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a worker, and no warning about forks
    with ProcessPoolExecutor(cores, multiprocessing.get_context("fork"), _adopt, (samples, encoder)) as pool:
        yield from pool.map(_encode_part, starts)
    if before is None:
        del os.environ["TOKENIZERS_PARALLELISM"]
    else:
        os.environ["TOKENIZERS_PARALLELISM"] = before


_work: list[tuple[Remainder, Encoder]] = []


def _adopt(samples: Remainder, encoder: Encoder) -> None:
    _work.append((samples, encoder))


def _encode_part(start: int) -> tuple[list[Encoded], dict[str, int]]:
    samples, encoder = _work[0]
    return encoder.encode(samples.part(start))


def _continued(document: Encoded, longest: int) -> Iterator[Encoded]:
    """Split a long text; each part begins with the last token of the one before, so that no target is lost."""
    for start in range(0, max(1, len(document.tokens) - 1), longest - 1):
        part = slice(start, start + longest)
        yield Encoded(document.tokens[part], document.targets[part])


def _content(source: Source) -> str:
    if source.world:
        return hash_folder(Path(worlds.__file__).parent)
    if source.hub:
        return "hub"
    path = Path(str(source.path))
    # The same order as the reader's: a name that exists is no pattern, even if it holds one's characters.
    matches = [path] if path.exists() else map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
    return hash_value([hash_folder(match) if match.is_dir() else [match.suffix, hash_file(match)] for match in matches])


def _generated(source: Source) -> Sequence[Sample]:
    """A world's samples; a finite part may hold fewer than were asked for."""
    count = min((number for number in (source.count, source.limit) if number), default=None)
    if count is None or next(_generate(source, source.start + count - 1, 1), None) is None:
        return list(_generate(source, source.start, count))
    return Generated(source.model_copy(update={"count": count}))


def _generate(source: Source, start: int, count: int | None) -> Iterator[Sample]:
    assert source.world and source.part
    return worlds.generate(source.world, source.part, count=count, start=start, seed=source.world_seed, **source.size)


def token_share(blocks: dict[str, float] | list[str], stores: dict[str, TokenStore]) -> dict[str, float]:
    """The requested shares; a plain list of blocks means: in proportion to their size."""
    if isinstance(blocks, dict):
        total = sum(blocks.values())
        return {name: share / total for name, share in blocks.items()}
    sizes = np.array([float(stores[name].offsets[-1]) for name in blocks])
    return dict(zip(blocks, (sizes / max(sizes.sum(), 1)).tolist(), strict=True))
