"""Writes some of the traces of `sample_solutions` without their thinking.

python -m experiments.answers_alone pool.jsonl -o traces.jsonl --samples 1 3

The lines of the response are then the steps, as in the solutions of models that do not think. Which
samples of a question lose their thinking is told by their numbers; one that had nothing else is
left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rfprm_runtime.ground.thinking import parse_trace
from rfprm_runtime.ground.whole_files import replacing
from rfprm_runtime.traces.jsonl import json_line
from rfprm_training.gsm8k import read_rows


def without_thinking(
    rows: Iterable[dict[str, Any]], samples: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["sample"] not in samples:
            yield row
        elif response := parse_trace(row["completion"]).response.strip():
            yield {**row, "completion": response}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("traces", type=Path, help="of sample_solutions")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--samples", type=int, nargs="+", required=True, help="their numbers")
    options = parser.parse_args(arguments)
    rows = read_rows(options.traces)
    kept = list(map(json_line, without_thinking(rows, options.samples)))
    with replacing(options.output) as file:
        file.writelines(kept)
    print(f"{len(kept)} traces → {options.output}")


if __name__ == "__main__":
    main()
