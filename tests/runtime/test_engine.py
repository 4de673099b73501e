"""One interface for every backend: the same results, in order, on as many cores as there are."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counting_backend import CountingBackend
from rfprm_runtime import BackendError
from rfprm_runtime.backends.fake import FakeBackend
from rfprm_runtime.engine.engine import Engine
from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension, TokenBatch, plan_batches
from rfprm_runtime.types import Mode


class Recording(FakeBackend):
    """Keeps no pasts; records the rows and the threads of every batch."""

    def __init__(self, limits: BackendLimits | None = None) -> None:
        super().__init__(2, limits=limits)
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self._lock = threading.Lock()

    def run(self, batch: TokenBatch, threads: int = 1) -> np.ndarray:
        with self._lock:
            self.batches.append(batch.lengths.tolist())
            self.threads.append(threads)
        return super().run(batch)


def rows_of(lengths: Sequence[int], *, shared: int = 0) -> list[Extension]:
    rng = np.random.default_rng(0)
    stem = rng.integers(0, 100, shared)
    ids = [np.concatenate([stem, rng.integers(0, 100, length)]) for length in lengths]
    return [Extension(row, np.array([0, len(row) - 1])) for row in ids]


def logits_of(results: Sequence[Extended]) -> list[list[list[float]]]:
    return [result.logits.tolist() for result in results]


@pytest.mark.parametrize("mode", ["auto", "throughput", "latency"])
@pytest.mark.parametrize("share_prefixes", [True, False])
def test_backends_with_and_without_a_cache_look_alike(mode: Mode, share_prefixes: bool) -> None:
    items = rows_of([5, 40, 3, 17, 40, 90], shared=20)
    alone = logits_of([Extended(FakeBackend(2).run(_alone(item)), None) for item in items])
    for backend in (FakeBackend(2), Recording(BackendLimits(4, 200, 3)), CountingBackend(2)):
        done: list[int] = []
        engine = Engine(backend, mode, share_prefixes=share_prefixes)
        assert logits_of(engine.run(items, done.append)) == alone
        assert sorted(done) == list(range(len(items)))
        assert engine.run([]) == []
        assert (engine.limits, engine.description) == (backend.limits, backend.description)
        engine.close()


def _alone(item: Extension) -> TokenBatch:
    return TokenBatch(item.token_ids[None], np.array([len(item.token_ids)]), item.marker_positions)


def test_shared_prefixes_run_once_unless_sharing_is_off() -> None:
    items = rows_of([10, 10, 10], shared=30)
    for share_prefixes, expected in ((True, 60), (False, 120)):
        backend = CountingBackend(2)
        Engine(backend, share_prefixes=share_prefixes).run(items)
        assert backend.num_tokens == expected


def test_a_past_is_kept_if_asked_for_and_possible() -> None:
    [item] = rows_of([20])
    kept = Extension(item.token_ids, item.marker_positions, keep=True)
    engine = Engine(CountingBackend(2))
    assert engine.keeps_pasts
    first, second = engine.run([kept, item])
    assert second.past is None
    assert first.past is not None
    new = np.array([1, 2, 3])
    [after] = engine.run([Extension(new, np.array([2]), first.past)])
    whole = np.concatenate([item.token_ids, new])
    [expected] = engine.run([Extension(whole, np.array([22]))])
    assert after.logits.tolist() == expected.logits.tolist()
    assert not Engine(CountingBackend(2), past_bytes=0).keeps_pasts
    plain = Engine(FakeBackend(2))
    assert not plain.keeps_pasts
    assert plain.run([kept])[0].past is None


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(1, 120)),
    st.sampled_from(["auto", "throughput", "latency"]),
)
def test_padded_batches_follow_the_plan(
    lengths: list[int], size: int, max_tokens: int | None, mode: Mode
) -> None:
    limits = BackendLimits(size, max_tokens)
    backend = Recording(limits)
    Engine(backend, mode).run(rows_of(lengths))
    planned = [[lengths[index] for index in batch] for batch in plan_batches(lengths, limits)]
    assert backend.batches == planned


def test_the_mode_decides_how_cores_are_used() -> None:
    def threads(mode: Mode, num_rows: int) -> list[int]:
        backend = Recording(BackendLimits(max_concurrent_runs=4))
        Engine(backend, mode).run(rows_of([30] * num_rows))
        return backend.threads

    assert threads("auto", 1) == [4]
    assert threads("auto", 2) == [2, 2]
    assert threads("auto", 8)[:4] == [1, 1, 1, 1]
    assert threads("throughput", 1) == [1]
    assert threads("latency", 3) == [4, 4, 4]


def test_no_pass_starts_after_an_error() -> None:
    backend = CountingBackend(2)
    backend.fail_after = 1
    engine = Engine(backend)
    with pytest.raises(BackendError, match="out of luck"):
        engine.run(rows_of([60] * 9))
    assert len(backend.passes) == 2
    backend.fail_after = None
    assert len(engine.run(rows_of([60] * 9))) == 9


def test_a_callback_may_interrupt_a_run() -> None:
    def stop(index: int) -> None:
        raise KeyboardInterrupt

    backend = CountingBackend(2)
    engine = Engine(backend)
    with pytest.raises(KeyboardInterrupt):
        engine.run(rows_of([60] * 9), stop)
    assert len(backend.passes) == 1
    engine.close()


def test_a_run_inside_a_call_works_while_the_engine_is_closing() -> None:
    backend = CountingBackend(2)
    engine = Engine(backend)
    with engine.call():
        closing = threading.Thread(target=engine.close)
        closing.start()
        while not engine._lifetime._closed:
            closing.join(0.001)
        assert len(engine.run(rows_of([5]))) == 1
        assert closing.is_alive()
    closing.join(30)
    assert not closing.is_alive()
    with pytest.raises(BackendError, match="was closed"):
        engine.run(rows_of([5]))
