"""What a task file says: where the rows are, how a row becomes a question, and what counts as right.

Templates are Jinja over the fields of a row (templates.py). A template that is one expression, `{{ … }}`, gives that
expression's value (a list, a number); any other gives text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from graftlm.evaluation.tasks import Side

Template: TypeAlias = str
Request: TypeAlias = Literal["choice", "likelihood", "rolling", "generate"]

LIKELIHOOD_METRICS: dict[Request, tuple[str, ...]] = {
    "choice": ("acc", "acc_norm", "acc_bytes", "mc2", "answer_probability"),
    "likelihood": ("acc", "perplexity"),
    "rolling": ("bits_per_byte", "byte_perplexity", "word_perplexity"),
}
"""Metrics made of likelihoods, by request; those of free answers are the names of graders/table.py."""

NOT_HEADLINES = frozenset({"perplexity", "byte_perplexity", "word_perplexity"})
"""Powers of a mean: printed with their interval, but items cannot be compared by them."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HubData(_Part):
    """A data set of the Hugging Face hub, read only where no local file is found.

    Attributes:
        config, split: several are read one after the other; the name of each then is the row's `file`.
    """

    name: str
    config: str | list[str] | None = None
    split: str | list[str] = "test"

    @property
    def configs(self) -> list[str | None]:
        return [*self.config] if isinstance(self.config, list) else [self.config]

    @property
    def splits(self) -> list[str]:
        return [self.split] if isinstance(self.split, str) else self.split


class Rows(_Part):
    """Where rows come from.

    Attributes:
        files: file, folder or glob (or several) below the data folder, or absolute: jsonl, json, csv, tsv, parquet.
        columns: names of the columns of a csv file without a header row, and of the lists in a json file.
        header: whether the first row of a csv file names the columns; with `columns` and a header, they rename them.
        encoding: found for each file by itself when None.
        unfold: names of nested lists; each element of the innermost becomes a row that also has the fields around it
            (SQuAD's [paragraphs, qas]).
        where: rows for which this template is false are left out.
        subject: the sub-task that a row belongs to; `file` is the name of its file without ending, `folder` that of
            the file's folder. Few-shot rows are taken from the same subject.
        hub: used when there is no local file.
        transform: Python of a harness task that the user trusts: all rows → the rows that are used.
    """

    files: str | list[str] | None = None
    columns: list[str] | None = None
    header: bool = True
    encoding: str | None = None
    unfold: list[str] = []
    where: Template | None = None
    subject: Template | None = None
    hub: HubData | None = None
    transform: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = Field(default=None, exclude=True)

    @property
    def patterns(self) -> list[str]:
        return [self.files] if isinstance(self.files, str) else list(self.files or [])


class Published(_Part):
    """How large the published test is, so that a part of it is called a part."""

    items: int | None = None
    subjects: int | None = None


class AskedRows(Rows):
    """The rows that are asked."""

    published: Published = Published()

    @model_validator(mode="after")
    def _somewhere(self) -> AskedRows:
        if not self.patterns and self.hub is None:
            raise ValueError("data needs `files` or `hub`")
        return self


class FewShot(Rows):
    """Solved examples that are put before a question.

    Attributes:
        shots: how many; `--shots` and a suite can ask for another number.
        rows: the examples themselves, in place of files; with neither, they come from the test rows, the question
            itself left out.
        order: `first` takes the first ones, for every question the same (open LLM leaderboard); `random` draws them for
            each question by the seed.
        prompt, answer: how an example is written where it is not as the question and its right option are, as for
            worked solutions.
        in_a_row: examples that stand written out in one row, as in BBH's files; `shots` is a multiple of it.
    """

    shots: int = Field(default=0, ge=0)
    in_a_row: int = Field(default=1, ge=1)
    rows: list[dict[str, Any]] | None = None
    order: Literal["first", "random"] = "first"
    prompt: Template | None = None
    answer: Template | None = None


class RegexFilter(_Part):
    """What the pattern finds: its first group (the first that matched, of several), else the whole match.

    Attributes:
        pick: which match: 0 the first, -1 the last.
        fallback: where nothing matches.
    """

    regex: str
    pick: int = 0
    fallback: str = "[invalid]"


class RemoveFilter(_Part):
    """Takes out what the pattern matches."""

    remove: str


class CutFilter(_Part):
    """Keeps what stands before the first of these strings."""

    until: str | list[str]


class MapFilter(_Part):
    """Replaces a whole text by another one; others stay, or become `default`."""

    map: dict[str, str]
    default: str | None = None


Filter: TypeAlias = (
    Literal["strip", "lower", "upper", "punctuation", "first"] | RegexFilter | RemoveFilter | CutFilter | MapFilter
)
"""`punctuation` takes ASCII punctuation out; `first` keeps the first of several samples."""


