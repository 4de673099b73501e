"""One HTML page about a selection: what was scored, what was chosen, and why the rest was not."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime import __version__
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.ground.tint import Scale, three
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_runtime.selection.charts import histograms, length_against_score
from rfprm_runtime.selection.of_traces import Groups
from rfprm_runtime.selection.rule import OUTCOMES, Choice, Selection, length_line
from rfprm_runtime.selection.score_table import ScoreTable
from rfprm_runtime.selection.scores import ShardScores, trace_of
from rfprm_runtime.selection.settings import Scoring
from rfprm_runtime.selection.summary import SelectionSummary
from rfprm_runtime.traces.shards import Plan, Shard
from rfprm_runtime.traces.sources import Source
from rfprm_runtime.types import Trajectory, windows_of

_TEMPLATE = "report.html.j2"
_MAX_CHARTS = 9
_MAX_GROUPS = 20
_MAX_CHARACTERS = 600
_MAX_STEPS = 12
_QUANTILES = (
    (1.0, "the best"),
    (0.9, "better than 90 %"),
    (0.5, "the median"),
    (0.1, "better than 10 %"),
    (0.0, "the worst"),
)


@dataclass(frozen=True)
class ReportInput:
    """Everything a page shows except the counts."""

    source: Source
    plan: Plan
    read_scores: Callable[[Shard], ShardScores]
    table: ScoreTable
    groups: Groups | None
    choice: Choice
    rule: Selection
    scoring: Scoring


def check_extras() -> None:
    """Raise :class:`MissingExtraError` if a package that reports need is missing."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "select", "a report")


def write_report(
    path: Path,
    found: ReportInput,
    summary: SelectionSummary,
    manifest: Manifest,
    *,
    source: str,
    output: str,
) -> None:
    """Write the page to ``path``.

    Raises :class:`MissingExtraError` if jinja2 or matplotlib is not installed.
    """
    check_extras()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    examples = _examples(found)
    page = environment.get_template(_TEMPLATE).render(
        version=__version__,
        source=source,
        output=output,
        summary=summary,
        outcomes=_outcomes(summary),
        groups=_group_rows(found)[:_MAX_GROUPS],
        num_groups=0 if found.groups is None else len(_group_rows(found)),
        group_name=found.rule.group_by or "source",
        charts=_charts(found),
        examples=examples,
        scale=_scale(examples),
        three=three,
        settings=_settings(found),
        artifact=_artifact(manifest),
        ranked_by=_label(found.rule),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)


def _label(rule: Selection) -> str:
    return rule.score if rule.length_control == "none" else f"{rule.score}, corrected for length"


def _outcomes(summary: SelectionSummary) -> list[dict[str, Any]]:
    total = max(1, summary.num_scored + summary.num_failed)
    rows = [*summary.outcomes.items(), ("could not be scored", summary.num_failed)]
    return [{"name": name, "count": n, "share": n / total} for name, n in rows]


