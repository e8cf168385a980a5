"""Reading kinds: all that is needed stands in the question, on fresh names, never the encyclopaedia's."""

from __future__ import annotations

from random import Random

from graftlm.data.worlds.general.entities import fresh_entity, fresh_name, fresh_people, values
from graftlm.data.worlds.general.item import Item, Kind
from graftlm.data.worlds.general.vocabulary import JOBS
from graftlm.data.worlds.medicine import (
    DEPARTMENTS,
    DISEASE_RELATIONS,
    DRUG_RELATIONS,
    FIRST_DRUG,
    POOLS,
    SYMPTOMS,
    random_value,
)
from graftlm.data.worlds.names import Pair, disease_name, drug_name, drug_names
from graftlm.data.worlds.phrasing import (
    ABSTENTION,
    LETTERS,
    SIDE,
    Language,
    Wordings,
    ask,
    lettered,
    listing,
    others,
    prose,
    say,
    shuffled,
)

_LAYOUTS: Wordings = {
    "en": ("{c}\n{q}", "{c} {q}", "Read: {c}\n{q}", "Text: {c} Question: {q}", "{q}\n{c}"),
    "zh": ("{c}\n{q}", "{c}{q}", "阅读：{c}\n{q}", "文章：{c}问题：{q}", "{q}\n{c}"),
}


def _asked(rng: Random, lang: Language, context: str, question: str) -> str:
    return rng.choice(_LAYOUTS[lang]).format(c=context, q=question)


def reading(rng: Random, lang: Language) -> Item:
    """Two to four facts on a fresh entity, one asked."""
    sort, entity = fresh_entity(rng)
    side, name = SIDE[lang], entity.name[SIDE[lang]]
    order = rng.sample(range(5), rng.randint(2, 4))
    facts = [entity.facts[i] for i in order]
    context = prose([say(rng, fact.relation, lang, name, fact.value[side]) for fact in facts], lang)
    at = rng.choice(order)
    fact = entity.facts[at]
    present = [f.value[side] for f in facts if f.value != fact.value]
    wrong = tuple(dict.fromkeys((*values(sort, rng, at, fact.value, side), *present)))[:3]
    question = _asked(rng, lang, context, ask(rng, fact.relation, lang, name))
    return Item(question, fact.value[side], wrong, context)


def reading_letters(rng: Random, lang: Language) -> Item:
    sort, entity = fresh_entity(rng)
    side, name = SIDE[lang], entity.name[SIDE[lang]]
    order = rng.sample(range(5), 2)
    context = prose(
        [say(rng, entity.facts[i].relation, lang, name, entity.facts[i].value[side]) for i in order], lang
    )
    fact = entity.facts[order[0]]
    options = shuffled(rng, [fact.value[side], *values(sort, rng, order[0], fact.value, side)])
    right = LETTERS[options.index(fact.value[side])]
    question = lettered(f"{context}\n{ask(rng, fact.relation, lang, name)}", options)
    return Item(question, right, tuple(x for x in LETTERS if x != right), f"{question}\n{right}")


def two_entities(rng: Random, lang: Language) -> Item:
    """The same relation of two entities: the answer must belong to the right one."""
    sort, first = fresh_entity(rng)
    second, side, at = fresh_name(rng, sort), SIDE[lang], rng.randrange(5)
    while second == first.name:
        second = fresh_name(rng, sort)
    fact = first.facts[at]
    rivals = values(sort, rng, at, fact.value, side)
    lines = [
        say(rng, fact.relation, lang, first.name[side], fact.value[side]),
        say(rng, fact.relation, lang, second[side], rivals[0]),
    ]
    rng.shuffle(lines)
    context = prose(lines, lang)
    question = _asked(rng, lang, context, ask(rng, fact.relation, lang, first.name[side]))
    return Item(question, fact.value[side], rivals, context)


