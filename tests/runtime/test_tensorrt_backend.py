"""The TensorRT backend on a simulated GPU, and its errors on a machine without one."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_export.checkpoint import load_prm
from rfprm_export.graph import write_graph
from rfprm_runtime.artifact.integrity import describe_file
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.backends.table import choose_backend
from rfprm_runtime.backends.tensorrt.backend import (
    TensorRTBackend,
    check_capability,
    check_version,
    fitting_parts,
)
from rfprm_runtime.backends.tensorrt.cuda import Cuda, CudaError
from rfprm_runtime.backends.tensorrt.packages import load_flavour
from rfprm_runtime.engine.rows import TokenBatch, split_batch
from rfprm_runtime.errors import (
    ArtifactError,
    BackendError,
    InvalidArgumentError,
    MissingExtraError,
    TraceTooLongError,
)
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import Trajectory
from simulated_gpu import VERSION, simulated_gpu, small_profile, with_engine
from tiny_models import save_published_prm

__all__ = ["simulated_gpu"]  # a fixture
PROFILES = (small_profile(1, 256), small_profile(4, 150), small_profile(2, 256))


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A tiny PRM with a graph of standard ops, and a plan that the simulated GPU runs."""
    save_published_prm(tmp_path / "prm", "qwen2")
    prm = load_prm(tmp_path / "prm")
    folder = tmp_path / "artifact"
    folder.mkdir()
    manifest = prm.manifest
    graph = folder / "model.onnx"
    write_graph(
        graph,
        manifest,
        prm.weights,
        attention="standard",
    )
    (folder / "model.plan").write_bytes(str(graph).encode())
    prm.tokenizer.save(str(folder / "tokenizer.json"))
    names = ("tokenizer.json", "model.onnx", "model.onnx.data", "model.plan")
    files = {name: describe_file(folder / name) for name in names}
    written = with_engine(manifest.model_copy(update={"files": files}), PROFILES)
    (folder / "prm.json").write_text(written.to_json())
    return folder


def _manifest(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "prm.json").read_bytes())


def _rewrite(folder: Path, **engine: Any) -> None:
    manifest = _manifest(folder)
    (folder / "prm.json").write_text(with_engine(manifest, PROFILES, **engine).to_json())


def _batch(lengths: list[int], seed: int = 0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    longest = max(lengths)
    rows = range(len(lengths))
    return TokenBatch(
        rng.integers(0, 200, (len(lengths), longest)),
        np.array(lengths),
        np.concatenate([[row * longest + 3, row * longest + lengths[row] - 1] for row in rows]),
    )


def _traces(count: int) -> list[Trajectory]:
    return [
        Trajectory.build(question=f"What is {i} + 1?", steps=["Add."] * (1 + i % 9) + ["So 1."])
        for i in range(count)
    ]


def test_scores_are_those_of_the_graph(artifact: Path, simulated_gpu: Any) -> None:
    trt, _ = simulated_gpu(PROFILES)
    traces = _traces(23)
    with Scorer.load(artifact, backend="onnx") as scorer:
        expected = scorer.score_batch(traces)
    with Scorer.load(artifact, backend="tensorrt") as scorer:
        found = scorer.score_batch(traces)
        assert scorer.backend_description == f"tensorrt {VERSION}, fp32, simulated, 2 stream(s)"
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.step_scores, b.step_scores, atol=1e-6)
    assert {p for context in trt.contexts for p in context.profiles_used} == {0, 1, 2}


def test_the_profile_made_for_the_nearest_size_runs(artifact: Path, simulated_gpu: Any) -> None:
    numbers = [
        [number for _, number in fitting_parts(_batch(lengths), PROFILES)]
        for lengths in ([200], [20], [60, 50, 40], [200, 30], [180] * 3)
    ]
    # Of three rows of 180 tokens one fits alone, and then two.
    assert numbers == [[0], [0], [1], [2], [0, 2]]


def test_a_batch_that_fits_no_profile_is_run_in_parts(artifact: Path, simulated_gpu: Any) -> None:
    simulated_gpu(PROFILES)
    batch = _batch([180, 30, 20, 150, 10, 5, 60])
    expected = OnnxBackend(artifact / "model.onnx", _manifest(artifact)).run(batch)
    backend = TensorRTBackend(artifact / "model.plan", _manifest(artifact))
    np.testing.assert_allclose(backend.run(batch), expected, atol=1e-5)


