"""What every chat template does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from graftlm.data.samples import Turn


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as one text.

    Attributes:
        text: what the model reads.
        targets: character spans [start, end) of the answers, in order, none overlapping. A span holds all
            that the model has to generate after the generation prompt: the space that the format puts before
            the answer, the answer, its stop marker; not the line break after that.
    """

    text: str
    targets: tuple[tuple[int, int], ...]


class ChatTemplate(ABC):
    """Renders turns to text.

    Attributes:
        name: for records and error messages.
        markers: the strings that give the text its structure (role marks, stop markers).
    """

    name: str
    markers: tuple[str, ...]

    @abstractmethod
    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> Rendered:
        """The text of `turns`; with `generation_prompt`, up to where the next answer begins."""

    def contains_markers(self, turns: Sequence[Turn]) -> list[str]:
        """The markers of this template that stand in the *content* of turns.

        Such content can end a turn or begin another one when it is tokenised: data that someone else wrote
        must be checked with this before it is rendered.
        """
        return [marker for marker in self.markers if any(marker in turn.content for turn in turns)]
