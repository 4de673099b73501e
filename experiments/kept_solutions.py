"""Solutions that a language model wrote to GSM8K's training questions, in a file small enough to
keep, and as the data that training reads.

python -m experiments.kept_solutions keep pool.jsonl [...] -o experiments/data/NAME.jsonl.gz
python -m experiments.kept_solutions join experiments/data/NAME.jsonl.gz \\
    --gold data/gsm8k_train.jsonl -o data/NAME.jsonl
python -m experiments.kept_solutions unpack experiments/data/NAME.jsonl.gz \\
    --gold data/gsm8k_train.jsonl -o solutions.jsonl [--skip 500] [--questions 250]

`keep` takes samples of `experiments.sample_solutions`. The kept file has hashes of the questions,
not their texts, and beside each solution how it was sampled. `join` finds the questions in GSM8K's
file and writes the format of GSM8K's own model solutions, which `model_solutions` of a training
config reads; only solutions in the style `gold` fit. `unpack` writes the samples again, a row each,
for `rfprm label`, `rfprm score` and the other experiments.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rfprm_runtime.ground.whole_files import replacing, replacing_path
from rfprm_runtime.traces.jsonl import json_line
from rfprm_training.gsm8k import read_rows, split_solution
from rfprm_training.rewarded import question_key

SAMPLED = ("style", "temperature", "sample", "num_tokens", "finish_reason")
"""What is kept of how a solution was sampled."""


def packed(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each question: its key, and in order its solutions, their outcomes and
    :data:`SAMPLED`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        of_question = found.setdefault(question_key(sample["question"]), [])
        of_question.append(
            {
                "solution": sample["completion"].strip(),
                "is_correct": sample["outcome"],
                **_sampled(sample),
            }
        )
    for key, solutions in found.items():
        yield {"question_key": key, "solutions": solutions}


def joined(
    kept: Iterable[dict[str, Any]], gold: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The rows of :func:`packed` with question and gold solution. Raises :class:`SystemExit` for a
    question that ``gold`` does not hold, and for solutions with a thinking trajectory."""
    for row, asked in _with_gold(kept, gold):
        if any("</think>" in one["solution"] for one in row["solutions"]):
            raise SystemExit(
                "model_solutions of a config has no room for thinking trajectories; unpack these "
                "solutions, and label them with rfprm label"
            )
        solutions = {
            f"sample_{n}": {"solution": one["solution"], "is_correct": one["is_correct"]}
            for n, one in enumerate(row["solutions"])
        }
        yield {"question": asked["question"], "ground_truth": asked["answer"], **solutions}


def unpacked(
    kept: Iterable[dict[str, Any]], gold: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row for each solution, with question, reference answer, outcome and :data:`SAMPLED`. Raises
    :class:`SystemExit` for a question that ``gold`` does not hold."""
    for row, asked in _with_gold(kept, gold):
        _, answer = split_solution(asked["answer"])
        for one in row["solutions"]:
            yield {
                "question": asked["question"],
                "completion": one["solution"],
                "answer": answer,
                "outcome": one["is_correct"],
                **_sampled(one),
            }


def _sampled(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in SAMPLED if name in row}


def _with_gold(
    kept: Iterable[dict[str, Any]], gold: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    by_key = {question_key(row["question"]): row for row in gold}
    for row in kept:
        if row["question_key"] not in by_key:
            raise SystemExit(
                f"the question with the key {row['question_key']} is not in the gold solutions; "
                "take GSM8K's train.jsonl"
            )
        yield row, by_key[row["question_key"]]


def read_kept(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    keep = commands.add_parser("keep", help="make a small file of samples")
    keep.add_argument("samples", type=Path, nargs="+", help="of experiments.sample_solutions")
    keep.add_argument("-o", "--output", type=Path, required=True, help="NAME.jsonl.gz")
    join = commands.add_parser("join", help="make training data of it")
    join.add_argument("kept", type=Path, help="NAME.jsonl.gz")
    join.add_argument("--gold", type=Path, required=True, help="GSM8K's train.jsonl")
    join.add_argument("-o", "--output", type=Path, required=True)
    unpack = commands.add_parser("unpack", help="make a row for each solution of it")
    unpack.add_argument("kept", type=Path, help="NAME.jsonl.gz")
    unpack.add_argument("--gold", type=Path, required=True, help="GSM8K's train.jsonl")
    unpack.add_argument("-o", "--output", type=Path, required=True)
    unpack.add_argument("--skip", type=int, default=0, help="questions to leave out first")
    unpack.add_argument("--questions", type=int, help="at most")
    options = parser.parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.command == "keep":
        rows = list(packed(row for path in options.samples for row in read_rows(path)))
        text = "".join(map(json_line, rows))
        with replacing_path(options.output) as partial:
            # Without a time in it, equal solutions make equal files.
            partial.write_bytes(gzip.compress(text.encode(), mtime=0))
        print(f"{len(rows)} questions → {options.output}")
        return
    gold = read_rows(options.gold)
    if options.command == "join":
        rows, unit = list(joined(read_kept(options.kept), gold)), "questions"
    else:
        last = None if options.questions is None else options.skip + options.questions
        some = islice(read_kept(options.kept), options.skip, last)
        rows, unit = list(unpacked(some, gold)), "solutions"
    with replacing(options.output) as file:
        file.writelines(map(json_line, rows))
    print(f"{len(rows)} {unit} → {options.output}")


if __name__ == "__main__":
    main()