def test_a_split_batch_is_no_longer_than_its_longest_row() -> None:
    batch = _batch([9, 30, 7, 6])
    first, others = split_batch(batch, 2)
    assert first.token_ids.shape == (2, 30)
    assert others.token_ids.shape == (2, 7)
    assert others.marker_positions.tolist() == [3, 6, 10, 12]
    np.testing.assert_array_equal(others.token_ids[0], batch.token_ids[2, :7])


def test_a_row_longer_than_every_profile_is_refused_with_both_lengths(
    artifact: Path, simulated_gpu: Any
) -> None:
    simulated_gpu(PROFILES)
    backend = TensorRTBackend(artifact / "model.plan", _manifest(artifact))
    with pytest.raises(BackendError, match=r"a row of 300 tokens .* 1 to 256 tokens .*--profile"):
        backend.run(_batch([300]))


def test_buffers_are_kept_and_grow_seldom(artifact: Path, simulated_gpu: Any) -> None:
    _, cuda = simulated_gpu(PROFILES)
    backend = TensorRTBackend(artifact / "model.plan", _manifest(artifact), num_streams=1)
    for length in range(5, 60, 5):
        backend.run(_batch([length, length]))
    grown = cuda.num_allocations
    assert grown <= 8  # doubled, not at every length
    for length in range(5, 60, 5):
        backend.run(_batch([length, length]))
    assert cuda.num_allocations == grown
    backend.close()
    assert not cuda.memory
    assert cuda.num_streams == 0


def test_many_threads_share_the_lanes(artifact: Path, simulated_gpu: Any) -> None:
    trt, _ = simulated_gpu(PROFILES)
    manifest = _manifest(artifact)
    backend = TensorRTBackend(artifact / "model.plan", manifest, num_streams=3)
    alone = OnnxBackend(artifact / "model.onnx", manifest)
    batches = [_batch([10 + i, 5 + i], seed=i) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(backend.run, batches))
    for batch, logits in zip(batches, found, strict=True):
        np.testing.assert_allclose(logits, alone.run(batch), atol=1e-5)
    assert len(trt.contexts) == 3


def test_a_lost_device_is_reported_and_not_used_again(artifact: Path, simulated_gpu: Any) -> None:
    trt, cuda = simulated_gpu(PROFILES)
    backend = TensorRTBackend(artifact / "model.plan", _manifest(artifact), num_streams=1)
    backend.run(_batch([10]))
    cuda.lose_at = "cudaStreamSynchronize"
    for _ in range(2):
        with pytest.raises(BackendError, match=r"device was lost .*cudaErrorIllegalAddress.*again"):
            backend.run(_batch([10]))
    assert len(trt.contexts[0].profiles_used) == 2  # the second call never reached it
    backend.close()


def test_a_closed_backend_refuses_waiting_calls_too(artifact: Path, simulated_gpu: Any) -> None:
    _, cuda = simulated_gpu(PROFILES)
    backend = TensorRTBackend(artifact / "model.plan", _manifest(artifact), num_streams=1)
    caught: list[Exception] = []

    def waits() -> None:
        try:
            backend.run(_batch([10]))
        except BackendError as error:
            caught.append(error)

    lane = backend._lanes.get()  # as if a call were running
    threads = [
        threading.Thread(target=target)
        for target in (waits, waits, waits, backend.close, backend.close)
    ]
    for thread in threads[:3]:
        thread.start()
    _until(lambda: backend._workers._work_queue.qsize() == 2)  # two wait behind the third
    for thread in threads[3:]:
        thread.start()
    _until(lambda: bool(backend._why_closed))
    backend._lanes.put(lane)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(caught) >= 2  # the first may have got its lane before
    assert not cuda.memory
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(_batch([10]))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_callers_thread_keeps_its_device(artifact: Path, simulated_gpu: Any) -> None:
    """A trainer's process has a device of its own; looking at another must not change it."""
    _, cuda = simulated_gpu(PROFILES)
    assert choose_backend(_manifest(artifact)) == "tensorrt"
    assert not cuda.used_by  # not even for finding out
    with Scorer.load(artifact, backend="tensorrt", device=1) as scorer:
        scorer.score_batch(_traces(4))
    assert cuda.device == 1
    assert cuda.used_by
    assert threading.get_ident() not in cuda.used_by