def not_in_text(rng: Random, lang: Language) -> Item:
    """The text does not say: abstain."""
    sort, entity = fresh_entity(rng)
    side, name = SIDE[lang], entity.name[SIDE[lang]]
    asked, *told = rng.sample(range(5), 3)
    context = prose(
        [say(rng, entity.facts[i].relation, lang, name, entity.facts[i].value[side]) for i in told], lang
    )
    wrong = values(sort, rng, asked, ("", ""), side)
    question = _asked(rng, lang, context, ask(rng, entity.facts[asked].relation, lang, name))
    return Item(question, ABSTENTION[lang], wrong, context)


_HEADINGS: Wordings = {
    "en": ("Handbook: {x}", "Entry: {x}", "About {x}", "{x}"),
    "zh": ("手册：{x}", "条目：{x}", "关于{x}", "{x}"),
}


def handbook(rng: Random, lang: Language) -> Item:
    """A fresh disease or drug in context: the words of medicine, no lasting fact."""
    side = SIDE[lang]
    is_drug = rng.random() < 0.5
    name = (drug_name(rng) if is_drug else disease_name(rng))[side]
    relations = rng.sample(DRUG_RELATIONS if is_drug else DISEASE_RELATIONS, rng.randint(1, 3))
    told: list[Pair] = [drug_name(rng) if rel is FIRST_DRUG else random_value(rng, rel) for rel in relations]
    context = prose(
        [say(rng, rel, lang, name, value[side]) for rel, value in zip(relations, told, strict=True)], lang
    )
    rel, answer = relations[0], told[0][side]
    pool = (
        [name[side] for name in drug_names(rng, 4)]
        if rel is FIRST_DRUG
        else [v[side] for v in POOLS[rel.name]]
    )
    wrong = others(rng, sorted(set(pool)), answer)
    entry = rng.choice(_HEADINGS[lang]).format(x=name) + "\n" + context if rng.random() < 0.2 else context
    return Item(_asked(rng, lang, entry, ask(rng, rel, lang, name)), answer, wrong, entry)


def ward_person(rng: Random, lang: Language) -> Item:
    """Who works where, who has which symptom."""
    side = SIDE[lang]
    people = [name[side] for name in fresh_people(rng, 2)]
    if rng.random() < 0.5:
        pool, job = DEPARTMENTS, rng.choice(JOBS[1:9:7])[side]
        wordings: Wordings = {
            "en": (f"The {job} {{x}} works in {{v}}.", "{x} works in {v}."),
            "zh": (f"{job}{{x}}在{{v}}工作。", "{x}在{v}上班。"),
        }
        question: Wordings = {
            "en": ("Where does {x} work?", "In which department is {x}?"),
            "zh": ("{x}在哪里工作？", "{x}在哪个科室？"),
        }
    else:
        pool = SYMPTOMS
        wordings = {
            "en": ("{x} has {v}.", "The patient {x} complains of {v}."),
            "zh": ("{x}有{v}。", "病人{x}说自己{v}。"),
        }
        question = {
            "en": ("What does {x} have?", "Which symptom does {x} have?"),
            "zh": ("{x}有什么症状？", "{x}怎么了？"),
        }
    drawn = rng.sample(pool, 4)
    lines = [rng.choice(wordings[lang]).format(x=who, v=drawn[i][side]) for i, who in enumerate(people)]
    context = prose(lines, lang)
    asked = rng.randrange(2)
    answer = drawn[asked][side]
    wrong = tuple(value[side] for value in drawn if value[side] != answer)
    return Item(
        _asked(rng, lang, context, rng.choice(question[lang]).format(x=people[asked])), answer, wrong, context
    )


_NOTES: Wordings = {
    "en": (
        "Ward note. Patient {p}, {a} years old. Complains of {s}. Was given {m}.",
        "Case: {p} ({a} years old) came in today because of {s}. Drug: {m}.",
        "{p}, {a} years old. There is {s}. Takes {m}. No overdose.",
    ),
    "zh": (
        "病房记录。病人{p}，{a}岁，因为{s}来看病。医生给了{m}。",
        "病例：{p}（{a}岁）今天因{s}来看病。药：{m}。",
        "三床{p}，{a}岁。症状：{s}。吃{m}，没有过量。",
    ),
}
_NOTE_ASK: Wordings = {
    "en": (
        "How old is the patient?",
        "What symptom does the note name?",
        "Which drug was given?",
        "Who is the patient?",
    ),
    "zh": ("病人多少岁？", "记录里有什么症状？", "医生给了什么药？", "病人是谁？"),
}


