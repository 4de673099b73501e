"""The chosen rows with what they get: scores, rank, and the chat to fine-tune on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rfprm_runtime.formats import Candidate, fields_of_generation, read_candidates
from rfprm_runtime.selection.conversation import MESSAGES_FIELD, messages_of
from rfprm_runtime.selection.inputs import Block, Input, Shard
from rfprm_runtime.selection.output import Added, check_names
from rfprm_runtime.selection.rule import Choice
from rfprm_runtime.selection.score_table import ScoreTable
from rfprm_runtime.selection.scores import NO_GENERATION, NOT_WINDOWED, ShardScores
from rfprm_runtime.selection.settings import OutputOptions, Scoring

_ALWAYS = ("step_scores", "trajectory_score", "reward", "selection_score", "rank")


def added_names(scoring: Scoring, options: OutputOptions, fields: Any) -> list[str]:
    """Names of the added fields, in order; ``fields`` are the row's own or a table's."""
    names = [*_ALWAYS]
    if scoring.overflow == "window":
        names.append("windowed_from")
    if "generations" in getattr(fields, "names", fields):
        names.append("generation")
    return [options.prefix + name for name in names] + [MESSAGES_FIELD] * options.sft


def check_rows(source: Input, scoring: Scoring, options: OutputOptions) -> None:
    """Find a name that is taken before hours are spent on scores. Raises :class:`RfprmError`."""
    for place, names in source.names_among(added_names(scoring, options, ["generations"])):
        check_names(names, added_names(scoring, options, names), sft=options.sft, place=place)


def chosen_rows(
    source: Input,
    shards: Sequence[Shard],
    read_scores: Callable[[Shard], ShardScores],
    table: ScoreTable,
    choice: Choice,
    scoring: Scoring,
    options: OutputOptions,
) -> Iterator[tuple[Block, list[int], list[Added]]]:
    """Blocks in input order, which of their rows were chosen, and what is added to each.

    Shards without a chosen row are not read.
    """
    by_place = np.argsort(choice.chosen)
    places = choice.chosen[by_place]
    for shard in shards:
        traces = table.of_shard(shard)
        first, last = np.searchsorted(places, (traces.start, traces.stop))
        if first == last:
            continue
        block, scores = source.read(shard), read_scores(shard)
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
        rows = (scores.row[picked] - shard.start).tolist()
        generations = scores.generation[picked].tolist()
        yield (
            block,
            rows,
            [
                _named(values, block, row, generation, scoring, options)
                for values, row, generation in zip(added, rows, generations, strict=True)
            ],
        )


def _values(scores: ShardScores, index: int) -> Added:
    """By their own names, whether or not they are to be written."""
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
    values: Added,
    block: Block,
    row: int,
    generation: int,
    scoring: Scoring,
    options: OutputOptions,
) -> Added:
    """What a row gets, by the names that it gets it under."""
    fields = block.rows[row]
    assert isinstance(fields, dict)  # it has a score
    names = added_names(scoring, options, fields if block.table is None else block.table.schema)
    added = {
        name: values[name.removeprefix(options.prefix)] for name in names if name != MESSAGES_FIELD
    }
    if options.sft:
        one, found = trace_of(fields, generation, scoring)
        added[MESSAGES_FIELD] = messages_of(one, found.trajectory, row=fields)
    return added


def trace_of(
    fields: dict[str, Any], generation: int, scoring: Scoring
) -> tuple[dict[str, Any], Candidate]:
    """The fields of one generation of a row that has a score, and its trace."""
    one = fields if generation == NO_GENERATION else fields_of_generation(fields, generation)
    [found] = read_candidates(one, split=scoring.split)
    assert isinstance(found, Candidate)  # it has a score
    return one, found
