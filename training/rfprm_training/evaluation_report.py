"""An evaluation as a person reads it in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from rfprm_training.evaluation import Evaluation


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Tables of what :func:`rfprm_training.evaluation.evaluate_scorer` measured."""
    table = Table(
        title=f"{evaluation.num_solutions} real solutions to {evaluation.num_questions} held-out "
        "questions, 95 % intervals over questions"
    )
    for heading in ("score", "AUC", "AUC within a question", "Best-of-N", "gap recovered"):
        table.add_column(heading)
    for name, ranking in evaluation.rankings.items():
        table.add_row(
            name.replace("_", " "),
            str(ranking.auc),
            str(ranking.auc_within_question),
            f"{ranking.best_of_n.picked:.3f}",
            str(ranking.gap_recovered),
        )
    console.print(table)
    best = next(iter(evaluation.rankings.values())).best_of_n
    console.print(f"Best-of-N: random {best.random:.3f}, oracle {best.oracle:.3f}")
    found = evaluation.first_error
    kinds = ", ".join(
        f"{kind} {share:.3f}" for kind, share in evaluation.first_error_by_kind.items()
    )
    console.print(
        f"{evaluation.num_constructed} constructed trajectories: first wrong step located in "
        f"{found.wrong_located:.3f} of the wrong ones ({kinds}), right ones accepted "
        f"{found.right_accepted:.3f}, F1 {found.f1:.3f}; AUC within a question "
        f"{evaluation.constructed_auc_within_question}"
    )
