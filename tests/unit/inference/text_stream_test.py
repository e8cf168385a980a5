from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from graftlm.inference.text_stream import StopStrings, StopWatch, TextStream

Decode = Callable[[Sequence[int]], str]

TEXTS = ["高血压患者每日 5 mg。", "plain English", "mixed 中文 and 😀 emoji", "", "é"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_join_to_the_text(text: str, decode: Decode) -> None:
    stream = TextStream(decode)
    pieces = [stream.push(token) for token in text.encode()]
    assert "".join(pieces) + stream.flush() == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_an_answer_cut_inside_a_character_shows_what_the_whole_decode_shows(decode: Decode) -> None:
    tokens = list("药".encode())[:2]
    stream = TextStream(decode)
    assert [stream.push(token) for token in tokens] == ["", ""]
    assert stream.flush() == decode(tokens)


def test_invalid_bytes_do_not_block_the_stream(decode: Decode) -> None:
    tokens = [0xE4, *b"abc"]
    stream = TextStream(decode)
    pieces = [stream.push(token) for token in tokens]
    assert "".join(pieces) == decode(tokens)


def test_the_work_a_token_does_not_grow(decode: Decode) -> None:
    longest = 0

    def watched(tokens: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return decode(tokens)

    stream = TextStream(watched)
    for token in ("长文本" * 200).encode():
        stream.push(token)
    assert longest <= 6


def test_a_decoder_that_strips_the_leading_space() -> None:
    """sentencepiece drops the space of the first piece; later pieces must keep theirs."""
    words = ["▁one", "▁two", "▁three"]
    stream = TextStream(lambda tokens: "".join(words[t] for t in tokens).replace("▁", " ").removeprefix(" "))
    assert [stream.push(token) for token in (0, 1, 2)] == ["one", " two", " three"]


def test_stop_strings_are_cut_and_their_beginnings_held_back() -> None:
    stop = StopStrings(["###", "\nUser:"])
    assert [stop.push(piece) for piece in ("a#", "b##", "\nUs", "e", "r: x", "y")] == [
        "a",
        "#b",
        "##",
        "",
        "",
        "",
    ]
    assert stop.stopped


def test_text_held_back_for_a_stop_that_never_comes_is_shown_at_the_end(decode: Decode) -> None:
    watch = StopWatch(decode, ["###"])
    shown = [watch.push(token) for token in b"ok##"]
    assert shown == ["o", "k", "", ""]
    assert watch.finish() == "##"
    assert watch.text == "ok##"


def test_the_earliest_stop_counts() -> None:
    stop = StopStrings(["END", "cd"])
    assert stop.push("ab cd END") == "ab "
