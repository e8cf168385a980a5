"""The `graft` command: each sub-command parses, calls one function below, and prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from graftlm import __version__
from graftlm.core.console import error_console, say
from graftlm.core.errors import GraftError

STOPPED = 130
"""Exit code after Ctrl-C: 128 and the signal's number."""

app = typer.Typer(
    help="Turn an open language model into a domain expert, and prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipeFile = Annotated[Path, typer.Argument(help="recipe file, as recipes/clinic.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value overrides, as mix=sequential stages.sft.learning_rate=1e-4"),
]
Model = Annotated[str, typer.Argument(help="model folder, hub name, run folder, or `rootstock`")]
Preset = Annotated[str | None, typer.Option(help="decoding preset: greedy, ziya-writing, chatglm2, llama2, firefly")]
Temperature = Annotated[float | None, typer.Option(help="0 or above; higher is more varied")]
TopP = Annotated[float | None, typer.Option(help="sample from the smallest set of tokens with this much probability")]
TopK = Annotated[int | None, typer.Option(help="sample from the k likeliest tokens; 0: all")]
Penalty = Annotated[float | None, typer.Option("--repetition-penalty", help="above 1: repeat less")]
Length = Annotated[int | None, typer.Option(help="longest answer in tokens")]
Greedy = Annotated[bool, typer.Option("--greedy", help="always the likeliest token")]
Seed = Annotated[int | None, typer.Option(help="seed of the sampling")]
Template = Annotated[str, typer.Option(help="chat template: own, or a named one")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        say(f"graft {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="train on so many GPUs of this machine; without any: processes")] = 1,
) -> None:
    """Run a recipe: check, train its stages, evaluate after each, write the report. Run again to go on."""
    from graftlm.recipes.launching import run_on
    from graftlm.recipes.loading import load_recipe
    from graftlm.recipes.pipeline import run_recipe

    if gpus > 1:
        run_on(recipe, overrides or [], gpus)
    else:
        run_recipe(load_recipe(recipe, overrides))


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Say what will go wrong before any training: rows, masks, duplicates, test leaks, memory."""
    from graftlm.recipes.check import check_file

    if check_file(recipe, overrides or []):
        raise typer.Exit(2)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Write report.html and receipt.json of a run again."""
    from graftlm.recipes.report import write_report

    say(str(write_report(folder)))


@app.command()
def chat(
    model: Model,
    preset: Preset = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: Penalty = None,
    max_new_tokens: Length = None,
    greedy: Greedy = False,
    seed: Seed = None,
    template: Template = "own",
    system: Annotated[str | None, typer.Option(help="system message")] = None,
) -> None:
    """Talk to a model in the terminal."""
    from graftlm.recipes.talking import choose_decoding, talk

    decoding = choose_decoding(
        preset, temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens, greedy=greedy or None, seed=seed,
    )  # fmt: skip
    talk(model, decoding, template, system)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(help="one prompt; or give --input")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="txt (a prompt a line) or any readable data file")
    ] = None,
    output_file: Annotated[Path | None, typer.Option("--output", help="jsonl to write; the screen by default")] = None,
    preset: Preset = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: Penalty = None,
    max_new_tokens: Length = None,
    greedy: Greedy = False,
    seed: Seed = None,
    template: Template = "own",
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="continue the text as it is, without chat template")] = False,
) -> None:
    """Answer one prompt (streamed), or every prompt of a file (in batches)."""
    from graftlm.recipes.talking import answer, answer_file, choose_decoding

    decoding = choose_decoding(
        preset, temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens, greedy=greedy or None, seed=seed,
    )  # fmt: skip
    if (prompt is None) == (input_file is None):
        raise GraftError(
            "give either a prompt or --input",
            where="graft generate",
            fix='graft generate MODEL "your question"',
        )
    if input_file is not None:
        answer_file(model, input_file, output_file, decoding, template, system, raw=raw)
    else:
        answer(model, str(prompt), decoding, template, system, raw=raw)


