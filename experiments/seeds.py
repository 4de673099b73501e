"""What arms differ by when each seed is one observation: intervals over problems alone leave out
that another seed would have given another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table
from scipy.stats import t

Differences = dict[str, dict[str, list[float]]]
"""By arm and by the arm that it is compared with: mean, and the ends of the interval if any."""


def over_seeds(values: Sequence[float]) -> list[float]:
    """The mean of ``values`` [seeds] and the ends of its 95 % interval, by Student's t; the mean
    alone if there is one seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean]
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = float(t.ppf(0.975, len(values) - 1)) * error
    return [mean, mean - half, mean + half]


def differences(of_arms: Mapping[str, Mapping[str, float]]) -> Differences:
    """Of each arm and every arm before it, over the seeds that both have. ``of_arms`` gives the
    value of each arm by seed."""
    arms, found = list(of_arms), Differences()
    for number, arm in enumerate(arms):
        for other in arms[:number]:
            shared = [seed for seed in of_arms[arm] if seed in of_arms[other]]
            if shared:
                values = [of_arms[arm][seed] - of_arms[other][seed] for seed in shared]
                found.setdefault(arm, {})[other] = over_seeds(values)
    return found


def table_of(title: str, of_measures: Mapping[str, Differences]) -> Table:
    """A row for each pair of arms, a column for each measure."""
    table = Table(title=f"{title}; intervals over seeds", title_justify="left")
    table.add_column("arm")
    table.add_column("over")
    for measure in of_measures:
        table.add_column(measure, justify="right")
    first = next(iter(of_measures.values()), Differences())
    for arm, of_others in first.items():
        for other in of_others:
            cells = (_said(found[arm][other]) for found in of_measures.values())
            table.add_row(arm, other, *cells)
    return table


def _said(figure: Sequence[float]) -> str:
    mean, *ends = figure
    return f"{mean:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else f"{mean:+.3f}"
