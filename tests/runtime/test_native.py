"""The native kernels: close to the reference network, with bits that depend on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfprm_export import ExportError
from rfprm_export.checkpoint import load_prm
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.native_file import write_native
from rfprm_export.panels import MAX_8_BIT_WEIGHT, MAX_WEIGHT, linear_names, linear_panels
from rfprm_export.reference import scorer_over
from rfprm_runtime import BackendError, Scorer, Trajectory
from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import Backbone, Head, Manifest
from rfprm_runtime.artifact.tensors import read_tensors
from rfprm_runtime.backends.native.backend import NativeBackend, split_evenly
from rfprm_runtime.backends.native.library import available_variants
from rfprm_runtime.backends.native.model_file import NativeModel
from rfprm_runtime.backends.native.pages import Workspace
from rfprm_runtime.backends.torch import TorchBackend, build_network
from rfprm_runtime.engine.rows import Extension, Past, TokenBatch
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from tiny_models import SCALED, byte_tokenizer, random_weights, save_published_prm, tiny_manifest

pytestmark = pytest.mark.skipif(
    not available_variants(), reason="the package was built without a C compiler"
)
BACKBONES = {
    "llama": {"kind": "llama", "num_heads": 4, "num_kv_heads": 4},
    "llama-gqa-3": {"kind": "llama", "num_heads": 3, "num_kv_heads": 1, "rope_theta": 500_000.0},
    "llama-biases": {"kind": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-heads-of-80": {"kind": "llama", "num_heads": 2, "num_kv_heads": 1, "head_dim": 80},
    "qwen2": {"kind": "qwen2", "num_heads": 4, "num_kv_heads": 1},
    "qwen2-heads-of-128": {"kind": "qwen2", "num_heads": 7, "num_kv_heads": 1, "head_dim": 128},
    "qwen3": {"kind": "qwen3", "num_heads": 4, "num_kv_heads": 2},
    "llama-3.1": {"kind": "llama", "rope_scaling": SCALED["llama3"]},
    "qwen2-yarn": {"kind": "qwen2", "rope_scaling": SCALED["yarn"]},
}


def _row(ids: np.ndarray, markers: list[int]) -> TokenBatch:
    return TokenBatch(ids[None], np.array([len(ids)]), np.array(markers))


def _rounded(weights: dict[str, np.ndarray], most: int = MAX_WEIGHT) -> dict[str, np.ndarray]:
    """Weights as the native file holds them, so that only the kernels' arithmetic is compared."""
    result = dict(weights)
    for name, matrix in weights.items():
        largest = 32767 if "embed" in name else most
        if "embed" in name or "_proj.weight" in name:
            units = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(largest)
            result[name] = (np.rint(matrix / units) * units).astype(np.float32)
    return result


