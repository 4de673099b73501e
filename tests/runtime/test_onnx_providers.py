"""Which ONNX Runtime provider runs and with which options, tested without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from rfprm_runtime.artifact.manifest import read_manifest
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.errors import BackendError


class _Recorder:
    """Stands in for onnxruntime with a GPU: records the arguments of sessions, runs on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, providers: list[str]) -> None:
        self.asked: list[list[Any]] = []
        recorder = self

        class Session(ort.InferenceSession):  # type: ignore[misc]
            def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
                recorder.asked.append(providers)
                super().__init__(path, options, providers=["CPUExecutionProvider"])

            def get_providers(self) -> list[str]:
                return [item if isinstance(item, str) else item[0] for item in recorder.asked[-1]]

        monkeypatch.setattr(ort, "InferenceSession", Session)
        monkeypatch.setattr(ort, "get_available_providers", lambda: providers)


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def test_options_go_to_the_provider_as_they_are(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = _Recorder(monkeypatch, [CUDA, CPU])
    manifest = read_manifest(tiny_artifact)
    options = {"device_id": 1, "cudnn_conv_algo_search": "DEFAULT"}
    backend = OnnxBackend(
        tiny_artifact / "model.onnx", manifest, provider="cuda", provider_options=options
    )
    assert recorder.asked == [[(CUDA, {"use_tf32": "0", **options}), CPU]]
    assert backend.limits.max_batch_size > 1  # padded batches
    assert CUDA in backend.description


@pytest.mark.parametrize(
    ("precision", "providers", "expected"),
    [
        ("fp32", [CUDA, CPU], CPU),
        ("bf16", [CUDA, CPU], CUDA),
        ("fp16", [CUDA, CPU], CUDA),
        ("fp16", [CPU], CPU),
    ],
)
def test_models_in_16_bits_take_the_gpu_where_there_is_one(
    precision: str,
    providers: list[str],
    expected: str,
    tiny_artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = _Recorder(monkeypatch, providers)
    manifest = read_manifest(tiny_artifact).model_copy(update={"precision": precision})
    OnnxBackend(tiny_artifact / "model.onnx", manifest)
    assert recorder.asked[0][0] == (expected, {"use_tf32": "0"} if expected == CUDA else {})


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_missing_provider_names_the_build_that_has_it(provider: str, tiny_artifact: Path) -> None:
    with pytest.raises(BackendError, match=r"has no \w+ExecutionProvider.*onnxruntime-gpu"):
        OnnxBackend(tiny_artifact / "model.onnx", read_manifest(tiny_artifact), provider=provider)


def test_a_provider_with_its_own_package_says_what_to_install(tiny_artifact: Path) -> None:
    with pytest.raises(BackendError, match="pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"):
        OnnxBackend(
            tiny_artifact / "model.onnx", read_manifest(tiny_artifact), provider="tensorrt_rtx"
        )


def test_a_provider_that_falls_back_is_refused(
    tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    with (
        pytest.warns(UserWarning, match=CUDA),
        pytest.raises(BackendError, match=r"could not start CUDA.*fell back to \['CPU"),
    ):
        OnnxBackend(tiny_artifact / "model.onnx", read_manifest(tiny_artifact), provider="cuda")
