"""Scores as a notebook shows them: small pieces of HTML with inline styles and no scripts.

Steps are numbered from 0, like ``step_scores``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_has
from rfprm_runtime.ground.tint import Scale, three

if TYPE_CHECKING:
    from rfprm_runtime.types import Trajectory, TrajectoryScore

MAX_CELLS = 200
"""More cells than this would be too thin to see; beyond it a cell stands for several steps."""
_NO_FORMULAS = "tex2jax_ignore mathjax_ignore"
"""Notebooks render anything between two dollar signs as a formula, amounts of money included."""
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;text-align:start"


@dataclass(frozen=True)
class ShownTrace:
    """A trajectory and its score, for a notebook to display as the last value of a cell."""

    trajectory: Trajectory
    score: TrajectoryScore

    def _repr_html_(self) -> str:
        return trace_html(self.trajectory, self.score)


def show(trajectory: Trajectory, score: TrajectoryScore) -> ShownTrace:
    """Show the steps of a trace in a notebook, tinted by their scores.

    A score without step scores, of a reward model of whole sequences, shows the steps untinted.
    Raises ``ValueError`` if ``score`` has another number of steps, and for arguments that are not
    a trajectory and a score.
    """
    check_has("trajectory", trajectory, "steps", "a Trajectory: show(trajectory, score)")
    check_has("score", score, "step_scores", "a TrajectoryScore: show(trajectory, score)")
    num_steps, num_scores = len(trajectory.steps), len(score.step_scores)
    if num_scores not in (num_steps, 0):
        raise InvalidArgumentError(
            f"the trajectory has {num_steps} steps and the score {num_scores} step scores; "
            "show a trajectory with its own score"
        )
    return ShownTrace(trajectory, score)


def score_html(score: TrajectoryScore, *, width: str = "44em") -> str:
    """A strip with a cell for each step, and a summary. Knows none of the trace's text."""
    return (
        f'<div style="max-width:{width};margin:.3em 0">{_strip(score)}'
        f'<div style="margin-top:.35em;line-height:1.5">{_summary(score)}</div></div>'
    )


def trace_html(trajectory: Trajectory, score: TrajectoryScore) -> str:
    """The question, each step tinted beside its score, the response, and a summary."""
    scale = _scale(score)
    values: list[float | None] = [*_step_scores(score)]
    values = values or [None] * len(trajectory.steps)
    rows = [
        _row(f"step {index}", str(index), value, scale, escape(step))
        for index, (value, step) in enumerate(zip(values, trajectory.steps, strict=True))
    ]
    if trajectory.response or score.trajectory_score is not None:
        rows.append(_trajectory_row(trajectory, score.trajectory_score, scale))
    return (
        f'<div class="{_NO_FORMULAS}" style="max-width:60em;line-height:1.5">'
        f'<p dir="auto" style="margin:.3em 0 .6em;font-weight:600;{_TEXT}">'
        f"{escape(trajectory.question)}</p>{''.join(rows)}{score_html(score, width='none')}</div>"
    )


def _step_scores(score: TrajectoryScore) -> list[float]:
    return [float(value) for value in score.step_scores]


def _scale(score: TrajectoryScore) -> Scale:
    return Scale.of([*_step_scores(score), score.trajectory_score])


def _trajectory_row(trajectory: Trajectory, score: float | None, scale: Scale) -> str:
    label = '<span style="opacity:.7">trajectory</span>&ensp;'
    text = label + escape("\n\n".join(trajectory.response))
    title = "final response" if score is None else "trajectory score"
    return _row(title, "", score, scale, text)


def _row(title: str, index: str, score: float | None, scale: Scale, text_html: str) -> str:
    number, color = ("", "transparent") if score is None else (three(score), scale.tint(score))
    right = "text-align:right;font-variant-numeric:tabular-nums"
    return (
        f'<div title="{title}" style="display:flex;gap:.8em;margin:2px 0;padding:.3em .6em;'
        f'border-radius:4px;background:{color}">'
        f'<span style="flex:0 0 1.6em;opacity:.8;{right}">{index}</span>'
        f'<span style="flex:0 0 {3 if scale.is_of_probabilities else 5}em;{right}">{number}</span>'
        f'<span dir="auto" style="flex:1;min-width:0;{_TEXT}">{text_html}</span></div>'
    )


def _strip(score: TrajectoryScore) -> str:
    """A cell for each step; nothing if there are no step scores."""
    scale, scores = _scale(score), _step_scores(score)
    if not scores:
        return ""
    cells = "".join(_cell(*cell, scale) for cell in _cells(scores))
    return (
        '<div role="img" aria-label="step scores" style="display:flex;gap:1px;height:14px;'
        f'border-radius:3px;overflow:hidden">{cells}</div>'
    )


def _cells(scores: Sequence[float]) -> list[tuple[str, float]]:
    """The name and score of each cell; a cell of several steps shows the lowest."""
    per_cell = -(-len(scores) // MAX_CELLS)
    if per_cell <= 1:
        return [(f"step {index}", score) for index, score in enumerate(scores)]
    return [
        (f"lowest of steps {start} to {start + len(part) - 1}", min(part))
        for start in range(0, len(scores), per_cell)
        if (part := scores[start : start + per_cell])
    ]


def _cell(name: str, score: float, scale: Scale) -> str:
    return (
        f'<span title="{name}: {three(score)}" '
        f'style="flex:1;min-width:1px;background:{scale.solid_tint(score)}"></span>'
    )


def _summary(score: TrajectoryScore) -> str:
    parts = [f"<b>reward {three(score.reward)}</b>"]
    if score.trajectory_score is not None:
        parts.append(f"trajectory {three(score.trajectory_score)}")
    if count := len(score.step_scores):
        lowest = int(score.step_scores.argmin())
        steps = "1 step" if count == 1 else f"{count:,} steps"
        parts.append(f"{steps}, lowest {three(float(score.step_scores[lowest]))} (step {lowest})")
    parts.append("1 token" if score.num_tokens == 1 else f"{score.num_tokens:,} tokens")
    if score.windowed_from is not None:
        parts.append(f"windowed from step {score.windowed_from}")
    if sentence := _scale(score).sentence():
        parts.append(sentence)
    return " · ".join(parts)
