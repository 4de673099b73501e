"""Advantages for each step of a group's completions, on top of those of whole completions.

Knows only numbers: no text, no tokens, no models, no trainer. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import (
    check_choice,
    check_not_negative,
    check_one_for_each,
    check_whole,
)
from rfprm_runtime.rewards.advantages import (
    DEFAULT_TEMPERATURE,
    CreditForm,
    FloatArray,
    one_reward_each,
    step_credits,
)

Reach = Literal["own", "to_go"]


@dataclass(frozen=True)
class DenseCredit:
    """How step scores become advantages of steps.

    Raises ``ValueError`` for an unknown form or reach, or a negative number.
    """

    form: CreditForm = "progress"
    """What a step earns from its score: :func:`~rfprm_runtime.rewards.step_credits`."""
    reach: Reach = "own"
    """``own``: a step answers for its own credit, as process advantages do (arXiv 2410.08146).
    ``to_go``: for its own and all that follow, as GRPO with process supervision has it
    (DeepSeekMath, arXiv 2402.03300, section 4.1.3)."""
    weight: float = 1.0
    """Of a step's advantage beside that of its completion. 0 leaves the latter as it is."""
    temperature: float = DEFAULT_TEMPERATURE
    """Of the form ``min``."""
    epsilon: float = 1e-4
    """Added to the spread of a group's credits, which they are divided by."""

    def __post_init__(self) -> None:
        check_choice("form", self.form, get_args(CreditForm))
        check_choice("reach", self.reach, get_args(Reach))
        for name in ("weight", "temperature", "epsilon"):
            check_not_negative(name, getattr(self, name))


def step_advantages(
    step_scores: Sequence[Sequence[float] | NDArray[np.floating] | None],
    group_size: int,
    credit: DenseCredit | None = None,
) -> list[FloatArray | None]:
    """The advantage of every step, float64 [T] for each completion; None where ``step_scores`` is.

    ``step_scores`` [N] holds the scores [T] of each completion, None or empty for one that has
    none; ``group_size`` consecutive completions answer one question. The credits of all steps of a
    group, whatever completion they are in, are centred and divided by their spread (unbiased), so
    that a group's mean over steps is 0. Weighted, but without the advantages of completions.

    Raises ``ValueError`` for groups that do not fit, and as
    :func:`~rfprm_runtime.rewards.step_credits` does.
    """
    how = credit or DenseCredit()
    check_whole("group_size", group_size)
    if len(step_scores) % group_size:
        raise InvalidArgumentError(
            f"{len(step_scores)} completions do not divide into groups of {group_size}"
        )
    credits = [
        None
        if scores is None or len(scores) == 0
        else step_credits(scores, how.form, temperature=how.temperature)
        for scores in step_scores
    ]
    found: list[FloatArray | None] = []
    for start in range(0, len(credits), group_size):
        found += _of_group(credits[start : start + group_size], how)
    return found


def _of_group(credits: Sequence[FloatArray | None], how: DenseCredit) -> list[FloatArray | None]:
    known = [credit for credit in credits if credit is not None]
    pooled = np.concatenate(known) if known else np.zeros(0)
    # Equal numbers have a mean that may differ from them in the last bit.
    varies = len(set(pooled.tolist())) > 1
    mean = float(pooled.mean()) if varies else 0.0
    spread = float(pooled.std(ddof=1)) + how.epsilon if varies else 1.0
    scale = how.weight / spread if varies and spread else 0.0
    found: list[FloatArray | None] = []
    for credit in credits:
        if credit is None:
            found.append(None)
            continue
        own = (credit - mean) * scale
        found.append(own if how.reach == "own" else np.cumsum(own[::-1])[::-1].copy())
    return found


def token_advantages(
    advantage: float,
    of_steps: Sequence[float] | NDArray[np.floating] | None,
    spans: NDArray[np.int64] | None,
    num_tokens: int,
) -> FloatArray:
    """A completion's ``advantage`` plus that of the step each token belongs to, float64
    [num_tokens].

    ``spans`` [T, 2] come from :func:`~rfprm_runtime.rewards.step_token_spans`. Tokens between two
    steps count with the one that follows. Those after the last step, such as a response that has no
    scores of its own, have the completion's advantage alone, and so has everything without steps.
    Raises ``ValueError`` if there is not one span for each step, or one lies beyond the tokens.
    """
    found = np.full(num_tokens, float(advantage))
    if of_steps is None or spans is None:
        return found
    values = one_reward_each(of_steps)
    check_one_for_each("spans", spans, len(values), "steps")
    begin = 0
    for index, value in enumerate(values):
        end = int(spans[index][1])
        if not begin < end <= num_tokens:
            raise InvalidArgumentError(
                f"step {index} (from 0) ends at token {end}, expected more than {begin} and at "
                f"most {num_tokens}; take spans from step_token_spans for the same tokens"
            )
        found[begin:end] += value
        begin = end
    return found
