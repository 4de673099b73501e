"""Verifies that an exported model is faithful to the reference network.

The reference is the torch network if torch is installed, and otherwise the scores that it gave when
the checkpoint was made. The manifest records which one was used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.checkpoint import checkpoint_digest, load_prm
from rfprm_export.choices import Precision
from rfprm_export.gate_traces import num_gate_traces, spread_over, traces_that_fit
from rfprm_export.in_parts import ending
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.stored_weights import stay_in_files
from rfprm_runtime.artifact.manifest import Manifest, Parity
from rfprm_runtime.artifact.parity import spearman_interval
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.errors import install_command
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.ground.progress import Progress, counting, silent, stage
from rfprm_runtime.ground.strict_json import read_json
from rfprm_runtime.ground.validated import Validated
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.traces.sources import example_traces_path, read_trajectories
from rfprm_runtime.types import Trajectory, TrajectoryScore

MAX_DIFFERENCE = 1e-4
"""The largest difference allowed between any fp32 score and the reference."""
REFERENCE_NAMES = {"examples": "reference_scores.json", "gate": "gate_scores.json"}
"""Files of a checkpoint with the reference network's scores of the shipped traces."""


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


class RecordedScores(Validated):
    """The reference network's scores of some traces, for exports without torch."""

    refusal = ExportError

    reference: str
    traces_sha256: str
    checkpoint_sha256: str
    scores: list[TrajectoryScore]


@dataclass(frozen=True)
class Reference:
    """Scores to compare with, and their source."""

    description: str
    traces: str
    trajectories: list[Trajectory]
    scores: list[TrajectoryScore]


def gate_traces_path() -> Path:
    """The 256 traces that come with the package: four solutions by SmolLM2-135M-Instruct to each
    of 64 word problems."""
    return Path(__file__).parent / "data" / "gate_traces.jsonl"


def _shipped_traces() -> dict[str, Path]:
    return {"examples": example_traces_path(), "gate": gate_traces_path()}


def reference_for(
    prm: LoadedPRM,
    checkpoint: Path,
    precision: Precision,
    traces: Path | None = None,
    progress: Progress = silent,
) -> Reference:
    """The reference's scores of ``traces``; by default of shipped ones: a few for fp32, which is
    compared score by score, otherwise enough for :data:`GATE`, and fewer for a large model.

    Raises :class:`ExportError` if there are too few traces, or if torch is not installed and the
    checkpoint has no recorded scores for these traces.
    """
    kind = "examples" if precision == "fp32" else "gate"
    path = traces or _shipped_traces()[kind]
    label = path.name if traces else f"shipped {kind} traces"
    trajectories = read_trajectories(path)
    needed = gate_for(prm.manifest).num_trajectories
    if precision != "fp32" and len(trajectories) < needed:
        raise ExportError(
            f"{path} holds {len(trajectories)} trajectories, but --precision {precision} is "
            f"verified on at least {needed}; give more, or leave --verify-traces out"
        )
    # The reference network takes minutes on the gate's traces, so its scores are recorded.
    recorded_first = kind == "gate" and (checkpoint / REFERENCE_NAMES[kind]).is_file()
    if find_spec("torch") is None or (recorded_first and traces is None):
        recorded = _recorded(checkpoint, kind, path, label, trajectories)
        return recorded if traces else _shipped(recorded, prm, precision)
    asked = Reference("", label, trajectories, [])
    if traces is None:
        asked = _shipped(asked, prm, precision)
    description, scores = score_by_reference(prm, asked.trajectories, progress)
    return replace(asked, description=description, scores=scores)


def _shipped(reference: Reference, prm: LoadedPRM, precision: Precision) -> Reference:
    """Those of the shipped traces that such a model is compared on."""
    return _few_enough(_fitting(reference, prm, precision), prm.manifest)


