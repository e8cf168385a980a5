"""From tokens to text, one token at a time: whole characters only, and stop strings never shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_REPLACEMENT = "\ufffd"  # what a decoder prints for bytes that are not (yet) a whole character


class TextStream:
    """Turns tokens into text pieces whose concatenation is the text of all tokens.

    A Chinese character may be split over up to four byte tokens; its bytes are held back until it is whole.
    Only a short window is decoded at each step (the last emitted tokens, for the context that space handling
    needs, and the new ones), so the cost a token does not grow with the answer.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._context: list[int] = []  # the tokens of the last emitted piece
        self._pending: list[int] = []  # tokens that are not yet emitted

    def push(self, token: int) -> str:
        """Add a token; return the text that it completes ("" while a character is incomplete)."""
        self._pending.append(token)
        piece = self._new_text()
        if not piece or piece.endswith(_REPLACEMENT):
            return ""
        self._context, self._pending = self._pending, []
        return piece

    def flush(self) -> str:
        """The text of whatever is still held back, at the end of the answer."""
        piece = self._new_text() if self._pending else ""
        self._pending = []
        return piece

    def _new_text(self) -> str:
        shown = self._decode(self._context) if self._context else ""
        return self._decode([*self._context, *self._pending])[len(shown) :]


class StopStrings:
    """Passes text through until a stop string appears, holding back what may be the start of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Add a piece; return the text that is safe to show. `stopped` tells of a stop string met."""
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text still held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class StopWatch:
    """A `TextStream` read through `StopStrings`: the text of one answer as its tokens arrive."""

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self._stream = TextStream(decode)
        self._strings = StopStrings(stop)
        self.text = ""

    @property
    def stopped(self) -> bool:
        return self._strings.stopped

    def push(self, token: int) -> str:
        """Add a token; return the new text to show."""
        return self._add(self._strings.push(self._stream.push(token)))

    def finish(self) -> str:
        """End the answer; return the text that was held back."""
        last = self._strings.push(self._stream.flush())
        return self._add(last + self._strings.flush())

    def _add(self, piece: str) -> str:
        self.text += piece
        return piece
