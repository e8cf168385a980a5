"""From a YAML file to a Recipe, with errors that name the key, the line and the nearest right name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from graftlm.core.errors import RecipeError
from graftlm.recipes.schema import STAGE_KINDS, Recipe


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key.subkey=value` overrides (values are YAML).

    Raises:
        RecipeError: the file is absent or not YAML, a key is unknown, a value does not fit.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        raise RecipeError(
            "no such recipe",
            where=path,
            fix=f"did you mean {path.parent / near[0]}?" if near else "check the path",
        )
    text = path.read_text(encoding="utf-8")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(
            f"not valid YAML: {getattr(error, 'problem', error)}", where=f"{path}{line}", fix="mend this line"
        ) from None
    if not isinstance(tree, dict):
        raise RecipeError("a recipe is a mapping of keys", where=path, fix="see recipes/clinic.yaml")
    for override in overrides or []:
        _override(tree, override)
    return _validate(_absolute_paths(_name_kinds(tree, path), path.parent), path, text)


def save_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved recipe, every default written out."""
    from graftlm.core.files import write_text

    tree = recipe.model_dump(by_alias=True, mode="json")
    write_text(path, yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))


def _name_kinds(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """A stage's kind is its name unless it says `stage:`."""
    stages = tree.get("stages")
    if not isinstance(stages, dict):
        raise RecipeError("`stages` must be a mapping of stage names", where=path, fix="see recipes/clinic.yaml")
    for name, stage in stages.items():
        if not isinstance(stage, dict):
            raise RecipeError(f"stages.{name} must be a mapping of settings", where=path, fix="see recipes/clinic.yaml")
        kind = stage.setdefault("stage", name)
        if kind not in STAGE_KINDS:
            raise RecipeError(
                f"stages.{name}: there is no stage `{kind}`",
                where=_place(path, str(name)),
                fix=_nearest(str(kind), list(STAGE_KINDS)),
            )
    return tree


def _absolute_paths(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative data paths and a base written as ./path start at the recipe's folder."""
    for group in ("data", "evaluation"):
        for source in (tree.get(group) or {}).values():
            if isinstance(source, dict) and isinstance(source.get("path"), str):
                source["path"] = str(folder / Path(source["path"]).expanduser())
    base = tree.get("base")
    if isinstance(base, str) and base.startswith("."):
        tree["base"] = str((folder / base).resolve())
    return tree


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(
            f"`{override}` is not key=value",
            where="command line",
            fix="write e.g. stages.sft.learning_rate=1e-4",
        )
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise RecipeError(f"`{key}`: `{parent}` holds a value, not keys", where="command line", fix="check the key")
    node[last] = yaml.safe_load(value)


def _validate(tree: dict[str, Any], path: Path, text: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic names the chosen variant of a union inside the location; the file has no such key.
        location = [
            part
            for part in first["loc"]
            if part not in (*STAGE_KINDS, "NewBase", "str") or _in_tree(tree, first["loc"], part)
        ]
        key = ".".join(str(part) for part in location)
        where = _place(path, str(location[-1]) if location else "", text)
        if first["type"] == "extra_forbidden":
            names = sorted(_fields_at(Recipe, location[:-1]))
            raise RecipeError(f"unknown key `{key}`", where=where, fix=_nearest(str(location[-1]), names)) from None
        if first["type"] == "missing":
            raise RecipeError(
                f"`{key}` is missing", where=where, fix="add it; docs/recipes.md lists the keys"
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"{key}: {message}" if key else message,
            where=where,
            fix="docs/recipes.md lists the keys and values",
        ) from None


def _in_tree(tree: Any, location: tuple[Any, ...], wanted: Any) -> bool:
    """Whether `wanted` in a pydantic location is a key of the file (and not the name of a union's variant)."""
    node = tree
    for part in location:
        inside = isinstance(node, dict) and part in node
        if part == wanted:
            return inside
        node = node[part] if inside else node
    return False


def _fields_at(model: type[BaseModel], location: list[Any]) -> set[str]:
    """Names that would be right at a place of the schema."""
    models: list[type[BaseModel]] = [model]
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


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(names)}"


def _place(path: Path, key: str, text: str | None = None) -> str:
    """path:line of the first line that begins with the key."""
    lines = (text if text is not None else path.read_text(encoding="utf-8")).splitlines()
    for number, line in enumerate(lines, 1):
        if key and line.strip().lstrip("- ").startswith(f"{key}:"):
            return f"{path}:{number}"
        if key and f"{key}:" in line:
            return f"{path}:{number}"
    return str(path)
