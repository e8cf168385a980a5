"""The pages keep step with the source: keys, commands, layouts, templates, metrics, examples, links."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from graftlm.alignment.rewards import function_reward
from graftlm.cli import app
from graftlm.data import worlds
from graftlm.data.records import SCHEMAS, detect
from graftlm.data.samples import Origin, Prompt, Turn
from graftlm.data.templates import TEMPLATES
from graftlm.evaluation.benchmarks.library import load_file
from graftlm.evaluation.tasks import HEADLINES
from graftlm.recipes import stage_settings as settings
from graftlm.recipes.atomic_tasks import AtomicTaskSettings
from graftlm.recipes.loading import load_recipe
from graftlm.recipes.method_settings import (
    ExpandSettings,
    FreezeSettings,
    HeadsSettings,
    LoraSettings,
    PtuningSettings,
)
from graftlm.recipes.schema import Block, NewBase, ParallelSettings, Recipe, SuiteSettings, TaskSettings
from graftlm.recipes.stage_settings import (
    STAGE_KINDS,
    ComparedStage,
    GradientStage,
    PolicyStage,
    PreferenceStage,
    PretrainStage,
    TrainingStage,
)

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README_zh.md")
PAGES = (*READMES, *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))))
COMMAND = re.compile(r"^(make|graft|pip|python|git) ")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fences(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


def without_fences(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def section(page: str, title: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    text = without_fences(page)
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert found, f"{page} has no section {title!r}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found.group(1))}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def table_of_keys(title: str) -> dict[str, str]:
    """Key → default, from the tables of one section of docs/recipes.md (subsections apart)."""
    own = re.split(r"^#+ ", section("docs/recipes.md", title), flags=re.MULTILINE)[0]
    rows = [cells(line) for line in own.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[2] for row in rows if len(row) == 5}


def keys_of(*models: type[BaseModel]) -> dict[str, Any]:
    """Key as a recipe writes it → its field."""
    return {field.alias or name: field for model in models for name, field in model.model_fields.items()}


def own_keys(model: type[BaseModel], *parents: type[BaseModel]) -> dict[str, Any]:
    """Keys that the parents lack, or have another default for; `stage` is the entry's name."""
    known = keys_of(*parents)
    return {
        key: field
        for key, field in keys_of(model).items()
        if key != "stage" and (key not in known or written_default(known[key]) != written_default(field))
    }


