"""From a recipe's sources to samples and token stores, with every row accounted for."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import overload

from graftlm.core.errors import DataError
from graftlm.core.hashing import hash_file, hash_folder, hash_value
from graftlm.data import atomic_tasks, worlds
from graftlm.data.readers import Fault
from graftlm.data.records import load_samples, stream_samples
from graftlm.data.samples import (
    Captioned,
    Chat,
    Classified,
    Labelled,
    Preference,
    Prompt,
    Sample,
    Tagged,
    Text,
    Unpaired,
)
from graftlm.recipes.atomic_tasks import tasks_of
from graftlm.recipes.schema import Block, Source, TaskSettings

HELD_OUT_LIMIT = 200
KINDS: dict[type, str] = {
    Text: "text",
    Chat: "chat",
    Preference: "preference",
    Labelled: "labelled",
    Unpaired: "unpaired",
    Prompt: "prompt",
    Classified: "classified",
    Tagged: "tagged",
    Captioned: "captioned",
}

@dataclass(frozen=True)
class Rows:
    """What a source holds: its valid samples, all of one kind, and the rows that were refused, with reasons."""

    samples: Sequence[Sample]
    faults: list[Fault] = field(default_factory=list)
    read: int = 0

    @property
    def kind(self) -> str:
        return KINDS[type(self.samples[0])] if self.samples else "none"


def read_source(name: str, source: Source) -> Rows:
    """Samples of a source; with `tasks`, the chats or test items that are made of them.

    Raises:
        DataError: nothing can be read, no row is valid, or the rows are of several kinds.
    """
    rows = _read_rows(name, source)
    if source.tasks is None:
        return rows
    metric = source.metric if isinstance(source, TaskSettings) else None
    made, built = tasks_of(rows.samples, source.tasks, metric)
    if not made:
        raise DataError(
            "its rows give none of these tasks",
            where=f"data.{name}",
            fix="leave `tasks.kinds` out, or give rows that allow them",
        )
    return Rows(made, [*rows.faults, *built.faults], rows.read)


def _read_rows(name: str, source: Source) -> Rows:
    if source.world:
        samples = _generated(source)
        if not len(samples):
            raise DataError(f"there is no sample {source.start}", where=f"data.{name}", fix="lower `start`")
        return Rows(samples, [], len(samples))
    loaded = load_samples(
        _place(source),
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


def stream_source(source: Source) -> Iterator[Sample]:
    """The valid samples of a source, read one after another: for more rows than memory holds.

    Raises:
        DataError: nothing can be read.
    """
    if source.world:
        yield from _generated(source)
        return
    rows = stream_samples(
        _place(source),
        kind=None if source.kind == "auto" else source.kind,
        columns=source.columns or None,
        schema=source.schema_name,
        split=source.split,
    )
    yield from islice((row for row in rows if not isinstance(row, Fault)), source.limit)


def _place(source: Source) -> str:
    return f"hub:{source.hub}" if source.hub else str(source.path)


def source_key(source: Source) -> str:
    """Identity of a source's content: its settings and the bytes it is made of."""
    made = [hash_folder(Path(atomic_tasks.__file__).parent)] if source.tasks else []
    kept_out = {"path"} if source.tasks else {"path", "tasks"}
    return hash_value([source.model_dump(mode="json", exclude=kept_out), _content(source), *made])


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


@dataclass(frozen=True)
class Prompts:
    """Prompts of a block to be answered; those kept back are asked before and after a stage, never in it."""

    train: list[Prompt]
    held_out: list[Prompt]
    accounting: dict[str, int]


def read_prompts(name: str, block: Block, *, unsafe: bool = False) -> Prompts:
    """The prompts of a block; conversations and pairs give theirs, with the accepted answers where they are known.

    Args:
        unsafe: tag the prompts as asking for harm.

    Raises:
        DataError: plain text has no prompts.
    """
    rows = read_source(name, block)
    if rows.kind == "text":
        raise DataError(
            "plain text has no prompts to answer",
            where=f"data.{name}",
            fix="give prompts, conversations, pairs of answers or test items",
        )
    prompts = [replace(_prompt_of(sample), unsafe=unsafe) for sample in rows.samples]
    kept_back = held_out_places(len(prompts), block.held_out)
    held_out = {prompts[place].prompt: prompts[place] for place in sorted(kept_back)}
    train = [prompt for prompt in prompts if prompt.prompt not in held_out]
    if not train:
        raise DataError("no prompt is left to train on", where=f"data.{name}", fix="lower `held_out`")
    counts = {"read": rows.read, "refused": len(rows.faults), "samples": len(train)}
    return Prompts(train, list(held_out.values()), counts | {"kept_back": len(prompts) - len(train)})


def _prompt_of(sample: Sample) -> Prompt:
    if isinstance(sample, Prompt):
        return sample
    if isinstance(sample, Chat):
        last = max(place for place, turn in enumerate(sample.turns) if turn.role == "assistant")
        return Prompt(sample.turns[:last], sample.origin, (sample.turns[last].content,))
    assert isinstance(sample, Preference | Unpaired | Labelled)
    return Prompt(sample.prompt, sample.origin, sample.answers if isinstance(sample, Labelled) else ())