@pytest.mark.parametrize("name", BACKBONES)
def test_native_and_reference_agree(name: str, tmp_path: Path) -> None:
    save_published_prm(tmp_path, max_positions=1024, **BACKBONES[name])
    prm = load_prm(tmp_path)
    manifest = prm.manifest
    path = tmp_path / "native.safetensors"
    write_native(path, manifest.backbone, manifest.head, prm.weights)
    network = build_network(manifest.backbone, manifest.head, _rounded(prm.weights))
    rng = np.random.default_rng(0)
    lengths = [1, 5, 63, 64, 65, 200, 512, 600]
    for variant in available_variants():
        native = NativeBackend(path, manifest, num_threads=2, kernels=variant)
        for length in lengths:
            ids = rng.integers(0, manifest.backbone.vocab_size, length)
            batch = _row(ids, sorted({0, length // 3, length - 1}))
            theirs = TorchBackend(network, device="cpu").run(batch)
            ours = native.run(batch)
            # What is left is the rounding of activations, to 14 bits or more.
            assert np.abs(ours - theirs).max() <= 2e-3, f"{variant}, {length} tokens"
            assert (native.run(batch, threads=2) == ours).all()
        native.close()


@pytest.mark.parametrize("name", BACKBONES)
def test_8_bit_linears_agree_with_the_reference(name: str, tmp_path: Path) -> None:
    save_published_prm(tmp_path, **BACKBONES[name])
    prm = load_prm(tmp_path)
    manifest = prm.manifest
    path = tmp_path / "native.safetensors"
    names = linear_names(manifest.backbone)
    write_native(path, manifest.backbone, manifest.head, prm.weights, in_8_bits=names)
    network = build_network(
        manifest.backbone, manifest.head, _rounded(prm.weights, MAX_8_BIT_WEIGHT)
    )
    ids = np.random.default_rng(0).integers(0, manifest.backbone.vocab_size, 200)
    batch = _row(ids, [0, 66, 100, 199])
    theirs = TorchBackend(network, device="cpu").run(batch)
    found = []
    for variant in available_variants():
        native = NativeBackend(path, manifest, num_threads=2, kernels=variant)
        found.append(native.run(batch))
        assert (native.run(batch, threads=2) == found[-1]).all()
        native.close()
    # 7 bits of activations are rough, but integer sums are exact, so all kernels are close.
    assert np.abs(found[0] - theirs).max() <= 0.1 * np.abs(theirs).max()
    for ours in found[1:]:
        assert np.abs(ours - found[0]).max() <= 0.02 * np.abs(theirs).max()


TWINS = [("avx512amx", "avx512vnni"), ("avxvnni", "avx2")]
"""Kernels with the same vectors, whose products only take other instructions."""


@pytest.mark.parametrize(("kernels", "others"), TWINS)
@pytest.mark.parametrize("bits", [16, 8])
def test_kernels_that_multiply_otherwise_have_the_same_bits(
    kernels: str, others: str, bits: int, tmp_path: Path
) -> None:
    """On the processor itself; test_emulated_kernels.py does it everywhere."""
    if kernels not in available_variants():
        pytest.skip(f"this processor cannot run the {kernels} kernels")
    save_published_prm(tmp_path, max_positions=1024, **BACKBONES["llama"])
    prm = load_prm(tmp_path)
    manifest = prm.manifest
    path = tmp_path / "native.safetensors"
    names = linear_names(manifest.backbone) if bits == 8 else []
    write_native(path, manifest.backbone, manifest.head, prm.weights, in_8_bits=names)
    rng = np.random.default_rng(0)
    ours, theirs = (
        NativeBackend(path, manifest, num_threads=2, kernels=k) for k in (kernels, others)
    )
    # Whole blocks of rows, rests of them, more than one page, more rows than go through at once.
    for length in (1, 7, 8, 9, 15, 16, 17, 64, 65, 130, 513, 700):
        ids = rng.integers(0, manifest.backbone.vocab_size, length)
        batch = _row(ids, sorted({0, length // 2, length - 1}))
        assert (ours.run(batch) == theirs.run(batch)).all(), f"{length} tokens"
        assert (ours.run(batch, threads=2) == theirs.run(batch)).all(), f"{length} tokens"
    for backend in (ours, theirs):
        backend.close()


def test_linears_are_switched_between_two_models(
    model_file: tuple[Path, Manifest], tmp_path: Path
) -> None:
    manifest = model_file[1]
    names = linear_names(manifest.backbone)
    weights = random_weights(manifest)
    chosen = names[1::3]
    shapes = manifest.backbone, manifest.head, weights
    files = {
        kind: write_native(tmp_path / kind, *shapes, in_8_bits=in_8_bits)
        for kind, in_8_bits in {"16": [], "8": names, "mixed": chosen}.items()
    }
    batch = _row(np.arange(70) % manifest.backbone.vocab_size, [3, 69])
    own, mixed = (NativeBackend(files[kind], manifest) for kind in ("16", "mixed"))
    before = own.run(batch)
    in_8_bits = NativeModel(files["8"], manifest)
    own.take_linears(in_8_bits, chosen)
    assert (own.run(batch) == mixed.run(batch)).all()
    assert (own.run(batch) != before).any()
    own.take_linears(in_8_bits, [])
    assert (own.run(batch) == before).all()
    own.close()
    mixed.close()


@pytest.fixture(scope="module", params=["16 bits", "8 and 16 bits"])
def model_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Manifest]:
    """A random model with room for long traces, and two heads of queries to one of keys."""
    tokenizer = byte_tokenizer()
    manifest = tiny_manifest(tokenizer, max_positions=2048)
    shape = manifest.backbone.model_copy(
        update={"hidden_size": 48, "head_dim": 16, "intermediate_size": 80}
    )
    manifest = manifest.model_copy(update={"backbone": shape})
    path = tmp_path_factory.mktemp("native") / "model.native.safetensors"
    in_8_bits = linear_names(shape)[::2] if request.param.startswith("8") else []
    weights = random_weights(manifest)
    return write_native(path, shape, manifest.head, weights, in_8_bits=in_8_bits), manifest


@pytest.fixture
def backend(model_file: tuple[Path, Manifest]) -> Iterator[NativeBackend]:
    backend = NativeBackend(*model_file, num_threads=4)
    yield backend
    backend.close()


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 900),
    threads=st.integers(1, 7),
    cut=st.integers(1, 900),
    seed=st.integers(0, 2**31),
)
def test_bits_do_not_depend_on_threads_or_on_what_follows(
    model_file: tuple[Path, Manifest], length: int, threads: int, cut: int, seed: int
) -> None:
    backend = NativeBackend(*model_file, num_threads=4)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, model_file[1].backbone.vocab_size, length)
    markers = np.flatnonzero(rng.random(length) < 0.2)
    alone = backend.run(_row(ids, markers.tolist()))
    assert (backend.run(_row(ids, markers.tolist()), threads=threads) == alone).all()
    before = markers[markers < min(cut, length)]
    prefix = backend.run(_row(ids[:cut], before.tolist()))
    assert (prefix == alone[: len(before)]).all()
    backend.close()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 300), st.lists(st.integers(1, 99), max_size=5)),
        min_size=1,
        max_size=5,
    ),
    threads=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_bits_do_not_depend_on_where_a_row_was_cut_or_what_shares_the_pass(
    model_file: tuple[Path, Manifest],
    rows: list[tuple[int, int, list[int]]],
    threads: int,
    seed: int,
) -> None:
    """Rows that branch off from common stems, in pieces, all pieces of a turn in one pass."""
    backend = NativeBackend(*model_file, num_threads=4)
    rng = np.random.default_rng(seed)
    vocab = model_file[1].backbone.vocab_size
    stems = [rng.integers(0, vocab, size) for size in (0, 7, 64, 130)]
    stem_pasts: list[Past | None] = [None]
    for stem in stems[1:]:
        (extended,) = backend.extend([_piece(stem, None)], threads=threads)
        stem_pasts.append(extended.past)
    ids = [np.concatenate([stems[s], rng.integers(0, vocab, n)]) for s, n, _ in rows]
    past = [stem_pasts[s] for s, _, _ in rows]
    sizes = [iter([*cuts, 10**6]) for _, _, cuts in rows]
    found: list[list[np.ndarray]] = [[] for _ in rows]
    for _ in range(7):
        pieces, owners = [], []
        for row in range(len(rows)):
            done = past[row].num_tokens if past[row] is not None else 0
            new = ids[row][done : done + next(sizes[row], 10**6)]
            if len(new):
                pieces.append(_piece(new, past[row]))
                owners.append(row)
        if not pieces:
            break
        for row, extended in zip(owners, backend.extend(pieces, threads=threads), strict=True):
            found[row].append(extended.logits)
            past[row] = extended.past
    for row, (stem, _, _) in enumerate(rows):
        markers = list(range(len(stems[stem]), len(ids[row])))
        alone = backend.run(_row(ids[row], markers))
        assert np.concatenate(found[row]).tobytes() == alone.tobytes()
    backend.close()