def _few_enough(reference: Reference, manifest: Manifest) -> Reference:
    """The shipped traces that a model of this size is compared on."""
    count, trajectories = num_gate_traces(manifest), reference.trajectories
    if len(trajectories) <= count:
        return reference
    chosen = spread_over(groups_of_4(trajectories), count)
    return _only(reference, chosen, f"{len(chosen)} of the {len(trajectories)} {reference.traces}")


def _fitting(reference: Reference, prm: LoadedPRM, precision: Precision) -> Reference:
    """Those that fit into the model's positions. Raises :class:`ExportError` if too few do."""
    needed = 1 if precision == "fp32" else gate_for(prm.manifest).num_trajectories
    chosen, label = traces_that_fit(reference.trajectories, reference.traces, prm, needed)
    return _only(reference, chosen, label)


def _only(reference: Reference, chosen: Sequence[int], label: str) -> Reference:
    return replace(
        reference,
        traces=label,
        trajectories=[reference.trajectories[index] for index in chosen],
        scores=[reference.scores[index] for index in chosen] if reference.scores else [],
    )


def recorded_reference(checkpoint: Path) -> Reference:
    """The recorded scores of the gate's traces. Raises :class:`ExportError` if ``checkpoint`` holds
    none, or has changed since."""
    path = gate_traces_path()
    return _recorded(checkpoint, "gate", path, "shipped gate traces", read_trajectories(path))


def _recorded(
    checkpoint: Path, kind: str, path: Path, label: str, trajectories: list[Trajectory]
) -> Reference:
    recorded = _read_recorded(checkpoint, path, REFERENCE_NAMES[kind])
    return Reference(f"recorded: {recorded.reference}", label, trajectories, recorded.scores)


def score_by_reference(
    prm: LoadedPRM, trajectories: Sequence[Trajectory], progress: Progress = silent
) -> tuple[str, list[TrajectoryScore]]:
    """The description and the scores of the torch network, in float32 on a CPU; if the weights are
    not kept in memory, a layer at a time."""
    shape, head, name = prm.manifest.backbone, prm.manifest.head, "reference network"
    if stay_in_files(prm.weights):
        from rfprm_runtime.backends.layered_torch import LayeredTorch

        walk = Walk(stage(progress, f"{name}, layer"))
        layered = scorer_over(prm, LayeredTorch(shape, head, prm.weights, walk))
        with ending(layered, walk) as scorer:
            return scorer.backend_description, scorer.score_batch(trajectories, overflow="window")
    from rfprm_runtime.backends.torch import TorchBackend, build_network

    network = build_network(shape, head, prm.weights)
    with scorer_over(prm, TorchBackend(network, device="cpu")) as scorer:
        on_scored = counting(stage(progress, f"{name}, trace"), len(trajectories))
        scores = scorer.score_batch(trajectories, overflow="window", on_scored=on_scored)
        return scorer.backend_description, scores


def scorer_over(prm: LoadedPRM, backend: Backend) -> Scorer:
    """A scorer for a model that is not an artifact yet."""
    return Scorer(prm.manifest, prm.encoder(), backend)


def record_reference(
    checkpoint: Path, *, base: Path | None = None, progress: Progress = silent
) -> None:
    """Write the reference's scores of the shipped traces into a checkpoint, for exports without
    torch. ``base``: its base model, if it is not found by itself."""
    prm = load_prm(checkpoint, base=base)
    for kind, path in _shipped_traces().items():
        reference, scores = score_by_reference(prm, read_trajectories(path), progress)
        recorded = RecordedScores(
            reference=reference,
            traces_sha256=_digest(path),
            checkpoint_sha256=checkpoint_digest(checkpoint),
            scores=scores,
        )
        write_whole(checkpoint / REFERENCE_NAMES[kind], recorded.model_dump_json() + "\n")


def has_reference(checkpoint: Path) -> bool:
    """Whether :func:`record_reference` has ended for this state of the checkpoint."""
    try:
        for kind, path in _shipped_traces().items():
            _read_recorded(checkpoint, path, REFERENCE_NAMES[kind])
    except ExportError:
        return False
    return True


