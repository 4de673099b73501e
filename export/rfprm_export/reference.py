"""The reference network's scores, which an export is compared with.

The reference is the torch network if torch is installed, and otherwise the scores that it gave when
the checkpoint was made. The manifest records which one was used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rfprm_export import ExportError
from rfprm_export.checkpoint import checkpoint_digest, load_prm
from rfprm_export.choices import Precision
from rfprm_export.gate import gate_for
from rfprm_export.gate_traces import few_enough, traces_that_fit
from rfprm_export.in_parts import ending
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.stored_weights import stay_in_files
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

REFERENCE_NAMES = {"examples": "reference_scores.json", "gate": "gate_scores.json"}
"""Files of a checkpoint with the reference network's scores of the shipped traces."""


class RecordedScores(Validated):
    """The reference network's scores of some traces, for exports without torch."""

    refusal = ExportError

    reference: str
    traces_sha256: str
    checkpoint_sha256: str
    chosen: list[int] | None = None
    """Which of the traces the scores are of; None: all."""
    scores: list[TrajectoryScore]

    def by_trace(self) -> dict[int, TrajectoryScore]:
        """The scores by the places of their traces in the file. Raises :class:`ExportError`."""
        chosen = range(len(self.scores)) if self.chosen is None else self.chosen
        if len(chosen) != len(self.scores):
            raise ExportError(f"it names {len(chosen)} traces and has {len(self.scores)} scores")
        return dict(zip(chosen, self.scores, strict=True))


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
    chosen = list(range(len(trajectories)))
    if traces is None:
        fewest = 1 if precision == "fp32" else needed
        chosen, label = _chosen(trajectories, label, prm, fewest)
    # The reference network takes minutes on the gate's traces, so its scores are recorded.
    recorded_first = kind == "gate" and (checkpoint / REFERENCE_NAMES[kind]).is_file()
    if find_spec("torch") is None or (recorded_first and traces is None):
        name = REFERENCE_NAMES[kind]
        recorded = _read_recorded(checkpoint, path, name)
        return _compared_with(recorded, checkpoint / name, label, trajectories, chosen)
    asked = [trajectories[index] for index in chosen]
    description, scores = score_by_reference(prm, asked, progress)
    return Reference(description, label, asked, scores)


def _chosen(
    trajectories: Sequence[Trajectory], label: str, prm: LoadedPRM, needed: int
) -> tuple[list[int], str]:
    """Which of the shipped traces such a model is compared on, and their label. Raises
    :class:`ExportError` if fewer than ``needed`` fit into its positions."""
    fitting, label = traces_that_fit(trajectories, label, prm, needed)
    few, label = few_enough([trajectories[index] for index in fitting], label, prm.manifest)
    return [fitting[index] for index in few], label


def recorded_reference(checkpoint: Path) -> Reference:
    """The recorded scores of the gate's traces. Raises :class:`ExportError` if ``checkpoint`` holds
    none, or has changed since."""
    path, name = gate_traces_path(), REFERENCE_NAMES["gate"]
    recorded = _read_recorded(checkpoint, path, name)
    trajectories, chosen = read_trajectories(path), list(recorded.by_trace())
    return _compared_with(recorded, checkpoint / name, "shipped gate traces", trajectories, chosen)


def _compared_with(
    recorded: RecordedScores,
    file: Path,
    label: str,
    trajectories: list[Trajectory],
    chosen: list[int],
) -> Reference:
    """The scores of ``chosen`` traces that ``file`` records. Raises :class:`ExportError` if it
    lacks some."""
    scores = recorded.by_trace()
    missing = [i for i in chosen if i not in scores or not 0 <= i < len(trajectories)]
    if missing:
        raise ExportError(
            f"{file} has no scores of {len(missing)} of the "
            f"{len(chosen)} traces to verify on ({label}){_way_out()}"
        )
    return Reference(
        f"recorded: {recorded.reference}",
        label,
        [trajectories[index] for index in chosen],
        [scores[index] for index in chosen],
    )


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
    """Write the reference's scores into a checkpoint, for exports without torch: of those shipped
    traces that an export of it is compared on. ``base``: its base model, if it is not found by
    itself."""
    prm = load_prm(checkpoint, base=base)
    for kind, path in _shipped_traces().items():
        trajectories = read_trajectories(path)
        chosen, _ = _chosen(trajectories, kind, prm, needed=0)
        asked = [trajectories[index] for index in chosen]
        reference, scores = score_by_reference(prm, asked, progress)
        are_all = len(chosen) == len(trajectories)
        recorded = RecordedScores(
            reference=reference,
            traces_sha256=_digest(path),
            checkpoint_sha256=checkpoint_digest(checkpoint),
            chosen=None if are_all else chosen,
            scores=scores,
        )
        write_whole(checkpoint / REFERENCE_NAMES[kind], _as_json(recorded))


def carry_reference(old: Path, new: Path) -> None:
    """Write what ``old`` has recorded into ``new``, another state of the checkpoint with the same
    scores; nothing for what was not recorded for that state of ``old``."""
    for kind, path in _shipped_traces().items():
        name = REFERENCE_NAMES[kind]
        try:
            recorded = _read_recorded(old, path, name)
        except ExportError:
            continue
        carried = recorded.model_copy(update={"checkpoint_sha256": checkpoint_digest(new)})
        write_whole(new / name, _as_json(carried))


def _as_json(recorded: RecordedScores) -> str:
    are_all = recorded.chosen is None
    return recorded.model_dump_json(exclude={"chosen"} if are_all else None) + "\n"


def has_reference(checkpoint: Path) -> bool:
    """Whether :func:`record_reference` has ended for this state of the checkpoint."""
    try:
        for kind, path in _shipped_traces().items():
            _read_recorded(checkpoint, path, REFERENCE_NAMES[kind])
    except ExportError:
        return False
    return True


def _read_recorded(checkpoint: Path, traces: Path, name: str) -> RecordedScores:
    path, way_out = checkpoint / name, _way_out()
    if not holds_file(checkpoint, name):
        raise ExportError(f"{checkpoint} holds no {name} to verify with{way_out}")
    file_in(checkpoint, name, refusal=ExportError, way_out=way_out.removeprefix("; "))
    try:
        recorded = RecordedScores.model_validate(
            read_json(path, refusal=ExportError, way_out="record it again")
        )
        recorded.by_trace()
    except ExportError as error:
        raise ExportError(f"{path} cannot be read: {error}{way_out}") from None
    if recorded.traces_sha256 != _digest(traces):
        raise ExportError(f"{path} was recorded on other traces than {traces.name}{way_out}")
    if recorded.checkpoint_sha256 != checkpoint_digest(checkpoint):
        raise ExportError(f"{path} was recorded for another state of the checkpoint{way_out}")
    return recorded


def _way_out() -> str:
    return (
        f"; install torch ({install_command('train')}) to run the reference network, or "
        "skip verification with --no-verify, at your own risk"
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
