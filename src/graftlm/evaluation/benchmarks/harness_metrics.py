"""metric_list and filter_list of lm-evaluation-harness as metrics of graft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftlm.core.errors import DataError
from graftlm.evaluation.benchmarks.task_file import LIKELIHOOD_METRICS, NOT_HEADLINES, Request

_DEFAULTS: dict[Request, tuple[str, ...]] = {
    "choice": ("acc", "acc_norm"),
    "likelihood": ("acc", "perplexity"),
    "rolling": ("bits_per_byte", "word_perplexity", "byte_perplexity"),
    "generate": ("exact_match",),
}
_OF_NO_MATTER = {"metric", "aggregation", "higher_is_better"}
_EXACT_MATCH = ("ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore")
_FILTERS = {"take_first": "first", "remove_whitespace": "strip", "lowercase": "lower", "uppercase": "upper"}


def read_metrics(tree: Mapping[str, Any], request: Request, path: Path) -> list[dict[str, Any]]:
    """The metrics of a task file of the harness, each once for every filter.

    Raises:
        DataError: a metric or a filter that graft does not have.
    """
    listed = tree.get("metric_list") or [{"metric": name} for name in _DEFAULTS[request]]
    metrics = [_metric(dict(one), request, path) for one in listed]
    # Perplexities cannot head a task here; they stay, behind one that can.
    metrics.sort(key=lambda metric: metric["name"] in NOT_HEADLINES)
    if metrics[0]["name"] in NOT_HEADLINES:
        metrics.insert(0, {"name": LIKELIHOOD_METRICS[request][0]})
    filters = tree.get("filter_list") or []
    if request != "generate" or not filters:
        return metrics
    return [
        {**metric, "label": f"{metric['name']},{one['name']}", "filters": _filters(one, path)}
        for one in filters
        for metric in metrics
    ]


def _metric(given: dict[str, Any], request: Request, path: Path) -> dict[str, Any]:
    name = given.get("metric")
    known = LIKELIHOOD_METRICS.get(request, ("exact_match",))
    if name not in known:
        fix = f"leave it out; known for {request}: {', '.join(known)}"
        raise DataError(f"metric `{name}` is not supported", where=path, fix=fix)
    options = {key: value for key, value in given.items() if key not in _OF_NO_MATTER}
    unknown = [key for key in options if name != "exact_match" or key not in _EXACT_MATCH]
    if unknown:
        raise DataError(f"metric `{name}` has no `{unknown[0]}`", where=path, fix="leave it out")
    return {"name": name, "options": options}


def _filters(pipeline: Mapping[str, Any], path: Path) -> list[Any]:
    return [_filter(dict(one), path) for one in pipeline["filter"]]


def _filter(given: dict[str, Any], path: Path) -> Any:
    name = given.pop("function")
    if name in _FILTERS:
        return _FILTERS[name]
    if name == "regex":
        return {
            "regex": given.get("regex_pattern", r"#### (\-?[0-9\.\,]+)"),
            "pick": given.get("group_select", 0),
            "fallback": given.get("fallback", "[invalid]"),
        }
    if name == "map" and isinstance(given.get("mapping_dict"), dict):
        default = given.get("default_value")
        mapping = {str(key): str(value) for key, value in given["mapping_dict"].items()}
        return {"map": mapping, "default": "None" if default is None else str(default)}
    raise DataError(f"filter `{name}` is not supported", where=path, fix="take_first, regex, map, lowercase, …")
