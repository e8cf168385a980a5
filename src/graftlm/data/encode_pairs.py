"""Sources and targets in tokens: one document each, the target behind the source, which alone is to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graftlm.data.encode import Encoded


def encode_pairs(
    tokenizer: Any, pairs: Sequence[tuple[str, str]], *, most_source: int, most_target: int
) -> tuple[list[Encoded], dict[str, int]]:
    """Documents of sources and targets as the tokenizer marks them, each target ended by the end token.

    Args:
        most_source, most_target: longer ones are cut at their end; of a target the end token stays.

    Returns:
        the documents, and what was cut.
    """
    counts = {"cut": 0, "dropped": 0, "tokens_cut": 0, "targets_cut": 0}
    if not pairs:
        return [], counts
    sources = tokenizer([source for source, _ in pairs], verbose=False)["input_ids"]
    targets = tokenizer(text_target=[target for _, target in pairs], verbose=False)["input_ids"]
    end, documents = tokenizer.eos_token_id, []
    for source, target in zip(sources, targets, strict=True):
        source = source if source else [end]  # an encoder needs something to read
        target = target if target and target[-1] == end else [*target, end]
        lost = max(0, len(source) - most_source), max(0, len(target) - most_target)
        if any(lost):
            counts["cut"] += 1
            counts["tokens_cut"] += sum(lost)
            counts["targets_cut"] += lost[1]
            source = [*source[: most_source - 1], source[-1]] if lost[0] else source
            target = [*target[: most_target - 1], end] if lost[1] else target
        tokens = np.array([*source, *target], np.uint32)
        documents.append(Encoded(tokens, np.arange(len(tokens)) >= len(source)))
    return documents, counts
