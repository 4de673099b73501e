"""Ranks the candidates of every question in a file, best first.

The candidates of a question may stand in one row or in many, anywhere in the file, so the texts of
the whole file are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rfprm_runtime.cli.scored_lines import FileSummary, ScoredLines, check_outputs, scored_lines
from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import check_whole
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.ground.progress import progress_bar
from rfprm_runtime.ranking import Method, Ranking
from rfprm_runtime.reranker import Reranker
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.scores.aggregation import Aggregation
from rfprm_runtime.traces.added_fields import (
    RANKING_FIELDS,
    SCORE_FIELDS,
    WINDOWED_FROM,
    values_of,
)
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.questions import question_key
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.right import Agree, Shares, comparing, is_right
from rfprm_runtime.traces.sources import open_stream
from rfprm_runtime.types import Overflow, Trajectory, windows_of

_CHUNK_TRACES = 256


@dataclass(frozen=True)
class RerankSummary:
    """What became of the rows, and of the questions in them."""

    file: FileSummary
    num_questions: int
    shares: Shares = field(default_factory=Shares)


def rerank_file(
    scorer: Scorer,
    traces: str | Path,
    output: Path,
    *,
    method: Method = "best_of_n",
    score: Aggregation = "reward",
    top: int | None = None,
    split: SplitRule = "blank_lines",
    overflow: Overflow = "error",
    prefix: str = "",
    names: FieldNames | None = None,
    limit: int | None = None,
    show_progress_bar: bool = False,
) -> RerankSummary:
    """Rank the candidates of every question of a source into the JSONL file ``output``.

    ``traces``, ``split``, ``overflow``, ``names`` and ``limit`` are those of
    :func:`~rfprm_runtime.cli.score_file.score_file`. Rows with the same question, but for white
    space, and all outputs of a row are the candidates of one question. The best ``top`` of each
    question are written, best first, questions in the order of the source. A row keeps its fields
    and gets what ``score_file`` adds, ``final_answer`` (what it states, or null),
    ``selection_score`` (what it was ranked by), ``rank`` (from 1, within its question) and, if
    ``method`` is a vote, ``votes`` (the weight of its answer). Candidates that cannot be scored are
    listed in ``OUTPUT.errors.jsonl``.

    Raises as ``score_file`` does, ``ValueError`` for an unknown method or score or a ``top`` below
    1, and :class:`MissingExtraError` if a vote needs math-verify and it is not installed.
    """
    source = str(traces)
    check_outputs(source, output, "rfprm rerank")
    for name, value in (("top", top), ("limit", limit)):
        if value is not None:
            check_whole(name, value)
    reading = Reading(split, with_outcome=False, names=names or FieldNames())
    reranker = Reranker(scorer, aggregation=score, overflow=overflow)
    with (
        reranker,
        closing(open_stream(source)) as stream,
        scored_lines(output, _added(method, overflow), prefix) as lines,
        comparing() as agree,
        closing(progress_bar(None, "traces", show=show_progress_bar)) as bar,
    ):
        questions = _by_question(islice(stream.records(reading), limit), lines)
        stream.check_unchanged()
        bar.expect(sum(map(len, questions)))
        summary = RerankSummary(lines.summary, len(questions))
        for chunk in _chunks(questions):
            rankings = reranker.rank_many(
                [group[0].trajectory.question for group in chunk],  # type: ignore[union-attr]
                [[record.trajectory for record in group] for group in chunk],
                method=method,
                on_error="rank_last",
            )
            for group, ranking in zip(chunk, rankings, strict=True):
                _write(lines, group, ranking, top)
                summary.shares.add(_verdicts(group, ranking, agree))
                bar.advance(len(group))
    return summary


def _added(method: Method, overflow: Overflow) -> tuple[str, ...]:
    ranking = [name for name in RANKING_FIELDS if name != "votes" or method != "best_of_n"]
    return (*SCORE_FIELDS, *([WINDOWED_FROM] if windows_of(overflow) else []), *ranking)


def _by_question(rows: Iterator[Record], lines: ScoredLines) -> list[list[Record]]:
    """The records of each question; those that cannot be scored are listed at once."""
    groups: dict[str, list[Record]] = {}
    for record in (trace for row in rows for trace in row.each()):
        trajectory = lines.to_score(record)
        if isinstance(trajectory, InvalidTrajectoryError):
            lines.fail(record, trajectory)
        else:
            groups.setdefault(question_key(trajectory.question), []).append(record)
    return list(groups.values())


def _chunks(questions: list[list[Record]]) -> Iterator[list[list[Record]]]:
    """Whole questions, together about as many candidates as are scored at once."""
    chunk: list[list[Record]] = []
    for group in questions:
        chunk.append(group)
        if sum(map(len, chunk)) >= _CHUNK_TRACES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write(lines: ScoredLines, group: list[Record], ranking: Ranking, top: int | None) -> None:
    """Write the best, and list what could not be scored."""
    votes = {index: vote.weight for vote in ranking.votes for index in vote.members}
    for candidate in ranking:
        record = group[candidate.index]
        if candidate.score is None:
            continue
        lines.count(record, candidate.score)
        if top is None or candidate.rank <= top:
            lines.write(
                record,
                {
                    **values_of(candidate.score),
                    "final_answer": candidate.answer,
                    "votes": votes.get(candidate.index, 0.0),
                    "selection_score": candidate.value,
                    "rank": candidate.rank,
                },
            )
    for candidate in sorted(ranking, key=lambda candidate: candidate.index):
        if candidate.error is not None:
            lines.fail(group[candidate.index], candidate.error)


def _verdicts(group: list[Record], ranking: Ranking, agree: Agree) -> list[bool | None]:
    """Whether each scored candidate is right, best first."""
    return [
        is_right(group[candidate.index], candidate.trajectory, agree)
        for candidate in ranking
        if candidate.score is not None and isinstance(candidate.trajectory, Trajectory)
    ]
