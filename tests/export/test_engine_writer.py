"""Artifacts with TensorRT engines, from the command line to the manifest."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx
from safetensors.numpy import load_file, save_file

from rfprm_export import ExportError
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.tensorrt.engine_writer import graph_artifact, reuse_engine
from rfprm_export.tensorrt.profiles import (
    derive_profiles,
    make_profile,
    parse_profile,
    parse_profiles,
)
from rfprm_runtime.artifact.integrity import check_files, describe_file
from rfprm_runtime.artifact.manifest import Manifest, read_manifest
from rfprm_runtime.cli.main import run_command
from rfprm_runtime.scorer import Scorer
from simulated_gpu import with_engine
from tiny_models import save_published_prm


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prm")
    save_published_prm(folder, "qwen2", num_heads=2, num_kv_heads=1, head_dim=32)
    return folder


@pytest.fixture(scope="module")
def graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact in fp16, not verified, because 200 traces would take a while."""
    folder = tmp_path_factory.mktemp("graph") / "artifact"
    export_artifact(checkpoint, folder, precision="fp16", verify=False)
    return folder


def _export_trt(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout, stderr of ``to_trt.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["to_trt.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run_command("rfprm_export.tensorrt.command", "export_trt")
    code = caught.value.code
    out, err = capfd.readouterr()
    # If the code is a text, Python prints it and exits with 1.
    return (1, out, err + code) if isinstance(code, str) else (int(code or 0), out, err)


def test_an_artifact_becomes_an_engine(
    graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "engine"
    status, out, _ = _export_trt(
        capfd, graph, "-o", output, "--compute-capability", "8.9", "--profile", "4x128",
        "--profile", "1x256",
    )  # fmt: skip
    assert status == 0
    manifest = read_manifest(output)
    check_files(output, manifest)
    engine = manifest.engine
    assert engine is not None
    assert set(manifest.files) == {"tokenizer.json", "model.plan"}
    assert (engine.flavour, engine.version) == ("tensorrt_rtx", tensorrt_rtx.__version__)
    assert engine.compute_capabilities == ("8.9",)
    assert [(p.batch.max, p.length.max) for p in engine.profiles] == [(4, 128), (1, 256)]
    assert engine.graph_sha256 == read_manifest(graph).files["model.onnx"].sha256
    assert manifest.precision == "fp16"
    assert manifest.exporter["tensorrt_rtx"] == tensorrt_rtx.__version__
    assert engine.device_bytes
    text = " ".join(out.split())
    assert "one fused kernel in 3 of 3 layers" in text
    assert re.search(r"parsed in [\d.]+ s, built in [\d.]+ s", text)
    assert "or without a GPU" in text
    assert f"written: {output}" in text


def test_the_graph_can_be_kept_for_machines_without_the_gpu(
    graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "engine"
    status, _, _ = _export_trt(
        capfd, graph, "-o", output, "--keep-graph", "--compute-capability", "8.9", "--profile",
        "1x256",
    )  # fmt: skip
    assert status == 0
    with Scorer.load(output) as scorer, Scorer.load(graph) as other:
        assert scorer.backend_description.startswith("onnxruntime")
        assert scorer.score("q", ["a"]).reward == other.score("q", ["a"]).reward


def test_an_artifact_with_other_ops_says_how_to_export(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export_artifact(checkpoint, tmp_path / "cpu", verify=False)
    status, _, err = _export_trt(capfd, tmp_path / "cpu", "-o", tmp_path / "engine")
    assert status == 1
    assert "group_query attention" in err
    assert "--precision fp16" in err
    assert not (tmp_path / "engine").exists()


def test_an_engine_shorter_than_the_model_limits_the_positions(
    graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each longer trace is then too long, or windowed, without failing its batch."""
    status, _, _ = _export_trt(
        capfd, graph, "-o", tmp_path / "engine", "--profile", "2x128", "--compute-capability", "8.9"
    )
    assert status == 0
    assert read_manifest(graph).max_positions == 256
    written = read_manifest(tmp_path / "engine")
    assert written.max_positions == 128
    assert written.positions_beyond_engine == 256


def test_impossible_options_are_refused_before_the_export(
    checkpoint: Path, graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    donor = _stripped(graph, tmp_path / "donor")
    new = ["-o", tmp_path / "new"]
    for source, arguments, message in (
        (checkpoint, ["-o", tmp_path / "there"], "already exists"),
        (graph, ["-o", graph, "--overwrite"], "is or holds the input"),
        (tmp_path / "nothing", new, "there is no checkpoint"),
        (checkpoint, [*new, "--compute-capability", "9.0"], "does not build for"),
        (checkpoint, [*new, "--compute-capability", "abc"], "expected MAJOR.MINOR"),
        (checkpoint, [*new, "--flavour", "tensorrt"], "[tensorrt]"),
        (checkpoint, [*new, "--weights", "stripped"], "give its --compute-capability"),
        (checkpoint, [*new, "--engine-from", donor, "--batch", "2"], "builds nothing"),
        (checkpoint, [*new, "--engine-from", graph], "has no TensorRT engine"),
        (checkpoint, [*new, "--engine-from", checkpoint], "not an artifact with a TensorRT"),
        (checkpoint, [*new, "--profile", "2x64", "--batch-tokens", "9"], "for deriving profiles"),
        (graph, [*new, "--precision", "bf16", "--family", "qwen"], "--precision and --family: "),
        (checkpoint, [*new, "--base", checkpoint, "--no-verify"], "needs no --base"),
    ):  # fmt: skip
        status, out, err = _export_trt(capfd, source, *arguments)
        assert (status, message in err) == (1, True), err
        assert "exporting" not in out or "--base" in arguments
    assert not (tmp_path / "new").exists()


def test_negative_numbers_are_refused(
    graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for option in ("--workspace", "--batch", "--batch-tokens"):
        status, _, err = _export_trt(capfd, graph, "-o", tmp_path / "new", option, "-5")
        assert status == 2
        assert option in err


def test_a_failed_build_leaves_nothing(
    graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = _export_trt(
        capfd, graph, "-o", tmp_path / "engine", "--compute-capability", "9.0"
    )
    assert status == 1
    assert "does not build for compute capability 9.0" in err
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_exported_first(checkpoint: Path) -> None:
    with graph_artifact(checkpoint, precision="bf16", verify=False) as (folder, manifest):
        assert manifest.precision == "bf16"
        assert (folder / "model.onnx").is_file()
    assert not folder.exists()


def test_a_damaged_artifact_is_refused(graph: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(graph, damaged)
    data = damaged / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with (
        pytest.raises(Exception, match="modified"),
        graph_artifact(damaged, precision="fp16"),
    ):
        pass


# A stripped plan with other weights


def _stripped(graph: Path, folder: Path, **changes: Any) -> Path:
    """An artifact with a stripped plan, as a machine with a GPU would build it."""
    shutil.copytree(graph, folder)
    (folder / "model.plan").write_bytes(b"a plan without weights")
    manifest = Manifest.model_validate_json((folder / "prm.json").read_bytes())
    files = {**manifest.files, "model.plan": describe_file(folder / "model.plan")}
    fields = {"weights": "stripped", "graph_sha256": files["model.onnx"].sha256, **changes}
    profiles = (make_profile(2, 64),)
    written = with_engine(manifest.model_copy(update={"files": files}), profiles, **fields)
    (folder / "prm.json").write_text(written.to_json())
    return folder


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with other weights, as from another training run."""
    folder = tmp_path_factory.mktemp("other")
    save_published_prm(folder / "prm", "qwen2", num_heads=2, num_kv_heads=1, head_dim=32)
    weights = load_file(folder / "prm" / "model.safetensors")
    changed = {name: x * 1.01 for name, x in weights.items()}
    save_file(changed, folder / "prm" / "model.safetensors")
    export_artifact(folder / "prm", folder / "artifact", precision="fp16", verify=False)
    return folder / "artifact"


def test_a_stripped_plan_serves_other_weights(
    graph: Path, trained_on: Path, tmp_path: Path
) -> None:
    donor = _stripped(graph, tmp_path / "donor")
    report = reuse_engine(trained_on, read_manifest(trained_on), donor, tmp_path / "new")
    written = read_manifest(tmp_path / "new")
    check_files(tmp_path / "new", written)
    assert report.built is None
    assert (tmp_path / "new" / "model.plan").read_bytes() == b"a plan without weights"
    assert written.weights_sha256 == read_manifest(trained_on).weights_sha256
    assert written.weights_sha256 != read_manifest(donor).weights_sha256
    new, old = (folder / "model.onnx.data" for folder in (tmp_path / "new", donor))
    assert new.read_bytes() != old.read_bytes()


def test_a_plan_of_another_graph_is_not_reused(
    checkpoint: Path, graph: Path, tmp_path: Path
) -> None:
    donor = _stripped(graph, tmp_path / "donor")
    other = tmp_path / "bf16"
    export_artifact(checkpoint, other, precision="bf16", verify=False)
    with pytest.raises(ExportError, match="built from another graph"):
        reuse_engine(other, read_manifest(other), donor, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_plan_with_its_own_weights_is_not_reused(graph: Path, tmp_path: Path) -> None:
    donor = _stripped(graph, tmp_path / "donor", weights="inside")
    with pytest.raises(
        ExportError, match="expected a TensorRT engine built with --weights stripped"
    ):
        reuse_engine(graph, read_manifest(graph), donor, tmp_path / "new")


# Profiles


def test_derived_profiles_take_every_trace_and_no_more_than_asked() -> None:
    profiles = derive_profiles(8192, max_batch_size=64, max_batch_tokens=16_384)
    bounds = [(p.batch.max, p.length.max) for p in profiles]
    assert bounds == [(1, 8192), (32, 512), (8, 2048), (2, 8192)]
    for profile in profiles:
        assert (profile.batch.min, profile.length.min, profile.num_markers.min) == (1, 1, 1)
        # A step has at least one token and its marker.
        assert profile.num_markers.max >= profile.batch.max * profile.length.max // 2


def test_profiles_follow_the_lengths_of_traces() -> None:
    lengths = [100] * 50 + [300] * 45 + [1000] * 5
    profiles = derive_profiles(4096, lengths=lengths, max_batch_size=16, max_batch_tokens=8192)
    bounds = [(p.batch.max, p.length.max) for p in profiles]
    assert bounds == [(1, 4096), (16, 256), (16, 320), (2, 4096)]
    assert [p.length.opt for p in profiles] == [200, 100, 300, 1000]


def test_a_short_model_needs_few_profiles() -> None:
    profiles = derive_profiles(256, max_batch_size=1)
    assert [(p.batch.max, p.length.max) for p in profiles] == [(1, 256)]


def test_a_repeated_profile_is_built_once() -> None:
    profiles = parse_profiles(["4x128", "1x256", "4x128"], 256)
    assert [(p.batch.max, p.length.max) for p in profiles] == [(4, 128), (1, 256)]


@pytest.mark.parametrize("text", ["16", "x512", "16x", "0x512", "axb", "16x-1", "16x9000"])
def test_a_malformed_profile_is_refused(text: str) -> None:
    with pytest.raises(ExportError, match="--profile"):
        parse_profile(text, 8192)


def test_traces_shape_the_profiles(
    graph: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    traces = tmp_path / "traces.jsonl"
    rows = [{"question": "2 + 2?", "steps": ["4"] * count} for count in (1, 2, 3)]
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, _ = _export_trt(
        capfd, graph, "-o", tmp_path / "engine", "--traces", traces, "--batch", 4,
        "--compute-capability", "8.9",
    )  # fmt: skip
    assert status == 0
    engine = read_manifest(tmp_path / "engine").engine
    assert engine is not None
    assert engine.profiles[1].length.max < 256
    (tmp_path / "empty.jsonl").write_text("")
    status, _, err = _export_trt(
        capfd, graph, "-o", tmp_path / "other", "--traces", tmp_path / "empty.jsonl"
    )
    assert status == 1
    assert "holds no traces" in err
