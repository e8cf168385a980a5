"""Which stages a model can learn in: one that fills blanks answers behind a mark, which only infill stages write."""

from __future__ import annotations

from transformers import PretrainedConfig

from graftlm.core.errors import ModelError
from graftlm.data.blank_infilling import Marks
from graftlm.models.families.glm130b_config import MARKS


def marks_in(config: PretrainedConfig) -> Marks | None:
    """The marks of a model that fills blanks; None for another."""
    found = {name.removesuffix("_token_id"): getattr(config, name, None) for name in MARKS}
    known = {name: token for name, token in found.items() if token is not None}
    return Marks(**known) if len(known) == len(found) else None


def refuse_mismatch(config: PretrainedConfig, kind: str, where: str) -> None:
    """Raises ModelError where a stage of this kind cannot train a model of this configuration."""
    fills = marks_in(config) is not None
    if fills and kind != "infill":
        raise ModelError(
            f"a {config.model_type} model answers behind a mark, which a {kind} stage does not write",
            where=where,
            fix="use an infill stage, for texts and for conversations",
        )
    if kind == "infill" and not fills:
        raise ModelError(
            f"a {config.model_type} model has no marks for blanks",
            where=where,
            fix="an infill stage needs a model of model_type glm130b; train others with a pretrain stage",
        )
