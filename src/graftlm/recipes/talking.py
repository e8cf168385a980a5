"""Using a model: chat, one answer, a file of prompts. What `graft chat` and `graft generate` call."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from graftlm.core.console import console, progress_bar, say
from graftlm.core.errors import GraftError, ModelError
from graftlm.core.files import atomic_file, read_json
from graftlm.data import worlds
from graftlm.data.readers import Fault, read_rows
from graftlm.data.samples import Classified, Labelled, Preference, Tagged, Text, Turn
from graftlm.evaluation.language_model import LanguageModel, language_model
from graftlm.inference.blanks import blank_config, fill_blanks, open_answer
from graftlm.inference.constraints import Constraint, OneOf
from graftlm.inference.decoding import PRESETS, Decoding
from graftlm.inference.generation import generate, stream
from graftlm.inference.grammar import Grammar
from graftlm.inference.request import Completion, FinishReason
from graftlm.inference.seq2seq import write_targets
from graftlm.models.families.glm130b_config import MARKS
from graftlm.models.loading import load_config, load_model, load_tokenizer
from graftlm.models.packed_checkpoint import is_packed
from graftlm.models.seq2seq import is_seq2seq_place, load_seq2seq
from graftlm.recipes.stages.context import choose_template

SPEECHLESS = ("reward", "encoder", "image_text", "export")
"""Stages whose models write nothing."""

BLANKS = tuple(MARKS[name] for name in ("mask_token_id", "smask_token_id", "gmask_token_id"))


@dataclass(frozen=True)
class Form:
    """What answers must look like, and how many tokens to guess on the way; at most one form.

    Attributes:
        choices: the answer is one of these.
        json_schema: a file; the answer is JSON of this schema.
        regex: the answer matches this as a whole.
    """

    choices: tuple[str, ...] = ()
    json_schema: Path | None = None
    regex: str | None = None
    draft: int = 0

    def __post_init__(self) -> None:
        if sum(map(bool, (self.choices, self.json_schema, self.regex))) > 1:
            raise GraftError("an answer has one form", fix="give --choice, --json-schema or --regex")

    @property
    def is_free(self) -> bool:
        return not (self.choices or self.json_schema or self.regex)


FREE = Form()


@dataclass(frozen=True)
class Speaker:
    """A model ready to answer; `raw` continues text as it is, without a chat template."""

    subject: LanguageModel
    raw: bool
    tokenizer: Any

    def prompt(self, turns: list[Turn]) -> list[int]:
        if not self.raw:
            return self.subject.encode(turns)
        tokens, blanks = self.document(turns[-1].content), blank_config(self.subject.model)
        return tokens if blanks is None else open_answer(tokens, blanks)

    def document(self, text: str) -> list[int]:
        """Plain text as it stands in training."""
        return [*self.subject.document_start, *self.subject.encode_text(text)]

    def fill(self, text: str, decoding: Decoding) -> tuple[str, FinishReason]:
        """The text with its blanks filled, and why the fillings ended."""
        subject = self.subject
        found = fill_blanks(
            subject.model, self.document(text), decoding, stop_ids=subject.stop_ids, pad_id=subject.pad_id
        )
        whole = all(filling.finish_reason == "stop" for filling in found.fillings)
        return subject.decode(found.tokens), "stop" if whole else "length"

    def has_blanks(self, text: str) -> bool:
        """Whether a text has marks that this model fills."""
        return blank_config(self.subject.model) is not None and any(mark in text for mark in BLANKS)

    def rules(self, form: Form, prompts: Sequence[Sequence[Turn]]) -> list[Constraint | None]:
        """A rule for each prompt's answer."""
        subject = self.subject
        if form.is_free:
            return [None] * len(prompts)
        if form.choices:
            return [OneOf(self._options(turns, form.choices), subject.stop_ids) for turns in prompts]
        size = subject.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        grammar = Grammar(self.tokenizer, size, subject.stop_ids)
        if form.regex:
            return [grammar.regex(form.regex) for _ in prompts]
        assert form.json_schema is not None
        schema = read_json(form.json_schema)
        return [grammar.json_schema(schema) for _ in prompts]

    def _options(self, turns: Sequence[Turn], choices: Sequence[str]) -> list[list[int]]:
        if self.raw or self.subject.encode_options is None:
            return [self.subject.encode_text(choice) for choice in choices]
        return self.subject.encode_options(list(turns), choices)

    def decoding(self, chosen: Decoding) -> Decoding:
        """The chosen decoding, which also stops where the template's answers stop."""
        stops = () if self.raw else self.subject.stop_strings
        return chosen.model_copy(update={"stop": (*chosen.stop, *stops)})


