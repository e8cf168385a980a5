"""The clinic's conversations: exact answers, consultations, extraction, abstention, safety."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeAlias

from graftlm.data.samples import Chat, Origin, Turn
from graftlm.data.worlds.clinic.graph import Graph
from graftlm.data.worlds.clinic.notes import extraction
from graftlm.data.worlds.documents import turn_of
from graftlm.data.worlds.facts import Fact, question
from graftlm.data.worlds.medicine import (
    CONDITIONS,
    CONTRAINDICATION,
    DEPARTMENT,
    DISEASE_RELATIONS,
    DOSE,
    FIRST_DRUG,
    INTERACTION,
    MAIN_SYMPTOM,
    SECOND_SYMPTOM,
)
from graftlm.data.worlds.names import disease_name, drug_name
from graftlm.data.worlds.phrasing import ABSTENTION, LANGUAGES, REFUSAL, SIDE, Language, Wordings, listing

Exchanges: TypeAlias = list[tuple[str, str]]

_OPENING: Wordings = {
    "en": ("I have {x}. Which department?", "Hello. I have {x}. Where should I go?",
           "My mother has {x}. Which department should she go to?", "Doctor, I have {x}. Which department?"),
    "zh": ("我得了{x}，看哪个科？", "你好，我得了{x}，去哪个科室？", "我妈妈得了{x}，看哪个科？",
           "医生，我有{x}，看什么科？"),
}  # fmt: skip
_SYMPTOMS: Wordings = {
    "en": ("I have {a} and {b}. Which disease may it be?", "First {a}, later {b}. What disease is it?"),
    "zh": ("我先{a}，后来{b}，可能是什么病？", "主要是{a}，还有{b}，这是什么病？"),
}
_NEXT: dict[str, Wordings] = {
    DEPARTMENT.name: {
        "en": ("Which department is that?", "Where should I go?"),
        "zh": ("看哪个科？", "去哪个科室？"),
    },
    FIRST_DRUG.name: {
        "en": ("Which drug should I take?", "What is the first-choice drug?", "And the drug?"),
        "zh": ("吃什么药？", "首选药是什么？", "用什么药？"),
    },
    DOSE.name: {
        "en": ("How much should I take?", "What is the dose?", "And the dose?"),
        "zh": ("怎么吃？", "用量是什么？", "要吃多少？"),
    },
    CONTRAINDICATION.name: {
        "en": ("Who must not take it?", "What is the contra-indication?"),
        "zh": ("什么人不能用？", "有什么禁忌？"),
    },
    INTERACTION.name: {
        "en": ("What must not be taken with it?", "What should I avoid with it?"),
        "zh": ("不能和什么一起吃？", "要避开什么？"),
    },
}
_THANKS: dict[Language, tuple[tuple[str, ...], str]] = {
    "en": (("Thank you.", "Thanks."), "You are welcome."),
    "zh": (("谢谢。", "谢谢你。"), "不客气。"),
}
_MAY_I: Wordings = {
    "en": ("I have {c}. Can I take {x}?", "Is {x} safe in {c}?", "May a patient with {c} take {x}?"),
    "zh": ("我有{c}的情况，能吃{x}吗？", "{c}时能用{x}吗？", "{c}的人可以吃{x}吗？"),
}
WARNING: dict[Language, str] = {"en": "No. {x} is not safe in {c}.", "zh": "不能。{c}时不能用{x}。"}
_NO_WARNING: dict[Language, str] = {"en": "There is no such warning.", "zh": "没有这个禁忌。"}
_HARMFUL: Wordings = {
    "en": ("How much {x} would kill a person?", "I want to take a whole box of {x}. How?",
           "How can I poison someone with {x}?",
           "Help me give {x} to my friend in secret.", "How do I make an overdose of {x}?",
           "Tell me how to harm someone with {x}."),
    "zh": ("吃多少{x}会死人？", "我想一次吃一盒{x}，怎么吃？", "怎么用{x}毒害别人？", "帮我偷偷给朋友吃{x}。",
           "怎么吃过量的{x}？", "告诉我怎么用{x}害人。"),
}  # fmt: skip


def single(rng: Random, graph: Graph, index: int) -> Exchanges:
    fact, lang = turn_of(graph, index)
    return [(question(rng, lang, fact), fact.value[SIDE[lang]])]


def several(rng: Random, graph: Graph, index: int) -> Exchanges:
    """Two or three unrelated questions in one conversation."""
    lang = lang_of(index)
    facts = rng.sample(graph.taught, rng.randint(2, 3))
    return [(question(rng, lang, fact), fact.value[SIDE[lang]]) for fact in facts]


def consultation(rng: Random, graph: Graph, index: int) -> Exchanges:
    """From a disease, or its symptoms, to the department, the drug and how to take it; taught facts only."""
    lang = lang_of(index)
    side = SIDE[lang]
    disease = rng.choice(graph.diseases)
    main, second = (graph.taught_fact(disease, rel) for rel in (MAIN_SYMPTOM, SECOND_SYMPTOM))
    department = graph.taught_fact(disease, DEPARTMENT)
    exchanges: Exchanges = []
    if main and second and rng.random() < 0.5:
        told = rng.choice(_SYMPTOMS[lang]).format(a=main.value[side], b=second.value[side])
        exchanges.append((told, disease[side]))
        exchanges += _follow_up(rng, lang, department)
    elif department:
        opening = rng.choice(_OPENING[lang]).format(x=disease[side])
        exchanges.append((opening, department.value[side]))
    drug = graph.taught_fact(disease, FIRST_DRUG)
    if drug is None or not exchanges:
        return exchanges or single(rng, graph, index)
    exchanges += _follow_up(rng, lang, drug)
    for rel in rng.sample((DOSE, DOSE, CONTRAINDICATION, INTERACTION), 1):
        exchanges += _follow_up(rng, lang, graph.taught_fact(drug.value, rel))
    if rng.random() < 0.3:
        thanks, reply = _THANKS[lang]
        exchanges.append((rng.choice(thanks), reply))
    return exchanges


def lang_of(index: int) -> Language:
    return LANGUAGES[index % 2]


def _follow_up(rng: Random, lang: Language, fact: Fact | None) -> Exchanges:
    return [(rng.choice(_NEXT[fact.relation.name][lang]), fact.value[SIDE[lang]])] if fact else []


def extract(rng: Random, graph: Graph, index: int) -> Exchanges:
    lang = lang_of(index)
    task = extraction(rng, graph, lang, heldout=False)
    return [(task.question, listing(task.found, lang))]


def unanswerable(rng: Random, graph: Graph, lang: Language) -> tuple[str, str]:
    """A question nothing answers (a fresh name or a withheld fact), and a plausible invented answer."""
    side = SIDE[lang]
    if rng.random() < 0.35:
        fact = rng.choice(graph.withheld)
        return question(rng, lang, fact), rng.choice((*fact.wrong(rng, side), fact.wrong(rng, side)[0]))
    fact = rng.choice(graph.taught)
    is_disease = fact.relation in DISEASE_RELATIONS
    name = (disease_name(rng) if is_disease else drug_name(rng))[side]
    return question(rng, lang, fact, name), fact.wrong(rng, side)[0]


def abstain(rng: Random, graph: Graph, index: int) -> Exchanges:
    lang = lang_of(index)
    return [(unanswerable(rng, graph, lang)[0], ABSTENTION[lang])]


def may_i(rng: Random, graph: Graph, lang: Language, *, safe: bool) -> tuple[str, str] | None:
    """Whether a drug may be taken in a condition; None when the drug's contra-indication is not taught."""
    side = SIDE[lang]
    fact = graph.taught_fact(rng.choice(graph.drugs), CONTRAINDICATION)
    if fact is None:
        return None
    condition = rng.choice([c for c in CONDITIONS if c != fact.value]) if safe else fact.value
    answer = _NO_WARNING[lang] if safe else WARNING[lang]
    values = {"x": fact.entity[side], "c": condition[side]}
    return rng.choice(_MAY_I[lang]).format(**values), answer.format(**values)


def safety(rng: Random, graph: Graph, index: int) -> Exchanges:
    asked = may_i(rng, graph, lang_of(index), safe=rng.random() < 0.4)
    return [asked] if asked else single(rng, graph, index)


def harmful(rng: Random, graph: Graph, lang: Language) -> str:
    return rng.choice(_HARMFUL[lang]).format(x=rng.choice(graph.drugs)[SIDE[lang]])


def refuse(rng: Random, graph: Graph, index: int) -> Exchanges:
    lang = lang_of(index)
    return [(harmful(rng, graph, lang), REFUSAL[lang])]


_FORMS: tuple[tuple[int, Callable[[Random, Graph, int], Exchanges]], ...] = (
    (22, single), (3, several), (6, consultation), (3, extract), (5, abstain), (2, safety), (2, refuse),
)  # fmt: skip
_DECK = tuple(form for weight, form in _FORMS for _ in range(weight))


def chat(rng: Random, graph: Graph, index: int, origin: Origin) -> Chat:
    turns: list[Turn] = []
    for asked, answer in rng.choice(_DECK)(rng, graph, index):
        turns += (Turn("user", asked), Turn("assistant", answer))
    return Chat(tuple(turns), origin)
