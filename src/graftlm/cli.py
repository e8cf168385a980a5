"""The `graft` command: each sub-command parses, calls one function below, and prints."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, cast

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
Stop = Annotated[list[str] | None, typer.Option("--stop", help="text that ends an answer and is cut off; repeat it")]
Draft = Annotated[int, typer.Option(min=0, help="tokens to guess from the prompt and check at once; 0: none")]
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
    profile: Annotated[bool, typer.Option("--profile", help="say where the time of a step goes")] = False,
) -> None:
    """Run a recipe: check, train its stages, evaluate after each, write the report. Run again to go on."""
    from graftlm.recipes.launching import run_on
    from graftlm.recipes.loading import load_recipe
    from graftlm.recipes.pipeline import run_recipe

    changes = [*(overrides or []), *(["profile=true"] if profile else [])]
    if gpus > 1:
        run_on(recipe, changes, gpus)
    else:
        run_recipe(load_recipe(recipe, changes))


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
    stop: Stop = None,
    template: Template = "own",
    system: Annotated[str | None, typer.Option(help="system message")] = None,
) -> None:
    """Talk to a model in the terminal."""
    from graftlm.recipes.talking import choose_decoding, talk

    decoding = choose_decoding(
        preset, temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens, greedy=greedy or None, seed=seed, stop=stop,
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
    stop: Stop = None,
    template: Template = "own",
    system: Annotated[str | None, typer.Option(help="system message")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="continue the text as it is, without chat template")] = False,
    choice: Annotated[list[str] | None, typer.Option(help="the answer is one of these; repeat it")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="file; the answer is JSON of this schema")] = None,
    regex: Annotated[str | None, typer.Option(help="the answer matches this as a whole")] = None,
    draft: Draft = 0,
) -> None:
    """Answer one prompt (streamed), or every prompt of a file (in batches)."""
    from graftlm.recipes.talking import Form, answer, answer_file, choose_decoding

    decoding = choose_decoding(
        preset, temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens, greedy=greedy or None, seed=seed, stop=stop,
    )  # fmt: skip
    if (prompt is None) == (input_file is None):
        raise GraftError(
            "give either a prompt or --input",
            where="graft generate",
            fix='graft generate MODEL "your question"',
        )
    form = Form(tuple(choice or ()), json_schema, regex, draft)
    if input_file is not None:
        answer_file(model, input_file, output_file, decoding, template, system, raw=raw, form=form)
    else:
        answer(model, str(prompt), decoding, template, system, raw=raw, form=form)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="folder or file of a checkpoint; its layout is recognised")],
    target: Annotated[Path, typer.Argument(help="new folder")],
    to: Annotated[str, typer.Option(help="layout to write: hugging-face, chatglm, baichuan, meta")] = "hugging-face",
    kv_heads: Annotated[int | None, typer.Option(min=1, help="pool keys and values to so many heads")] = None,
) -> None:
    """Turn a ChatGLM, Baichuan, Meta or llama2.c checkpoint into one that graft trains, and back."""
    from graftlm.recipes.converting import convert_model

    convert_model(source, target, to, kv_heads)


@app.command()
def quantize(
    model: Model,
    output: Annotated[Path, typer.Argument(help="new folder")],
    bits: Annotated[int, typer.Option(help="4 or 8")] = 4,
    method: Annotated[str, typer.Option(help="gptq, awq, absmax or nf4")] = "gptq",
    group: Annotated[int | None, typer.Option(help="weights that share a scale: 32, 64, 128; 0: a row")] = None,
    zero_point: Annotated[bool, typer.Option("--zero-point", help="a zero point a group")] = False,
    mean_bits: Annotated[float | None, typer.Option(help="4, 8 or 16 bits a layer, by measured error")] = None,
    head: Annotated[bool, typer.Option("--head", help="also the output head")] = False,
    rest: Annotated[str | None, typer.Option(help="format of what is not quantised: bf16 or fp32")] = None,
    data: Annotated[Path | None, typer.Option(help="texts to calibrate with and judge by")] = None,
    rows: Annotated[int | None, typer.Option(help="rows of 512 tokens to calibrate with")] = None,
    recipe: Annotated[Path | None, typer.Option(help="its data and exam; a run folder has its own")] = None,
    exam: Annotated[str | None, typer.Option(help="task of the recipe that judges")] = None,
    max_exam_loss: Annotated[float | None, typer.Option(help="points; 0.5 in 8 bits, 2 in 4")] = None,
    max_kl: Annotated[float | None, typer.Option(help="nats a token; without an exam 0.01 in 8 bits, 0.1 in 4")] = None,
    keep_failed: Annotated[bool, typer.Option("--keep-failed", help="keep what the gate stops")] = False,
) -> None:
    """Weights in 8 or 4 bits, compared with the model that they were made from."""
    from graftlm.recipes.quantize_command import quantize as make

    make(
        model, output, data, recipe, bits=bits, method=method, group=group, symmetric=not zero_point,
        mean_bits=mean_bits, head=head, rest=rest, rows=rows, exam=exam, max_exam_loss=max_exam_loss, max_kl=max_kl,
        keep_failed=keep_failed,
    )  # fmt: skip


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
    from graftlm.models.agreement import Bounds
    from graftlm.models.merging import MergeMethod, Merging
    from graftlm.recipes.merging import TEXTS, merge_to, read_texts, weighted

    chosen = weighted(models)
    how = Merging(cast(MergeMethod, method), tuple(chosen.values()), density, scale, alpha, seed)
    merge_to(
        out, chosen, base=base, how=how,
        precision=dtype, texts=read_texts(texts) if texts else TEXTS, bounds=Bounds(mean_kl, max_kl, same),
    )  # fmt: skip


@app.command()
def explain(
    words: Annotated[list[str], typer.Argument(metavar="[MODEL] TEXT", help="without a model: `rootstock`")],
    every_block: Annotated[bool, typer.Option("--every-block", help="not only the first and the last")] = False,
) -> None:
    """Show how a model finds its next token: every step with its shapes and numbers."""
    from graftlm.recipes.explaining import explain as tell

    tell(words, every_block=every_block)


@app.command("prune-vocabulary")
def prune_vocabulary(
    model: Model,
    out: Annotated[Path, typer.Argument(help="folder for the smaller model")],
    keep: Annotated[list[Path], typer.Option(help="file or folder of texts whose tokens are kept; may be repeated")],
    at_least: Annotated[int, typer.Option(min=1, help="keep tokens that stand in the texts so often")] = 1,
) -> None:
    """Leave out the tokens that your texts do not need: a smaller embedding, the same answers."""
    from graftlm.recipes.pruning import prune_vocabulary as prune

    prune(model, out, keep, at_least)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="folder of an encoder, or of a run that trained one")],
    rows: Annotated[Path, typer.Argument(help="jsonl, csv …: the columns that it was trained on, without the answer")],
    output: Annotated[Path | None, typer.Option("--output", help="jsonl to write; the screen by default")] = None,
) -> None:
    """Say the class, the entities or the right option of every row, with an encoder."""
    from graftlm.recipes.predicting import predict_file

    predict_file(model, rows, output)


@app.command("retrieve-images")
def retrieve_images(
    model: Annotated[str, typer.Argument(help="folder of a model that a stage `image_text` made, or a CLIP")],
    folder: Annotated[Path, typer.Argument(help="folder of images")],
    query: Annotated[str, typer.Argument(help="what the image is to show")],
    top: Annotated[int, typer.Option(min=1, help="how many to print")] = 5,
) -> None:
    """Find the images of a folder that a text describes."""
    from graftlm.recipes.image_retrieval import retrieve_images

    retrieve_images(model, folder, query, top)


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
def vocab(
    base: Model,
    output: Annotated[Path, typer.Argument(help="new folder")],
    data: Annotated[list[Path], typer.Option(help="texts of the domain: file or folder; may be given several times")],
    general: Annotated[list[Path] | None, typer.Option(help="texts that should be encoded as before")] = None,
    pieces: Annotated[int | None, typer.Option(help="new pieces at most; all of --from, else 8,000")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="SentencePiece model to take the pieces from")] = None,
    kind: Annotated[str, typer.Option(help="auto, spm-bpe, spm-unigram or byte-level")] = "auto",
    init: Annotated[str, typer.Option(help="mean or noise")] = "mean",
    ascii_pieces: Annotated[bool, typer.Option("--ascii", help="also pieces of ASCII signs only")] = False,
    multiple: Annotated[int, typer.Option(min=1, help="round the model's rows up to a multiple of this")] = 1,
) -> None:
    """More pieces for a model's tokenizer, rows for them in the model, and what that saves and costs."""
    from graftlm.recipes.vocabulary import extend_vocabulary, vocabulary_settings

    settings = vocabulary_settings(
        pieces=pieces, source=source, kind=kind, init=init, ascii_pieces=ascii_pieces, multiple=multiple
    )
    extend_vocabulary(base, output, data, settings, general or [])


