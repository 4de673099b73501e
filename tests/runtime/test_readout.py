from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.artifact.manifest import Calibration, Readout
from rfprm_runtime.errors import BackendError
from rfprm_runtime.scores.aggregation import trajectory_reward
from rfprm_runtime.scores.readout import read_scores

LOGITS = st.lists(
    st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)),
    min_size=1,
    max_size=8,
).map(lambda rows: np.array(rows, dtype=np.float32))


@given(LOGITS)
def test_sigmoid_equals_its_float64_twin(logits: np.ndarray) -> None:
    scores = read_scores(logits, Readout(transform="sigmoid", positive=1))
    exact = 1 / (1 + np.exp(-np.clip(logits[:, 1].astype(np.float64), -700, 700)))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact, atol=1e-6)


@given(LOGITS)
def test_softmax_equals_its_float64_twin(logits: np.ndarray) -> None:
    scores = read_scores(logits, Readout(transform="softmax", positive=1))
    margin = np.clip(np.diff(logits.astype(np.float64), axis=1)[:, 0], -700, 700)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-margin)), atol=1e-6)


def test_reward_is_equation_11() -> None:
    steps = np.array([0.2, 0.4], dtype=np.float32)
    assert trajectory_reward(steps, 0.5, alpha=0.8) == pytest.approx(0.3 + 0.4)
    assert trajectory_reward(steps, None, alpha=0.8) == pytest.approx(0.3)


@given(LOGITS, st.sampled_from(["sigmoid", "softmax"]), st.floats(0.25, 8), st.floats(-3, 3))
def test_calibration_scales_the_log_odds(
    logits: np.ndarray, transform: str, temperature: float, bias: float
) -> None:
    readout = Readout(
        transform=transform,  # type: ignore[arg-type]
        positive=1,
        calibration=Calibration(temperature=temperature, bias=bias),
    )
    wide = logits.astype(np.float64)
    odds = wide[:, 1] if transform == "sigmoid" else wide[:, 1] - wide[:, 0]
    exact = 1 / (1 + np.exp(-np.clip(odds / temperature + bias, -700, 700)))
    found = read_scores(logits, readout)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=2e-5)


@pytest.mark.parametrize("bias", [np.nan, np.inf, -np.inf])
def test_a_readout_that_was_not_checked_makes_no_scores(bias: float) -> None:
    calibration = Calibration(temperature=1.0).model_copy(update={"bias": bias})
    readout = Readout(transform="sigmoid", positive=0, calibration=calibration)
    logits = np.array([[-np.float32(bias)]], dtype=np.float32)  # -inf + inf
    with pytest.raises(BackendError, match="expected finite scores"), np.errstate(invalid="ignore"):
        read_scores(logits, readout)


def test_calibration_of_several_labels_is_one_against_the_rest() -> None:
    logits = np.array([[0.5, 2.0, -1.0]], dtype=np.float32)
    plain = Readout(transform="softmax", positive=1)
    same = plain.model_copy(update={"calibration": Calibration(temperature=1.0)})
    np.testing.assert_allclose(read_scores(logits, plain), read_scores(logits, same), atol=1e-6)
