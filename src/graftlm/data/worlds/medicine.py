
"""Ordinary medical words in both languages and what may be asked of a disease or a drug.

Words only: no fact about an entity lives here. The general world uses them on fresh names, in context, so
that a model knows the words before it meets the clinic.
"""

from __future__ import annotations

from random import Random

from graftlm.data.worlds.names import Pair, pairs
from graftlm.data.worlds.phrasing import Relation, relation

DEPARTMENTS = pairs(
    "cardiology 心脏科, neurology 神经科, dermatology 皮肤科, eye clinic 眼科, dental clinic 牙科, "
    "bone clinic 骨科, surgery 外科, pediatrics 儿科"
)
SYMPTOMS = pairs(
    "high fever 发热, dry cough 干咳, headache 头痛, red rash 红疹, dizziness 头晕, nausea 恶心, vomiting 呕吐, "
    "chest pain 胸痛, stomach pain 肚子痛, back pain 背痛, sore throat 嗓子痛, weakness 无力, night sweats 夜间出汗, "
    "chills 发冷, weight loss 体重下降, hair loss 脱发, blurred vision 看不清, ear pain 耳痛, joint pain 关节痛, "
    "poor sleep 失眠"
)
CONDITIONS = pairs(
    "pregnancy 怀孕, asthma 哮喘, diabetes 糖尿病, kidney disease 肾病, liver disease 肝病, gout 痛风, "
    "anemia 贫血, stroke 中风, high blood pressure 高血压, stomach ulcer 胃病, glaucoma 青光眼, nursing 哺乳"
)
SUBSTANCES = pairs(
    "alcohol 酒, milk 牛奶, coffee 咖啡, green tea 绿茶, grapefruit 柚子, iron pills 铁片, salt 盐, garlic 大蒜, "
    "ginger 生姜, orange juice 橙汁, honey 蜂蜜, vitamin C 维生素C"
)
AMOUNTS = (5, 10, 15, 20, 25, 30, 40, 50, 60, 80)
FREQUENCIES = pairs(
    "once a day 每日一次, twice a day 每日两次, three times a day 每日三次, every night 每晚一次"
)
WORDS = DEPARTMENTS + SYMPTOMS + CONDITIONS + SUBSTANCES

