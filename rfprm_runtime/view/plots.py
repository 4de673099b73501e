"""Scores drawn by matplotlib. Needs the extra ``plots``.

Every function returns a new ``matplotlib.figure.Figure`` and leaves pyplot's state alone. A
notebook displays the figure, and ``figure.savefig("scores.png")`` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import InvalidArgumentError, MissingExtraError
from rfprm_runtime.ground.tint import Scale, three
from rfprm_runtime.types import TrajectoryScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Of = Literal["reward", "trajectory_score", "lowest_step", "step_scores"]
_VALUES: dict[Of, Callable[[TrajectoryScore], Sequence[float] | NDArray[np.float32]]] = {
    "reward": lambda score: [score.reward],
    "trajectory_score": lambda score: (
        [] if score.trajectory_score is None else [score.trajectory_score]
    ),
    "lowest_step": lambda score: np.sort(score.step_scores)[:1],
    "step_scores": lambda score: score.step_scores,
}
_LABELS: dict[Of, str] = {
    "reward": "reward",
    "trajectory_score": "trajectory score",
    "lowest_step": "lowest step score",
    "step_scores": "step score",
}
_NUM_BINS = 30
_MOST_LARGE_DOTS = 60
_MOST_FILLED = 2
"""More filled histograms than this would hide one another."""


def plot_steps(score: TrajectoryScore) -> Figure:
    """Plot the step scores along the trace, with the trajectory score as a horizontal line.

    Raises ``ValueError`` if there are no step scores, and :class:`MissingExtraError` without
    matplotlib.
    """
    if not len(score.step_scores):
        raise InvalidArgumentError(
            "the score has no step scores, so there is nothing to draw; a reward model of whole "
            "sequences makes them if it is loaded with score_prefixes=True"
        )
    scale = Scale.of([*map(float, score.step_scores), score.trajectory_score])
    figure = _figure(7, 3)
    axis: Any = figure.subplots()
    steps = np.arange(len(score.step_scores))
    is_long = len(steps) > _MOST_LARGE_DOTS
    axis.plot(steps, score.step_scores, color="0.8", linewidth=0.5 if is_long else 1, zorder=1)
    size = 6 if is_long else 28
    axis.scatter(
        steps, score.step_scores, c=[*map(scale.pale, score.step_scores)], s=size, zorder=2
    )
    if score.trajectory_score is not None:
        label = f"trajectory {three(score.trajectory_score)}"
        axis.axhline(score.trajectory_score, color="0.3", linestyle="--", linewidth=1, label=label)
    if score.windowed_from is not None:
        label = "scored without its whole past"
        start, end = score.windowed_from - 0.5, len(steps) - 0.5
        axis.axvspan(start, end, color="0.5", alpha=0.12, linewidth=0, label=label)
    margin = max(0.5, 0.02 * len(steps))
    axis.set(
        xlim=(-margin, len(steps) - 1 + margin),
        ylim=_widened(scale.low, scale.high),
        xlabel="step (from 0)",
        ylabel="score",
        title=f"reward {three(score.reward)}",
    )
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small", frameon=False, loc="best")
    _without_frame(axis)
    return figure


def plot_scores(
    scores: Sequence[TrajectoryScore],
    *,
    of: Of = "reward",
    by: Sequence[Hashable] | None = None,
) -> Figure:
    """Plot a histogram of ``of`` over many traces, or one for each label in ``by``.

    ``by`` has a label for each trace (its outcome, its source, …). Its histograms show shares, so
    that large groups do not hide small ones.

    Raises ``ValueError`` if there is nothing to draw or ``by`` has another length, and
    :class:`MissingExtraError` without matplotlib.
    """
    groups = _grouped(scores, of, by)
    figure = _figure(7, 3.5)
    axis: Any = figure.subplots()
    everything = np.concatenate(list(groups.values()))
    bins = np.linspace(*_ends(everything), _NUM_BINS + 1)
    for number, (label, values) in enumerate(groups.items()):
        weights = None if by is None else np.full(len(values), 1 / len(values))
        name = f"{label} ({len(values):,}, mean {values.mean():.3f})"
        color = Scale().pale(1.0) if by is None else f"C{number}"
        if len(groups) <= _MOST_FILLED:
            axis.hist(values, bins, weights=weights, histtype="stepfilled", color=color, alpha=0.25)
        axis.hist(values, bins, weights=weights, histtype="step", color=color, label=name)
    if by is None:
        axis.yaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    counted = "steps" if of == "step_scores" else "traces"
    axis.set(xlabel=_LABELS[of], ylabel=counted if by is None else f"share of {counted}")
    legend = axis.legend(fontsize="small", frameon=False)
    for name in legend.get_texts():
        name.set_parse_math(False)  # a label may hold dollars
    _without_frame(axis)
    return figure


def _grouped(
    scores: Sequence[TrajectoryScore], of: Of, by: Sequence[Hashable] | None
) -> dict[str, NDArray[np.float64]]:
    if of not in _VALUES:
        raise InvalidArgumentError(
            f"of is {of!r}, expected one of {', '.join(map(repr, get_args(Of)))}"
        )
    if by is not None and len(by) != len(scores):
        raise InvalidArgumentError(
            f"by has {len(by)} labels for {len(scores)} scores, expected one for each"
        )
    found: dict[str, list[float]] = {}
    for score, label in zip(scores, by or ["all"] * len(scores), strict=True):
        found.setdefault(str(label), []).extend(map(float, _VALUES[of](score)))
    groups = {label: np.array(values) for label, values in sorted(found.items()) if values}
    if not groups:
        raise InvalidArgumentError(
            f"none of {len(scores)} scores has a {_LABELS[of]}, so there is nothing to draw"
        )
    return groups


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of a histogram: with 0 and 1, unless scores below 0 show that neither is an end."""
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        return 0.0, max(1.0, high)
    return (low, high) if low < high else _widened(low, high)


def _widened(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis, with a margin."""
    margin = 0.03 * (high - low) or 0.5
    return low - margin, high + margin


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plots", "plots") from None
    return Figure(figsize=(width, height), layout="constrained")


def _without_frame(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