def load_speaker(model: str, template: str, *, raw: bool = False) -> Speaker:
    """A model folder, hub name, the rootstock, or a run folder (the model of its last finished stage)."""
    where = newest_model(model)
    if is_seq2seq_place(where):
        raise ModelError("it makes a text of a text and does not chat", where=model, fix=f'graft generate {model} "…"')
    tokenizer = load_tokenizer(where)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Packed weights are fast on a CPU in bf16 only (ops/int_cpu.py).
    half = device.type == "cuda" or is_packed(load_config(where))
    network = load_model(where, dtype=torch.bfloat16 if half else torch.float32, device=device)
    return Speaker(language_model(network, tokenizer, choose_template(template, tokenizer)), raw, tokenizer)


def newest_model(place: str) -> str:
    """The language model of a run's last finished stage when `place` is a run folder, else `place`."""
    folder = Path(place)
    if not (folder / "recipe.yaml").is_file():
        return place
    # In the recipe's order and up to the first gap: what lies behind it was made by an earlier form of the recipe.
    stages = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))["stages"]
    folders = (folder / f"{number:02d}-{name}" for number, name in enumerate(stages, 1))
    finished = takewhile(lambda stage: (stage / "receipt.json").is_file(), folders)
    speaking = [stage for stage in finished if read_json(stage / "receipt.json").get("kind") not in SPEECHLESS]
    if not speaking:
        raise GraftError(
            "no language model of this run is finished", where=place, fix="let `graft run` finish at least one stage"
        )
    return str(speaking[-1] / "model")


