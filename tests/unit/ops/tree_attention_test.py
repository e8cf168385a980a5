"""Attention along a tree against its definition: one softmax under a mask over the whole row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graftlm.ops import tree_attention as ours
from graftlm.ops.tree_attention import lay_out_tree, tree_attention, tree_attention_reference

CPU = torch.device("cpu")
LENGTHS, PARENTS = [7, 3, 1, 4, 12, 2, 40, 5], [-1, 0, 1, 1, 0, -1, 5, -1]


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Lengths and parents of up to ten nodes, each behind its parent and all that descends from earlier siblings."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=10))
    parents, path = [], []
    for node in range(len(lengths)):
        path = path[: draw(st.integers(0, len(path)))]
        parents.append(path[-1] if path else -1)
        path.append(node)
    return lengths, parents


def states(tokens: int, H: int, G: int, D: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tokens, heads, D, generator=generator) for heads in (H, G, G)]


@given(tree=trees(), heads=st.sampled_from([(1, 1), (4, 2), (6, 1)]))
@settings(max_examples=60, deadline=None)
def test_each_tree_is_its_definition(tree: tuple[list[int], list[int]], heads: tuple[int, int]) -> None:
    lengths, parents = tree
    qkv = states(sum(lengths), *heads, 8)
    found = tree_attention(*qkv, lay_out_tree(lengths, parents, CPU))
    torch.testing.assert_close(found, tree_attention_reference(*qkv, lengths, parents), atol=1e-5, rtol=1e-5)


def test_by_hand() -> None:
    """All scores are equal, so that each token hears the mean of the values that it sees."""
    _, _, value = states(5, 1, 1, 8)
    value[:, 0, 0] = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    zeros = torch.zeros_like(value)
    found = tree_attention(zeros, zeros, value, lay_out_tree([2, 1, 2], [-1, 0, 0], CPU))[:, 0, 0]
    assert found.tolist() == pytest.approx([1, 3 / 2, 7 / 3, 11 / 3, 27 / 4])


@pytest.mark.parametrize("known", [7, 10])
def test_keys_of_the_first_nodes_may_be_known(known: int) -> None:
    q, k, v = states(sum(LENGTHS), 4, 2, 8)
    found = tree_attention(q[known:], k, v, lay_out_tree(LENGTHS, PARENTS, CPU, known=known))
    wanted = tree_attention_reference(q, k, v, LENGTHS, PARENTS)[known:]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_values_of_another_size_go_by_the_plain_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "SCORES_KEPT", 200)  # several pieces
    q, k, _ = states(sum(LENGTHS), 2, 2, 8)
    v = torch.randn(sum(LENGTHS), 2, 5)
    found = tree_attention(q, k, v, lay_out_tree(LENGTHS, PARENTS, CPU))
    wanted = tree_attention_reference(q, k, v, LENGTHS, PARENTS)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def stretches(q, k, v, q_bounds, k_bounds, most_q, most_k, scale, *, causal):
    """What a kernel of variable lengths gives: [N, H, D] and [H, N]."""
    out, weight = torch.empty(len(q), q.shape[1], v.shape[2]), torch.empty(q.shape[1], len(q))
    for n in range(len(q_bounds) - 1):
        queries, keys = (slice(int(bounds[n]), int(bounds[n + 1])) for bounds in (q_bounds, k_bounds))
        assert queries.stop - queries.start <= most_q
        assert keys.stop - keys.start <= most_k
        scores = torch.einsum("qhd,khd->hqk", q[queries], k[keys]) * scale
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), float("-inf"))
        out[queries] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[keys])
        weight[:, queries] = scores.logsumexp(-1)
    return out, weight


@pytest.mark.parametrize("known", [0, 7])
def test_the_calls_of_a_gpu_are_the_definition_too(known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_has_varlen", lambda query, value: True)
    monkeypatch.setattr(ours, "_varlen", stretches)
    q, k, v = states(sum(LENGTHS), 4, 2, 8)
    layout = lay_out_tree(LENGTHS, PARENTS, CPU, known=known, by_level=True)
    assert len(layout.levels) == 2  # 7 → 3 → (1, 4), 7 → 12; 2 → 40
    wanted = tree_attention_reference(q, k, v, LENGTHS, PARENTS)[known:]
    torch.testing.assert_close(tree_attention(q[known:], k, v, layout), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "groups"), [(torch.bfloat16, 1), (torch.bfloat16, 4), (torch.float32, 2)])
@pytest.mark.parametrize("known", [0, 7])
def test_on_a_gpu(dtype: torch.dtype, groups: int, known: int) -> None:
    q, k, v = (x.to("cuda", dtype) for x in states(sum(LENGTHS), 8, 8 // groups, 64))
    layout = lay_out_tree(LENGTHS, PARENTS, q.device, known=known, by_level=True)
    found = tree_attention(q[known:], k, v, layout).float().cpu()
    wanted = tree_attention_reference(*(x.cpu().float() for x in (q, k, v)), LENGTHS, PARENTS)[known:]
    torch.testing.assert_close(found, wanted, atol=2e-2 if dtype == torch.bfloat16 else 1e-4, rtol=1e-2)
