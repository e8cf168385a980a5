"""Named entities as BIO tags of tokens, and back, by the characters that each token stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graftlm.data.records.annotations import entities_of_tags
from graftlm.data.samples import Entity

OUTSIDE = "O"

Offsets = Sequence[tuple[int, int]]
"""Characters (start, end) of each token; special tokens stand for none: (0, 0)."""


def tag_names(kinds: Iterable[str]) -> list[str]:
    """O, then B and I of each kind, in the order of the alphabet."""
    return [OUTSIDE, *(f"{mark}-{kind}" for kind in sorted(set(kinds)) for mark in "BI")]


def tags_of_tokens(offsets: Offsets, entities: Sequence[Entity]) -> list[str]:
    """The tag of each token: B for the first that shares a character with an entity, I for the others that do.

    A token that reaches over the end of an entity goes with it: see `entities_of_tokens` for what this loses.
    """
    tags = [OUTSIDE] * len(offsets)
    for entity in entities:
        mark = "B"
        for place, (start, end) in enumerate(offsets):
            if max(start, entity.start) < min(end, entity.end) and tags[place] == OUTSIDE:
                tags[place] = f"{mark}-{entity.kind}"
                mark = "I"
    return tags


def entities_of_tokens(tags: Sequence[str], offsets: Offsets, text: str) -> tuple[Entity, ...]:
    """The entities that tags name, in characters; space at their ends, which some tokenizers give to a token, is left
    out. Special tokens are tagged O by the caller."""
    found = []
    for one in entities_of_tags(tags):
        start, end = offsets[one.start][0], offsets[one.end - 1][1]
        name = text[start:end]
        start += len(name) - len(name.lstrip())
        end = start + len(name.strip())
        if start < end:
            found.append(Entity(start, end, one.kind))
    return tuple(found)
