"""The report's charts, as SVG to embed in the page. Needs the extra ``plots``, which the report
checks for beforehand."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALL_COLOR, CHOSEN_COLOR, LINE_COLOR, INK = "#c9d3e2", "#1f5fbf", "#d97706", "#475569"
_COLUMNS = 3
_BINS = 40
_MAX_POINTS = 600
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # the page's own font, and text that can be searched and read aloud
    "svg.hashsalt": "rfprm",  # equal data give equal bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#cbd5e1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def histograms(
    value: NDArray[np.float64],
    is_chosen: NDArray[np.bool_],
    groups: list[tuple[str, NDArray[np.bool_]]],
    label: str,
) -> str:
    """A histogram for each group, with the chosen traces in front of all; ``groups`` are names with
    masks [N]."""
    columns = 2 if len(groups) == 4 else min(_COLUMNS, len(groups))
    rows = -(-len(groups) // columns)
    edges = np.histogram_bin_edges(value, _BINS)
    with _figure(9.6, 0.5 + 1.9 * rows) as figure:
        for index, (name, mask) in enumerate(groups):
            axes = figure.add_subplot(rows, columns, index + 1)
            axes.hist(value[mask], edges, color=ALL_COLOR, label="scored")
            axes.hist(value[mask & is_chosen], edges, color=CHOSEN_COLOR, label="chosen")
            axes.set_title(_shortened(name))
            axes.margins(x=0.01)
            axes.yaxis.get_major_locator().set_params(integer=True)
            if index % columns == 0:
                axes.set_ylabel("traces")
            if index >= len(groups) - columns:
                axes.set_xlabel(label)
            if index == 0:
                axes.legend(loc="upper left")
        return _svg(figure)


def length_against_score(
    num_tokens: NDArray[np.int32],
    score: NDArray[np.float64],
    chosen: NDArray[np.int32],
    line: tuple[float, float] | None,
    label: str,
) -> str:
    """The density of all traces, a sample of the ``chosen`` places, and the line that length
    control ranks against (intercept and slope over log tokens)."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator, NullFormatter

    with _figure(9.6, 3.6) as figure:
        axes = figure.add_subplot()
        axes.hexbin(
            num_tokens,
            score,
            gridsize=(60, 22),
            xscale="log",
            norm=LogNorm(vmin=0.3),  # so a single trace is grey, not white
            mincnt=1,
            cmap="Greys",
            alpha=0.55,
        )
        sample = chosen[:: max(1, len(chosen) // _MAX_POINTS)]
        axes.scatter(num_tokens[sample], score[sample], s=7, color=CHOSEN_COLOR, label="chosen")
        if line is not None:
            ends = np.array([num_tokens.min(), num_tokens.max()])
            heights = line[0] + line[1] * np.log(ends)
            axes.plot(ends, heights, color=LINE_COLOR, label="length control")
        axes.set_xlabel("tokens")
        axes.set_ylabel(label)
        if num_tokens.max() < 10 * num_tokens.min():
            # If no power of ten is in range, minor ticks get labels such as 4.025×10¹.
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="best")
        return _svg(figure)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    """A figure in our style; draw on it inside the block."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which has global state and windows

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Any) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]  # HTML takes no XML prologue


def _shortened(name: str) -> str:
    # Matplotlib would read text between dollar signs as a formula.
    return (name if len(name) <= 34 else name[:33] + "…").replace("$", r"\$")
