"""Task and group files of lm-evaluation-harness (0.4), read as graft's own.

What a file may say and graft does not do is refused, never passed over: a score must mean what the file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graftlm.core.errors import DataError
from graftlm.core.settings_file import nearest
from graftlm.evaluation.benchmarks.harness_functions import Function, Trusted
from graftlm.evaluation.benchmarks.harness_metrics import read_metrics
from graftlm.evaluation.benchmarks.harness_yaml import read_harness_yaml
from graftlm.evaluation.benchmarks.task_file import Request, TaskFile

MARKS = ("dataset_path", "output_type", "doc_to_text", "doc_to_target", "include", "task", "group")
"""Keys that a file of the harness has and graft's own have not."""

_REQUESTS: dict[str, Request] = {
    "multiple_choice": "choice",
    "loglikelihood": "likelihood",
    "loglikelihood_rolling": "rolling",
    "generate_until": "generate",
}
_READ = {
    "task", "include", "dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split",
    "test_split", "fewshot_split", "process_docs", "doc_to_text", "doc_to_target", "doc_to_choice", "description",
    "target_delimiter", "fewshot_delimiter", "fewshot_config", "num_fewshot", "metric_list", "output_type",
    "generation_kwargs", "repeats", "filter_list", "metadata",
}  # fmt: skip
_OF_NO_MATTER = {"task_alias", "tag", "group", "group_alias", "should_decontaminate", "doc_to_decontamination_query"}
_REFUSED = {
    "process_results": "its scores are made by Python code",
    "doc_to_image": "it asks about images",
    "doc_to_audio": "it asks about sounds",
    "gen_prefix": "it begins the model's answer",
    "use_prompt": "it takes its prompt from promptsource",
    "custom_dataset": "its data are made by Python code",
    "unsafe_code": "it runs what the model writes",
    "class": "it is a Python class",
}
_FILE_KINDS = ("json", "csv", "parquet")


def read_harness_task(path: Path, *, trust: bool = False) -> TaskFile:
    """A task file of the harness.

    Args:
        trust: whether its `!function`s, Python that stands beside it, may run.

    Raises:
        DataError: a key that is unknown or not supported, a function without `trust`, or a file at fault.
    """
    tree = {key: value for key, value in read_harness_yaml(path).items() if value is not None}
    _check_keys(tree, path)
    functions = Trusted(path, trust)
    request = _REQUESTS.get(str(tree.get("output_type", "generate_until")))
    if request is None:
        raise DataError(f"no output_type `{tree['output_type']}`", where=path, fix=f"one of: {', '.join(_REQUESTS)}")
    shown = _examples(tree, path)
    settings: dict[str, Any] = {
        "name": _name(tree, path),
        "version": _version(tree),
        "data": _rows(tree, _asked_split(tree, path), path),
        "fewshot": shown,
        "request": request,
        "description": _template(tree.get("description", ""), functions, "description"),
        "target_delimiter": str(tree.get("target_delimiter", " ")),
        "fewshot_delimiter": str(tree.get("fewshot_delimiter", "\n\n")),
        "metrics": read_metrics(tree, request, path),
        **_questions(tree, request, functions, path),
    }
    if request == "generate":
        settings["generation"] = _generation(tree, settings["fewshot_delimiter"], path)
    if request == "likelihood":  # the harness puts the delimiter between prompt and answer of examples only
        shown.setdefault("answer", settings["target_delimiter"] + settings["answer"])
        settings["target_delimiter"] = ""
    transform = functions.transform(tree.get("process_docs"))
    settings["data"]["transform"] = shown["transform"] = transform
    return _checked(settings, path)


def _checked(settings: dict[str, Any], path: Path) -> TaskFile:
    try:
        return TaskFile.model_validate(settings)
    except ValidationError as fault:
        first = fault.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{key}: {message}" if key else message, where=path, fix="mend the task file") from None


def _check_keys(tree: Mapping[str, Any], path: Path) -> None:
    for key in tree:
        if key in _REFUSED and tree[key]:
            fix = "give the task as a file of graft's own; docs/benchmarks.md"
            raise DataError(f"`{key}` is not supported: {_REFUSED[key]}", where=path, fix=fix)
        if key not in _READ | _OF_NO_MATTER | set(_REFUSED):
            raise DataError(f"unknown key `{key}`", where=path, fix=nearest(key, sorted(_READ)))


def _name(tree: Mapping[str, Any], path: Path) -> str:
    name = tree.get("task")
    return name if isinstance(name, str) else path.stem


def _version(tree: Mapping[str, Any]) -> str:
    metadata = tree.get("metadata")
    return str(metadata.get("version", "1")) if isinstance(metadata, dict) else "1"


def _asked_split(tree: Mapping[str, Any], path: Path) -> str:
    split = tree.get("test_split") or tree.get("validation_split")
    if split is None:
        raise DataError("neither test_split nor validation_split", where=path, fix="name the split to ask")
    return str(split)


