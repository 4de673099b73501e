"""Made-up problems with traces whose first wrong step is known: chains of sums, tracking who holds
what, evaluating expressions, sorting words, closing brackets, telling liars apart.

A problem is a machine: a state, steps that change it, and slips that change it wrongly. After a
slip, the trace continues correctly from the wrong state, as a model's traces do. Pure and seeded.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from rfprm_training.construction.procedures.machine import Problem, examples_of
from rfprm_training.construction.procedures.people import liars, tracking
from rfprm_training.construction.procedures.signs import brackets, expression
from rfprm_training.construction.procedures.sums import sums
from rfprm_training.construction.procedures.words import sorting
from rfprm_training.example import Example

PROCEDURES: dict[str, Callable[[random.Random], Problem]] = {
    "tracking": tracking,
    "expression": expression,
    "sorting": sorting,
    "brackets": brackets,
    "liars": liars,
    "sums": sums,
}


def procedure_examples(
    kind: str, group: str, rng: random.Random, *, errors: int, cut_errors: int = 0
) -> list[Example]:
    """Traces for a random problem of ``kind``: a right one, up to ``errors`` wrong ones, and up to
    ``cut_errors`` more that end with their first wrong step."""
    problem = PROCEDURES[kind](rng)
    return examples_of(problem, kind, group, rng, errors=errors, cut_errors=cut_errors)