def test_the_backend_survives_running_out_of_memory(artifact: Path, simulated_gpu: Any) -> None:
    _, cuda = simulated_gpu(PROFILES)
    backend = TensorRTBackend(artifact / "model.plan", _manifest(artifact), num_streams=1)
    cuda.lose_at, cuda.error_name = "cudaMalloc", "cudaErrorMemoryAllocation"
    with pytest.raises(BackendError, match=r"out of memory .*smaller num_streams"):
        backend.run(_batch([10]))
    cuda.lose_at = None
    assert backend.run(_batch([10])).shape == (2, 2)


def test_compiled_kernels_are_kept(artifact: Path, simulated_gpu: Any, tmp_path: Path) -> None:
    trt, _ = simulated_gpu(PROFILES)
    trt.compile_on_the_device()
    cache = tmp_path / "kernels.cache"
    for before in (b"", b"kernels"):
        backend = TensorRTBackend(artifact / "model.plan", _manifest(artifact), runtime_cache=cache)
        assert trt.cache_read == before
        backend.run(_batch([10]))
        backend.close()
        assert cache.read_bytes() == b"kernels"


def test_a_stripped_plan_takes_the_weights_of_the_graph(artifact: Path, simulated_gpu: Any) -> None:
    trt, _ = simulated_gpu(PROFILES)
    _rewrite(artifact, weights="stripped")
    TensorRTBackend(artifact / "model.plan", _manifest(artifact)).close()
    assert trt.refitted_from == [str(artifact / "model.onnx")]


def test_an_engine_of_another_version_is_refused_with_the_way_out(
    artifact: Path, simulated_gpu: Any
) -> None:
    simulated_gpu(PROFILES)
    _rewrite(artifact, version="10.15.0")
    with pytest.raises(
        BackendError, match=r"built by tensorrt 10\.15\.0 .* installed 10\.16\.1; pip install"
    ):
        Scorer.load(artifact, backend="tensorrt")


def test_a_plan_that_brings_code_runs_only_if_the_caller_allows_it(
    artifact: Path, simulated_gpu: Any
) -> None:
    simulated_gpu(PROFILES)
    _rewrite(artifact, version_compatible=True)
    with pytest.raises(BackendError, match=r"brings code that would run.*allow_host_code=True"):
        Scorer.load(artifact, backend="tensorrt")
    with Scorer.load(artifact, backend="tensorrt", allow_host_code=True) as scorer:
        assert scorer.score("q", ["a"]).num_tokens > 0


def test_a_version_compatible_engine_runs_on_later_versions_only(artifact: Path) -> None:
    _rewrite(artifact, version="10.15.0", version_compatible=True)
    record = _manifest(artifact).engine
    assert record is not None
    check_version(record, "11.0.0")
    with pytest.raises(BackendError, match=r"the installed 10\.9\.0"):
        check_version(record, "10.9.0")


@pytest.mark.parametrize(
    ("kind", "capability", "runs"),
    [
        ("none", "8.9", True),
        ("none", "9.0", False),
        ("ampere_plus", "12.0", True),
        ("ampere_plus", "7.5", False),
        ("same_compute_capability", "8.9", True),
        ("same_compute_capability", "8.6", False),
    ],
)
def test_an_engine_runs_on_what_it_was_built_for(
    artifact: Path, kind: str, capability: str, runs: bool
) -> None:
    _rewrite(artifact, hardware_compatibility=kind)
    record = _manifest(artifact).engine
    assert record is not None
    if runs:
        check_capability(record, capability)
    else:
        with pytest.raises(BackendError, match=f"has compute capability {capability}.*to_trt.py"):
            check_capability(record, capability)


