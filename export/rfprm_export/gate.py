"""The gate: how far an exported model's scores may be from the reference's.

fp32 is compared score by score; a lower precision by what its scores are used for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rfprm_export import ExportError
from rfprm_export.choices import Precision
from rfprm_export.gate_traces import num_gate_traces
from rfprm_runtime.artifact.build_records import Parity
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.parity import spearman_interval

MAX_DIFFERENCE = 1e-4
"""The largest difference allowed between any fp32 score and the reference."""


@dataclass(frozen=True)
class Gate:
    """Limits for a precision below fp32, measured on real traces."""

    num_trajectories: int = 200
    spearman: float = 0.995
    mean_difference: float = 0.01
    same_best_of_4: float = 0.98
    by_interval: bool = False
    """Whether ρ counts at the lower end of its interval, for models compared on fewer traces."""

    def for_size_of(self, manifest: Manifest) -> Gate:
        """The gate for a model of this size: large ones are compared on fewer traces."""
        count = num_gate_traces(manifest)
        if count >= self.num_trajectories:
            return self
        return replace(self, num_trajectories=count, by_interval=True)


GATE = Gate()
STRICT_GATE = Gate(spearman=0.9975, mean_difference=0.005, same_best_of_4=0.99)
"""Half the gate's tolerance, for linears chosen on these very traces: on other traces such a choice
does worse (docs/log.md)."""


def gate_for(manifest: Manifest) -> Gate:
    """:data:`GATE`, for a model of this size."""
    return GATE.for_size_of(manifest)


def check_parity(
    parity: Parity, precision: Precision, blame: Callable[[], list[str]], gate: Gate | None = None
) -> None:
    """Raises :class:`ExportError` if the scores differ more than the precision allows, below fp32
    more than ``gate``, by default :data:`GATE`.

    ``blame`` names the linears most likely at fault; it is called only then.
    """
    if precision == "fp32":
        if not parity.max_difference <= MAX_DIFFERENCE:  # negated, so that NaN fails too
            raise ExportError(
                f"the exported model is not faithful: scores differ from {parity.reference} by up "
                f"to {parity.max_difference:.2e} (mean {parity.mean_difference:.2e}) on "
                f"{parity.traces}, the limit for fp32 is {MAX_DIFFERENCE:.0e}; nothing was written"
            )
        return
    failures = gate_failures(parity, gate)
    if failures:
        worst = blame()
        where = f"Most is lost in {', '.join(worst)}. " if worst else ""
        others = {"int8": "int16 or fp32", "fp16": "bf16 or fp32", "w8a16": "bf16", "fp8": "bf16"}
        raise ExportError(
            f"in {precision} the model is not faithful to {parity.reference} on {parity.traces}: "
            f"{'; '.join(failures)}. {where}Nothing was written; "
            f"export with --precision {others.get(precision, 'fp32')}"
        )


def gate_failures(parity: Parity, gate: Gate | None = None) -> list[str]:
    """The limits of ``gate`` that are exceeded; empty if the model may be written."""
    gate, failures = gate or GATE, []
    if not parity.num_trajectories >= gate.num_trajectories:
        failures.append(
            f"{parity.num_trajectories} trajectories were compared, at least "
            f"{gate.num_trajectories} are needed"
        )
    # Scores that are all alike have no correlation, so they do not pass.
    if parity.spearman is None or not parity.spearman >= gate.spearman:
        failures.append(f"Spearman's ρ is {parity.spearman}, at least {gate.spearman} is needed")
    elif gate.by_interval and not least_spearman(parity) >= gate.spearman:
        failures.append(
            f"Spearman's ρ may be as low as {least_spearman(parity):.4f}, by its 95 % interval "
            f"over {parity.num_trajectories} trajectories; at least {gate.spearman} is needed"
        )
    return failures + lasting_failures(parity, gate)


def lasting_failures(parity: Parity, gate: Gate) -> list[str]:
    """Those that remain whatever the scores do that are still taken to be exact: differences and
    changed picks only become more."""
    failures = []
    if not parity.mean_difference <= gate.mean_difference:
        failures.append(
            f"scores differ by {parity.mean_difference:.4f} on average, at most "
            f"{gate.mean_difference} is allowed"
        )
    if parity.same_best_of_4 is None:
        failures.append("no question has four trajectories, so no Best-of-4 pick can be compared")
    elif not parity.same_best_of_4 >= gate.same_best_of_4:
        failures.append(
            f"the Best-of-4 pick is unchanged in {parity.same_best_of_4:.1%} of "
            f"{parity.num_groups} groups, at least {gate.same_best_of_4:.0%} is needed"
        )
    return failures


def least_spearman(parity: Parity) -> float:
    """The lower end of ρ's interval."""
    interval = spearman_interval(parity)
    return -1.0 if interval is None else interval[0]
