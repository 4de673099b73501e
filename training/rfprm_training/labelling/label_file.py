"""Files of trajectories in, files of rewarded trajectories out; resumable.

Makes passes over a file: first it takes its fingerprint, samples steps for coherence to compare
with, and collects right solutions if asked for; then it labels. Memory holds a batch, the sampled
steps and the right solutions, whatever the size of the file.
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
from rfprm_runtime.ground.made_from import without_later
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.ground.whole_files import check_target, errors_path_of
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.sources import Source, open_source
from rfprm_runtime.traces.tally import Tally
from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.labelling.config import LabelConfig
from rfprm_training.labelling.encoders import SentenceEncoder, SentenceTransformerEncoder
from rfprm_training.labelling.expert.budget import BudgetSpentError, Usage
from rfprm_training.labelling.expert.config import PROMPT_OF
from rfprm_training.labelling.expert.prompts import TEMPLATE_NAMES, load_prompt
from rfprm_training.labelling.labeller import Labeller
from rfprm_training.labelling.negatives import Negative, NegativePool, sample_steps
from rfprm_training.labelling.right_solutions import RightSolutions
from rfprm_training.resumable import ResumableLines, check_free
from rfprm_training.rewarded import question_key

_FORMAT_VERSION = 2
"""Rises when the code begins to give other labels."""
_LATER = {"steps.right_solutions": 0, "expert.grading": "written", "policy.grading": "written"}
"""Settings that came later, with what they were before."""


@dataclass
class LabelSummary:
    """What :func:`label_file` did."""

    num_labelled: int = 0
    num_failed: int = 0
    """Records that are not trajectories; the errors file lists them."""
    num_incomplete: int = 0
    """Labelled trajectories with unknown rewards; their ``errors`` say why."""
    stopped: str | None = None
    """Why it stopped before the end; run it again to resume."""
    usage: dict[str, Usage] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    """Which fields the traces were read from that this call has labelled."""


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

    ``source`` is a JSONL or Parquet file, or a data set on the Hub, which is downloaded. After a
    kill the same call resumes, and gives the same bytes as a run that was never stopped; the input
    is recognised by its content. Records that are not trajectories are listed in
    ``output.errors.jsonl``.

    Raises :class:`TrainingError` if ``output`` was started with another input or other settings
    (``overwrite`` starts again) or if the input changes during the run, and :class:`RfprmError` if
    an output would replace the input.
    """
    for target in (output, errors_path_of(output)):
        check_target(target, reads=[Path(source)])
    check_free(output, overwrite=overwrite)
    with closing(open_source(source)) as opened:
        steps: list[Negative] = []
        if "coherence" in config.steps.components:
            every_step = _all_steps(_trajectories(opened, Reading(split)))
            steps = sample_steps(every_step, config.steps.reservoir_size, config.seed)
        right = None
        if config.steps.right_solutions:
            all_traces = _trajectories(opened, Reading(split))
            right = RightSolutions(all_traces, config.steps.right_solutions)
        if encoder is None and {"alignment", "coherence"} & set(config.steps.components):
            encoder = SentenceTransformerEncoder(config.steps.encoder)
        key = {
            "format_version": _FORMAT_VERSION,
            "source": opened.name,  # labels contain it
            "input": opened.fingerprint(),
            "split": split,
            "config": what_labels_depend_on(config),
            "encoder": _content(encoder),
            "prompts": _prompts(config),
        }
        with ResumableLines(output, key, overwrite=overwrite) as lines:
            pool = None
            if "coherence" in config.steps.components:
                assert encoder is not None
                pool = NegativePool(steps, encoder, config.seed)
            labeller = Labeller(config, encoder=encoder, negatives=pool, right_solutions=right)
            summary = asyncio.run(
                _label_into(lines, labeller, _traces(opened, Reading(split)), on_progress)
            )
            if summary.stopped is None:
                if opened.fingerprint() != key["input"]:
                    raise TrainingError(
                        f"{source} changed while it was labelled, so {output} would mix two "
                        "inputs; run it again with --overwrite"
                    )
                lines.finish()
            return summary


def what_labels_depend_on(config: LabelConfig) -> dict[str, Any]:
    """The settings without those that only limit a run's speed, cost and patience."""
    how = {
        *("concurrency", "timeout", "max_attempts", "max_wait", "cache", "api_key_env"),
        *(f"price_per_million_{kind}_tokens" for kind in ("prompt", "cached", "answer")),
        *("max_cost", "max_tokens", "prompts"),
    }
    dumped = config.model_dump(
        mode="json",
        # The content of the encoder and of the prompts counts, not their names or paths.
        exclude={"batch_size": True, "expert": how, "policy": how, "steps": {"encoder"}},
    )
    return without_later(dumped, _LATER)


def _content(encoder: SentenceEncoder | None) -> str | None:
    if encoder is None:
        return None
    return getattr(encoder, "content", None) or encoder.name


def _prompts(config: LabelConfig) -> dict[str, str]:
    if config.expert is None:
        return {}
    names = (PROMPT_OF[config.expert.grading], *TEMPLATE_NAMES)
    own, found = config.expert.prompts, dict[str, str]()
    for name in names:
        prompt = load_prompt(name, own)
        # Files of users may share a name and a version.
        found[f"{name} = {prompt.id}" if name in own else prompt.id] = prompt.content
    return found


def _traces(source: Source, reading: Reading) -> Iterator[Record]:
    for record in source.records(reading):
        yield from record.each()


def _trajectories(source: Source, reading: Reading) -> Iterator[Trajectory]:
    for record in _traces(source, reading):
        if isinstance(record.trajectory, Trajectory):
            yield record.trajectory


def _all_steps(trajectories: Iterable[Trajectory]) -> Iterator[Negative]:
    for trajectory in trajectories:
        key = question_key(trajectory.question)
        for step in trajectory.steps:
            yield Negative(key, step)


async def _label_into(
    lines: ResumableLines,
    labeller: Labeller,
    records: Iterable[Record],
    on_progress: Callable[[int], None] | None,
) -> LabelSummary:
    summary = LabelSummary()
    # Finished records are skipped without parsing their trajectories.
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
    """Write the results of a batch, in order; returns why to stop, or None."""
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
        summary.tally.count(record, item)
        lines.write(result.to_line())
    return None


def _batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch
