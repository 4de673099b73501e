"""Samples solutions to GSM8K's questions from a chat model of the Qwen family, without a server.

python -m experiments.sample_solutions GOLD -o data/solutions.jsonl --model MODEL.gguf \\
    [--questions 1000] [--skip 0] [--styles concise:0.6:2 gold:1.0:2]

A style is the prompt, the temperature and how many samples. Rows are those of `rfprm solve`, which
does the same with a server. Questions come in training's order, from its end: those of constructed
examples first, held-out ones last. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from experiments.policies import CONCISE, VERBOSE, chat_prompt, ends_of_turn
from experiments.torch_sampling import SamplingSettings, TokenSampler
from rfprm_export.base_model import read_base_model
from rfprm_runtime.ground.content import content_of
from rfprm_runtime.traces.right import comparing, states_right_answer
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions, strip_notes
from rfprm_training.learning.dataset import by_hash
from rfprm_training.resumable import ResumableLines

_GOLD = "Solve the math problem with a short calculation on each line. Write the answer after ####."
_AT_ONCE = 256
"""Questions that are sampled together; a stopped run repeats at most these."""
_DEFAULT = ("concise:0.6:2", "concise:1.0:3", "gold:0.8:2", "gold:1.1:2", "verbose:0.8:1")


@dataclass(frozen=True)
class Style:
    prompt: str
    temperature: float
    count: int

    @classmethod
    def parse(cls, text: str) -> Style:
        """``PROMPT:TEMPERATURE:COUNT``. Raises :class:`ValueError`."""
        prompt, temperature, count = text.split(":")
        if prompt not in ("concise", "gold", "verbose"):
            raise ValueError(f"{text!r}: the prompt is concise, gold or verbose")
        return cls(prompt, float(temperature), int(count))


def prompts_of(shots: Sequence[GoldSolution]) -> dict[str, Callable[[str], str]]:
    """The beginning of an answer to a question, by style; ``shots`` are the examples of ``gold``,
    whose answers look like GSM8K's own."""
    examples = [
        (shot.question, "\n".join(map(strip_notes, shot.steps)) + f"\n#### {shot.answer}")
        for shot in shots
    ]
    return {
        "concise": lambda question: chat_prompt(question, system=CONCISE),
        "gold": lambda question: chat_prompt(question, system=_GOLD, examples=examples),
        "verbose": lambda question: chat_prompt(question, system=VERBOSE),
    }


def sample(
    sampler: TokenSampler,
    tokenizer: Tokenizer,
    solutions: Sequence[GoldSolution],
    styles: Sequence[Style],
    shots: Sequence[GoldSolution],
    *,
    ends: torch.Tensor,
    max_tokens: int,
    generator: torch.Generator,
) -> list[dict[str, Any]]:
    """A row for each sample, by question, without its outcome."""
    prompts = prompts_of(shots)
    rows: list[list[dict[str, Any]]] = [[] for _ in solutions]
    for style in styles:
        texts = [prompts[style.prompt](solution.question) for solution in solutions]
        ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        found = sampler.sample(
            [one for one in ids for _ in range(style.count)],
            SamplingSettings(temperature=style.temperature, max_tokens=max_tokens),
            ends=ends,
            generator=generator,
        )
        completions = tokenizer.decode_batch([one.token_ids for one in found])
        for index, (one, completion) in enumerate(zip(found, completions, strict=True)):
            of_question = rows[index // style.count]
            of_question.append(
                {
                    "question": solutions[index // style.count].question,
                    "sample": len(of_question),
                    "style": style.prompt,
                    "temperature": style.temperature,
                    "completion": completion,
                    "num_tokens": len(one.token_ids),
                    "finish_reason": "stop" if one.ended else "length",
                    "mean_logprob": round(one.mean_logprob, 5),
                    "answer": solutions[index // style.count].answer,
                }
            )
    return [row for of_question in rows for row in of_question]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gold", type=Path, help="GSM8K's train.jsonl")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file or a folder")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument(
        "--styles", type=Style.parse, nargs="+", default=[*map(Style.parse, _DEFAULT)]
    )
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--rows", type=int, default=2048, help="that decode together (CPU: 256)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    ordered = by_hash(read_gold_solutions(options.gold), options.seed)[::-1]
    asked = ordered[options.skip :][: options.questions]
    shots = [s for s in ordered if s not in asked and 2 < len(s.steps) < 5][-2:]
    key = {
        "model": content_of(options.model),
        "questions_sha256": _digest([s.question for s in (*asked, *shots)]),
        "styles": [repr(style) for style in options.styles],
        "max_tokens": options.max_tokens,
        "seed": options.seed,
    }
    base = read_base_model(options.model)
    with ResumableLines(options.output, key) as lines, comparing() as agree:
        sampler = TokenSampler(base, device=options.device, max_rows=options.rows)
        per_question = sum(style.count for style in options.styles)
        for start in range(
            lines.num_lines // per_question // _AT_ONCE * _AT_ONCE, len(asked), _AT_ONCE
        ):
            rows = sample(
                sampler,
                base.tokenizer,
                asked[start : start + _AT_ONCE],
                options.styles,
                shots,
                ends=ends_of_turn(base),
                max_tokens=options.max_tokens,
                generator=torch.Generator(options.device).manual_seed(options.seed + start),
            )
            for row in rows[lines.num_lines - start * per_question :]:
                outcome = states_right_answer(row["completion"], (row["answer"],), agree)
                lines.write(json.dumps({**row, "outcome": outcome}, ensure_ascii=False) + "\n")
            print(f"{min(start + _AT_ONCE, len(asked))} of {len(asked)} questions", flush=True)
        lines.finish()


def _digest(questions: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(questions).encode()).hexdigest()


if __name__ == "__main__":
    main()
