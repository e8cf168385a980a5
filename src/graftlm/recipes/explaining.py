"""How a model finds its next token, told step by step with its own numbers. What `graft explain` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rich.cells import cell_len
from rich.markup import escape
from transformers import PreTrainedModel

from graftlm.core.console import say
from graftlm.core.errors import GraftError
from graftlm.inference.cached import position_limit
from graftlm.models.anatomy import Anatomy, Attention, Block, dissect
from graftlm.models.loading import ROOTSTOCK, load_model, load_tokenizer
from graftlm.recipes.talking import newest_model

Read = Callable[[int], str]
"""Number of a token → its text as it is printed."""

SHOWN = 8
"""Heads, and tokens that are looked at, that a table shows."""
FEW = 6
"""Numbers that are shown of a vector."""

WORDS = {  # what modules are for, by how their names end, most particular first
    "q_norm": ("norm of q", "every query is brought to one size"),
    "k_norm": ("norm of k", "the same of the keys"),
    "norm": ("norm", "every vector is brought to one size, and its numbers are weighted"),
    "ln_1": ("norm", "every vector is brought to one size, and its numbers are weighted"),
    "ln_2": ("norm", "once more, before the second half"),
    "q_proj": ("queries q", "what each token looks for"),
    "k_proj": ("keys k", "what each token offers"),
    "v_proj": ("values v", "what it hands over when it is chosen"),
    "qkv_proj": ("q, k, v", "what each token looks for, offers, and hands over"),
    "query_key_value": ("q, k, v", "what each token looks for, offers, and hands over"),
    "c_attn": ("q, k, v", "what each token looks for, offers, and hands over"),
    "o_proj": ("out", "what the heads found, in one vector that is added to the token's"),
    "attn.c_proj": ("out", "what the heads found, in one vector that is added to the token's"),
    "self_attention.dense": ("out", "what the heads found, in one vector that is added to the token's"),
    "mlp.gate": ("router", "which experts each token goes to"),
    "gate_proj": ("MLP, gate", "the patterns that each token is searched for"),
    "up_proj": ("MLP, up", "what each pattern is worth; gate, bent, times up goes on"),
    "gate_up_proj": ("MLP, wide", "the patterns that each token is searched for"),
    "c_fc": ("MLP, wide", "the patterns that each token is searched for"),
    "dense_h_to_4h": ("MLP, wide", "the patterns that each token is searched for"),
    "down_proj": ("MLP, out", "what was found, as a vector that is added to the token's"),
    "mlp.c_proj": ("MLP, out", "what was found, as a vector that is added to the token's"),
    "dense_4h_to_h": ("MLP, out", "what was found, as a vector that is added to the token's"),
}


def explain(words: Sequence[str], *, every_block: bool = False) -> None:
    """Print how a model goes from a text to the next token.

    Args:
        words: the text, or a model and the text; the rootstock by default.
        every_block: show every block in full; else the first and the last.

    Raises:
        GraftError: not one or two words, an empty text, or one with more tokens than the model has positions.
    """
    if len(words) not in (1, 2):
        raise GraftError("give a text, or a model and a text", where="graft explain", fix='graft explain "The sun is"')
    where, text = newest_model(words[0]) if len(words) == 2 else ROOTSTOCK, words[-1]
    tokenizer = load_tokenizer(where)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    if not tokens:
        raise GraftError("the text is empty", where="graft explain", fix="write a few words")
    if tokenizer.bos_token_id is not None:
        tokens = [tokenizer.bos_token_id, *tokens]
    model = load_model(where, dtype=torch.float32, device=torch.device("cpu"))
    limit = position_limit(model)
    if limit is not None and len(tokens) > limit:
        raise GraftError(
            f"{len(tokens)} tokens do not fit the model's {limit} positions", where="graft explain", fix="shorten it"
        )
    _tell(model, tokens, lambda token: _visible(str(tokenizer.decode([token]))), dissect(model, tokens), every_block)


def _tell(model: PreTrainedModel, tokens: list[int], read: Read, found: Anatomy, every_block: bool) -> None:
    blocks, pieces = found.blocks, [read(token) for token in tokens]
    (T, D), V = found.normed_TD.shape, found.logits_TV.shape[-1]
    last = escape(pieces[-1])
    parameters = sum(p.numel() for p in model.parameters())
    say(f"[bold]{model.config.model_type}[/bold] with {parameters:,} learnt numbers in {len(blocks)} blocks")
    say("[dim]\\[3, 5] is a table of 3 rows and 5 columns; of long rows the first few numbers are shown[/dim]")

    _chapter("1  Text becomes tokens", f"[{T}]")
    say(f"   The text is cut into pieces of a list of {V:,}; the model sees only their numbers (␣ is a space).")
    if any("\ufffd" in piece for piece in pieces):
        say("   \ufffd is a part of a character: what is not in the list is put together from bytes.")
    _print_tokens(pieces, tokens)

    _chapter("2  Tokens become vectors", f"[{T}] → [{T}, {D}]")
    say(f"   Each number picks a row of a table [{V:,}, {D}]: what that token means by itself.".replace("[", "\\["))
    for piece, row in list(zip(pieces, blocks[0].before_TD, strict=True))[-3:]:
        say(f"   {_padded(piece, 12)} {_numbers(row)}")

    for place, block in enumerate(blocks):
        _chapter(f"{place + 3}  Block {place + 1} of {len(blocks)}", f"[{T}, {D}] → [{T}, {D}]")
        if place == 0:
            say("   First the tokens look at each other (attention), then each is worked on alone (MLP).")
            say(f"   All values are those of the last token, {last}: it has to say what follows.")
        if every_block or place in (0, len(blocks) - 1):
            _tell_block(block, pieces, first=place == 0)
        before, after = (float(vectors_TD[-1].norm()) for vectors_TD in (block.before_TD, block.after_TD))
        guess = "" if block is blocks[-1] else _guess(block, read)
        say(f"   The vector of {last} was {before:.1f} long and is now {after:.1f}.{guess}")

    _chapter(f"{len(blocks) + 3}  The last vector becomes the next token", f"[{D}] → [{V:,}]")
    _line("norm", found.normed_TD)
    _line("logits", found.logits_TV, "how well each token of the list would follow; softmax makes it probabilities")
    say("   The likeliest:")
    chance, best = found.logits_TV[-1].softmax(-1).topk(min(5, V))
    for p, token in zip(chance.tolist(), best.tolist(), strict=True):
        logit = found.logits_TV[-1, token]
        say(f"      {_padded(read(token), 14)} logit {logit:6.2f} {p:7.1%}  {'█' * round(40 * p)}")
    say("   One of them is put at the end of the text, and all of this begins again: so a model writes.")


def _print_tokens(pieces: list[str], tokens: list[int]) -> None:
    """Pieces over their numbers, ten a line."""
    for start in range(0, len(tokens), 10):
        cells = list(zip(pieces, map(str, tokens), strict=True))[start : start + 10]
        widths = [max(map(cell_len, pair)) + 2 for pair in cells]
        for row in zip(*cells, strict=True):
            say("   " + "".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _tell_block(block: Block, pieces: list[str], *, first: bool) -> None:
    """Each step's shape and the numbers of the last token; in the first block also what it is for."""
    for step in block.steps:
        if isinstance(step, Attention):
            _tell_attention(step, pieces, first=first)
        else:
            title, purpose = next((w for ending, w in WORDS.items() if step.name.endswith(ending)), (step.name, ""))
            _line(title, step.values_TN, purpose if first else "")


