"""The chosen rows with their added fields: scores, rank, and the chat to fine-tune on."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np

from rfprm_runtime.selection.conversation import MESSAGES_FIELD, messages_of
from rfprm_runtime.selection.output import Added, check_names
from rfprm_runtime.selection.rule import Choice
from rfprm_runtime.selection.score_table import ScoreTable
from rfprm_runtime.selection.scores import NO_GENERATION, NOT_WINDOWED, ShardScores, trace_of
from rfprm_runtime.selection.settings import OutputOptions, Scoring
from rfprm_runtime.traces.added_fields import (
    GENERATION,
    SCORE_FIELDS,
    SELECTION_FIELDS,
    WINDOWED_FROM,
    prefixed,
)
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.shards import Block, OnNames, Shard
from rfprm_runtime.traces.sources import Source
from rfprm_runtime.types import Trajectory, windows_of


def added_names(scoring: Scoring, options: OutputOptions, fields: Container[str]) -> dict[str, str]:
    """The added fields in order: own name → name in the output. ``fields`` are the fields of a row,
    or all columns of a table."""
    names = [*SCORE_FIELDS, *SELECTION_FIELDS]
    if windows_of(scoring.overflow):
        names.append(WINDOWED_FROM)
    if "generations" in fields:
        names.append(GENERATION)
    messages = {MESSAGES_FIELD: MESSAGES_FIELD} if options.sft else {}
    return prefixed(names, options.prefix) | messages


def all_names(scoring: Scoring, options: OutputOptions) -> Sequence[str]:
    """Every name that may be added to a row."""
    return [*added_names(scoring, options, ["generations"]).values()]


def name_check(scoring: Scoring, options: OutputOptions) -> OnNames:
    """A check to run before scoring: it raises :class:`RfprmError` if an added name is taken."""

    def check(place: str, names: Sequence[str]) -> None:
        added = added_names(scoring, options, names).values()
        check_names(names, added, sft=options.sft, place=place)

    return check


def chosen_rows(
    source: Source,
    shards: Sequence[Shard],
    read_scores: Callable[[Shard], ShardScores],
    table: ScoreTable,
    choice: Choice,
    scoring: Scoring,
    options: OutputOptions,
) -> Iterator[tuple[Block, list[int], list[Added]]]:
    """Blocks in input order, each with its chosen rows and what to add to them.

    Shards without a chosen row are not read.
    """
    by_place = np.argsort(choice.chosen)
    places = choice.chosen[by_place]
    for shard in shards:
        traces = table.of_shard(shard)
        first, last = np.searchsorted(places, (traces.start, traces.stop))
        if first == last:
            continue
        block, scores = source.read(shard, scoring.reading), read_scores(shard)
        picked = places[first:last] - traces.start
        added = [
            _values(scores, index) | {"selection_score": float(choice.value[place]), "rank": rank}
            for index, place, rank in zip(
                picked.tolist(),
                places[first:last].tolist(),
                (by_place[first:last] + 1).tolist(),
                strict=True,
            )
        ]
        rows = scores.row[picked].tolist()
        generations = scores.generation[picked].tolist()
        yield (
            block,
            rows,
            [
                _named(values, block, trace_of(block.records[row], generation), scoring, options)
                for values, row, generation in zip(added, rows, generations, strict=True)
            ],
        )


def _values(scores: ShardScores, index: int) -> Added:
    """All added values by their own names, including those that will not be written."""
    trajectory_score = float(scores.trajectory_score[index])
    windowed_from, generation = int(scores.windowed_from[index]), int(scores.generation[index])
    return {
        "step_scores": [float(step) for step in scores.steps(index)],
        "trajectory_score": None if math.isnan(trajectory_score) else trajectory_score,
        "reward": float(scores.reward[index]),
        "windowed_from": None if windowed_from == NOT_WINDOWED else windowed_from,
        "generation": None if generation == NO_GENERATION else generation,
    }


def _named(
    values: Added, block: Block, trace: Record, scoring: Scoring, options: OutputOptions
) -> Added:
    """The fields to add to a row, by their names in the output."""
    fields = trace.fields if block.table is None else block.table.schema.names
    added = {
        name: values[own]
        for own, name in added_names(scoring, options, fields).items()
        if own != MESSAGES_FIELD
    }
    if options.sft:
        assert isinstance(trace.trajectory, Trajectory)  # it has a score
        added[MESSAGES_FIELD] = messages_of(trace, trace.trajectory)
    return added
