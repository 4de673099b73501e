from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.engine.rows import BackendLimits, TokenRow, pad_batch, plan_batches


@given(
    st.lists(st.integers(1, 50), max_size=30),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(1, 120)),
)
def test_plans_hold_every_row_once_and_keep_the_limits(
    lengths: list[int], max_batch_size: int, max_batch_tokens: int | None
) -> None:
    limits = BackendLimits(max_batch_size=max_batch_size, max_batch_tokens=max_batch_tokens)
    batches = plan_batches(lengths, limits)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    planned = [lengths[index] for batch in batches for index in batch]
    assert planned == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) <= max_batch_size
        padded = len(batch) * max(lengths[index] for index in batch)
        assert len(batch) == 1 or max_batch_tokens is None or padded <= max_batch_tokens


def test_padding_keeps_every_token_and_marker_in_place() -> None:
    rows = [
        TokenRow(np.array([7, 8, 9]), np.array([0, 2])),
        TokenRow(np.array([5]), np.array([0])),
    ]
    batch = pad_batch(rows, pad_id=1)
    assert batch.token_ids.tolist() == [[7, 8, 9], [5, 1, 1]]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.token_ids.ravel()[batch.marker_positions].tolist() == [7, 9, 5]