def written_default(field: Any) -> str | None:
    """How the pages write a default; None where a sentence stands for it."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return None
    return "–" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`".replace('"', "")


SECTIONS: dict[str, dict[str, Any]] = {
    "Recipe": keys_of(Recipe),
    "parallel": keys_of(ParallelSettings),
    "data": keys_of(Block),
    "stages": keys_of(PretrainStage),
    "sft": own_keys(settings.SftStage, TrainingStage),
    "prune_vocabulary": own_keys(settings.PruneVocabularyStage, GradientStage),
    "vocabulary": own_keys(settings.VocabularyStage, GradientStage),
    "freeze": keys_of(FreezeSettings),
    "lora": keys_of(LoraSettings),
    "The infill stage": own_keys(settings.InfillStage, TrainingStage),
    "embedding_gradient": keys_of(settings.ShrinkSettings),
    "expand": keys_of(ExpandSettings),
    "heads": keys_of(HeadsSettings),
    "ptuning": keys_of(PtuningSettings),
    "The reward stage": own_keys(settings.RewardStage, TrainingStage),
    "Answers before and after": keys_of(ComparedStage),
    "The preference stages": own_keys(PreferenceStage, TrainingStage, ComparedStage),
    "dpo": own_keys(settings.DpoStage, PreferenceStage),
    "kto": own_keys(settings.KtoStage, PreferenceStage),
    "orpo": own_keys(settings.OrpoStage, PreferenceStage),
    "simpo": own_keys(settings.SimpoStage, PreferenceStage),
    "The policy stages": own_keys(PolicyStage, settings.GradientStage, ComparedStage),
    "ppo": own_keys(settings.PpoStage, PolicyStage),
    "grpo": own_keys(settings.GrpoStage, PolicyStage),
    "best_of": own_keys(settings.BestOfStage, TrainingStage, ComparedStage),
    "convert": own_keys(settings.ConvertStage, settings.BaseStage),
    "quantize": own_keys(settings.QuantizeStage, settings.BaseStage),
    "The seq2seq stage": own_keys(settings.Seq2SeqStage, TrainingStage),
    "merge": own_keys(settings.MergeStage, settings.BaseStage),
    "gate": keys_of(settings.GateSettings),
    "export": own_keys(settings.ExportStage, settings.BaseStage),
    "The encoder stage": own_keys(settings.EncoderStage, TrainingStage),
    "The image_text stage": own_keys(settings.ImageTextStage, TrainingStage),
    "Rewards": keys_of(settings.RewardSettings),
    "safety": keys_of(settings.SafetyReward),
    "evaluation": {k: field for k, field in keys_of(TaskSettings).items() if k not in keys_of(Block)},
    "suites": keys_of(SuiteSettings),
    "base": keys_of(NewBase),
    "tasks": keys_of(AtomicTaskSettings),
}


@pytest.mark.parametrize("title", SECTIONS)
def test_recipes_page_lists_every_key_and_no_other(title: str) -> None:
    assert set(table_of_keys(title)) == set(SECTIONS[title])


@pytest.mark.parametrize("title", SECTIONS)
def test_recipes_page_gives_the_defaults(title: str) -> None:
    written = table_of_keys(title)
    for key, field in SECTIONS[title].items():
        default = written_default(field)
        if key == "stage" or default is None:
            continue  # the entry's name; the table of its own
        assert written[key].startswith(default), f"{title}.{key}: {written[key]} on the page, {default} in the schema"


def test_every_section_of_the_schema_has_a_table() -> None:
    """A new model inside the schema must not go undocumented."""
    from graftlm.recipes import schema

    names = {**vars(schema), **vars(settings)}
    parts = {p for p in names.values() if isinstance(p, type) and issubclass(p, settings.Part)}
    known = {key for fields in SECTIONS.values() for key in fields}
    for part in parts:
        assert set(keys_of(part)) <= known, f"{part.__name__} has keys that docs/recipes.md does not list"


def test_every_kind_of_stage_is_listed() -> None:
    own = re.split(r"^#+ ", section("docs/recipes.md", "stages"), flags=re.MULTILINE)[0]
    rows = [cells(line) for line in own.splitlines() if line.startswith("| `")]
    kinds = [kind for row in rows if len(row) == 3 for kind in re.findall("`(.*?)`", row[0])]
    assert sorted(kinds) == sorted(STAGE_KINDS)


@pytest.mark.parametrize("page", READMES)
def test_readme_names_every_command(page: str) -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert f"graft {name} " in read(page), f"{page} does not mention `graft {name}`"


@pytest.mark.parametrize("page", READMES)
def test_shell_lines_are_single_commands(page: str) -> None:
    found = [line for fence in fences(page, "bash") for line in fence.splitlines()]
    assert found, f"{page} has no bash fence"
    for line in found:
        assert COMMAND.match(line), f"{page}: not one command a line: {line!r}"


def test_readmes_say_the_same() -> None:
    """Same headings by level, same commands, same program, same placeholders and figures in the tables."""
    levels = [re.findall(r"^(#+) ", without_fences(page), re.MULTILINE) for page in READMES]
    assert levels[0] == levels[1]
    shell = [fences(page, "bash") for page in READMES]
    assert shell[0] == shell[1]
    recipes = [[yaml.safe_load(fence) for fence in fences(page, "yaml")] for page in READMES]
    assert recipes[0] == recipes[1]
    figures = [re.findall(r"\d[\d.]* ?%", "\n".join(_table_lines(page))) for page in READMES]
    assert [f.replace(" ", "") for f in figures[0]] == [f.replace(" ", "") for f in figures[1]]


def _table_lines(page: str) -> list[str]:
    return [line for line in without_fences(page).splitlines() if line.startswith("|")]


@pytest.mark.parametrize("page", PAGES)
def test_whole_recipes_load(page: str, tmp_path: Path) -> None:
    for fence in fences(page, "yaml"):
        if "stages:" in fence:
            file = tmp_path / "recipe.yaml"
            file.write_text(fence, encoding="utf-8")
            load_recipe(file)


@pytest.mark.parametrize("page", READMES)
def test_python_example_imports_what_exists(page: str) -> None:
    [program] = fences(page, "python")
    imports = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        for alias in node.names:
            assert hasattr(importlib.import_module(str(node.module)), alias.name)


def test_the_reward_function_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [program] = fences("docs/alignment.md", "python")
    (tmp_path / "my_rewards.py").write_text(program, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    asked = Prompt((Turn("user", "What is 2 + 3?"),), Origin("page", 1), ("5",))
    assert function_reward("my_rewards:close")([asked] * 3, ["It is 5.", "7", "five"]) == [1, 1 / 3, 0]


def test_the_rewards_of_the_page_are_rewards() -> None:
    given = [yaml.safe_load(fence)["reward"] for fence in fences("docs/recipes.md", "yaml") if fence[:7] == "reward:"]
    assert len(given) == 4
    for reward in given:
        for one in settings.listed_rewards(reward):
            settings.RewardSettings.model_validate(one)


def test_data_page_shows_every_layout() -> None:
    rows = [cells(line) for line in section("docs/data.md", "Layouts").splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(SCHEMAS)
    for name, kind, example in rows:
        row = json.loads(example.strip("`"))
        assert detect(row) == name.strip("`")
        assert SCHEMAS[name.strip("`")].kind == kind


def test_data_page_lists_every_template() -> None:
    listed = re.findall(r"`(\w+)`", section("docs/data.md", "Chat templates").split("named ones:")[1])
    assert tuple(listed) == TEMPLATES


def test_evaluation_page_lists_every_metric() -> None:
    rows = [cells(line) for line in section("docs/evaluation.md", "Metrics").splitlines() if line.startswith("| `")]
    listed = {row[0].strip("`"): tuple(re.findall(r"`(\w+)`", row[3])) for row in rows[1:]}
    assert listed == HEADLINES


def test_task_and_suite_files_of_the_page_load(tmp_path: Path) -> None:
    found = []
    for fence in fences("docs/benchmarks.md", "yaml"):
        tree = yaml.safe_load(fence)
        if "name" in tree:
            file = tmp_path / f"{tree['name']}.yaml"
            file.write_text(fence, encoding="utf-8")
            found.append(load_file(file))
    assert [type(one).__name__ for one in found] == ["TaskFile", "SuiteFile"]


def test_scaling_page_has_the_tables_of_the_model() -> None:
    spec = importlib.util.spec_from_file_location("scaling_model", ROOT / "bench" / "scaling_model.py")
    assert spec is not None and spec.loader is not None
    model = importlib.util.module_from_spec(spec)
    sys.modules["scaling_model"] = model
    spec.loader.exec_module(model)
    for cluster in model.CASES:
        assert "\n".join(model.table(cluster)) in read("docs/scaling.md"), "print them anew: bench/scaling_model.py"


@pytest.mark.parametrize("world", ["general", "clinic", "shop"])
def test_worlds_page_lists_every_part(world: str) -> None:
    text = section("docs/worlds.md", f"The {world} world")
    listed = [cells(line)[0].strip("`") for line in text.splitlines() if line.startswith("| `")]
    assert set(listed) == set(worlds.parts(world))


def test_worlds_page_counts_the_facts() -> None:
    from graftlm.data.worlds.clinic.graph import build

    rows = {row[0]: row for row in map(cells, section("docs/worlds.md", "The clinic world").splitlines()) if row}
    for column, size in ((3, 12), (4, 16)):
        graph = build(size, size)
        for group in ("taught", "withheld", "unseen"):
            assert int(rows[group][column]) == len(getattr(graph, group))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page)):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        place = (ROOT / page).parent / file if file else ROOT / page
        assert place.exists(), f"{page}: {target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page}: {target} names no heading"


@pytest.mark.parametrize("page", PAGES)
def test_no_placeholder_remains(page: str) -> None:
    prose = re.sub(r"```yaml\n.*?```", "", read(page), flags=re.DOTALL)  # task files hold templates
    left = sorted(set(re.findall(r"\{\{.*?\}\}|\{\{.*", prose)))
    assert not left, f"{page}: measured figures are still to be filled in: {', '.join(left)}"
