"""GRPO on made-up puzzles: outcome alone, with the process reward, with dense steps.

rfprm train experiments/configs/puzzles.toml -o runs/puzzles-prm
rfprm export runs/puzzles-prm -o artifacts/puzzles --precision int16
python -m experiments.puzzle_policy -o runs/puzzles
python -m experiments.online --policy runs/puzzles/policy/model --artifact artifacts/puzzles

Each arm trains the policy with TRL's GRPOTrainer from the same weights, on the same questions in
the same order, for every seed. Measured on greedy solutions of held-out puzzles: how many answers
are right, and how many solutions in every line, since half of the guesses are right. Finished runs
are kept.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.runner import environment
from experiments.fine_tuning import LINEARS, tokenizer
from experiments.greedy import are_right, greedy_answers
from experiments.kept import add_result_options, check_made_alike, kept_runs, write_result
from experiments.merged_policy import MergedSampling, merged
from experiments.puzzle_policy import MAX_TOKENS, whole_distribution
from experiments.puzzles import Puzzle, held_out_puzzles, training_puzzles
from experiments.seeds import Differences, differences, table_of
from experiments.small_policy import question_text
from rfprm_export.base_model import BaseModel, read_base_model
from rfprm_runtime.ground.content import content_of
from rfprm_runtime.integrations.trl import process_reward
from rfprm_runtime.integrations.trl_dense import DenseAdvantages, DenseCredit
from rfprm_runtime.rewards.completions import CompletionReward
from rfprm_training.evaluation.metrics import within_group_auc
from rfprm_training.learning.precision import is_fast_in_bfloat16


@dataclass(frozen=True)
class Arm:
    """What the policy is rewarded for."""

    beta: float
    """Weight of the process reward beside the outcome (Eq. 12)."""
    dense: DenseCredit | None = None


ARMS = {
    "outcome": Arm(0.0),
    "outcome + PRM": Arm(0.5),
    # As much weight beside the outcome as dense steps have: rewards are scaled within a group.
    "outcome + half PRM": Arm(1 / 3),
    "outcome + dense PRM": Arm(0.0, DenseCredit("progress", weight=0.5)),
}


class Watching:
    """Before TRL's trainer: keeps what process rewards say of its completions."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.seen: list[list[CompletionReward]] = []
        super().__init__(*arguments, **options)

    def take_process_rewards(self, name: str, rewards: Sequence[CompletionReward]) -> None:
        """Called by process rewards, once for each batch."""
        self.seen.append(list(rewards))
        further: Any = getattr(super(), "take_process_rewards", None)
        if further is not None:
            further(name, rewards)


class WholeTrainer(Watching, GRPOTrainer):  # type: ignore[misc]
    pass


class DenseTrainer(Watching, DenseAdvantages, GRPOTrainer):  # type: ignore[misc]
    pass


MEASURES = {
    "accuracy": "answers right",
    "right_throughout": "solutions right in every line",
}


class Measured(TrainerCallback):  # type: ignore[misc]
    """Greedy solutions of held-out puzzles, before the first step and every so many."""

    def __init__(self, base: BaseModel, options: argparse.Namespace) -> None:
        """``base``: the policy before it is trained."""
        self.found: dict[str, dict[int, float]] = {name: {} for name in MEASURES}
        self._base, self._every, self._max_tokens = base, options.every, options.max_tokens
        self._asked = held_out_puzzles(options.held_out)
        self._judge(0, _written_before(options.policy, options.held_out, options.max_tokens))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step % self._every == 0:
            now = merged(self._base, given["model"])
            self._judge(state.global_step, greedy_answers(now, self._asked, self._max_tokens))

    def _judge(self, step: int, written: Sequence[str]) -> None:
        pairs = zip(self._asked, written, strict=True)
        found = {
            "accuracy": are_right(written, self._asked),
            "right_throughout": [puzzle.is_right_throughout(text) for puzzle, text in pairs],
        }
        for name, right in found.items():
            self.found[name][step] = sum(right) / len(right)
        shares = ", ".join(f"{MEASURES[name]} {of[step]:.3f}" for name, of in self.found.items())
        print(f"step {step}: {shares}", flush=True)


