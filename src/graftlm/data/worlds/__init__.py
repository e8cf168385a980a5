"""Generated bilingual worlds with known truth: `generate("clinic", "documents", count=5000)`.

Sample i of a part is a pure function of (world, part, sizes, seed, i), so generation can be split over
processes: `generate(..., start=5, count=5)` equals the last five of `generate(..., count=10)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count as count_from
from itertools import islice
from random import Random
from typing import TypeAlias

from graftlm.core.errors import DataError
from graftlm.data.samples import Origin, Sample
from graftlm.data.worlds import general
from graftlm.data.worlds.clinic import advice, consultations, documents, examination, marked, preferences
from graftlm.data.worlds.clinic.graph import Graph, build
from graftlm.data.worlds.documents import HELDOUT_DOCUMENTS, heldout_document
from graftlm.data.worlds.examination import exam, open_question
from graftlm.data.worlds.names import TRAINED_BRANDS
from graftlm.data.worlds.phrasing import ABSTENTION, Draw
from graftlm.data.worlds.shop import catalogue, chats, tasks
from graftlm.data.worlds.shop import documents as shop_documents

__all__ = ["ABSTENTIONS", "generate", "parts"]

ABSTENTIONS: tuple[str, ...] = tuple(ABSTENTION.values())
"""What the assistant says when it does not know, in English and in Chinese."""

_SIZES = {"general": dict[str, int](), "clinic": {"diseases": 16, "drugs": 16}, "shop": {"products": 16}}
_WRITTEN = ("documents", "documents_heldout")
_ADVICE = ("advice_chats", "advice_pairs", "advice_questions")
_MARKED = ("triage", "ward_notes")
_PARTS = {
    "general": general.PARTS,
    "clinic": (*_WRITTEN, "consultations", "preferences", *_ADVICE, *_MARKED, *examination.TESTS),
    "shop": (*_WRITTEN, "chats", "tasks", *tasks.DATA, "exam", "open", "unknown", *tasks.TESTS),
}
_Make: TypeAlias = Callable[[Random, int, Origin], Sample]


@dataclass(frozen=True, slots=True)
class _Part:
    """How to make sample `index`, and how many there are (None: a stream without end)."""

    make: _Make
    total: int | None = None


def parts(world: str) -> tuple[str, ...]:
    """The parts of a world. Raises DataError for an unknown world."""
    return _PARTS[_known(world, tuple(_PARTS), "world")]


def generate(
    world: str, part: str, *, count: int | None = None, start: int = 0, seed: int = 0, **size: int
) -> Iterator[Sample]:
    """Samples `start` to `start + count` of a part.

    Args:
        count: how many; may be left out for a finite part (tests), which then yields all it has.
        size: `diseases` and `drugs` of the clinic world, `products` of the shop world (16 each).

    Raises:
        DataError: unknown world, part or size, or a stream part without `count`.
    """
    _known(part, parts(world), f"part of the world {world!r}")
    sizes = dict(_SIZES[world])
    for name, value in size.items():
        sizes[_known(name, tuple(sizes), f"size of the world {world!r}")] = value
    label = f"world:{world}/{part}"
    if (world, part) == ("general", "probe"):
        return _probe(label, count, start, seed)
    found = _WORLDS[world](part, seed, sizes)
    if found.total is None and count is None:
        raise DataError(f"{label} has no end", where=label, fix="say how many samples: count=1000")
    return _samples(found, label, count, start, seed)


def _samples(part: _Part, label: str, count: int | None, start: int, seed: int) -> Iterator[Sample]:
    ends = [end for end in (part.total, None if count is None else start + count) if end is not None]
    for index in range(start, min(ends)):
        yield part.make(Draw(f"{seed}:{label}:{index}"), index, Origin(label, index + 1))


def _probe(label: str, count: int | None, start: int, seed: int) -> Iterator[Sample]:
    """The probe drops repeated prompts, so it is always drawn from its first item on."""
    end = general.PROBE_ITEMS if count is None else start + count
    drawn = islice(zip(count_from(), general.probe(seed)), start, end)
    return (general.probe_item(*item, Origin(label, index + 1)) for index, item in drawn)


def _general(part: str, seed: int) -> _Part:
    if part == "instructions":
        return _Part(lambda rng, _, origin: general.instructions(rng, origin))
    if part == "preferences":
        return _Part(lambda rng, _, origin: general.preference(rng, origin))
    if part == "sums_chats":
        return _Part(lambda rng, _, origin: general.sums_chat(rng, origin))
    if part == "sums":
        return _Part(lambda rng, _, origin: general.sums_item(rng, origin))
    if part == "sums_probe":
        return _Part(lambda _, index, origin: general.sums_probe_item(seed, index, origin), general.SUMS_PROBE)
    total = general.PROBE_TEXTS if part == "probe_text" else None
    return _Part(lambda rng, _, origin: general.text(rng, origin), total)


def _clinic(part: str, diseases: int, drugs: int) -> _Part:
    graph = build(diseases, drugs)
    if part in examination.TESTS:
        test, total = examination.TESTS[part]
        return _Part(lambda rng, index, origin: test(rng, graph, index, origin), total(graph))
    if part == "documents_heldout":
        return _Part(
            lambda rng, index, origin: heldout_document(rng, graph, index, origin),
            HELDOUT_DOCUMENTS,
        )
    streams: dict[str, Callable[[Random, Graph, int, Origin], Sample]] = {
        "documents": documents.document,
        "consultations": consultations.chat,
        "preferences": preferences.preference,
        "advice_chats": advice.chat,
        "advice_pairs": advice.preference,
        "advice_questions": advice.asked,
        "triage": marked.triage,
        "ward_notes": marked.ward_note,
    }
    stream = streams[part]
    return _Part(lambda rng, index, origin: stream(rng, graph, index, origin))


def _shop(part: str, products: int) -> _Part:
    goods = catalogue.build(products)
    if part in tasks.DATA:
        return _Part(lambda rng, index, origin: tasks.DATA[part].make(rng, TRAINED_BRANDS, index, origin))
    if part in tasks.TESTS:
        return _Part(lambda rng, index, origin: tasks.task_item(rng, part, index, origin), tasks.TEST_ITEMS)
    if part == "tasks":
        return _Part(tasks.task_chat)
    if part == "documents_heldout":
        return _Part(lambda rng, index, origin: heldout_document(rng, goods, index, origin), HELDOUT_DOCUMENTS)
    facts = 2 * len(goods.taught)
    made: dict[str, tuple[Callable[[Random, catalogue.Catalogue, int, Origin], Sample], int | None]] = {
        "documents": (shop_documents.document, None),
        "chats": (chats.chat, None),
        "exam": (exam, facts),
        "open": (open_question, facts),
        "unknown": (chats.unknown, 2 * len(goods.unseen) + chats.FRESH_UNKNOWNS),
    }
    make, total = made[part]
    return _Part(lambda rng, index, origin: make(rng, goods, index, origin), total)


_WORLDS: dict[str, Callable[[str, int, dict[str, int]], _Part]] = {
    "general": lambda part, seed, _: _general(part, seed),
    "clinic": lambda part, _, size: _clinic(part, size["diseases"], size["drugs"]),
    "shop": lambda part, _, size: _shop(part, size["products"]),
}


def _known(name: str, names: tuple[str, ...], what: str) -> str:
    if name in names:
        return name
    near = get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(f"unknown {what}: {name!r}", fix=f"{hint}known: {', '.join(names) or 'none'}")
