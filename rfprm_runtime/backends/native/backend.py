"""Our own CPU kernels, in integers or in float32, whose bits do not depend on what else runs.

Knows token ids, marker positions, memory and threads; the arithmetic is in C, in this folder.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import Backbone, Manifest
from rfprm_runtime.backends.native.library import Model, Segment, load_library
from rfprm_runtime.backends.native.model_file import NativeModel, numbers_of
from rfprm_runtime.backends.native.pages import NativePast, PageAllocator, Workspace
from rfprm_runtime.backends.native.variants import build_name
from rfprm_runtime.engine.cores import usable_cores
from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension, TokenBatch
from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.arguments import check_flag
from rfprm_runtime.ground.running import Outcome, report, result_of, uninterrupted
from rfprm_runtime.ground.workers import Workers

PASS_TOKENS = 512
"""Beyond this many rows a pass over the weights gets no cheaper per row."""
_MIN_SPAN = 32
"""With fewer tokens another thread costs more than it gains."""


@dataclass(frozen=True)
class _Span:
    """Consecutive tokens of one trace that one thread runs."""

    start: int
    stop: int


class NativeBackend:
    """Runs ``model.native.safetensors`` in integers, and in float32 the fp32 weights of
    ``model.onnx`` or ``model.safetensors``.

    A trace runs on one thread or is split over several, from its beginning or after a past, alone
    or in one pass with others; the bits are always the same.
    """

    def __init__(
        self,
        file: Path | ModelFile,
        manifest: Manifest,
        *,
        num_threads: int | None = None,
        kernels: str | None = None,
        map_weights: bool = False,
    ) -> None:
        """
        ``num_threads``: by default all usable cores. ``kernels``: the name of a variant
        (``variants.py``), by default the fastest that this processor runs. Scores of different
        kernels agree to rounding, those of one are bit-identical. ``map_weights``: map the weights,
        so that processes share their memory, instead of reading them into this one's. The file must
        then stay as it is: a change is noticed before and after each pass, but truncating it during
        one kills the process.

        Raises :class:`BackendError` if there are no kernels for this machine and
        :class:`ArtifactError` if the file does not hold the manifest's model, or one that the
        kernels do not support.
        """
        check_flag("map_weights", map_weights)
        file = ModelFile.of(file)
        numbers = numbers_of(file)
        name, self._library = load_library(kernels, numbers)
        threads = usable_cores(num_threads)
        self._manifest = manifest
        self._model: NativeModel | None = NativeModel(
            file, manifest, map_weights=map_weights, library=self._library
        )
        self._pages = PageAllocator(
            int(self._library.rfprm_page_positions()),
            int(self._library.rfprm_page_bytes(self._model.structure)),
            manifest.backbone.num_layers,
        )
        self._idle: deque[Workspace] = deque()
        self._workers = Workers(threads, "rfprm-native")
        self.limits = BackendLimits(
            max_batch_size=1, max_batch_tokens=PASS_TOKENS, max_concurrent_runs=threads
        )
        self.description = f"native {build_name(name, numbers)} kernels, {threads} thread(s)"

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        if batch.token_ids.ndim != 2 or len(batch.token_ids) != 1:
            raise BackendError(
                f"got token ids of shape {batch.token_ids.shape}, expected [1, length]: the "
                "native backend runs one row per call"
            )
        alone = Extension(batch.token_ids[0], batch.marker_positions)
        return self.extend([alone], threads)[0].logits

    def extend(self, extensions: Sequence[Extension], threads: int = 1) -> list[Extended]:
        """See :class:`CachingBackend`. A single extension may run on several threads."""
        return uninterrupted(partial(self._extend, extensions, threads))

    def _extend(self, extensions: Sequence[Extension], threads: int) -> list[Extended]:
        model = self._model
        if model is None:
            raise BackendError("the backend was closed; load the scorer again")
        model.check_unchanged()
        items = [checked(item, self._manifest) for item in extensions]
        spans = split_evenly(items[0], threads if len(items) == 1 else 1, self._manifest.backbone)
        # A past has the keys of every layer, and threads that follow each other are a layer apart.
        # Otherwise the layers take turns in the same memory.
        keep_layers = len(spans) > 1 or any(item.keep or item.past for item in items)
        work = self._workspace()
        try:
            tables, pasts = self._pages.lay_out(items, work, keep_layers=keep_layers)
            run = Pass(self._library, model.structure, work, keep_layers=keep_layers)
            num_labels = self._manifest.head.num_labels
            if len(spans) > 1:
                logits = run.split(items[0], spans, tables[0], num_labels, self._workers)
            else:
                logits = run.together(items, tables, num_labels)
        finally:
            work.trim()
            self._idle.append(work)
        model.check_unchanged()
        ends = np.cumsum([len(item.marker_positions) for item in items])[:-1]
        return [Extended(*pair) for pair in zip(np.split(logits, ends), pasts, strict=True)]

    def take_linears(self, other: NativeModel, names: Collection[str]) -> None:
        """See :meth:`NativeModel.take_linears`; it measures what the linears of ``other`` cost."""
        if self._model is not None:
            self._model.take_linears(other, names)

    def _workspace(self) -> Workspace:
        try:
            return self._idle.pop()
        except IndexError:
            return Workspace()

    def close(self) -> None:
        self._workers.close(self._free)

    def _free(self) -> None:
        self._model = None
        self._idle.clear()


def checked(item: Extension, manifest: Manifest) -> Extension:
    """Refuse what would make the kernels read out of bounds."""
    ids = np.ascontiguousarray(item.token_ids, dtype=np.int64)
    markers = np.ascontiguousarray(item.marker_positions, dtype=np.int64)
    room = manifest.max_positions - item.num_past_tokens
    vocab_size = manifest.backbone.vocab_size
    if ids.ndim != 1 or not 0 < len(ids) <= room:
        raise BackendError(
            f"got new token ids of shape {ids.shape} after {item.num_past_tokens} tokens, "
            f"expected 1 to {room} of them"
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise BackendError(
            f"got token ids from {ids.min()} to {ids.max()}, the vocabulary has {vocab_size}"
        )
    ascending = bool((np.diff(markers) > 0).all())
    if len(markers) and not (ascending and markers[0] >= 0 and markers[-1] < len(ids)):
        raise BackendError(
            f"got marker positions {markers.tolist()}, expected ascending ones below {len(ids)}"
        )
    if not isinstance(item.past, NativePast | None):
        raise BackendError(
            f"got a past of type {type(item.past).__name__}, expected one that this backend made"
        )
    return Extension(ids, markers, item.past, item.keep)


class Pass:
    """One pass over the weights."""

    def __init__(
        self, library: ctypes.CDLL, model: Model, work: Workspace, *, keep_layers: bool
    ) -> None:
        self._library = library
        self._model = model
        self._work = work
        self._keep_layers = int(keep_layers)

    def together(
        self,
        items: list[Extension],
        tables: list[NDArray[np.uint64]],
        num_labels: int,
        before: NDArray[np.float32] | None = None,
        after: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Run all items on this thread, each linear for all of their rows at once.

        For a piece of a model ``before`` [tokens, hidden_size] are the rows that it begins with,
        ``after``, likewise, gets those that it ends with; there are then no logits.
        """
        lengths = [len(item.token_ids) for item in items]
        begins = np.cumsum([0, *lengths[:-1]])
        segments = (Segment * len(items))(
            *(
                Segment(length, item.num_past_tokens, table.ctypes.data)
                for length, item, table in zip(lengths, items, tables, strict=True)
            )
        )
        ids = np.concatenate([item.token_ids for item in items])
        markers = np.concatenate(
            [item.marker_positions + begin for item, begin in zip(items, begins, strict=True)]
        )
        logits = np.empty((len(markers), num_labels), np.float32)
        scratch = self._work.scratch([self._scratch_bytes(sum(lengths))])
        self._call(ids, segments, markers, logits, scratch[0], None, before, after)
        return logits

    def split(
        self,
        item: Extension,
        spans: list[_Span],
        table: NDArray[np.uint64],
        num_labels: int,
        workers: Workers,
    ) -> NDArray[np.float32]:
        """Run one item with a thread for each span, this thread included."""
        markers, begin = item.marker_positions, item.num_past_tokens
        logits = np.empty((len(markers), num_labels), np.float32)
        done = np.full(self._model.num_layers, begin, np.int64)
        scratch = self._work.scratch(
            [self._scratch_bytes(span.stop - span.start) for span in spans]
        )

        def run_span(number: int) -> None:
            span = spans[number]
            first, end = np.searchsorted(markers, [span.start, span.stop])
            segment = Segment(span.stop - span.start, begin + span.start, table.ctypes.data)
            self._call(
                item.token_ids[span.start : span.stop],
                (Segment * 1)(segment),
                markers[first:end] - span.start,
                logits[first:end],
                scratch[number],
                done,
            )

        # A span waits for the one before it, which was posted earlier or runs in this thread, so
        # they cannot wait for each other.
        ended: SimpleQueue[Outcome] = SimpleQueue()
        num_running = 0
        try:
            for number in range(1, len(spans)):
                workers.post(partial(report, partial(run_span, number), ended.put))
                num_running += 1
            run_span(0)
            while num_running:
                outcome = ended.get()
                num_running -= 1
                result_of(outcome)
        except BaseException:
            _let_all_finish(num_running, ended, done)
            raise
        return logits

    def _call(
        self,
        ids: NDArray[np.int64],
        segments: ctypes.Array[Segment],
        markers: NDArray[np.int64],
        logits: NDArray[np.float32],
        scratch: int,
        done: NDArray[np.int64] | None,
        before: NDArray[np.float32] | None = None,
        after: NDArray[np.float32] | None = None,
    ) -> None:
        self._library.rfprm_run(
            self._model,
            ids.ctypes.data,
            segments,
            len(segments),
            self._keep_layers,
            markers.ctypes.data,
            len(markers),
            logits.ctypes.data,
            before.ctypes.data if before is not None else None,
            after.ctypes.data if after is not None else None,
            scratch,
            done.ctypes.data if done is not None else None,
        )

    def _scratch_bytes(self, num_tokens: int) -> int:
        return int(self._library.rfprm_scratch_bytes(self._model, num_tokens))


