"""What a judge is asked: graft's own wording, or a published one from a file (MT-bench's, or BELLE's and BiLLa's)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from graftlm.core.errors import DataError
from graftlm.evaluation.arena.own_prompts import WORDINGS, system_text, template_text

Kind = Literal["single", "pairwise"]
Form = Literal["[[rating]]", "[[A]]", "scores"]
"""How the verdict is written: a grade, a choice, or two scores."""

_FORMS: dict[str, Form] = {"[[rating]]": "[[rating]]", "[[A]]": "[[A]]", "[[rating_a,rating_b]]": "scores"}
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class JudgePrompt:
    """One prompt with blanks in braces: question, answer, answer_a, answer_b, ref_answer_1; with two turns question_1,
    question_2, answer_1, answer_2, answer_a_1 … ref_answer_2.

    Attributes:
        kind: of one answer, or of two.
        form: how its verdict is written.
        category: of questions that it is for; "" for all.
        language: of questions that it is for; "" for all.
    """

    name: str
    kind: Kind
    system: str
    template: str
    form: Form
    category: str = ""
    language: str = ""

    @property
    def turns(self) -> int:
        """Of the conversation that it shows."""
        return 2 if "{question_2}" in self.template else 1

    @property
    def referenced(self) -> bool:
        """Whether it shows a reference answer."""
        return "{ref_answer_1}" in self.template

    def messages(self, blanks: Mapping[str, str]) -> list[dict[str, str]]:
        """The conversation that is sent to the judge.

        Raises:
            DataError: the prompt has a blank that nothing is known for.
        """
        try:
            content = self.template.format_map(blanks)
        except (KeyError, ValueError, IndexError) as error:
            reason = f"the judge prompt cannot be filled: {type(error).__name__}: {error}"
            fix = f"it may use {', '.join(sorted(blanks))}; write other braces twice"
            raise DataError(reason, where=self.name, fix=fix) from None
        system = [{"role": "system", "content": self.system.strip()}] if self.system.strip() else []
        return [*system, {"role": "user", "content": content}]


def own_prompts() -> list[JudgePrompt]:
    """graft's prompts: one or two answers, one or two turns, with a reference or without, English or Chinese."""
    prompts = []
    for language, pairwise, turns, referenced in product(WORDINGS, (False, True), (1, 2), (False, True)):
        kind: Kind = "pairwise" if pairwise else "single"
        name = f"graft-{kind}-{turns}{'-reference' if referenced else ''}-{language}"
        words = WORDINGS[language]
        system = system_text(words, pairwise=pairwise, turns=turns, referenced=referenced)
        template = template_text(words, pairwise=pairwise, turns=turns, referenced=referenced)
        form: Form = "[[A]]" if pairwise else "[[rating]]"
        prompts.append(JudgePrompt(name, kind, system, template, form, language=language))
    return prompts


def read_prompts(path: Path) -> list[JudgePrompt]:
    """The prompts of a file: MT-bench's `judge_prompts.jsonl`, or a `prompt.jsonl` as of BiLLa.

    Raises:
        DataError: the file is absent, or a line is no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("the file does not exist", where=path, fix="check the path") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompts.append(_review_prompt(row) if "prompt_id" in row else _mt_bench_prompt(row))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"no judge prompt ({type(error).__name__}: {error})"
            raise DataError(reason, where=f"{path}:{number}", fix="see docs/arena.md for the keys") from None
    if not prompts:
        raise DataError("the file is empty", where=path, fix="give it a prompt a line")
    return prompts


def choose_prompt(
    prompts: Sequence[JudgePrompt], kind: Kind, *, turns: int, referenced: bool, category: str, question: str
) -> JudgePrompt:
    """The prompt for a question, the first of several that fit; one for its category is preferred.

    Raises:
        DataError: there is none.
    """
    language = "zh" if _CHINESE.search(question) else "en"
    fitting = [p for p in prompts if (p.kind, p.turns, p.referenced) == (kind, turns, referenced)]
    fitting = [p for p in fitting if p.language in ("", language)]
    own = [p for p in fitting if p.category == category]
    general = [p for p in fitting if not p.category]
    if not (own or general):
        shape = f"{kind}, {turns} turn{'s' * (turns > 1)}, {'with' if referenced else 'without'} a reference"
        raise DataError(f"no prompt of this sort: {shape}", fix="add one to the file of prompts, or take graft's own")
    return (own or general)[0]


def _mt_bench_prompt(row: Mapping[str, Any]) -> JudgePrompt:
    form = _FORMS[row["output_format"]]
    if row["type"] not in ("single", "pairwise"):
        raise ValueError(f"type {row['type']}")
    return JudgePrompt(row["name"], row["type"], row["system_prompt"], row["prompt_template"], form)


def _review_prompt(row: Mapping[str, Any]) -> JudgePrompt:
    """A prompt for two answers of one turn; its numbers are the assistants'."""
    task = row["defaults"]["prompt"].replace("{", "{{").replace("}", "}}")
    template = row["prompt_template"].replace("{prompt}", task)
    template = template.replace("{answer_1}", "{answer_a}").replace("{answer_2}", "{answer_b}")
    category = "" if row.get("category", "general") == "general" else row["category"]
    return JudgePrompt(f"prompt-{row['prompt_id']}", "pairwise", row["system_prompt"], template, "scores", category)
