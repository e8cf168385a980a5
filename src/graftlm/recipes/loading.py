"""From a YAML file to a Recipe, with errors that name the key, the line and the nearest right name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from graftlm.core.errors import RecipeError
from graftlm.core.settings_file import checked, nearest, parse_yaml, place_of, yaml_text
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
    text = yaml_text(path, RecipeError)
    tree = parse_yaml(text, path, RecipeError)
    if not isinstance(tree, dict):
        raise RecipeError("a recipe is a mapping of keys", where=path, fix="see recipes/clinic.yaml")
    for override in overrides or []:
        _override(tree, override)
    resolved = _absolute_paths(_name_kinds(tree, path, text), path)
    return checked(Recipe, resolved, path, text, RecipeError, manual="docs/recipes.md")


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
        where = place_of(path, text, ["stages", name])
        if not isinstance(stage, dict):
            raise RecipeError(
                f"stages.{name} must be a mapping of settings", where=where, fix="see recipes/clinic.yaml"
            )
        kind = stage.setdefault("stage", name)
        if kind not in STAGE_KINDS:
            reason = f"stages.{name}: there is no stage `{kind}`"
            raise RecipeError(reason, where=where, fix=nearest(str(kind), list(STAGE_KINDS)))
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
    suites = tree.get("suites")
    if isinstance(suites, dict):
        if isinstance(suites.get("data"), str):
            suites["data"] = str(folder / Path(suites["data"]).expanduser())
        if isinstance(suites.get("names"), list):
            suites["names"] = [_absolute_file(name, folder) for name in suites["names"]]
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


def _absolute_file(name: Any, folder: Path) -> Any:
    """A task or suite that is given as a file."""
    return str(folder / Path(name).expanduser()) if isinstance(name, str) and name.endswith(".yaml") else name


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
    node[last] = parse_yaml(value, f"command line: {override}", RecipeError)
