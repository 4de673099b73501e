from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_export import ExportError, artifact_writer, linear_choice, panels, reference
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.gate import Gate, check_parity, gate_failures
from rfprm_export.panels import linear_names
from rfprm_export.verify import rank_correlation
from rfprm_runtime import Scorer
from rfprm_runtime.artifact.build_records import Parity
from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import NATIVE_NAME, read_manifest
from rfprm_runtime.artifact.tensors import read_tensors
from rfprm_runtime.backends.native import library
from rfprm_runtime.errors import BackendError
from tiny_models import save_published_prm


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    path = tmp_path / "traces.jsonl"
    path.write_text('{"question": "2+2?", "steps": ["2+2 = 4", "so 4"]}\n', encoding="utf-8")
    return path


def test_the_manifest_carries_parity_versions_and_files(tiny_artifact: Path) -> None:
    manifest = read_manifest(tiny_artifact)
    assert manifest.parity is not None
    assert manifest.parity.max_difference <= 1e-4
    assert manifest.parity.reference.startswith("torch")
    assert manifest.parity.num_scores == 2
    assert set(manifest.files) == {"tokenizer.json", "model.onnx", "model.onnx.data"}
    assert set(manifest.exporter) == {
        "rfprm_runtime",
        "onnx",
        "numpy",
        "onnxruntime",
        "attention",
    }
    assert manifest.weights_sha256 is not None


def test_both_formats_score_alike(published_prm: Path, tmp_path: Path, traces: Path) -> None:
    export_artifact(published_prm, tmp_path / "t", format="torch", verify_traces=traces)
    export_artifact(published_prm, tmp_path / "o", attention="standard", verify_traces=traces)
    with Scorer.load(tmp_path / "t") as ours, Scorer.load(tmp_path / "o") as theirs:
        assert "torch" in ours.backend_description
        left = ours.score("q", steps=["a", "b and c"])
        right = theirs.score("q", steps=["a", "b and c"])
    np.testing.assert_allclose(left.step_scores, right.step_scores, atol=1e-5)


def test_an_existing_artifact_is_replaced_only_when_told_to(
    published_prm: Path, tmp_path: Path
) -> None:
    output = tmp_path / "artifact"
    output.mkdir()
    (output / "precious.txt").write_text("mine")
    with pytest.raises(ExportError, match="pass --overwrite"):
        export_artifact(published_prm, output, verify=False)
    assert (output / "precious.txt").read_text() == "mine"
    with pytest.raises(ExportError, match=r"holds \['precious.txt'\].*not an artifact"):
        export_artifact(published_prm, output, verify=False, overwrite=True)
    assert (output / "precious.txt").read_text() == "mine"
    (output / "precious.txt").rename(output / "prm.json")
    export_artifact(published_prm, output, verify=False, overwrite=True)
    assert read_manifest(output).parity is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact"]


def test_impossible_outputs_are_refused_before_anything_is_written(
    published_prm: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    inside = shutil.copytree(published_prm, tmp_path / "all" / "prm")
    shutil.copy(tiny_artifact / "prm.json", tmp_path / "all")
    for checkpoint, output, message in (
        (published_prm, tmp_path / "file", "is a file, expected a folder"),
        (published_prm, tmp_path / "file" / "below", "is a file, not a folder"),
        (inside, tmp_path / "all", "is or holds the input .*prm"),
    ):
        with pytest.raises(ExportError, match=message):
            export_artifact(checkpoint, output, verify=False, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "file"]


def test_a_link_stays_and_its_target_is_replaced(
    published_prm: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_artifact, tmp_path / "version-1")
    (tmp_path / "current").symlink_to("version-1")
    export_artifact(published_prm, tmp_path / "current", verify=False, overwrite=True)
    assert (tmp_path / "current").is_symlink()
    assert read_manifest(tmp_path / "version-1").parity is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "version-1"]