@app.command()
def merge(
    out: Annotated[Path, typer.Argument(help="new folder")],
    models: Annotated[list[str], typer.Argument(help="models, each MODEL or MODEL:weight; or one adapter's folder")],
    method: Annotated[str, typer.Option(help="linear, slerp, task, ties, dare, dare-ties, wise-ft")] = "linear",
    base: Annotated[str | None, typer.Option(help="what the models, or the adapter, were trained from")] = None,
    density: Annotated[float, typer.Option(help="share of each change that ties and dare keep")] = 0.5,
    scale: Annotated[float, typer.Option(help="factor on the merged change")] = 1.0,
    alpha: Annotated[float, typer.Option(help="where between the two ends of slerp and wise-ft")] = 0.5,
    seed: Annotated[int, typer.Option(help="of what dare drops")] = 0,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; as the base is by default")] = None,
    texts: Annotated[Path | None, typer.Option(help="texts to compare on, one a line")] = None,
    mean_kl: Annotated[float, typer.Option(help="gate of an adapter: mean divergence in nats a token")] = 0.01,
    max_kl: Annotated[float, typer.Option(help="gate of an adapter: greatest divergence")] = 0.5,
    same: Annotated[float, typer.Option(help="gate of an adapter: share of same likeliest tokens")] = 0.98,
) -> None:
    """Merge models of one architecture, or an adapter into its base."""
    from graftlm.models.merge_gate import Bounds
    from graftlm.models.merging import Merging
    from graftlm.recipes.merging import TEXTS, merge_to, read_texts, weighted

    chosen = weighted(models)
    merge_to(
        out, chosen, base=base, how=Merging(method, tuple(chosen.values()), density, scale, alpha, seed),
        precision=dtype, texts=read_texts(texts) if texts else TEXTS, bounds=Bounds(mean_kl, max_kl, same),
    )  # fmt: skip


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="new folder")],
    to: Annotated[str, typer.Option(help="hugging-face, gguf or ollama")],
    kind: Annotated[str | None, typer.Option("--type", help="f32, f16, bf16, q8_0, q5_0, q4_0 …")] = None,
    licence: Annotated[str | None, typer.Option(help="for the model card, as apache-2.0")] = None,
    template: Template = "own",
) -> None:
    """Write a model for other programs: Hugging Face with a model card, GGUF, Ollama."""
    from graftlm.recipes.exporting import export_model

    export_model(model, out, to, kind=kind, licence=licence, template=template)


@app.command()
def deepspeed(file: Annotated[Path, typer.Argument(help="DeepSpeed's JSON file")]) -> None:
    """Say what each key of a DeepSpeed configuration becomes in a recipe; use it with `parallel: {deepspeed: FILE}`."""
    from graftlm.recipes.compat.deepspeed import show_deepspeed

    show_deepspeed(file)


@app.command()
def world(
    name: Annotated[str, typer.Argument(help="general or clinic")],
    part: Annotated[str | None, typer.Argument(help="documents, exam …; leave out to list them")] = None,
    count: Annotated[int, typer.Option("-n", help="samples to show")] = 5,
) -> None:
    """Look at a generated corpus."""
    from graftlm.recipes.talking import show_world

    show_world(name, part, count)


def main() -> None:
    """Entry point: user errors are printed with their fix and end with exit code 2, never a traceback."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
        main_of_many()
        return
    try:
        code = app(standalone_mode=False)
    except GraftError as error:
        error_console.print("[red]error:[/red]", end=" ")
        error_console.print(f"{error.where}: {error.reason}" if error.where else error.reason, markup=False)
        if error.fix:
            error_console.print("  [green]fix:[/green]", end=" ")
            error_console.print(error.fix, markup=False)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        code = STOPPED
    except Exception as error:
        # Usage errors are click's, or those of the copy of click inside newer typers: both can show themselves.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(2)
    if code == STOPPED:  # newer typers hand it back for Ctrl-C, older ones raise
        error_console.print("stopped; run the same command again to go on")
    sys.exit(code if isinstance(code, int) else 0)  # click hands back the code of a typer.Exit


def main_of_many() -> None:
    """The same for one of several processes: whatever goes wrong is left to the launcher, which says it once."""
    from graftlm.training.launch import end_process, end_with_launcher

    end_with_launcher()
    try:
        code = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = STOPPED
    except Exception as error:
        end_process(error, 2)
    if code == STOPPED:
        os._exit(STOPPED)  # at once: a usual exit would wait for the others
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
