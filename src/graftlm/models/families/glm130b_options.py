"""The options of multiple-choice questions in one pass: all behind their context, none seeing another.

As GLM-130B's evaluation does it (THUDM/GLM-130B): attention between options is block-diagonal, each option begins
with its own `sop`, and all stand where the blank is. A context costs once what it would cost for each option.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graftlm.models.families.glm130b import Glm130bForCausalLM, infilling_states
from graftlm.models.families.glm130b_config import Glm130bConfig
from graftlm.models.trunk import output_head
from graftlm.ops.cross_entropy import IGNORE, token_log_probabilities
from graftlm.ops.prefix_attention import CONTEXT


@dataclass(frozen=True)
class PackedOptions:
    """Questions end to end, T tokens in all.

    Attributes:
        tokens, positions, branch, targets: [T] int64; an option's branch is its number from 1, the context's is 0.
        option: [T] number of the option among all options of all questions; of context tokens it says nothing.
        boundaries: [questions + 1] int32.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    branch: torch.Tensor
    targets: torch.Tensor
    option: torch.Tensor
    boundaries: torch.Tensor


def pack_options(
    contexts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]], config: Glm130bConfig
) -> PackedOptions:
    """Lay contexts and options out in one row.

    Args:
        contexts: the tokens of each question; one without a mark gets a [MASK] at its end.
        options: for each question, the tokens of each of its options, none empty.
    """
    assert config.sop_token_id is not None and config.mask_token_id is not None
    row: list[tuple[int, int, int, int, int]] = []  # token, position, branch, target, option
    boundaries, numbers = [0], itertools.count()
    for context, choices in zip(contexts, options, strict=True):
        marked, blank = _with_mark(list(context), config)
        row += [(token, place, CONTEXT, IGNORE, 0) for place, token in enumerate(marked)]
        for branch, choice in enumerate(choices, CONTEXT + 1):
            shown, number = [config.sop_token_id, *choice[:-1]], next(numbers)
            row += [
                (token, place if blank is None else blank, branch, target, number)
                for place, (token, target) in enumerate(zip(shown, choice, strict=True), len(marked))
            ]
        boundaries.append(len(row))
    tokens, positions, branches, targets, option = torch.tensor(row).T.contiguous().unbind()
    return PackedOptions(tokens, positions, branches, targets, option, torch.tensor(boundaries, dtype=torch.int32))


@torch.inference_mode()
def option_log_probabilities(
    model: Glm130bForCausalLM, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """log p in nats of every option, summed over its tokens, for each question. All run at once.

    Arguments are those of `pack_options`.
    """
    row = pack_options(contexts, options, model.config)
    device = model.device
    targets_T = row.targets.to(device)
    hidden_TD = infilling_states(
        model, row.tokens.to(device), row.positions.to(device), row.boundaries.to(device), row.branch.to(device)
    )
    log_p_T = token_log_probabilities(hidden_TD, output_head(model), targets_T).double()
    sums = torch.zeros(sum(map(len, options)), dtype=torch.float64, device=device)
    found = iter(sums.index_add_(0, row.option.to(device), log_p_T).tolist())
    return [[next(found) for _ in choices] for choices in options]


def _with_mark(context: list[int], config: Glm130bConfig) -> tuple[list[int], int | None]:
    """The context with its mark, and the position that options take; None where positions go on ([gMASK])."""
    blanks = {config.mask_token_id, config.smask_token_id}
    place = next((place for place, token in enumerate(context) if token in blanks), None)
    if place is None and config.gmask_token_id not in context:
        assert config.mask_token_id is not None
        return [*context, config.mask_token_id], len(context)
    return context, place