def test_an_unfaithful_model_is_not_written(
    published_prm: Path, tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph = artifact_writer.write_graph

    def write_wrong_graph(path, manifest, weights, **options):  # type: ignore[no-untyped-def]
        wrong = {**weights, "score.2.bias": weights["score.2.bias"] + np.float32([0, 1.0])}
        return write_graph(path, manifest, wrong, **options)

    monkeypatch.setattr(artifact_writer, "write_graph", write_wrong_graph)
    with pytest.raises(ExportError, match="not faithful"):
        export_artifact(published_prm, tmp_path / "artifact", verify_traces=traces)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["traces.jsonl"]


def test_a_nan_score_is_not_faithful() -> None:
    parity = Parity(
        reference="r",
        traces="t",
        num_trajectories=1,
        num_scores=1,
        max_difference=0.0,
        mean_difference=0.0,
        spearman=None,
    ).model_copy(update={"max_difference": float("nan")})
    with pytest.raises(ExportError, match="not faithful"):
        check_parity(parity, "fp32", list)
    with pytest.raises(ExportError, match=r"Most is lost in layer 3 down\. Nothing was written"):
        check_parity(parity, "int16", lambda: ["layer 3 down"])


def test_without_torch_and_recorded_scores_nothing_is_exported(
    published_prm: Path, tmp_path: Path, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"holds no reference_scores\.json"):
        export_artifact(published_prm, tmp_path / "artifact", verify_traces=traces)


_KILLED = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from rfprm_export import artifact_writer

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

module, _, name = sys.argv[3].partition(":")
setattr(import_module(module), name, die)
artifact_writer.export_artifact(Path(sys.argv[1]), Path(sys.argv[2]), verify=False, overwrite=True)
"""


@pytest.mark.parametrize(
    "moment",
    [
        "rfprm_export.artifact_writer:describe_file",
        "rfprm_export.artifact_writer:weights_digest",
        "rfprm_runtime.ground.whole_files:_take_place_of",
    ],
)
def test_a_killed_export_leaves_the_old_artifact_and_the_next_one_cleans_up(
    published_prm: Path, tiny_artifact: Path, tmp_path: Path, moment: str
) -> None:
    output = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(published_prm), str(output), moment],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL
    with Scorer.load(output) as scorer:
        assert scorer.score("q", steps=["a"]).num_tokens > 0
    assert len(list(tmp_path.iterdir())) == 2
    export_artifact(published_prm, output, verify=False, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_heads_that_the_fast_attention_does_not_support_get_the_standard_one(
    tmp_path: Path, traces: Path
) -> None:
    save_published_prm(tmp_path / "small", "llama", head_dim=8)
    manifest = export_artifact(tmp_path / "small", tmp_path / "a", verify_traces=traces)
    assert manifest.exporter["attention"] == "standard"
    with pytest.raises(ExportError, match="multiples of 16; export with --attention standard"):
        export_artifact(tmp_path / "small", tmp_path / "b", attention="group_query")


def test_rank_correlation_by_hand() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(a, a**3) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert rank_correlation(np.array([0.0, 5.0, 5.0, 9.0]), a) == pytest.approx(0.9486833)
    # One exchange of neighbours: 1 - 6 (1 + 1) / (4 (16 - 1)).
    assert rank_correlation(a, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    # Ranks 1, 2, 3, 4 and 1.5, 1.5, 3.5, 3.5.
    assert rank_correlation(a, np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(4 / 20**0.5)
    for constant in (np.ones(4), np.zeros(4)):
        assert rank_correlation(constant, a) is None
        assert rank_correlation(a, constant) is None
    assert rank_correlation(np.zeros(0), np.zeros(0)) is None


def test_the_gate_names_each_limit_that_is_exceeded() -> None:
    faithful = Parity(
        reference="r",
        traces="t",
        num_trajectories=200,
        num_scores=800,
        max_difference=0.2,
        mean_difference=0.01,
        spearman=0.995,
        num_groups=50,
        same_best_of_4=0.98,
    )
    assert gate_failures(faithful) == []
    for changes, said in (
        ({"num_trajectories": 199}, "199 trajectories were compared"),
        ({"mean_difference": 0.0101}, "scores differ by 0.0101"),
        ({"mean_difference": float("nan")}, "scores differ by nan"),
        ({"spearman": 0.9949}, "ρ is 0.9949"),
        ({"spearman": None}, "ρ is None"),
        ({"same_best_of_4": 0.9799}, "unchanged in 98.0% of 50 groups"),
        ({"same_best_of_4": None, "num_groups": 0}, "no question has four trajectories"),
    ):
        (failure,) = gate_failures(faithful.model_copy(update=changes))
        assert said in failure


@pytest.fixture(scope="module")
def roomy_prm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PRM with enough positions for the shipped traces, whose tokens are single bytes here."""
    folder = tmp_path_factory.mktemp("roomy")
    save_published_prm(folder, "qwen2", max_positions=1024)
    return folder


def test_int16_is_verified_on_the_shipped_traces_and_recorded(
    roomy_prm: Path, tmp_path: Path
) -> None:
    manifest = export_artifact(roomy_prm, tmp_path / "artifact", precision="int16")
    assert manifest.precision == "int16"
    assert manifest.parity is not None
    assert (manifest.parity.num_trajectories, manifest.parity.num_groups) == (256, 64)
    assert manifest.parity.traces == "shipped gate traces"
    with Scorer.load(tmp_path / "artifact") as scorer:
        assert scorer.backend_description.startswith("native")


def test_unfaithful_int16_is_refused_naming_the_layers(
    roomy_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "MAX_WEIGHT", 3)
    with pytest.raises(ExportError, match=r"Most is lost in layer \d \w+ \("):
        export_artifact(roomy_prm, tmp_path / "artifact", precision="int16")
    assert list(tmp_path.iterdir()) == []


def test_int8_is_chosen_for_each_linear_and_recorded(
    roomy_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit that all linears exceed together, but some of them keep.
    monkeypatch.setattr(linear_choice, "STRICT_GATE", Gate(mean_difference=1e-3))
    manifest = export_artifact(roomy_prm, tmp_path / "artifact", precision="int8")
    assert [linear.name for linear in manifest.products] == linear_names(manifest.backbone)
    assert all((linear.difference or 0) > 0 for linear in manifest.products)
    bits = {linear.name: linear.bits for linear in manifest.products}
    assert set(bits.values()) == {8, 16}
    tensors, _ = read_tensors(ArtifactFiles(tmp_path / "artifact").read(NATIVE_NAME), tmp_path)
    assert {name: tensors[f"{name}.panels"].dtype.itemsize * 8 for name in bits} == bits
    assert manifest.parity is not None
    assert manifest.parity.mean_difference <= 1e-3
    assert sorted(path.name for path in (tmp_path / "artifact").iterdir()) == sorted(
        [NATIVE_NAME, "tokenizer.json", "prm.json"]
    )
    with Scorer.load(tmp_path / "artifact") as scorer:
        assert scorer.backend_description.startswith("native")


def test_int8_that_no_linear_allows_is_refused_naming_the_worst(
    roomy_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_choice, "STRICT_GATE", Gate(mean_difference=0.0))
    with pytest.raises(ExportError, match=r"The worst alone, .*: layers\.\d\.\w+ \("):
        export_artifact(roomy_prm, tmp_path / "artifact", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_int8_needs_verification(roomy_prm: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--no-verify skips"):
        export_artifact(roomy_prm, tmp_path / "artifact", precision="int8", verify=False)


@pytest.mark.parametrize(("precision", "unverified"), [("int16", True), ("int8", False)])
def test_without_kernels_to_verify_with_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any, unverified: bool
) -> None:
    def refuse() -> None:
        raise BackendError("no kernels in this test")

    monkeypatch.setattr(artifact_writer, "load_library", refuse)
    with pytest.raises(ExportError, match=f"{precision} is verified.*no kernels in this test") as e:
        export_artifact(tmp_path / "not here", tmp_path / "artifact", precision=precision)
    assert ("--no-verify" in str(e.value)) == unverified


def test_without_kernels_int16_is_written_unverified(
    roomy_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "available_variants", list)
    library.load_library.cache_clear()
    manifest = export_artifact(roomy_prm, tmp_path / "a", precision="int16", verify=False)
    assert manifest.precision == "int16"


def test_without_torch_a_file_for_torch_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "rfprm_runtime.backends.torch", raising=False)
    with pytest.raises(ExportError, match=r"it cannot run: .*torch.*--no-verify"):
        export_artifact(tmp_path / "not here", tmp_path / "artifact", format="torch")


def test_too_few_traces_cannot_verify_a_precision(
    published_prm: Path, tmp_path: Path, traces: Path
) -> None:
    with pytest.raises(ExportError, match="is verified on at least 200"):
        export_artifact(
            published_prm, tmp_path / "artifact", precision="int16", verify_traces=traces
        )


@pytest.mark.parametrize(
    ("format", "precision"), [("onnx", "int16"), ("torch", "int8"), ("native", "fp32")]
)
def test_a_format_supports_its_precisions_only(
    published_prm: Path, tmp_path: Path, format: Any, precision: Any
) -> None:
    with pytest.raises(ExportError, match="leave --format out"):
        export_artifact(published_prm, tmp_path / "a", format=format, precision=precision)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "score.0.bias"])
def test_weights_that_are_not_finite_are_refused(
    published_prm: Path, tmp_path: Path, name: str
) -> None:
    from safetensors.numpy import load_file, save_file

    checkpoint = shutil.copytree(published_prm, tmp_path / "checkpoint")
    weights = load_file(checkpoint / "model.safetensors")
    weights[name].reshape(-1)[1] = np.nan
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(ExportError, match=f"'{name}' holds NaN or infinite numbers"):
        export_artifact(checkpoint, tmp_path / "artifact", precision="int16", verify=False)


def test_a_shape_that_the_native_kernels_do_not_support_is_refused_at_once(tmp_path: Path) -> None:
    save_published_prm(tmp_path / "checkpoint", "llama", head_dim=24)
    with pytest.raises(ExportError, match=r"head_dim is 24, but the native kernels support"):
        export_artifact(tmp_path / "checkpoint", tmp_path / "artifact", precision="int16")
