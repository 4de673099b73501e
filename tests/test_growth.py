"""No input takes more than about linear time: more text takes proportionally more operations.

``scripts/time_growth.py`` measures the time of every function on many more shapes of text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from growth import check_linear
from rfprm_runtime import RfprmError, Trajectory, merge_steps
from rfprm_runtime.answers.grouping import group_answers
from rfprm_runtime.answers.spelled_numbers import to_fraction
from rfprm_runtime.rewards.token_rewards import find_steps, token_offsets
from rfprm_runtime.search.tree import SearchTree
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Place, Record
from scripts.growth import runtime_targets, training_targets  # noqa: F401  (they fill the table)
from scripts.growth.targets import TARGETS

Prepare = Callable[[int], Callable[[], object]]


def _find_own_steps(unit: str) -> Prepare:
    def prepare(n: int) -> Callable[[], object]:
        text = f"<think>{unit * n}x</think>ok"
        trajectory = Trajectory.from_text("q", text)
        parts = [*trajectory.steps, *trajectory.response]
        return lambda: find_steps(text, parts)

    return prepare


def _find_other_steps(n: int) -> Callable[[], object]:
    text, step = "<think>" + "<answer> " * n, "<answer> " * (n // 2) + "x"

    def call() -> None:
        with pytest.raises(ValueError, match="is not at character 0"):
            find_steps(text, [step])

    return call


def _units(n: int) -> list[str]:
    return [f"1 {chr(97 + i % 26)}{'k' * (i // 26)}" for i in range(n)]


def _wide_tree(n: int) -> Callable[[], object]:
    tree = SearchTree("q")
    return lambda: [tree.add(tree.root, "a") for _ in range(n)]


def _generations(n: int) -> Callable[[], object]:
    turn = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    row = {"messages": turn * n, "generations": ["It is 2."] * n}
    record = Record.of_row(Place("f", "line", 1), row, Reading())
    return lambda: [one.trajectory for one in record.each()]


def test_every_function_that_the_script_measures_can_still_be_called() -> None:
    """What it measures refuses some texts, and nothing else goes wrong."""
    for name, target in TARGETS.items():
        with suppress(RfprmError, ValueError, ArithmeticError, LookupError):
            try:
                target("We add 2 and 3.\n\nThe answer is 5.")()
            except TypeError as error:
                pytest.fail(f"{name}: {error}")


@pytest.mark.parametrize(
    ("prepare", "size"),
    [
        pytest.param(_find_own_steps("<answer> "), 200, id="steps that spell tags"),
        pytest.param(_find_own_steps("<answer>"), 200, id="glued tags"),
        pytest.param(_find_own_steps("a <think> "), 200, id="tags that separate"),
        pytest.param(_find_other_steps, 200, id="steps of another text"),
        pytest.param(
            lambda n: lambda: group_answers([str(i) for i in range(n)]), 200, id="numbers"
        ),
        pytest.param(lambda n: lambda: group_answers([f"x{i}" for i in range(n)]), 200, id="words"),
        pytest.param(lambda n: lambda: group_answers(_units(n)), 150, id="units"),
        pytest.param(_wide_tree, 200, id="a tree of many beginnings"),
        pytest.param(_generations, 20, id="a row of many generations"),
    ],
)
def test_operations_grow_with_the_text(prepare: Prepare, size: int) -> None:
    check_linear(prepare, size)


@pytest.mark.parametrize("unit", ["<answer> ", "</answer><answer> ", "<answer>"])
def test_steps_full_of_tags_are_found(unit: str) -> None:
    """Trying every division into words and tags takes time exponential in their number."""
    text = f"<think>{unit * 60}x</think>ok"
    trajectory = Trajectory.from_text("q", text)
    spans = find_steps(text, [*trajectory.steps, *trajectory.response])
    assert [text[a:b] for a, b in spans] == [f"{unit * 60}x", "ok"]


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([0xFF] * 2_000, id="bytes that are no text"),
        pytest.param(list(b"\xef\xbf\xbd" * 700), id="replacement characters"),
        pytest.param([256] * 2_000 + [65], id="tokens without characters"),
        pytest.param([*b"a", *([0xE2, 0x86] * 1_000)], id="characters cut off"),
    ],
)
def test_each_token_is_decoded_with_a_bounded_context(ids: list[int]) -> None:
    lengths = []

    def decode(part: list[int]) -> str:
        lengths.append(len(part))
        return bytes(i for i in part if i < 256).decode("utf-8", "replace")

    text, offsets = token_offsets(ids, decode)
    assert len(offsets) == len(ids)
    assert offsets[-1][1] == len(text)
    assert max(lengths[1:]) <= 40  # the first call decodes them all


def test_characters_between_invalid_bytes_keep_their_places() -> None:
    data = b"\xff" * 20 + "→é".encode() + b"\xff" * 40 + "🙂 ok".encode()
    text, offsets = token_offsets(list(data), lambda ids: bytes(ids).decode("utf-8", "replace"))
    place = text.index("→")
    assert all(a <= place < b for a, b in offsets[20:23])
    assert offsets[23:25] == [(place + 1, place + 2)] * 2
    assert [text[a:b] for a, b in offsets[-3:]] == [" ", "o", "k"]


def test_few_pairs_are_compared_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfprm_runtime.ground.assignment.MAX_PAIRS", 2**16)
    asked: list[int] = []

    def similarity(step: str, part: str) -> float:
        asked.append(1)
        return float(step == part)

    steps = [str(i // 2) for i in range(1_000)]
    merged = merge_steps(steps, [str(i) for i in range(500)], similarity=similarity)
    assert merged == [f"{i}\n\n{i}" for i in range(500)]
    assert len(asked) <= 2**16


def test_the_band_finds_the_same_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [f"step {i // 3} of many" for i in range(600)]
    response = [f"step {i}" for i in range(200)]
    exact = merge_steps(steps, response)
    monkeypatch.setattr("rfprm_runtime.ground.assignment.MAX_PAIRS", 1)
    assert merge_steps(steps, response) == exact


def test_an_infinite_similarity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"similarity\(step 0, response step 0\) is nan"):
        merge_steps(["a", "b"], ["c"], similarity=lambda a, b: float("nan"))


@pytest.mark.parametrize(
    "text", ["1e999999999", "1e-999999999", "1E+9_9_9_9_9", "1" * 5_000, "0." + "1" * 5_000]
)
def test_a_number_too_large_to_compute_is_none(text: str) -> None:
    assert to_fraction(text) is None


def _numbers(n: int) -> list[str]:
    return [f"x = {3 * i}" for i in range(n)]


def _grade_ways(n: int) -> Callable[[], object]:
    from rfprm_training.labelling.verifier import grade_steps

    question = " ".join(str(6 * i + 1) for i in range(n))
    steps = [f"x = {3 * i + 1}" for i in range(n)]
    return lambda: grade_steps(question, steps, references=[_numbers(n)], outcome=False)


def _with_solution(steps: list[str], make: Callable[[Any], object]) -> Callable[[], object]:
    from rfprm_training.gsm8k import GoldSolution

    solution = GoldSolution(" ".join(steps), tuple(steps), "2")
    return lambda: make(solution)


def _corrupt(n: int) -> Callable[[], object]:
    from rfprm_training.construction.corruption import corrupt

    steps = [f"Then {i} + 1 = <<1+1=2>>3." for i in range(n)]
    return _with_solution(steps, lambda s: corrupt(s, random.Random(0), {"wrong_result": 1.0}))


def _other_names(n: int) -> Callable[[], object]:
    from rfprm_training.construction.flaws import wrong_words

    names = " ".join(f"so A{chr(97 + i % 26)}{chr(97 + i // 26)}b" for i in range(n))
    return _with_solution([names], lambda s: wrong_words(s, s, random.Random(0)))


@pytest.mark.parametrize(
    ("prepare", "size"),
    [
        pytest.param(_grade_ways, 120, id="values on another way"),
        pytest.param(_corrupt, 70, id="a solution of many steps"),
        pytest.param(_other_names, 150, id="many names"),
    ],
)
def test_training_functions_grow_with_the_text(prepare: Prepare, size: int) -> None:
    check_linear(prepare, size)


@pytest.mark.parametrize("text", ["1x" * 20_000, "1,1" * 15_000, "{" * 50_000, "1 x " * 10_000])
def test_training_functions_end(text: str) -> None:
    """Each of these took quadratic time in one of them."""
    from rfprm_training.arithmetic import evaluate, misreadings
    from rfprm_training.construction.wording import LabelledSteps, bare
    from rfprm_training.labelling.expert.forms import UnusableAnswerError, parse_form

    assert bare(LabelledSteps((text,), (1.0,)), random.Random(0)).steps == (text,)
    assert evaluate(text) is None
    assert misreadings(text) == set()
    with pytest.raises(UnusableAnswerError):
        parse_form(text, Any)  # type: ignore[type-var]
