"""Trains a small policy on the form of GSM8K's solutions, for searches to guide.

python -m benchmarks.small_policy --gold ../shared/data/gsm8k_train.jsonl -o runs/small-policy

The base model solves almost none of these problems. TRL's SFTTrainer trains a LoRA adapter on
solutions to questions that are not held out from the PRM, and merges it. Resumes from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from benchmarks.problems import held_out_questions
from rfprm_export.base_model import read_base_model
from rfprm_export.named_base import find_base_model
from rfprm_export.shipped import shipped_checkpoint
from rfprm_training.construction.sampling.line_sampler import causal_lm
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions, strip_notes
from rfprm_training.learning.config import read_config


def question_text(question: str) -> str:
    """The prompt before the first step."""
    return f"Question: {question}\nSolution:\n"


def solution_text(solution: GoldSolution) -> str:
    steps = "\n".join(map(strip_notes, solution.steps))
    return f"{steps}\nThe answer is {solution.answer}.\n"


def rows(gold: Path, count: int) -> Dataset:
    """``count`` solutions to train on, in the order of a hash."""
    solutions = read_gold_solutions(gold)
    held_out = held_out_questions(solutions)
    others = [solution for solution in solutions if solution.question not in held_out]
    others.sort(key=lambda solution: hashlib.sha256(solution.question.encode()).hexdigest())
    return Dataset.from_list(
        [
            {"prompt": question_text(solution.question), "completion": solution_text(solution)}
            for solution in others[:count]
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gold", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/small-policy"))
    parser.add_argument("--solutions", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=1.0)
    options = parser.parse_args()
    checkpoint = shipped_checkpoint()
    base = read_config(checkpoint / "config.toml").base
    path = find_base_model(base, checkpoint)
    make_tokenizer: Any = PreTrainedTokenizerFast
    tokenizer = make_tokenizer(
        tokenizer_object=read_base_model(path).tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    trainer = SFTTrainer(
        model=causal_lm(path),
        args=SFTConfig(
            output_dir=str(options.output / "checkpoints"),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            max_length=512,
            train_sampling_strategy="group_by_length",
            gradient_checkpointing=False,
            save_steps=5,
            save_total_limit=1,
            logging_steps=5,
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
        ),
        train_dataset=rows(options.gold, options.solutions),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=32, lora_alpha=64, target_modules="all-linear"),
    )
    folder = options.output / "checkpoints"
    last: Any = get_last_checkpoint
    trainer.train(resume_from_checkpoint=last(str(folder)) if folder.is_dir() else None)
    model: Any = trainer.model
    model.merge_and_unload().save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")
    print(f"→ {options.output / 'model'}")


if __name__ == "__main__":
    main()