def _piece(ids: np.ndarray, past: Past | None) -> Extension:
    return Extension(ids, np.arange(len(ids)), past, keep=True)


def test_branches_do_not_write_into_each_other(backend: NativeBackend) -> None:
    """Two rows continue from one half-filled page in turns; a third continues after both."""
    rng = np.random.default_rng(1)
    stem, *tails = (rng.integers(0, 200, size) for size in (70, 30, 30, 30))
    (root,) = backend.extend([_piece(stem, None)])
    pasts = [root.past] * 3
    logits: list[list[np.ndarray]] = [[], [], []]
    for begin in range(0, 30, 10):
        for branch in range(3):
            piece = _piece(tails[branch][begin : begin + 10], pasts[branch])
            (extended,) = backend.extend([piece])
            pasts[branch] = extended.past
            logits[branch].append(extended.logits)
    for branch, tail in enumerate(tails):
        whole = backend.run(_row(np.concatenate([stem, tail]), list(range(70, 100))))
        assert np.concatenate(logits[branch]).tobytes() == whole.tobytes()
    firsts = [past.blocks[0] for past in pasts if past is not None]
    assert firsts == [firsts[0]] * 3, "full pages are shared"


_WORDS = st.text("abc =+12\n", min_size=1, max_size=60).filter(str.strip)
_QUESTIONS = st.sampled_from(["What is 1 + 1, and is it more than 2?", "b?"]) | _WORDS
_TRACES = st.builds(
    lambda question, steps, response: Trajectory(
        question=question, steps=tuple(steps), response=tuple(response)
    ),
    _QUESTIONS,
    st.lists(_WORDS, min_size=1, max_size=6),
    st.lists(_WORDS, max_size=2),
)


