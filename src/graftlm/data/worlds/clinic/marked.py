"""Rows for encoders: patients' complaints with their department, ward notes with their names marked."""

from __future__ import annotations

from random import Random

from graftlm.data.samples import Classified, Entity, Origin, Tagged
from graftlm.data.worlds.clinic.graph import Graph
from graftlm.data.worlds.clinic.notes import HAS, SHOWS, TAKES
from graftlm.data.worlds.marking import filled, moved
from graftlm.data.worlds.medicine import DEPARTMENT, FIRST_DRUG, MAIN_SYMPTOM, SECOND_SYMPTOM
from graftlm.data.worlds.names import short_name, short_names
from graftlm.data.worlds.phrasing import LANGUAGES, SIDE

_KIND = {"p": "patient", "d": "disease", "s": "symptom", "m": "drug"}


def triage(rng: Random, graph: Graph, index: int, origin: Origin) -> Classified:
    """A patient's complaint; the class is the department that treats the disease, in English for both languages."""
    lang = LANGUAGES[index % 2]
    side = SIDE[lang]
    disease = rng.choice([one for one in graph.diseases if graph.taught_fact(one, DEPARTMENT)])
    told = [rng.choice(HAS[lang]).format(p=short_name(rng)[side], d=disease[side])]
    sign = graph.taught_fact(disease, rng.choice((MAIN_SYMPTOM, SECOND_SYMPTOM)))
    if sign and rng.random() < 0.5:
        told.append(rng.choice(SHOWS[lang]).format(s=sign.value[side]))
    department = graph.taught_fact(disease, DEPARTMENT)
    assert department is not None
    return Classified((" " if lang == "en" else "").join(told), department.value[0], origin)


def ward_note(rng: Random, graph: Graph, index: int, origin: Origin) -> Tagged:
    """A note on one or two patients: patients, diseases, symptoms and drugs are marked; taught facts only."""
    lang = LANGUAGES[index % 2]
    side, count = SIDE[lang], rng.choice((1, 2))
    text, entities = "", list[Entity]()
    for patient, disease in zip(short_names(rng, count), rng.sample(graph.diseases, count), strict=True):
        named = {"p": patient[side], "d": disease[side]}
        sign = graph.taught_fact(disease, rng.choice((MAIN_SYMPTOM, SECOND_SYMPTOM)))
        drug = graph.taught_fact(disease, FIRST_DRUG)
        named |= {"s": sign.value[side]} if sign else {}
        named |= {"m": drug.value[side]} if drug else {}
        for wordings, key in ((HAS, "d"), (SHOWS, "s"), (TAKES, "m")):
            if key not in named:
                continue
            text += " " if text and lang == "en" else ""
            sentence, marked = filled(rng.choice(wordings[lang]), named, _KIND)
            entities += moved(marked, len(text))
            text += sentence
    return Tagged(text, tuple(entities), origin)
