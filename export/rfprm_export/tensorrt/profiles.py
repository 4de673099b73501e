"""Derives the optimisation profiles of a TensorRT engine from the traces to score.

Knows lengths and batch sizes, no TensorRT.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rfprm_export import ExportError
from rfprm_runtime.artifact.build_records import EngineProfile, Range
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.errors import RfprmError
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.traces.sources import read_trajectories
from rfprm_runtime.types import Trajectory

DEFAULT_BATCH_SIZE = 64
DEFAULT_BATCH_TOKENS = 16_384
_DEFAULT_LENGTHS = (512, 2048)
_QUANTILES = (0.5, 0.9)
_GRID = 64
"""Length bounds are multiples of this."""


def make_profile(
    max_batch: int, max_length: int, *, opt_batch: int | None = None, opt_length: int | None = None
) -> EngineProfile:
    """A profile for up to ``max_batch`` rows of up to ``max_length`` tokens.

    A step has at least one token and its marker, so a row has at most half as many step markers as
    tokens, plus the trajectory's marker.
    """
    batch, length = opt_batch or max_batch, opt_length or max_length
    return EngineProfile(
        batch=Range(min=1, opt=batch, max=max_batch),
        length=Range(min=1, opt=length, max=max_length),
        num_markers=Range(
            min=1,
            opt=max(1, batch * length // 32),  # steps of about one sentence
            max=max_batch * (max_length // 2 + 1),
        ),
    )


def derive_profiles(
    max_positions: int,
    *,
    lengths: Sequence[int] = (),
    max_batch_size: int = DEFAULT_BATCH_SIZE,
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> tuple[EngineProfile, ...]:
    """One profile for a single trace, and one for batches in each band of lengths.

    ``lengths``: token counts of traces like those to score. Bands end at their median, their ninth
    decile (without any, at 512 and 2,048 tokens) and the model's last position, so no trace that
    fits the model is too long for the engine.
    """
    if max_batch_size < 1 or max_batch_tokens < 1:
        raise ExportError(
            f"max_batch_size is {max_batch_size} and max_batch_tokens is {max_batch_tokens}, "
            "expected at least 1 of each"
        )
    found = np.minimum(np.asarray(lengths, dtype=np.int64), max_positions)
    ends = [int(np.quantile(found, q)) for q in _QUANTILES] if len(found) else _DEFAULT_LENGTHS
    bounds = sorted({min(-(-end // _GRID) * _GRID, max_positions) for end in ends})
    typical = int(np.median(found)) if len(found) else min(_DEFAULT_LENGTHS[0], max_positions)
    profiles = [make_profile(1, max_positions, opt_length=max(1, typical))]
    begin = 0
    for bound in [*(b for b in bounds if b < max_positions), max_positions]:
        inside = found[(found > begin) & (found <= bound)]
        opt = int(inside.mean()) if len(inside) else bound
        batch = max(1, min(max_batch_size, max_batch_tokens // bound))
        # The profile for a single trace exists already.
        if batch > 1 or bound < max_positions:
            profiles.append(make_profile(batch, bound, opt_length=opt))
        begin = bound
    return tuple(profiles)


def parse_profiles(texts: Sequence[str], max_positions: int) -> tuple[EngineProfile, ...]:
    """A profile for each different ``BATCHxLENGTH``, in order. Raises :class:`ExportError`."""
    return tuple(dict.fromkeys(parse_profile(text, max_positions) for text in texts))


def parse_profile(text: str, max_positions: int) -> EngineProfile:
    """The profile for ``BATCHxLENGTH``, the maximum of each, such as ``16x1024``."""
    batch, separator, length = text.partition("x")
    if not (separator and batch.isdigit() and length.isdigit() and int(batch) and int(length)):
        raise ExportError(f"--profile is {text!r}, expected BATCHxLENGTH, such as 16x1024")
    if int(length) > max_positions:
        raise ExportError(
            f"--profile {text} has {length} tokens, but the model only {max_positions} positions"
        )
    return make_profile(int(batch), int(length))


def lengths_of(traces: Iterable[Trajectory], folder: Path, manifest: Manifest) -> list[int]:
    """The number of tokens of each trace, by the encoder of the artifact at ``folder``."""
    encoder = TrajectoryEncoder.load(
        folder, manifest.prompt, vocab_size=manifest.backbone.vocab_size
    )
    return [encoder.encode(trajectory).num_tokens for trajectory in traces]


def read_traces(traces: Path) -> list[Trajectory]:
    """The traces of a file, at least one. Raises :class:`ExportError` if none can be read."""
    try:
        trajectories = read_trajectories(traces)
    except (OSError, RfprmError) as error:
        raise ExportError(f"{traces} cannot be read as traces: {error}") from error
    if not trajectories:
        raise ExportError(f"{traces} holds no traces; give others, or leave --traces out")
    return trajectories
