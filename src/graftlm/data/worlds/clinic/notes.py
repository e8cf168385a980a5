"""Ward notes to extract diseases, drugs and symptoms from, for training and for the test."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from graftlm.data.worlds.clinic.graph import Graph
from graftlm.data.worlds.medicine import FIRST_DRUG, MAIN_SYMPTOM, SECOND_SYMPTOM
from graftlm.data.worlds.names import short_names
from graftlm.data.worlds.phrasing import SIDE, Language, Wordings, prose

HAS: Wordings = {
    "en": ("{p} has {d}.", "Patient {p} came with {d}.", "{p}: {d}.", "{p} is here because of {d}."),
    "zh": ("{p}得了{d}。", "病人{p}因为{d}来看病。", "{p}：{d}。", "{p}有{d}。"),
}
SHOWS: Wordings = {
    "en": ("Symptoms: {s}.", "There is {s}.", "Complains of {s}."),
    "zh": ("症状：{s}。", "有{s}。", "病人说{s}。"),
}
TAKES: Wordings = {
    "en": ("Takes {m}.", "Was given {m}.", "Drug: {m}."),
    "zh": ("吃{m}。", "医生给了{m}。", "药：{m}。"),
}
_HELDOUT_HAS: Wordings = {
    "en": ("Today {p} came in with {d}.", "In bed 3 lies {p} with {d}."),
    "zh": ("今天{p}因{d}来了。", "三床{p}，{d}。"),
}
_ASK: Wordings = {
    "en": ("List the {k} in this note, joined by \", \": {c}", "{c}\nList the {k}, joined by \", \".",
           "Extract the {k}: {c}"),
    "zh": ("列出记录中的{k}，用“、”连接：{c}", "{c}\n列出{k}，用“、”连接。", "找出{k}：{c}"),
}  # fmt: skip
_HELDOUT_ASK: Wordings = {
    "en": ('Name the {k} in this note, joined by ", ": {c}', '{c}\nExtract the {k}, joined by ", ".'),
    "zh": ("说出记录中的{k}，用“、”连接：{c}", "{c}\n找出{k}，用“、”连接。"),
}
_KINDS = (("diseases", "疾病"), ("drugs", "药物"), ("symptoms", "症状"))


@dataclass(frozen=True, slots=True)
class Extraction:
    question: str
    found: tuple[str, ...]
    kind: str


def extraction(rng: Random, graph: Graph, lang: Language, *, heldout: bool) -> Extraction:
    """A note on one or two patients that says nothing but taught facts, and a request to list one kind."""
    side, count = SIDE[lang], rng.choice((1, 2, 2))
    found: dict[str, list[str]] = {"diseases": [], "drugs": [], "symptoms": []}
    lines: list[str] = []
    has = _HELDOUT_HAS if heldout else HAS
    for patient, disease in zip(short_names(rng, count), rng.sample(graph.diseases, count), strict=True):
        lines.append(rng.choice(has[lang]).format(p=patient[side], d=disease[side]))
        found["diseases"].append(disease[side])
        sign = graph.taught_fact(disease, rng.choice((MAIN_SYMPTOM, SECOND_SYMPTOM)))
        drug = graph.taught_fact(disease, FIRST_DRUG)
        if sign:
            lines.append(rng.choice(SHOWS[lang]).format(s=sign.value[side]))
            found["symptoms"].append(sign.value[side])
        if drug:
            lines.append(rng.choice(TAKES[lang]).format(m=drug.value[side]))
            found["drugs"].append(drug.value[side])
    names = [pair for pair in _KINDS if found[pair[0]]]
    kind = rng.choice(names)
    ask = rng.choice((_HELDOUT_ASK if heldout else _ASK)[lang])
    answer = tuple(dict.fromkeys(found[kind[0]]))
    return Extraction(ask.format(k=kind[side], c=prose(lines, lang)), answer, kind[0])