def _tell_attention(found: Attention, pieces: list[str], *, first: bool) -> None:
    (H, T, K), G = found.query_HTK.shape, len(found.key_GTK)
    shared = f", {H // G} of which share a key" if G != H else ""
    purpose = f"query · key / √{K}, in {H} heads of {K} numbers each{shared}: does a token have what is looked for?"
    _line("scores", found.scores_HTT, purpose if first else "")
    share = "softmax of the scores: shares that add up to 100 %. No token sees a later one"
    _line("weights", found.weights_HTT, share if first else "", numbers=False)
    weights_TH = found.weights_HTT[:, -1].T
    chosen = sorted(weights_TH.mean(-1).argsort(descending=True)[:SHOWN].tolist())
    heads = range(min(H, SHOWN))
    title = f"{pieces[-1]} looks at"
    width = max(cell_len(text) for text in (title, *(pieces[t] for t in chosen)))
    say(f"      [dim]{_padded(title, width)}{''.join(f'   head {head + 1}' for head in heads)}[/dim]")
    for t in chosen:
        say(f"      {_padded(pieces[t], width)}{''.join(_shaded(float(weights_TH[t, head])) for head in heads)}")
    left_out = [f"{n} {what}" for n, what in ((T - len(chosen), "tokens with less"), (H - len(heads), "heads")) if n]
    if left_out:
        say(f"      [dim]not shown: {', '.join(left_out)}[/dim]")


def _shaded(weight: float) -> str:
    cell = f"{weight:9.0%}"
    return f"[bold green]{cell}[/]" if weight >= 0.5 else cell if weight >= 0.1 else f"[dim]{cell}[/]"


def _guess(block: Block, read: Read) -> str:
    chance, token = block.guess_V.softmax(-1).max(-1)
    return f" Were this the last block, [bold]{escape(read(int(token)))}[/bold] would follow ({float(chance):.0%})."


def _line(title: str, values: torch.Tensor, purpose: str = "", *, numbers: bool = True) -> None:
    """A step's shape, what it is for where that is told, and the values of the last token (in the first head)."""
    shape = f"[{', '.join(f'{n:,}' for n in values.shape)}]"
    start = f"   [cyan]{title:<12}[/cyan] {_padded(shape, 15)}"
    shown = _numbers(values[0, -1] if values.ndim == 3 else values[-1]) if numbers else ""
    if purpose:
        say(f"{start} [dim]{escape(purpose)}[/dim]")
    if shown:
        say(f"{' ' * 31 if purpose else start} {shown}")
    if not purpose and not shown:
        say(start.rstrip())


def _chapter(title: str, shape: str) -> None:
    say()
    say(f"[bold]{title}[/bold]  {escape(shape)}")


def _numbers(values_N: torch.Tensor) -> str:
    """The first few, in columns."""
    few = " ".join(f"{value:6.2f}" for value in values_N[:FEW].tolist())
    return f"{few} …" if len(values_N) > FEW else few


def _padded(text: str, width: int) -> str:
    """Han characters take two columns."""
    return escape(text) + " " * (width - cell_len(text))


def _visible(piece: str) -> str:
    return piece.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