@cache
def _written_before(policy: Path, held_out: int, max_tokens: int) -> list[str]:
    """Greedy solutions of the policy that every run begins with."""
    return greedy_answers(read_base_model(policy), held_out_puzzles(held_out), max_tokens)


def run(arm: Arm, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one policy; returns its curves."""
    trained = training_puzzles(options.steps * options.prompts, seed=1000 + seed)
    reward = process_reward(
        str(options.artifact),
        beta=arm.beta,
        unit_scale=True,  # so that half of the reward is the PRM's
        outcome="answer",
        question="question",
        split="lines",
    )
    sampling = MergedSampling(options.policy, whole_distribution(options.max_tokens))
    measured = Measured(sampling.base, options)
    make: Any = DenseTrainer if arm.dense is not None else WholeTrainer
    trainer = make(
        # The backward pass of torch's fused attention takes longer than that of plain products on
        # a CPU, for sequences of this length.
        model=AutoModelForCausalLM.from_pretrained(
            options.policy, dtype=torch.float32, attn_implementation="eager"
        ),
        reward_funcs=reward,
        args=_settings(seed, options),
        train_dataset=Dataset.from_list([_row(puzzle) for puzzle in trained]),
        processing_class=tokenizer(),
        rollout_func=sampling.rollout,
        peft_config=LoraConfig(
            r=16,
            lora_alpha=32,
            target_modules=list(LINEARS),
            layers_to_transform=list(range(options.first_layer, sampling.base.backbone.num_layers)),
        ),
        callbacks=[measured],
        **({} if arm.dense is None else {"dense": arm.dense}),
    )
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    names = {
        "reward": "reward",
        "outcome": "process_reward/outcome",
        "process": "process_reward/process",
        "seconds": "step_time",
        "scoring_seconds": "process_reward/seconds",
    }
    return {
        **{
            name: {str(step): share for step, share in of.items()}
            for name, of in measured.found.items()
        },
        "auc": known_by_prm(trainer.seen, options.generations, options.every),
        **{name: [entry.get(key) for entry in log] for name, key in names.items()},
    }


def known_by_prm(
    seen: Sequence[Sequence[CompletionReward]], group_size: int, every: int
) -> list[float | None]:
    """AUC of the process reward within a question, over so many batches each; None for batches
    that leave nothing to tell apart. A policy that learns to please the PRM lowers it."""
    found: list[float | None] = []
    for start in range(0, len(seen), every):
        rewards = [reward for batch in seen[start : start + every] for reward in batch]
        known = [
            (reward.process, reward.outcome == 1, place // group_size)
            for place, reward in enumerate(rewards)
            if reward.process is not None
        ]
        value = within_group_auc(*map(np.array, zip(*known, strict=True))) if known else math.nan
        found.append(None if math.isnan(value) else value)
    return found


def _row(puzzle: Puzzle) -> dict[str, str]:
    prompt = question_text(puzzle.question)
    return {"prompt": prompt, "question": puzzle.question, "answer": puzzle.answer}


def _settings(seed: int, options: argparse.Namespace) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(options.output / "trainer"),
        max_steps=options.steps,
        per_device_train_batch_size=options.prompts * options.generations,
        num_generations=options.generations,
        max_completion_length=options.max_tokens,
        temperature=1.0,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=5,
        scale_rewards="group",
        shuffle_dataset=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=is_fast_in_bfloat16(torch.device("cpu")),
        gradient_checkpointing=False,
        seed=seed,
    )


def summarise(runs: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """By arm: each measure by step, with the differences from the arms before it, and the PRM's AUC
    over time (the mean of what is known)."""
    found: dict[str, Any] = {
        name: {
            **{measure: _curve(of_arm, measure) for measure in MEASURES},
            "auc": [
                _mean_of_known(one)
                for one in zip(*(run["auc"] for run in of_arm.values()), strict=True)
            ],
        }
        for name, of_arm in runs.items()
    }
    for measure in MEASURES:
        for step in next(iter(found.values()))[measure]["steps"]:
            for arm, of_others in over_other_arms(runs, measure, step).items():
                found[arm][measure]["over_seeds"][str(step)] = of_others
    return found


def _curve(of_arm: dict[str, dict[str, Any]], measure: str) -> dict[str, Any]:
    """Mean and spread over seeds, by step."""
    of_seeds = [run[measure] for run in of_arm.values()]
    steps = sorted({int(step) for one in of_seeds for step in one})
    curves = np.array([[one[str(step)] for step in steps] for one in of_seeds])
    return {
        "steps": steps,
        "mean": curves.mean(axis=0).tolist(),
        "lowest": curves.min(axis=0).tolist(),
        "highest": curves.max(axis=0).tolist(),
        "over_seeds": {},
    }


def over_other_arms(
    runs: dict[str, dict[str, dict[str, Any]]], measure: str, step: int
) -> Differences:
    return differences(
        {
            arm: {seed: run[measure][str(step)] for seed, run in of_arm.items()}
            for arm, of_arm in runs.items()
        }
    )


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def plot(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (measure, title) in zip(figure.subplots(1, 2), MEASURES.items(), strict=True):
        for name, of_arm in found.items():
            curve = of_arm[measure]
            (line,) = axes.plot(curve["steps"], curve["mean"], marker=".", label=name)
            axes.fill_between(
                curve["steps"],
                curve["lowest"],
                curve["highest"],
                alpha=0.15,
                color=line.get_color(),
            )
        axes.set(title=title, xlabel="training step", ylabel="share of held-out puzzles")
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    check_made_alike(options.output, _made_from(options))

    def make(name: str, seed: int) -> dict[str, Any]:
        return run(ARMS[name], seed, options)

    runs = kept_runs(options.output, options.arms, options.seeds, make)
    found = summarise(runs)
    settings = {k: v for k, v in vars(options).items() if k not in ("output", "policy", "artifact")}
    measured = {"environment": environment(), "settings": settings, "arms": found, "runs": runs}
    written = write_result(options, measured)
    plot(found, written.with_suffix(".png"))
    for name, of_arm in found.items():
        known = ", ".join("–" if value is None else f"{value:.3f}" for value in of_arm["auc"])
        print(f"{name}: AUC {known}")
        for measure, title in MEASURES.items():
            mean = of_arm[measure]["mean"]
            print(f"  {title}: {mean[0]:.3f} → {mean[-1]:.3f}")
    console = Console(width=150, highlight=False)
    for step in next(iter(found.values()))["accuracy"]["steps"][1:]:
        of_measures = {
            title: {arm: of[m]["over_seeds"].get(str(step), {}) for arm, of in found.items()}
            for m, title in MEASURES.items()
        }
        console.print(table_of(f"differences at step {step}", of_measures))
    print(f"→ {written}")


def _made_from(options: argparse.Namespace) -> dict[str, Any]:
    free = {"output", "policy", "artifact", "arms", "seeds", "keep", "name"}
    settings = {name: value for name, value in vars(options).items() if name not in free}
    contents = {"policy": content_of(options.policy), "artifact": content_of(options.artifact)}
    return {**settings, **contents}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--policy", type=Path, required=True, help="folder of the model to train")
    add("--artifact", type=Path, required=True, help="of the PRM")
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--steps", type=int, default=24)
    add("--prompts", type=int, default=3, help="questions a step")
    add("--generations", type=int, default=8, help="completions of a question")
    add("--max-tokens", type=int, default=MAX_TOKENS, help="of a completion")
    add("--learning-rate", type=float, default=2e-4)
    add("--first-layer", type=int, default=15, help="layers below it are not trained")
    add("--every", type=int, default=12, help="steps between two measurements")
    add("--held-out", type=int, default=150, help="puzzles to measure on")
    add_result_options(parser, "online")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
