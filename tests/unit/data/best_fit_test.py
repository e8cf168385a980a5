"""Rows equal those of the plainest best fit; their order keeps the blocks' shares as the plainest search does."""

from __future__ import annotations

import numpy as np
import pytest

from graftlm.data.best_fit import WINDOW, Rows, fill_rows, keep_shares


def lognormal(count: int, longest: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).lognormal(np.log(335) - 0.5, 1.0, count)
    return np.clip(drawn, 1, longest).astype(np.int64)


def plain_rows(lengths: list[int], row_tokens: int) -> list[list[list[int]]]:
    """Window by window: each sample, the longest first, into the fullest row that takes it."""
    window = max(WINDOW, 16 * row_tokens // max(1, int(np.mean(lengths))))
    windows: list[list[list[int]]] = []
    left_over: list[int] = []
    for start in range(0, len(lengths), window):
        samples = [*left_over, *range(start, min(start + window, len(lengths)))]
        rows: list[list[int]] = []
        for sample in sorted(samples, key=lambda i: -lengths[i]):
            room = [row_tokens - sum(lengths[i] for i in row) for row in rows]
            fitting = [number for number, left in enumerate(room) if left >= lengths[sample]]
            if fitting:
                rows[min(fitting, key=lambda number: room[number])].append(sample)
            else:
                rows.append([sample])
        rows = sorted((sorted(row) for row in rows), key=lambda row: sum(row) / len(row))
        if start + window < len(lengths):
            left_over = rows.pop(min(range(len(rows)), key=lambda r: sum(lengths[i] for i in rows[r])))
        windows.append(rows)
    return windows


def plain_order(windows: list[list[list[int]]], block: list[int], lengths: list[int]) -> list[list[int]]:
    """Always the row after which the tokens of the blocks are nearest to what the mix has by then."""
    blocks = range(max(block) + 1)
    so_far = np.cumsum([[lengths[i] * (block[i] == b) for b in blocks] for i in range(len(lengths))], axis=0)
    so_far = np.concatenate([np.zeros((1, len(blocks)), np.int64), so_far])
    done, ordered = np.zeros(len(blocks), np.int64), []
    for window in windows:
        waiting = list(window)
        while waiting:
            after = [done + [sum(lengths[i] for i in row if block[i] == b) for b in blocks] for row in waiting]
            goals = [so_far[min(np.searchsorted(so_far.sum(1), one.sum()), len(lengths))] for one in after]
            best = int(np.argmin([np.abs(one - goal).max() for one, goal in zip(after, goals, strict=True)]))
            done = after[best]
            ordered.append(waiting.pop(best))
    return ordered


def listed(windows: list[Rows]) -> list[list[list[int]]]:
    return [
        [row.tolist() for row in np.split(rows.order, np.cumsum(rows.counts)[:-1])] if len(rows.counts) else []
        for rows in windows
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "row_tokens"), [(1, 2048), (511, 2048), (513, 2048), (1500, 2048), (1300, 64)])
def test_rows_are_those_of_plain_best_fit(count: int, row_tokens: int, seed: int) -> None:
    lengths = lognormal(count, row_tokens, seed)
    assert listed(fill_rows(lengths, row_tokens)) == plain_rows(lengths.tolist(), row_tokens)


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_rows_is_that_of_the_plain_search(seed: int) -> None:
    lengths = lognormal(1100, 2048, seed)
    block = np.random.default_rng(seed).integers(0, 3, len(lengths))
    lengths[block == 1] = np.maximum(1, lengths[block == 1] // 10)
    windows = fill_rows(lengths, 2048)
    found = [row for window in listed(keep_shares(windows, block, lengths)) for row in window]
    assert found == plain_order(listed(windows), block.tolist(), lengths.tolist())
    assert found != [row for window in listed(windows) for row in window], "nothing had to be moved"


def test_nothing_to_fill() -> None:
    assert fill_rows(np.zeros(0, np.int64), 64) == []
