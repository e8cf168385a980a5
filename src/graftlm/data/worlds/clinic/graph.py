"""The clinic's knowledge: invented diseases and drugs, and which of their facts are never taught."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from random import Random

from graftlm.core.errors import DataError
from graftlm.data.worlds.facts import Fact, split_facts
from graftlm.data.worlds.medicine import (
    CONTRAINDICATION,
    DEPARTMENT,
    DISEASE_RELATIONS,
    DOSE,
    DOSES,
    DRUG_RELATIONS,
    FIRST_DRUG,
    INTERACTION,
    MAIN_SYMPTOM,
    POOLS,
    SECOND_SYMPTOM,
    SYMPTOMS,
    random_value,
)
from graftlm.data.worlds.names import OPENERS, Pair, clinic_names
from graftlm.data.worlds.phrasing import Relation

_DRUG_INTERACTIONS = 0.25


@dataclass(frozen=True)
class Graph:
    """All facts, in three disjoint groups.

    Attributes:
        taught: stated in the documents and answered in the consultations.
        withheld: never stated; the consultations and preferences abstain on them.
        unseen: never stated nor asked in training; only the `unknown` test asks for them.
    """

    diseases: tuple[Pair, ...]
    drugs: tuple[Pair, ...]
    taught: tuple[Fact, ...]
    withheld: tuple[Fact, ...]
    unseen: tuple[Fact, ...]

    @cached_property
    def facts_of(self) -> dict[Pair, tuple[Fact, ...]]:
        """The taught facts of each entity."""
        grouped: dict[Pair, list[Fact]] = {name: [] for name in self.diseases + self.drugs}
        for fact in self.taught:
            grouped[fact.entity].append(fact)
        return {name: tuple(facts) for name, facts in grouped.items()}

    @cached_property
    def taught_by_key(self) -> dict[tuple[Pair, str], Fact]:
        return {(fact.entity, fact.relation.name): fact for fact in self.taught}

    def taught_fact(self, entity: Pair, relation: Relation) -> Fact | None:
        return self.taught_by_key.get((entity, relation.name))


@cache
def build(diseases: int, drugs: int) -> Graph:
    """The graph of the given size; the same on every call and machine.

    Raises:
        DataError: fewer than 4 of either (tests need four choices), or more than there are first syllables.
    """
    if min(diseases, drugs) < 4 or diseases + drugs > len(OPENERS):
        raise DataError(
            f"the clinic world cannot have {diseases} diseases and {drugs} drugs",
            fix=f"use at least 4 of each and at most {len(OPENERS)} together",
        )
    rng = Random(f"clinic:{diseases}:{drugs}")
    disease_names, drug_names = map(tuple, clinic_names(rng, diseases, drugs))
    facts = _disease_facts(rng, disease_names, drug_names) + _drug_facts(rng, drug_names)
    return Graph(disease_names, drug_names, *split_facts(rng, facts))


def _disease_facts(rng: Random, diseases: tuple[Pair, ...], drugs: tuple[Pair, ...]) -> list[Fact]:
    first_drugs = rng.sample(drugs, len(drugs))
    symptom_pairs = [(a, b) for a in SYMPTOMS for b in SYMPTOMS if a != b]
    facts: list[Fact] = []
    for at, (name, (main, second)) in enumerate(
        zip(diseases, rng.sample(symptom_pairs, len(diseases)), strict=True)
    ):
        chosen = {
            DEPARTMENT.name: random_value(rng, DEPARTMENT),
            MAIN_SYMPTOM.name: main,
            SECOND_SYMPTOM.name: second,
            FIRST_DRUG.name: first_drugs[at % len(drugs)],
        }
        facts += [Fact(name, rel, chosen[rel.name], POOLS.get(rel.name, drugs)) for rel in DISEASE_RELATIONS]
    return facts


def _drug_facts(rng: Random, drugs: tuple[Pair, ...]) -> list[Fact]:
    doses = rng.sample(DOSES, len(DOSES))
    facts: list[Fact] = []
    for at, name in enumerate(drugs):
        with_drug = rng.random() < _DRUG_INTERACTIONS
        rivals = tuple(drug for drug in drugs if drug != name) if with_drug else POOLS[INTERACTION.name]
        chosen = {
            DOSE.name: (doses[at % len(doses)], DOSES),
            CONTRAINDICATION.name: (random_value(rng, CONTRAINDICATION), POOLS[CONTRAINDICATION.name]),
            INTERACTION.name: (rng.choice(rivals), rivals),
        }
        facts += [Fact(name, rel, *chosen[rel.name]) for rel in DRUG_RELATIONS]
    return facts
