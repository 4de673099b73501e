"""Prints evaluations for a terminal, and plots reliability."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from rfprm_runtime.errors import MissingExtraError, OutputError
from rfprm_runtime.ground.whole_files import replacing_path
from rfprm_training.evaluation.held_out import Evaluation, RankingReport
from rfprm_training.evaluation.metrics import Estimate, FirstError
from rfprm_training.evaluation.set_figures import SetEvaluation

if TYPE_CHECKING:
    from rfprm_training.evaluation.cross_validation import CrossValidation
    from rfprm_training.evaluation.decisions import Decisions
    from rfprm_training.evaluation.evaluated_sets import EvaluatedSets
    from rfprm_training.evaluation.prmbench import PRMBench
    from rfprm_training.evaluation.processbench import ProcessBench


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
        f"other nine tenths of the questions: {_range(evaluation.thresholds)}); at even odds: F1 "
        f"{at_half.f1:.3f}" + ("" if steps is None else f"; ECE of steps {steps.ece:.3f}")
    )


def _range(thresholds: tuple[float, float]) -> str:
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


def print_evaluated_sets(console: Console, found: EvaluatedSets) -> None:
    """What :func:`rfprm_training.evaluation.evaluated_sets.evaluate_sets` measured."""
    for name, one in found.sets.items():
        print_set(console, name, one)
        if name in found.judged:
            console.print(str(found.judged[name]), markup=False)
        if name in found.decisions:
            console.print(_of_decisions(found.decisions[name]))
    if found.processbench is not None:
        _print_processbench(console, found.processbench)
    if found.prmbench is not None:
        console.print("\nPRMBench, in percent; what was not modified is left out", style="bold")
        console.print(_prmbench(found.prmbench))


def _of_decisions(found: Decisions | None) -> str:
    if found is None:
        return "against the other PRM: no trajectory has both scores"
    parts = [f"rewards differ by {found.mean_reward_difference:.5f} on average"]
    if found.rank_correlation is not None:
        parts[0] += f", rank correlation {found.rank_correlation:.5f}"
    if found.mean_step_difference is not None:
        parts.append(f"step scores by {found.mean_step_difference:.5f}")
    if found.first_errors_changed is not None:
        parts.append(f"first errors that change {found.first_errors_changed:.1%}")
    if found.picks_changed is not None:
        parts.append(f"picks {found.picks_changed:.1%} of {found.num_questions_picked:,} questions")
    top = ", ".join(f"top {share:.0%} {part:.1%}" for share, part in found.top_changed.items())
    return "against the other PRM: " + "; ".join([*parts, f"selections: {top}"])


def _print_processbench(console: Console, found: ProcessBench) -> None:
    """A table for each rule, in percent, as published."""
    half = {name: subset.at_half for name, subset in found.subsets.items()}
    title = "\nProcessBench, in percent; threshold"  # a title inside the table would be broken
    console.print(f"{title} {found.threshold_at_half:.6g}", style="bold")
    console.print(_first_errors(found, half, found.mean_f1_at_half))
    chosen = {name: s.at_chosen for name, s in found.subsets.items() if s.at_chosen is not None}
    if found.threshold_chosen is not None and found.mean_f1_at_chosen is not None:
        threshold = found.threshold_chosen
        console.print(f"{title} {threshold:.6g}, the best on gsm8k", style="bold")
        console.print(_first_errors(found, chosen, found.mean_f1_at_chosen))


def _first_errors(bench: ProcessBench, found: Mapping[str, FirstError], mean_f1: float) -> Table:
    table = Table()
    table.add_column("subset", no_wrap=True)
    for heading in ("wrong", "right", "located", "accepted", "F1"):
        table.add_column(heading, justify="right")
    for name, of_subset in found.items():
        subset = bench.subsets[name]
        shares = (of_subset.wrong_located, of_subset.right_accepted, of_subset.f1)
        table.add_row(
            name,
            f"{subset.num_wrong:,}",
            f"{subset.num_right:,}",
            *map(_percent, shares),
        )
    table.add_row("mean", "", "", "", "", _percent(mean_f1))
    return table


def _percent(share: float) -> str:
    """A dash for NaN: a subset with right or with wrong solutions alone has no F1."""
    return f"{100 * share:.1f}" if share == share else "–"


def _prmbench(found: PRMBench) -> Table:
    """In percent, as published."""
    table = Table()
    table.add_column("kind", no_wrap=True)
    for heading in ("processes", "F1 right", "F1 wrong", "PRM score"):
        table.add_column(heading, justify="right")
    rows = [
        (name, f"{kind.num_processes:,}", kind.steps, kind.prm_score)
        for name, kind in found.kinds.items()
    ]
    total = sum(kind.num_processes for kind in found.kinds.values())
    for name, number, steps, score in (*rows, ("all", f"{total:,}", found.steps, found.prm_score)):
        wrong = f"{100 * steps.f1_wrong:.1f}" if steps.num_wrong else ""
        table.add_row(name, number, f"{100 * steps.f1_right:.1f}", wrong, f"{100 * score:.1f}")
    for name, score in found.groups.items():
        table.add_row(name, "", "", "", f"{100 * score:.1f}")
    return table


def _known_of(found: SetEvaluation) -> str:
    if found.num_first_errors == found.num_trajectories:
        return ""
    return f", of {found.num_first_errors} trajectories whose labels tell it"


def _rankings_of_steps(found: SetEvaluation) -> str:
    """AUC and correlation, as far as there are right and wrong steps."""
    parts = (
        ("AUC of a step", found.step_auc),
        ("among steps at the same place", found.step_auc_at_place),
        ("the same, in traces with a wrong step", found.step_auc_in_wrong),
        ("rank correlation", found.step_rank_correlation),
    )
    return ", ".join(f"{name} {figure}" for name, figure in parts if figure is not None)


def _located(found: FirstError, f1: Estimate | None) -> str:
    """Without an F1, one of the shares is of nothing."""
    shares = {
        "located": (found.wrong_located, "of the wrong ones"),
        "accepted": (found.right_accepted, "of the right ones"),
    }
    known = ", ".join(f"{name} {x:.3f} {of}" for name, (x, of) in shares.items() if x == x)
    return known if f1 is None else f"F1 {f1} ({known})"


def print_set(console: Console, name: str, found: SetEvaluation) -> None:
    """What :func:`rfprm_training.evaluation.set_figures.summarise_set` measured on one set."""
    console.print(
        f"\n{name}: {found.num_trajectories} trajectories, {found.num_questions} questions",
        style="bold",
    )
    if found.num_failed:
        console.print(f"{found.num_failed} got no score and count as without errors", style="red")
    if found.num_windowed:
        console.print(
            f"{found.num_windowed} are longer than the model's positions and were scored in windows"
        )
    if not found.has_steps:
        console.print(NO_STEPS)
    if (
        found.first_error is not None
        and found.first_error_at_half is not None
        and found.thresholds is not None
    ):
        console.print(
            f"first wrong step{_known_of(found)}: "
            f"{_located(found.first_error, found.first_error_f1)}; thresholds chosen on the other "
            f"nine tenths of the questions: {_range(found.thresholds)}; at even odds: "
            f"{_located(found.first_error_at_half, found.first_error_f1_at_half)}"
        )
        if found.first_error_f1 is None:
            console.print("no F1: all of these trajectories are right, or all are wrong")
    if found.first_error_by_rule is not None:
        located = _located(found.first_error_by_rule, found.first_error_f1_by_rule)
        console.print(f"by the PRM's own rule: {located}")
    if found.steps is not None:
        console.print(
            f"{found.steps.num_steps} steps, {found.steps.num_wrong} wrong; with thresholds chosen "
            "in the same way: "
            f"F1 of right ones {found.steps.f1_right:.3f}, of wrong ones "
            f"{found.steps.f1_wrong:.3f}, PRM score {found.steps.prm_score:.3f}"
        )
        if ranked := _rankings_of_steps(found):
            console.print(ranked)
    if found.num_outcomes and found.num_right in (0, found.num_outcomes):
        kind = "right" if found.num_right else "wrong"
        console.print(f"outcome: all {found.num_outcomes} are {kind}, so there is nothing to rank")
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
            gap = "–" if point.gap_recovered is None else str(point.gap_recovered)
            table.add_row(str(point.n), *map(str, figures), gap)
        console.print(table)


def check_plot(path: Path) -> None:
    """Raises :class:`MissingExtraError` without matplotlib, and :class:`OutputError` for a name
    that tells no format it can write."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise MissingExtraError("matplotlib", "plots", "plots") from None
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        endings = ", ".join(f".{name}" for name in known)
        raise OutputError(f"cannot draw {path}: its name must end in one of {endings}")


def plot_reliability(sets: Mapping[str, SetEvaluation], path: Path) -> None:
    """Plot claimed against observed frequency, one panel per set. Raises as :func:`check_plot`."""
    check_plot(path)
    from matplotlib.figure import Figure

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
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of right ones")
        axis.set_title(name, parse_math=False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small")
    with replacing_path(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip(".") or None)
