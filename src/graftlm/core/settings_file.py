"""From a YAML file to a checked pydantic value, with errors that name the key, the line and the nearest right name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from graftlm.core.errors import GraftError

Settings = TypeVar("Settings", bound=BaseModel)


def yaml_text(path: Path, error: type[GraftError]) -> str:
    """The text of a UTF-8 file.

    Raises:
        error: the file is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(f"not UTF-8 (byte {fault.start})", where=path, fix="save the file as UTF-8") from None


def parse_yaml(text: str, where: str | Path, error: type[GraftError]) -> Any:
    """The YAML as plain values. An anchor's aliases are copies: changing one key never changes another.

    Raises:
        error: not YAML; it names the line where `where` is a path.
    """
    try:
        return _unshared(yaml.safe_load(text))
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and isinstance(where, Path) else ""
        reason = f"not valid YAML: {getattr(fault, 'problem', None) or fault}"
        raise error(reason, where=f"{where}{line}", fix="mend this line") from None
    except RecursionError:
        raise error("an anchor holds itself", where=where, fix="write the value out") from None


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def checked(
    schema: type[Settings], tree: dict[str, Any], path: Path, text: str, error: type[GraftError], *, manual: str
) -> Settings:
    """The tree as a value of the schema.

    Args:
        path, text: where the tree comes from, for the line of a fault.
        manual: the page that lists keys and values.

    Raises:
        error: an unknown key (with the nearest known one), a missing one, or a value that does not fit.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as fault:
        # Of a union, pydantic reports every variant's complaint; the deepest belongs to the variant that was meant.
        first = max(fault.errors(), key=lambda one: (len(_location(tree, one)), one["type"] == "extra_forbidden"))
        location = _location(tree, first)
        key = ".".join(str(part) for part in location)
        where = place_of(path, text, location)
        if first["type"] == "extra_forbidden":
            names = sorted(_fields_at(schema, location[:-1]))
            raise error(f"unknown key `{key}`", where=where, fix=nearest(str(location[-1]), names)) from None
        if first["type"] == "missing":
            raise error(f"`{key}` is missing", where=where, fix=f"add it; {manual} lists the keys") from None
        message = first["msg"].removeprefix("Value error, ")
        fix = f"{manual} lists the keys and values"
        raise error(f"{key}: {message}" if key else message, where=where, fix=fix) from None


def _location(tree: Any, fault: Any) -> list[Any]:
    """The keys that lead to a fault, without the names of union variants that pydantic puts between them."""
    node, found = tree, []
    for part in fault["loc"]:
        inside = part in node if isinstance(node, dict) else isinstance(node, list) and part in range(len(node))
        if inside:
            found.append(part)
            node = node[part]
    return [*found, fault["loc"][-1]] if fault["type"] == "missing" else found


def _fields_at(schema: type[BaseModel], location: list[Any]) -> set[str]:
    """Names that would be right at a place of the schema."""
    models: list[type[BaseModel]] = [schema]
    for part in location:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            field = candidate.model_fields.get(str(part))
            inner += _models_in(field.annotation) if field else [candidate]  # else: a key the user chose
        models = inner
    return {field.alias or name for candidate in models for name, field in candidate.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def nearest(name: str, names: list[str]) -> str:
    """The advice for a name that is not among the known ones."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(names)}"


def place_of(path: Path, text: str, location: list[Any]) -> str:
    """path:line of the key, or of the innermost key around it that the file has."""
    node, line = yaml.compose(text, Loader=yaml.SafeLoader), 0
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if pair[0].value == str(part)), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{path}:{line}" if line else str(path)
