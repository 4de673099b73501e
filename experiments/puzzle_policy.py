"""Fine-tunes a small policy on a few puzzles, and writes what it then answers to others.

python -m experiments.puzzle_policy -o runs/puzzles [--questions 100] [--samples 8]

`policy/model` is where `experiments.online` begins. `pool.jsonl` shows beforehand what a PRM knows
of the policy's own solutions:

rfprm score runs/puzzles/pool.jsonl -o runs/puzzles/scored.jsonl --split lines -a ARTIFACT
python -m experiments.reranking runs/puzzles/scored.jsonl

What is there is kept; a folder that was made with other numbers is refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from experiments.fine_tuning import fine_tune
from experiments.greedy import are_right, end_of_turn
from experiments.kept import check_made_alike
from experiments.puzzles import Puzzle, training_puzzles
from experiments.small_policy import question_text
from experiments.torch_sampling import SamplingSettings, TokenSampler
from rfprm_export.base_model import BaseModel, read_base_model
from rfprm_runtime.ground.whole_files import write_whole

_SOLUTIONS_SEED, _POOL_SEED = 0, 2
_ROWS = 256
MAX_TOKENS = 130
"""Of a solution."""


def whole_distribution(max_tokens: int) -> SamplingSettings:
    """How GRPO samples: temperature 1, nothing cut off."""
    return SamplingSettings(1.0, top_p=1.0, top_k=None, max_tokens=max_tokens)


def fine_tuned_policy(output: Path, solutions: int, epochs: float) -> Path:
    """The folder of a model that has learnt from so many right solutions."""
    right = [
        {"prompt": question_text(puzzle.question), "completion": puzzle.solution}
        for puzzle in training_puzzles(solutions, _SOLUTIONS_SEED)
    ]
    return fine_tune(Dataset.from_list(right), output, epochs=epochs)


def answered(
    base: BaseModel, asked: Sequence[Puzzle], samples: int, max_tokens: int, seed: int = 0
) -> list[dict[str, Any]]:
    """``samples`` solutions to each puzzle, with their outcomes."""
    repeated = [puzzle for puzzle in asked for _ in range(samples)]
    texts = [question_text(puzzle.question) for puzzle in repeated]
    sampled = TokenSampler(base, device="cpu", max_rows=_ROWS).sample(
        [e.ids for e in base.tokenizer.encode_batch(texts, add_special_tokens=False)],
        whole_distribution(max_tokens),
        ends=end_of_turn(base),
        generator=torch.Generator().manual_seed(seed),
    )
    written = base.tokenizer.decode_batch([one.token_ids for one in sampled])
    return [
        {
            "question": puzzle.question,
            "completion": text,
            "num_tokens": len(one.token_ids),
            "finish_reason": "stop" if one.ended else "length",
            "answer": puzzle.answer,
            "outcome": right,
            "right_throughout": puzzle.is_right_throughout(text),
        }
        for puzzle, one, text, right in zip(
            repeated, sampled, written, are_right(written, repeated), strict=True
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("runs/puzzles"))
    add("--solutions", type=int, default=320, help="right ones to fine-tune the policy on")
    add("--epochs", type=float, default=1.0, help="of fine-tuning")
    add("--questions", type=int, default=100, help="of the pool")
    add("--samples", type=int, default=8, help="solutions to a question of the pool")
    add("--max-tokens", type=int, default=MAX_TOKENS, help="of a solution")
    options = parser.parse_args()
    sizes = ("solutions", "epochs", "questions", "samples", "max_tokens")
    check_made_alike(options.output, {name: getattr(options, name) for name in sizes})
    policy = fine_tuned_policy(options.output / "policy", options.solutions, options.epochs)
    print(f"→ {policy}")
    pool = options.output / "pool.jsonl"
    if not pool.is_file():
        asked = training_puzzles(options.questions, _POOL_SEED)
        base = read_base_model(policy)
        rows = answered(base, asked, options.samples, options.max_tokens)
        write_whole(pool, "".join(json.dumps(row) + "\n" for row in rows))
        right, throughout = (
            sum(row[key] for row in rows) / len(rows) for key in ("outcome", "right_throughout")
        )
        print(f"{len(rows)} solutions: {right:.0%} right, {throughout:.0%} in every line → {pool}")


if __name__ == "__main__":
    main()
