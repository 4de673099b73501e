from __future__ import annotations

import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfprm_runtime import (
    ArtifactError,
    BackendError,
    InvalidArgumentError,
    InvalidTrajectoryError,
    Scorer,
    TokenizerMismatchError,
    TraceTooLongError,
    Trajectory,
)
from rfprm_runtime.backends.fake import FakeBackend
from rfprm_runtime.engine.rows import TokenBatch
from rfprm_runtime.scores.aggregation import trajectory_reward
from tiny_models import fake_scorer, scorer_on

WORDS = ["so", "then 3 + 4 = 7", "the rest is 12", "hence", "wait, no"]


def _trajectories(count: int, seed: int = 0) -> list[Trajectory]:
    rng = random.Random(seed)
    return [
        Trajectory(
            question=f"What is {index}?",
            steps=[" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(1 + index % 4)],
            response=["It is that."] if index % 2 else [],
        )
        for index in range(count)
    ]


def test_scores_have_the_promised_shapes_and_ranges() -> None:
    with fake_scorer() as scorer:
        score = scorer.score("What is 1 + 1?", steps=["1 + 1 = 2", "so 2"], response=["2"])
    assert score.step_scores.shape == (2,)
    assert score.step_scores.dtype == np.float32
    assert ((score.step_scores >= 0) & (score.step_scores <= 1)).all()
    assert isinstance(score.trajectory_score, float)
    assert score.reward == trajectory_reward(score.step_scores, score.trajectory_score, 1.0)


def test_scores_come_in_input_order_from_any_iterable() -> None:
    trajectories = _trajectories(9)
    with fake_scorer() as scorer:
        one_by_one = [scorer.score_batch([item])[0] for item in trajectories]
        assert scorer.score_batch(item for item in trajectories) == one_by_one
        assert scorer.score_batch(trajectories[::-1]) == one_by_one[::-1]
    assert len({score.reward for score in one_by_one}) == 9


def test_an_empty_batch_has_no_scores() -> None:
    with fake_scorer() as scorer:
        assert scorer.score_batch([]) == []


def test_a_later_step_does_not_change_an_earlier_score() -> None:
    with fake_scorer() as scorer:
        short = scorer.score("q", steps=["a", "b"])
        long = scorer.score("q", steps=["a", "b", "c"], response=["d"])
    assert long.step_scores[:2].tolist() == short.step_scores.tolist()


def test_a_model_without_a_trajectory_readout_is_rewarded_by_its_steps() -> None:
    with fake_scorer(family="qwen2.5-math-prm") as scorer:
        score = scorer.score("q", steps=["a", "b"])
    assert score.trajectory_score is None
    assert score.reward == pytest.approx(float(score.step_scores.mean()))


def test_too_long_names_both_numbers_and_scores_nothing() -> None:
    called: list[int] = []
    with fake_scorer(max_positions=60) as scorer:
        short, long = (Trajectory(question="q", steps=["x" * size]) for size in (1, 100))
        with pytest.raises(TraceTooLongError, match=r"\d{3} tokens.*60 positions") as caught:
            scorer.score_batch([short, long], on_scored=called.append)
    assert caught.value.max_positions == 60
    assert caught.value.num_tokens > 100
    assert called == []


def test_errors_can_take_the_place_of_scores() -> None:
    good = Trajectory(question="q", steps=["fine"])
    long = Trajectory(question="q", steps=["x" * 600])
    called: list[int] = []
    with fake_scorer() as scorer:
        found = scorer.score_batch(
            [good, long, "text", good],  # type: ignore[list-item]
            on_error="return",
            on_scored=called.append,
        )
    assert found[0] == found[3]
    assert isinstance(found[1], TraceTooLongError)
    assert isinstance(found[2], InvalidTrajectoryError)
    assert "got str, expected a Trajectory" in str(found[2])
    assert sum(called) == 2


def test_an_error_rides_along_in_its_place() -> None:
    good = Trajectory(question="q", steps=["fine"])
    unread = InvalidTrajectoryError("not JSON")
    long = Trajectory(question="q", steps=["x" * 600])
    called: list[int] = []
    with fake_scorer() as scorer:
        found = scorer.score_batch(
            [unread, good, long, unread], on_error="return", on_scored=called.append
        )
        assert found[0] is found[3] is unread
        assert found[1] == scorer.score("q", ["fine"])
        assert isinstance(found[2], TraceTooLongError)
        with pytest.raises(InvalidTrajectoryError, match=r"^item 1 \(from 0\): not JSON$"):
            scorer.score_batch([good, unread, long], on_scored=called.append)
        assert scorer.score_batch([unread], on_error="return") == [unread]
    assert called == [1]


def test_a_trace_that_is_too_long_is_named_among_others() -> None:
    good = Trajectory(question="q", steps=["fine"])
    long = Trajectory(question="q", steps=["x" * 600])
    with fake_scorer() as scorer:
        with pytest.raises(TraceTooLongError, match=r"^item 1 \(from 0\): .*--overflow window"):
            scorer.score_batch([good, long])
        with pytest.raises(TraceTooLongError, match=r"^the trajectory encodes") as caught:
            scorer.score("q", ["x" * 600])
    placed = caught.value.at("line 3")
    copy = pickle.loads(pickle.dumps(placed))
    assert (str(copy), copy.num_tokens) == (str(placed), caught.value.num_tokens)


def test_anything_but_a_trajectory_is_refused() -> None:
    with fake_scorer() as scorer:
        with pytest.raises(InvalidTrajectoryError, match="got 0 steps"):
            scorer.score("q", steps=[])
        with pytest.raises(InvalidTrajectoryError, match="got one string"):
            scorer.score("q", steps="a step")


def test_a_misspelt_choice_is_refused() -> None:
    with fake_scorer() as scorer:
        with pytest.raises(ValueError, match="overflow is 'truncate'"):
            scorer.score("q", steps=["a"], overflow="truncate")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="on_error is 'ignore'"):
            scorer.score_batch([], on_error="ignore")  # type: ignore[call-overload]