class Metric(_Part):
    """A metric of a task.

    Attributes:
        name: of LIKELIHOOD_METRICS, or of a grader (graders/table.py) for free answers.
        label: what it is called in results; its name when None.
        filters: what is done to the answer first, in order.
        options: the grader's own settings.
    """

    name: str
    label: str | None = None
    filters: list[Filter] = []
    options: dict[str, Any] = {}

    @property
    def shown(self) -> str:
        return self.label or self.name


class Generation(_Part):
    """How free answers are made.

    Attributes:
        until: strings that end an answer and are cut from it.
        max_tokens: the longest answer.
        samples: answers an item; more than one needs a temperature.
        temperature: 0 is greedy.
    """

    until: list[str] = []
    max_tokens: int = Field(default=256, ge=1)
    samples: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)


class TaskFile(_Part):
    """A published test, as a file.

    Attributes:
        name: unique among all tasks; the file has it too.
        title: for people, where the name does not say enough.
        version: raised when scores of before and after do not compare.
        language: "en", "zh", …
        side: "general" (must not be forgotten) or "domain" (should gain).
        source: paper or page that defines the test.
        data: the rows that are asked; fewshot: those that are shown solved.
        request: choice: the likelihood of each option. likelihood: that of one answer, and whether it is the greedy
            one. rolling: that of a whole text. generate: a free answer.
        description: text before everything; may use the row's fields and `subject`.
        prompt: the question. For `rolling`, the text.
        options: what one can choose from, for prompts that list it: they see it as `options`.
        shuffle: whether options are put in another order, by each row's own content.
        choices: what is scored after the prompt: a list of templates, a template that gives a list, or `letters`: A,
            B, … one an option. The options themselves when None.
        contexts: one prompt a choice, where the choice stands in the prompt (WinoGrande); `choices` then is one
            template for what follows, alike for all.
        answer: the right one: its place (from 0), its letter or its text; for `mc2` the places of all right ones; for
            `generate` the accepted text, or a list of texts.
        answer_is: what `answer` gives. auto: a single letter, else the text of a choice, else a
            place. harness: digits are a place, all else is the text of a choice.
        target_delimiter: between prompt and choice or answer.
        fewshot_delimiter: after each example.
        metrics: the first one is the headline.
        pool: a task's score is the mean of all `items`, or the mean of its `subjects`' means.
        chance: what guessing scores, for normalised scores: `options` is one over the number of options, row by row;
            or a number; or one a subject. None: 0, and `options` for `choice`.
        generation: for `generate`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.\-]+$")
    title: str = ""
    version: str = "1"
    language: str = "en"
    side: Side = "general"
    source: str = ""
    data: AskedRows
    fewshot: FewShot = FewShot()
    request: Request
    description: Template = ""
    prompt: Template = ""
    options: Template | list[Template] | None = None
    shuffle: bool = False
    choices: Template | list[Template] | None = None
    contexts: Template | list[Template] | None = None
    answer: Template | int | list[Template] | None = None
    answer_is: Literal["auto", "index", "letter", "text", "harness"] = "auto"
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"
    metrics: list[Metric] = Field(min_length=1)
    pool: Literal["items", "subjects"] = "items"
    chance: float | Literal["options"] | dict[str, float] | None = None
    generation: Generation = Generation()

    @field_validator("version", mode="before")
    @classmethod
    def _number_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _name_is_metric(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str | dict) else value
        if not isinstance(listed, list):
            return listed
        return [{"name": one} if isinstance(one, str) else one for one in listed]

    @model_validator(mode="after")
    def _consistent(self) -> TaskFile:
        self._check_metrics()
        if self.request == "choice" and self.choices is None and self.options is None:
            raise ValueError("a choice needs `choices` or `options`")
        if self.request != "rolling" and self.answer is None:
            raise ValueError(f"a task of `{self.request}` needs `answer`")
        if self.options is None and (self.shuffle or self.choices == "letters"):
            raise ValueError("`shuffle` and `choices: letters` need `options`")
        if self.generation.samples > 1 and self.generation.temperature == 0:
            raise ValueError("several samples of a greedy answer are the same: set generation.temperature")
        return self

    def _check_metrics(self) -> None:
        labels = [metric.shown for metric in self.metrics]
        twice = {label for label in labels if labels.count(label) > 1}
        if twice:
            raise ValueError(f"two metrics are called `{min(twice)}`: give one a `label`")
        if self.metrics[0].name in NOT_HEADLINES:
            raise ValueError(f"`{self.metrics[0].name}` cannot stand first: list bits_per_byte or acc before it")
        known = LIKELIHOOD_METRICS.get(self.request)
        unknown = [metric.name for metric in self.metrics if known is not None and metric.name not in known]
        if unknown and known is not None:
            raise ValueError(f"there is no metric `{unknown[0]}` for `{self.request}`; known: {', '.join(known)}")

    @property
    def headline(self) -> str:
        return self.metrics[0].shown
