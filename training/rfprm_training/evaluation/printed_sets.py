"""Prints the figures of evaluation sets for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from rfprm_training.evaluation.best_of_n import CurvePoint
from rfprm_training.evaluation.decisions import Decisions
from rfprm_training.evaluation.evaluated_sets import EvaluatedSets
from rfprm_training.evaluation.metrics import Estimate, FirstError
from rfprm_training.evaluation.printing import NO_STEPS, shown_range
from rfprm_training.evaluation.prmbench import PRMBench
from rfprm_training.evaluation.processbench import ProcessBench
from rfprm_training.evaluation.set_figures import SetEvaluation


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
    _print_first_errors(console, found)
    _print_steps(console, found)
    _print_outcomes(console, found)
    for kind, figure in (
        ("steps", found.step_calibration),
        ("trajectory", found.outcome_calibration),
        ("trajectory, temperature-scaled", found.outcome_calibration_fitted),
    ):
        if figure is not None:
            console.print(f"calibration of {kind}: ECE {figure.ece:.3f}, Brier {figure.brier:.3f}")
    if found.best_of_n:
        console.print(_curve(found.best_of_n))


def _print_first_errors(console: Console, found: SetEvaluation) -> None:
    fitted, at_half = found.first_error, found.first_error_at_half
    if fitted is None or at_half is None or found.thresholds is None:
        return
    console.print(
        f"first wrong step{_known_of(found)}: {_located(fitted, found.first_error_f1)}; thresholds "
        f"chosen on the other nine tenths of the questions: {shown_range(found.thresholds)}; at "
        f"even odds: {_located(at_half, found.first_error_f1_at_half)}"
    )
    if found.first_error_f1 is None:
        console.print("no F1: all of these trajectories are right, or all are wrong")
    if found.first_error_by_rule is not None:
        located = _located(found.first_error_by_rule, found.first_error_f1_by_rule)
        console.print(f"by the PRM's own rule: {located}")


def _print_steps(console: Console, found: SetEvaluation) -> None:
    if found.steps is None:
        return
    console.print(
        f"{found.steps.num_steps} steps, {found.steps.num_wrong} wrong; with thresholds chosen in "
        f"the same way: F1 of right ones {found.steps.f1_right:.3f}, of wrong ones "
        f"{found.steps.f1_wrong:.3f}, PRM score {found.steps.prm_score:.3f}"
    )
    if ranked := _rankings_of_steps(found):
        console.print(ranked)


def _print_outcomes(console: Console, found: SetEvaluation) -> None:
    if found.num_outcomes and found.num_right in (0, found.num_outcomes):
        kind = "right" if found.num_right else "wrong"
        console.print(f"outcome: all {found.num_outcomes} are {kind}, so there is nothing to rank")
    if found.outcome_auc is not None:
        console.print(f"outcome: AUC of the reward {found.outcome_auc}")
    if found.outcome_auc_within_question is not None:
        console.print(f"outcome: AUC within a question {found.outcome_auc_within_question}")


def _curve(points: Sequence[CurvePoint]) -> Table:
    table = Table("N", "picked", "random", "majority", "oracle", "gap recovered")
    for point in points:
        figures = (point.picked, point.random, point.majority, point.oracle, point.gap_recovered)
        cells = ("–" if figure is None else str(figure) for figure in figures)
        table.add_row(str(point.n), *cells)
    return table
