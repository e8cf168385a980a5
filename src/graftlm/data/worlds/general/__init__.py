"""The general world: everyday skills, an invented encyclopaedia, reading, manners; English and Chinese.

A question whose checksum falls in one of sixteen classes is kept for the probe: the streams never ask it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import TypeVar

from graftlm.data.samples import Chat, Labelled, Origin, Preference, Text, Turn
from graftlm.data.worlds.general import everyday, facts, language, numbers, reading, stories, sums, talk, words
from graftlm.data.worlds.general.item import Item, Kind
from graftlm.data.worlds.phrasing import LANGUAGES, Draw, Language, prose, question_and_answer, shuffled

KINDS: tuple[Kind, ...] = (
    *numbers.KINDS,
    *everyday.KINDS,
    *words.KINDS,
    *stories.KINDS,
    *facts.KINDS,
    *reading.KINDS,
    *language.KINDS,
    *talk.KINDS,
)
PROBE_ITEMS = 300
PROBE_TEXTS = 200
PARTS = ("text", "instructions", "preferences", "sums", "sums_chats", "sums_probe", "probe", "probe_text")
SUMS_PROBE = 200

_DECK = tuple(kind for kind in KINDS for _ in range(kind.weight))
_MIN_LETTERS: dict[Language, int] = {"en": 70, "zh": 24}
_TRIES = 50
_T = TypeVar("_T")


def _kept_for_probe(question: str) -> bool:
    return zlib.crc32(question.encode()) % 16 == 0


def _draw(make: Callable[[], Item], *, probe: bool) -> tuple[Item, bool]:
    """An item on the wanted side of the split, and whether one was found."""
    for _ in range(_TRIES):
        item = make()
        if _kept_for_probe(item.question) == probe:
            return item, True
    return item, False


def _pick(rng: Random) -> tuple[Kind, Language]:
    kind = rng.choice(_DECK)
    return kind, rng.choice(kind.languages)


def _item(rng: Random, kind: Kind, lang: Language) -> Item:
    return _draw(lambda: kind.make(rng, lang), probe=False)[0]


def _document(rng: Random, kind: Kind, lang: Language) -> str:
    """One to five pieces of the same kind: statements, or question-and-answer lines."""
    if rng.random() < 0.2:
        items = [_item(rng, kind, lang) for _ in range(rng.choice((1, 1, 2, 3)))]
        return "\n".join(question_and_answer(rng, lang, item.question, item.answer) for item in items)
    lines = [_item(rng, kind, lang).statement]
    target = _MIN_LETTERS[lang] * rng.choice((0.5, 1, 2))
    while sum(map(len, lines)) < target and len(lines) < 6:
        lines.append(_item(rng, kind, lang).statement)
    return "\n".join(lines) if any("\n" in line for line in lines) else prose(lines, lang)


def text(rng: Random, origin: Origin) -> Text:
    return Text(_document(rng, *_pick(rng)), origin)


def instructions(rng: Random, origin: Origin) -> Chat:
    """One exchange; in a quarter of the chats two to four, most of them on one kind."""
    kind, lang = _pick(rng)
    turns: list[Turn] = []
    exchanges = 1 if rng.random() < 0.75 else rng.randint(2, 4)
    for at in range(exchanges):
        if at and rng.random() < 0.5:
            kind = rng.choice(_DECK)
            lang = lang if lang in kind.languages else kind.languages[0]
        item = _item(rng, kind, lang)
        turns += (Turn("user", item.question), Turn("assistant", item.answer))
    return Chat(tuple(turns), origin)


_NEEDLESS: dict[Language, tuple[str, ...]] = {
    "en": ("Please ask your doctor, too.", "I hope that this helps you.", "Do you have another question?"),
    "zh": ("也请问问医生。", "希望这对你有帮助。", "你还有别的问题吗？"),
}


def preference(rng: Random, origin: Origin) -> Preference:
    """The right answer and no more, over a wrong one or needless words behind it."""
    while True:
        kind, lang = _pick(rng)
        item = _item(rng, kind, lang)
        stop = ". " if lang == "en" else "。"
        rejected = rng.choice([*item.wrong[:1], item.answer.rstrip(".。") + stop + rng.choice(_NEEDLESS[lang])])
        if rejected != item.answer:
            return Preference((Turn("user", item.question),), item.answer, rejected, origin, 2)


def sums_chat(rng: Random, origin: Origin) -> Chat:
    item = _item(rng, sums.KIND, rng.choice(LANGUAGES))
    return Chat((Turn("user", item.question), Turn("assistant", item.answer)), origin)


def sums_item(rng: Random, origin: Origin) -> Labelled:
    """A sum of three numbers, to be answered in writing."""
    lang = rng.choice(LANGUAGES)
    item = _item(rng, sums.KIND, lang)
    return Labelled((Turn("user", item.question),), (item.answer,), origin, (), sums.KIND.name, lang)


def sums_probe_item(seed: int, index: int, origin: Origin) -> Labelled:
    """Test item `index` of SUMS_PROBE: no two alike, none of them ever asked in training."""
    question, answer, lang = _sums_probe(seed)[index]
    return Labelled((Turn("user", question),), (answer,), origin, (), sums.KIND.name, lang)


@cache
def _sums_probe(seed: int) -> tuple[tuple[str, str, Language], ...]:
    known = sums.all_questions()
    kept = [asked for asked in known if _kept_for_probe(asked)]
    return tuple((asked, *known[asked]) for asked in shuffled(Random(seed), kept)[:SUMS_PROBE])


def probe(seed: int) -> Iterator[tuple[Item, Kind, Language, Random]]:
    """Test items, kind after kind and language after language, no prompt twice."""
    tested = [kind for kind in KINDS if kind.make(Random(0), kind.languages[0]).wrong]
    seen, index = set[str](), 0
    while True:
        kind = tested[index % len(tested)]
        lang = LANGUAGES[(index + index // len(tested)) % 2]
        lang = lang if lang in kind.languages else kind.languages[0]
        rng = Draw(f"{seed}:general/probe:{index}")
        index += 1
        item, found = _draw(lambda kind=kind, rng=rng, lang=lang: kind.make(rng, lang), probe=True)  # type: ignore[misc]
        if found and item.question not in seen and len({item.answer, *item.wrong[:3]}) == 4:
            seen.add(item.question)
            yield item, kind, lang, rng


def probe_item(item: Item, kind: Kind, lang: Language, rng: Random, origin: Origin) -> Labelled:
    choices = tuple(shuffled(rng, [item.answer, *item.wrong[:3]]))
    return Labelled((Turn("user", item.question),), (item.answer,), origin, choices, kind.name, lang)
