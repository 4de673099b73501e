"""Prints what curation and labelling did, for a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from rfprm_training.curation.pipeline import CurationReport
from rfprm_training.labelling.label_file import LabelSummary


def print_curation(console: Console, report: CurationReport, output: Path) -> None:
    table = Table(title=f"{report.num_read:,} read, {report.num_kept:,} kept")
    for heading in ("dropped for", "number", "for example"):
        table.add_column(heading)
    for reason, number in sorted(report.num_dropped.items(), key=lambda item: -item[1]):
        table.add_row(reason, f"{number:,}", report.examples[reason][0])
    if report.num_dropped:
        console.print(table)
    kept = max(report.num_kept, 1)
    console.print(
        f"{report.num_read:,} read, {report.num_kept:,} kept "
        f"({report.num_steps / kept:.1f} steps and {report.num_characters / kept:,.0f} characters "
        f"each) → {output}",
        soft_wrap=True,
    )
    if not report.num_evaluation_questions:
        console.print("no evaluation set was given, so contamination was not checked")


def print_labelling(console: Console, summary: LabelSummary, output: Path) -> None:
    for sentence in summary.tally.sentences():
        console.print(sentence, soft_wrap=True)
    console.print(f"{summary.num_labelled:,} trajectories labelled → {output}", soft_wrap=True)
    if summary.num_incomplete:
        console.print(f"{summary.num_incomplete:,} of them lack some rewards; see their 'errors'")
    if summary.num_failed:
        console.print(
            f"{summary.num_failed:,} records are not trajectories → {output}.errors.jsonl",
            soft_wrap=True,
        )
    for name, usage in summary.usage.items():
        console.print(f"{name}: {usage}")
    if summary.stopped is not None:
        console.print(f"stopped: {summary.stopped}", style="yellow", soft_wrap=True)
