"""A packed tree of tokens through a decoder: what several sequences begin with is computed once.

Shapes: T tokens of the row, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graftlm.models.trunk import agree, causal_lm, decoder_of, hidden_states
from graftlm.ops.tree_attention import lay_out_tree


@dataclass(frozen=True)
class TokenTree:
    """Tokens of sequences that begin alike, end to end in one row.

    Attributes:
        tokens_T: each node's tokens, then those of all that descends from it.
        positions_T: of each token in its sequence.
        lengths, parents: tokens of each node, and the number of its parent (-1: none).
    """

    tokens_T: Tensor
    positions_T: Tensor
    lengths: Sequence[int]
    parents: Sequence[int]


def tree_states(model: nn.Module, tree: TokenTree) -> Tensor:
    """Final hidden states [T, D]: each token has seen its own sequence up to itself.

    Args:
        model: a causal language model that `takes_trees`.
    """
    device = next(decoder_of(model).parameters()).device
    layout = lay_out_tree(tree.lengths, tree.parents, device, by_level=device.type == "cuda")
    return decoder_of(model)(
        input_ids=tree.tokens_T.to(device)[None],
        position_ids=tree.positions_T.to(device)[None],
        # A mask of four dimensions is passed on as it is: none is built, our attention entry needs none.
        attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),
        use_cache=False,
        graft_tree=layout,
    ).last_hidden_state[0]


@torch.inference_mode()
def takes_trees(model: nn.Module) -> bool:
    """Whether a tree gives the hidden states that its sequences give each alone: measured on one of 9 tokens.

    Args:
        model: a causal language model that `prepare_trunk` has seen, in evaluation mode.
    """
    inner = causal_lm(model)
    if not getattr(inner, "graft_packs", False):
        return False
    tree = TokenTree(
        torch.tensor([3, 4, 5, 6, 7, 8, 9, 10, 11]) % inner.config.get_text_config().vocab_size,
        torch.tensor([0, 1, 2, 3, 4, 4, 5, 2, 3]),
        lengths=[2, 2, 1, 2, 2],
        parents=[-1, 0, 1, 1, 0],
    )
    paths = [0, 1, 2, 3, 4] + [0, 1, 2, 3, 5, 6] + [0, 1, 7, 8]
    device = next(decoder_of(model).parameters()).device
    boundaries = torch.tensor([0, 5, 11, 15], dtype=torch.int32, device=device)
    try:
        found = tree_states(model, tree)[paths]
    except torch.OutOfMemoryError:
        raise  # says nothing about the model
    except (NotImplementedError, TypeError, ValueError, RuntimeError):
        return False
    rough = getattr(inner, "is_quantized", False)
    return agree(found, hidden_states(model, tree.tokens_T[paths].to(device), boundaries), rough=rough)
