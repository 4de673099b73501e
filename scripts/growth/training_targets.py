"""What is measured of the training package."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel

from rfprm_training import arithmetic, gsm8k, rewarded
from rfprm_training.construction import corruption, flaws, wording
from rfprm_training.construction.sampling import next_steps
from rfprm_training.curation.config import FilterConfig
from rfprm_training.curation.contamination import EvaluationQuestions
from rfprm_training.curation.duplicates import NearDuplicates
from rfprm_training.curation.filters import reason_to_drop, repeated_share
from rfprm_training.evaluation import published_formats
from rfprm_training.gsm8k import GoldSolution
from rfprm_training.labelling import pairing
from rfprm_training.labelling.expert import client, judge
from rfprm_training.labelling.verifier import find_equations, grade_next_step, grade_steps
from rfprm_training.learning import dataset
from scripts.growth.targets import clean, measure, measure_all, pieces, trajectory

# Arithmetic and the verifier.
measure_all(arithmetic, "evaluate", "misreadings")


def _number(text: str) -> Fraction:
    return Fraction("".join(filter(str.isdecimal, text))[:4000] or "1")


measure("near_misses", arithmetic.near_misses, _number)
measure("find_equations", find_equations)
measure("find_equations(in lines)", lambda p: [find_equations(line) for line in p], pieces)


def _grade(steps: list[str], outcome: bool | None) -> object:
    return grade_steps(" ".join(steps), steps, references=[steps[::-1]], outcome=outcome)


def _grade_next(steps: list[str]) -> object:
    return grade_next_step("q", steps[-1], before=steps[:-1], references=[steps])


def _ways(text: str) -> tuple[str, list[str], list[str]]:
    """Every value of a step may be on the way to one of the reference."""
    count = len(text) // 20
    steps = [f"x = {3 * i + 1}" for i in range(count)]
    reference = [f"x = {3 * i}" for i in range(count)]
    return " ".join(str(6 * i + 1) for i in range(count)), steps, reference


for _outcome in (None, False, True):
    measure(f"grade_steps({_outcome})", partial(_grade, outcome=_outcome), pieces)
measure(
    "grade_steps(other ways)",
    lambda given: grade_steps(given[0], given[1], references=[given[2]], outcome=False),
    _ways,
)
measure("grade_next_step", _grade_next, pieces)

# Curation.
_FILTERS = FilterConfig(languages=None, require_answer=True, max_repeated_share=0.5)
measure("repeated_share", repeated_share)
measure("reason_to_drop", lambda x: reason_to_drop(x, _FILTERS), trajectory)
measure(
    "EvaluationQuestions.contains(question)",
    lambda t: EvaluationQuestions([t], max_shared=0.5).contains(t + " b"),
)
measure(
    "EvaluationQuestions.contains(pieces)",
    lambda p: EvaluationQuestions(p, max_shared=0.5).contains(" ".join(p)),
    pieces,
)


def _add_twice(text: str) -> object:
    with NearDuplicates(0.8) as found:
        return found.add(text, "a"), found.add(text + " b", "b")


measure("NearDuplicates.add", _add_twice, clean)


# What experts answer.
class _AnyForm(BaseModel):
    pass


measure("parse_form", lambda t: client.parse_form(t, _AnyForm))
measure("numbered", judge.numbered, lambda t: tuple(pieces(t)))
measure_all(rewarded, "question_key")
measure("merge_paired", lambda p: pairing.merge_paired(p, [0] * len(p)), pieces)


def _vectors(text: str) -> Any:
    return np.random.default_rng(0).normal(size=(len(pieces(text)), 4))


measure("pair_steps", lambda v: pairing.pair_steps(v, v[: max(1, len(v) // 3)]), _vectors)

# Gold solutions, and what is made of them.
measure_all(gsm8k, "split_solution", "strip_notes")


def _solutions(text: str) -> Iterator[tuple[str, GoldSolution]]:
    parts = pieces(text)
    yield "plain", GoldSolution(text, tuple(parts), "2")
    noted = tuple(f"{part} 1 + 1 = <<1+1=2>>2 {part}" for part in parts)
    yield "noted", GoldSolution(text, noted, "2")
    yield "one note", GoldSolution(text, (f"{text} = <<{text}=2>>2", "so <<2+1=3>>3"), "3")
    yield "prose", GoldSolution("q 1 2", (f"{text} 1 + 1 = <<1+1=2>>2 {text}",) * 2, "2")


def _solution(name: str) -> Callable[[str], GoldSolution]:
    return lambda text: dict(_solutions(text))[name]


def _corrupt(solution: GoldSolution, kind: str) -> object:
    return corruption.corrupt(solution, random.Random(0), {kind: 1.0})


def _flaw(solution: GoldSolution, kind: str) -> object:
    return flaws.FLAWS[kind](solution, solution, random.Random(0))


for _name, _ in _solutions("a"):
    for _kind in corruption.CORRUPTIONS:
        measure(f"corrupt({_kind}, {_name})", partial(_corrupt, kind=_kind), _solution(_name))
    for _kind in flaws.FLAWS:
        measure(f"flaws({_kind}, {_name})", partial(_flaw, kind=_kind), _solution(_name))
    measure(
        f"reordered({_name})",
        lambda solution: wording.reordered(solution, random.Random(0)),
        _solution(_name),
    )
    measure(f"has_slip({_name})", dataset.has_slip, _solution(_name))


def _labelled(steps: list[str]) -> wording.LabelledSteps:
    return wording.LabelledSteps(tuple(steps), (1.0,) * len(steps))


def _reword(trace: wording.LabelledSteps, how: Any) -> object:
    return how(trace, random.Random(0))


for _how in (*wording.WORDINGS.values(), wording.thinking):
    _call = partial(_reword, how=_how)
    measure(f"wording.{_how.__name__}(pieces)", _call, lambda t: _labelled(pieces(t)))
    measure(f"wording.{_how.__name__}(whole)", _call, lambda t: _labelled([t]))


def _sampled(text: str) -> tuple[next_steps.NextSteps, GoldSolution]:
    parts = tuple(pieces(clean(text)))
    return next_steps.NextSteps("q", parts[:1], parts[1:]), GoldSolution("q", parts, "2")


measure("graded_examples", lambda given: list(next_steps.graded_examples(*given, "g")), _sampled)

# Evaluation sets.
measure(
    "processbench",
    lambda p: published_formats.processbench({"problem": "q", "steps": p, "label": len(p) - 1}),
    pieces,
)


def _pair_of_processes(parts: list[str]) -> dict[str, Any]:
    both = {f"{name}_process": parts for name in ("original", "modified")}
    questions = {f"{name}_question": parts[0] for name in ("original", "modified")}
    return {**both, **questions, "error_steps": list(range(1, len(parts) + 1))}


measure("prmbench", lambda p: published_formats.prmbench(_pair_of_processes(p)), pieces)
