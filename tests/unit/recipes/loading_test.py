"""From a recipe file to a Recipe: overrides, paths, and errors that name line and nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from graftlm.core.errors import RecipeError
from graftlm.recipes.loading import load_recipe, save_recipe
from graftlm.recipes.schema import NewBase, Recipe

TEXT = """\
name: small
base: rootstock
data:
  text: {world: clinic, part: documents, count: 10, size: &size {diseases: 12, drugs: 12}}
  chat: {world: clinic, part: consultations, count: 10, size: *size}
  file: {path: rows/*.jsonl}
stages:
  pretrain: &stage
    blocks: {text: 0.5, chat: 0.5}
    tokens: 100
  sft:
    <<: *stage
    learning_rate: 1.0e-4
evaluation:
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def refused(file: Path, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as error:
        load_recipe(file, list(overrides))
    assert error.value.where and error.value.fix
    return error.value


def test_a_recipe_is_read(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.data["chat"].size == {"diseases": 12, "drugs": 12}
    assert recipe.stages["sft"].stage == "sft" and recipe.stages["sft"].tokens == 100
    assert recipe.start_of("pretrain") == "base" and recipe.start_of("sft") == "pretrain"


def test_overrides_are_yaml_values(file: Path) -> None:
    recipe = load_recipe(
        file, ["seed=3", "stages.sft.learning_rate=2e-5", "mix=sequential", "stages.sft.blocks=[chat]", "output=null"]
    )
    assert recipe.seed == 3 and recipe.mix == "sequential" and recipe.output is None
    assert recipe.stages["sft"].learning_rate == 2e-5 and recipe.stages["sft"].blocks == ["chat"]


def test_an_override_changes_only_its_own_key(file: Path) -> None:
    """Anchors and merges share a mapping in the file; the values are copies."""
    recipe = load_recipe(file, ["data.text.size.diseases=20", "stages.pretrain.blocks.text=0.9"])
    assert recipe.data["text"].size == {"diseases": 20, "drugs": 12}
    assert recipe.data["chat"].size == {"diseases": 12, "drugs": 12}
    assert recipe.stages["pretrain"].blocks == {"text": 0.9, "chat": 0.5}
    assert recipe.stages["sft"].blocks == {"text": 0.5, "chat": 0.5}


def test_a_shared_source_keeps_its_path(tmp_path: Path) -> None:
    """Its path is made absolute once for each block, not twice."""
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nbase: x\ndata: {a: &a {path: d/x.txt}, b: *a}\nstages: {sft: {blocks: [a, b]}}\n")
    recipe = load_recipe(file)
    assert recipe.data["a"].path == recipe.data["b"].path == str(tmp_path / "d/x.txt")


def test_an_override_fills_what_has_no_value(file: Path) -> None:
    recipe = load_recipe(file, ["evaluation.exam={world: clinic, part: exam, metric: choice, side: domain}"])
    assert recipe.evaluation["exam"].metric == "choice"


@pytest.mark.parametrize("override", ["seed", "name.x=1", "seed=[", "stages.sft.blocks.text.x=1"])
def test_a_bad_override_is_named(file: Path, override: str) -> None:
    error = refused(file, override)
    assert "command line" in str(error.where) and override.split("=")[0].split(".")[0] in str(error)


def test_relative_paths_start_at_the_recipe(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    recipe = load_recipe(Path(tmp_path.name) / "small.yaml", ["base=./model"])
    assert recipe.data["file"].path == str(tmp_path / "rows/*.jsonl")
    assert recipe.base == str(tmp_path / "model")
    assert load_recipe(file, ["data.file.path=/data/x.txt"]).data["file"].path == "/data/x.txt"


def test_the_saved_recipe_is_the_same_recipe(file: Path, tmp_path: Path) -> None:
    """Complete, and from any folder: the paths in it are absolute."""
    recipe = load_recipe(file, ["stages.sft.from=base"])
    saved = tmp_path / "run" / "recipe.yaml"
    save_recipe(recipe, saved)
    assert load_recipe(saved) == recipe
    tree = yaml.safe_load(saved.read_text(encoding="utf-8"))
    assert tree["stages"]["sft"]["from"] == "base" and tree["seed"] == 0


@pytest.mark.parametrize(
    ("old", "new", "line", "reason", "fix"),
    [
        ("    learning_rate:", "    learning_rat:", 13, "unknown key `stages.sft.learning_rat`", "`learning_rate`"),
        ("base:", "bas:", 2, "unknown key `bas`", "`base`"),
        ("{path:", "{pth:", 6, "unknown key `data.file.pth`", "`path`"),
        ("    tokens: 100", "    tokens: lots", 10, "stages.pretrain.tokens: ", "docs/recipes.md"),
        ("count: 10, size: *", "count: -1, size: *", 5, "data.chat.count: ", "docs/recipes.md"),
        ("name: small", "name: a b", 1, "name: ", "docs/recipes.md"),
        ("  sft:", "  stf:", 11, "there is no stage `stf`", "`sft`"),
        ("base: rootstock", "base: {vocabulary: 500}", 2, "`base.architecture` is missing", "add it"),
        ("{path: rows/*.jsonl}", "{}", 6, "data.file: give exactly one of path, hub and world", "docs/recipes.md"),
        ("0.5, chat", "-1, chat", 9, "stages.pretrain.blocks: shares must be above 0", "docs/recipes.md"),
        ("0.5, chat", "much, chat", 9, "stages.pretrain.blocks.text: ", "docs/recipes.md"),
    ],
)  # fmt: skip
def test_errors_name_the_line_and_the_nearest_name(
    file: Path, old: str, new: str, line: int, reason: str, fix: str
) -> None:
    assert TEXT.count(old) == 1
    file.write_text(TEXT.replace(old, new), encoding="utf-8")
    error = refused(file)
    assert error.where == f"{file}:{line}"
    assert reason in error.reason and fix in str(error.fix)


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("", "", "a mapping of keys"),
        ("- 1\n", "", "a mapping of keys"),
        ("name: x\ndata: [1\n", ":3", "not valid YAML"),
        ("name: x\nbase: y\ndata: [a]\nstages: {}\n", "", "`data` must be a mapping"),
        ("name: x\nstages: 5\n", "", "`stages` must be a mapping"),
        ("name: x\nstages:\n  sft: 5\n", ":3", "stages.sft must be a mapping"),
        ("name: &a [*a]\nstages: {}\n", "", "an anchor holds itself"),
        ("name: x\nbase: y\ndata: {}\nstages: {sft: {blocks: [a]}}\n", "", "names `a`, which `data` does not have"),
        ("name: x\nbase: y\nstages: {}\n", "", "`data` is missing"),
    ],
)
def test_what_is_no_recipe(file: Path, text: str, where: str, reason: str) -> None:
    file.write_text(text)
    error = refused(file)
    assert error.where == f"{file}{where}" and reason in error.reason


def test_a_missing_file_names_the_nearest(file: Path) -> None:
    assert "small.yaml" in str(refused(file.with_name("smal.yaml")).fix)
    file.write_bytes("name: 医院的配方".encode("gb18030"))
    assert "UTF-8" in refused(file).reason


def test_a_new_base(file: Path) -> None:
    file.write_text(TEXT.replace("rootstock", "{architecture: {}, vocabulary: 500, tokenizer_blocks: [text]}"))
    assert isinstance(load_recipe(file).base, NewBase)
    assert isinstance(load_recipe(file), Recipe)
    assert "base.tokenizer_blocks names `nope`" in refused(file, "base.tokenizer_blocks=[nope]").reason
