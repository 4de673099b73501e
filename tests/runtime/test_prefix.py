"""The prefix tree: nothing lost, nothing run twice that is worth sharing."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.engine.prefix import MIN_SHARED, PrefixNode, plan_prefixes

# Few ids and common stems, so that rows often begin alike or are equal.
_STEMS = st.lists(st.integers(0, 1).flatmap(lambda x: st.just([x] * 20)), max_size=4).map(
    lambda parts: [token for part in parts for token in part]
)
_ROWS = st.lists(
    st.tuples(_STEMS, st.lists(st.integers(0, 300), max_size=30))
    .map(lambda pair: np.array([*pair[0], *pair[1]], np.int64))
    .filter(len),
    max_size=12,
)


def _paths(roots: list[PrefixNode]) -> list[list[PrefixNode]]:
    pending = [[root] for root in roots]
    paths = []
    while pending:
        path = pending.pop()
        paths.append(path)
        pending.extend([*path, child] for child in path[-1].children)
    return paths


@given(rows=_ROWS)
def test_the_nodes_of_a_path_make_up_the_row(rows: list[np.ndarray]) -> None:
    ended = []
    for path in _paths(plan_prefixes(rows)):
        for row in path[-1].ending:
            ended.append(row)
            assert path[0].begin == 0
            assert path[-1].end == len(rows[row])
            assert all(a.end == b.begin for a, b in itertools.pairwise(path))
            assert all(row in node.rows for node in path)
        for row in path[-1].rows:
            first = path[-1].rows[0]
            assert (rows[row][: path[-1].end] == rows[first][: path[-1].end]).all()
        if len(path[-1].rows) > 1:
            assert path[-1].num_tokens >= MIN_SHARED
    assert sorted(ended) == list(range(len(rows)))


@given(rows=_ROWS)
def test_siblings_have_less_in_common_than_is_worth_sharing(rows: list[np.ndarray]) -> None:
    for path in [[], *_paths(roots := plan_prefixes(rows))]:
        siblings = path[-1].children if path else roots
        for a in siblings:
            for b in siblings:
                if a is not b:
                    one, other = rows[a.rows[0]], rows[b.rows[0]]
                    begin = a.begin
                    length = min(len(one), len(other))
                    differ = np.flatnonzero(one[begin:length] != other[begin:length])
                    common = differ[0] if len(differ) else length - begin
                    assert common < MIN_SHARED


def test_a_question_with_four_answers_is_one_node_and_four() -> None:
    question = np.arange(100)
    rows = [np.concatenate([question, [500 + i] * (i + 1)]) for i in range(4)]
    (root,) = plan_prefixes(rows)
    assert (root.begin, root.end, root.ending) == (0, 100, [])
    assert sorted(child.num_tokens for child in root.children) == [1, 2, 3, 4]


def test_only_the_rows_asked_for_are_planned() -> None:
    rows = [np.arange(50)] * 3
    (root,) = plan_prefixes(rows, [0, 2])
    assert root.ending == [0, 2]


def test_a_deep_tree_needs_no_deep_stack() -> None:
    rows = [np.zeros(20 * n, np.int64) for n in range(1, 1500)]
    assert len(_paths(plan_prefixes(rows))) == len(rows)
