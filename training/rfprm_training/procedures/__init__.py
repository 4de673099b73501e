"""Problems other than sums, with traces whose first wrong step is known: following who holds what,
evaluating expressions, sorting words, closing brackets, telling liars from the truthful.

A problem is a machine: a state, a step that moves it on, a slip that moves it on wrongly. What
comes after a slip is right by the wrong state, as in the traces of a model. Pure and seeded.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from rfprm_training.example import Example
from rfprm_training.procedures.machine import Problem, examples_of
from rfprm_training.procedures.people import liars, tracking
from rfprm_training.procedures.signs import brackets, expression
from rfprm_training.procedures.words import sorting

PROCEDURES: dict[str, Callable[[random.Random], Problem]] = {
    "tracking": tracking,
    "expression": expression,
    "sorting": sorting,
    "brackets": brackets,
    "liars": liars,
}


def procedure_examples(kind: str, group: str, rng: random.Random, *, errors: int) -> list[Example]:
    """A right trace and up to ``errors`` wrong ones to one problem of ``kind``, drawn."""
    return examples_of(PROCEDURES[kind](rng), kind, group, rng, errors=errors)
