"""The same trace in other words, as another writer or a thinking model would put it.

Right and wrong traces are treated alike, so that wording says nothing about quality. Labels move
with their steps. Pure and seeded.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rfprm_runtime.answers.spelled_numbers import NUMBER, to_fraction
from rfprm_training.construction.propagation import NOTE
from rfprm_training.gsm8k import GoldSolution, strip_notes

_SIGN = re.compile(r"(?<=[\d)%]) ?([*x×/÷]) ?(?=[\d($.])")
_SUM = re.compile(
    r"(?<![\d.$(*/+-])(?<![-+*/x×÷=] )"  # not the end of a longer computation
    # Bounded, because every digit may begin one.
    r"\$?\d[\d,.]{0,30}(?: ?[-+*/x×÷] ?\$?\d[\d,.]{0,30}){1,20} ?= ?\$?\d[\d,]*(?:\.\d+)?"
    r"(?!\d|[.,]\d| ?[-+*/x×÷(])"  # nor the beginning of one
)
_CONNECTORS = ("So", "Then", "Next", "Now", "After that", "Therefore")


CONCLUSIONS = (
    "The answer is {}.",
    "So the answer is {}.",
    "Therefore, the final answer is \\(\\boxed{{{}}}\\).",
    "Therefore, the answer is $\\boxed{{{}}}$.",
    "So, the final answer is **{}**.",
)
"""How a last step states the answer."""


@dataclass(frozen=True)
class LabelledSteps:
    """Steps with their labels: 1 right, 0 wrong, NaN unknown."""

    steps: tuple[str, ...]
    labels: tuple[float, ...]


Wording = Callable[[LabelledSteps, random.Random], LabelledSteps]


def plain(trace: LabelledSteps, rng: random.Random) -> LabelledSteps:
    """The trace as written."""
    return trace


def connected(trace: LabelledSteps, rng: random.Random) -> LabelledSteps:
    """Steps that begin with First, Then, So, Finally."""
    last = len(trace.steps) - 1
    out = []
    for index, step in enumerate(trace.steps):
        word = "First" if index == 0 else rng.choice(_CONNECTORS)
        word = "Finally" if index == last and index else word
        out.append(f"{word}, {_lower_first(step)}")
    return LabelledSteps(tuple(out), trace.labels)


def numbered(trace: LabelledSteps, rng: random.Random) -> LabelledSteps:
    """Steps that begin with their number."""
    form = rng.choice(("Step {}: ", "{}. ", "**Step {}:** ", "{}) "))
    steps = tuple(form.format(i) + step for i, step in enumerate(trace.steps, start=1))
    return LabelledSteps(steps, trace.labels)


def latex(trace: LabelledSteps, rng: random.Random) -> LabelledSteps:
    r"""Computations in LaTeX: ``\( 48 \div 2 = 24 \)``."""
    opening, closing = rng.choice((("\\(", "\\)"), ("$", "$"), ("\\[ ", " \\]")))

    def set_as_mathematics(match: re.Match[str]) -> str:
        text = match.group().replace("$", "\\$")
        text = re.sub(r" ?[*x×] ?", r" \\times ", text)
        text = re.sub(r" ?[/÷] ?", r" \\div ", text)
        return opening + re.sub(r" ?([-+=]) ?", r" \1 ", text) + closing

    return LabelledSteps(
        tuple(_SUM.sub(set_as_mathematics, step) for step in trace.steps), trace.labels
    )


def other_signs(trace: LabelledSteps, rng: random.Random) -> LabelledSteps:
    """Other signs for times and divided by, with or without spaces."""
    times, divided = rng.choice(
        ((" x ", " / "), (" × ", " ÷ "), ("*", "/"), (" times ", " divided by "))
    )

    def sign(match: re.Match[str]) -> str:
        return divided if match.group(1) in "/÷" else times

    return LabelledSteps(tuple(_SIGN.sub(sign, step) for step in trace.steps), trace.labels)


def bare(trace: LabelledSteps, rng: random.Random) -> LabelledSteps:
    """Steps reduced to their computations, if they have any."""
    steps = []
    for step in trace.steps:
        sums = _SUM.findall(step)
        steps.append("; ".join(sums) if sums else step)
    return LabelledSteps(tuple(steps), trace.labels)


WORDINGS: dict[str, Wording] = {
    "plain": plain,
    "connected": connected,
    "numbered": numbered,
    "latex": latex,
    "other_signs": other_signs,
    "bare": bare,
}


def reordered(solution: GoldSolution, rng: random.Random) -> GoldSolution | None:
    """A right solution with two neighbouring steps swapped, of which neither needs the other's
    result; None if there are none. The last step stays last."""
    places = list(range(len(solution.steps) - 2))
    rng.shuffle(places)
    for place in places:
        first, second = solution.steps[place], solution.steps[place + 1]
        if _is_independent(first, second):
            steps = (*solution.steps[:place], second, first, *solution.steps[place + 2 :])
            return GoldSolution(solution.question, steps, solution.answer)
    return None


def _is_independent(first: str, second: str) -> bool:
    results = {to_fraction(note.group(2)) for note in NOTE.finditer(first)}
    used = {to_fraction(match.group()) for match in NUMBER.finditer(strip_notes(second))}
    # A pronoun may refer to the step before.
    return (
        bool(results) and not results & used and not re.match(r"(It|This|That|So|Then)\b", second)
    )


_OPENINGS = (
    "Okay, let me think about this.",
    "Let me read the question again and see what it asks for.",
    "Alright, I need to work through this step by step.",
    "Hmm, let me see what is given here.",
    "First, let me understand what's going on.",
)
_THOUGHTS = ("So ", "Okay, ", "Now, ", "Hmm, ", "Let me see. ", "Then ", "Alright, ", "")
_DOUBTS = (
    "Wait, that's not right.",
    "Hold on, let me check that again.",
    "Hmm, wait. That can't be right.",
    "No, I made a mistake there.",
    "Actually, wait.",
)
_CHECKS = (
    "Let me double-check: {}. Yes, that's correct.",
    "Checking again, {}. Good.",
    "I think that's right: {}.",
)
_ENDINGS = ("That should be it.", "So that's what the question asks for.", "I'm done, I think.")


def thinking(
    trace: LabelledSteps,
    rng: random.Random,
    *,
    corrections: Sequence[tuple[int, str, float]] = (),
) -> LabelledSteps:
    """A trace as a thinking model would put it, with openings, doubts, checks and corrections.

    ``corrections`` (place, step, label) go before the step at ``place``, which then begins with a
    doubt: a wrong attempt that is corrected (label 0), or a right step that is abandoned for a
    wrong one (label 1). A check repeats a step's computation and has that step's label. Openings
    and endings cannot be wrong and have no label.
    """
    steps: list[str] = []
    labels: list[float] = []

    def add(step: str, label: float) -> None:
        steps.append(step)
        labels.append(label)

    if rng.random() < 0.6:
        add(rng.choice(_OPENINGS), math.nan)
    attempts = {place: (step, label) for place, step, label in corrections}
    for index, (step, label) in enumerate(zip(trace.steps, trace.labels, strict=True)):
        if index in attempts:
            attempt, attempt_label = attempts[index]
            add(rng.choice(_THOUGHTS) + attempt, attempt_label)
            add(f"{rng.choice(_DOUBTS)} {step}", label)
        else:
            add(rng.choice(_THOUGHTS) + step, label)
        sums = _SUM.findall(step)
        if sums and rng.random() < 0.2:
            add(rng.choice(_CHECKS).format(sums[-1]), label)
    if rng.random() < 0.3:
        add(rng.choice(_ENDINGS), math.nan)
    return LabelledSteps(tuple(steps), tuple(labels))


def _lower_first(text: str) -> str:
    """Lower-case the first word, unless it may be a name."""
    word = text.split(" ", 1)[0]
    common = {"The", "She", "He", "They", "There", "This", "That", "Each", "His", "Her", "It", "In"}
    return text[0].lower() + text[1:] if word in common else text
