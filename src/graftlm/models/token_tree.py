"""A packed tree of tokens through a decoder: what several sequences begin with is computed once.

Shapes: T tokens of the row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftlm.models.trunk import agree, causal_lm, decoder_of, hidden_states
from graftlm.ops.tree_attention import TreeLayout, lay_out_tree, tree_attention


@dataclass(frozen=True)
class TokenTree:
    """Tokens of sequences that begin alike, end to end in one row.

    Attributes:
        tokens_T: each node's tokens, then those of all that descends from it.
        positions_T: of each token in its sequence.
        lengths, parents: tokens of each node, and the number of its parent (-1: none).
        known: tokens of the first nodes that were kept of the row before, and are not in this one.
        keep_P: places, among the known tokens and this row's, of those that the next row begins with.
    """

    tokens_T: Tensor
    positions_T: Tensor
    lengths: Sequence[int]
    parents: Sequence[int]
    known: int = 0
    keep_P: Tensor | None = None


class KeptStates:
    """Keys and values of what the next row begins with, by attention module; rows pass it on."""

    def __init__(self) -> None:
        self._states: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def exchange(
        self, module: nn.Module, key_TGD: Tensor, value_TGD: Tensor, known: int, keep_P: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Put the known states before those of the row, and keep what the next row wants: [known + T, G, D] each."""
        kept = self._states.pop(module, None)
        if known:
            assert kept is not None
            key_TGD, value_TGD = (torch.cat(pair) for pair in zip(kept, (key_TGD, value_TGD), strict=True))
        if keep_P is not None:
            self._states[module] = key_TGD[keep_P], value_TGD[keep_P]
        return key_TGD, value_TGD


@dataclass(frozen=True)
class _Pass:
    """A tree on its way through the model: what the attention entry gets of it."""

    layout: TreeLayout
    keep_P: Tensor | None
    states: KeptStates

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
        """query [1, H, T, D], key and value [1, G, T, D] → [T, H, D]. What it cannot do, `takes_trees` finds out."""
        if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
            raise NotImplementedError("attention along a tree has no score capping, sinks or biases")
        if getattr(module, "graft_prefix", None) is not None:
            raise NotImplementedError("attention along a tree has no learnt prefix")
        window, longest = kwargs.get("sliding_window"), self.layout.longest
        if window is not None and window < longest:
            raise ValueError(f"a path of {longest} tokens is longer than the attention window of {window}")
        query_THD, key_TGD, value_TGD = (x[0].transpose(0, 1) for x in (query, key, value))
        key_KGD, value_KGD = self.states.exchange(module, key_TGD, value_TGD, self.layout.known, self.keep_P)
        return tree_attention(query_THD, key_KGD, value_KGD, self.layout, scale=kwargs.get("scaling"))


def tree_states(model: nn.Module, tree: TokenTree, states: KeptStates) -> Tensor:
    """Final hidden states [T, D]: each token has seen its own sequence up to itself.

    Args:
        model: a causal language model that `takes_trees`.
        states: what the row before has kept.
    """
    device = next(decoder_of(model).parameters()).device
    on_gpu = device.type == "cuda"
    layout = lay_out_tree(tree.lengths, tree.parents, device, known=tree.known, by_level=on_gpu)
    keep_P = None if tree.keep_P is None else tree.keep_P.to(device)
    return decoder_of(model)(
        input_ids=tree.tokens_T.to(device)[None],
        position_ids=tree.positions_T.to(device)[None],
        # A mask of four dimensions is passed on as it is: none is built, our attention entry needs none.
        attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),
        use_cache=False,
        graft_tree=_Pass(layout, keep_P, states),
    ).last_hidden_state[0]


@torch.inference_mode()
def takes_trees(model: nn.Module) -> bool:
    """Whether trees give the hidden states that their sequences give each alone: measured on two of 11 tokens.

    Args:
        model: a causal language model that `prepare_trunk` has seen, in evaluation mode.
    """
    inner = causal_lm(model)
    if not getattr(inner, "graft_packs", False):
        return False
    tokens_T = torch.tensor([3, 4, 5, 6, 7, 8, 9, 10, 11, 7, 12]) % inner.config.get_text_config().vocab_size
    positions_T = torch.tensor([0, 1, 2, 3, 4, 4, 5, 2, 3, 4, 5])
    rows = [
        TokenTree(tokens_T[:9], positions_T[:9], [2, 2, 1, 2, 2], [-1, 0, 1, 1, 0], keep_P=torch.arange(4)),
        TokenTree(tokens_T[9:], positions_T[9:], [4, 2], [-1, 0], known=4),
    ]
    paths = [*(0, 1, 2, 3, 4), *(0, 1, 2, 3, 5, 6), *(0, 1, 7, 8), *(0, 1, 2, 3, 9, 10)]
    states, device = KeptStates(), next(decoder_of(model).parameters()).device
    boundaries = torch.tensor([0, 5, 11, 15, 21], dtype=torch.int32, device=device)
    try:
        found = torch.cat([tree_states(model, row, states) for row in rows])[paths]
    except torch.OutOfMemoryError:
        raise  # says nothing about the model
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return False
    rough = getattr(inner, "is_quantized", False)
    return agree(found, hidden_states(model, tokens_T[paths].to(device), boundaries), rough=rough)
