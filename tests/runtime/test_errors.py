"""Errors about one of several items."""

from __future__ import annotations

import pickle

import pytest

from rfprm_runtime.errors import (
    InvalidTrajectoryError,
    RfprmError,
    TraceTooLongError,
    around_errors,
    raise_first,
)


@pytest.mark.parametrize(
    "error", [InvalidTrajectoryError("it is blank"), TraceTooLongError(9, 5), RfprmError("no")]
)
def test_a_place_is_put_before_the_message(error: RfprmError) -> None:
    placed = error.at("item 3")
    assert str(placed) == f"item 3: {error}"
    assert type(placed) is type(error)
    assert "item 3" not in str(error)
    assert str(pickle.loads(pickle.dumps(placed))) == str(placed)


def test_only_good_items_are_passed_on_and_errors_keep_their_places() -> None:
    bad = RfprmError("bad")
    calls: list[list[int]] = []

    def doubled(items: list[int]) -> list[int]:
        calls.append(items)
        return [2 * item for item in items]

    assert around_errors([1, bad, 3], doubled) == [2, bad, 6]
    assert around_errors([bad], doubled) == [bad]
    assert around_errors([], doubled) == []
    assert calls == [[1, 3]]


def test_the_first_error_is_raised_with_its_number() -> None:
    raise_first([1, 2], "item")
    with pytest.raises(RfprmError, match=r"^item 1 \(from 0\): first$"):
        raise_first([1, RfprmError("first"), RfprmError("second")], "item")
