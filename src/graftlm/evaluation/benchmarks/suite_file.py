"""What a suite file says: which tasks, with how many examples, and how their scores become one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Pool = Literal["mean", "items", "normalised"]


class Member(BaseModel):
    """A task or suite of a suite.

    Attributes:
        task, suite: its name; one of the two. A task may also be the path of a task file.
        shots: solved examples, in place of the task's own number.
        metric: what counts here, in place of the task's headline; of several, their mean.
        subjects: only these of the task's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str | None = None
    suite: str | None = None
    shots: int | None = Field(default=None, ge=0)
    metric: str | list[str] | None = None
    subjects: list[str] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Member:
        if (self.task is None) == (self.suite is None):
            raise ValueError("a member is either a `task` or a `suite`")
        if self.suite is not None and (self.shots, self.metric, self.subjects) != (None, None, None):
            raise ValueError("shots, metric and subjects belong to a task, not to a suite")
        return self

    @property
    def name(self) -> str:
        return str(self.task or self.suite)


class SuiteFile(BaseModel):
    """A group of tasks with one score.

    Attributes:
        name, title, source, version: as in a task file.
        members: `- mmlu` is short for `- task: mmlu`, or for the suite of that name where there is no such task.
        pool: mean: of the members' scores. items: of all items together, so that a large task weighs more.
            normalised: each sub-task's score as max(0, (score - chance) / (1 - chance)) first, then the mean over the
            sub-tasks of a member, then over members (open LLM leaderboard v2).
        absent: published members that have no task file here: name → why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.\-]+$")
    title: str = ""
    version: str = "1"
    source: str = ""
    members: list[Member] = Field(min_length=1)
    pool: Pool = "mean"
    absent: dict[str, str] = {}

    @field_validator("version", mode="before")
    @classmethod
    def _number_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @field_validator("members", mode="before")
    @classmethod
    def _name_is_member(cls, value: Any) -> Any:
        return [{"task": one} if isinstance(one, str) else one for one in value] if isinstance(value, list) else value
