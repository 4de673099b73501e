"""Writes the model card of a checkpoint from the files of its run."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rfprm_export.checkpoint import CHECKPOINT_NAME, Checkpoint, read_checkpoint
from rfprm_export.named_base import GgufBase
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_training.learning.config import RewardedDataConfig, TrainingConfig, read_config
from rfprm_training.learning.run_folder import CONFIG_NAME, DATA_NAME, read_log

CARD_NAME = "README.md"
EVALUATION_NAME = "evaluation.json"
FOLDS_NAME = "cross_validation.json"
"""Output of ``rfprm cross-validate``, copied beside a checkpoint of the same recipe."""
_MARK = "<!-- written by rfprm train; what stands below the line '## Notes' is kept -->"
_NOTES = "## Notes"


def write_model_card(folder: Path) -> None:
    """Write ``README.md`` from config, data, log and evaluation.

    Notes that a person added at its end are kept, and a handwritten card is left alone. A folder
    without a config is none of a run, and gets no card.
    """
    if not (folder / CONFIG_NAME).is_file():
        return
    path = folder / CARD_NAME
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old and _MARK not in old:
        return
    config = read_config(folder / CONFIG_NAME)
    parts = [
        _front_matter(config),
        _MARK,
        f"# {config.name}",
        _what_it_is(config, _checkpoint_of(folder)),
        "## Data",
        _data(_read_json(folder / DATA_NAME), config),
        "## Training",
        _training(read_log(folder), config),
        "## Results",
        _results(_read_json(folder / EVALUATION_NAME), _read_json(folder / FOLDS_NAME)),
        _NOTES + (old.partition(f"\n{_NOTES}")[2].rstrip() or "\n\n(none yet)"),
    ]
    write_whole(path, "\n\n".join(parts) + "\n")


def _front_matter(config: TrainingConfig) -> str:
    base = config.base.file if isinstance(config.base, GgufBase) else Path(config.base.path).name
    return "\n".join(
        (
            "---",
            f"base_model: {base}",
            "library_name: rfprm_runtime",
            "pipeline_tag: text-classification",
            "tags: [process-reward-model, prm, ReasonFlux-PRM]",
            "---",
        )
    )


def _checkpoint_of(folder: Path) -> Checkpoint | None:
    """None before a run has written it."""
    return read_checkpoint(folder) if (folder / CHECKPOINT_NAME).is_file() else None


def _what_it_is(config: TrainingConfig, checkpoint: Checkpoint | None) -> str:
    # Calibration may have chosen another α than the run began with.
    alpha = config.alpha if checkpoint is None else checkpoint.alpha
    network = config.network
    layers = f"layers {network.first_trained_layer} to {network.num_layers - 1}"
    if network.method == "lora":
        trained = (
            f"LoRA (rank {network.lora_rank}, α {network.lora_alpha}, "
            f"{', '.join(network.lora_targets)}) on {layers}"
        )
    else:
        trained = f"all weights of {layers}"
    return (
        f"A process reward model in the format `{config.family}`: {trained}, the final norm and "
        f"the heads, on the first {network.num_layers} layers of the base. It scores every step "
        "and the whole of a trajectory; reward = mean step score + "
        f"{alpha:g} · trajectory score." + _calibrations(checkpoint) + _rule(checkpoint)
    )


def _calibrations(checkpoint: Checkpoint | None) -> str:
    """Sentences, or nothing."""
    if checkpoint is None:
        return ""
    readouts = {"Step": checkpoint.step_readout, "Trajectory": checkpoint.trajectory_readout}
    return "".join(
        f" {name} scores are calibrated: temperature {found.temperature:.3f}, bias "
        f"{found.bias:+.3f}, fitted on {found.fitted_on}."
        for name, readout in readouts.items()
        if readout is not None and (found := readout.calibration) is not None
    )


def _rule(checkpoint: Checkpoint | None) -> str:
    """A sentence, or nothing."""
    rule = None if checkpoint is None else checkpoint.first_error
    if rule is None:
        return ""
    return (
        f" The first wrong step of a trace is taken to be the first with a score below "
        f"{rule.wrong_below:.6g}, fitted on {rule.fitted_on}."
    )


def _data(data: dict[str, Any] | None, config: TrainingConfig) -> str:
    if data is None:
        return "Not recorded."
    lines = ["| | trajectories | questions | tokens |", "|---|---|---|---|"]
    for name, title in (("trained", "trained on"), ("held_out", "held out")):
        part = data[name]
        lines.append(
            f"| {title} | {part['trajectories']:,} | {part['questions']:,} | {part['tokens']:,} |"
        )
    kinds = sorted(data["trained"]["kinds"].items(), key=lambda item: (-item[1], item[0]))
    lines += ["", "Kinds trained on: " + ", ".join(f"{n:,} {kind}" for kind, n in kinds) + "."]
    if isinstance(config.data, RewardedDataConfig):
        lines.append("Files: " + ", ".join(f"`{path.name}`" for path in config.data.train) + ".")
    return "\n".join(lines)


def _training(log: list[dict[str, Any]], config: TrainingConfig) -> str:
    steps = [record for record in log if "loss_total" in record]
    loss, settings = config.loss, config.optimizer
    lines = [
        f"Loss: {loss.kind}, λ_step {loss.lambda_step:g}, λ_final {loss.lambda_final:g}, pairs "
        f"{loss.lambda_pair:g} (trajectory) and {loss.lambda_pair_step:g} (steps). AdamW, learning "
        f"rate {settings.learning_rate:g} (heads {settings.head_learning_rate:g}), "
        f"{settings.num_epochs} {'epoch' if settings.num_epochs == 1 else 'epochs'}, "
        f"{settings.batch_tokens:,} tokens per step.",
    ]
    if config.start_from is not None:
        start = f"Training started from the weights of `{config.start_from.name}`"
        kept = f", which make up {config.start_share:g} of the finished ones"
        lines.insert(0, f"{start}{kept if config.start_share else ''}.")
    if steps:
        tenth = max(1, len(steps) // 10)
        first, last = steps[:tenth], steps[-tenth:]
        hours = sum(record["seconds"] for record in steps) / 3600
        lines.append(
            f"{len(steps):,} steps in {hours:.2f} h of computing. Mean loss: {_mean(first):.3f} in "
            f"the first tenth, {_mean(last):.3f} in the last."
        )
    evaluations = [record for record in log if "evaluation_total" in record]
    if evaluations:
        best = min(evaluations, key=lambda record: float(record["evaluation_total"]))
        lines.append(
            f"Loss on held-out examples: {evaluations[0]['evaluation_total']:.3f} at step "
            f"{evaluations[0]['step']}; lowest: {best['evaluation_total']:.3f} at step "
            f"{best['step']}."
        )
    lines.append(f"Versions: {_versions()}. Every setting is in `{CONFIG_NAME}`.")
    return "\n\n".join(lines)


def _mean(records: list[dict[str, Any]]) -> float:
    return sum(float(record["loss_total"]) for record in records) / len(records)


def _results(evaluation: dict[str, Any] | None, folds: dict[str, Any] | None) -> str:
    parts = []
    if folds is not None:
        parts.append(
            f"{folds['num_solutions']:,} real solutions to {folds['num_questions']:,} questions, "
            f"each scored by a PRM of the same recipe that was not trained on its question "
            f"({folds['num_folds']} folds). 95 % intervals by bootstrap over questions."
            + _calibration_of(
                "trajectory score",
                folds["outcome_calibration"],
                folds["outcome_calibration_fitted"],
            )
        )
        parts.append(_ranking_table(folds["rankings"]))
    if evaluation is not None and evaluation["rankings"]:
        parts.append(
            f"{evaluation['num_solutions']} real solutions to {evaluation['num_questions']} "
            "questions that were not trained on. 95 % intervals by bootstrap over questions."
        )
        parts.append(_ranking_table(evaluation["rankings"]))
    if evaluation is not None and evaluation["first_error"] is not None:
        found, at_half = evaluation["first_error"], evaluation["first_error_at_half"]
        kinds = ", ".join(
            f"{kind} {share:.2f}" for kind, share in evaluation["first_error_by_kind"].items()
        )
        parts.append(
            f"On {evaluation['num_constructed']} constructed trajectories of held-out questions: "
            f"first wrong step located in {found['wrong_located']:.3f} of the wrong ones "
            f"({kinds}), right ones accepted {found['right_accepted']:.3f}, F1 "
            f"{evaluation['first_error_f1']:.3f}, with thresholds chosen on the other nine tenths "
            f"of the questions ({min(evaluation['thresholds']):.3f} to "
            f"{max(evaluation['thresholds']):.3f}). "
            f"At 0.5: {at_half['wrong_located']:.3f}, {at_half['right_accepted']:.3f}, F1 "
            f"{evaluation['first_error_at_half_f1']:.3f}."
            + _calibration_of("steps", evaluation["step_calibration"])
        )
    return "\n\n".join(parts) or "Not measured yet; run `rfprm evaluate`."


def _calibration_of(
    what: str, found: dict[str, Any] | None, fitted: dict[str, Any] | None = None
) -> str:
    """A sentence, or nothing if there were too few scores."""
    if found is None:
        return ""
    scaled = "" if fitted is None else f", {fitted['ece']:.3f} after temperature scaling"
    return f" Expected calibration error of the {what} {found['ece']:.3f}{scaled}."


def _ranking_table(rankings: dict[str, Any]) -> str:
    best = next(iter(rankings.values()))["best_of_n"]
    columns = {
        "auc": "AUC",
        "auc_within_question": "AUC within a question",
        "best_of_n": "Best-of-N",
        "gap_recovered": "gap recovered",
    }
    note = ""
    # Files of earlier versions do not have it.
    if any(ranking.get("auc_against_source") for ranking in rankings.values()):
        columns["auc_against_source"] = "AUC against the source"
        note = (
            " Against the source: over the pairs whose right solution is of the source that is "
            "right less often on the other questions."
        )
    rows = [
        f"Best-of-N: random {best['random']:.3f}, oracle {best['oracle']:.3f}.{note}",
        "",
        f"| score | {' | '.join(columns.values())} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, ranking in rankings.items():
        spelled = [_cell(ranking[key]) for key in columns]
        rows.append(f"| {name.replace('_', ' ')} | {' | '.join(spelled)} |")
    return "\n".join(rows)


def _cell(found: dict[str, float]) -> str:
    if "picked" in found:
        return f"{found['picked']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _versions() -> str:
    found = []
    for package in ("rfprm_runtime", "torch", "peft", "accelerate"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
