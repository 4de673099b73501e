"""The traces to score, as text and as tokens.

Real traces if their folder exists, otherwise the traces of the export's gate.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prepare import WORK
from rfprm_export.reference import gate_traces_path
from rfprm_runtime.artifact.manifest import Readout, read_manifest
from rfprm_runtime.engine.rows import TokenRow
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.traces.sources import read_trajectories
from rfprm_runtime.types import Trajectory

DATA = Path("../shared/data")
_SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
NUM_BEAMS, NUM_EXPANSIONS, NUM_DEPTHS = 8, 4, 10


class Workloads:
    def __init__(self, folder: Path = WORK, data: Path = DATA) -> None:
        manifest = read_manifest(folder / "artifact-fp32")
        self._folder = folder / "workloads"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._encoder = TrajectoryEncoder.load(
            folder / "artifact-fp32", manifest.prompt, vocab_size=manifest.backbone.vocab_size
        )
        self._calibrations = [
            _calibration(readout)
            for readout in (manifest.step_readout, manifest.trajectory_readout)
        ]
        self._data = data if (data / "gsm8k_model_solutions.jsonl").is_file() else None
        self.source = (
            "GSM8K model solutions and long AIME traces" if self._data else "the export's traces"
        )
        self.groups = list(self._read_groups())

    def solutions(self, num_questions: int) -> dict[str, Any]:
        """Four solutions to each question, all in one call."""
        rows = [trace for group in self.groups[:num_questions] for trace in group]
        return self._write("solutions", [rows])

    def independent(self, num_questions: int) -> dict[str, Any]:
        """One solution to each question, all in one call, so they share nothing."""
        return self._write("independent", [[group[0] for group in self.groups[-num_questions:]]])

    def one_by_one(self, count: int) -> dict[str, Any]:
        """One trace per call."""
        traces = [group[0] for group in self.groups[:count]]
        return self._write("one-by-one", [[trace] for trace in traces])

    def best_of(self, number: int, num_questions: int) -> dict[str, Any]:
        """One question per call. Beyond four, a candidate joins the beginning of one solution to
        the end of another."""
        calls = []
        for index, group in enumerate(self.groups[:num_questions]):
            rng = random.Random(index)
            traces = list(group)
            while len(traces) < number:
                first, second = rng.sample(group, 2)
                cut = rng.randint(1, len(first.steps))
                steps = first.steps[:cut] + second.steps[min(cut, len(second.steps) - 1) :]
                traces.append(Trajectory(question=first.question, steps=steps))
            calls.append(traces[:number])
        return self._write(f"best-of-{number}", calls)

    def long(self, num_tokens: int, count: int) -> dict[str, Any]:
        """Traces of just under ``num_tokens``, made of steps from real long traces."""
        pool = self._long_steps()
        traces = [trace_of_length(num_tokens, pool, self._encoder) for _ in range(count)]
        return self._write(f"{num_tokens:,} tokens", [traces])

    def search(
        self,
        *,
        num_beams: int = NUM_BEAMS,
        num_expansions: int = NUM_EXPANSIONS,
        num_depths: int = NUM_DEPTHS,
    ) -> dict[str, Any]:
        """Beam search over real steps. The surviving candidates are random, so that all engines do
        the same work. Peers score each candidate's whole prefix."""
        rng = random.Random(0)
        question = self.groups[0][0].question
        pool = [step for group in self.groups for trace in group for step in trace.steps]
        depths, calls = [], []
        prefixes: list[tuple[str, ...]] = [()]
        for depth in range(num_depths):
            parents = (
                sorted(rng.sample(range(len(prefixes)), num_beams)) * num_expansions
                if depth
                else [0] * (num_beams * num_expansions)
            )
            candidates = [(parent, rng.choice(pool)) for parent in parents]
            prefixes = [(*prefixes[parent], step) for parent, step in candidates]
            depths.append(candidates)
            calls.append([self._prefix_row(question, steps) for steps in prefixes])
        name = f"search {num_beams}x{num_expansions}x{num_depths}"
        return self._save(name, calls, {"question": question, "depths": depths})

    def mixed(self, count: int) -> dict[str, Any]:
        """Many traces of tens to thousands of tokens, to watch memory over time."""
        rng = random.Random(0)
        solutions = [trace for group in self.groups for trace in group]
        pool = self._long_steps()
        traces = []
        for index in range(count):
            if index % 50:
                traces.append(solutions[rng.randrange(len(solutions))])
                continue
            question, step = next(pool)
            steps = [step, *(next(pool)[1] for _ in range(rng.randrange(5, 60)))]
            traces.append(Trajectory(question=question, steps=tuple(steps)))
        return {"traces": traces}

    def _read_groups(self) -> Iterator[list[Trajectory]]:
        if self._data is None:
            traces = read_trajectories(gate_traces_path())
            for start in range(0, len(traces), 4):
                yield traces[start : start + 4]
            return
        with (self._data / "gsm8k_model_solutions.jsonl").open(encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                yield [
                    Trajectory.from_text(row["question"], row[name]["solution"], split="lines")
                    for name in _SOLVERS
                ]

    def _long_steps(self) -> Iterator[tuple[str, str]]:
        if self._data is not None:
            return endless_steps(long_traces(self._data))
        return endless_steps([trace for group in self.groups for trace in group])

    def _row(self, trace: Trajectory) -> dict[str, Any]:
        return _fields(self._encoder.encode(trace), trace.question, trace.steps, trace.response)

    def _prefix_row(self, question: str, steps: tuple[str, ...]) -> dict[str, Any]:
        opening = self._encoder.encode_opening(question)
        rest = self._encoder.encode_steps(question, steps)
        ids = np.concatenate([opening.token_ids, rest.token_ids])
        row = TokenRow(ids, rest.marker_positions + opening.num_tokens)
        return {**_fields(row, question, steps, ()), "is_whole": False}

    def _write(self, name: str, calls: list[list[Trajectory]]) -> dict[str, Any]:
        return self._save(name, [[self._row(trace) for trace in call] for call in calls], {})

    def _save(
        self, name: str, calls: list[list[dict[str, Any]]], more: dict[str, Any]
    ) -> dict[str, Any]:
        content = {"calibrations": self._calibrations, "calls": calls, **more}
        (self._folder / f"{name}.json").write_text(json.dumps(content))
        lengths = [len(row["token_ids"]) for call in calls for row in call]
        return {
            "name": name,
            "num_calls": len(calls),
            "num_traces": len(lengths),
            "num_tokens": sum(lengths),
            "mean_tokens": round(sum(lengths) / len(lengths), 1),
            "max_tokens": max(lengths),
            # Rows of one question are adjacent; each group's best row is compared.
            "group_size": len(calls[0]) if len(calls) > 1 else 4 if name == "solutions" else 1,
        }


def long_traces(data: Path = DATA) -> list[Trajectory]:
    """Real long chains of thought; none if their file is missing."""
    path = data / "long_cot_aime24.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [Trajectory.from_text(row["question"], row["completion"]) for row in rows]


def endless_steps(traces: Sequence[Trajectory]) -> Iterator[tuple[str, str]]:
    """Pairs of question and step without end, in the order of the traces."""
    while True:
        for trace in traces:
            for step in trace.steps:
                if len(step) < 1500:
                    yield trace.question, step


def trace_of_length(
    num_tokens: int, pool: Iterator[tuple[str, str]], encoder: TrajectoryEncoder
) -> Trajectory:
    """A trace of just under ``num_tokens``, made of the next steps of ``pool``."""
    question, step = next(pool)
    steps = [step]
    size = encoder.encode(Trajectory(question=question, steps=(step,))).num_tokens
    while True:
        step = next(pool)[1]
        size += encoder.encode_steps(question, [step]).num_tokens
        if size > num_tokens:
            return Trajectory(question=question, steps=tuple(steps))
        steps.append(step)


def _calibration(readout: Readout | None) -> tuple[float, float]:
    """Temperature and bias, so that the other engines' logits become scores as ours do."""
    found = readout.calibration if readout is not None else None
    return (found.temperature, found.bias) if found is not None else (1.0, 0.0)


def _fields(
    row: TokenRow, question: str, steps: tuple[str, ...], response: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "token_ids": row.token_ids.tolist(),
        "markers": row.marker_positions.tolist(),
        "is_whole": True,
        "trace": {"question": question, "steps": steps, "response": response},
    }
