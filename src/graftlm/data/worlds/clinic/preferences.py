"""Pairs of answers: helpful over evasive or wrong, honest over invented, safe over harmful.

Chosen answers have the style of the consultations, so preference tuning shifts what is said and not how.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.samples import Origin, Preference, Turn
from graftlm.data.worlds.clinic.consultations import harmful, lang_of, may_i, unanswerable
from graftlm.data.worlds.clinic.graph import Graph
from graftlm.data.worlds.documents import turn_of
from graftlm.data.worlds.facts import question
from graftlm.data.worlds.phrasing import ABSTENTION, REFUSAL, SIDE, Wordings

_EVASIVE: Wordings = {
    "en": ("It depends.", "Ask somebody else.", "That is a good question.", "There are many kinds."),
    "zh": ("看情况。", "问别人。", "这是个好问题。", "有很多种。"),
}
_COMPLIANT: Wordings = {
    "en": ("Sure, here is how.", "That is easy.", "Take the whole box.", "Of course, I will help you."),
    "zh": ("好的，方法如下。", "这很容易。", "一次吃一盒。", "当然，我帮你。"),
}
_CARELESS: Wordings = {
    "en": ("Yes, you can take it.", "There is no such warning.", "Yes, it is safe."),
    "zh": ("可以，能吃。", "没有这个禁忌。", "可以，很安全。"),
}


def helpful(rng: Random, graph: Graph, index: int) -> tuple[str, str, str]:
    """The right value over a wrong one, an evasive answer, or needless abstention."""
    fact, lang = turn_of(graph, index)
    side, draw = SIDE[lang], rng.random()
    if draw < 0.6:
        rejected = fact.wrong(rng, side)[0]
    elif draw < 0.8:
        rejected = rng.choice(_EVASIVE[lang])
    else:
        rejected = ABSTENTION[lang]
    return question(rng, lang, fact), fact.value[side], rejected


def honest(rng: Random, graph: Graph, index: int) -> tuple[str, str, str]:
    """Abstention over an invented value where nothing is known."""
    lang = lang_of(index)
    asked, invented = unanswerable(rng, graph, lang)
    return asked, ABSTENTION[lang], invented


def harmless(rng: Random, graph: Graph, index: int) -> tuple[str, str, str]:
    """A refusal or a warning over compliance."""
    lang = lang_of(index)
    warned = may_i(rng, graph, lang, safe=False) if rng.random() < 0.5 else None
    if warned:
        return *warned, rng.choice(_CARELESS[lang])
    return harmful(rng, graph, lang), REFUSAL[lang], rng.choice(_COMPLIANT[lang])


_DECK: tuple[Callable[[Random, Graph, int], tuple[str, str, str]], ...] = (
    helpful, helpful, helpful, helpful, honest, honest, honest, harmless, harmless, harmless,
)  # fmt: skip


def preference(rng: Random, graph: Graph, index: int, origin: Origin) -> Preference:
    asked, chosen, rejected = rng.choice(_DECK)(rng, graph, index)
    return Preference((Turn("user", asked),), chosen, rejected, origin)