DEPARTMENT = relation(
    "department", "department", "科室",
    en="Which department treats {x}? | Where should a patient with {x} go? | Who treats {x}? "
    "| A patient has {x}. Which department? "
    "/ {v} treats {x}. | Patients with {x} go to {v}. | {x} belongs to {v}. | Send {x} to {v}. "
    "| {x} is treated in {v}.",
    zh="{x}看哪个科？ | 得了{x}去哪个科室？ | 哪个科室治{x}？ | 病人有{x}，去哪个科？ "
    "/ {x}看{v}。 | 得了{x}去{v}。 | {v}治{x}。 | {x}的病人请到{v}。 | {x}由{v}治。",
)  # fmt: skip
MAIN_SYMPTOM = relation(
    "main symptom", "main symptom", "主要症状",
    en="How does {x} mainly show? | What do patients with {x} mainly feel? | Which sign is typical of {x}? "
    "| What is the first sign of {x}? "
    "/ {x} mainly shows as {v}. | Patients with {x} mainly have {v}. | {v} is typical of {x}. "
    "| The first sign of {x} is {v}.",
    zh="{x}主要有什么表现？ | 得了{x}主要会怎样？ | 什么表现最像{x}？ | {x}先有什么表现？ "
    "/ {x}主要表现为{v}。 | 得了{x}主要会{v}。 | {v}最像{x}。 | {x}的病人先有{v}。",
)  # fmt: skip
SECOND_SYMPTOM = relation(
    "second symptom", "second symptom", "次要症状",
    en="What else do patients with {x} have? | Which sign comes later in {x}? "
    "| What comes next after the main symptom of {x}? | What other symptom does {x} bring? "
    "/ Later, {x} brings {v}. | {x} also shows as {v}. | Patients with {x} also have {v}. "
    "| {v} comes later in {x}.",
    zh="得了{x}还会怎样？ | {x}后来有什么表现？ | {x}还有什么表现？ | {x}的病人还有什么？ "
    "/ {x}后来会{v}。 | {x}还表现为{v}。 | {x}的病人还有{v}。 | {v}在{x}中后来出现。",
)  # fmt: skip
FIRST_DRUG = relation(
    "first-choice drug", "first-choice drug", "首选药",
    en="Which drug is the first choice for {x}? | What should a patient with {x} take? "
    "| Which drug is used first for {x}? | What do doctors give for {x}? "
    "/ {v} is the first choice for {x}. | Doctors treat {x} with {v}. | A patient with {x} should take {v}. "
    "| {x} is treated first with {v}. | {v} is used first for {x}.",
    zh="{x}先用什么药？ | 得了{x}吃什么药？ | 治{x}用什么药？ | 医生给{x}病人用什么药？ "
    "/ {v}是{x}的首选药。 | 得了{x}吃{v}。 | 治{x}先用{v}。 | 医生用{v}治{x}。 | {x}首选{v}。",
)  # fmt: skip
DOSE = relation(
    "dose", "dose", "用量",
    en="How much {x} should be taken? | How is {x} taken? | How much {x} does a patient need? "
    "| What amount of {x} is right? "
    "/ Take {v} of {x}. | {x} is taken at {v}. | Patients take {x}: {v}. | {v} is the right amount of {x}.",
    zh="{x}怎么吃？ | {x}要吃多少？ | 病人要吃多少{x}？ | {x}每日吃多少？ "
    "/ {x}{v}。 | 吃{x}，{v}。 | 病人吃{x}：{v}。 | {v}，这样吃{x}。",
)  # fmt: skip
CONTRAINDICATION = relation(
    "contra-indication", "contra-indication", "禁忌",
    en="Who must not take {x}? | When must {x} not be used? | In which condition is {x} forbidden? "
    "| Which condition makes {x} unsafe? "
    "/ {x} must not be used in {v}. | {v} forbids {x}. | {x} is not safe in {v}. | Never give {x} in {v}.",
    zh="什么人不能用{x}？ | 什么时候不能用{x}？ | 哪种情况不能吃{x}？ | 有什么情况不可用{x}？ "
    "/ {v}时不能用{x}。 | {v}不可用{x}。 | 有{v}，不能吃{x}。 | {x}不能给{v}的人用。",
)  # fmt: skip
INTERACTION = relation(
    "interaction", "interaction", "相互作用",
    en="What must not be taken with {x}? | What does {x} not go well with? | What should be avoided with {x}? "
    "| Which thing is bad together with {x}? "
    "/ Do not take {x} with {v}. | {x} does not go well with {v}. | Avoid {v} with {x}. "
    "| {v} is bad together with {x}.",
    zh="{x}不能和什么一起吃？ | 吃{x}时不要吃什么？ | 什么东西和{x}不合？ | 用{x}时要避开什么？ "
    "/ {x}不能和{v}一起吃。 | 吃{x}时不要吃{v}。 | {v}和{x}不合。 | 用{x}时要避开{v}。",
)  # fmt: skip
DISEASE_RELATIONS: tuple[Relation, ...] = (DEPARTMENT, MAIN_SYMPTOM, SECOND_SYMPTOM, FIRST_DRUG)
DRUG_RELATIONS: tuple[Relation, ...] = (DOSE, CONTRAINDICATION, INTERACTION)


def dose(amount: int, frequency: Pair) -> Pair:
    """("15 mg twice a day", "每日两次每次15毫克")."""
    return f"{amount} mg {frequency[0]}", f"{frequency[1]}每次{amount}毫克"


DOSES = tuple(dose(amount, frequency) for amount in AMOUNTS for frequency in FREQUENCIES)


def random_value(rng: Random, rel: Relation) -> Pair:
    """A plausible value for any relation but the first-choice drug."""
    return rng.choice(POOLS[rel.name])


POOLS: dict[str, tuple[Pair, ...]] = {
    "department": DEPARTMENTS,
    "main symptom": SYMPTOMS,
    "second symptom": SYMPTOMS,
    "dose": DOSES,
    "contra-indication": CONDITIONS,
    "interaction": SUBSTANCES,
}
