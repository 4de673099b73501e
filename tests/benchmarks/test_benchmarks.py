"""The arithmetic of the benchmarks, without their times."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmarks import runner
from benchmarks.engines import ENGINES, EngineSpec
from benchmarks.engines.base import Row, pad, sorted_batches
from benchmarks.long_traces import chosen_traces, compare, measure_windows
from benchmarks.prepare import engines_to_run
from benchmarks.report import best_peer, markdown_table, percentiles, write_json
from benchmarks.runner import Timing, Worker, summarise
from benchmarks.workloads import endless_steps, trace_of_length
from rfprm_runtime import Trajectory, TrajectoryScore
from tiny_models import fake_scorer


def row(length: int, *, is_whole: bool = True) -> Row:
    return Row(np.arange(1, length + 1), np.array([length - 1]), is_whole, {})


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = pad([row(3), row(1)])
    assert ids.tolist() == [[1, 2, 3], [1, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_batches_hold_every_row_once_within_their_limits() -> None:
    rows = [row(length) for length in (5, 40, 7, 90, 6, 41)]
    batches = sorted_batches(rows, max_rows=3, max_tokens=100)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    for batch in batches:
        longest = max(len(rows[index].token_ids) for index in batch)
        assert len(batch) == 1 or (len(batch) <= 3 and len(batch) * longest <= 100)


def test_the_trajectory_is_read_from_its_own_column() -> None:
    logits = np.array([[0.0, 9.0], [9.0, 0.0]])
    assert row(1).scores(logits) == pytest.approx([0.5, 0.5])
    assert row(1, is_whole=False).scores(logits)[1] > 0.99


def test_peers_are_calibrated_like_our_scores() -> None:
    """Otherwise the fidelity column shows what calibration does."""
    calibrated = dataclasses.replace(row(1), calibrations=((2.0, 0.5), (4.0, -1.0)))
    expected = [1 / (1 + np.exp(-(3.0 / 2 + 0.5))), 1 / (1 + np.exp(-(8.0 / 4 - 1)))]
    assert calibrated.scores(np.array([[3.0, 9.0], [9.0, 8.0]])) == pytest.approx(expected)


def test_ratios_compare_the_same_round_and_picks_the_same_group() -> None:
    scores = [np.array([value]) for value in (0.9, 0.1, 0.2, 0.8)]
    swapped = [np.array([value]) for value in (0.1, 0.9, 0.2, 0.8)]
    timings = {
        "rfprm int16": Timing([[1.0], [2.0], [4.0]], scores),
        "rfprm fp32": Timing([[3.0], [6.0], [12.0]], scores),
        "OpenVINO int8": Timing([[2.0], [4.0], [40.0]], swapped),
        "OpenVINO fp32": Timing(error="no"),
    }
    workload: dict[str, Any] = {"num_tokens": 8, "group_size": 2}
    summary = summarise(timings, workload)
    assert summary["OpenVINO int8"]["ours_is_faster_by"] == 2.0
    assert summary["OpenVINO int8"]["same_best"] == 0.5
    assert summary["OpenVINO int8"]["mean_difference"] == pytest.approx(0.4)
    assert summary["OpenVINO fp32"] == {"error": "no"}
    assert summary["rfprm int16"]["tokens_per_second"] == 4.0
    assert best_peer({"engines": summary}) == ("OpenVINO int8", 2.0)


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([[0.1, 0.1], [0.1, 0.3]])[0] == "100 ms"


def test_engines_are_chosen_by_parts_of_their_names() -> None:
    everything = [name for name, spec in ENGINES.items() if not spec.only_if_asked]
    assert engines_to_run([]) == everything
    assert engines_to_run(["rfprm"]) == ["rfprm int16", "rfprm int8", "rfprm fp32"]
    assert engines_to_run(["int16"]) == ["rfprm int16"]
    slower = "rfprm int16, avx512vnni"
    assert slower not in everything
    assert engines_to_run([slower, "rfprm int16"]) == ["rfprm int16", slower]
    with pytest.raises(SystemExit, match="no engine matches"):
        engines_to_run(["an engine of nobody"])


def test_an_engine_that_the_cpu_can_only_emulate_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.runner.cpu_flags", lambda: {"avx2"})
    monkeypatch.setattr("benchmarks.runner.find_spec", lambda name: object())
    error = Worker("OpenVINO bf16", tmp_path).error
    assert error is not None
    assert "avx512_bf16" in error


class _Trial:
    """A worker that takes a fixed time in each setting, and dies in one."""

    seconds: ClassVar[dict[str, list[float]]] = {"/a": [1.0, 5.0, 4.0], "/b": [9.0, 3.0, 3.5]}

    def __init__(self, name: str, folder: Path, setting: str) -> None:
        self.error, self.setting, self.runs = None, setting, 0

    def run(self, workload: str, num_rows: int) -> dict[str, Any]:
        if self.setting not in self.seconds:
            return {"error": "the process ended with -8"}
        self.runs += 1
        return {"seconds": [self.seconds[self.setting][self.runs - 1]]}

    def close(self) -> None:
        pass


def test_the_fastest_setting_that_runs_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Worker", _Trial)
    monkeypatch.setitem(ENGINES, "peer", EngineSpec("peer", settings=("/a", "/dies", "/b")))
    worker, tried = runner.best_worker("peer", "independent")
    assert worker.setting == "/b"
    assert tried == {"/a": 4.0, "/dies": "the process ended with -8", "/b": 3.0}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8"}, "amx"),
        ({"avx2", "avx512f", "avx512_vnni"}, "avx512vnni"),
        ({"avx2", "avx512f"}, "avx512"),
        ({"avx2", "avx_vnni"}, "avxvnni"),
        ({"avx2"}, "avx2"),
        (set(), platform.machine().lower()),
    ],
)
def test_results_are_kept_by_class_of_processor(
    flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "cpu_flags", lambda: flags)
    assert runner.processor_class() == expected


def test_results_are_written_whole_as_json(tmp_path: Path) -> None:
    path = write_json("one", {"a": 1}, tmp_path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["one.json"]


def _scored(steps: list[float], final: float, windowed_from: int | None = None) -> TrajectoryScore:
    num_run = 10 if windowed_from is None else 15
    return TrajectoryScore(
        step_scores=steps,
        trajectory_score=final,
        reward=final,
        num_tokens=10,
        windowed_from=windowed_from,
        num_run_tokens=num_run,
    )


def test_windows_are_compared_with_the_same_traces_in_one_piece() -> None:
    whole = [_scored([0.5, 0.5, 0.25], 0.5), _scored([0.25], 1.0)]
    windowed = [_scored([0.5, 0.5, 0.75], 0.25, 2), _scored([0.25], 1.0)]
    found = compare(whole, windowed)
    assert found["run_tokens_per_token"] == 1.25
    assert found["steps_with_whole_past"] == 0.75
    assert (found["steps"]["mean"], found["steps"]["max"]) == (0.125, 0.5)
    assert found["trajectory"]["bias"] == -0.125
    assert found["reward"]["spearman"] == pytest.approx(1)


def test_a_scorer_with_fewer_positions_scores_real_steps_as_before() -> None:
    trace = Trajectory(question="q?", steps=[f"step {index}" for index in range(40)])
    with fake_scorer(max_positions=1_000) as scorer:
        [chosen] = chosen_traces(scorer, [trace], 160, 1_000)
        [begun] = chosen_traces(scorer, [trace], 160, 300)
        found = measure_windows(scorer, [chosen], 160, (0, 0.5))
        with pytest.raises(SystemExit, match="scored in windows of 900 positions"):
            chosen_traces(scorer, [trace], 900, 1_000)
    assert chosen == trace
    assert begun.steps == trace.steps[: len(begun.steps)]
    assert 1 < len(begun.steps) < 40
    costs = [each["run_tokens_per_token"] for each in found["contexts"]]
    assert 1 < costs[0] < costs[1]
    assert found["contexts"][0]["steps"]["max"] > 0


def test_a_trace_is_as_long_as_wanted() -> None:
    pool = endless_steps([Trajectory(question="q?", steps=["a", "b" * 1_500, "a step"])])
    with fake_scorer() as scorer:
        made = trace_of_length(200, pool, scorer._encoder)
        num_tokens = scorer._encoder.encode(made).num_tokens
    assert 180 < num_tokens <= 200
    assert set(made.steps) == {"a", "a step"}


def test_a_table_has_a_rule_under_its_head() -> None:
    table = markdown_table(("context", "seconds"), [("0", "1.5")])
    assert table == "| context | seconds |\n| --- | ---: |\n| 0 | 1.5 |\n"
