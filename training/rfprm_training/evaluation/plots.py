"""Plots of evaluation sets. Needs the extra ``plots``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import MissingExtraError, OutputError
from rfprm_runtime.ground.whole_files import replacing_path
from rfprm_training.evaluation.set_figures import SetEvaluation


def check_plot(path: Path) -> None:
    """Raises :class:`MissingExtraError` without matplotlib, and :class:`OutputError` for a name
    that tells no format it can write."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise MissingExtraError("matplotlib", "plots", "plots") from None
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        endings = ", ".join(f".{name}" for name in known)
        raise OutputError(f"cannot draw {path}: its name must end in one of {endings}")


def plot_reliability(sets: Mapping[str, SetEvaluation], path: Path) -> None:
    """Plot claimed against observed frequency, one panel per set. Raises as :func:`check_plot`."""
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(sets), 4), layout="constrained")
    axes: Any = figure.subplots(1, len(sets), squeeze=False)[0]
    for axis, (name, found) in zip(axes, sets.items(), strict=True):
        axis.plot((0, 1), (0, 1), color="0.7", linewidth=1)
        for label, part in (
            ("steps", found.step_calibration),
            ("trajectory", found.outcome_calibration),
            ("trajectory, scaled", found.outcome_calibration_fitted),
        ):
            if part is not None:
                text = f"{label}: ECE {part.ece:.3f}"
                axis.plot(part.claimed, part.found, marker="o", markersize=4, label=text)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of right ones")
        axis.set_title(name, parse_math=False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small")
    with replacing_path(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip(".") or None)
