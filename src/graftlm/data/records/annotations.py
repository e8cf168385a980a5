"""Layouts for encoders: a text or a pair of texts with its class, a text with its named entities, an image with its
caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from graftlm.data.records.conversations import Values, first
from graftlm.data.records.turns import RowError, filled_text, text_of
from graftlm.data.samples import Captioned, Classified, Entity, Origin, Tagged

FIRST_TEXT = ("text", "text_a", "sentence1", "sentence", "premise", "question1")
SECOND_TEXT = ("text_b", "sentence2", "hypothesis", "question2")
CLASSIFIED_COLUMNS = (*FIRST_TEXT, *SECOND_TEXT, "label")

IMAGE = ("image", "image_path", "file_name")
CAPTION = ("caption", "text")
CAPTIONED_COLUMNS = (*IMAGE, *CAPTION)

TAG_COLUMNS = ("tags", "ner_tags", "labels")
TAGGED_COLUMNS = ("text", "tokens", "entities", *TAG_COLUMNS, "label")


def is_classified(row: Values) -> bool:
    return "label" in row and any(name in row for name in FIRST_TEXT)


def classified(row: Values, origin: Origin) -> Classified:
    """A class may be written as text, a number or true and false; its name is that text."""
    label = row["label"]
    if isinstance(label, bool):
        label = str(label).lower()
    text, text_b = pair_of_texts(row)
    return Classified(text, filled_text(label, "label").strip(), origin, text_b)


def unclassified(row: Values, origin: Origin) -> Classified:
    """The same row without its class, to be predicted."""
    text, text_b = pair_of_texts(row)
    return Classified(text, "", origin, text_b)


def pair_of_texts(row: Values) -> tuple[str, str]:
    """(text, second text); the second is empty where the row has no column for one.

    Raises:
        RowError: a text is missing or empty.
    """
    column = first(row, FIRST_TEXT) or next((name for name in FIRST_TEXT if name in row), None)
    if column is None:
        raise RowError(f"there is no text: none of the columns {', '.join(FIRST_TEXT)}")
    second = next((name for name in SECOND_TEXT if name in row), None)
    return filled_text(row[column], column), filled_text(row[second], second) if second else ""


def is_tagged(row: Values) -> bool:
    if "tokens" in row:
        return "entities" in row or first(row, TAG_COLUMNS) is not None
    return "text" in row and ("entities" in row or isinstance(row.get("label"), Mapping))


def tagged(row: Values, origin: Origin) -> Tagged:
    """Entities as {start, end, type} or [start, end, type], of characters (`text`) or of `tokens`; as BIO tags of
    `tokens`; or CLUENER's {"label": {type: {name: [[start, last character]]}}}.

    Tokens are joined by a space, between Chinese characters by nothing.

    Raises:
        RowError: an entity is empty, reaches out of its text, or overlaps another.
    """
    if "tokens" not in row:
        text = filled_text(row.get("text"), "text")
        listed = _of_cluener(row["label"], text) if "entities" not in row else _listed(row["entities"])
        return Tagged(text, _checked(listed, len(text)), origin)
    text, places = join_tokens(row["tokens"])
    if "entities" in row:
        found = _checked(_listed(row["entities"]), len(places))
    else:
        found = tuple(entities_of_tags(_tags(row, len(places))))
    spans = [Entity(places[one.start][0], places[one.end - 1][1], one.kind) for one in found]
    return Tagged(text, tuple(spans), origin)


def untagged(row: Values, origin: Origin) -> Tagged:
    """The text of the same row, its entities to be predicted."""
    text = join_tokens(row["tokens"])[0] if "tokens" in row else pair_of_texts(row)[0]
    return Tagged(text, (), origin)


def join_tokens(tokens: Any) -> tuple[str, list[tuple[int, int]]]:
    """(text, where each token stands in it)."""
    if not isinstance(tokens, list) or not tokens:
        raise RowError("tokens is not a list of words")
    words = [filled_text(token, f"token {number}") for number, token in enumerate(tokens, 1)]
    gaps = ["" if _is_han(left[-1]) or _is_han(right[0]) else " " for left, right in pairwise(words)]
    text, places = "", []
    for word, gap in zip(words, [*gaps, ""], strict=True):
        places.append((len(text), len(text) + len(word)))
        text += word + gap
    return text, places


def entities_of_tags(tags: Sequence[str]) -> Iterator[Entity]:
    """Entities in token numbers, of BIO tags. An I that continues nothing of its kind begins an entity, as the CoNLL
    evaluation has it."""
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, named = tag.partition("-")
        if kind and not (mark == "I" and named == kind):
            yield Entity(start, place, kind)
            kind = ""
        if mark != "O" and not kind:
            start, kind = place, named


def is_captioned(row: Values) -> bool:
    return first(row, IMAGE) is not None and any(name in row for name in CAPTION)


def captioned(row: Values, origin: Origin) -> Captioned:
    """Raises RowError when the image's file is not there; relative paths start at the folder of the row's file."""
    place = Path(filled_text(row[first(row, IMAGE) or IMAGE[0]], "image")).expanduser()
    path = Path(origin.path).parent / place
    if not path.is_file():
        raise RowError(f"there is no image {place}")
    column = next(name for name in CAPTION if name in row)
    return Captioned(str(path), filled_text(row[column], column), origin)


def _tags(row: Values, tokens: int) -> list[str]:
    tags = row[first(row, TAG_COLUMNS) or TAG_COLUMNS[0]]
    if not isinstance(tags, list) or len(tags) != tokens:
        raise RowError(f"the tags are not a list of {tokens}, one a token")
    for tag in tags:
        if not isinstance(tag, str) or not (tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)):
            raise RowError(f"the tag {tag!r} is none of O, B-type, I-type")
    return tags


def _listed(entities: Any) -> list[Entity]:
    if not isinstance(entities, list):
        raise RowError("entities is not a list")
    return [_entity(one, f"entity {number}") for number, one in enumerate(entities, 1)]


def _entity(value: Any, name: str) -> Entity:
    if isinstance(value, Mapping):
        value = [value.get("start"), value.get("end"), value.get("type", value.get("label"))]
    if not isinstance(value, list) or len(value) != 3:
        raise RowError(f"{name} is not {{start, end, type}}")
    start, end, kind = value
    if not (type(start) is int and type(end) is int):
        raise RowError(f"{name}: start and end are not whole numbers")
    return Entity(start, end, filled_text(kind, f"type of {name}").strip())


def _of_cluener(label: Any, text: str) -> list[Entity]:
    found = []
    for kind, names in label.items():
        for name, places in names.items():
            for start, last in places:
                if text[start : last + 1] != text_of(name, "name"):
                    raise RowError(f"characters {start} to {last} are not {name!r}")
                found.append(Entity(start, last + 1, str(kind)))
    return found


def _checked(entities: Sequence[Entity], length: int) -> tuple[Entity, ...]:
    ordered = tuple(sorted(set(entities)))
    for one in ordered:
        if not 0 <= one.start < one.end <= length:
            raise RowError(f"entity {one.start}–{one.end} ({one.kind}) does not stand in a text of {length}")
    for one, following in pairwise(ordered):
        if following.start < one.end:
            raise RowError(
                f"entities {one.start}–{one.end} ({one.kind}) and {following.start}–{following.end} "
                f"({following.kind}) overlap: BIO tags can name one of them only"
            )
    return ordered


def _is_han(char: str) -> bool:
    return "\u3400" <= char <= "\u9fff"