def test_logits_that_are_not_numbers_are_an_error() -> None:
    class Damaged(FakeBackend):
        def run(self, batch: TokenBatch, threads: int = 1) -> np.ndarray:
            return super().run(batch) * np.float32(np.nan)

    with (
        scorer_on(Damaged(2)) as scorer,
        pytest.raises(BackendError, match=r"fake \(no model\) returned logits .* not finite"),
    ):
        scorer.score("q", steps=["a"])


def test_the_fake_backend_needs_an_artifact_but_no_model(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    (folder / "model.onnx").unlink()
    with Scorer.load(folder, backend="fake", check_integrity=False) as scorer:
        assert scorer.score("q", steps=["a"]).step_scores.shape == (1,)


@given(st.permutations(range(8)), st.integers(1, 3), st.integers(1, 8))
@settings(max_examples=15)
def test_scores_are_bit_identical_in_any_batch_order_and_number_of_threads(
    tiny_artifact: Path, order: list[int], num_threads: int, size: int
) -> None:
    trajectories = _trajectories(8)
    with Scorer.load(tiny_artifact, num_threads=1) as scorer:
        alone = [scorer.score_batch([item])[0] for item in trajectories]
    with Scorer.load(tiny_artifact, num_threads=num_threads) as scorer:
        chosen = order[:size]
        together = scorer.score_batch([trajectories[index] for index in chosen])
    assert together == [alone[index] for index in chosen]


def test_concurrent_calls_do_not_change_scores(tiny_artifact: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    trajectories = _trajectories(6)
    with Scorer.load(tiny_artifact) as scorer, ThreadPoolExecutor(4) as pool:
        expected = scorer.score_batch(trajectories)
        found = list(pool.map(lambda _: scorer.score_batch(trajectories), range(8)))
    assert found == [expected] * 8


def test_a_closed_scorer_says_so(tiny_artifact: Path) -> None:
    scorer = Scorer.load(tiny_artifact)
    scorer.close()
    scorer.close()
    with pytest.raises(BackendError, match="closed"):
        scorer.score("q", steps=["a"])


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [("missing", "is missing"), ("truncated", "truncated"), ("modified", "modified")],
)
def test_a_damaged_artifact_is_refused_by_file(
    tiny_artifact: Path, tmp_path: Path, name: str, damage: str, message: str
) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-7])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=message) as caught:
        Scorer.load(folder)
    assert name in str(caught.value)


