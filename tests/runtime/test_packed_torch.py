"""Rows packed end to end, each after its own past, give what each row gives alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import load_prm
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.reference import scorer_over
from rfprm_runtime.backends.packed_torch import PackedTorchBackend, TorchPast
from rfprm_runtime.backends.packed_torch.forward import PassOutputs
from rfprm_runtime.backends.packed_torch.graphs import Launch, PassGraphs
from rfprm_runtime.backends.packed_torch.plan import PassShape
from rfprm_runtime.backends.packed_torch.weights import pack_weights
from rfprm_runtime.backends.torch import TorchBackend, build_network
from rfprm_runtime.engine.rows import Extension, TokenBatch
from rfprm_runtime.errors import BackendError, InvalidArgumentError
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import Trajectory
from tiny_models import save_published_prm

BACKBONES: dict[str, dict[str, Any]] = {
    "llama": {"kind": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen2": {"kind": "qwen2", "num_heads": 4, "num_kv_heads": 1},
    "qwen3": {"kind": "qwen3", "num_heads": 4, "num_kv_heads": 2},
}


def _prm(folder: Path, name: str = "qwen2") -> LoadedPRM:
    save_published_prm(folder, **BACKBONES[name], max_positions=512)
    return load_prm(folder)


def _network(prm: LoadedPRM) -> Any:
    return build_network(prm.manifest.backbone, prm.manifest.head, prm.weights)


def _packed(prm: LoadedPRM, **options: Any) -> PackedTorchBackend:
    return PackedTorchBackend(_network(prm), device="cpu", **options)


def _alone(prm: LoadedPRM, ids: np.ndarray, markers: list[int]) -> np.ndarray:
    batch = TokenBatch(ids[None], np.array([len(ids)]), np.array(markers))
    return TorchBackend(_network(prm), device="cpu").run(batch)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("name", BACKBONES)
def test_packed_rows_give_what_each_gives_alone(name: str, device: str, tmp_path: Path) -> None:
    prm = _prm(tmp_path, name)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 200, size) for size in (50, 7, 31)]
    markers = [[3, 49], [0, 6], [30]]
    items = [Extension(ids, np.array(m)) for ids, m in zip(rows, markers, strict=True)]
    backend = PackedTorchBackend(_network(prm), device=device)
    for extended, ids, places in zip(backend.extend(items), rows, markers, strict=True):
        np.testing.assert_allclose(extended.logits, _alone(prm, ids, places), atol=2e-5)
        assert extended.past is None


@pytest.mark.parametrize("name", BACKBONES)
def test_rows_continue_from_pasts_of_any_length(name: str, tmp_path: Path) -> None:
    prm = _prm(tmp_path, name)
    backend = _packed(prm)
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 200, 60)
    (first,) = backend.extend([Extension(ids[:20], np.array([19]), keep=True)])
    (second,) = backend.extend([Extension(ids[20:33], np.array([12]), first.past, keep=True)])
    other = rng.integers(0, 200, 9)
    third, branch, fresh = backend.extend(
        [
            Extension(ids[33:], np.array([0, 26]), second.past),
            Extension(other, np.array([8]), first.past),  # from further up
            Extension(other, np.array([8])),  # from nothing
        ]
    )
    np.testing.assert_allclose(third.logits, _alone(prm, ids, [33, 59]), atol=2e-5)
    both = np.concatenate([ids[:20], other])
    np.testing.assert_allclose(branch.logits, _alone(prm, both, [28]), atol=2e-5)
    np.testing.assert_allclose(fresh.logits, _alone(prm, other, [8]), atol=2e-5)


def test_pasts_share_the_memory_of_what_they_have_in_common(tmp_path: Path) -> None:
    prm = _prm(tmp_path)
    backend, shape = _packed(prm), prm.manifest.backbone
    ids = np.arange(30)
    (first,) = backend.extend([Extension(ids[:20], np.array([19]), keep=True)])
    left, right = backend.extend(
        [Extension(ids[20:], np.array([9]), first.past, keep=True) for _ in range(2)]
    )
    assert isinstance(left.past, TorchPast)
    assert isinstance(right.past, TorchPast)
    assert left.past.num_tokens == 30
    assert left.past.blocks[0] is right.past.blocks[0]
    a_token = shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim * 4
    assert [block.num_bytes for block in left.past.blocks] == [20 * a_token, 10 * a_token]


def test_sessions_and_batches_through_the_scorer(tmp_path: Path) -> None:
    prm = _prm(tmp_path)
    question, steps = "What is 2 + 3?", ["Two and three.", "That is 5.", "So 5."]
    traces = [Trajectory.build(question=question, steps=steps[:count]) for count in (1, 2, 3, 3)]
    with scorer_over(prm, TorchBackend(_network(prm), device="cpu")) as scorer:
        expected = scorer.score_batch(traces)
    with scorer_over(prm, _packed(prm)) as scorer:
        assert scorer._engine.keeps_pasts
        found = scorer.score_batch(traces)
        session = scorer.session(question)
        step_scores = [float(session.extend([step])[0]) for step in steps]
        assert scorer.session_bytes > 0
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.step_scores, b.step_scores, atol=1e-5)
    np.testing.assert_allclose(step_scores, expected[2].step_scores, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_bits_change_scores_a_little(dtype: Any, tmp_path: Path) -> None:
    prm = _prm(tmp_path)
    traces = [Trajectory.build(question="2 + 3?", steps=["Two.", "Three.", "5."])]
    with scorer_over(prm, _packed(prm)) as scorer:
        exact = scorer.score_batch(traces)[0].step_scores
    with scorer_over(prm, _packed(prm, dtype=dtype)) as scorer:
        assert scorer.backend_description.endswith(f"{dtype}, packed")
        rounded = scorer.score_batch(traces)[0].step_scores
    assert 0 < np.abs(rounded - exact).max() < 0.05
    network = _network(prm)
    kept = pack_weights(network, torch.device("cpu"), getattr(torch, dtype))
    # The norm and the head keep their bits, as in exported graphs.
    assert torch.equal(kept.norm.weight, network.model.norm.weight)
    assert kept.layers[0].down.weight.dtype == getattr(torch, dtype)


def test_an_artifact_is_opened_packed_on_request(tmp_path: Path) -> None:
    _prm(tmp_path / "prm")
    export_artifact(tmp_path / "prm", tmp_path / "artifact", format="torch")
    with Scorer.load(tmp_path / "artifact", device="cpu") as plain:
        expected = plain.score("2 + 3?", ["Two.", "5."]).step_scores
        assert "packed" not in plain.backend_description
    for packed in ("yes", "False", 1):
        with pytest.raises(InvalidArgumentError, match=r"packed is .*expected True or False"):
            Scorer.load(tmp_path / "artifact", packed=packed)
    with Scorer.load(tmp_path / "artifact", device=torch.device("cpu"), packed=True) as packed:
        found = packed.score("2 + 3?", ["Two.", "5."]).step_scores
        assert packed.backend_description.endswith("cpu, packed")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_misuse_is_named(tmp_path: Path) -> None:
    prm = _prm(tmp_path)
    with pytest.raises(InvalidArgumentError, match=r"dtype is 'fp8', expected one of"):
        _packed(prm, dtype="fp8")
    for device in ("gpu0", 3, ["cpu"]):
        with pytest.raises(InvalidArgumentError, match=r"expected a name that torch knows"):
            _packed(prm).__class__(_network(prm), device=device)
    for tokens in (0, "abc", 1.5, True):
        with pytest.raises(InvalidArgumentError, match=r"max_batch_tokens is .*whole number"):
            _packed(prm, max_batch_tokens=tokens)
    with pytest.raises(
        BackendError, match=r"(?s)cannot move the network to cuda:9.*ask for another"
    ):
        TorchBackend(_network(prm), device="cuda:9")
    backend = _packed(prm)
    foreign: Any = object.__new__(type("Foreign", (), {"num_tokens": 3, "blocks": ()}))
    with pytest.raises(BackendError, match="past of type Foreign, expected one that this backend"):
        backend.extend([Extension(np.arange(3), np.array([2]), foreign)])
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.extend([Extension(np.arange(3), np.array([2]))])


def _as_graphs(backend: PackedTorchBackend, **options: Any) -> PassGraphs:
    """Passes of ``backend`` as graphs, captured by a stand-in that runs the launches again and
    writes what they return where the first outputs were, as a CUDA graph does."""

    def capture(launch: Launch) -> tuple[Callable[[], None], PassOutputs]:
        outputs = launch()

        def replay() -> None:
            again = launch()
            outputs.logits.copy_(again.logits)
            if outputs.kept is not None and again.kept is not None:
                outputs.kept.copy_(again.kept)

        return replay, outputs

    backend._graphs = PassGraphs(backend._launch, torch.device("cpu"), capture=capture, **options)
    return backend._graphs


def test_a_pass_padded_to_the_shape_of_a_graph_gives_the_same(tmp_path: Path) -> None:
    prm = _prm(tmp_path)
    backend, plain = _packed(prm), _packed(prm)
    graphs = _as_graphs(backend)
    rng = np.random.default_rng(4)
    for turn in range(4):
        sizes = (50 - turn, 7, 31 + turn)
        ids = [rng.integers(0, 200, size) for size in sizes]
        first = [Extension(x, np.array([len(x) - 1]), keep=i != 1) for i, x in enumerate(ids)]
        pasts: list[list[Any]] = []
        for one in (backend, plain):
            opened = one.extend(first)
            new = np.arange(9 + turn)
            second = [Extension(new, np.array([3, 8]), x.past) for x in opened]
            pasts.append([*opened, *one.extend(second), *one.extend(second[1:])])
        for found, expected in zip(*pasts, strict=True):
            np.testing.assert_allclose(found.logits, expected.logits, atol=2e-5)
            assert (found.past is None) == (expected.past is None)
            if found.past is not None:
                for a, b in zip(found.past.blocks, expected.past.blocks, strict=True):
                    assert torch.allclose(a.content, b.content, atol=2e-5)
    assert 0 < len(graphs._captured) < 12  # passes, of fewer shapes once they are rounded up


def test_what_a_graph_returned_outlives_the_next_pass(tmp_path: Path) -> None:
    backend = _packed(_prm(tmp_path))
    _as_graphs(backend)
    found = [
        backend.extend([Extension(np.full(20, token), np.array([19]), keep=True)])[0]
        for token in (5, 6, 7, 8)
    ]
    contents = [extended.past.blocks[0].content for extended in found]  # type: ignore[union-attr]
    assert len({tuple(extended.logits[0]) for extended in found}) == 4
    assert not any(torch.equal(contents[0], other) for other in contents[1:])


def test_long_pasts_and_old_shapes_are_no_graphs(tmp_path: Path) -> None:
    prm = _prm(tmp_path)
    backend = _packed(prm)
    graphs = _as_graphs(backend, max_past_bytes=0)
    item = Extension(np.arange(20), np.array([19]), keep=True)
    for _ in range(3):
        (opened,) = backend.extend([item])
        backend.extend([Extension(np.arange(4), np.array([3]), opened.past)])
    assert [shape.past_tokens for shape in graphs._captured] == [0]


def test_a_shape_has_room_for_what_it_was_rounded_up_from() -> None:
    rng = np.random.default_rng(5)
    for sizes in rng.integers(1, 5000, (200, 8)).tolist():
        exact = PassShape(*sizes)
        room = exact.rounded_up()
        assert all(a <= b for a, b in zip(exact.sections, room.sections, strict=True))
        assert room.tokens <= 1.13 * exact.tokens + 8
        assert room.rounded_up() == room
    empty = PassShape(40, 2, 3, kept=0, past_tokens=0, keys=0, longest_query=30, longest_key=30)
    assert (empty.rounded_up().kept, empty.rounded_up().keys) == (0, 0)


def test_fused_operations_match_the_plain_ones() -> None:
    """In Triton's interpreter, which needs no GPU; benchmarks.gpu compares them on one."""
    pytest.importorskip(
        "triton", reason="Triton, which CPU builds of torch come without, is absent"
    )
    found = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).parent.parent / "fused_operations.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["add_norm", "rotate_heads", "swiglu"]