def test_auto_takes_the_engine_where_it_runs(
    artifact: Path, simulated_gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    simulated_gpu(PROFILES)
    with caplog.at_level(logging.INFO, "rfprm_runtime"):
        assert choose_backend(_manifest(artifact)) == "tensorrt"
    assert "backend 'tensorrt'" in caplog.text


def test_auto_says_why_it_skips_the_engine(
    artifact: Path, simulated_gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    simulated_gpu(PROFILES)
    _rewrite(artifact, compute_capabilities=("12.0",))
    with Scorer.load(artifact) as scorer:
        assert scorer.backend_description.startswith("onnxruntime")
    assert "the artifact's model.plan is not used" in caplog.text
    assert "this GPU has compute capability 8.9" in caplog.text


def test_a_lone_engine_that_does_not_run_says_how_to_keep_the_graph(
    artifact: Path, simulated_gpu: Any
) -> None:
    simulated_gpu(PROFILES)
    _rewrite(artifact, compute_capabilities=("12.0",))
    manifest = _manifest(artifact)
    files = {name: x for name, x in manifest.files.items() if not name.startswith("model.onnx")}
    alone = manifest.model_copy(update={"files": files})
    with pytest.raises(BackendError, match=r"compute capability 8\.9.*--keep-graph"):
        choose_backend(alone)
    with pytest.raises(ArtifactError, match=r"needs model\.onnx.*--keep-graph"):
        choose_backend(alone, "onnx")


def test_a_trace_longer_than_the_profiles_says_that_they_are_the_limit(
    artifact: Path, simulated_gpu: Any
) -> None:
    simulated_gpu(PROFILES)
    longest = max(profile.length.max for profile in PROFILES)
    _rewrite(artifact, model_positions=1024)
    shorter = _manifest(artifact).model_copy(update={"max_positions": longest})
    (artifact / "prm.json").write_text(shorter.to_json())
    with Scorer.load(artifact, backend="tensorrt") as scorer:
        for steps, overflow in ((["a b c d"] * 99, "error"), (["a b c d" * 99], "window")):
            message = rf"engine's longest profile takes {longest}.*a longer --profile"
            with pytest.raises(TraceTooLongError, match=message) as caught:
                scorer.score("q", steps, overflow=overflow)
            again = pickle.loads(pickle.dumps(caught.value))
            assert str(again) == str(caught.value)


@pytest.mark.parametrize(
    "setting", [{"num_streams": "two"}, {"max_batch_tokens": 0}, {"runtime_cache": 3}]
)
def test_a_setting_that_cannot_be_used_is_refused(
    setting: dict[str, Any], artifact: Path, simulated_gpu: Any
) -> None:
    simulated_gpu(PROFILES)
    with pytest.raises(InvalidArgumentError, match=rf"^{next(iter(setting))} is "):
        Scorer.load(artifact, backend="tensorrt", **setting)


def test_an_explicit_request_never_falls_back(artifact: Path, simulated_gpu: Any) -> None:
    simulated_gpu(PROFILES)
    _rewrite(artifact, compute_capabilities=("12.0",))
    with pytest.raises(BackendError, match=r"capability 8\.9, the TensorRT engine was built for"):
        Scorer.load(artifact, backend="tensorrt")


def test_an_artifact_without_an_engine_says_how_to_build_one(artifact: Path) -> None:
    manifest = _manifest(artifact)
    files = {name: x for name, x in manifest.files.items() if name != "model.plan"}
    with pytest.raises(ArtifactError, match=r"needs model\.plan.*export/to_trt\.py"):
        choose_backend(manifest.model_copy(update={"files": files}), "tensorrt")


def test_a_package_that_is_not_installed_is_named_with_its_extra() -> None:
    with pytest.raises(MissingExtraError, match=r"\[tensorrt\]"):
        load_flavour("tensorrt", "this artifact's engine")


def _has_gpu() -> bool:
    try:
        Cuda()
    except BackendError:
        return False
    return True


@pytest.mark.skipif(_has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_the_error_says_so(artifact: Path) -> None:
    import tensorrt_rtx

    _rewrite(artifact, flavour="tensorrt_rtx", version=tensorrt_rtx.__version__)
    with pytest.raises(BackendError, match=r"no usable CUDA device.*cudaError\w+.*another backend"):
        Scorer.load(artifact, backend="tensorrt")
    with Scorer.load(artifact) as scorer:  # the graph is there too
        assert scorer.backend_description.startswith("onnxruntime")


def test_errors_of_cuda_travel_between_processes() -> None:
    error = CudaError("cudaMalloc", "cudaErrorMemoryAllocation", "out of memory")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
