"""Prints evaluations for a terminal, and plots reliability."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.ground.whole_files import replacing_path
from rfprm_training.evaluation.held_out import Evaluation, RankingReport
from rfprm_training.evaluation.set_figures import SetEvaluation

if TYPE_CHECKING:
    from rfprm_training.evaluation.cross_validation import CrossValidation


NO_STEPS = "the PRM gives no step scores, so figures of steps are left out"


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
        f"other nine tenths of the questions: {_range(evaluation.thresholds)}); at even odds: F1 "
        f"{at_half.f1:.3f}" + ("" if steps is None else f"; ECE of steps {steps.ece:.3f}")
    )


def _range(thresholds: tuple[float, float]) -> str:
    return f"{thresholds[0]:.3f} to {thresholds[1]:.3f}"


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
    for heading in ("score", "AUC", "AUC within a question", "Best-of-N", "gap recovered"):
        table.add_column(heading)
    for name, ranking in rankings.items():
        table.add_row(
            name.replace("_", " "),
            str(ranking.auc),
            str(ranking.auc_within_question),
            f"{ranking.best_of_n.picked:.3f}",
            str(ranking.gap_recovered),
        )
    console.print(table)
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


def print_set(console: Console, name: str, found: SetEvaluation) -> None:
    """What :func:`rfprm_training.evaluation.set_figures.summarise_set` measured on one set."""
    console.print(
        f"\n{name}: {found.num_trajectories} trajectories, {found.num_questions} questions",
        style="bold",
        markup=False,
    )
    if found.num_failed:
        console.print(f"{found.num_failed} got no score and count as without errors", style="red")
    if not found.has_steps:
        console.print(NO_STEPS)
    if (
        found.first_error is not None
        and found.first_error_at_half is not None
        and found.thresholds is not None
    ):
        console.print(
            f"first wrong step: F1 {found.first_error.f1:.3f} (located "
            f"{found.first_error.wrong_located:.3f} of the wrong ones, accepted "
            f"{found.first_error.right_accepted:.3f} of the right ones; thresholds chosen on the "
            f"other nine tenths of the questions: {_range(found.thresholds)}); at even odds: "
            f"F1 {found.first_error_at_half.f1:.3f}"
        )
    if found.steps is not None:
        console.print(
            f"{found.steps.num_steps} steps, {found.steps.num_wrong} wrong: F1 of right ones "
            f"{found.steps.f1_right:.3f}, of wrong ones {found.steps.f1_wrong:.3f}, PRM score "
            f"{found.steps.prm_score:.3f}, AUC {found.step_auc:.3f}"
        )
    if found.outcome_auc is not None:
        console.print(f"outcome: AUC of the reward {found.outcome_auc}")
    if found.outcome_auc_within_question is not None:
        console.print(f"outcome: AUC within a question {found.outcome_auc_within_question}")
    for kind, figure in (
        ("steps", found.step_calibration),
        ("trajectory", found.outcome_calibration),
        ("trajectory, temperature-scaled", found.outcome_calibration_fitted),
    ):
        if figure is not None:
            console.print(f"calibration of {kind}: ECE {figure.ece:.3f}, Brier {figure.brier:.3f}")
    if found.best_of_n:
        table = Table("N", "picked", "random", "majority", "oracle", "gap recovered")
        for point in found.best_of_n:
            figures = (point.picked, point.random, point.majority, point.oracle)
            table.add_row(str(point.n), *map(str, figures), str(point.gap_recovered))
        console.print(table)


def plot_reliability(sets: Mapping[str, SetEvaluation], path: Path) -> None:
    """Plot claimed against observed frequency, one panel per set. Raises
    :class:`MissingExtraError` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plots", "plots") from None
    figure = Figure(figsize=(4 * len(sets), 4), layout="constrained")
    axes: Any = figure.subplots(1, len(sets), squeeze=False)[0]
    for axis, (name, found) in zip(axes, sets.items(), strict=True):
        axis.plot((0, 1), (0, 1), color="0.7", linewidth=1)
        for label, part in (
            ("steps", found.step_calibration),
            ("trajectory", found.outcome_calibration),
            ("trajectory, scaled", found.outcome_calibration_fitted),
        ):
            if part is not None:
                text = f"{label}: ECE {part.ece:.3f}"
                axis.plot(part.claimed, part.found, marker="o", markersize=4, label=text)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of right ones", title=name)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small")
    with replacing_path(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip(".") or None)
