"""Attention over a packed tree: what several sequences have in common stands in the row once.

The row holds the nodes of a tree of tokens, each before its children, so that all that descends from a node is one
stretch behind it. A token sees its node up to itself and its node's ancestors. So attention is a causal part inside
each node, and for each node that has descendants a part of theirs to its tokens, which needs no mask. Parts are softmax
sums over disjoint keys; their log-sum-exps say how to add them up (as in Hydragen, arXiv 2402.05099). Keys and values
of a shared prefix are neither computed twice nor copied for each sequence. The first nodes may be known from the row
before: their keys and values stand before those of the row. Nothing here is differentiated.

Shapes: T tokens of the row, K keys (those known and the row's T), N queries, P keys of a node, H query heads,
    G key/value heads (H a multiple of G), D head size, n nodes of like length, padded to L.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graftlm.ops.attention import HALVES, documents_of_like_length

SCORES_KEPT = 2**24
"""Scores that the plain softmax holds at once: 64 MiB."""


@dataclass(frozen=True)
class Level:
    """Nodes of one depth that have descendants, for a kernel of variable lengths.

    Attributes:
        query_N, key_P: places of the descendants in the row, and of the nodes' own tokens among the keys.
        query_bounds, key_bounds: [nodes + 1] int32.
        most_queries, most_keys: of one node.
    """

    query_N: Tensor
    key_P: Tensor
    query_bounds: Tensor
    key_bounds: Tensor
    most_queries: int
    most_keys: int


@dataclass(frozen=True)
class TreeLayout:
    """Where the nodes of a packed tree lie, in the forms that the two ways to attend take.

    Attributes:
        known: keys that stand before the row's.
        longest: tokens of the longest path.
        shared: of each node with descendants, the bounds of its tokens among the keys, and of theirs in the row.
        groups: of the row's nodes of like length, the place of each token [n, L], and whether it is one [n, L].
        bounds: int32, where each of the row's nodes starts; the last entry is T.
        most: tokens of the longest of them.
        levels: one for each depth that has descendants; only for a kernel of variable lengths.
    """

    known: int
    longest: int
    shared: tuple[tuple[int, int, int, int], ...]
    groups: tuple[tuple[Tensor, Tensor], ...]
    bounds: Tensor
    most: int
    levels: tuple[Level, ...]


def lay_out_tree(
    lengths: Sequence[int], parents: Sequence[int], device: torch.device, *, known: int = 0, by_level: bool = False
) -> TreeLayout:
    """
    Args:
        lengths: tokens of each node, none 0, in the order of the row: a node, then all that descends from it.
        parents: the number of each node's parent; -1 has none.
        known: tokens of the first nodes, each the only child of the one before, whose keys are known.
        by_level: also for a kernel of variable lengths: what a GPU wants.
    """
    ends = np.cumsum(lengths).tolist()
    lasts, depths, paths = list(ends), [0] * len(ends), list(lengths)
    for node, parent in enumerate(parents):
        if parent >= 0:
            depths[node], paths[node] = depths[parent] + 1, paths[parent] + lengths[node]
    for node in reversed(range(len(ends))):
        if parents[node] >= 0:
            lasts[parents[node]] = max(lasts[parents[node]], lasts[node])
    shared = {
        node: (end - lengths[node], end, max(end, known) - known, lasts[node] - known)
        for node, end in enumerate(ends)
        if lasts[node] > end
    }
    by_depth = [[shared[node] for node in shared if depths[node] == depth] for depth in range(max(depths) + 1)]
    new = [0, *(end - known for end in ends if end > known)]
    bounds = torch.tensor(new, dtype=torch.int32, device=device)
    return TreeLayout(
        known=known,
        longest=max(paths),
        shared=tuple(shared.values()),
        groups=tuple(documents_of_like_length(bounds)),
        bounds=bounds,
        most=max(end - start for start, end in pairwise(new)),
        levels=tuple(_level(nodes, device) for nodes in by_depth if nodes and by_level),
    )


def tree_attention(
    query_THD: Tensor, key_KGD: Tensor, value_KGD: Tensor, layout: TreeLayout, *, scale: float | None = None
) -> Tensor:
    """[T, H, D]: causal attention along each path of the tree.

    Args:
        key_KGD, value_KGD: those that are known, then those of the row.
        scale: factor on the scores; 1/sqrt(D) when None.
    """
    if torch.is_autocast_enabled(query_THD.device.type):
        kind = torch.get_autocast_dtype(query_THD.device.type)
        query_THD, key_KGD, value_KGD = (x.to(kind) for x in (query_THD, key_KGD, value_KGD))
    scale = scale or query_THD.shape[-1] ** -0.5
    groups = query_THD.shape[1] // key_KGD.shape[1]
    if groups > 1:  # torch 2.11's kernels have no grouped-query argument
        key_KGD, value_KGD = (x.repeat_interleave(groups, dim=1) for x in (key_KGD, value_KGD))
    attend = _by_level if _has_varlen(query_THD, value_KGD) else _by_node
    return attend(query_THD, key_KGD, value_KGD, layout, scale).to(query_THD.dtype)


def tree_attention_reference(
    query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, lengths: Sequence[int], parents: Sequence[int]
) -> Tensor:
    """The same by its definition: one softmax over the whole row under a [T, T] mask. For tests."""
    T, H, D = query_THD.shape
    node_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    above_NN = torch.eye(len(lengths), dtype=torch.bool)  # a node, and what it sees
    for node, parent in enumerate(parents):
        if parent >= 0:
            above_NN[node] |= above_NN[parent]
    visible_TT = above_NN[node_T][:, node_T] & torch.ones(T, T, dtype=torch.bool).tril()
    key_THD, value_THD = (x.repeat_interleave(H // key_TGD.shape[1], dim=1) for x in (key_TGD, value_TGD))
    scores_HTT = torch.einsum("qhd,khd->hqk", query_THD.float(), key_THD.float()) * D**-0.5
    weights_HTT = scores_HTT.masked_fill(~visible_TT, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights_HTT, value_THD.float()).to(query_THD.dtype)


def _level(nodes: list[tuple[int, int, int, int]], device: torch.device) -> Level:
    def places(bounds: list[tuple[int, int]]) -> tuple[Tensor, Tensor, int]:
        counts = torch.tensor([last - first for first, last in bounds])
        place = torch.cat([torch.arange(first, last) for first, last in bounds])
        return place.to(device), F.pad(counts.cumsum(0), (1, 0)).int().to(device), int(counts.max())

    query_N, query_bounds, most_queries = places([(first, last) for _, _, first, last in nodes])
    key_P, key_bounds, most_keys = places([(start, end) for start, end, _, _ in nodes])
    return Level(query_N, key_P, query_bounds, key_bounds, most_queries, most_keys)


def _by_node(query_THD: Tensor, key_KHD: Tensor, value_KHD: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """Any device: nodes of like length are a padded batch; descendants are slices."""
    T, H, _ = query_THD.shape
    out_THD = query_THD.new_empty(T, H, value_KHD.shape[-1], dtype=torch.float32)
    weight_TH = query_THD.new_empty(T, H, dtype=torch.float32)
    own = query_THD, key_KHD[layout.known :], value_KHD[layout.known :]
    for place_nL, real_nL in layout.groups:
        q, k, v = (x[place_nL].transpose(1, 2) for x in own)
        part, weight = _attend(q, k, v, scale, causal=True)
        place_N = place_nL[real_nL]
        out_THD[place_N] = part.transpose(1, 2)[real_nL].float()
        weight_TH[place_N] = weight.transpose(1, 2)[real_nL]
    for start, end, first, last in layout.shared:
        some = query_THD[first:last], key_KHD[start:end], value_KHD[start:end]
        q, k, v = (x.transpose(0, 1)[None] for x in some)
        part, weight = _attend(q, k, v, scale, causal=False)
        _add(out_THD[first:last], weight_TH[first:last], part[0].transpose(0, 1).float(), weight[0].transpose(0, 1))
    return out_THD


def _by_level(query_THD: Tensor, key_KHD: Tensor, value_KHD: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """A GPU: all nodes are one call of a kernel of variable lengths, and the descendants of each depth another."""
    bounds, most = layout.bounds, layout.most
    own = query_THD, key_KHD[layout.known :], value_KHD[layout.known :]
    part, weight = _varlen(*own, bounds, bounds, most, most, scale, causal=True)
    out_THD, weight_TH = part.float(), weight.transpose(0, 1).contiguous()
    for level in layout.levels:
        part, weight = _varlen(
            query_THD[level.query_N], key_KHD[level.key_P], value_KHD[level.key_P], level.query_bounds,
            level.key_bounds, level.most_queries, level.most_keys, scale, causal=False,
        )  # fmt: skip
        out_NHD, weight_NH = out_THD[level.query_N], weight_TH[level.query_N]
        _add(out_NHD, weight_NH, part.float(), weight.transpose(0, 1))
        out_THD[level.query_N], weight_TH[level.query_N] = out_NHD, weight_NH
    return out_THD


def _add(out_NHD: Tensor, weight_NH: Tensor, part_NHD: Tensor, part_weight_NH: Tensor) -> None:
    """Take attention to more keys into `out_NHD`; weights are log-sum-exps of the scores."""
    out_NHD.lerp_(part_NHD, torch.sigmoid(part_weight_NH - weight_NH)[..., None])
    torch.logaddexp(weight_NH, part_weight_NH, out=weight_NH)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """[n, H, N, D] over [n, H, P, D], and the log-sum-exp of the scores [n, H, N] in fp32."""
    if q.device.type == "cpu" and q.shape[-1] == v.shape[-1]:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        part, weight = flash(q, k, v, 0.0, causal, scale=scale)
        return part, weight.float()
    rows = max(1, SCORES_KEPT // (q.shape[0] * q.shape[1] * k.shape[2]))
    parts = [
        _softmax_sum(some, k, v, scale, place * rows if causal else None)
        for place, some in enumerate(q.split(rows, dim=2))
    ]
    return torch.cat([part for part, _ in parts], dim=2), torch.cat([weight for _, weight in parts], dim=2)


def _softmax_sum(q: Tensor, k: Tensor, v: Tensor, scale: float, first: int | None) -> tuple[Tensor, Tensor]:
    """The same, all scores at once; causal where `first` is the place of the first query among the keys."""
    scores = (q @ k.mT).float() * scale
    if first is not None:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(first)
        scores = scores.masked_fill(~visible, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v, scores.logsumexp(dim=-1)


def _has_varlen(query: Tensor, value: Tensor) -> bool:
    fits = query.dtype in HALVES and query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return query.is_cuda and fits and _varlen_with_sums()


@cache
def _varlen_with_sums() -> bool:
    """Whether this torch's attention of variable lengths gives its log-sum-exps."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "return_aux" in inspect.signature(varlen_attn).parameters


def _varlen(q, k, v, q_bounds, k_bounds, most_q, most_k, scale, *, causal):  # type: ignore[no-untyped-def]
    """[N, H, D] and the log-sum-exps [H, N] in fp32, of pairs of stretches."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    return varlen_attn(
        q, k, v, q_bounds, k_bounds, most_q, most_k, return_aux=AuxRequest(lse=True), scale=scale,
        window_size=(-1, 0 if causal else -1),
    )  # fmt: skip
