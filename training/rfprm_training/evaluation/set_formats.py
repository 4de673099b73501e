"""Reads evaluation sets with human or verified labels: which file is in which format."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.names import ANSWER_FIELDS, OUTCOME_FIELDS
from rfprm_runtime.traces.record import Place, Record
from rfprm_runtime.traces.right import Agree, comparing, is_right
from rfprm_runtime.traces.sources import is_data_file, read_records, read_traces
from rfprm_runtime.traces.tally import Tally
from rfprm_training import DataError, TrainingError
from rfprm_training.evaluation.published_formats import FORMATS, SUBSETS, ReadRow
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.rewarded import question_key, read_rewarded

_logger = logging.getLogger(__name__)

FILE_FORMATS = (*FORMATS, "outcomes", "rewarded")
PUBLISHED: dict[str, tuple[str, ...]] = {
    "processbench": tuple(f"hf://Qwen/ProcessBench:{subset}" for subset in SUBSETS),
    "prmbench": ("hf://hitsmy/PRMBench_Preview",),
}
"""Where the authors publish a set, by its format."""

_OF_SAVED = ("dataset_info.json", "dataset_dict.json")
"""What the folder of a data set that ``save_to_disk`` wrote holds: it is read as one source."""
_IDENTITY = {"prmbench": ("classification", "idx")}
"""Fields that tell rows apart, where a set repeats some: PRMBench has five twice, and its authors
count the first."""
_REPEATED = "repeats the classification and idx of an earlier one, and is left out as upstream does"


def read_evaluation_set(spec: str, reading: Reading | None = None) -> list[Example]:
    """The examples of ``FORMAT:PATH``. For a format in :data:`PUBLISHED`, ``FORMAT`` alone is what
    its authors publish on the Hub; a folder of its files is read whole.

    Besides the published formats there are ``outcomes`` (traces in any common format with a
    verified outcome or a reference answer, read by ``reading``) and ``rewarded`` (output of ``rfprm
    label``; a reward of 0.5 or more counts as right). What was made of rows that may have been
    meant otherwise is logged. Raises :class:`TrainingError` for an unknown format, for a set
    without rows, or naming a bad record.
    """
    name, colon, place = spec.partition(":")
    if name not in FILE_FORMATS or not (colon or name in PUBLISHED):
        raise TrainingError(
            f"got the evaluation set {spec!r}, expected FORMAT:PATH with a format of "
            f"{list(FILE_FORMATS)}; only {' and '.join(PUBLISHED)} are on the Hub, and need no path"
        )
    places = files_of(place) if colon else PUBLISHED[name]
    if name == "rewarded":
        rows = (row for place in places for row in read_rewarded(Path(place)))
        examples = [row.as_example(held_out=True) for row in rows]
    elif name == "outcomes":
        examples = [e for place in places for e in _outcomes(place, reading or Reading())]
    else:
        examples = list(_published(name, places))
    if not examples:
        raise TrainingError(f"{spec} holds no rows to measure on")
    return examples


def files_of(place: str) -> Sequence[str]:
    """The files of a folder of data files, such as the subsets of ProcessBench; else ``place``."""
    folder = Path(place)
    try:
        files = sorted(path for path in folder.iterdir() if is_data_file(path))
    except OSError:
        return (place,)
    is_saved = any((folder / name).is_file() for name in _OF_SAVED)
    return (place,) if is_saved or not files else list(map(str, files))


def _published(name: str, places: Iterable[str]) -> Iterator[Example]:
    seen: set[tuple[str, ...]] = set()
    notes = _Notes()
    for place in places:
        for record in read_records(place):
            row = _row(name, record)
            identity = tuple(str(record.fields.get(field, "")) for field in _IDENTITY.get(name, ()))
            if all(identity) and identity in seen:
                notes.add(record.place, {_REPEATED})
                continue
            if identity:
                seen.add(identity)
            notes.add(record.place, row.notes)
            yield from row.examples
    notes.tell()


def _row(name: str, record: Record) -> ReadRow:
    if record.error is not None:
        raise TrainingError(f"{record.place}: {record.error}")
    try:
        return FORMATS[name](record.fields)
    except (DataError, InvalidTrajectoryError) as error:
        found = ", ".join(map(repr, record.fields))
        raise TrainingError(
            f"{record.place} is not in the format {name}: {error}; the row has {found}"
        ) from None


@dataclass
class _Notes:
    """What is to be said of rows, counted."""

    places: dict[str, list[Place]] = field(default_factory=dict)

    def add(self, place: Place, notes: Iterable[str]) -> None:
        for note in notes:
            self.places.setdefault(note, []).append(place)

    def tell(self) -> None:
        for note, places in self.places.items():
            more = f" and {len(places) - 1} other rows" if len(places) > 1 else ""
            _logger.warning("%s%s: %s", places[0], more, note)


def _outcomes(place: str, reading: Reading) -> Iterator[Example]:
    tally, by_answer = Tally(), 0
    with comparing() as agree:
        for record in read_traces(place, reading):
            example, knows_outcome = _outcome(record, agree)
            tally.count(record, example.trajectory)
            by_answer += not knows_outcome
            yield example
    for sentence in tally.sentences():
        _logger.warning("%s: %s", place, sentence)
    if by_answer:
        _logger.warning("%s: %d outcomes by the reference answer in the row", place, by_answer)


def _outcome(record: Record, agree: Agree) -> tuple[Example, bool]:
    """The example of a trace, and whether its row gave the outcome itself."""
    trajectory = record.trajectory
    if isinstance(trajectory, InvalidTrajectoryError):
        raise TrainingError(f"{record.place}: {trajectory}")
    outcome: Any = trajectory.outcome
    if outcome is None:
        outcome = is_right(record, trajectory, agree)
    if outcome is None:
        raise TrainingError(
            f"{record.place} has no outcome, expected true, false or a share in one of "
            f"{', '.join(OUTCOME_FIELDS)}, or the right answer in one of "
            f"{', '.join(ANSWER_FIELDS)}"
        )
    labels = (UNKNOWN,) * len(trajectory.steps)
    group = question_key(trajectory.question)
    example = Example(trajectory, labels, float(outcome), group, "outcomes", held_out=True)
    return example, trajectory.outcome is not None
