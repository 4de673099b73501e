"""Scoring on a real Ray cluster on this machine, with a worker that gets killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from rfprm_runtime import BackendError, RfprmError
from rfprm_runtime.selection import RayWorkers, Scoring, Selection, select_traces
from rfprm_runtime.selection.ray_workers import ShardWorker, _check_resources, scoring_for_workers
from rfprm_runtime.selection.scores import ShardScores
from rfprm_runtime.traces.sources import open_source
from selection.selection_helpers import traces, write_jsonl
from tiny_models import fake_scorer

psutil = pytest.importorskip("psutil")


class Killer(threading.Thread):
    """Sends SIGKILL to one worker of this process's Ray after the first shards."""

    def __init__(self, work: Path) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.num_finished = -1

    def run(self) -> None:
        while len(list(self._work.glob("shard-*.npz"))) < 2:
            time.sleep(0.01)
        victim = next(self._workers())
        os.kill(victim, signal.SIGKILL)
        self.num_finished = len(list(self._work.glob("shard-*.npz")))

    @staticmethod
    def _workers() -> Iterator[int]:
        for process in psutil.Process().children(recursive=True):
            if "MapWorker" in " ".join(process.cmdline()):
                yield process.pid


def shard_files(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(work.glob("shard-*.npz"))}


@pytest.mark.slow
# Ray reads its own settings by names that it has deprecated.
@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray.data.context")
def test_ray_gives_the_same_bytes_even_if_a_worker_is_killed(
    tmp_path: Path, tiny_artifact: Path
) -> None:
    rows = [{**row, "completion": row["completion"] + " so" * 40} for row in traces(600)]
    source = write_jsonl(tmp_path / "in.jsonl", [*rows, "broken", *traces(10)])
    rule, scoring = Selection(top=50, per_question=1), Scoring(shard_rows=10)
    killer = Killer(tmp_path / "ray.jsonl.work")
    killer.start()
    summary = select_traces(
        tiny_artifact,
        source,
        tmp_path / "ray.jsonl",
        rule,
        scoring=scoring,
        workers=RayWorkers(2),
    )
    killer.join(timeout=5)
    print(f"killed a worker after {killer.num_finished} of {summary.num_shards} shards")
    assert 2 <= killer.num_finished < summary.num_shards == 62

    select_traces(tiny_artifact, source, tmp_path / "local.jsonl", rule, scoring=scoring)
    found, expected = (shard_files(tmp_path / f"{name}.jsonl.work") for name in ("ray", "local"))
    assert len(expected) == 62
    assert found == expected
    for suffix in ("", ".errors.jsonl"):
        found_bytes = (tmp_path / f"ray.jsonl{suffix}").read_bytes()
        assert found_bytes == (tmp_path / f"local.jsonl{suffix}").read_bytes()


def test_a_loaded_scorer_is_not_sent_to_workers(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(1))
    with fake_scorer() as scorer, pytest.raises(RfprmError, match="pass the folder"):
        select_traces(
            scorer, source, tmp_path / "out.jsonl", Selection(top=1), workers=RayWorkers(1)
        )


def test_workers_use_the_device_and_cores_they_are_given() -> None:
    on_gpu, on_cpu = RayWorkers(2, gpus_per_worker=1), RayWorkers(2, cpus_per_worker=4)
    assert scoring_for_workers(Scoring(), "torch", on_gpu).backend_options == {"device": "cuda"}
    assert scoring_for_workers(Scoring(), "onnx", on_gpu).backend_options == {"provider": "cuda"}
    assert scoring_for_workers(Scoring(), "native", on_cpu).backend_options == {"num_threads": 4}
    with pytest.raises(BackendError, match="runs on CPUs"):
        scoring_for_workers(Scoring(), "native", on_gpu)


def test_a_worker_returns_its_error_in_place_of_scores(tmp_path: Path, tiny_artifact: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(3))
    worker = ShardWorker(str(tiny_artifact), str(source), Scoring())
    [shard] = open_source(str(source)).plan(10).shards
    shards = pa.Table.from_pylist([asdict(shard)])
    [answer] = worker(shards).to_pylist()
    assert len(ShardScores.from_bytes(answer["scores"])) == 3
    source.unlink()
    [answer] = worker(shards).to_pylist()
    assert answer["scores"] is None
    assert answer["error"].startswith("FileNotFoundError: ")


def test_more_workers_than_this_machine_can_hold_are_refused() -> None:
    with pytest.raises(RfprmError, match=r"3 workers need 6 CPUs, .* which has 4"):
        _check_resources(RayWorkers(3, cpus_per_worker=2), {"CPU": 4.0})
    with pytest.raises(RfprmError, match=r"1 workers need 1 GPUs, .* which has 0"):
        _check_resources(RayWorkers(1, gpus_per_worker=1), {"CPU": 4.0})
