"""Ways to choose the traces that a student is trained on, from several of each question."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfprm_training.gsm8k import read_rows


@dataclass(frozen=True)
class Sample:
    """A sampled solution and what arms choose by."""

    question: str
    completion: str
    num_tokens: int
    outcome: bool | None
    reward: float
    right_throughout: bool | None = None
    """Whether every line is right; known of puzzles alone."""


Pool = Sequence[Sequence[Sample]]
"""The samples of each question."""
Choice = Callable[[Pool, random.Random], list[Sample]]


def _each(choice: Callable[[Sequence[Sample], random.Random], Sample | None]) -> Choice:
    """At most one trace of a question."""

    def choose(pool: Pool, rng: random.Random) -> list[Sample]:
        taken = (choice(samples, rng) for samples in pool)
        return [sample for sample in taken if sample is not None]

    return choose


def _the_best(by: Callable[[Sample], float]) -> Choice:
    return _each(lambda samples, rng: max(samples, key=by))


def _any_that(is_wanted: Callable[[Sample], bool | None]) -> Choice:
    def choose(samples: Sequence[Sample], rng: random.Random) -> Sample | None:
        wanted = [sample for sample in samples if is_wanted(sample)]
        return rng.choice(wanted) if wanted else None

    return _each(choose)


def _best_of_right(samples: Sequence[Sample], rng: random.Random) -> Sample | None:
    right = (sample for sample in samples if sample.outcome)
    return max(right, key=lambda sample: sample.reward, default=None)


def _best_of_all(pool: Pool, rng: random.Random) -> list[Sample]:
    everything = [sample for samples in pool for sample in samples]
    return sorted(everything, key=lambda sample: -sample.reward)[: len(pool)]


ARMS: dict[str, Choice] = {
    "random": _each(lambda samples, rng: rng.choice(samples)),
    "longest": _the_best(lambda sample: sample.num_tokens),
    "PRM": _the_best(lambda sample: sample.reward),
    "PRM of all": _best_of_all,
    "verified": _any_that(lambda sample: sample.outcome),
    "verified, PRM": _each(_best_of_right),
    "right throughout": _any_that(lambda sample: sample.right_throughout),
    "everything": lambda pool, rng: [sample for samples in pool for sample in samples],
}
"""Which samples a student is trained on."""


def read_pool(path: Path) -> list[list[Sample]]:
    """The samples of each question; those that were cut off or not scored are left out, as a
    selection in practice would. Raises :class:`SystemExit` for rows without scores, outcome or
    number of tokens."""
    found: dict[str, list[Sample]] = {}
    for row in read_rows(path):
        names = ("question", "completion", "num_tokens", "outcome", "reward")
        if missing := [name for name in names if name not in row]:
            raise SystemExit(
                f"{path} has rows without {', '.join(missing)}; give solutions as rfprm solve, "
                "experiments.sample_solutions or experiments.kept_solutions unpack write them, "
                "scored by rfprm score"
            )
        if row.get("finish_reason") == "length" or row["reward"] is None:
            continue
        given = {name: row[name] for name in names}
        sample = Sample(**given, right_throughout=row.get("right_throughout"))
        found.setdefault(sample.question, []).append(sample)
    return list(found.values())


def arms_of(pool: Pool) -> list[str]:
    """The arms that find a trace in ``pool``."""
    return [arm for arm, choice in ARMS.items() if choice(pool, random.Random(0))]


def choose(pool: Pool, arm: str, num_seen: int, seed: int) -> list[Sample]:
    """``num_seen`` traces for a student to see: those that the arm takes, repeated as needed.
    Raises :class:`SystemExit` if it takes none."""
    rng = random.Random(f"{arm} {seed}")
    taken = ARMS[arm](pool, rng)
    if not taken:
        raise SystemExit(f"the pool has no trace for the arm {arm!r}")
    seen: list[Sample] = []
    while len(seen) < num_seen:
        rng.shuffle(taken)
        seen += taken[: num_seen - len(seen)]
    return seen


def described(samples: Sequence[Sample]) -> dict[str, Any]:
    """What an arm has chosen; traces with the same text count once."""
    different = set(samples)
    found = {
        "traces": len(different),
        "right": float(np.mean([bool(s.outcome) for s in different])),
        "tokens": float(np.mean([s.num_tokens for s in different])),
    }
    throughout = [s.right_throughout for s in different if s.right_throughout is not None]
    return found | ({"chosen_right_throughout": float(np.mean(throughout))} if throughout else {})
