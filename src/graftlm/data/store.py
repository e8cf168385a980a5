"""The token store: a data set as one flat file of tokens, memory-mapped, keyed by what it was made of.

A store holds *documents* (token runs with a target mask). One *sample* is `group` consecutive documents: one
for a text or a chat, two for a preference (chosen, rejected) and for an answer with a thumb (it, a mismatched
one).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from graftlm.core.files import atomic_folder, read_json, write_json
from graftlm.data.encode import Encoded

PART = 1000
"""Documents written at a time: one call of the file system each would cost more than their bytes."""


@dataclass(frozen=True)
class TokenStore:
    """Documents of one data set.

    Attributes:
        tokens: [sum of lengths] uint32, memory-mapped.
        targets: [sum of lengths] bool; whether a token is to be predicted.
        offsets: [documents + 1] int64.
        values: [documents] fp32; the number that belongs to each document, see `Encoded`.
        group: documents a sample.
        kind: "text", "chat", "preference" or "unpaired": what the samples were.
        accounting: rows read, kept, dropped and why; tokens lost to truncation.
        path: where it lies; None for a store that lives in memory only.
    """

    path: Path | None
    tokens: np.ndarray
    targets: np.ndarray
    offsets: np.ndarray
    values: np.ndarray
    group: int
    accounting: dict[str, int]
    kind: str = "text"

    @classmethod
    def open(cls, path: Path) -> TokenStore:
        meta = read_json(path / "meta.json")
        count = meta["tokens"]
        mapped = {
            name: np.memmap(path / name, dtype=kind, mode="r", shape=(count,)) if count else np.zeros(0, kind)
            for name, kind in (("tokens.u32", np.uint32), ("targets.u8", np.bool_))
        }
        offsets = np.fromfile(path / "offsets.i64", np.int64)
        return cls(
            path,
            mapped["tokens.u32"],
            mapped["targets.u8"],
            offsets,
            np.fromfile(path / "values.f32", np.float32),
            meta["group"],
            meta["accounting"],
            meta["kind"],
        )

    @classmethod
    def write(
        cls,
        path: Path,
        documents: Iterable[Encoded],
        *,
        group: int = 1,
        kind: str = "text",
        accounting: Callable[[], dict[str, int]] = dict,
    ) -> TokenStore:
        """Write documents as they come; the store appears at `path` only when it is whole.

        Args:
            accounting: asked when the last document has come.

        Raises:
            ValueError: an empty document, a mask of another length, or an unfinished last sample.
        """
        lengths, values = [0], []
        with atomic_folder(path) as folder:
            with (folder / "tokens.u32").open("wb") as tokens, (folder / "targets.u8").open("wb") as targets:
                waiting = iter(documents)
                while part := list(itertools.islice(waiting, PART)):
                    for document in part:
                        if not 0 < len(document.tokens) == len(document.targets):
                            sizes = f"{len(document.tokens)} tokens, {len(document.targets)} mask entries"
                            raise ValueError(f"document {len(lengths)} cannot be stored: {sizes}")
                        lengths.append(len(document.tokens))
                        values.append(document.value)
                    np.concatenate([one.tokens for one in part]).astype(np.uint32, copy=False).tofile(tokens)
                    np.concatenate([one.targets for one in part]).astype(np.bool_, copy=False).tofile(targets)
            if (len(lengths) - 1) % group:
                raise ValueError(f"{len(lengths) - 1} documents do not make whole samples of {group}")
            np.cumsum(np.array(lengths, np.int64)).tofile(folder / "offsets.i64")
            np.array(values, np.float32).tofile(folder / "values.f32")
            meta = {"tokens": sum(lengths), "group": group, "kind": kind, "accounting": accounting()}
            write_json(folder / "meta.json", meta)
        return cls.open(path)

    @classmethod
    def in_memory(cls, documents: Sequence[Encoded], *, group: int = 1, kind: str = "text") -> TokenStore:
        """A store of documents that are made, used and forgotten in one process."""
        lengths = [len(document.tokens) for document in documents]
        return cls(
            None,
            np.concatenate([np.zeros(0, np.uint32), *(document.tokens for document in documents)]),
            np.concatenate([np.zeros(0, np.bool_), *(document.targets for document in documents)]),
            np.cumsum([0, *lengths]),
            np.array([document.value for document in documents], np.float32),
            group,
            {},
            kind,
        )

    @property
    def samples(self) -> int:
        return (len(self.offsets) - 1) // self.group

    @property
    def sample_lengths(self) -> np.ndarray:
        """[samples] tokens of each sample, all its documents together."""
        return np.diff(self.offsets[:: self.group])

    @property
    def target_count(self) -> int:
        return int(self.targets.sum())

    def documents(self, sample: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(tokens, targets) of each document of a sample."""
        edges = self.offsets[sample * self.group : (sample + 1) * self.group + 1]
        return [(self.tokens[a:b], self.targets[a:b]) for a, b in pairwise(edges)]

    def encoded(self) -> Iterator[Encoded]:
        """Every document, as views."""
        for number, (a, b) in enumerate(pairwise(self.offsets.tolist())):
            yield Encoded(self.tokens[a:b], self.targets[a:b], float(self.values[number]))
