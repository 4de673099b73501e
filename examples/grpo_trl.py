"""GRPO on a CPU: TRL trains SmolLM2-135M-Instruct with the shipped PRM's process reward (Eq. 12).

    make demo                                    # writes the artifact
    python examples/grpo_trl.py --steps 24       # about ten minutes on two cores
    python examples/grpo_trl.py --tiny           # a random policy, two steps, seconds
    python examples/grpo_trl.py --oversample 4   # sample 4 times as many, update on a choice

Saves the reward curve (reward.png, run.json). Then checks on the completions TRL logged that the
rewards are those of the scorer and that TRL's advantages are Eq. 12.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from rfprm_export.base_model import BaseModel, read_base_model
from rfprm_export.checkpoint import read_checkpoint
from rfprm_export.named_base import find_base_model
from rfprm_runtime import RfprmError, Scorer, Trajectory
from rfprm_runtime.answers import answers_agree, final_answer
from rfprm_runtime.integrations.trl import Oversampling, process_reward
from rfprm_runtime.rewards import DEFAULT_BETA, group_advantages, mixed_reward
from rfprm_training.construction.sampling.line_sampler import language_model

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "models" / "smollm2-135m-gsm8k"
REWARD = "process_reward_function"
# A model of this size does not follow instructions about the format, but it imitates an example.
SHOWN = [
    {
        "role": "user",
        "content": "Nina buys 3 pens for $2 each and a book for $7. How much does she pay?",
    },
    {
        "role": "assistant",
        "content": "The pens cost 3 * 2 = $6.\n"
        "Together with the book she pays 6 + 7 = $13.\n"
        "The answer is 13.",
    },
]
PROBLEMS = [
    ("Mia has 5 bags with 6 apples each. How many apples has she?", "30"),
    ("A book costs $8. How much do 4 books cost?", "32"),
    ("Tom had 20 marbles and gave 7 away. How many are left?", "13"),
    ("A bus has 40 seats and 26 are taken. How many are free?", "14"),
    ("Each of 3 boxes holds 9 pens, and 5 more lie on the desk. How many pens are there?", "32"),
    ("Ann reads 12 pages a day. How many pages does she read in 5 days?", "60"),
    ("24 cookies are shared by 6 children. How many does each get?", "4"),
    ("Sam is 11 and his sister is 4 years older. How old is she?", "15"),
    ("A farmer has 15 cows and buys twice as many. How many cows has he now?", "45"),
    ("Lea saves $3 a week and has $10 already. How much has she after 6 weeks?", "28"),
    ("A rope of 50 metres is cut into 5 equal pieces. How long is each?", "10"),
    ("Ben bakes 36 rolls and sells a third of them. How many has he sold?", "12"),
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}"
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    trainer = _trainer(options)
    trainer.train()
    run = {
        **_curve(trainer.state.log_history, options),
        **_check(options),
        "circumstances": _circumstances(options),
    }
    _plot(run, options.output / "reward.png")
    (options.output / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    _tell(run, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    artifact, output = ROOT / "artifacts" / "smollm2-135m-gsm8k", ROOT / "runs" / "grpo"
    add("--artifact", type=Path, default=artifact, help="the PRM's artifact folder")
    add("--backend", default="auto", help="backend of the scorer")
    add("-o", "--output", type=Path, default=output, help="folder to write")
    add("--steps", type=int, default=24, help="training steps")
    add("--prompts", type=int, default=2, help="questions per step")
    add("--generations", type=int, default=4, help="completions per question to update on")
    add("--oversample", type=int, default=1, help="times as many completions to choose from")
    add("--keep", default="max_variance", help="how to choose: max_variance, top or balanced")
    add("--max-tokens", type=int, default=64, help="limit of a completion")
    add("--temperature", type=float, default=0.7, help="of sampling")
    add("--learning-rate", type=float, default=1e-4, help="of AdamW")
    add("--beta", type=float, default=DEFAULT_BETA, help="weight of the process reward (Eq. 12)")
    add("--seed", type=int, default=0, help="random seed")
    add("--tiny", action="store_true", help="train a small random policy for two steps")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.steps, options.max_tokens = 2, 12
    return options


def _trainer(options: argparse.Namespace) -> GRPOTrainer:
    base = read_base_model(find_base_model(read_checkpoint(CHECKPOINT).base, CHECKPOINT))
    reward = process_reward(
        str(options.artifact),
        backend=options.backend,
        beta=options.beta,
        outcome="answer",
        question="question",
        split="lines",
    )
    sampling = Oversampling(reward, times=options.oversample, keep=options.keep)
    return GRPOTrainer(
        model=_random_policy(base, options.seed) if options.tiny else language_model(base),
        reward_funcs=sampling.rewards,
        rollout_func=sampling.rollout if options.oversample > 1 else None,
        args=_training(options),
        train_dataset=Dataset.from_list([_row(question, answer) for question, answer in PROBLEMS]),
        processing_class=_tokenizer(base),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )


def _training(options: argparse.Namespace) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=options.prompts * options.generations,
        num_generations=options.generations,
        max_completion_length=options.max_tokens,
        temperature=options.temperature,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=2,
        scale_rewards="group",
        logging_steps=1,
        log_completions=True,
        num_completions_to_print=0,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        seed=options.seed,
    )


def _row(question: str, answer: str) -> dict[str, Any]:
    prompt = [*SHOWN, {"role": "user", "content": question}]
    return {"prompt": prompt, "question": question, "answer": answer}


def _random_policy(base: BaseModel, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=base.backbone.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def _tokenizer(base: BaseModel) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=base.tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )


def _curve(log_history: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """What TRL logged at every step, and the share of the time spent scoring.

    Questions differ more than steps do, so rewards are compared between passes over all questions.
    """
    names = {
        "reward": "reward",
        "process": "process_reward/process",
        "outcome": "process_reward/outcome",
        "num_steps": "process_reward/num_steps",
        "unscorable": "process_reward/unscorable",
        "scoring_seconds": "process_reward/seconds",
        "step_seconds": "step_time",
        "num_tokens": "completions/mean_length",
        "spread_sampled": "oversampling/spread_sampled",
        "spread_kept": "oversampling/spread_kept",
    }
    steps = [entry for entry in log_history if "reward" in entry]
    curve = {name: [entry.get(key) for entry in steps] for name, key in names.items()}
    share = sum(curve["scoring_seconds"]) / sum(curve["step_seconds"])
    size = len(PROBLEMS) // options.prompts
    passes = [curve["reward"][start : start + size] for start in range(0, len(steps), size)]
    means = [float(np.mean([x for x in rewards if x is not None])) for rewards in passes]
    return {"curve": curve, "reward_by_pass": means, "scoring_share_of_step": share}


def _check(options: argparse.Namespace) -> dict[str, Any]:
    """Compute rewards and advantages again from the logged completions, without adapter or TRL."""
    paths = sorted((options.output / "completions").glob("*.parquet"))[: options.steps]
    rewards, advantages = [], []
    unscorable = 0
    with Scorer.load(options.artifact, backend=options.backend) as scorer:
        for path in paths:
            table = pd.read_parquet(path)
            ours = _rewards(scorer, table, options.beta)
            unscorable += int(np.isnan(ours).sum())
            rewards.append(_difference(table[REWARD].to_numpy(), ours))
            ours = group_advantages(ours, options.generations)
            advantages.append(_difference(table["advantage"].to_numpy(), ours))
    return {
        "num_completions": sum(map(len, rewards)),
        "num_without_reward": unscorable,
        "max_reward_difference": float(np.concatenate(rewards).max()),
        "max_advantage_difference": float(np.concatenate(advantages).max()),
    }


def _rewards(scorer: Scorer, table: pd.DataFrame, beta: float) -> np.ndarray:
    answers = dict(PROBLEMS)
    questions = [prompt[-1]["content"] for prompt in table["prompt"]]
    texts = [completion[-1]["content"] for completion in table["completion"]]
    process = [_score(scorer, *pair) for pair in zip(questions, texts, strict=True)]
    outcome = [
        float(answers_agree(final_answer(text), answers[question]) is True)
        for question, text in zip(questions, texts, strict=True)
    ]
    return mixed_reward(outcome, process, beta)


def _score(scorer: Scorer, question: str, text: str) -> float | None:
    try:
        trajectory = Trajectory.from_text(question, text, split="lines")
        return scorer.score_batch([trajectory])[0].reward
    except RfprmError:
        return None


def _difference(logged: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Absolute differences; 0 where neither has a number, infinite where only one does."""
    both = np.isnan(logged) & np.isnan(ours)
    return np.where(both, 0.0, np.nan_to_num(np.abs(logged - ours), nan=np.inf))


