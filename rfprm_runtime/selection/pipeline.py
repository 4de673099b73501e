"""Selection end to end: score what is not scored yet, choose, write."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground.claims import claimed
from rfprm_runtime.ground.whole_files import check_target, errors_path_of, replacing
from rfprm_runtime.hub.artifacts import find_artifact
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.scores.aggregation import check_aggregation, value_bounds
from rfprm_runtime.scores.bounds import check_threshold
from rfprm_runtime.selection.chosen_rows import added_names, all_names, chosen_rows, name_check
from rfprm_runtime.selection.of_traces import GroupReader, Groups, RightReader
from rfprm_runtime.selection.output import (
    check_output,
    rows_of,
    schema_with,
    table_of,
    write_jsonl,
    write_parquet,
)
from rfprm_runtime.selection.rule import OUTCOMES, Choice, Selection, choose
from rfprm_runtime.selection.score_table import ScoreTable, read_score_table
from rfprm_runtime.selection.scores import NO_GENERATION, ShardScores
from rfprm_runtime.selection.scoring import provenance, score_missing, settle
from rfprm_runtime.selection.settings import OutputOptions, RayWorkers, Scoring
from rfprm_runtime.selection.summary import RightShare, SelectionSummary
from rfprm_runtime.selection.work_folder import WorkFolder
from rfprm_runtime.traces.jsonl import json_line
from rfprm_runtime.traces.right import comparing
from rfprm_runtime.traces.shards import Block, Plan, Shard
from rfprm_runtime.traces.sources import Source, open_source

_MAX_FIRST_ERRORS = 10


@dataclass(frozen=True)
class _Run:
    """What all steps of one selection share."""

    source: Source
    plan: Plan
    work: WorkFolder
    output: Path
    rule: Selection
    scoring: Scoring
    options: OutputOptions

    def scores(self, shard: Shard) -> ShardScores:
        return self.work.load(shard.index)


def select_traces(
    scorer: Scorer | str | Path,
    source: str | Path,
    output: str | Path,
    selection: Selection,
    *,
    scoring: Scoring | None = None,
    options: OutputOptions | None = None,
    workers: RayWorkers | None = None,
    show_progress_bar: bool = False,
) -> SelectionSummary:
    """Write the rows of ``source`` that ``selection`` chooses to ``output``.

    ``scorer``: a loaded scorer, or what :meth:`Scorer.load` takes, loaded only if anything is left
    to score. ``source``: a JSONL or Parquet file, or ``hf://NAME``. ``workers``: score on Ray,
    which needs an artifact, not a scorer.

    Scores are kept in a work folder, shard by shard, so after a kill, or for another rule, the same
    call scores only what is missing. Rows that cannot be scored are listed with number and reason
    in ``OUTPUT.errors.jsonl``, which exists only if there are any. The output is written whole or
    not at all.

    Raises :class:`RfprmError` (or a subclass) if the work folder holds scores of something else, if
    the input or the artifact cannot be read, or if an added field's name is taken.
    """
    scoring, options = scoring or Scoring(), options or OutputOptions()
    source, output = str(source), Path(output)
    if not isinstance(scorer, Scorer):
        scorer = find_artifact(scorer)
    manifest, scoring = settle(scorer, scoring, workers)
    _check_before_scoring(selection, options, manifest, scoring)
    with ExitStack() as stack:
        opened = stack.enter_context(closing(open_source(source)))
        check_output(output, source, opened.schema)
        _check_targets(output, options.report, Path(source))
        plan = opened.plan(
            scoring.shard_rows,
            watched=all_names(scoring, options),
            on_names=name_check(scoring, options),
        )
        folder = options.work or output.with_name(output.name + ".work")
        work = WorkFolder(folder, provenance(plan, manifest, scoring))
        # The work folder first: it says which option lets two runs go on side by side.
        stack.enter_context(work.claimed())
        stack.enter_context(claimed(output))
        run = _Run(opened, plan, work, output, selection, scoring, options)
        readers = _readers(run, stack)
        num_scored = score_missing(
            scorer,
            opened,
            plan,
            work,
            scoring,
            source,
            workers,
            show=show_progress_bar,
            on_block=readers.take,
        )
        summary = _select(run, readers, source, manifest)
        if not options.keep_work:
            work.remove()
        summary.num_shards = len(plan.shards)
        summary.num_shards_reused = len(plan.shards) - num_scored
    return summary


def _check_targets(output: Path, report: Path | None, source: Path) -> None:
    check_target(output, reads=[source])
    check_target(errors_path_of(output), reads=[source])
    if report is not None:
        check_target(report, reads=[source])
        if report.absolute() in (output.absolute(), errors_path_of(output).absolute()):
            raise RfprmError(
                f"--report {report} is also a file that rows are written to; name another file"
            )


def _check_before_scoring(
    rule: Selection, options: OutputOptions, manifest: Manifest, scoring: Scoring
) -> None:
    """Fail now for what would fail, or choose all or nothing, after hours of scoring."""
    check_aggregation(
        "score (--score)", rule.score, manifest, score_prefixes=scoring.score_prefixes
    )
    if rule.threshold is not None and rule.length_control == "none":
        bounds = value_bounds(manifest, rule.score)
        of = f"scores by {rule.score!r} of the PRM {manifest.name!r}"
        check_threshold("threshold (--threshold)", rule.threshold, bounds, of)
    if options.report is not None:
        from rfprm_runtime.selection.report_page import check_extras

        check_extras()


@dataclass(frozen=True)
class _Readers:
    """What is read about every trace besides its score."""

    groups: GroupReader | None
    """Of the rule or, if it has none, of the report."""
    right: RightReader | None
    """Of the report."""

    def take(self, block: Block, scores: ShardScores) -> None:
        for reader in (self.groups, self.right):
            if reader is not None:
                reader.take(block, scores)


def _readers(run: _Run, stack: ExitStack) -> _Readers:
    reading, group_by = run.scoring.reading, run.rule.group_by
    if run.options.report is None:
        return _Readers(None if group_by is None else GroupReader(group_by, reading), None)
    agree = stack.enter_context(comparing())
    return _Readers(GroupReader(group_by or "source", reading), RightReader(agree, reading))


def _select(run: _Run, readers: _Readers, source: str, manifest: Manifest) -> SelectionSummary:
    table = read_score_table(map(run.scores, run.plan.shards), run.rule.score)
    groups = None if readers.groups is None else _groups(run, readers.groups, table)
    codes = None if groups is None else groups.code
    choice = choose(run.rule, table.score, table.num_tokens, table.question, codes)
    _write(run, table, choice)
    summary = _write_errors(run)
    summary.num_rows, summary.num_scored = run.plan.num_rows, len(table)
    summary.num_chosen = len(choice.chosen)
    counts = np.bincount(choice.outcome, minlength=len(OUTCOMES))
    summary.outcomes = {
        name: int(n) for name, n in zip(OUTCOMES, counts, strict=True) if n or name == "chosen"
    }
    if readers.right is not None:
        verdicts = readers.right.read(run.source, run.plan.shards, table)
        if not np.isnan(verdicts).all():
            summary.right_scored = RightShare.of(verdicts)
            summary.right_chosen = RightShare.of(verdicts[choice.chosen])
    if run.options.report is not None:
        from rfprm_runtime.selection.report_page import ReportInput, write_report

        write_report(
            run.options.report,
            ReportInput(
                run.source, run.plan, run.scores, table, groups, choice, run.rule, run.scoring
            ),
            summary,
            manifest,
            source=source,
            output=str(run.output),
        )
    return summary


def _groups(run: _Run, grouping: GroupReader, table: ScoreTable) -> Groups | None:
    groups = grouping.read(run.source, run.plan.shards, table)
    if groups is None and len(table) and run.rule.group_by is not None:
        raise RfprmError(
            f"no scored row has a value in the field {run.rule.group_by!r} to group by; the scores "
            "are kept, so run it again with another field of the input"
        )
    return groups


def _write(run: _Run, table: ScoreTable, choice: Choice) -> None:
    schema, options = run.source.schema, run.options
    order = _order(choice) if options.order == "rank" else None
    picked = chosen_rows(
        run.source, run.plan.shards, run.scores, table, choice, run.scoring, options
    )
    if run.output.suffix == ".parquet":
        wider = schema_with(schema, added_names(run.scoring, options, schema.names))
        tables = (table_of(*item, wider) for item in picked)
        write_parquet(run.output, tables, wider, order)
    else:
        rows = (row for item in picked for row in rows_of(*item))
        write_jsonl(run.output, rows, order)


def _order(choice: Choice) -> NDArray[np.int64]:
    """For each rank, the index of its row among the chosen rows in input order."""
    return np.argsort(np.argsort(choice.chosen))


def _write_errors(run: _Run) -> SelectionSummary:
    path = errors_path_of(run.output)
    summary = SelectionSummary(errors_path=path, work_path=run.work.path)
    with replacing(path) as file:
        for shard in run.plan.shards:
            scores = run.scores(shard)
            summary.tally += scores.tally
            for failure in scores.failures:
                line = {"row": failure.row + 1, "error": failure.reason}
                place = f"row {failure.row + 1}"
                if failure.generation != NO_GENERATION:
                    line = {"row": failure.row + 1, "generation": failure.generation, **line}
                    place += f", generation {failure.generation}"
                file.write(json_line(line))
                summary.num_failed += 1
                if len(summary.first_errors) < _MAX_FIRST_ERRORS:
                    summary.first_errors.append(f"{place}: {failure.reason}")
    if not summary.num_failed:
        path.unlink()
    return summary
