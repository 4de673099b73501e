"""Prints evaluations of held-out data and of recipes for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from rfprm_training.evaluation.held_out import Evaluation, RankingReport

if TYPE_CHECKING:
    from rfprm_training.evaluation.cross_validation import CrossValidation


NO_STEPS = (
    "the PRM gives no step scores, so figures of steps are left out (--score-prefixes scores a "
    "trace after each step)"
)


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Tables of what :func:`rfprm_training.evaluation.held_out.evaluate_scorer` measured."""
    if evaluation.rankings:
        print_rankings(
            console, evaluation.num_solutions, evaluation.num_questions, evaluation.rankings
        )
    console.print(
        f"{evaluation.num_constructed} constructed trajectories: {_of_steps(evaluation)}; "
        f"AUC within a question {evaluation.constructed_auc_within_question}"
    )


def _of_steps(evaluation: Evaluation) -> str:
    found, at_half = evaluation.first_error, evaluation.first_error_at_half
    if found is None or at_half is None or evaluation.thresholds is None:
        return NO_STEPS
    by_kind = (evaluation.first_error_by_kind or {}).items()
    kinds = ", ".join(f"{kind} {share:.3f}" for kind, share in by_kind)
    steps = evaluation.step_calibration
    return (
        f"first wrong step located in {found.wrong_located:.3f} of the wrong ones ({kinds}), right "
        f"ones accepted {found.right_accepted:.3f}, F1 {found.f1:.3f} (thresholds chosen on the "
        f"other nine tenths of the questions: {shown_range(evaluation.thresholds)}); at even odds: "
        f"F1 {at_half.f1:.3f}" + ("" if steps is None else f"; ECE of steps {steps.ece:.3f}")
    )


def shown_range(thresholds: tuple[float, float]) -> str:
    """The lowest and the highest, with enough digits to tell scores apart that crowd together."""
    return f"{thresholds[0]:.6g} to {thresholds[1]:.6g}"


def print_rankings(
    console: Console,
    num_solutions: int,
    num_questions: int,
    rankings: Mapping[str, RankingReport],
) -> None:
    """How each score ranks real solutions to questions that were not trained on."""
    table = Table(
        title=f"{num_solutions} real solutions to {num_questions} held-out questions, "
        "95 % intervals over questions"
    )
    headings = ["score", "AUC", "AUC within a question", "Best-of-N", "gap recovered"]
    have_sources = any(ranking.auc_against_source for ranking in rankings.values())
    if have_sources:
        headings.append("AUC against the source")
    for heading in headings:
        table.add_column(heading)
    for name, ranking in rankings.items():
        cells = (
            ranking.auc,
            ranking.auc_within_question,
            f"{ranking.best_of_n.picked:.3f}",
            ranking.gap_recovered,
            ranking.auc_against_source,
        )
        table.add_row(name.replace("_", " "), *map(str, cells[: len(headings) - 1]))
    console.print(table)
    if have_sources:
        console.print(
            "against the source: pairs whose right solution is of the source that is right less "
            "often"
        )
    best = next(iter(rankings.values())).best_of_n
    console.print(f"Best-of-N: random {best.random:.3f}, oracle {best.oracle:.3f}")


def print_cross_validation(console: Console, found: CrossValidation) -> None:
    """What :func:`rfprm_training.evaluation.cross_validation.cross_validate` measured."""
    print_rankings(console, found.num_solutions, found.num_questions, found.rankings)
    text = f"{found.num_folds} folds"
    if found.outcome_calibration is not None:
        text += f"; calibration of the trajectory score: ECE {found.outcome_calibration.ece:.3f}"
    if found.outcome_calibration_fitted is not None:
        text += f", temperature-scaled {found.outcome_calibration_fitted.ece:.3f}"
    console.print(text)