@settings(max_examples=25, deadline=None)
@given(traces=st.lists(_TRACES, min_size=1, max_size=6), data=st.data())
def test_a_score_has_the_same_bits_alone_in_any_batch_and_in_a_session(
    model_file: tuple[Path, Manifest], traces: list[Trajectory], data: st.DataObject
) -> None:
    path, manifest = model_file

    def scorer(threads: int, mode: str, *, share_prefixes: bool = False) -> Scorer:
        encoder = TrajectoryEncoder(
            byte_tokenizer(), manifest.prompt, vocab_size=manifest.backbone.vocab_size
        )
        backend = NativeBackend(path, manifest, num_threads=threads)
        return Scorer(manifest, encoder, backend, mode=mode, share_prefixes=share_prefixes)  # type: ignore[arg-type]

    with scorer(1, "throughput") as one:
        alone = [one.score_batch([trace])[0] for trace in traces]
    order = data.draw(st.permutations(range(len(traces))))
    threads = data.draw(st.integers(1, 4))
    mode = data.draw(st.sampled_from(["auto", "throughput", "latency"]))
    with scorer(threads, mode, share_prefixes=data.draw(st.booleans())) as other:
        together = other.score_batch([traces[index] for index in order])
        sessions = [other.session(trace.question) for trace in traces]
        cuts = [data.draw(st.integers(1, len(trace.steps))) for trace in traces]
        other.extend_sessions(
            sessions, [trace.steps[:cut] for trace, cut in zip(traces, cuts, strict=True)]
        )
        grown = []
        for trace, session, cut in zip(traces, sessions, cuts, strict=True):
            fork = session.fork()
            if cut < len(trace.steps):
                fork.extend(trace.steps[cut:])
            grown.append(fork.score(trace.response))
    for score, own in zip(grown, alone, strict=True):
        assert score == own
        assert score.step_scores.tobytes() == own.step_scores.tobytes()
    for index, score in zip(order, together, strict=True):
        assert score.step_scores.tobytes() == alone[index].step_scores.tobytes()
        assert score.trajectory_score == alone[index].trajectory_score
        assert score.reward == alone[index].reward


