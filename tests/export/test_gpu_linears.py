"""8-bit linears for GPUs: calibrated, chosen by the gate, and in the graph as chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from rfprm_export import ExportError, artifact_writer, gate, gpu_linears, linear_choice, verify
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import load_prm
from rfprm_export.emulation import emulating_scorer
from rfprm_export.gate import STRICT_GATE
from rfprm_export.gpu_linears import choose_gpu_linears, layer_linears
from rfprm_export.graph import write_graph
from rfprm_export.largest_inputs import largest_inputs
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.quantization import Quantization, quantize_weight
from rfprm_export.reference import Reference, score_by_reference, scorer_over
from rfprm_runtime.artifact.manifest import read_manifest
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.backends.torch import TorchBackend, build_network
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import Trajectory
from tiny_models import save_published_prm

TRACES = [
    Trajectory.build(question=f"What is {i} + 1?", steps=["Add." * (j + 1), f"It is {i * j}."])
    for i in range(6)
    for j in range(4)
]


@pytest.fixture(scope="module")
def prm(tmp_path_factory: pytest.TempPathFactory) -> LoadedPRM:
    folder = tmp_path_factory.mktemp("prm")
    save_published_prm(folder, "qwen2", max_positions=512)
    return load_prm(folder)


@pytest.fixture(scope="module")
def reference(prm: LoadedPRM) -> Reference:
    description, scores = score_by_reference(prm, TRACES)
    return Reference(description, "made-up traces", TRACES, scores)


def _gate(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
    """Replace the gate's limits."""
    limited = replace(STRICT_GATE, num_trajectories=1, spearman=-1.0, same_best_of_4=0.0)
    for module in (linear_choice, gpu_linears):
        monkeypatch.setattr(module, "STRICT_GATE", replace(limited, **limits))


def test_calibration_sees_the_reference_networks_activations(prm: LoadedPRM) -> None:
    found = largest_inputs(prm, TRACES)
    network = build_network(prm.manifest.backbone, prm.manifest.head, prm.weights)
    seen: dict[str, float] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name] = max(seen.get(name, 0.0), float(inputs[0].abs().max()))

        return hook

    names = {"q_proj": "qkv", "gate_proj": "gate_up", "o_proj": "o_proj", "down_proj": "down_proj"}
    for path, module in network.named_modules():
        parent, _, last = path.rpartition(".")
        if last in names:
            module.register_forward_pre_hook(watch(f"{parent}.{names[last]}"))
    with scorer_over(prm, TorchBackend(network, device="cpu")) as scorer:
        scorer.score_batch(TRACES)
    layers = {name: value for name, value in found.items() if name.startswith("model.layers.")}
    assert layers.keys() == seen.keys()
    for name, value in seen.items():
        assert layers[name] == pytest.approx(value, rel=1e-4)


def test_calibration_needs_traces(prm: LoadedPRM) -> None:
    with pytest.raises(ExportError, match="no traces to calibrate"):
        largest_inputs(prm, [])


def test_zero_inputs_stay_zero(prm: LoadedPRM, tmp_path: Path) -> None:
    zeroed = {name: x * 0 if "up_proj.weight" in name else x for name, x in prm.weights.items()}
    dead = LoadedPRM(prm.manifest, zeroed, prm.tokenizer)
    largest = largest_inputs(dead, TRACES[:2])
    assert min(largest.values()) == 0
    with emulating_scorer(dead, "bf16", Quantization("fp8", largest_inputs=largest)) as scorer:
        scores = verify.all_scores(scorer.score_batch(TRACES[:2]))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(("kind", "step"), [("fp8", 2**-4), ("w8a16", 1 / 254)])
def test_weights_in_8_bits_are_close(kind: Any, step: float) -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    matrix[:, 3] = 0
    quantized = quantize_weight(matrix, kind)
    back = quantized.values.astype(np.float32) * quantized.scales
    # The stored scale is the one that was divided by, so results are not larger on average.
    assert quantized.scales.dtype == np.float32
    assert abs(float(np.mean(np.abs(back) - np.abs(matrix)))) < step / 10
    assert np.abs(back - matrix).max() <= step * np.abs(matrix).max() * 1.01
    assert (quantized.scales > 0).all()
    assert not back[:, 3].any()


