"""Reads evaluation sets with human or verified labels: which file is in which format."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rfprm_runtime.answers.compare import answers_agree
from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.whole_files import errors_path_of
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.known import references_of
from rfprm_runtime.traces.layouts import unwrapped
from rfprm_runtime.traces.names import ANSWER_FIELDS, OUTCOME_FIELDS
from rfprm_runtime.traces.present import is_empty
from rfprm_runtime.traces.record import Place, Record
from rfprm_runtime.traces.right import RIGHT_FROM, Agree, comparing, is_right
from rfprm_runtime.traces.sources import is_data_file, read_records, read_traces
from rfprm_runtime.traces.tally import Tally
from rfprm_runtime.types import Trajectory
from rfprm_training import DataError, TrainingError
from rfprm_training.evaluation.published_formats import FORMATS, SUBSETS, ReadRow, verdict
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.rewarded import question_key, read_rewarded

_logger = logging.getLogger(__name__)

FILE_FORMATS = (*FORMATS, "outcomes", "rewarded")
PUBLISHED: dict[str, tuple[str, ...]] = {
    "processbench": tuple(f"hf://Qwen/ProcessBench:{subset}" for subset in SUBSETS),
    "prmbench": ("hf://hitsmy/PRMBench_Preview",),
}
"""Where the authors publish a set, by its format."""

_SAVED_MARKERS = ("dataset_info.json", "dataset_dict.json")
"""What the folder of a data set that ``save_to_disk`` wrote holds: it is read as one source."""
_IDENTITY = {"prmbench": ("classification", "idx")}
"""Fields that tell rows apart, where a set repeats some: PRMBench has five twice, and its authors
count the first."""
_REPEATED = "left out, as upstream does, what has the classification and idx of an earlier row"


def read_evaluation_set(spec: str, reading: Reading | None = None) -> list[Example]:
    """The examples of ``FORMAT:PATH``. For a format in :data:`PUBLISHED`, ``FORMAT`` alone is what
    its authors publish on the Hub; a folder of its files is read whole.

    Besides the published formats there are ``outcomes`` (traces in any common format with a
    verified outcome or a reference answer, read by ``reading``) and ``rewarded`` (output of ``rfprm
    label``; a reward of 0.5 or more counts as right). What was made of rows that may have been
    meant otherwise is logged. Raises :class:`TrainingError` for an unknown format, for a set
    without rows, or naming a bad record.
    """
    name, places = places_of(spec)
    if name == "rewarded":
        rows = (row for place in places for row in read_rewarded(Path(place)))
        examples = [row.as_example(held_out=True) for row in rows]
    elif name == "outcomes":
        examples = _outcomes(places, reading or Reading())
    else:
        examples = list(_published(name, places))
    if not examples:
        raise TrainingError(f"{spec} holds no rows to measure on")
    return examples


def places_of(spec: str) -> tuple[str, Sequence[str]]:
    """The format of ``FORMAT:PATH``, and the files or data sets that it names. Raises
    :class:`TrainingError` for an unknown format."""
    name, colon, place = spec.partition(":")
    if name not in FILE_FORMATS or not (place if colon else name in PUBLISHED):
        raise TrainingError(
            f"got the evaluation set {spec!r}, expected FORMAT:PATH with a format of "
            f"{list(FILE_FORMATS)}; only {' and '.join(PUBLISHED)} are on the Hub, and need no path"
        )
    return name, _files(place) if colon else PUBLISHED[name]


def _files(place: str) -> Sequence[str]:
    """The data files of a folder, such as the subsets of ProcessBench; else ``place``."""
    folder = Path(place)
    try:
        inside = sorted(folder.iterdir())
        if any((folder / marker).is_file() for marker in _SAVED_MARKERS):
            return (place,)
    except (OSError, ValueError):  # no folder; a NUL in the name
        return (place,)
    of_others = {errors_path_of(path) for path in inside}
    files = [
        str(path)
        for path in inside
        if is_data_file(path) and path not in of_others and not path.name.startswith(".")
    ]
    if not files:
        raise TrainingError(
            f"the folder {place} holds no data files, and those of its subfolders are not read; "
            "name the files, or the folder that holds them"
        )
    return files


def check_reading(specs: Sequence[str], reading: Reading) -> None:
    """Raises :class:`TrainingError` if ``reading`` asks for something that no set of ``specs``
    heeds."""
    if reading != Reading() and not any(spec.startswith("outcomes:") for spec in specs):
        raise TrainingError("--split and options for fields are for sets of outcomes; name one")


def _published(name: str, places: Iterable[str]) -> Iterator[Example]:
    seen: set[tuple[str, ...]] = set()
    notes = _Notes()
    for place in places:
        for record in read_records(place):
            row = _read_row(name, record)
            identity = tuple(record.fields.get(field) for field in _IDENTITY.get(name, ()))
            if identity and not any(map(is_empty, identity)):
                texts = tuple(map(str, identity))
                if texts in seen:
                    notes.add(record.place, {_REPEATED})
                    continue
                seen.add(texts)
            notes.add(record.place, row.notes)
            yield from row.examples
    notes.tell()


def _read_row(name: str, record: Record) -> ReadRow:
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
            count = f"{len(places)} rows, the first" if len(places) > 1 else "one row,"
            _logger.warning("%s (%s at %s)", note, count, places[0])


def _outcomes(places: Sequence[str], reading: Reading) -> list[Example]:
    """Traces whose answer cannot be compared with the reference are left out, and counted."""
    examples, notes = [], _Notes()
    with comparing() as agree:
        for place in places:
            tally, by_answer = Tally(), 0
            for record in read_traces(place, reading):
                trajectory = record.trajectory
                if isinstance(trajectory, InvalidTrajectoryError):
                    raise TrainingError(f"{record.place}: {trajectory}")
                tally.count(record, trajectory)
                stated = _stated_outcomes(record)
                if len({outcome >= RIGHT_FROM for outcome in stated.values()}) > 1:
                    notes.add(record.place, {f"took {next(iter(stated))} where outcomes disagree"})
                outcome = next(iter(stated.values()), None)
                if outcome is None:
                    by_answer += 1
                    outcome = is_right(record, trajectory, agree)
                if outcome is None:
                    notes.add(record.place, {_undecided(agree)})
                    continue
                examples.append(_with_outcome(trajectory, float(outcome)))
            for sentence in tally.sentences():
                _logger.warning("%s: %s", place, sentence)
            if by_answer:
                _logger.warning(
                    "%s: %d outcomes were decided by the row's reference answer", place, by_answer
                )
    notes.tell()
    return examples


def _stated_outcomes(record: Record) -> dict[str, float]:
    """What a row states in each field of an outcome; nothing if it gives a reference answer
    instead."""
    fields, stated = unwrapped(record.own), dict[str, float]()
    for name in OUTCOME_FIELDS:
        value = fields.get(name)
        if isinstance(value, (list, Mapping)):
            continue
        try:
            found = verdict(value)
        except DataError as error:
            raise TrainingError(
                f"{record.place}: {name} {error}; rename the field if it is no outcome"
            ) from None
        if found is not None:
            stated[name] = found
    if not stated and not references_of(fields, record.reading.names.given("answer", fields)):
        raise TrainingError(
            f"{record.place} has no outcome, expected true, false or a share in one of "
            f"{', '.join(OUTCOME_FIELDS)}, or the right answer in one of {', '.join(ANSWER_FIELDS)}"
        )
    return stated


def _undecided(agree: Agree) -> str:
    way_out = "; the extra math decides more" if agree is answers_agree else ""
    return f"left out answers that could not be compared with the reference{way_out}"


def _with_outcome(trajectory: Trajectory, outcome: float) -> Example:
    labels = (UNKNOWN,) * len(trajectory.steps)
    group = question_key(trajectory.question)
    return Example(trajectory, labels, outcome, group, "outcomes", held_out=True)