@app.command()
def deepspeed(file: Annotated[Path, typer.Argument(help="DeepSpeed's JSON file")]) -> None:
    """Say what each key of a DeepSpeed configuration becomes in a recipe; use it with `parallel: {deepspeed: FILE}`."""
    from graftlm.recipes.compat.deepspeed import show_deepspeed

    show_deepspeed(file)


@app.command()
def world(
    name: Annotated[str, typer.Argument(help="general, clinic or shop")],
    part: Annotated[str | None, typer.Argument(help="documents, exam …; leave out to list them")] = None,
    count: Annotated[int, typer.Option("-n", help="samples to show")] = 5,
) -> None:
    """Look at a generated corpus."""
    from graftlm.recipes.talking import show_world

    show_world(name, part, count)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="as elsewhere; or dummy:random, dummy:oracle, dummy:first")] = "",
    suites: Annotated[list[str] | None, typer.Argument(help="suites or tasks: names, or .yaml files")] = None,
    against: Annotated[str | None, typer.Option(help="a model to compare with, as the base of this one")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the tests' data; else $GRAFT_EVAL_DATA, or here")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many items of each sub-task")] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="solved examples before each question")] = None,
    seed: Annotated[int, typer.Option(help="of examples that are drawn, and of sampled answers")] = 0,
    template: Annotated[str | None, typer.Option(help="chat template: own, or a named one; none by default")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file; ./results/MODEL--SUITES.json by default")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="read tests that are not here from the Hugging Face hub")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="run the Python beside a task file (!function)")] = False,
    listed: Annotated[bool, typer.Option("--list", help="name the suites, and what of their data is here")] = False,
) -> None:
    """Published tests: a model's scores with intervals, or two models side by side."""
    from graftlm.recipes.evaluating import Conditions, Source, data_root, evaluate_models, list_suites

    root = data_root(data)
    if listed:
        list_suites(root)
        return
    conditions = Conditions(Source(root, hub), limit, shots, seed, template)
    evaluate_models(model, suites or [], conditions, against=against, out=out, trust=trust)


leaderboard = typer.Typer(help="Keep results, rank models, write the ranking as a page.", no_args_is_help=True)
app.add_typer(leaderboard, name="leaderboard")
Store = Annotated[Path, typer.Option(help="the leaderboard's file")]
STORE = Path("runs/leaderboard.sqlite")


@leaderboard.command("add")
def add_to_leaderboard(
    results: Annotated[list[Path], typer.Argument(help="files of `graft eval` or lm-eval, folders, run folders")],
    name: Annotated[str | None, typer.Option(help="list it under this name")] = None,
    store: Store = STORE,
) -> None:
    """Add results; what is there already is not added again."""
    from graftlm.recipes.leaderboard import add_results

    add_results(results, store, name)


@leaderboard.command("show")
def show_leaderboard(
    suite: Annotated[str | None, typer.Option(help="a suite, with its members")] = None,
    sort: Annotated[str | None, typer.Option(help="column to rank by")] = None,
    store: Store = STORE,
) -> None:
    """Print the ranking, with intervals and the places that each model may hold."""
    from graftlm.recipes.leaderboard import show

    show(store, suite, sort)


@leaderboard.command("page")
def leaderboard_page(
    out: Annotated[Path, typer.Argument(help="HTML file to write")], store: Store = STORE
) -> None:
    """Write the ranking as one HTML file that works without a network."""
    from graftlm.recipes.leaderboard import write_page

    write_page(store, out)


@leaderboard.command("compare")
def compare_models(
    first: Annotated[str, typer.Argument(help="model A")],
    second: Annotated[str, typer.Argument(help="model B")],
    store: Store = STORE,
) -> None:
    """Two models task by task, in pairs where they answered the same items."""
    from graftlm.recipes.leaderboard import compare

    compare(store, first, second)


@leaderboard.command("remove")
def remove_from_leaderboard(
    names: Annotated[list[str], typer.Argument(help="models, or hashes that `add` printed")], store: Store = STORE
) -> None:
    """Remove a model's results, or one result."""
    from graftlm.recipes.leaderboard import remove_results

    remove_results(names, store)


@app.command()
def contamination(
    recipe: Annotated[Path | None, typer.Argument(help="recipe file or run folder: its data, tests and scores")] = None,
    data: Annotated[list[Path] | None, typer.Option(help="training file or folder; may be repeated")] = None,
    tests: Annotated[list[Path] | None, typer.Option(help="test file; may be repeated")] = None,
    scores: Annotated[Path | None, typer.Option(help="result file to split into clean and dirty items")] = None,
    words: Annotated[int, typer.Option(help="words, or Chinese characters, in a row that must agree")] = 13,
    output: Annotated[Path | None, typer.Option("--output", help="json of every item with its evidence")] = None,
) -> None:
    """Find test items in the training data, and compare the score on clean and on found items."""
    from graftlm.recipes.contamination import contamination as search

    search(recipe, data or [], tests or [], scores=scores, n=words, output=output)


@app.command()
def canaries(
    output: Annotated[Path, typer.Argument(help="new jsonl file, to be added to a recipe's data")],
    count: Annotated[int, typer.Option(help="canaries of each number of repeats")] = 8,
    repeats: Annotated[list[int] | None, typer.Option(help="times that they stand in the file; 1, 4, 16, 64")] = None,
    digits: Annotated[int, typer.Option(help="length of a secret")] = 6,
    seed: Annotated[int, typer.Option(help="of names and secrets")] = 0,
) -> None:
    """Write made-up secrets to plant in training data; `graft memorisation` tells how far training exposed them."""
    from graftlm.recipes.canaries import REPEATS, write_canaries

    write_canaries(output, count, repeats or REPEATS, digits, seed)


@app.command()
def memorisation(
    model: Model,
    trained: Annotated[Path | None, typer.Option(help="rows that it was trained on; a run has its own")] = None,
    unseen: Annotated[Path | None, typer.Option(help="rows of the same sort that it was not trained on")] = None,
    base: Annotated[str | None, typer.Option(help="the model that it was trained from; a run has its own")] = None,
    canaries: Annotated[Path | None, typer.Option(help="file that `graft canaries` wrote")] = None,
    rows: Annotated[int, typer.Option(min=1, help="trained rows, and unseen ones, at most")] = 200,
    prefix: Annotated[int, typer.Option(min=1, help="tokens of a row that are given")] = 50,
    suffix: Annotated[int, typer.Option(min=1, help="tokens that must come back")] = 50,
    template: Template = "own",
    output: Annotated[Path | None, typer.Option("--output", help="json of all figures")] = None,
) -> None:
    """Tell what a model has kept of its training rows: membership, verbatim extraction, exposed canaries."""
    from graftlm.recipes.memorisation import memorisation as measure

    measure(
        model, trained=trained, unseen=unseen, base=base, canaries=canaries, rows=rows, prefix=prefix, suffix=suffix,
        template=template, output=output,
    )  # fmt: skip


arena = typer.Typer(help="Models against each other: answers, votes, judgements, ratings.", no_args_is_help=True)
app.add_typer(arena, name="arena")

Questions = Annotated[Path, typer.Argument(help="jsonl: question_id, category, turns")]
AnswerFiles = Annotated[list[Path], typer.Argument(help="jsonl files of `graft arena answer`, one a model")]
Battles = Annotated[Path, typer.Option("--output", help="jsonl of battles, which grows")]


@arena.command("answer")
def arena_answer(
    model: Model,
    questions: Questions,
    output: Annotated[Path | None, typer.Option("--output", help="jsonl, which grows; NAME.jsonl by default")] = None,
    name: Annotated[str | None, typer.Option(help="of the model in the arena; its folder's by default")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer in tokens")] = 1024,
    temperature: Annotated[float | None, typer.Option(min=0, help="by category by default, as MT-bench")] = None,
    seed: Annotated[int, typer.Option(help="seed of the sampling")] = 0,
    template: Template = "own",
) -> None:
    """Answer questions, turn by turn. Run again to go on."""
    from graftlm.recipes.arena import answer

    answer(
        model, questions, output, name=name, template=template, max_new_tokens=max_new_tokens,
        temperature=temperature, seed=seed,
    )  # fmt: skip


@arena.command("vote")
def arena_vote(
    questions: Questions,
    answers: AnswerFiles,
    output: Battles = Path("battles.jsonl"),
    voter: Annotated[str, typer.Option(help="your name, or another; it stands in every battle")] = "person",
    seed: Annotated[int, typer.Option(help="of the order and of the sides")] = 0,
) -> None:
    """Judge pairs of answers yourself, without knowing whose they are."""
    from graftlm.recipes.voting import vote

    vote(questions, answers, output, voter=voter, seed=seed)


@arena.command("judge")
def arena_judge(
    questions: Questions,
    answers: AnswerFiles,
    judge: Annotated[str, typer.Option(help="model folder, hub name or run folder; with --url, the server's name")],
    url: Annotated[str | None, typer.Option(help="OpenAI-compatible address, as http://127.0.0.1:8000/v1")] = None,
    output: Annotated[Path | None, typer.Option("--output", help="battles.jsonl, or grades.jsonl")] = None,
    single: Annotated[bool, typer.Option("--single", help="grade answers from 1 to 10 instead of comparing")] = False,
    baseline: Annotated[str | None, typer.Option(help="only battles with this model")] = None,
    prompts: Annotated[Path | None, typer.Option(help="judge prompts of MT-bench or BiLLa; graft's by default")] = None,
    references: Annotated[Path | None, typer.Option(help="answers file with the right answers")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="of the judge")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest judgement")] = 2048,
    key_variable: Annotated[str, typer.Option(help="environment variable with the key")] = "OPENAI_API_KEY",
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for a reply")] = 120.0,
    retries: Annotated[int, typer.Option(min=0, help="attempts after a failed one")] = 5,
    parallel: Annotated[int, typer.Option(min=1, help="requests at a time")] = 4,
    template: Template = "own",
) -> None:
    """Let a model compare all pairs of answers in both orders, or grade them. Run again to go on."""
    from graftlm.evaluation.arena.endpoint_judge import EndpointSettings
    from graftlm.recipes.arena import judge as decide
    from graftlm.recipes.arena import judge_with

    settings = EndpointSettings(
        url, judge, key_variable, temperature, max_tokens, timeout, retries, parallel=parallel
    ) if url else None  # fmt: skip
    by = judge_with(judge, settings, template=template, temperature=temperature, max_tokens=max_tokens)
    file = output or Path("grades.jsonl" if single else "battles.jsonl")
    decide(
        questions, answers, by, file, prompts=prompts, references=references, baseline=baseline, single=single
    )  # fmt: skip


@arena.command("exam")
def arena_exam(
    results: Annotated[list[Path], typer.Argument(help="results of `graft eval`, one a model")],
    output: Battles = Path("battles.jsonl"),
    task: Annotated[list[str] | None, typer.Option(help="only this task; may be given several times")] = None,
) -> None:
    """Let models battle on the questions of an exam: right beats wrong."""
    from graftlm.recipes.arena import exam

    exam(results, task or [], output)


@arena.command("rate")
def arena_rate(
    files: Annotated[list[Path], typer.Argument(help="jsonl files of battles or grades")],
    page: Annotated[Path | None, typer.Option(help="html file to write")] = None,
    anchor: Annotated[str | None, typer.Option(help="MODEL or MODEL:RATING; the mean is 1000 without")] = None,
    style_control: Annotated[bool, typer.Option("--style-control", help="ratings at equal length and markup")] = False,
    category: Annotated[str | None, typer.Option(help="only battles of this category")] = None,
    judge: Annotated[str | None, typer.Option(help="only battles judged by this one")] = None,
    bootstraps: Annotated[int, typer.Option(min=100, help="resamples behind the intervals")] = 500,
    seed: Annotated[int, typer.Option(help="of the resamples")] = 0,
) -> None:
    """Rate models by their battles: rating, interval, rank range, battles, win rate."""
    from graftlm.recipes.arena_rating import rate_files

    rate_files(
        files, anchor=anchor, style_control=style_control, category=category, judge=judge, bootstraps=bootstraps,
        seed=seed, page=page,
    )  # fmt: skip


@app.command()
def tasks(
    file: Annotated[Path, typer.Argument(help="rows with marked names, or with classes")],
    out: Annotated[Path, typer.Argument(help="jsonl to write")],
    settings: Annotated[list[str] | None, typer.Argument(help="as prompts=2 chain=true, see docs/shop.md")] = None,
    classes: Annotated[bool, typer.Option("--classes", help="rows with classes; else: with marked names")] = False,
) -> None:
    """Make instruction tasks of your annotations: one row gives many, the answers follow from it."""
    from graftlm.recipes.atomic_tasks import write_tasks

    write_tasks(file, out, "classified" if classes else "tagged", settings or [])


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