def test_a_manifest_cannot_name_files_elsewhere(tiny_artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    manifest = (folder / "prm.json").read_text()
    (folder / "prm.json").write_text(manifest.replace('"tokenizer.json"', '"../tokenizer.json"'))
    with pytest.raises(ArtifactError, match="is not the name of a file in its folder"):
        Scorer.load(folder)


def test_a_tokenizer_of_another_model_is_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<extra_0>", "<extra_1>"))
    with pytest.raises(TokenizerMismatchError, match="<extra_0>"):
        Scorer.load(folder, check_integrity=False)


def test_an_unknown_backend_or_option_is_refused(tiny_artifact: Path) -> None:
    with pytest.raises(BackendError, match="expected 'auto' or one of"):
        Scorer.load(tiny_artifact, backend="abacus")
    with pytest.raises(BackendError, match=r"has no option .*; it takes \[.*'num_threads'"):
        Scorer.load(tiny_artifact, colour="blue")
    with pytest.raises(BackendError, match=r"which 'auto' picked, .*; name the backend"):
        Scorer.load(tiny_artifact, num_streams=2)
    with pytest.raises(BackendError, match="has no NoSuchProvider"):
        Scorer.load(tiny_artifact, provider="NoSuchProvider")


@pytest.mark.parametrize(
    "setting",
    [
        {"num_threads": 0},
        {"num_threads": "abc"},
        {"threads_per_row": 1.5},
        {"max_batch_tokens": 0},
        {"provider": 3},
        {"provider_options": 3},
        {"session_bytes": -1},
        {"share_prefixes": "no"},
        {"check_integrity": None},
        {"mode": "fast"},
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(
    setting: dict[str, Any], tiny_artifact: Path
) -> None:
    [name] = setting
    with pytest.raises(InvalidArgumentError, match=rf"^{name} is .*, expected ") as caught:
        Scorer.load(tiny_artifact, **setting)
    assert isinstance(caught.value, ValueError)


def test_an_explicit_backend_never_falls_back(tiny_artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=r"needs model\.safetensors.*--format torch"):
        Scorer.load(tiny_artifact, backend="torch")


def test_a_model_file_without_a_model_is_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    (folder / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="cannot be read as an ONNX graph"):
        Scorer.load(folder, check_integrity=False)


def test_onnx_in_latency_mode_gives_a_row_all_cores_and_the_same_bits(tiny_artifact: Path) -> None:
    rows = [Trajectory(question=f"question {n}", steps=["a step " * n]) for n in range(1, 9)]
    with (
        Scorer.load(tiny_artifact, backend="onnx", mode="throughput", num_threads=2) as spread,
        Scorer.load(tiny_artifact, backend="onnx", mode="latency", num_threads=2) as together,
    ):
        assert spread._engine.limits.max_concurrent_runs == 2
        assert together._engine.limits.max_concurrent_runs == 1
        for ours, theirs in zip(
            spread.score_batch(rows, overflow="window"),
            together.score_batch(rows, overflow="window"),
            strict=True,
        ):
            assert (ours.step_scores == theirs.step_scores).all()


def test_what_is_not_a_folder_name_is_refused_by_name() -> None:
    for artifact in (None, 3, b"artifact"):
        with pytest.raises(InvalidArgumentError, match=r"artifact is .*expected the folder of an"):
            Scorer.load(artifact)  # type: ignore[arg-type]
