"""Who sees whom: the truth table of prefix attention, packed and in rows, against its definition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from graftlm.ops.prefix_attention import (
    lay_out_prefixes,
    prefix_attention,
    sees,
    visible_from_cache,
    visible_in_rows,
)


def table(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[sign == "x" for sign in row] for row in rows])


def test_the_truth_table_of_a_context_and_what_follows():
    branch_BL = torch.tensor([[0, 0, 0, 1, 1, 1]])
    expected = table(["xxx...", "xxx...", "xxx...", "xxxx..", "xxxxx.", "xxxxxx"])
    assert torch.equal(sees(branch_BL)[0], expected)


def test_the_truth_table_of_options_is_block_diagonal():
    branch_BL = torch.tensor([[0, 0, 1, 1, 2, 2, 3]])
    expected = table(["xx.....", "xx.....", "xxx....", "xxxx...", "xx..x..", "xx..xx.", "xx....x"])
    assert torch.equal(sees(branch_BL)[0], expected)


def test_without_a_context_it_is_causal():
    assert torch.equal(sees(torch.ones(1, 4, dtype=torch.long))[0], table(["x...", "xx..", "xxx.", "xxxx"]))


def test_padding_is_seen_by_itself_alone():
    real_BL = torch.tensor([[False, True, True, True]])
    found = visible_in_rows(torch.tensor([[0, 0, 0, 1]]), real_BL)[0, 0]
    assert torch.equal(found[1:], table([".xx.", ".xx.", ".xxx"]))
    assert found[0].any(), "a softmax over nothing is not a number"


def test_tokens_after_a_cache_see_what_is_not_after_them():
    real_BK = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = visible_from_cache(real_BK, 2)[:, 0]
    assert torch.equal(found[0], table([".xxx.", ".xxxx"]))
    assert torch.equal(found[1], table(["xxxx.", "xxxxx"]))


def by_definition(q, k, v, boundaries, branch_T):
    """One query after the other over the keys that it may see, in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    out = torch.zeros_like(q)
    for start, end in itertools.pairwise(boundaries):
        for t in range(start, end):
            seen = [
                u
                for u in range(start, end)
                if branch_T[u] == 0 or (branch_T[u] == branch_T[t] and u <= t)
            ]
            for h in range(q.shape[0]):
                share = (k[h, seen] @ q[h, t] / q.shape[-1] ** 0.5).softmax(0)
                out[h, t] = share @ v[h, seen]
    return out


LENGTHS = [7, 1, 12, 3, 12, 5]


@pytest.fixture
def packed():
    torch.manual_seed(0)
    T = sum(LENGTHS)
    q, k, v = (torch.randn(1, 2, T, 8, requires_grad=True) for _ in range(3))
    branch = [0, 0, 0, 1, 1, 1, 1] + [1] + [1] * 12 + [0, 1, 2] + [0] * 5 + [1] * 3 + [2] * 4 + [0] * 4 + [1]
    boundaries = [0, *itertools.accumulate(LENGTHS)]
    return q, k, v, boundaries, torch.tensor(branch)


def test_packed_documents_equal_the_definition(packed):
    q, k, v, boundaries, branch_T = packed
    layout = lay_out_prefixes(torch.tensor(boundaries, dtype=torch.int32), branch_T)
    found = prefix_attention(q, k, v, layout)[0]
    expected = by_definition(q[0], k[0], v[0], boundaries, branch_T.tolist())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(found)
    mine = torch.autograd.grad((found * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_softmax_is_in_fp32_for_bf16():
    """Two scores near 40 that differ by 0.13: bf16 numbers are 0.25 apart there."""
    q, k, v = (torch.zeros(1, 1, 2, 8, dtype=torch.bfloat16) for _ in range(3))
    q[..., 0], q[..., 1] = 8, 0.25
    k[..., 0] = 14
    k[0, 0, 1, 1] = 1.5
    v[0, 0, :, 0] = torch.tensor([1, -1])
    layout = lay_out_prefixes(torch.tensor([0, 2], dtype=torch.int32), torch.zeros(2, dtype=torch.long))
    found = float(prefix_attention(q, k, v, layout)[0, 0, 0, 0])
    scores = [8 * 14 / 8**0.5, (8 * 14 + 0.25 * 1.5) / 8**0.5]
    expected = -math.tanh((scores[1] - scores[0]) / 2)
    assert found == pytest.approx(expected, rel=2**-7)
    rounded = torch.tensor(scores).bfloat16().double()
    assert abs(-math.tanh(float(rounded[1] - rounded[0]) / 2) - expected) > 0.3 * abs(expected)
