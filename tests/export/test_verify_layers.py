"""A model in parts gives the scores of the whole one, and weights are read one after another."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_export import ExportError, artifact_writer, eight_bit_linears, graph_parts, linear_choice
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import load_prm
from rfprm_export.gate import Gate
from rfprm_export.graph import write_graph
from rfprm_export.in_parts import ending, scorer_in_parts
from rfprm_export.largest_inputs import largest_inputs
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.native_file import write_native
from rfprm_export.panels import linear_names
from rfprm_export.qwen2_layout import write_qwen2_layout
from rfprm_export.reference import score_by_reference, scorer_over
from rfprm_export.stored_weights import Stored, StoredWeights
from rfprm_runtime import BackendError, Trajectory
from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import NATIVE_NAME, Manifest
from rfprm_runtime.backends.native.backend import NativeBackend
from rfprm_runtime.backends.native.layered import LayeredNative
from rfprm_runtime.backends.native.library import available_variants
from rfprm_runtime.backends.native.model_file import NativeModel
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.rows import TokenRow, pad_batch, rows_of
from rfprm_runtime.errors import ArtifactError
from tiny_models import SCALED, byte_tokenizer, save_published_prm, tiny_manifest

TRACES = [
    Trajectory(question="1 + 1?", steps=["1 + 1 = 2", "so it is 2", "yes"]),
    Trajectory(question="What is it?", steps=["It is long: " + "a b c " * 20, "and ends"]),
    Trajectory(question="Windows?", steps=[f"step {i} " * 12 for i in range(12)]),
]
needs_kernels = pytest.mark.skipif(
    not available_variants(), reason="the package was built without a C compiler"
)
_PART_BYTES = 60_000
"""Less than a layer of the tiny models has."""


@pytest.fixture
def beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is too large for its weights to be kept, and graphs are cut in many parts."""
    monkeypatch.setattr("rfprm_export.stored_weights._KEPT_BYTES", 0)
    monkeypatch.setattr(graph_parts, "PART_BYTES", _PART_BYTES)


@pytest.fixture
def one_trace(tmp_path: Path) -> Path:
    path = tmp_path / "traces.jsonl"
    path.write_text(TRACES[0].model_dump_json() + "\n", encoding="utf-8")
    return path


