"""The graders that a task file can name."""

from __future__ import annotations

from types import MappingProxyType

from graftlm.evaluation.graders.answers import ANSWER_GRADERS
from graftlm.evaluation.graders.base import Grader, each
from graftlm.evaluation.graders.ecommerce import ECOMMERCE_GRADERS
from graftlm.evaluation.graders.law import LAW_GRADERS
from graftlm.evaluation.graders.programs import PROGRAM_GRADERS
from graftlm.evaluation.graders.strings import exact_match
from graftlm.evaluation.metrics import ANSWER_METRICS

GRADERS: MappingProxyType[str, Grader] = MappingProxyType(
    {
        "exact_match": exact_match,
        "normalised_match": each(ANSWER_METRICS["exact_match"]),
        **{name: each(metric) for name, metric in ANSWER_METRICS.items() if name != "exact_match"},
        **ANSWER_GRADERS,
        **ECOMMERCE_GRADERS,
        **LAW_GRADERS,
        **PROGRAM_GRADERS,
    }
)
"""name → grader. A grader's keyword-only arguments are the `options` that a task file may give it."""