def test_marker_rows_are_ascending_positions_of_the_row(backend: NativeBackend) -> None:
    ids = np.arange(10)
    for markers in ([3, 3], [4, 2], [-1], [10]):
        with pytest.raises(BackendError, match="expected ascending ones below 10"):
            backend.run(_row(ids, markers))
    assert backend.run(_row(ids, [])).shape == (0, 2)


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(backend: NativeBackend, bad: int) -> None:
    with pytest.raises(BackendError, match="the vocabulary has"):
        backend.run(_row(np.array([1, bad]), [1]))


def test_rows_that_do_not_fit_are_refused(backend: NativeBackend) -> None:
    with pytest.raises(BackendError, match="one row per call"):
        backend.run(TokenBatch(np.zeros((2, 4), np.int64), np.array([4, 4]), np.array([0])))
    for ids in (np.zeros(0, np.int64), np.zeros(2049, np.int64)):
        with pytest.raises(BackendError, match="expected 1 to 2048 of them"):
            backend.run(_row(ids, [0]))
    first = _tokens(2000)
    (extended,) = backend.extend([Extension(first.token_ids, first.marker_positions, keep=True)])
    with pytest.raises(BackendError, match="after 2000 tokens, expected 1 to 48"):
        backend.extend([Extension(np.zeros(49, np.int64), first.marker_positions, extended.past)])


def test_a_past_of_another_backend_is_refused(backend: NativeBackend) -> None:
    past = SimpleNamespace(num_tokens=3, blocks=())
    with pytest.raises(BackendError, match="a past of type SimpleNamespace"):
        backend.extend([Extension(np.arange(3), np.zeros(0, np.int64), past)])


def test_a_closed_backend_says_so(model_file: tuple[Path, Manifest]) -> None:
    backend = NativeBackend(*model_file)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(_row(np.arange(3), [2]))


def test_a_file_of_another_model_is_refused(
    model_file: tuple[Path, Manifest], tmp_path: Path
) -> None:
    path, manifest = model_file
    deeper = manifest.backbone.model_copy(update={"num_layers": 3})
    with pytest.raises(ArtifactError, match="expected float64 \\(3, 4\\)"):
        NativeBackend(path, manifest.model_copy(update={"backbone": deeper}))
    content = path.read_bytes()
    for name, damaged in {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "header": b"\x10" + b"\0" * 7 + b"not json at all!",
        "layout": content.replace(b"rfprm-native-2", b"rfprm-native-0", 1),
    }.items():
        broken = tmp_path / name
        broken.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="export the"):
            NativeBackend(broken, manifest)


def test_the_native_file_is_plain_safetensors(model_file: tuple[Path, Manifest]) -> None:
    from safetensors.numpy import load_file

    path = model_file[0]
    ours, metadata = read_tensors(ArtifactFiles(path.parent).read(path.name), path)
    theirs = load_file(model_file[0])
    assert metadata == {"layout": "rfprm-native-2"}
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_workspace_gives_back_what_only_a_long_run_needed() -> None:
    work = Workspace()
    kept = work.scratch([1000, 64])
    work.trim()
    assert work.scratch([500, 64])[0] == kept[0]
    work.scratch([2**25])
    pages = work.pages(32, 2**20)
    assert pages.ctypes.data % 64 == 0
    assert not pages.any()
    work.trim()
    assert len(work._scratch) == len(work._pages) == 0


def _tokens(count: int) -> Extension:
    return Extension(np.zeros(count, np.int64), np.zeros(0, np.int64))


