"""Files of trajectories in, files of rewarded trajectories out; resumable.

Two passes over a file: one that learns its fingerprint and draws the steps which coherence compares
with, one that labels. Memory holds a batch and the drawn steps, whatever the size of the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.ground.whole_files import check_target, errors_path_of
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.sources import Source, open_source
from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.labelling.config import LabelConfig
from rfprm_training.labelling.encoders import SentenceEncoder, SentenceTransformerEncoder
from rfprm_training.labelling.expert.budget import BudgetSpentError, Usage
from rfprm_training.labelling.labeller import Labeller
from rfprm_training.labelling.negatives import Negative, NegativePool, sample_steps
from rfprm_training.resumable import ResumableLines, check_free
from rfprm_training.rewarded import question_key


@dataclass
class LabelSummary:
    """What :func:`label_file` did."""

    num_labelled: int = 0
    num_failed: int = 0
    """Records that are no trajectory; they are listed in the errors file."""
    num_incomplete: int = 0
    """Labelled trajectories of which something could not be found out (their ``errors`` say)."""
    stopped: str | None = None
    """Why it stopped before the end; run it again to go on."""
    usage: dict[str, Usage] = field(default_factory=dict)


def label_file(
    source: str,
    output: Path,
    config: LabelConfig,
    *,
    split: SplitRule = "blank_lines",
    overwrite: bool = False,
    encoder: SentenceEncoder | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> LabelSummary:
    """Label every trajectory of ``source`` into the JSONL file ``output``.

    Run again after a kill it goes on where it stopped, and gives the bytes of a run that was never
    stopped. What it goes on with is known by the content of ``source``: a JSONL or Parquet file, or
    a data set of the Hub, which is downloaded. Records that are no trajectories are listed in
    ``output.errors.jsonl``.

    Raises :class:`TrainingError` where an earlier run with another input or other settings was not
    finished (``overwrite`` begins again) and where the input changes meanwhile, and
    :class:`RfprmError` where an output would replace the input.
    """
    for target in (output, errors_path_of(output)):
        check_target(target, reads=[Path(source)])
    check_free(output, overwrite=overwrite)
    with closing(open_source(source)) as opened:
        steps: list[Negative] = []
        if "coherence" in config.steps.components:
            every_step = _all_steps(opened, Reading(split))
            steps = sample_steps(every_step, config.steps.reservoir_size, config.seed)
        key = {
            "source": opened.name,  # labels name it
            "input": opened.fingerprint(),
            "split": split,
            "config": what_labels_depend_on(config),
        }
        with ResumableLines(output, key, overwrite=overwrite) as lines:
            pool = None
            if "coherence" in config.steps.components:
                encoder = encoder or SentenceTransformerEncoder(config.steps.encoder)
                pool = NegativePool(steps, encoder, config.seed)
            labeller = Labeller(config, encoder=encoder, negatives=pool)
            summary = asyncio.run(
                _label_into(lines, labeller, _traces(opened, Reading(split)), on_progress)
            )
            if summary.stopped is None:
                if opened.fingerprint() != key["input"]:
                    raise TrainingError(
                        f"{source} changed while it was labelled, so {output} would be of two "
                        "inputs; run it again with --overwrite"
                    )
                lines.finish()
            return summary


def what_labels_depend_on(config: LabelConfig) -> dict[str, Any]:
    """The settings without those that only say how fast, how dear and how patient a run may be."""
    how = {
        *("concurrency", "timeout", "max_attempts", "max_wait", "cache", "api_key_env"),
        *("price_per_million_prompt_tokens", "price_per_million_answer_tokens"),
        *("max_cost", "max_tokens"),
    }
    dumped: dict[str, Any] = config.model_dump(
        mode="json", exclude={"batch_size": True, "expert": how, "policy": how}
    )
    return dumped


def _traces(source: Source, reading: Reading) -> Iterator[Record]:
    for record in source.records(reading):
        yield from record.each()


def _all_steps(source: Source, reading: Reading) -> Iterator[Negative]:
    for record in _traces(source, reading):
        if isinstance(record.trajectory, Trajectory):
            key = question_key(record.trajectory.question)
            for step in record.trajectory.steps:
                yield Negative(key, step)


async def _label_into(
    lines: ResumableLines,
    labeller: Labeller,
    records: Iterable[Record],
    on_progress: Callable[[int], None] | None,
) -> LabelSummary:
    summary = LabelSummary()
    # What is done is passed over, and its trajectories are not even read.
    left = islice(records, lines.num_done, None)
    async with labeller:
        for batch in _batches(left, labeller.config.batch_size):
            summary.stopped = await _label_batch(lines, labeller, batch, summary)
            if on_progress is not None:
                on_progress(lines.num_done)
            if summary.stopped is not None:
                break
        summary.usage = labeller.usage
    summary.num_labelled, summary.num_failed = lines.num_lines, lines.num_errors
    return summary


async def _label_batch(
    lines: ResumableLines, labeller: Labeller, batch: list[Record], summary: LabelSummary
) -> str | None:
    """Write what the batch gives, in order; why to stop, if so."""
    found = [record.trajectory for record in batch]
    results = iter(await labeller.label([item for item in found if isinstance(item, Trajectory)]))
    for record, item in zip(batch, found, strict=True):
        if isinstance(item, InvalidTrajectoryError):
            lines.write_error({"record": str(record.place), "error": str(item)})
            continue
        result = next(results)
        if isinstance(result, BudgetSpentError):
            return str(result)
        if isinstance(result, BaseException):
            raise result
        summary.num_incomplete += bool(result.errors)
        lines.write(result.to_line())
    return None


def _batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch
