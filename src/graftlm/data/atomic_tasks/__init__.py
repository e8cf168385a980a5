"""Instruction tasks made of gold annotations, as EcomGPT's EcomInstruct makes them (arXiv 2308.06966).

One annotated row gives many tasks: of a text with named entities the finding of its spans, the typing of spans, the
values of one type, the whole extraction …; of a class its coarse and its fine half; of a pair the choice of the partner
among others. The answers follow from the annotation, nobody writes them.
"""

from graftlm.data.atomic_tasks.building import Built, build_tasks, chain_of
from graftlm.data.atomic_tasks.plan import TaskPlan
from graftlm.data.atomic_tasks.task import AtomicTask
from graftlm.data.atomic_tasks.wordings import KINDS

__all__ = ["KINDS", "AtomicTask", "Built", "TaskPlan", "build_tasks", "chain_of"]
