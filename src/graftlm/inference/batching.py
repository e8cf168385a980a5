"""Which requests run together: sorted by length, within a budget of tokens and rows."""

from __future__ import annotations

from collections.abc import Sequence


def batches_by_length(lengths: Sequence[int], *, batch_tokens: int, batch_size: int) -> list[list[int]]:
    """Group items of similar length, so that little is padding.

    Args:
        lengths: the tokens that each item occupies.
        batch_tokens: the most tokens in a batch, padding counted (rows x longest row). An item longer than
            this gets a batch of its own.
        batch_size: the most items in a batch.

    Returns:
        The items' indices, batch by batch, longest first: if memory runs out, it does so in the first batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        current = batches[-1] if batches else []
        fits = (
            current and len(current) < batch_size and lengths[current[0]] * (len(current) + 1) <= batch_tokens
        )
        if fits:
            current.append(index)
        else:
            batches.append([index])
    return batches
