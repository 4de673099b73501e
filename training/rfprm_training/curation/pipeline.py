"""Raw traces in, traces worth labelling out, with a report of what was dropped and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.claims import claimed
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.ground.whole_files import check_target, replacing, write_whole
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.jsonl import json_line
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.sources import read_records, read_traces
from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.curation.config import CurationConfig
from rfprm_training.curation.contamination import EvaluationQuestions
from rfprm_training.curation.duplicates import NearDuplicates
from rfprm_training.curation.filters import reason_to_drop
from rfprm_training.resumable import check_free

_EXAMPLES = 3


@dataclass
class CurationReport:
    """What was read, kept and dropped."""

    num_read: int = 0
    num_kept: int = 0
    num_kept_by_source: dict[str, int] = field(default_factory=dict)
    num_dropped: dict[str, int] = field(default_factory=dict)
    """By reason, in order of first occurrence."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """By reason, the first places and what was found there."""
    num_steps: int = 0
    num_characters: int = 0
    num_evaluation_questions: int = 0

    def drop(self, reason: str, place: str, seen: str) -> None:
        self.num_dropped[reason] = self.num_dropped.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(f"{place}: {seen}")

    def keep(self, trajectory: Trajectory) -> None:
        self.num_kept += 1
        source = trajectory.source or "(none)"
        self.num_kept_by_source[source] = self.num_kept_by_source.get(source, 0) + 1
        self.num_steps += len(trajectory.steps)
        self.num_characters += sum(map(len, (*trajectory.steps, *trajectory.response)))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def curate(
    sources: Sequence[str],
    output: Path,
    config: CurationConfig,
    *,
    split: SplitRule = "blank_lines",
    overwrite: bool = False,
    on_progress: Callable[[CurationReport], None] | None = None,
) -> CurationReport:
    """Write the traces that pass to the JSONL file ``output``, and a report to
    ``output.report.json``.

    Memory holds one record, the evaluation questions and a cache of fixed size. The output appears
    when it is whole, in the order of the sources. Raises :class:`TrainingError` if ``output``
    exists without ``overwrite``, or an evaluation set cannot be read.
    """
    check_free(output, overwrite=overwrite)
    reads = [Path(source) for source in (*sources, *config.evaluation_sets)]
    for target in (output, _report_path(output)):
        check_target(target, reads=reads)
    report = CurationReport()
    evaluation = EvaluationQuestions(
        (question for source in config.evaluation_sets for question in _questions(source)),
        max_shared=config.max_contamination,
    )
    report.num_evaluation_questions = len(evaluation)
    with ExitStack() as stack:
        stack.enter_context(claimed(output))
        duplicates = None
        if config.duplicates.threshold is not None:
            duplicates = stack.enter_context(
                NearDuplicates(
                    config.duplicates.threshold,
                    num_permutations=config.duplicates.num_permutations,
                    seed=config.seed + 1,
                )
            )
        file = stack.enter_context(replacing(output))
        for source in sources:
            for record in read_traces(source, Reading(split)):
                report.num_read += 1
                kept = _judge(record, config, evaluation, duplicates, report)
                if kept is not None:
                    report.keep(kept)
                    file.write(json_line(kept.model_dump(mode="json")))
                if on_progress is not None and report.num_read % 100 == 0:
                    on_progress(report)
        _write_report(output, report)
    return report


def _questions(source: str) -> Iterator[str]:
    for record in read_records(source):
        question = record.question
        if isinstance(question, InvalidTrajectoryError):
            raise TrainingError(
                f"the evaluation set {source!r}, {record.place.in_source}: {question}; mend the "
                "record, because an unread question cannot be kept out of training"
            )
        yield question


def _judge(
    record: Record,
    config: CurationConfig,
    evaluation: EvaluationQuestions,
    duplicates: NearDuplicates | None,
    report: CurationReport,
) -> Trajectory | None:
    trajectory, place = record.trajectory, str(record.place)
    if isinstance(trajectory, InvalidTrajectoryError):
        report.drop("unreadable", place, str(trajectory))
        return None
    reason = reason_to_drop(trajectory, config.filters)
    if reason is not None:
        report.drop(reason[0], place, reason[1])
        return None
    contaminated = evaluation.contains(trajectory.question)
    if contaminated is not None:
        report.drop("contamination", place, contaminated)
        return None
    if duplicates is not None:
        text = "\n".join((trajectory.question, *trajectory.steps, *trajectory.response))
        # A right and a wrong trace may differ in one number; both are worth keeping.
        earlier = duplicates.add(text, place, kind=str(trajectory.outcome))
        if earlier is not None:
            report.drop("duplicate", place, f"like {earlier}")
            return None
    return trajectory


def _report_path(output: Path) -> Path:
    return output.with_name(output.name + ".report.json")


def _write_report(output: Path, report: CurationReport) -> None:
    text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False)
    write_whole(_report_path(output), text + "\n")
