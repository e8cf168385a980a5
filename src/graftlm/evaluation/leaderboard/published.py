"""How public leaderboards make one number of many: for results that come as bare task scores.

Open LLM Leaderboard v1: mean of six raw scores. v2: mean of six scores normalised so that guessing gives 0 and
perfection 100 (huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization). LLaMA 2's groups: plain means
(arXiv 2307.09288, section 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One task of a member.

    Attributes:
        names: the tasks it goes by, each with its metric; the first that is there counts.
        size: its items, for pooling.
        chance: the score of guessing, 1 / options.
    """

    names: tuple[tuple[str, str], ...]
    size: int = 1
    chance: float = 0.0


@dataclass(frozen=True)
class Member:
    """A benchmark of a suite.

    Attributes:
        shots: what the suite prescribes.
        pooled: raw scores are averaged by size first, then normalised; otherwise each part is normalised, then the
            plain mean is taken.
        correlated: the parts are scores of the same items, so their errors add up fully.
    """

    name: str
    parts: tuple[Part, ...]
    shots: int | None = None
    pooled: bool = False
    correlated: bool = False


@dataclass(frozen=True)
class Suite:
    """The plain mean of its members.

    Attributes:
        least: members that must be there before results are taken for this suite.
    """

    name: str
    how: str
    members: tuple[Member, ...]
    least: int


def one(name: str, *names: tuple[str, str], shots: int | None, chance: float = 0.0) -> Member:
    """A member of one task, under any of its names."""
    return Member(name, (Part(names, chance=chance),), shots)


MMLU_SUBJECTS = (
    "abstract_algebra", "anatomy", "astronomy", "business_ethics", "clinical_knowledge", "college_biology",
    "college_chemistry", "college_computer_science", "college_mathematics", "college_medicine", "college_physics",
    "computer_security", "conceptual_physics", "econometrics", "electrical_engineering", "elementary_mathematics",
    "formal_logic", "global_facts", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
    "high_school_european_history", "high_school_geography", "high_school_government_and_politics",
    "high_school_macroeconomics", "high_school_mathematics", "high_school_microeconomics", "high_school_physics",
    "high_school_psychology", "high_school_statistics", "high_school_us_history", "high_school_world_history",
    "human_aging", "human_sexuality", "international_law", "jurisprudence", "logical_fallacies", "machine_learning",
    "management", "marketing", "medical_genetics", "miscellaneous", "moral_disputes", "moral_scenarios", "nutrition",
    "philosophy", "prehistory", "professional_accounting", "professional_law", "professional_medicine",
    "professional_psychology", "public_relations", "security_studies", "sociology", "us_foreign_policy", "virology",
    "world_religions",
)  # fmt: skip
BBH_OPTIONS = {
    "boolean_expressions": 2, "causal_judgement": 2, "date_understanding": 6, "disambiguation_qa": 3,
    "formal_fallacies": 2, "geometric_shapes": 11, "hyperbaton": 2, "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7, "logical_deduction_three_objects": 3, "movie_recommendation": 6,
    "navigate": 2, "object_counting": 19, "penguins_in_a_table": 5, "reasoning_about_colored_objects": 18,
    "ruin_names": 6, "salient_translation_error_detection": 6, "snarks": 2, "sports_understanding": 2,
    "temporal_sequences": 4, "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7, "tracking_shuffled_objects_three_objects": 3, "web_of_lies": 2,
}  # fmt: skip
MUSR_OPTIONS = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
GPQA_SIZES = {"diamond": 198, "extended": 546, "main": 448}
MATH_SIZES = {
    "algebra": 307, "counting_and_prob": 123, "geometry": 132, "intermediate_algebra": 280, "num_theory": 154,
    "prealgebra": 193, "precalculus": 135,
}  # fmt: skip


def _v2(task: str, metric: str, *, size: int = 1, options: int = 0) -> Part:
    return Part(((f"leaderboard_{task}", metric),), size, 1 / options if options else 0.0)


MEAN = "mean of its members"
OPEN_LLM_V1 = Suite(
    "open-llm-v1",
    MEAN,
    (
        one("arc_challenge", ("arc_challenge", "acc_norm"), ("arc:challenge", "acc_norm"), shots=25),
        one("hellaswag", ("hellaswag", "acc_norm"), shots=10),
        Member("mmlu", tuple(Part(((f"mmlu_{s}", "acc"), (f"hendrycksTest-{s}", "acc"))) for s in MMLU_SUBJECTS), 5),
        one("truthfulqa_mc", ("truthfulqa_mc2", "acc"), ("truthfulqa_mc", "mc2"), ("truthfulqa:mc", "mc2"), shots=0),
        one("winogrande", ("winogrande", "acc"), shots=5),
        one("gsm8k", ("gsm8k", "exact_match"), ("gsm8k", "acc"), shots=5),
    ),
    least=2,
)
OPEN_LLM_V2 = Suite(
    "open-llm-v2",
    "mean of six normalised scores",
    (
        Member(
            "IFEval", (_v2("ifeval", "prompt_level_strict_acc"), _v2("ifeval", "inst_level_strict_acc")), 0,
            correlated=True,
        ),
        Member("BBH", tuple(_v2(f"bbh_{task}", "acc_norm", options=k) for task, k in BBH_OPTIONS.items()), 3),
        Member(
            "MATH Lvl 5",
            tuple(_v2(f"math_{task}_hard", "exact_match", size=n) for task, n in MATH_SIZES.items()), 4, pooled=True,
        ),
        Member(
            "GPQA",
            tuple(_v2(f"gpqa_{task}", "acc_norm", size=n, options=4) for task, n in GPQA_SIZES.items()), 0,
            pooled=True,
        ),
        Member("MuSR", tuple(_v2(f"musr_{task}", "acc_norm", options=k) for task, k in MUSR_OPTIONS.items()), 0),
        Member("MMLU-PRO", (_v2("mmlu_pro", "acc", options=10),), 5),
    ),
    least=1,
)  # fmt: skip
LLAMA2_GROUPS = {
    "code": (one("humaneval", ("humaneval", "pass@1"), shots=0), one("mbpp", ("mbpp", "pass_at_1"), shots=3)),
    "commonsense": (
        one("piqa", ("piqa", "acc"), shots=0),
        one("siqa", ("social_iqa", "acc"), shots=0),
        one("hellaswag", ("hellaswag", "acc_norm"), shots=0),
        one("winogrande", ("winogrande", "acc"), shots=0),
        one("arc_easy", ("arc_easy", "acc"), shots=0),
        one("arc_challenge", ("arc_challenge", "acc_norm"), shots=0),
        one("openbookqa", ("openbookqa", "acc_norm"), shots=0),
        one("commonsense_qa", ("commonsense_qa", "acc"), shots=7),
    ),
    "world": (
        one("nq_open", ("nq_open", "exact_match"), shots=5),
        one("triviaqa", ("triviaqa", "exact_match"), shots=5),
    ),
    "reading": (
        one("squad", ("squadv2", "exact"), shots=0),
        one("quac", ("quac", "f1"), shots=0),
        one("boolq", ("boolq", "acc"), shots=0),
    ),
    "math": (one("gsm8k", ("gsm8k", "exact_match"), shots=8), one("math", ("math", "exact_match"), shots=4)),
}
SUITES = (
    OPEN_LLM_V1,
    OPEN_LLM_V2,
    *(Suite(f"llama2-{name}", MEAN, members, len(members)) for name, members in LLAMA2_GROUPS.items()),
)
