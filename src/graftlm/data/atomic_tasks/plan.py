"""What a user says of a data set that is to become tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal, TypeAlias

from graftlm.core.errors import DataError
from graftlm.data.atomic_tasks.wordings import KINDS, SIDE, Language

Pair: TypeAlias = tuple[str, str]
"""The same words in English and in Chinese."""


@dataclass(frozen=True)
class TaskPlan:
    """How annotated rows become tasks.

    Attributes:
        kinds: the tasks to make; empty: all that a row allows.
        prompts: different tasks made of a row; more than it allows gives each of them once.
        chain: make every task of a row, in order, with one label set, in place of `prompts` drawn ones.
        options: labels that are shown, at most; the row's own are always among them.
        language: of the instructions; auto: the row's own.
        subject: what a text is, as ("product title", "商品标题").
        second: what the second text of a pair is.
        noun: what a label is, as ("attribute", "属性").
        names: wording of a label by language, where it is not the label itself.
        level: stands between the levels of a class, as in "clothes > hat".
        match: the class of pairs that belong together; without it no partner is looked for.
        wording: `other` asks in wordings that `usual` never uses: for tests.
        seed: of everything that is drawn.

    Raises:
        DataError: a kind that does not exist, a number below 1, or two labels with one name.
    """

    kinds: tuple[str, ...] = ()
    prompts: int = 3
    chain: bool = False
    options: int = 8
    language: Literal["auto", "en", "zh"] = "auto"
    subject: Pair = ("text", "文章")
    second: Pair = ("second text", "第二个文章")
    noun: Pair = ("type", "类型")
    names: Mapping[Language, Mapping[str, str]] = field(default_factory=dict)
    level: str = " > "
    match: str = ""
    wording: Literal["usual", "other"] = "usual"
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                near = get_close_matches(kind, KINDS, n=1, cutoff=0.0)
                fix = f"did you mean {near[0]!r}? all: {', '.join(KINDS)}"
                raise DataError(f"unknown kind of task {kind!r}", fix=fix)
        if min(self.prompts, self.options) < 1:
            raise DataError("`prompts` and `options` must be 1 or more")
        for language, names in self.names.items():
            if language not in SIDE:
                raise DataError(f"names of labels in {language!r}", fix="give them under en and zh")
            shared = {name for name in names.values() if list(names.values()).count(name) > 1}
            if shared:
                raise DataError(f"two labels have the name {min(shared)!r}", fix="give each label a name of its own")

    def name(self, label: str, language: Language) -> str:
        """A label as it is shown; of a class with levels each level by itself."""
        names = self.names.get(language, {})
        if label in names or not self.level:
            return names.get(label, label)
        return self.level.join(names.get(part, part) for part in label.split(self.level))