def test_spans_cover_the_trace_and_later_ones_are_shorter() -> None:
    shape = tiny_manifest(byte_tokenizer()).backbone
    for tokens, threads in ((1, 8), (31, 4), (64, 2), (1000, 3), (8192, 16)):
        spans = split_evenly(_tokens(tokens), threads, shape)
        assert [spans[0].start, spans[-1].stop] == [0, tokens]
        assert [span.stop for span in spans[:-1]] == [span.start for span in spans[1:]]
        assert len(spans) <= threads
    sizes = [span.stop - span.start for span in split_evenly(_tokens(8192), 4, shape)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 4


def test_missing_kernels_are_refused(model_file: tuple[Path, Manifest]) -> None:
    with pytest.raises(BackendError, match="'neon' are not available here"):
        NativeBackend(*model_file, kernels="neon")


# Numbers that are not finite, and failures half-way


def _native_prm(folder: Path, *, num_threads: int) -> tuple[LoadedPRM, NativeBackend]:
    save_published_prm(folder / "prm", "llama", max_positions=512)
    prm = load_prm(folder / "prm")
    path = folder / "model.native.safetensors"
    write_native(path, prm.manifest.backbone, prm.manifest.head, prm.weights)
    return prm, NativeBackend(path, prm.manifest, num_threads=num_threads)


def test_a_damaged_embedding_is_seen_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Even if the trace does not end with the token, and in the pages that the next one gets."""
    prm, backend = _native_prm(tmp_path, num_threads=1)
    assert backend._model is not None
    trace = Trajectory.build(question="q", steps=["a z", "then some more words", "and an end"])
    other = Trajectory.build(question="q", steps=["a b", "short"])
    with scorer_over(prm, backend) as scorer:
        expected = scorer.score_batch([other])[0].step_scores
        good = np.array(backend._model._tensors["embedding_scale"])
        for damage in (np.nan, np.inf):
            scale = good.copy()
            scale[prm.tokenizer.encode("z").ids] = damage
            backend._model.structure.embedding_scale = scale.ctypes.data
            with pytest.raises(BackendError, match="not finite"):
                scorer.score_batch([trace])
            assert np.array_equal(scorer.score_batch([other])[0].step_scores, expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_weights_that_are_not_finite_are_refused(bits: int) -> None:
    matrix = np.ones((4, 4), np.float32)
    matrix[1, 2] = np.nan
    with pytest.raises(ExportError, match="not finite"):
        linear_panels(matrix, 16, 16, bits=bits)


def test_a_model_that_is_wider_than_its_linears(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    backbone = Backbone(
        hidden_size=1024,
        num_layers=2,
        num_heads=1,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=32,
        vocab_size=tokenizer.get_vocab_size(),
        rms_norm_eps=1e-5,
        rope_theta=1e4,
    )
    head = Head(kind="mlp_relu", num_labels=2)
    manifest = tiny_manifest(tokenizer).model_copy(update={"backbone": backbone, "head": head})
    weights = random_weights(manifest)
    path = write_native(tmp_path / "m.safetensors", backbone, head, weights)
    backend = NativeBackend(path, manifest, num_threads=1)
    ids = np.arange(10, 74)
    whole = backend.extend([Extension(ids, np.array([63]))])[0].logits
    past = backend.extend([Extension(ids[:63], np.zeros(0, np.int64), None, True)])[0].past
    after = backend.extend([Extension(ids[63:], np.array([0]), past)])[0].logits
    np.testing.assert_array_equal(after, whole)
    backend.close()


@pytest.mark.parametrize("num_started", [0, 1, 2])
def test_a_span_that_never_begins_keeps_no_other_waiting(
    num_started: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, backend = _native_prm(tmp_path, num_threads=4)
    item = Extension(np.arange(400) % 200, np.array([5, 399]))
    expected = backend.extend([item], threads=4)[0].logits
    post, calls = backend._workers.post, iter(range(9))

    def limited(job: Any) -> None:
        if next(calls) >= num_started:
            raise BackendError("the system allows no thread")
        post(job)

    with monkeypatch.context() as patch:
        patch.setattr(backend._workers, "post", limited)
        with pytest.raises(BackendError, match="allows no thread"):
            backend.extend([item], threads=4)
    np.testing.assert_array_equal(backend.extend([item], threads=4)[0].logits, expected)
    backend.close()