def _circumstances(options: argparse.Namespace) -> dict[str, Any]:
    packages = ("trl", "transformers", "torch", "peft", "onnxruntime", "rfprm_runtime")
    chosen = {**vars(options), "artifact": options.artifact.name}
    del chosen["output"]
    return {
        "date": datetime.date.today().isoformat(),
        "options": chosen,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _plot(run: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (
        ("reward", "reward (Eq. 12)"),
        ("process", "process reward (Eq. 11)"),
        ("outcome", "outcome"),
    ):
        values = [np.nan if x is None else x for x in run["curve"][name]]
        axes.plot(range(1, len(values) + 1), values, marker=".", label=label)
    size = len(PROBLEMS) // run["circumstances"]["options"]["prompts"]
    for index, mean in enumerate(run["reward_by_pass"]):
        label = None if index else "mean reward of a pass over the questions"
        edges = index * size + 0.5, min((index + 1) * size, len(values)) + 0.5
        axes.hlines(mean, *edges, colors="black", linestyles="dashed", label=label)
    axes.set(xlabel="training step", ylabel="mean over the step's completions")
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=150)


def _tell(run: dict[str, Any], output: Path) -> None:
    passes = ", ".join(f"{mean:.3f}" for mean in run["reward_by_pass"])
    print(
        f"mean reward in each pass over the questions: {passes}\n"
        f"{run['num_completions']} logged completions scored again, "
        f"{run['num_without_reward']} of them without a reward: "
        f"largest difference of rewards {run['max_reward_difference']:.1e}, "
        f"of TRL's advantages from Eq. 12 {run['max_advantage_difference']:.1e}\n"
        f"scoring took {100 * run['scoring_share_of_step']:.1f} % of the time of a training step "
        f"({np.mean(run['curve']['scoring_seconds']):.2f} of "
        f"{np.mean(run['curve']['step_seconds']):.2f} s)\n"
        f"→ {output / 'run.json'}, {output / 'reward.png'}"
    )
    if run["max_reward_difference"] > 1e-5 or run["max_advantage_difference"] > 1e-2:
        raise SystemExit("the logged rewards or advantages differ from those of the scorer")


if __name__ == "__main__":
    main()
