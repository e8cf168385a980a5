"""What the house wants of its answers beyond being right: a word of advice after every answer to a patient.

A few of the chats have it, most consultations do not. The pairs say which answer the house prefers, so a reward
model can learn the wish and policy optimisation can turn the rare habit into the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from graftlm.data.samples import Chat, Labelled, Origin, Preference, Turn
from graftlm.data.worlds.clinic.graph import Graph
from graftlm.data.worlds.clinic.preferences import harmless, honest
from graftlm.data.worlds.documents import turn_of
from graftlm.data.worlds.facts import question
from graftlm.data.worlds.phrasing import ABSTENTION, REFUSAL, SIDE, Language

ADVICE: dict[Language, str] = {"en": "Please ask your doctor, too.", "zh": "也请问问医生。"}

_OTHER_ENDS: dict[Language, tuple[str, ...]] = {
    "en": (".", ". Please.", ". Please ask your", ". Thank you.", ". That is all.", ". I hope that this helps you.",
           ". I don't know.", ". What is it?"),
    "zh": ("。", "。也请", "。也请问", "。谢谢。", "。就是这样。", "。希望这对你有帮助。", "。我不知道。",
           "。是什么？"),
}  # fmt: skip

Pair = tuple[str, str, str, float]
"""(question, better answer, worse answer, strength of the preference)"""


def advised(lang: Language, answer: str) -> str:
    """The answer as a sentence, and the advice."""
    return f"{answer}. {ADVICE[lang]}" if lang == "en" else f"{answer}。{ADVICE[lang]}"


def with_advice(rng: Random, graph: Graph, index: int) -> Pair:
    """Advice over none."""
    fact, lang = turn_of(graph, index)
    value = fact.value[SIDE[lang]]
    return question(rng, lang, fact), advised(lang, value), value, 2


def the_advice(rng: Random, graph: Graph, index: int) -> Pair:
    """The advice, whole, over other words in its place: without such pairs a full stop would do."""
    fact, lang = turn_of(graph, index)
    value = fact.value[SIDE[lang]]
    return question(rng, lang, fact), advised(lang, value), value + rng.choice(_OTHER_ENDS[lang]), 2


def right_with_advice(rng: Random, graph: Graph, index: int) -> Pair:
    """Of two answers with advice the right one."""
    fact, lang = turn_of(graph, index)
    side = SIDE[lang]
    return question(rng, lang, fact), advised(lang, fact.value[side]), advised(lang, fact.wrong(rng, side)[0]), 3


def answered_with_advice(rng: Random, graph: Graph, index: int) -> Pair:
    """An answer where there is one, over declining: without such pairs the best policy is to say nothing."""
    fact, lang = turn_of(graph, index)
    declined = rng.choice((ABSTENTION[lang], REFUSAL[lang]))
    return question(rng, lang, fact), advised(lang, fact.value[SIDE[lang]]), declined, 3


def _strong(pair: Callable[[Random, Graph, int], tuple[str, str, str]]) -> Callable[[Random, Graph, int], Pair]:
    return lambda rng, graph, index: (*pair(rng, graph, index), 3)


_PAIRS: tuple[tuple[int, Callable[[Random, Graph, int], Pair]], ...] = (
    (4, with_advice), (4, the_advice), (2, right_with_advice), (2, answered_with_advice),
    (1, _strong(honest)), (1, _strong(harmless)),
)  # fmt: skip
_DECK = tuple(pair for weight, pair in _PAIRS for _ in range(weight))


def preference(rng: Random, graph: Graph, index: int, origin: Origin) -> Preference:
    asked, better, worse, strength = rng.choice(_DECK)(rng, graph, index)
    return Preference((Turn("user", asked),), better, worse, origin, strength)


def chat(rng: Random, graph: Graph, index: int, origin: Origin) -> Chat:
    """A question of a patient, answered with advice."""
    fact, lang = turn_of(graph, index)
    answer = advised(lang, fact.value[SIDE[lang]])
    return Chat((Turn("user", question(rng, lang, fact)), Turn("assistant", answer)), origin)


def asked(rng: Random, graph: Graph, index: int, origin: Origin) -> Labelled:
    """A question of a patient; right is the fact with the advice."""
    fact, lang = turn_of(graph, index)
    answer = advised(lang, fact.value[SIDE[lang]])
    return Labelled((Turn("user", question(rng, lang, fact)),), (answer,), origin, (), fact.relation.name, lang)