def _rows(tree: Mapping[str, Any], split: str, path: Path) -> dict[str, Any]:
    """Local files where the file names such, else the hub."""
    source, given = str(tree.get("dataset_path", "")), dict(tree.get("dataset_kwargs") or {})
    files = given.get("data_files")
    if files is not None:
        listed = files.get(split) if isinstance(files, dict) else files
        if listed is None:
            raise DataError(f"data_files has no split `{split}`", where=path, fix=f"there are: {', '.join(files)}")
        folder = given.get("data_dir")
        return {"files": [_beside(one, folder, path) for one in ([listed] if isinstance(listed, str) else listed)]}
    folder = path.parent / source
    if source and folder.is_dir():
        return {"files": [f"{folder}/{split}.*", f"{folder}/{split}-*", f"{folder}/data/{split}-*"]}
    if source in _FILE_KINDS or not source:
        raise DataError(f"`{source}` data without data_files", where=path, fix="add dataset_kwargs: {data_files: …}")
    return {"hub": {"name": source, "config": tree.get("dataset_name"), "split": split}}


def _beside(file: str, folder: str | None, path: Path) -> str:
    """Of a relative file the place beside the task file, where it is there; else below the data folder."""
    relative = Path(folder or "") / file
    if relative.is_absolute():
        return str(relative)
    return str(path.parent / relative) if any(path.parent.glob(str(relative))) else str(relative)


def _examples(tree: Mapping[str, Any], path: Path) -> dict[str, Any]:
    config = dict(tree.get("fewshot_config") or {})
    known = ("sampler", "split", "samples", "doc_to_text", "doc_to_target", "process_docs")
    unknown = [key for key, value in config.items() if key not in known and value is not None]
    if unknown:
        raise DataError(f"fewshot_config.{unknown[0]} is not supported", where=path, fix=f"known: {', '.join(known)}")
    order = {"first_n": "first", "default": "random"}.get(str(config.get("sampler", "default")))
    if order is None:
        raise DataError(f"no sampler `{config['sampler']}`", where=path, fix="first_n, or default")
    shown: dict[str, Any] = {"shots": int(tree.get("num_fewshot") or 0), "order": order}
    for theirs, ours in (("doc_to_text", "prompt"), ("doc_to_target", "answer")):
        if config.get(theirs) is not None:
            shown[ours] = _column_or_template(str(config[theirs]))
    split = config.get("split") or tree.get("fewshot_split")
    if split is None and isinstance(config.get("samples"), list):
        return shown | {"rows": config["samples"]}
    split = split or tree.get("training_split") or tree.get("validation_split")
    if split is None or str(split) == _asked_split(tree, path):
        return shown  # from the rows that are asked, the question itself left out
    return shown | _rows(tree, str(split), path)


def _questions(tree: Mapping[str, Any], request: Request, functions: Trusted, path: Path) -> dict[str, Any]:
    prompt = _template(tree.get("doc_to_text", ""), functions, "doc_to_text")
    target = tree.get("doc_to_target")
    if target is None:
        raise DataError("doc_to_target is missing", where=path, fix="add it")
    answer = target if isinstance(target, int | list) else _template(target, functions, "doc_to_target")
    if request == "rolling":
        return {"prompt": answer}
    if isinstance(answer, list):
        answer = [str(one) for one in answer]
    found: dict[str, Any] = {"prompt": prompt, "answer": answer, "answer_is": "harness"}
    choices = tree.get("doc_to_choice")
    if choices is None:
        return found
    if request != "choice":
        raise DataError(f"doc_to_choice is not supported for {request}", where=path, fix="let doc_to_target give text")
    if isinstance(choices, dict):
        choices = list(choices.values())
    given = [_literal(str(one)) for one in choices] if isinstance(choices, list) else None
    return found | {"choices": given or _template(choices, functions, "doc_to_choice")}


def _generation(tree: Mapping[str, Any], delimiter: str, path: Path) -> dict[str, Any]:
    given = dict(tree.get("generation_kwargs") or {})
    until = given.pop("until", [delimiter])
    sampled, temperature = bool(given.pop("do_sample", False)), float(given.pop("temperature", 0.0) or 0.0)
    longest = next((key for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in given), "")
    found = {
        "until": [until] if isinstance(until, str) else list(until),
        "max_tokens": int(given.pop(longest, 256)),
        "samples": int(tree.get("repeats") or 1),
        "temperature": (temperature or 1.0) if sampled else 0.0,
        **{key: given.pop(key) for key in ("top_p", "top_k") if key in given},
    }
    if given:
        key = next(iter(given))
        raise DataError(f"generation_kwargs.{key} is not supported", where=path, fix="leave it out")
    return found


def _template(value: Any, functions: Trusted, key: str) -> str:
    if isinstance(value, Function):
        return functions.field(value, key)
    return _column_or_template(str(value))


def _column_or_template(text: str) -> str:
    """The harness takes a text that is the name of a column for that column."""
    if not text or "{{" in text or "{%" in text or '"' in text or "\n" in text or "\\" in text:
        return text
    return f'{{{{ row["{text}"] if "{text}" in row else "{text}" }}}}'


def _literal(text: str) -> str:
    """A text that a template gives back as it is."""
    return f"{{% raw %}}{text}{{% endraw %}}" if "{" in text else text