def _let_all_finish(num_running: int, ended: SimpleQueue[Outcome], done: NDArray[np.int64]) -> None:
    """After an error: spans own the memory they write to until they return, and those that wait for
    a span that never began would wait for ever."""
    while num_running:
        done[:] = np.iinfo(np.int64).max  # again and again: running spans write there too
        if ended.empty():
            time.sleep(0.001)
        else:
            ended.get()
            num_running -= 1


def split_evenly(item: Extension, threads: int, shape: Backbone) -> list[_Span]:
    """Spans of about equal cost: later tokens attend to more, so later spans are shorter."""
    num_tokens = len(item.token_ids)
    count = max(1, min(threads, num_tokens // _MIN_SPAN))
    if count == 1:
        return [_Span(0, num_tokens)]
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    linears = shape.hidden_size * (2 * queries + 2 * keys + 3 * shape.intermediate_size)
    # In units of a product in a linear; one in attention costs about 2.5 of them.
    positions = item.num_past_tokens + np.arange(num_tokens)
    total = np.cumsum(linears + 2 * 2.5 * queries * positions)
    inner = np.searchsorted(total, total[-1] * np.arange(1, count) / count)
    bounds = [0, *(int(bound) for bound in inner), num_tokens]
    return [_Span(a, b) for a, b in itertools.pairwise(bounds) if a < b]