def _rows(manifest: Manifest, lengths: Sequence[int]) -> list[TokenRow]:
    rng, vocab_size = np.random.default_rng(1), manifest.backbone.vocab_size
    return [
        TokenRow(rng.integers(0, vocab_size, n), np.array(sorted({0, n // 3, n - 1})))
        for n in lengths
    ]


def test_a_batch_falls_into_the_rows_it_was_padded_from() -> None:
    rows = _rows(tiny_manifest(byte_tokenizer()), (3, 1, 9))
    rows.insert(1, TokenRow(np.array([5, 6]), np.array([], np.int64)))
    for found, expected in zip(rows_of(pad_batch(rows)), rows, strict=True):
        np.testing.assert_array_equal(found.token_ids, expected.token_ids)
        np.testing.assert_array_equal(found.marker_positions, expected.marker_positions)


@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "qwen2", "num_heads": 4, "num_kv_heads": 1},
        {"kind": "qwen3", "num_heads": 4, "num_kv_heads": 2},
        {"kind": "llama", "attention_bias": True, "mlp_bias": True},
        {"kind": "llama", "rope_scaling": SCALED["llama3"]},
    ],
    ids=["qwen2", "qwen3", "biases", "llama-3.1"],
)
def test_every_form_in_parts_gives_the_scores_of_the_whole(
    kind: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_published_prm(tmp_path / "model", **kind)
    prm = load_prm(tmp_path / "model")
    _check_native(prm, tmp_path)
    monkeypatch.setattr(graph_parts, "PART_BYTES", _PART_BYTES)
    _check_graphs(prm, tmp_path)
    _check_reference(prm, tmp_path / "model", monkeypatch)


def _check_native(prm: LoadedPRM, folder: Path) -> None:
    """To the bit, alone and together, also with some linears in 8 bits."""
    manifest, rows = prm.manifest, _rows(prm.manifest, (1, 65, 7, 200, 64, 255))
    names = linear_names(manifest.backbone)
    paths = [folder / "16-bit.safetensors", folder / "8-bit.safetensors"]
    for path, in_8_bits in zip(paths, ([], names), strict=True):
        write_native(path, manifest.backbone, manifest.head, prm.weights, in_8_bits=in_8_bits)
    for variant in available_variants():
        whole = NativeBackend(paths[0], manifest, kernels=variant)
        layered = LayeredNative(ModelFile.of(paths[0]), manifest, kernels=variant)
        later = [[names[0]], [names[-1]], [names[-2]], names[:5], [], names[-3:]]
        for chosen in ([], names[1::3], names, *later):
            whole.take_linears(NativeModel(paths[1], manifest), chosen)
            layered.take_linears(ModelFile.of(paths[1]), chosen)
            alone = [whole.run(pad_batch([row])) for row in rows]
            np.testing.assert_array_equal(layered.run(pad_batch(rows)), np.concatenate(alone))
            np.testing.assert_array_equal(layered.run(pad_batch(rows[3:4])), alone[3])


def test_a_run_with_other_linears_in_later_layers_begins_there(tmp_path: Path) -> None:
    save_published_prm(tmp_path / "model", kind="qwen2")
    prm = load_prm(tmp_path / "model")
    manifest, names = prm.manifest, linear_names(prm.manifest.backbone)
    paths = [tmp_path / "16-bit.safetensors", tmp_path / "8-bit.safetensors"]
    for path, in_8_bits in zip(paths, ([], names), strict=True):
        write_native(path, manifest.backbone, manifest.head, prm.weights, in_8_bits=in_8_bits)
    reached: list[int] = []
    walk = Walk(lambda done, total: reached.append(done))
    layered = LayeredNative(ModelFile.of(paths[0]), manifest, walk=walk)
    batches = [pad_batch(_rows(manifest, lengths)) for lengths in ((9, 30), (30, 9))]
    count = manifest.backbone.num_layers

    def layers_run(batch: int, changed: list[str]) -> list[int]:
        reached.clear()
        layered.take_linears(ModelFile.of(paths[1]), changed)
        layered.run(batches[batch])
        return list(reached)

    everything, last = list(range(1, count + 1)), [count]
    assert layers_run(0, [names[-1]]) == everything
    assert layers_run(0, [names[-2]]) == last
    assert layers_run(0, []) == last
    assert layers_run(1, [names[-1]]) == everything, "another batch"
    assert layers_run(1, [names[0]]) == everything, "an earlier layer"


def _check_graphs(prm: LoadedPRM, folder: Path) -> None:
    manifest, rows = prm.manifest, _rows(prm.manifest, (1, 65, 7, 200))
    path = folder / "model.onnx"
    kinds: list[dict[str, Any]] = [
        {"attention": "group_query"},
        {"attention": "standard"},
        {"attention": "standard", "float_type": "bf16", "emulated": True},
    ]
    for options in kinds:
        write_graph(path, manifest, prm.weights, **options)
        whole = OnnxBackend(path, manifest, provider="cpu")
        reached: list[tuple[int, int]] = []
        walk = Walk(lambda done, total, reached=reached: reached.append((done, total)))
        parts = graph_parts.OnnxInParts(ModelFile.of(path), manifest, walk)
        expected = np.concatenate([whole.run(pad_batch([row])) for row in rows])
        np.testing.assert_allclose(parts.run(pad_batch(rows)), expected, atol=1e-6)
        assert [done for done, _ in reached] == list(range(1, reached[0][1] + 1))
        assert len(reached) > manifest.backbone.num_layers


def _check_reference(prm: LoadedPRM, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = score_by_reference(prm, TRACES)
    monkeypatch.setattr("rfprm_export.stored_weights._KEPT_BYTES", 0)
    told: list[tuple[str, int, int]] = []
    description, found = score_by_reference(
        load_prm(folder), TRACES, lambda *step: told.append(step)
    )
    assert description.endswith("a layer at a time")
    assert told == [("reference network, layer", done, 3) for done in (1, 2, 3)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.step_scores, theirs.step_scores, atol=1e-6)
        assert ours.windowed_from == theirs.windowed_from
    assert found[2].windowed_from is not None


def test_a_part_of_one_node_may_be_larger_than_allowed(
    published_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prm = load_prm(published_prm)
    write_graph(tmp_path / "g", prm.manifest, prm.weights, float_type="bf16", emulated=True)
    monkeypatch.setattr(graph_parts, "PART_BYTES", 1)
    parts = graph_parts.OnnxInParts(ModelFile.of(tmp_path / "g"), prm.manifest)
    whole = OnnxBackend(tmp_path / "g", prm.manifest, provider="cpu")
    batch = pad_batch(_rows(prm.manifest, (9,)))
    np.testing.assert_allclose(parts.run(batch), whole.run(batch), atol=1e-6)


def test_inputs_are_watched_in_parts_as_in_the_whole(
    published_prm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prm = load_prm(published_prm)
    whole = largest_inputs(prm, TRACES)
    monkeypatch.setattr(graph_parts, "PART_BYTES", _PART_BYTES)
    assert largest_inputs(prm, TRACES) == pytest.approx(whole, rel=1e-6)
    assert len(whole) == 1 * 2 + 4 * prm.manifest.backbone.num_layers


@pytest.mark.usefixtures("beyond_memory")
@pytest.mark.parametrize(
    ("format", "measured_on"), [("onnx", "in parts"), ("torch", "a layer at a time")]
)
def test_an_export_beyond_memory_is_verified_in_parts(
    format: Any, measured_on: str, published_prm: Path, tmp_path: Path, one_trace: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    parity = export_artifact(
        published_prm,
        tmp_path / "out",
        verify_traces=one_trace,
        format=format,
        progress=lambda *step: told.append(step),
    ).parity
    assert parity is not None
    assert parity.reference.endswith("a layer at a time")
    assert parity.measured_on.endswith(measured_on)
    assert parity.max_difference < 1e-4
    stages = list(dict.fromkeys(name for name, _, _ in told))
    assert stages[:2] == ["opening the model", "reference network, layer"]
    assert stages[2].startswith("writing ")
    assert stages[3:] == ["digest of tensor", "exported model, layer or part"]


@needs_kernels
@pytest.mark.usefixtures("beyond_memory")
def test_int8_is_chosen_in_parts_as_in_the_whole(
    published_prm: Path, tmp_path: Path, one_trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(num_trajectories=1, spearman=-1.0, mean_difference=3e-4, same_best_of_4=-1.0)
    monkeypatch.setattr(linear_choice, "STRICT_GATE", gate)
    monkeypatch.setattr("rfprm_export.verify.groups_of_4", lambda traces: [[0]])
    monkeypatch.setattr("rfprm_export.gate.GATE", gate)
    chosen = []
    for is_large in (True, False):
        monkeypatch.setattr(eight_bit_linears, "stay_in_files", lambda _, found=is_large: found)
        monkeypatch.setattr(artifact_writer, "stay_in_files", lambda _, found=is_large: found)
        manifest = export_artifact(
            published_prm, tmp_path / "o", precision="int8", verify_traces=one_trace, overwrite=True
        )
        assert manifest.parity is not None
        assert manifest.parity.measured_on.endswith("a layer at a time") is is_large
        chosen.append(manifest.products)
    assert chosen[0] == chosen[1]
    assert {linear.bits for linear in chosen[0]} == {8, 16}


class _Alive:
    """How many bytes of weights that were read are still in memory, and the most that ever were."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def watched(self, weights: StoredWeights) -> StoredWeights:
        def reading(stored: Stored) -> Stored:
            def read() -> Any:
                array = np.array(stored.read())  # owns its memory, so that its end is its end
                self.now += array.nbytes
                self.most = max(self.most, self.now)
                weakref.finalize(array, self._forget, array.nbytes)
                return array

            return Stored(stored.shape, read)

        return StoredWeights({name: reading(one) for name, one in weights.stored.items()})

    def _forget(self, num_bytes: int) -> None:
        self.now -= num_bytes


@needs_kernels
@pytest.mark.usefixtures("beyond_memory")
@pytest.mark.parametrize("form", ["onnx", "native", "torch", "qwen2 layout"])
def test_no_export_holds_more_than_a_layer(
    form: Any, published_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, prm = _Alive(), load_prm(published_prm)
    assert isinstance(prm.weights, StoredWeights)
    sizes = {name: 4 * int(np.prod(one.shape)) for name, one in prm.weights.stored.items()}
    layer = sum(size for name, size in sizes.items() if name.startswith("model.layers.0."))
    head = sum(size for name, size in sizes.items() if name.startswith(("score.", "model.norm.")))
    watched = LoadedPRM(prm.manifest, alive.watched(prm.weights), prm.tokenizer)
    if form == "qwen2 layout":
        write_qwen2_layout(watched, tmp_path / "out")
    else:
        traces = tmp_path / "traces.jsonl"
        lines = [trace.model_dump_json() + "\n" for trace in TRACES]
        traces.write_text("".join(lines), encoding="utf-8")
        gate = Gate(num_trajectories=1, spearman=-1.0, mean_difference=1.0)
        monkeypatch.setattr("rfprm_export.gate.GATE", gate)
        monkeypatch.setattr(artifact_writer, "check_parity", lambda *given: None)
        monkeypatch.setattr(artifact_writer, "load_prm", lambda *given, **named: watched)
        precision: Any = "int16" if form == "native" else "fp32"
        export_artifact(
            published_prm, tmp_path / "out", format=form, precision=precision, verify_traces=traces
        )
    assert 0 < alive.most <= max(sizes["model.embed_tokens.weight"], layer) + head
    assert alive.now == 0


@pytest.mark.usefixtures("beyond_memory")
def test_files_that_change_during_verification_are_noticed(
    published_prm: Path, tmp_path: Path, one_trace: Path
) -> None:
    folder = shutil.copytree(published_prm, tmp_path / "model")
    prm = load_prm(folder)
    _append(folder / "model.safetensors")
    with pytest.raises(ExportError, match="was changed while it was read"):
        score_by_reference(prm, TRACES)
    _check_changed_output(published_prm, tmp_path, one_trace)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


def _check_changed_output(checkpoint: Path, folder: Path, traces: Path) -> None:
    formats: list[Any] = ["onnx", "torch"]
    for format in formats:
        output = folder / format
        manifest = export_artifact(checkpoint, output, format=format, verify_traces=traces)
        largest = max(output.iterdir(), key=lambda path: path.stat().st_size)
        walk = Walk(lambda done, total, path=largest: _append(path))
        with (
            pytest.raises(ArtifactError, match="was changed while it was in use"),
            scorer_in_parts(output, manifest, walk) as scorer,
        ):
            scorer.score_batch(TRACES, overflow="window")
        with (
            pytest.raises(ArtifactError, match=r"has \d+ bytes, the manifest says"),
            scorer_in_parts(output, manifest, Walk()),
        ):
            pass


@needs_kernels
def test_ctrl_c_ends_a_run_in_parts(published_prm: Path, tmp_path: Path) -> None:
    """Closing waits for a pass, so the pass must end soon."""
    prm, reached = load_prm(published_prm), []
    path = tmp_path / NATIVE_NAME
    write_native(path, prm.manifest.backbone, prm.manifest.head, prm.weights)

    def at_the_first_layer(done: int, total: int) -> None:
        reached.append(done)
        walk.give_up()  # as leaving the block does

    walk = Walk(at_the_first_layer)
    layered = LayeredNative(ModelFile.of(path), prm.manifest, walk=walk)
    with (
        pytest.raises(BackendError, match="the run was given up"),
        ending(scorer_over(prm, layered), walk) as scorer,
    ):
        scorer.score_batch(TRACES, overflow="window")
    assert reached == [1]
    fresh = Walk()
    with (
        pytest.raises(KeyboardInterrupt),
        ending(scorer_over(prm, LayeredNative(ModelFile.of(path), prm.manifest)), fresh),
    ):
        raise KeyboardInterrupt
    with pytest.raises(BackendError, match="the run was given up"):
        fresh.check()
