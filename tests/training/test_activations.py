from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rfprm_export.base_model import read_base_model
from rfprm_runtime.artifact.manifest import Head
from rfprm_runtime.backends.torch import PRMNetwork, build_network
from rfprm_runtime.engine.rows import TokenRow
from rfprm_training.learning.activations import ActivationCache
from rfprm_training.learning.trees import TokenTree, build_tree

HIDDEN_SIZE = 32


@pytest.fixture
def network(tiny_base: Path) -> PRMNetwork:
    base = read_base_model(tiny_base)
    head = {"score.weight": np.zeros((2, HIDDEN_SIZE), "f4"), "score.bias": np.zeros(2, "f4")}
    weights = {name: array for name, array in base.weights.items() if name.startswith("model.")}
    return build_network(base.backbone, Head(kind="linear", num_labels=2), weights | head)


@pytest.fixture
def rows() -> list[TokenRow]:
    rng = np.random.default_rng(0)
    return [
        TokenRow(rng.integers(0, 256, length), np.array([length - 1]))
        for length in (5, 40, 12, 33, 40, 7)
    ]


@pytest.fixture
def trees(rows: list[TokenRow]) -> list[TokenTree]:
    return [build_tree(rows, [index]) for index in range(len(rows))]


def open_cache(folder: Path, trees: list[TokenTree], layer: int = 2) -> ActivationCache:
    return ActivationCache(folder, trees, layer, HIDDEN_SIZE, "tiny")


def states(network: PRMNetwork, row: TokenRow, layer: int) -> torch.Tensor:
    with torch.inference_mode():
        return network.run_layers(network.embed(torch.from_numpy(row.token_ids)[None]), 0, layer)[0]


def test_cached_states_equal_those_of_each_trajectory_alone(
    network: PRMNetwork, rows: list[TokenRow], trees: list[TokenTree], tmp_path: Path
) -> None:
    cache = open_cache(tmp_path, trees)
    cache.fill(network, batch_tokens=80)  # batches of two and three rows
    for index, row in enumerate(rows):
        assert cache[index].dtype == torch.bfloat16
        torch.testing.assert_close(
            cache[index].float(), states(network, row, 2), rtol=1e-2, atol=1e-2
        )


def test_states_of_a_tree_equal_those_of_its_trajectories(
    network: PRMNetwork, rows: list[TokenRow], tmp_path: Path
) -> None:
    shared, *ends = (row.token_ids for row in rows)
    whole = [TokenRow(np.concatenate([shared, end]), np.array([2])) for end in ends]
    tree = build_tree(whole, range(len(whole)))
    cache = open_cache(tmp_path, [tree, build_tree(whole, [0])])
    cache.fill(network)
    for row, markers in zip(whole, tree.marker_positions, strict=True):
        torch.testing.assert_close(
            cache[0][markers].float(),
            states(network, row, 2)[row.marker_positions],
            rtol=1e-2,
            atol=1e-2,
        )


def test_filling_resumes_where_it_stopped(
    network: PRMNetwork,
    trees: list[TokenTree],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rfprm_training.learning.activations._BATCHES_PER_SAVE", 1)
    whole = open_cache(tmp_path / "whole", trees)
    whole.fill(network, batch_tokens=40)
    run_layers, calls = network.run_layers, []

    def counted(*arguments: object, **options: object) -> torch.Tensor:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return run_layers(*arguments, **options)

    network.run_layers = counted
    with pytest.raises(KeyboardInterrupt):
        open_cache(tmp_path / "stopped", trees).fill(network, batch_tokens=40)
    resumed = open_cache(tmp_path / "stopped", trees)
    calls.clear()
    network.run_layers = lambda *a, **o: (calls.append(1), run_layers(*a, **o))[1]
    resumed.fill(network, batch_tokens=40)
    assert len(calls) == 1  # 40, 40, 33 and 12 + 7 + 5 tokens: four batches, three of them done
    for index in range(len(trees)):
        assert torch.equal(resumed[index], whole[index])


def test_a_full_cache_runs_no_layer(
    network: PRMNetwork, trees: list[TokenTree], tmp_path: Path
) -> None:
    open_cache(tmp_path, trees).fill(network)
    cache = open_cache(tmp_path, trees)
    cache.fill(network=None)  # type: ignore[arg-type]
    assert torch.isfinite(cache[1].float()).all()


def test_other_trees_or_layers_do_not_share_a_file(
    network: PRMNetwork, trees: list[TokenTree], tmp_path: Path
) -> None:
    for layer, some in ((2, trees), (1, trees), (2, trees[::-1])):
        open_cache(tmp_path, some, layer).fill(network)
    assert len(list(tmp_path.glob("*.bin"))) == 3
