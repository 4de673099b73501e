"""Calibrates a checkpoint's scores by temperature scaling, and chooses its α, where that helps."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rfprm_export.checkpoint import (
    CHECKPOINT_NAME,
    HEADS_NAME,
    is_export_of,
    read_checkpoint,
)
from rfprm_export.lora import ADAPTER_CONFIG_NAME, ADAPTER_NAME
from rfprm_export.named_base import find_base_model
from rfprm_export.reference import carry_reference, record_reference
from rfprm_runtime.artifact.manifest import Calibration, FirstErrorRule, Manifest, Readout
from rfprm_runtime.ground.claims import claimed_folder
from rfprm_runtime.ground.progress import Progress, silent
from rfprm_runtime.ground.whole_files import replacing_files
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.types import TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.evaluation.alpha import AlphaChoice, choose_alpha
from rfprm_training.evaluation.claims import Claims, as_calibrated
from rfprm_training.evaluation.cross_validation import read_out_of_fold
from rfprm_training.evaluation.held_out import held_out_examples, open_scorer, trained_in
from rfprm_training.evaluation.set_figures import cross_fitted_calibration, score_set
from rfprm_training.evaluation.set_formats import read_evaluation_set
from rfprm_training.evaluation.step_metrics import calibration, fit_temperature
from rfprm_training.example import Example
from rfprm_training.learning.config import read_config
from rfprm_training.learning.run_folder import CONFIG_NAME

_MIN_SCORES = 100
Kind = Literal["step", "trajectory"]
KINDS: tuple[Kind, ...] = ("step", "trajectory")


@dataclass(frozen=True)
class CalibrationResult:
    """The effect of temperature scaling on one kind of score, measured by cross-fitting."""

    kind: Kind
    num_scores: int
    ece_before: float
    ece_after: float
    """Each fold of the questions is calibrated with the fit on the other folds."""
    fitted: Calibration
    """Of the scores as they were, calibrated or not."""

    @property
    def helps(self) -> bool:
        return self.ece_after < self.ece_before


@dataclass
class KnownScores:
    """Trajectories with labels, and their scores by a PRM that was not trained on them."""

    examples: list[Example] = field(default_factory=list)
    scores: list[TrajectoryScore] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    readout: Readout | None = None
    """How they were read; None for probabilities, and for scores that the PRM does not give."""

    def add(
        self, examples: Sequence[Example], scores: Sequence[TrajectoryScore], source: str
    ) -> None:
        self.examples += examples
        self.scores += scores
        self.sources.append(source)


def collect_scores(
    checkpoint: Path,
    on: Sequence[str],
    *,
    kinds: Sequence[Kind] = KINDS,
    folds: Path | None = None,
    held_out: bool = False,
    artifact: Path | None = None,
    reading: Reading | None = None,
) -> dict[Kind, KnownScores]:
    """The scores to fit on, of each of ``kinds``, calibrated as the checkpoint is.

    ``on``: evaluation sets, for step and trajectory scores. ``folds``: out-of-fold scores of a
    cross-validation, for trajectory scores, and for step scores where the steps were graded
    (``sampled_steps = "verified"``, or the labels of ``rewarded``). ``held_out``: the constructed
    trajectories that the run held out, for step scores. ``artifact``: an export of the checkpoint
    to score with in place of torch. ``reading``: of sets of outcomes. A trace that cannot be scored
    is left out, and logged. Raises :class:`TrainingError` if no data are given, some cannot
    be read, or the artifact is of another checkpoint.
    """
    found: dict[Kind, KnownScores] = {kind: KnownScores() for kind in kinds}
    sets = [(spec, read_evaluation_set(spec, reading), KINDS) for spec in on]
    if held_out:
        _, constructed = held_out_examples(read_config(checkpoint / CONFIG_NAME))
        sets.append(("held-out constructed trajectories", constructed, ("step",)))
    pairs = [] if folds is None else list(read_out_of_fold(folds))
    scored_by = checkpoint if artifact is None else artifact
    with open_scorer(scored_by, dtype=trained_in(checkpoint)) as scorer:
        if artifact is not None:
            _check_export(scorer.manifest, artifact, checkpoint)
        for kind, known in found.items():
            known.readout = getattr(scorer.manifest, f"{kind}_readout")
        if pairs:
            examples, scores = (list(part) for part in zip(*pairs, strict=True))
            scores = [as_calibrated(score, scorer.manifest) for score in scores]
            graded = any(not math.isnan(x) for example in examples for x in example.step_labels)
            for kind, known in found.items():
                if kind == "trajectory" or graded:
                    known.add(examples, scores, "out-of-fold solutions")
        for name, examples, of_set in sets:
            scored = zip(examples, score_set(scorer, examples), strict=True)
            usable = [(example, score) for example, score in scored if score is not None]
            for kind, known in found.items():
                if kind in of_set:
                    known.add([e for e, _ in usable], [score for _, score in usable], name)
    if not any(known.examples for known in found.values()):
        raise TrainingError("there is nothing to fit on; give --on, --folds or --held-out")
    return found


def _check_export(manifest: Manifest, artifact: Path, checkpoint: Path) -> None:
    if not is_export_of(manifest, checkpoint):
        raise TrainingError(
            f"{artifact} was not exported from {checkpoint} as it is now; export it again, or "
            "leave --artifact out to score by torch"
        )


def fit_calibration(
    kind: Kind,
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore],
    *,
    fitted_on: str,
    readout: Readout | None = None,
) -> CalibrationResult | None:
    """The calibration fitted on all known labels of ``kind``; None if there are fewer than 100, if
    they are all right or all wrong, or if the scores do not rise with them.

    ``readout``: how the scores were read; without one they are probabilities. A raw score is taken
    as log-odds, so before calibration it claims σ of itself."""
    values, right, groups = _labelled(kind, examples, scores)
    claims = Claims(readout)
    if len(values) < _MIN_SCORES:
        return None
    log_odds = claims.log_odds(values)
    crossed = cross_fitted_calibration(log_odds, right, groups)
    if crossed is None:
        return None
    temperature, bias = fit_temperature(log_odds, right)
    before, after = (
        calibration(claims.probabilities(values), right),
        calibration(crossed, right),
    )
    assert before is not None  # there are more scores than a calibration needs
    assert after is not None
    text = (
        f"{len(values)} scores of {fitted_on}: ECE {before.ece:.3f} before, {after.ece:.3f} after"
    )
    fitted = Calibration(temperature=temperature, bias=bias, fitted_on=text)
    return CalibrationResult(kind, len(values), before.ece, after.ece, fitted)


def fit_alpha(
    known: Mapping[Kind, KnownScores], results: Sequence[CalibrationResult], *, before: float
) -> AlphaChoice | None:
    """The α with which the reward ranks the solutions with trajectory scores best, once all scores
    are calibrated as ``results`` say; see :func:`choose_alpha`."""
    fitted = {result.kind: result.fitted for result in results if result.helps}
    of_steps, of_wholes = (Claims(known[kind].readout) for kind in ("step", "trajectory"))
    rows: list[tuple[float, float, bool, str]] = []
    solutions = known["trajectory"]
    for example, score in zip(solutions.examples, solutions.scores, strict=True):
        whole = score.trajectory_score
        if whole is None or not len(score.step_scores) or math.isnan(example.trajectory_label):
            continue
        steps = of_steps.calibrated(score.step_scores, fitted.get("step")).mean()
        value = of_wholes.calibrated(whole, fitted.get("trajectory"))
        rows.append((float(steps), float(value), example.trajectory_label >= 0.5, example.group))
    if not rows:
        return None
    steps, wholes, right, groups = zip(*rows, strict=True)
    return choose_alpha(np.array(steps), np.array(wholes), np.array(right), groups, before=before)


def _labelled(
    kind: Kind, examples: Sequence[Example], scores: Sequence[TrajectoryScore]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    rows: list[tuple[float, float, str]] = []
    for example, score in zip(examples, scores, strict=True):
        if kind == "step" and len(score.step_scores):
            pairs = zip(score.step_scores.tolist(), example.step_labels, strict=True)
            rows += [(s, label, example.group) for s, label in pairs]
        elif kind == "trajectory" and score.trajectory_score is not None:
            rows.append((score.trajectory_score, example.trajectory_label, example.group))
    known = [row for row in rows if not math.isnan(row[1])]
    return (
        np.array([score for score, _, _ in known], dtype=np.float64),
        np.array([label >= 0.5 for _, label, _ in known], dtype=np.bool_),
        [group for _, _, group in known],
    )


def write_calibration(
    folder: Path,
    results: Sequence[CalibrationResult],
    alpha: AlphaChoice | None = None,
    progress: Progress = silent,
) -> None:
    """Write the calibrations that help, and an ``alpha`` that does, to ``checkpoint.json``, and the
    reference's new scores. A threshold for first errors is dropped with the step scores that it
    was fitted for.

    Either all of it is there afterwards, or after a kill the checkpoint is as it was.
    """
    checkpoint = read_checkpoint(folder)
    changes: dict[str, Any] = {}
    if alpha is not None and alpha.helps:
        changes["alpha"] = alpha.chosen
    for result in results:
        name = f"{result.kind}_readout"
        readout: Readout | None = getattr(checkpoint, name)
        if readout is None or not result.helps:
            continue
        # A raw score becomes a probability, in [0, 1] whatever it was scaled by before.
        scale = {"scale": 1.0, "offset": 0.0} if readout.bounds is None else {}
        fitted = one_after(readout.calibration, result.fitted)
        changes[name] = readout.model_copy(update={"calibration": fitted, **scale})
        if result.kind == "step":
            changes["first_error"] = None  # a threshold for the scores as they were
    with _changed(folder, changes) as partial:
        # Torch is installed here; it may not be where the checkpoint is exported.
        base = find_base_model(checkpoint.base, folder)
        record_reference(partial, base=base, progress=progress)


def write_rule(folder: Path, rule: FirstErrorRule) -> None:
    """Write ``rule`` to ``checkpoint.json``. The reference's scores stay, since no score depends on
    it. Either all of it is there afterwards, or the checkpoint is as it was."""
    with _changed(folder, {"first_error": rule}) as partial:
        carry_reference(folder, partial)


@contextmanager
def _changed(folder: Path, changes: Mapping[str, Any]) -> Iterator[Path]:
    """The files of a checkpoint with other settings, in a folder that replaces them at the end."""
    checkpoint = read_checkpoint(folder)
    with claimed_folder(folder), replacing_files(folder, last=CHECKPOINT_NAME) as partial:
        for name in (HEADS_NAME, ADAPTER_NAME, ADAPTER_CONFIG_NAME):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)
        text = checkpoint.model_copy(update=changes).to_json()
        (partial / CHECKPOINT_NAME).write_text(text, encoding="utf-8")
        yield partial


def check_checkpoint(folder: Path) -> None:
    """Raises :class:`TrainingError` if ``folder`` is not a checkpoint."""
    if not (folder / CHECKPOINT_NAME).is_file():
        raise TrainingError(
            f"{folder} is not a checkpoint; calibrate the checkpoint and export it again"
        )


def one_after(first: Calibration | None, second: Calibration) -> Calibration:
    """The calibration that does what both do, one after the other."""
    if first is None:
        return second
    return second.model_copy(
        update={
            "temperature": first.temperature * second.temperature,
            "bias": first.bias / second.temperature + second.bias,
        }
    )


def refuse_calibrated(folder: Path, kinds: Sequence[Kind] = KINDS) -> None:
    """Raises :class:`TrainingError` if ``folder`` is not a checkpoint, or if one of ``kinds`` is
    already calibrated."""
    check_checkpoint(folder)
    checkpoint = read_checkpoint(folder)
    for kind in kinds:
        readout: Readout | None = getattr(checkpoint, f"{kind}_readout")
        if readout is not None and readout.calibration is not None:
            fitted_on = readout.calibration.fitted_on
            raise TrainingError(
                f"the {kind} scores of {folder} are already calibrated"
                + (f" ({fitted_on})" if fitted_on else "")
                + "; use --refit to fit them again, or --only for the other kind"
            )
