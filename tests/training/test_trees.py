from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.artifact.manifest import Backbone, Head
from rfprm_runtime.backends.torch import PRMNetwork
from rfprm_runtime.engine.rows import TokenRow
from rfprm_training.learning.trees import TokenTree, build_tree, build_trees, pad_trees

SHAPE = Backbone(
    vocab_size=5,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
)


@st.composite
def token_rows(draw: st.DrawFn) -> TokenRow:
    # Few different ids, so that rows often share a beginning, or one is the beginning of another.
    ids = np.array(draw(st.lists(st.integers(0, 2), min_size=1, max_size=12)), np.int64)
    markers = draw(st.sets(st.integers(0, len(ids) - 1), min_size=1))
    return TokenRow(ids, np.array(sorted(markers), np.int64))


ROWS = st.lists(token_rows(), min_size=1, max_size=6)


def row_with(*ids: int) -> TokenRow:
    return TokenRow(np.array(ids), np.array([len(ids) - 1]))


def ancestors(tree: TokenTree, token: int) -> list[int]:
    return [i for i in range(token + 1) if token < tree.seen_until[i]]


@given(ROWS)
def test_a_marker_sees_only_its_own_trajectory(rows: list[TokenRow]) -> None:
    tree = build_tree(rows, range(len(rows)))
    for member, markers in zip(tree.members, tree.marker_positions, strict=True):
        row = rows[member]
        assert len(markers) == len(row.marker_positions)
        for marker, position in zip(markers, row.marker_positions, strict=True):
            seen = ancestors(tree, int(marker))
            np.testing.assert_array_equal(tree.token_ids[seen], row.token_ids[: position + 1])
            np.testing.assert_array_equal(tree.positions[seen], np.arange(position + 1))


@given(ROWS)
def test_shared_tokens_appear_once(rows: list[TokenRow]) -> None:
    tree = build_tree(rows, range(len(rows)))
    prefixes = {
        tuple(row.token_ids[: end + 1]) for row in rows for end in range(len(row.token_ids))
    }
    assert tree.num_tokens == len(prefixes)


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_trajectories_in_a_tree_score_as_they_do_alone(groups: list[list[TokenRow]]) -> None:
    torch.manual_seed(0)
    network = PRMNetwork(SHAPE, Head(kind="linear", num_labels=2)).eval()
    trees = [build_tree(rows, range(len(rows))) for rows in groups]
    batch = pad_trees(trees, torch.device("cpu"))
    with torch.inference_mode():
        hidden, length = network.embed(batch.token_ids), batch.token_ids.shape[1]
        for number, (rows, tree) in enumerate(zip(groups, trees, strict=True)):
            for row, markers in zip(rows, tree.marker_positions, strict=True):
                alone = network(
                    torch.from_numpy(row.token_ids)[None], torch.from_numpy(row.marker_positions)
                )
                places = torch.from_numpy(markers) + number * length
                found = network.run_to_markers(hidden, places, tree=batch.tree)
                torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_a_group_too_long_for_one_tree_gets_several() -> None:
    rows = [row_with(1, 1, 1, last) for last in range(2, 6)] + [row_with(*range(9))]
    trees = build_trees(rows, ["a", "a", "a", "a", "b"], max_tokens=5)
    assert [tree.members for tree in trees] == [(0, 1), (2, 3), (4,)]
    assert [tree.num_tokens for tree in trees] == [5, 5, 9]


def test_a_tree_holds_one_group() -> None:
    rows = [row_with(1, 2), row_with(1, 3), row_with(1, 4)]
    trees = build_trees(rows, ["a", "b", "a"], max_tokens=100)
    assert [tree.members for tree in trees] == [(0, 2), (1,)]


def test_trees_of_one_sequence_need_only_causal_attention() -> None:
    rows = [row_with(1, 2), row_with(1, 3)]
    trees = build_trees(rows, ["a", "a"], max_tokens=0)
    assert [tree.members for tree in trees] == [(0,), (1,)]
    assert pad_trees(trees, torch.device("cpu")).tree is None