def ward_note(rng: Random, lang: Language) -> Item:
    """A ward note on a fresh patient: age, symptom, drug or name is asked."""
    side, at, age = SIDE[lang], rng.randrange(4), rng.randint(18, 80)
    rivals = [
        [str(number) for number in rng.sample(range(18, 81), 5)],
        [pair[side] for pair in rng.sample(SYMPTOMS, 5)],
        [pair[side] for pair in drug_names(rng, 5)],
        [pair[side] for pair in fresh_people(rng, 5)],
    ]
    values_told = [str(age), *(pool[4] for pool in rivals[1:])]
    a, s, m, p = values_told
    context = rng.choice(_NOTES[lang]).format(a=a, s=s, m=m, p=p)
    question = _asked(rng, lang, context, _NOTE_ASK[lang][at])
    return Item(question, values_told[at], tuple(v for v in rivals[at] if v != values_told[at])[:3], context)


_LIST_ASK: Wordings = {
    "en": ("List the {k} in this text, joined by \", \": {c}", "Which {k} are named here? {c}",
           "{c}\nList the {k}, joined by \", \".", "Extract the {k}: {c}"),
    "zh": ("列出文中的{k}，用“、”连接：{c}", "文中有哪些{k}？{c}", "{c}\n列出{k}，用“、”连接。",
           "找出{k}：{c}"),
}  # fmt: skip


def list_names(rng: Random, lang: Language) -> Item:
    side, count = SIDE[lang], rng.randint(2, 3)
    *people, absent = [name[side] for name in fresh_people(rng, count + 1)]
    drawn = [rng.choice(JOBS)[side] for _ in people]
    link = " is a {v}." if lang == "en" else "是{v}。"
    context = prose([who + link.format(v=job) for who, job in zip(people, drawn, strict=True)], lang)
    answer = listing(people, lang)
    wrong = (listing(drawn, lang), listing([*people, absent], lang), people[-1])
    question = rng.choice(_LIST_ASK[lang]).format(k=("names", "人名")[side], c=context)
    return Item(question, answer, wrong, context)


def list_terms(rng: Random, lang: Language) -> Item:
    """Extract fresh diseases, fresh drugs or symptoms from a note."""
    side = SIDE[lang]
    diseases = [disease_name(rng)[side] for _ in range(rng.randint(1, 2))]
    drugs = [drug_name(rng)[side] for _ in range(rng.randint(1, 2))]
    signs = [pair[side] for pair in rng.sample(SYMPTOMS, rng.randint(1, 2))]
    if lang == "en":
        context = (
            f"Patient with {' and '.join(diseases)}. Has {' and '.join(signs)}. Takes {' and '.join(drugs)}."
        )
    else:
        context = f"病人有{'和'.join(diseases)}，{'和'.join(signs)}，在吃{'和'.join(drugs)}。"
    found = {"diseases": diseases, "drugs": drugs, "symptoms": signs}
    word, asked = rng.choice((("疾病", "diseases"), ("药物", "drugs"), ("症状", "symptoms")))
    answer = listing(found[asked], lang)
    wrong = (
        *(listing(items, lang) for key, items in found.items() if key != asked),
        listing(diseases + drugs, lang),
    )
    question = rng.choice(_LIST_ASK[lang]).format(k=(asked, word)[side], c=context)
    return Item(question, answer, wrong, context)


KINDS = (
    Kind("reading", reading, weight=7),
    Kind("reading_letters", reading_letters),
    Kind("two_entities", two_entities, weight=4),
    Kind("not_in_text", not_in_text),
    Kind("handbook", handbook, weight=5),
    Kind("ward_person", ward_person),
    Kind("ward_note", ward_note),
    Kind("list_names", list_names),
    Kind("list_terms", list_terms, weight=3),
)
