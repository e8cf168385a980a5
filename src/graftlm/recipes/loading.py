"""From a YAML file to a Recipe, with errors that name the key, the line and the nearest right name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from graftlm.core.errors import RecipeError
from graftlm.recipes.compat.deepspeed import apply_deepspeed
from graftlm.recipes.schema import Recipe
from graftlm.recipes.stage_settings import STAGE_KINDS


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
    text = _text(path)
    tree = _parse(text, path)
    if not isinstance(tree, dict):
        raise RecipeError("a recipe is a mapping of keys", where=path, fix="see recipes/clinic.yaml")
    for override in overrides or []:
        _override(tree, override)
    return _validate(_absolute_paths(_name_kinds(tree, path, text), path), path, text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 (byte {error.start})", where=path, fix="save the recipe as UTF-8") from None


def _parse(text: str, where: str | Path) -> Any:
    """The YAML as plain values. An anchor's aliases are copies: changing one key never changes another."""
    try:
        return _unshared(yaml.safe_load(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and isinstance(where, Path) else ""
        reason = f"not valid YAML: {getattr(error, 'problem', None) or error}"
        raise RecipeError(reason, where=f"{where}{line}", fix="mend this line") from None
    except RecursionError:
        raise RecipeError("an anchor holds itself", where=where, fix="write the value out") from None


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def save_recipe(recipe: Recipe, path: Path) -> None:
    """The resolved recipe, every default written out."""
    from graftlm.core.files import write_text

    tree = recipe.model_dump(by_alias=True, mode="json")
    write_text(path, yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))


def _name_kinds(tree: dict[str, Any], path: Path, text: str) -> dict[str, Any]:
    """A stage's kind is its name unless it says `stage:`."""
    stages = tree.get("stages")
    if not isinstance(stages, dict):
        raise RecipeError("`stages` must be a mapping of stage names", where=path, fix="see recipes/clinic.yaml")
    for name, stage in stages.items():
        where = _place(path, text, ["stages", name])
        if not isinstance(stage, dict):
            raise RecipeError(
                f"stages.{name} must be a mapping of settings", where=where, fix="see recipes/clinic.yaml"
            )
        kind = stage.setdefault("stage", name)
        if kind not in STAGE_KINDS:
            reason = f"stages.{name}: there is no stage `{kind}`"
            raise RecipeError(reason, where=where, fix=_nearest(str(kind), list(STAGE_KINDS)))
    return tree


def _absolute_paths(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Relative data paths, and models written as ./path, start at the recipe's folder.

    They become absolute, so that the copy of the recipe in the run folder means the same files.
    """
    folder = path.parent.absolute()
    for group in ("data", "evaluation"):
        if group in tree and tree[group] is None:  # every entry is commented out
            tree[group] = {}
        sources = tree.get(group, {})
        if not isinstance(sources, dict):
            raise RecipeError(f"`{group}` must be a mapping of names", where=path, fix="see recipes/clinic.yaml")
        for source in sources.values():
            if isinstance(source, dict) and isinstance(source.get("path"), str):
                source["path"] = str(folder / Path(source["path"]).expanduser())
    parallel = tree.get("parallel")
    if isinstance(parallel, dict) and isinstance(parallel.get("deepspeed"), str):
        parallel["deepspeed"] = str(folder / Path(parallel["deepspeed"]).expanduser())
        apply_deepspeed(tree, Path(parallel["deepspeed"]))
    if "base" in tree:
        tree["base"] = _absolute_model(tree["base"], folder)
    for stage in tree.get("stages") or {}:
        settings = tree["stages"][stage]
        if isinstance(settings, dict):
            for key in ("model", "reward", "vision", "sentencepiece"):
                if key in settings:
                    settings[key] = _absolute_model(settings[key], folder)
    return tree


def _absolute_model(value: Any, folder: Path) -> Any:
    """A model written as ./path, also inside the settings of rewards; all else as it is."""
    if isinstance(value, str):
        return str((folder / value).resolve()) if value.startswith(".") else value
    if isinstance(value, list):
        return [_absolute_model(one, folder) for one in value]
    if isinstance(value, dict):
        inner = ("model", "safety")
        return {key: _absolute_model(one, folder) if key in inner else one for key, one in value.items()}
    return value


def _override(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(
            f"`{override}` is not key=value", where="command line", fix="write e.g. stages.sft.learning_rate=1e-4"
        )
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        if node.get(parent) is None:  # absent, or written without a value
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise RecipeError(f"`{key}`: `{parent}` holds a value, not keys", where="command line", fix="check the key")
    node[last] = _parse(value, f"command line: {override}")


def _validate(tree: dict[str, Any], path: Path, text: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        # Of a union, pydantic reports every variant's complaint; the deepest belongs to the variant that was meant.
        first = max(error.errors(), key=lambda one: (len(_location(tree, one)), one["type"] == "extra_forbidden"))
        location = _location(tree, first)
        key = ".".join(str(part) for part in location)
        where = _place(path, text, location)
        if first["type"] == "extra_forbidden":
            names = sorted(_fields_at(Recipe, location[:-1]))
            raise RecipeError(f"unknown key `{key}`", where=where, fix=_nearest(str(location[-1]), names)) from None
        if first["type"] == "missing":
            raise RecipeError(
                f"`{key}` is missing", where=where, fix="add it; docs/recipes.md lists the keys"
            ) from None
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"{key}: {message}" if key else message, where=where, fix="docs/recipes.md lists the keys and values"
        ) from None


def _location(tree: Any, error: Any) -> list[Any]:
    """The keys that lead to an error, without the names of union variants that pydantic puts between them."""
    node, found = tree, []
    for part in error["loc"]:
        if isinstance(node, dict) and part in node:
            found.append(part)
            node = node[part]
    return [*found, error["loc"][-1]] if error["type"] == "missing" else found


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


def _place(path: Path, text: str, location: list[Any]) -> str:
    """path:line of the key, or of the innermost key around it that the file has."""
    node, line = yaml.compose(text, Loader=yaml.SafeLoader), 0
    for part in location:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if pair[0].value == str(part)), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{path}:{line}" if line else str(path)
