"""Samples solutions to GSM8K's questions from a chat model of the Qwen family, without a server.

python -m experiments.sample_solutions GOLD -o data/solutions.jsonl --model MODEL.gguf \\
    [--questions 1000] [--skip 0] [--styles concise:0.6:2 gold:1.0:2]

A style is the prompt, the temperature and how many samples. `thinking` asks for a trajectory
between <think> and </think>, then for a response. Rows are those of `rfprm solve`, which does the
same with a server. Questions come in training's order, from its end: those of constructed examples
first, held-out ones last. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
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
_THINKING = """Answer in two parts.
First think between <think> and </think>: work it out in short lines, one calculation a line.
Then write the solution for a reader, one sentence a line, and end with the answer in \\boxed{}."""
_THINKING_EXAMPLES = (
    (
        "A farmer has 3 fields with 12 rows each. Every row has 8 plants. A storm destroys a "
        "quarter of all plants. How many plants are left?",
        """<think>
Rows: 3 * 12 = 36
Plants: 36 * 8 = 288
Destroyed: 288 / 4 = 72
Left: 288 - 72 = 216
</think>
The farmer has 3 * 12 = 36 rows with 36 * 8 = 288 plants.
The storm destroys 288 / 4 = 72 of them.
So 288 - 72 = 216 plants are left: \\boxed{216}""",
    ),
    (
        "Tom reads 20 pages on Monday and twice as many on Tuesday. The book has 150 pages. How "
        "many pages are left?",
        """<think>
Tuesday: 20 * 2 = 40
Read so far: 20 + 40 = 60
Left: 150 - 60 = 90
</think>
On Tuesday Tom reads 20 * 2 = 40 pages, so he has read 20 + 40 = 60 pages.
Of 150 pages, 150 - 60 = 90 are left: \\boxed{90}""",
    ),
)
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
        known = prompts_of(())
        if prompt not in known:
            raise ValueError(f"{text!r}: the prompt is one of {', '.join(known)}")
        return cls(prompt, float(temperature), int(count))


@dataclass(frozen=True)
class Prompt:
    system: str
    examples: Sequence[tuple[str, str]] = ()
    opening: str = ""
    """The beginning of every answer."""

    def text(self, question: str) -> str:
        return chat_prompt(question, self.opening, self.system, self.examples)


def prompts_of(shots: Sequence[GoldSolution]) -> dict[str, Prompt]:
    """By style; ``shots`` are the examples of ``gold``, whose answers look like GSM8K's own."""
    examples = [
        (shot.question, "\n".join(map(strip_notes, shot.steps)) + f"\n#### {shot.answer}")
        for shot in shots
    ]
    return {
        "concise": Prompt(CONCISE),
        "gold": Prompt(_GOLD, examples),
        "thinking": Prompt(_THINKING, _THINKING_EXAMPLES, "<think>\n"),
        "verbose": Prompt(VERBOSE),
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
    """A row for each sample, by question and style, without its outcome."""
    prompts = prompts_of(shots)
    rows: dict[tuple[int, int, int], dict[str, Any]] = {}
    for name in dict.fromkeys(style.prompt for style in styles):
        # All samples with a prompt decode together: its beginning is then computed once.
        asked = [
            (question, number, repeat)
            for question in range(len(solutions))
            for number, style in enumerate(styles)
            if style.prompt == name
            for repeat in range(style.count)
        ]
        texts = [prompts[name].text(solution.question) for solution in solutions]
        ids = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        found = sampler.sample(
            [ids[question] for question, _, _ in asked],
            SamplingSettings(max_tokens=max_tokens),
            temperatures=[styles[number].temperature for _, number, _ in asked],
            ends=ends,
            generator=generator,
        )
        completions = tokenizer.decode_batch([one.token_ids for one in found])
        for place, one, completion in zip(asked, found, completions, strict=True):
            question, number, _ = place
            rows[place] = {
                "question": solutions[question].question,
                "style": name,
                "temperature": styles[number].temperature,
                "completion": prompts[name].opening + completion,
                "num_tokens": len(one.token_ids),
                "finish_reason": "stop" if one.ended else "length",
                "mean_logprob": round(one.mean_logprob, 5),
                "answer": solutions[question].answer,
            }
    per_question = sum(style.count for style in styles)
    return [
        {**rows[place], "sample": number % per_question}
        for number, place in enumerate(sorted(rows))
    ]


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
    parser.add_argument("--rows", type=int, default=2048, help="that decode together (CPU: 128)")
    parser.add_argument(
        "--at-once", type=int, default=256, help="questions; a stopped run repeats at most these"
    )
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
        "at_once": options.at_once,
        "seed": options.seed,
    }
    base = read_base_model(options.model)
    with ResumableLines(options.output, key) as lines, comparing() as agree:
        sampler = TokenSampler(base, device=options.device, max_rows=options.rows)
        per_question = sum(style.count for style in options.styles)
        at_once = options.at_once
        begun = lines.num_lines // per_question // at_once * at_once
        for start in range(begun, len(asked), at_once):
            rows = sample(
                sampler,
                base.tokenizer,
                asked[start : start + at_once],
                options.styles,
                shots,
                ends=ends_of_turn(base),
                max_tokens=options.max_tokens,
                generator=torch.Generator(options.device).manual_seed(options.seed + start),
            )
            for row in rows[lines.num_lines - start * per_question :]:
                outcome = states_right_answer(row["completion"], (row["answer"],), agree)
                lines.write(json.dumps({**row, "outcome": outcome}, ensure_ascii=False) + "\n")
            print(f"{min(start + at_once, len(asked))} of {len(asked)} questions", flush=True)
        lines.finish()


def _digest(questions: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(questions).encode()).hexdigest()


if __name__ == "__main__":
    main()
