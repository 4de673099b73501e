from __future__ import annotations

import math
import random
import re
from fractions import Fraction

import pytest

from rfprm_training.arithmetic import evaluate, format_number
from rfprm_training.construction.procedures import PROCEDURES, procedure_examples
from rfprm_training.example import Example
from rfprm_training.labelling.verifier import find_equations


def examples_of(kind: str, seed: int, cut_errors: int = 0) -> list[Example]:
    return procedure_examples(kind, "g", random.Random(seed), errors=3, cut_errors=cut_errors)


@pytest.mark.parametrize("kind", PROCEDURES)
def test_a_wrong_trace_differs_from_the_right_one_from_its_first_error_on(kind: str) -> None:
    num_wrong = 0
    for seed in range(60):
        right, *wrong = examples_of(kind, seed)
        assert (right.kind, set(right.step_labels), right.trajectory_label) == ("gold", {1.0}, 1.0)
        for example in wrong:
            num_wrong += 1
            place = example.first_error
            assert place is not None
            steps = example.trajectory.steps
            assert steps[:place] == right.trajectory.steps[:place]
            assert steps[place] != right.trajectory.steps[place]
            assert example.trajectory.question == right.trajectory.question
    assert num_wrong > 60


@pytest.mark.parametrize("kind", PROCEDURES)
def test_only_a_different_answer_makes_a_trajectory_wrong(kind: str) -> None:
    for seed in range(60):
        right, *wrong = examples_of(kind, seed)
        for example in wrong:
            same = example.trajectory.steps[-1] == right.trajectory.steps[-1]
            assert math.isnan(example.trajectory_label) == same
            assert example.step_labels[-1] != 1.0


@pytest.mark.parametrize("kind", PROCEDURES)
def test_the_same_seed_gives_the_same_problem(kind: str) -> None:
    assert repr(examples_of(kind, 7)) == repr(examples_of(kind, 7))


def test_expressions_have_the_value_that_the_answer_states() -> None:
    for seed in range(50):
        right = examples_of("expression", seed)[0].trajectory
        value = evaluate(right.question.rstrip("= "))
        assert right.steps[-1] == f"So the answer is {value}."


def test_words_end_in_alphabetical_order() -> None:
    for seed in range(50):
        right = examples_of("sorting", seed)[0].trajectory
        words = right.question.split(": ")[1].split()
        assert right.steps[-1].endswith(f"The answer is {' '.join(sorted(words))}.")


def test_the_answer_closes_every_bracket() -> None:
    closing = dict(zip("([{<", ")]}>", strict=True))
    for seed in range(50):
        right = examples_of("brackets", seed)[0].trajectory
        stack: list[str] = []
        answer = right.steps[-1].split("answer is ")[1].rstrip(".").split()
        for sign in (*right.question.split("Input: ")[1].split(), *answer):
            if sign in closing:
                stack.append(closing[sign])
            else:
                assert stack.pop() == sign
        assert not stack


def test_the_answer_follows_from_the_swaps() -> None:
    for seed in range(50):
        right = examples_of("tracking", seed)[0].trajectory
        story, options = right.question.split("\nOptions: ")
        holds = dict(re.findall(r"(\w+) has the (\w+) ", story))
        for one, other in re.findall(r"(\w+) and (\w+) swap", story):
            holds[one], holds[other] = holds[other], holds[one]
        asked = re.search(r"does (\w+) have", story)
        assert asked is not None
        letter = re.search(rf"\((\w)\) {holds[asked.group(1)]} ", options)
        assert letter is not None
        assert right.steps[-1].endswith(f"So the answer is ({letter.group(1)}).")


def test_liars_are_told_apart() -> None:
    for seed in range(50):
        right = examples_of("liars", seed)[0].trajectory
        first, *claims, _ = re.split(r"(?<=[.?]) ", right.question)
        truthful = first.endswith("tells the truth.")
        for claim in claims:
            truthful = truthful == claim.endswith("tells the truth.")
        assert right.steps[-1].endswith(f"So the answer is {'yes' if truthful else 'no'}.")


@pytest.mark.parametrize("kind", PROCEDURES)
def test_a_cut_error_ends_with_a_wrong_step_that_no_other_trace_has(kind: str) -> None:
    num_cut = 0
    for seed in range(60):
        whole = examples_of(kind, seed)
        both = examples_of(kind, seed, cut_errors=5)
        assert [e.trajectory for e in both[: len(whole)]] == [e.trajectory for e in whole]
        beginnings = {
            e.trajectory.steps[
                : (len(e.step_labels) if e.first_error is None else e.first_error + 1)
            ]
            for e in whole
        }
        for cut in both[len(whole) :]:
            num_cut += 1
            steps = cut.trajectory.steps
            assert cut.step_labels == (1.0,) * (len(steps) - 1) + (0.0,)
            assert math.isnan(cut.trajectory_label)
            assert steps[:-1] == whole[0].trajectory.steps[: len(steps) - 1]
            assert steps not in beginnings
            beginnings.add(steps)
    assert num_cut > 30


def test_a_chain_of_sums_ends_in_the_right_number() -> None:
    operations = {
        r"Add (\S+)\.|Increase it by (\S+)\.|Put (\S+) more to it\.": lambda x, n: x + n,
        r"Subtract (\S+)\.|Take away (\S+)\.|Decrease it by (\S+)\.": lambda x, n: x - n,
        r"Multiply by (\S+)\.|Take it (\S+) times\.": lambda x, n: x * n,
        r"Divide by (\S+)\.|Share it among (\S+)\.|Split it into (\S+) equal parts\.": (
            lambda x, n: x / n
        ),
        r"Take (\S+)% of it\.|Keep (\S+) percent\.": lambda x, n: x * n / 100,
    }
    for seed in range(50):
        right = examples_of("sums", seed)[0].trajectory
        start, *asked = right.question.removesuffix(" What is the result?").split(". ")
        value = Fraction(start.removeprefix("Start with "))
        for sentence in asked:
            for pattern, operation in operations.items():
                if found := re.fullmatch(pattern, sentence.rstrip(".") + "."):
                    value = operation(value, Fraction(next(filter(None, found.groups()))))
        assert right.steps[-1] == f"The answer is {format_number(value)}."


def test_in_a_chain_of_sums_right_steps_hold_and_slips_show() -> None:
    for seed in range(50):
        right, *wrong = examples_of("sums", seed, cut_errors=5)
        assert all(
            equation.holds
            for step in right.trajectory.steps
            for equation in find_equations(step.replace("$", ""))
        )
        for example in wrong:
            place = example.first_error
            assert place is not None
            assert example.trajectory.steps[place] != right.trajectory.steps[place]
