"""Equality of strings, as lm-evaluation-harness' exact_match has it."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from graftlm.evaluation.graders.base import Mark, Reply

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)


def exact_match(
    replies: Sequence[Reply],
    *,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_numbers: bool = False,
    regexes_to_ignore: Sequence[str] = (),
) -> list[Mark]:
    """1 where the text equals an accepted answer, after what is to be ignored was taken out of both.

    Args:
        regexes_to_ignore: what they match is taken out first, one after the other.
    """

    def plain(text: str) -> str:
        for pattern in regexes_to_ignore:
            text = re.sub(pattern, "", text)
        text = text.lower() if ignore_case else text
        text = text.translate(_PUNCTUATION) if ignore_punctuation else text
        return text.translate(_DIGITS) if ignore_numbers else text

    return [float(plain(reply.text) in {plain(answer) for answer in reply.answers}) for reply in replies]