def _read_recorded(checkpoint: Path, traces: Path, name: str) -> RecordedScores:
    path = checkpoint / name
    way_out = (
        f"; install torch ({install_command('train')}) to run the reference network, or "
        "skip verification with --no-verify, at your own risk"
    )
    if not holds_file(checkpoint, name):
        raise ExportError(f"{checkpoint} holds no {name} to verify with{way_out}")
    file_in(checkpoint, name, refusal=ExportError, way_out=way_out.removeprefix("; "))
    try:
        recorded = RecordedScores.model_validate(
            read_json(path, refusal=ExportError, way_out="record it again")
        )
    except ExportError as error:
        raise ExportError(f"{path} cannot be read: {error}{way_out}") from None
    if recorded.traces_sha256 != _digest(traces):
        raise ExportError(f"{path} was recorded on other traces than {traces.name}{way_out}")
    if recorded.checkpoint_sha256 != checkpoint_digest(checkpoint):
        raise ExportError(f"{path} was recorded for another state of the checkpoint{way_out}")
    return recorded


def measure_parity(
    scorer: Scorer, reference: Reference, on_scored: Callable[[int], object] | None = None
) -> Parity:
    """Compare every step and trajectory score of ``scorer`` with the reference's. ``on_scored``: as
    of :meth:`Scorer.score_batch`."""
    scores = scorer.score_batch(reference.trajectories, overflow="window", on_scored=on_scored)
    ours, theirs = all_scores(scores), all_scores(reference.scores)
    if not len(ours):
        raise ExportError(f"the traces to verify on ({reference.traces}) hold no trajectory")
    unit = _unit(scorer.manifest, theirs)
    difference = np.abs(ours - theirs) / unit
    groups = groups_of_4(reference.trajectories)
    same = [_best(scores, group) == _best(reference.scores, group) for group in groups]
    return Parity(
        reference=reference.description,
        measured_on=scorer.backend_description,
        traces=reference.traces,
        num_trajectories=len(reference.trajectories),
        num_scores=len(ours),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        unit=unit,
        spearman=rank_correlation(ours, theirs),
        num_groups=len(groups),
        same_best_of_4=sum(same) / len(same) if same else None,
    )


def _unit(manifest: Manifest, scores: NDArray[np.float64]) -> float:
    """How far scores reach, so that one limit fits probabilities and raw rewards."""
    readouts = [x for x in (manifest.step_readout, manifest.trajectory_readout) if x is not None]
    bounds = [readout.bounds for readout in readouts]
    widths = [high - low for low, high in (found for found in bounds if found is not None)]
    if len(widths) == len(bounds):
        return max(widths)
    # Numbers spread evenly over a width w have a standard deviation of w / √12.
    return max(float(scores.std()) * 12**0.5, np.finfo(np.float32).tiny.item())


def groups_of_4(trajectories: Sequence[Trajectory]) -> list[list[int]]:
    """Indices of the first four trajectories of each question that has at least four."""
    by_question: dict[str, list[int]] = {}
    for index, trajectory in enumerate(trajectories):
        by_question.setdefault(trajectory.question, []).append(index)
    return [group[:4] for group in by_question.values() if len(group) >= 4]


def _best(scores: Sequence[TrajectoryScore], group: list[int]) -> int:
    return max(group, key=lambda index: scores[index].reward)  # ties go to the first


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


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's ρ, with the mean rank for ties; None if either side is constant."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if np.ptp(ranks_a) == 0 or np.ptp(ranks_b) == 0:
        return None
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_of_tie = np.cumsum(counts)
    mean_rank = last_of_tie - (counts - 1) / 2
    result: NDArray[np.float64] = mean_rank[inverse]
    return result


def all_scores(scores: Sequence[TrajectoryScore]) -> NDArray[np.float64]:
    parts = [score.step_scores.astype(np.float64) for score in scores]
    parts += [
        np.array([score.trajectory_score]) for score in scores if score.trajectory_score is not None
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
