"""Triton's model repositories, checked against Triton's own schema."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format

from rfprm_export import ExportError
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.triton import write_triton_model
from rfprm_runtime.artifact.integrity import describe_file
from rfprm_runtime.artifact.manifest import Manifest, read_manifest
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.scores.readout import read_scores
from rfprm_runtime.types import Trajectory
from simulated_gpu import small_profile, with_engine


@pytest.fixture(scope="module")
def schema() -> Any:
    """tritonclient's ``model_config_pb2``, loaded without the package, which imports grpc."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_config_pb2"] = module
    spec.loader.exec_module(module)
    return module


def _read(schema: Any, folder: Path) -> Any:
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, schema.ModelConfig())  # raises for unknown fields


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"flavour": "tensorrt_rtx"}, "of tensorrt_rtx"),
        ({"weights": "stripped"}, "without weights"),
    ],
)
def test_engines_that_triton_cannot_load_are_refused(
    changes: dict[str, Any], kind: str, tiny_artifact: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(tiny_artifact, artifact)
    manifest = read_manifest(artifact)
    written = with_engine(manifest, (small_profile(1, 64),), **changes)
    (artifact / "prm.json").write_text(written.to_json())
    with pytest.raises(ExportError, match=f"a TensorRT engine {kind}, which Triton does not load"):
        write_triton_model(artifact, tmp_path / "repository")


@pytest.mark.parametrize("attention", ["standard", "group_query"])
def test_a_graph_becomes_a_model_that_onnxruntime_runs(
    attention: Any, schema: Any, published_prm: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    export_artifact(published_prm, artifact, attention=attention, verify=False)
    folder = write_triton_model(artifact, tmp_path / "repository")
    config = _read(schema, folder)
    assert folder.name == config.name == read_manifest(artifact).name
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
    session = ort.InferenceSession(str(folder / "1" / config.default_model_filename))
    types = {"tensor(int64)": schema.TYPE_INT64, "tensor(float)": schema.TYPE_FP32}
    for described, tensors in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [tensor.name for tensor in described] == [tensor.name for tensor in tensors]
        assert [tensor.data_type for tensor in described] == [types[t.type] for t in tensors]
        for tensor, real in zip(described, tensors, strict=True):
            sizes = [size if isinstance(size, int) else -1 for size in real.shape]
            assert list(tensor.dims) == sizes


def test_a_client_has_all_it_needs(published_prm: Path, tmp_path: Path) -> None:
    """A model folder gives the same scores when the model runs as in Triton."""
    export_artifact(published_prm, tmp_path / "artifact", attention="standard", verify=False)
    folder = write_triton_model(tmp_path / "artifact", tmp_path / "repository", name="prm")
    manifest = read_manifest(folder)
    encoder = TrajectoryEncoder.load(
        folder, manifest.prompt, vocab_size=manifest.backbone.vocab_size
    )
    row = encoder.encode(Trajectory(question="2 + 2?", steps=("2 + 2 = 4.", "So 4.")))
    session = ort.InferenceSession(str(folder / "1" / "model.onnx"))
    (logits,) = session.run(
        ["logits"],
        {"token_ids": row.token_ids[None], "marker_positions": row.marker_positions},
    )
    with Scorer.load(tmp_path / "artifact") as scorer:
        expected = scorer.score("2 + 2?", ["2 + 2 = 4.", "So 4."]).step_scores
    found = read_scores(logits[: row.num_steps], manifest.step_readout)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_loading_a_model_folder_says_that_it_is_not_an_artifact(
    published_prm: Path, tmp_path: Path
) -> None:
    export_artifact(published_prm, tmp_path / "artifact", verify=False)
    folder = write_triton_model(tmp_path / "artifact", tmp_path / "repository", name="prm")
    with pytest.raises(ArtifactError, match="load the artifact that this folder was made from"):
        Scorer.load(folder)


@pytest.mark.parametrize("name", ["a/b", "..", "", ".hidden", "two words", 'quo"te'])
def test_a_bad_name_is_refused(name: str, published_prm: Path, tmp_path: Path) -> None:
    export_artifact(published_prm, tmp_path / "artifact", verify=False)
    with pytest.raises(ExportError, match="expected letters, digits"):
        write_triton_model(tmp_path / "artifact", tmp_path / "repository", name=name)
    assert not (tmp_path / "repository").exists()


def test_an_engine_becomes_a_model_with_its_profiles(
    schema: Any, tiny_artifact: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(tiny_artifact, artifact)
    (artifact / "model.plan").write_bytes(b"a plan")
    manifest = Manifest.model_validate_json((artifact / "prm.json").read_bytes())
    files = {**manifest.files, "model.plan": describe_file(artifact / "model.plan")}
    profiles = (small_profile(1, 64), small_profile(4, 64))
    written = with_engine(manifest.model_copy(update={"files": files}), profiles)
    (artifact / "prm.json").write_text(written.to_json())
    folder = write_triton_model(artifact, tmp_path / "repository", name="engine")
    config = _read(schema, folder)
    assert (config.name, config.platform) == ("engine", "tensorrt_plan")
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert [path.name for path in (folder / "1").iterdir()] == ["model.plan"]
    with pytest.raises(ExportError, match="already exists; pass --overwrite"):
        write_triton_model(artifact, tmp_path / "repository", name="engine")
    write_triton_model(artifact, tmp_path / "repository", name="engine", overwrite=True)


def test_an_artifact_without_graph_or_engine_is_refused(
    published_prm: Path, tmp_path: Path
) -> None:
    export_artifact(published_prm, tmp_path / "artifact", format="torch", verify=False)
    with pytest.raises(ExportError, match=r"model\.safetensors.*but Triton runs model\.onnx or"):
        write_triton_model(tmp_path / "artifact", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()