def choose_decoding(preset: str | None, **options: Any) -> Decoding:
    """A preset (greedy answers are the default) with single options changed; sampling options turn greedy off."""
    name = preset or "greedy"
    if name not in PRESETS:
        raise GraftError(f"no decoding preset `{name}`", where="--preset", fix=f"one of: {', '.join(PRESETS)}")
    given = {key: value for key, value in options.items() if value is not None}
    if given.keys() & {"temperature", "top_p", "top_k"} and not given.get("greedy"):
        given["greedy"] = False
    try:
        return Decoding.model_validate(PRESETS[name].model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(str(part) for part in first["loc"]).replace("_", "-")
        raise GraftError(first["msg"], where=option, fix="see `graft generate --help`") from None


def talk(model: str, decoding: Decoding, template: str, system: str | None) -> None:
    """Chat until the input ends; `/new` starts over."""
    speaker = load_speaker(model, template)
    opening = [Turn("system", system)] if system else []
    turns = list(opening)
    say("[dim]/new starts over, /exit or Ctrl-D ends[/dim]")
    while True:
        try:
            question = console.input("[bold]you:[/bold] ").strip()
        except EOFError:
            say()
            return
        if question == "/exit":
            return
        if question == "/new":
            turns = list(opening)
            continue
        if question:
            turns.append(Turn("user", question))
            console.print("[bold]model:[/bold] ", end="")
            turns.append(Turn("assistant", _print_stream(speaker, turns, decoding)))


def answer(
    model: str, prompt: str, decoding: Decoding, template: str, system: str | None, *, raw: bool, form: Form = FREE
) -> None:
    """Print the answer as it comes; a prompt with blanks is printed with its blanks filled.

    An encoder–decoder's answer is printed when it is whole.
    """
    if is_seq2seq_place(where := newest_model(model)):
        _refuse_form(form, where)
        console.out(_written(where, [prompt], decoding)[0]["answer"], highlight=False)
        return
    speaker = load_speaker(model, template, raw=raw)
    if speaker.has_blanks(prompt):
        _refuse_form(form, where)
        console.out(speaker.fill(prompt, decoding)[0], highlight=False)
        return
    _print_stream(speaker, [*([Turn("system", system)] if system else []), Turn("user", prompt)], decoding, form)


def _refuse_form(form: Form, where: str) -> None:
    if not form.is_free or form.draft:
        raise GraftError("this model's answers take no form and no guesses", where=where, fix="leave these options out")


def answer_file(
    model: str,
    source: Path,
    output: Path | None,
    decoding: Decoding,
    template: str,
    system: str | None,
    *,
    raw: bool,
    form: Form = FREE,
) -> None:
    """Answer every prompt of a file; each output line holds the prompt, the answer and why it ended.

    The answer to a prompt with blanks is the prompt with its blanks filled.
    """
    prompts = _read_prompts(source)
    if is_seq2seq_place(where := newest_model(model)):
        _refuse_form(form, where)
        _write_answers(_written(where, prompts, decoding), output)
        return
    speaker = load_speaker(model, template, raw=raw)
    opening = [Turn("system", system)] if system else []
    plain = [prompt for prompt in prompts if not speaker.has_blanks(prompt)]
    if len(plain) < len(prompts):
        _refuse_form(form, where)
    turns = [[*opening, Turn("user", prompt)] for prompt in plain]
    encoded = [speaker.prompt(some) for some in turns]
    with progress_bar() as bar:
        task = bar.add_task("answers", total=len(encoded), note="")
        answers = generate(
            speaker.subject.model,
            encoded,
            speaker.decoding(decoding),
            stop_ids=speaker.subject.stop_ids,
            pad_id=speaker.subject.pad_id,
            decode=speaker.subject.decode,
            constraints=speaker.rules(form, turns),
            draft=form.draft,
            on_progress=lambda done: bar.advance(task, done),
        )
    found = iter(answers)
    told = [_told(speaker, prompt, found, decoding) for prompt in prompts]
    rows = [
        {"prompt": prompt, "answer": text, "finish_reason": reason}
        for prompt, (text, reason) in zip(prompts, told, strict=True)
    ]
    _write_answers(rows, output)


def _written(where: str, sources: list[str], decoding: Decoding) -> list[dict[str, Any]]:
    """What an encoder–decoder makes of each text, greedily.

    Raises:
        GraftError: another decoding is asked for.
    """
    if not decoding.is_greedy or decoding.penalises or decoding.stop:
        raise GraftError("an encoder–decoder answers greedily here", where=where, fix="leave the decoding options out")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_seq2seq(where, dtype=torch.float32, device=device), load_tokenizer(where)
    with progress_bar() as bar:
        task = bar.add_task("answers", total=len(sources), note="")
        answers = write_targets(
            model, tokenizer, sources, max_new_tokens=decoding.max_new_tokens,
            on_progress=lambda done: bar.advance(task, done),
        )  # fmt: skip
    return [{"prompt": source, "answer": text} for source, text in zip(sources, answers, strict=True)]


def _write_answers(rows: list[dict[str, Any]], output: Path | None) -> None:
    """A line each, into a file or onto the screen."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output is None:
        sys.stdout.write(lines)
        return
    with atomic_file(output) as file:
        file.write_text(lines, encoding="utf-8")
    say(f"{len(rows)} answers: {output}")


def _told(
    speaker: Speaker, prompt: str, answers: Iterator[Completion], decoding: Decoding
) -> tuple[str | None, FinishReason]:
    """A prompt with blanks filled, or the next of the other answers."""
    if speaker.has_blanks(prompt):
        return speaker.fill(prompt, decoding)
    answer = next(answers)
    return answer.text, answer.finish_reason


def show_world(name: str, part: str | None, count: int) -> None:
    """Print a few samples of a generated corpus, or the names of its parts."""
    if part is None:
        say(f"parts of {name}: {', '.join(worlds.parts(name))}")
        return
    for sample in worlds.generate(name, part, count=count):
        console.out(_shown(sample), highlight=False)
        console.print("─" * 40, style="dim")


def _shown(sample: Any) -> str:
    if isinstance(sample, Text):
        return sample.text
    if isinstance(sample, Classified):
        return f"{sample.text}\nclass: {sample.label}"
    if isinstance(sample, Tagged):
        return "\n".join([sample.text, *(f"{one.kind}: {sample.text[one.start : one.end]}" for one in sample.entities)])
    turns = getattr(sample, "turns", None) or sample.prompt
    lines = [f"{turn.role}: {turn.content}" for turn in turns]
    if isinstance(sample, Preference):
        lines += [f"better: {sample.chosen}", f"worse: {sample.rejected}"]
    if isinstance(sample, Labelled):
        lines += [f"choices: {' | '.join(sample.choices)}"] if sample.choices else []
        lines += [f"right: {' | '.join(sample.answers)}"]
    return "\n".join(lines)


def _read_prompts(source: Path) -> list[str]:
    """A prompt a line of a text file, or the `prompt`, `instruction`, `question` … column of a data file."""
    found = []
    for row in read_rows(source, split="line"):
        if isinstance(row, Fault):
            raise GraftError(row.reason, where=str(row.origin), fix="mend this line")
        names = ("prompt", "instruction", "question", "query", "text")
        value = next((row.values[name] for name in names if isinstance(row.values.get(name), str)), None)
        if value is None:
            raise GraftError(
                "no prompt in this row",
                where=str(row.origin),
                fix=f"name the column one of: {', '.join(names)}",
            )
        found.append(value)
    return found


def _print_stream(speaker: Speaker, turns: list[Turn], decoding: Decoding, form: Form = FREE) -> str:
    said = []
    pieces = stream(
        speaker.subject.model,
        speaker.prompt(turns),
        speaker.decoding(decoding),
        stop_ids=speaker.subject.stop_ids,
        pad_id=speaker.subject.pad_id,
        decode=speaker.subject.decode,
        constraint=speaker.rules(form, [turns])[0],
        draft=form.draft,
    )
    for piece in pieces:
        said.append(piece)
        console.file.write(piece)  # as it is: rich would turn tabs into spaces and :names: into emoji
        console.file.flush()
    console.print()
    return "".join(said)
