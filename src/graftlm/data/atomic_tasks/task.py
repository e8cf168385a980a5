"""One instruction task in EcomGPT's schema."""

from __future__ import annotations

from dataclasses import dataclass

from graftlm.data.atomic_tasks.wordings import Language
from graftlm.data.samples import Chat, Labelled, Origin, Turn


@dataclass(frozen=True, slots=True)
class AtomicTask:
    """Definition, label set, input, output form; and the gold output.

    Attributes:
        kind: one of `KINDS`.
        definition: what is to be done.
        options: the label set as it is shown, in that order; empty where there is none.
        given: the named inputs, as ("Text", "red hat").
        form: what the output must look like.
        output: the gold output.
        separator: between the members of a list, in options, inputs and output.
        choices: the possible outputs, where exactly one of a few is right.
        listed: the members of the output, where it is a list or lines.
    """

    kind: str
    language: Language
    definition: str
    options: tuple[str, ...]
    option_line: str
    given: tuple[tuple[str, str], ...]
    form: str
    output: str
    separator: str
    choices: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The task as the model reads it: a line for each part."""
        colon = ": " if self.language == "en" else "："
        inputs = [f"{name}{colon}{text}" for name, text in self.given]
        return "\n".join(line for line in (self.definition, self.option_line, *inputs, self.form) if line)

    def chat(self, origin: Origin) -> Chat:
        return Chat((Turn("user", self.prompt), Turn("assistant", self.output)), origin)

    def item(self, origin: Origin, kind: str = "", *, split: bool = False) -> Labelled:
        """The task as a test item.

        Args:
            kind: its name in break-downs; the task's own kind when empty.
            split: accept the members of the output one by one (for set F1), in place of the whole output.
        """
        answers = self.listed if split and self.listed else (self.output,)
        return Labelled((Turn("user", self.prompt),), answers, origin, self.choices, kind or self.kind, self.language)
