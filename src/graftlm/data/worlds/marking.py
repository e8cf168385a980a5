"""Texts whose names are marked while they are written."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

from graftlm.data.samples import Entity


def filled(wording: str, named: Mapping[str, str], kinds: Mapping[str, str]) -> tuple[str, list[Entity]]:
    """The wording with its names, and where these stand; a slot that is not in `kinds` is filled and not marked."""
    text, entities = "", []
    for plain, key, _, _ in Formatter().parse(wording):
        text += plain
        if key and key in kinds:
            entities.append(Entity(len(text), len(text) + len(named[key]), kinds[key]))
        text += named[key] if key else ""
    return text, entities


def moved(entities: list[Entity], by: int) -> list[Entity]:
    return [Entity(one.start + by, one.end + by, one.kind) for one in entities]
