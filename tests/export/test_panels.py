"""Integer weights: the error of rounding, the range of sums, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rfprm_export import ExportError
from rfprm_export.native_file import write_native
from rfprm_export.panels import MAX_WEIGHT, linear_panels, most_rounded
from tiny_models import byte_tokenizer, random_weights, tiny_manifest


def test_sums_of_the_worst_case_fit_32_bits() -> None:
    """All weights and inputs at their largest with the same sign give the largest sum."""
    depth = 1536
    linear = linear_panels(np.ones((64, depth), np.float32), depth, 64)
    panels, scales, limit = linear.panels, linear.scales, linear.limit
    assert panels.max() == MAX_WEIGHT
    assert np.allclose(panels * scales[0], 1.0)
    inputs = np.floor(limit / np.sqrt(depth))  # as quantise() scales a constant row
    assert inputs * MAX_WEIGHT * depth < 2**31
    assert inputs * MAX_WEIGHT * depth > 2**30  # and use most of the bits


def test_unsupported_shapes_are_refused(tmp_path: Path) -> None:
    manifest = tiny_manifest(byte_tokenizer())
    with pytest.raises(ExportError, match=r"head_dim is 8.*--precision fp32"):
        write_native(tmp_path / "model", manifest.backbone, manifest.head, {})


def test_the_layer_that_loses_most_by_rounding_is_named() -> None:
    manifest = tiny_manifest(byte_tokenizer())
    weights = random_weights(manifest)
    weights["model.layers.1.mlp.down_proj.weight"][:, 7] *= 1e4  # every row has an outlier
    assert most_rounded(manifest.backbone, weights)[0].startswith("layer 1 down (")


@pytest.mark.parametrize("bits", [16, 8])
def test_weights_are_rounded_by_at_most_half_a_unit(bits: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(70, 48)).astype(np.float32)
    linear = linear_panels(matrix, 48, 128, bits=bits)
    whole = linear.panels.transpose(0, 2, 1, 3).reshape(128, 48)
    columns = whole * linear.scales[:, None]
    assert (np.abs(columns[:70] - matrix) <= 0.5001 * linear.scales[:70, None]).all()
    assert not columns[70:].any()
    assert linear.panels.shape == ((2, 24, 64, 2) if bits == 16 else (2, 12, 64, 4))
    assert linear.sums is None if bits == 16 else (linear.sums == whole.sum(axis=1)).all()
