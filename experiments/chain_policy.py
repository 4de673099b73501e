"""Fine-tunes a small policy on chains of arithmetic, and writes what it then answers to others.

python -m experiments.chain_policy -o runs/chains [--questions 500] [--samples 8]

`policy/model` is where `experiments.online` begins, and `pool.jsonl` what a PRM can learn from: the
policy's own solutions with their outcomes. From them to a PRM:

rfprm label runs/chains/pool.jsonl -o runs/chains/labels.jsonl --split lines \\
    --config experiments/configs/verified-labels.toml
rfprm train experiments/configs/chains.toml -o runs/chains/prm
rfprm export runs/chains/prm -o runs/chains/prm-int16 --precision int16

What is there is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from experiments.chains import HELD_OUT_SEED, Chain, chains
from experiments.fine_tuning import fine_tune
from experiments.greedy import are_right, end_of_turn
from experiments.small_policy import question_text
from experiments.torch_sampling import SamplingSettings, TokenSampler
from rfprm_export.base_model import BaseModel, read_base_model
from rfprm_runtime.ground.whole_files import write_whole

_SOLUTIONS_SEED, _POOL_SEED = 0, 2
_ROWS = 256


def whole_distribution(max_tokens: int) -> SamplingSettings:
    """How GRPO samples: temperature 1, nothing cut off."""
    return SamplingSettings(1.0, top_p=1.0, top_k=None, max_tokens=max_tokens)


def held_out_chains(count: int) -> list[Chain]:
    """The chains that accuracy is measured on. None is in any training data."""
    return chains(count, seed=HELD_OUT_SEED)


def fine_tuned_policy(output: Path, solutions: int, epochs: float) -> Path:
    """The folder of a model that has learnt from so many right solutions."""
    right = [
        {"prompt": question_text(chain.question), "completion": chain.solution}
        for chain in chains(solutions, seed=_SOLUTIONS_SEED)
    ]
    return fine_tune(Dataset.from_list(right), output, epochs=epochs)


def answered(
    base: BaseModel, asked: Sequence[Chain], samples: int, max_tokens: int, seed: int = 0
) -> list[dict[str, Any]]:
    """``samples`` solutions to each chain, with their outcomes."""
    repeated = [chain for chain in asked for _ in range(samples)]
    texts = [question_text(chain.question) for chain in repeated]
    sampled = TokenSampler(base, device="cpu", max_rows=_ROWS).sample(
        [e.ids for e in base.tokenizer.encode_batch(texts, add_special_tokens=False)],
        whole_distribution(max_tokens),
        ends=end_of_turn(base),
        generator=torch.Generator().manual_seed(seed),
    )
    written = base.tokenizer.decode_batch([one.token_ids for one in sampled])
    return [
        {
            "question": chain.question,
            "response": text,
            "answer": chain.answer,
            "outcome": right,
        }
        for chain, text, right in zip(repeated, written, are_right(written, repeated), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("runs/chains"))
    add("--solutions", type=int, default=1000, help="right ones to fine-tune the policy on")
    add("--epochs", type=float, default=1.0, help="of fine-tuning")
    add("--questions", type=int, default=500, help="of the pool")
    add("--samples", type=int, default=8, help="solutions to a question of the pool")
    add("--max-tokens", type=int, default=80, help="of a solution")
    options = parser.parse_args()
    policy = fine_tuned_policy(options.output / "policy", options.solutions, options.epochs)
    print(f"→ {policy}")
    pool = options.output / "pool.jsonl"
    if not pool.is_file():
        held_out = frozenset(chain.question for chain in held_out_chains(1000))
        asked = chains(options.questions, seed=_POOL_SEED, excluded=held_out)
        base = read_base_model(policy)
        rows = answered(base, asked, options.samples, options.max_tokens)
        write_whole(pool, "".join(json.dumps(row) + "\n" for row in rows))
        share = sum(row["outcome"] for row in rows) / len(rows)
        print(f"{len(rows)} solutions, {share:.0%} right → {pool}")


if __name__ == "__main__":
    main()