def _masks(groups: Groups | None, num_traces: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """Names and members of the groups, largest first."""
    if groups is None:
        return [("all traces", np.ones(num_traces, dtype=bool))]
    counts = np.bincount(groups.code, minlength=len(groups.names))
    order = [code for code in np.argsort(-counts, kind="stable") if counts[code]]
    return [(groups.names[code], groups.code == code) for code in order[:_MAX_GROUPS]]


def _group_rows(found: ReportInput) -> list[dict[str, Any]]:
    is_chosen, rows = found.choice.outcome == 0, []
    if found.groups is None:
        return []
    counts = np.bincount(found.groups.code, minlength=len(found.groups.names))
    chosen = np.bincount(found.groups.code[is_chosen], minlength=len(found.groups.names))
    sums = np.bincount(found.groups.code, found.table.score, minlength=len(found.groups.names))
    for code in np.argsort(-counts, kind="stable"):
        if counts[code]:
            rows.append(
                {
                    "name": found.groups.names[code],
                    "scored": int(counts[code]),
                    "chosen": int(chosen[code]),
                    "share": chosen[code] / counts[code],
                    "mean": sums[code] / counts[code],
                }
            )
    return rows


def _charts(found: ReportInput) -> dict[str, Any]:
    """The charts as SVG, marked safe: we make it, and matplotlib escapes the texts in it."""
    from markupsafe import Markup

    table, choice, rule = found.table, found.choice, found.rule
    if not len(table):
        return {}
    line = length_line(table.score, table.num_tokens) if rule.length_control != "none" else None
    masks = _masks(found.groups, len(table))[:_MAX_CHARTS]
    return {
        "histograms": Markup(histograms(choice.value, choice.outcome == 0, masks, _label(rule))),
        "length": Markup(
            length_against_score(table.num_tokens, table.score, choice.chosen, line, rule.score)
        ),
    }


def _examples(found: ReportInput) -> list[dict[str, Any]]:
    order = np.argsort(-found.choice.value, kind="stable")
    if not len(order):
        return []
    places: dict[int, str] = {}
    for quantile, name in _QUANTILES:
        places.setdefault(int(order[round((1 - quantile) * (len(order) - 1))]), name)
    return [_example(found, place, name) for place, name in places.items()]


def _scale(examples: Sequence[dict[str, Any]]) -> Scale:
    """Of all scores that have a colour."""
    of_each = ((*(s["score"] for s in x["steps"]), x["trajectory_score"]) for x in examples)
    return Scale.of(score for scores in of_each for score in scores)


def _example(found: ReportInput, place: int, name: str) -> dict[str, Any]:
    row, shard_rows = int(found.table.row[place]), found.plan.shards[0].count
    shard = found.plan.shards[row // shard_rows]
    scores = found.read_scores(shard)
    index = place - found.table.of_shard(shard).start
    record = found.source.read(shard, found.scoring.reading).records[row]
    trajectory = trace_of(record, int(scores.generation[index])).trajectory
    assert isinstance(trajectory, Trajectory)  # it has a score
    # A reward model of whole sequences gives no step scores.
    step_scores: list[float | None] = [float(score) for score in scores.steps(index)]
    step_scores = step_scores or [None] * len(trajectory.steps)
    steps = list(zip(trajectory.steps, step_scores, strict=True))
    trajectory_score = float(scores.trajectory_score[index])
    outcome = OUTCOMES[found.choice.outcome[place]]
    return {
        "name": name,
        "row": row + 1,
        "outcome": outcome,
        "is_chosen": outcome == "chosen",
        "value": float(found.choice.value[place]),
        "reward": float(scores.reward[index]),
        "num_tokens": int(scores.num_tokens[index]),
        "question": _cut(trajectory.question),
        "steps": [{"text": _cut(text), "score": score} for text, score in steps[:_MAX_STEPS]],
        "num_hidden": max(0, len(steps) - _MAX_STEPS),
        "response": _cut("\n".join(trajectory.response)),
        "trajectory_score": None if math.isnan(trajectory_score) else trajectory_score,
    }


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"


def _settings(found: ReportInput) -> list[tuple[str, str]]:
    rule = {k: v for k, v in found.rule.model_dump().items() if v is not None}
    windows = windows_of(found.scoring.overflow)
    scoring = {
        "steps split on": found.scoring.split.replace("_", " "),
        "overlong traces": "error" if windows is None else "window",
        **({} if windows is None else {"window context": windows.context}),
        **({"prefixes scored": "yes"} if found.scoring.score_prefixes else {}),
        "backend": found.scoring.backend,
        "rows per shard": found.scoring.shard_rows,
    }
    fingerprint = {f"input, {k}": v for k, v in found.plan.fingerprint.items()}
    rows = {**rule, **scoring, **fingerprint}
    return [
        (
            name.replace("_", " "),
            f"{value:,}" if isinstance(value, int) and value is not True else str(value),
        )
        for name, value in rows.items()
    ]


def _artifact(manifest: Manifest) -> list[tuple[str, str]]:
    shape = manifest.backbone
    rows = {
        "name": manifest.name,
        "family": manifest.family,
        "precision": manifest.precision,
        **_of_reward(manifest),
        "positions": f"{manifest.max_positions:,}",
        "backbone": f"{shape.num_layers} layers of {shape.hidden_size}",
        "weights, sha256": manifest.weights_sha256 or "not recorded",
    }
    return list(rows.items())


def _of_reward(manifest: Manifest) -> dict[str, str]:
    bounds = manifest.reward_bounds
    both = manifest.step_readout is not None and manifest.trajectory_readout is not None
    return {
        **({"α of the reward": f"{manifest.alpha:g}"} if both else {}),
        "rewards": "without bounds" if bounds is None else f"from {bounds[0]:g} to {bounds[1]:g}",
    }
