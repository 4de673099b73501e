"""The two nouns that travel: a trajectory goes in, its score comes out.

Nothing here knows tokens, models or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_serializer
from pydantic import field_validator as validator

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import check_choice, check_share
from rfprm_runtime.ground.parsing import SplitRule, split_trace
from rfprm_runtime.ground.validated import Validated

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """How a trace with more tokens than the model has positions is scored in windows.

    Raises :class:`InvalidArgumentError` for a ``context`` outside of [0, 1).
    """

    context: float = 0.5
    """What each step is scored with at least, if not with its whole past: the steps just before it
    that fill this share of the positions left by the question; fewer only where a long step leaves
    less room. It is also the price: a trace just too long runs about 1 + ``context`` times its
    tokens, a very long one 1 / (1 - ``context``) times. The trajectory's score rests on all that
    fits, whatever the context."""

    def __post_init__(self) -> None:
        check_share("context", self.context)


Overflow = Literal["error", "window"] | Windows
"""What to do with a trace that has more tokens than the model has positions: report an error, or
score it in windows (``"window"`` is ``Windows()``)."""


def windows_of(overflow: object) -> Windows | None:
    """The windows that ``overflow`` asks for; None if it asks for an error.

    Raises :class:`InvalidArgumentError` for anything but an :data:`Overflow`.
    """
    if isinstance(overflow, Windows):
        return overflow
    check_choice("overflow", overflow, ("error", "window"), more=", or Windows(context=…)")
    return Windows() if overflow == "window" else None


Mode = Literal["auto", "throughput", "latency"]
"""How cores are used: ``throughput`` runs one trace on each, ``latency`` one trace at a time on all
of them, ``auto`` decides by the number of traces."""

OnError = Literal["raise", "return"]
"""What to do with an error about one of several items: raise it, or return it in place of that
item's result."""


class Trajectory(Validated):
    """One sample of ReasonFlux-PRM: question x, thinking steps s_1..s_T, final response a.

    Raises :class:`InvalidTrajectoryError` (a ``ValueError``) when the question is blank, when there
    are no steps, when a step or response step is blank, or when a type is wrong.
    """

    refusal = InvalidTrajectoryError

    question: str
    steps: tuple[str, ...]
    """Thinking steps, in order: at least one, none blank."""
    response: tuple[str, ...] = ()
    """Steps of the final response; empty if the trace has none."""
    outcome: bool | float | None = None
    """Verified outcome of the trace: true or false, or a share of correct answers in [0, 1]."""
    source: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @validator("question")
    @classmethod
    def _question_says_something(cls, question: str) -> str:
        if not question.strip():
            raise InvalidTrajectoryError(
                "the question is blank; a step can only be judged against a question"
            )
        _check_unicode(question)
        return question

    @validator("steps", "response", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise InvalidTrajectoryError(
                "got one string, expected a list of strings; "
                "split it with split_steps(text) or build the trajectory with Trajectory.from_text"
            )
        return value

    @validator("steps")
    @classmethod
    def _has_a_step(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        if not steps:
            raise InvalidTrajectoryError(
                "got 0 steps, expected at least 1; there is nothing to score"
            )
        return steps

    @validator("steps", "response")
    @classmethod
    def _no_step_is_blank(cls, steps: tuple[str, ...]) -> tuple[str, ...]:
        for index, step in enumerate(steps):
            if not step.strip():
                raise InvalidTrajectoryError(
                    f"step {index} (from 0) is empty or only white space ({step[:20]!r}); remove "
                    "it, so that scores and steps keep the same indices"
                )
            _check_unicode(step)
        return steps

    @validator("outcome")
    @classmethod
    def _outcome_is_a_share(cls, outcome: bool | float | None) -> bool | float | None:
        if outcome is not None and not 0.0 <= outcome <= 1.0:
            raise InvalidTrajectoryError(
                f"outcome is {outcome}, expected true, false or a share in [0, 1]"
            )
        return outcome

    @classmethod
    def build(cls, **fields: Any) -> Trajectory:
        """The constructor, for values whose types have not been checked yet."""
        return cls(**fields)

    @classmethod
    def from_text(
        cls,
        question: str,
        text: str,
        *,
        split: SplitRule = "blank_lines",
        prompt: str = "",
        **fields: Any,
    ) -> Trajectory:
        """Parse a model's output: recognise thinking tags, and split steps by ``split``.

        ``prompt``: what the text continues, if it may end with the tag that opens a thought.

        If the text has no thinking (plain text, or an empty ``<think></think>``), its steps become
        the steps of the trajectory and the response is empty.
        Raises :class:`InvalidTrajectoryError` if the text is nothing but white space and tags.
        """
        if not isinstance(text, str):
            raise InvalidTrajectoryError(
                f"the trace text is {type(text).__name__}, expected a string"
            )
        steps, response = split_trace(text, split, prompt=prompt)
        return cls.build(question=question, steps=steps, response=response, **fields)


class UnfinishedTrajectory(Trajectory):
    """A trajectory that is still being written: it may have no steps yet."""

    steps: tuple[str, ...] = ()


class TrajectoryScore(Validated):
    """A PRM's scores for one trajectory."""

    model_config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)

    step_scores: Float32Array
    """float32 [T], one score for each thinking step, in [0, 1] if it is a probability; none, [0],
    for a reward model of whole sequences that does not score prefixes."""
    trajectory_score: float | None
    """Score of the whole trajectory, in [0, 1] if it is a probability; None for models without a
    trajectory readout."""
    reward: float
    """Eq. 11: mean of the step scores + α · trajectory score, in [0, 1 + α] if both are
    probabilities; the trajectory score alone for a reward model of whole sequences."""
    num_tokens: int
    """Length of the encoded trajectory."""
    windowed_from: int | None = None
    """The first step scored without its whole past, if the trace was longer than the model's
    positions; the number of steps if only the trajectory was. The trajectory score then rests on
    the last window."""
    num_run_tokens: int | None = None
    """Tokens of all rows that were run for it: ``num_tokens``, unless windows or scored prefixes
    repeat some. A backend that shares prefixes computes the question of these rows only once. None
    for a session, which has run most of them before. No part of the score: equal scores may differ
    in it."""

    @field_serializer("step_scores")
    def _as_list(self, step_scores: Float32Array) -> list[float]:
        return [float(score) for score in step_scores]

    @validator("step_scores", mode="before")
    @classmethod
    def _as_array(cls, step_scores: Any) -> Float32Array:
        return np.asarray(step_scores, dtype=np.float32)

    def __eq__(self, other: object) -> bool:
        # pydantic would compare the arrays with ==, whose truth is ambiguous.
        if not isinstance(other, TrajectoryScore):
            return NotImplemented
        return (
            np.array_equal(self.step_scores, other.step_scores)
            and self.trajectory_score == other.trajectory_score
            and self.reward == other.reward
            and self.num_tokens == other.num_tokens
            and self.windowed_from == other.windowed_from
        )

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        """What a notebook displays: a strip of the step scores, and the reward."""
        from rfprm_runtime.notebook import score_html

        return score_html(self)


def _check_unicode(text: str) -> None:
    """Refuse half of a surrogate pair: JSON can spell it, but it is not a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTrajectoryError(
            f"character {error.start} is a lone surrogate ({text[error.start]!r}), which is not "
            "text; replace it, for example with U+FFFD"
        ) from None