def test_all_linears_get_8_bits_if_the_gate_allows_it(
    prm: LoadedPRM, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gate(monkeypatch, mean_difference=0.5)
    quantization, records = choose_gpu_linears(prm, reference, "w8a16")
    assert not quantization.kept
    names = [name for names in layer_linears(prm.manifest.backbone).values() for name in names]
    assert [(record.name, record.bits) for record in records] == [(name, 8) for name in names]


def test_the_cheapest_layers_get_8_bits_if_not_all_can(
    prm: LoadedPRM, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = Quantization("fp8", largest_inputs=largest_inputs(prm, TRACES))
    with emulating_scorer(prm, everything.float_type, everything) as scorer:
        all_of_them = verify.measure_parity(scorer, reference).mean_difference
    _gate(monkeypatch, mean_difference=0.9 * all_of_them)
    quantization, records = choose_gpu_linears(prm, reference, "fp8")
    differences = {record.name.split(".")[2]: record.difference for record in records}
    kept = {name.split(".")[2] for name in quantization.kept}
    assert 0 < len(kept) < len(differences)
    # The layers in 16 bits cost more alone than those in 8.
    others = differences.keys() - kept
    assert min(differences[x] or 0 for x in kept) >= max(differences[x] or 0 for x in others)
    assert {r.name for r in records if r.bits == 16} == quantization.kept
    with emulating_scorer(prm, quantization.float_type, quantization) as scorer:
        assert verify.measure_parity(scorer, reference).mean_difference <= 0.9 * all_of_them


def test_the_rest_is_in_bf16_if_fp16_overflows(
    prm: LoadedPRM, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gate(monkeypatch, mean_difference=0.5)
    quantization, _ = choose_gpu_linears(prm, reference, "w8a16")
    assert quantization.float_type == "fp16"
    name = "model.layers.1.mlp.up_proj.weight"
    # Beyond fp16's range within the layer, unchanged after it.
    other = {name: prm.weights[name] * np.float32(1e6)}
    down = "model.layers.1.mlp.down_proj.weight"
    other[down] = prm.weights[down] / np.float32(1e6)
    large = LoadedPRM(prm.manifest, {**prm.weights, **other}, prm.tokenizer)
    quantization, _ = choose_gpu_linears(large, reference, "w8a16")
    assert quantization.float_type == "bf16"


def test_a_model_without_any_8_bit_layer_is_refused(
    prm: LoadedPRM, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gate(monkeypatch, mean_difference=0.0)
    message = r"can have w8a16: .* alone, .*: layers\.\d \(.*--precision bf16"
    with pytest.raises(ExportError, match=message):
        choose_gpu_linears(prm, reference, "w8a16")


def test_an_artifact_in_w8a16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder to a verified artifact whose graph holds int8 weights."""
    _gate(monkeypatch, mean_difference=0.5)
    monkeypatch.setattr(gate, "GATE", replace(gate.GATE, num_trajectories=1))
    monkeypatch.setattr(artifact_writer, "check_parity", lambda *arguments: None)
    traces = tmp_path / "traces.jsonl"
    rows = [{"question": trace.question, "steps": trace.steps} for trace in TRACES]
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_published_prm(tmp_path / "prm", "llama", max_positions=512)
    manifest = export_artifact(
        tmp_path / "prm", tmp_path / "artifact", precision="w8a16", verify_traces=traces
    )
    assert manifest == read_manifest(tmp_path / "artifact")
    assert manifest.parity is not None
    assert manifest.parity.measured_on.endswith("linears in w8a16, every result rounded to fp16")
    model = onnx.load(tmp_path / "artifact" / "model.onnx", load_external_data=False)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    in_8_bits = [record.name for record in manifest.products if record.bits == 8]
    assert in_8_bits
    assert {types[f"{name}.weight"] for name in in_8_bits} == {onnx.TensorProto.INT8}
    assert types["score.0.weight"] == onnx.TensorProto.FLOAT
    with pytest.raises(Exception, match=r"in w8a16, which is for GPUs: .*--precision fp32"):
        Scorer.load(tmp_path / "artifact")


def test_8_bits_need_verification(tmp_path: Path) -> None:
    save_published_prm(tmp_path / "prm", "qwen2")
    with pytest.raises(ExportError, match=r"--precision fp8 chooses the linear layers .*bf16"):
        export_artifact(tmp_path / "prm", tmp_path / "a", precision="fp8", verify=False)
    assert not (tmp_path / "a").exists()


def test_quantised_graphs_compute_with_the_dequantised_weights(
    prm: LoadedPRM, tmp_path: Path
) -> None:
    """A graph in fp8 equals a graph with the dequantised weights."""
    rounded = dict(prm.weights)
    for name, array in prm.weights.items():
        if ".layers." in name and name.endswith("proj.weight"):
            rounded[name] = array * 0
    for weights, label in ((prm.weights, "some"), (rounded, "zero")):
        write_graph(
            tmp_path / f"{label}.onnx",
            prm.manifest,
            weights,
            attention="standard",
            quantization=Quantization("fp8", largest_inputs=largest_inputs(prm, TRACES)),
        )
    exact = verify.all_scores(score_by_reference(prm, TRACES[:4])[1])
    difference = {}
    for label in ("some", "zero"):
        backend = OnnxBackend(tmp_path / f"{label}.onnx", prm.manifest)
        with scorer_over(prm, backend) as scorer:
            scores = verify.all_scores(scorer.score_batch(TRACES[:4]))
        difference[label] = np.abs(scores - exact).mean()
    assert difference["some"] < 0.02
    assert difference["zero"] > 5 * difference["some"]
