"""Measures a PRM, or an LLM as a judge, on evaluation sets: the figures of each set, the tables
that the authors of a set publish, and the decisions in which another scorer differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.ground.progress import Progress, counting, silent, stage
from rfprm_runtime.hub.artifacts import find_artifact
from rfprm_runtime.hub.ids import hint_for_missing
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.types import TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.evaluation.claims import Claims
from rfprm_training.evaluation.decisions import Decisions, changed_decisions
from rfprm_training.evaluation.held_out import open_scorer
from rfprm_training.evaluation.judged import Judged, judge_set
from rfprm_training.evaluation.prmbench import PRMBench, prmbench_table
from rfprm_training.evaluation.processbench import ProcessBench, processbench_table
from rfprm_training.evaluation.set_figures import (
    SetEvaluation,
    score_set,
    summarise_set,
)
from rfprm_training.evaluation.set_formats import read_evaluation_set
from rfprm_training.example import Example
from rfprm_training.labelling.expert.config import ExpertConfig

Scores = list[TrajectoryScore | None]


@dataclass(frozen=True)
class EvaluatedSets:
    """What was measured; sets by what named them, ``FORMAT:PATH``."""

    sets: Mapping[str, SetEvaluation]
    processbench: ProcessBench | None = None
    """Over all sets in that format together, as its subsets come in files of their own."""
    prmbench: PRMBench | None = None
    decisions: Mapping[str, Decisions | None] = field(default_factory=dict)
    """Of each set, if there was a scorer to compare with."""
    judged: Mapping[str, Judged] = field(default_factory=dict)
    """Of each set, if an LLM graded it."""

    def as_dict(self) -> dict[str, Any]:
        """The sets by name, and beside them what there is of ``processbench_table``,
        ``prmbench_table``, ``decisions`` and ``judging``."""
        found: dict[str, Any] = {name: one.as_dict() for name, one in self.sets.items()}
        if self.processbench is not None:
            table = asdict(self.processbench)
            for name, subset in self.processbench.subsets.items():
                for rule in ("at_half", "at_chosen"):
                    accuracy = getattr(subset, rule)
                    if accuracy is not None:
                        table["subsets"][name][rule]["f1"] = accuracy.f1
            for name in ("mean_f1_at_half", "mean_f1_at_chosen"):
                table[name] = getattr(self.processbench, name)
            found["processbench_table"] = table
        if self.prmbench is not None:
            found["prmbench_table"] = {
                **asdict(self.prmbench),
                "prm_score": self.prmbench.prm_score,
            }
        if self.decisions:
            found["decisions"] = {
                name: None if one is None else asdict(one) for name, one in self.decisions.items()
            }
        if self.judged:
            found["judging"] = {name: one.as_dict() for name, one in self.judged.items()}
        return found


def evaluate_sets(
    specs: Sequence[str],
    *,
    model: str | Path | None = None,
    judge: ExpertConfig | None = None,
    against: str | Path | None = None,
    score_prefixes: bool = False,
    reading: Reading | None = None,
    progress: Progress = silent,
) -> EvaluatedSets:
    """Score the sets by the PRM at ``model``, or else by ``judge``.

    A PRM is a checkpoint or an artifact, which may be on the Hub; see
    :func:`~rfprm_runtime.hub.artifacts.find_artifact`.

    ``against`` is another PRM that scores the same. ``score_prefixes``: reward models of whole
    sequences score a trace after each step, too. ``reading``: of the sets of outcomes. All sets
    are read before any is scored, because a wrong path must not cost an hour; and one PRM is in
    memory at a time. ``progress`` is told of what is judged.

    Raises :class:`TrainingError` for a set that cannot be read, and for one of which ``judge``
    graded nothing.
    """
    sets = {spec: read_evaluation_set(spec, reading) for spec in specs}
    against = None if against is None else _found(against)
    if model is None:
        assert judge is not None, "either a model or a judge"
        judged = {}
        for spec, examples in sets.items():
            told = counting(stage(progress, f"judging {spec}, trajectory"), len(examples))
            judged[spec] = judge_set(examples, judge, on_judged=told)
            # Figures of nothing would look like those of a judge that finds no errors.
            if not any(judged[spec].scores):
                raise TrainingError(f"no trajectory of {spec} was judged; {judged[spec]}")
        found = summarise_sets(sets, {spec: one.scores for spec, one in judged.items()}, None)
        return replace(found, judged=judged)
    scores, manifest = _scored(sets, _found(model), score_prefixes)
    found = summarise_sets(sets, scores, manifest)
    if against is None:
        return found
    others, other_manifest = _scored(sets, against, score_prefixes)
    compare = partial(changed_decisions, claims=Claims.of_steps(manifest))
    decisions = {
        spec: compare(
            examples, scores[spec], others[spec], other_claims=Claims.of_steps(other_manifest)
        )
        for spec, examples in sets.items()
    }
    return replace(found, decisions=decisions)


def _found(prm: str | Path) -> Path:
    """The folder of a PRM, fetched if need be: before anything is scored."""
    folder = find_artifact(prm)
    if not folder.is_dir():
        raise TrainingError(
            f"there is no checkpoint or artifact {folder}{hint_for_missing(folder)}"
        )
    return folder


def _scored(
    sets: Mapping[str, list[Example]], model: Path, score_prefixes: bool
) -> tuple[dict[str, Scores], Manifest]:
    with open_scorer(model, score_prefixes=score_prefixes) as scorer:
        scores = {spec: score_set(scorer, examples) for spec, examples in sets.items()}
        return scores, scorer.manifest


def summarise_sets(
    sets: Mapping[str, list[Example]],
    scores: Mapping[str, Scores],
    manifest: Manifest | None,
) -> EvaluatedSets:
    """All figures and tables. Pure. ``manifest``: of the PRM that scored; without one, scores are
    probabilities."""
    claims = Claims.of_steps(manifest)

    def table(name: str, make: Callable[[list[Example], Scores, Claims], Any]) -> Any:
        chosen = [spec for spec in sets if spec.partition(":")[0] == name]
        if not chosen:
            return None
        return make(
            [example for spec in chosen for example in sets[spec]],
            [score for spec in chosen for score in scores[spec]],
            claims,
        )

    return EvaluatedSets(
        {spec: summarise_set(examples, scores[spec], manifest) for spec, examples in sets.items()},
        processbench=table("processbench", processbench_table),
        prmbench=table("prmbench", prmbench_table),
    )
