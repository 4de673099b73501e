"""How many traces the gate compares, by the size of the model, and what few traces can show."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from rfprm_export import ExportError, reference
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import load_prm
from rfprm_export.choices import Precision
from rfprm_export.gate import GATE, STRICT_GATE, Gate, gate_failures, gate_for
from rfprm_export.gate_traces import (
    few_enough,
    groups_of_4,
    num_gate_traces,
    num_parameters,
    spread_over,
    traces_that_fit,
)
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.reference import (
    REFERENCE_NAMES,
    Reference,
    gate_traces_path,
    has_reference,
    record_reference,
    recorded_reference,
    reference_for,
)
from rfprm_export.verify import measure_parity, trial_failures
from rfprm_runtime.artifact.build_records import Parity
from rfprm_runtime.artifact.manifest import Backbone, Manifest
from rfprm_runtime.artifact.parity import best_of_4_interval, spearman_interval
from rfprm_runtime.backends.native.library import available_variants
from rfprm_runtime.prompt.prepared import prepare
from rfprm_runtime.traces.sources import read_trajectories
from rfprm_runtime.types import Trajectory, TrajectoryScore, Windows
from tiny_models import byte_tokenizer, save_published_prm, tiny_manifest


def _manifest(hidden: int, inner: int, layers: int, vocabulary: int) -> Manifest:
    shape = Backbone(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=hidden // 128,
        num_kv_heads=hidden // 128 // 7 or 1,
        head_dim=128,
        intermediate_size=inner,
        vocab_size=vocabulary,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        qkv_bias=True,
    )
    return tiny_manifest(byte_tokenizer(), family="qwen2.5-math-prm", backbone=shape)


SMALL = _manifest(896, 4864, 24, 151_936)
MIDDLE = _manifest(1536, 8960, 28, 151_936)
LARGE = _manifest(3584, 18944, 28, 152_064)


def _parity(**changes: Any) -> Parity:
    fields = {
        "reference": "r",
        "traces": "t",
        "num_trajectories": 64,
        "num_scores": 300,
        "max_difference": 0.01,
        "mean_difference": 0.001,
        "spearman": 0.9995,
        "num_groups": 16,
        "same_best_of_4": 1.0,
    }
    return Parity.model_validate({**fields, **changes})


def test_parameters_are_counted_as_the_papers_count_them() -> None:
    # Qwen2.5-0.5B, 1.5B and 7B: 0.49, 1.54 and 7.07 billion with one embedding, and the head.
    found = [num_parameters(manifest) / 1e9 for manifest in (SMALL, MIDDLE, LARGE)]
    assert found == pytest.approx([0.494, 1.546, 7.084], abs=0.02)


def test_large_models_are_compared_on_fewer_traces_and_judged_by_the_interval() -> None:
    assert [num_gate_traces(manifest) for manifest in (SMALL, MIDDLE, LARGE)] == [256, 128, 64]
    assert gate_for(SMALL) is GATE
    gate = gate_for(LARGE)
    assert (gate.num_trajectories, gate.spearman) == (64, 0.995)
    assert STRICT_GATE.for_size_of(LARGE).spearman == 0.9975
    assert gate_failures(_parity(), gate) == []
    # 0.996 passes on 256 trajectories; on 64 it could as well be 0.9926.
    assert gate_failures(_parity(spearman=0.996, num_trajectories=256)) == []
    (failure,) = gate_failures(_parity(spearman=0.996), gate)
    assert "may be as low as 0.9926, by its 95 % interval over 64 trajectories" in failure
    (failure,) = gate_failures(_parity(num_trajectories=63), gate)
    assert "63 trajectories were compared" in failure
    # One of 16 picks is more than two in a hundred.
    (failure,) = gate_failures(_parity(same_best_of_4=15 / 16), gate)
    assert "unchanged in 93.8% of 16 groups" in failure
    assert len(gate_failures(_parity(spearman=None), gate)) == 1


def test_intervals_by_hand() -> None:
    # z = atanh(0.9) = 1.47222, standard error sqrt((1 + 0.405) / 100) = 0.118533.
    low, high = spearman_interval(_parity(spearman=0.9, num_trajectories=103)) or (0, 0)
    assert (low, high) == pytest.approx((0.845427, 0.935974), abs=1e-6)
    assert spearman_interval(_parity(spearman=1.0)) == (1.0, 1.0)
    assert spearman_interval(_parity(spearman=0.3, num_trajectories=3)) == (-1.0, 1.0)
    assert spearman_interval(_parity(spearman=None)) is None
    # Wilson: all of n are n / (n + 1.96²) at least.
    assert best_of_4_interval(_parity()) == pytest.approx((16 / (16 + 3.841459), 1.0), abs=1e-6)
    assert best_of_4_interval(_parity(same_best_of_4=0.0)) == pytest.approx(
        (0.0, 3.841459 / (16 + 3.841459)), abs=1e-6
    )
    assert best_of_4_interval(_parity(same_best_of_4=0.5, num_groups=10)) == pytest.approx(
        (0.236593, 0.763407), abs=1e-5
    )
    assert best_of_4_interval(_parity(same_best_of_4=None, num_groups=0)) is None


@pytest.mark.parametrize("count", [4, 20, 63, 64, 128, 256, 400])
def test_whole_groups_are_chosen_from_all_over_the_file(count: int) -> None:
    groups = [list(range(4 * index, 4 * index + 4)) for index in range(64)]
    chosen = spread_over(groups, count)
    assert min(count, 256) <= len(chosen) < min(count, 256) + 4
    assert sorted(set(chosen)) == chosen
    owners = np.array(chosen[::4]) // 4
    assert chosen == [4 * int(owner) + n for owner in owners for n in range(4)]
    gaps = np.diff([*owners, 64])
    assert owners[0] == 0
    assert gaps.max() - gaps.min() <= 1


def test_no_groups_give_no_members() -> None:
    assert spread_over([], 64) == []


def test_a_large_model_is_compared_on_whole_groups_and_says_so() -> None:
    trajectories = read_trajectories(gate_traces_path())
    chosen, label = few_enough(trajectories, "shipped gate traces", LARGE)
    assert label == "64 of the 256 shipped gate traces"
    assert len(groups_of_4([trajectories[index] for index in chosen])) == 16
    assert few_enough(trajectories, "all", SMALL) == (list(range(256)), "all")


def _mark(trajectory: Trajectory) -> TrajectoryScore:
    """A score by which a trace is known again."""
    length = float(len(trajectory.question) + sum(map(len, trajectory.steps)))
    scores = np.zeros(len(trajectory.steps), np.float32)
    return TrajectoryScore(step_scores=scores, trajectory_score=length, reward=0.0, num_tokens=1)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], LoadedPRM]:
    """Records the marks of a checkpoint of so many positions, as if no torch were installed."""
    monkeypatch.setattr("rfprm_export.gate_traces._COUNTS", ((float("inf"), 24),))
    monkeypatch.setattr(reference, "find_spec", lambda _: None)
    monkeypatch.setattr(reference, "checkpoint_digest", lambda _: "a checkpoint")

    def score(prm: Any, traces: Sequence[Trajectory], _: Any) -> tuple[str, list[TrajectoryScore]]:
        encoder = prm.encoder()
        for trace in traces:  # as a scorer does, which refuses what does not fit
            prepare(trace, encoder, prm.manifest, windows=Windows(), score_prefixes=False)
        return "marks", [_mark(trace) for trace in traces]

    def record(positions: int) -> LoadedPRM:
        prm = LoadedPRM(
            tiny_manifest(byte_tokenizer(), max_positions=positions), {}, byte_tokenizer()
        )
        monkeypatch.setattr(reference, "load_prm", lambda *_, **__: prm)
        monkeypatch.setattr(reference, "score_by_reference", score)
        record_reference(tmp_path)
        assert has_reference(tmp_path)
        return prm

    return record


@pytest.mark.parametrize("positions", [330, 4096])
def test_what_is_recorded_is_what_an_export_asks_for(
    recorded: Callable[[int], LoadedPRM], tmp_path: Path, positions: int
) -> None:
    prm = recorded(positions)
    for precision, kind in (("fp32", "examples"), ("int8", "gate")):
        found = reference_for(prm, tmp_path, cast(Precision, precision))
        content = json.loads((tmp_path / REFERENCE_NAMES[kind]).read_text())
        assert found.description == "recorded: marks"
        assert len(content["scores"]) == len(found.scores) > 0
        assert [_mark(one).trajectory_score for one in found.trajectories] == [
            score.trajectory_score for score in found.scores
        ]
        assert ("chosen" in content) is (" of the " in found.traces)
        if kind == "gate":
            assert len(found.scores) >= 24
            assert ("which fit into" in found.traces) is (positions < 4096)
            assert len(recorded_reference(tmp_path).scores) == len(found.scores)


def test_a_model_into_which_nothing_fits_records_nothing_and_says_so_at_export(
    recorded: Callable[[int], LoadedPRM], tmp_path: Path
) -> None:
    prm = recorded(20)
    for precision in ("fp32", "int8"):
        with pytest.raises(ExportError, match=r"into which 0 of the .* fit"):
            reference_for(prm, tmp_path, cast(Precision, precision))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content["chosen"].pop(), "it names 23 traces and has 24 scores"),
        (lambda content: content["chosen"].__setitem__(0, 255), "has no scores of 1 of the 24 tr"),
    ],
)
def test_recorded_scores_of_other_traces_are_refused(
    recorded: Callable[[int], LoadedPRM],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    problem: str,
) -> None:
    prm = recorded(4096)
    path = tmp_path / REFERENCE_NAMES["gate"]
    content = json.loads(path.read_text())
    assert content["chosen"][0] == 0
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=f"{problem}.*install torch"):
        reference_for(prm, tmp_path, "int8")


@pytest.mark.skipif(not available_variants(), reason="the package was built without a C compiler")
def test_a_large_model_is_exported_on_few_traces_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_published_prm(tmp_path / "prm", "qwen2", max_positions=1024)
    size = num_parameters(load_prm(tmp_path / "prm").manifest)
    # Of fewer traces the interval around ρ may be too wide for the gate: a random model's weights,
    # and so its ρ, differ between processors.
    counts = ((size - 1, 256), (size, 32), (size + 1, 4))
    monkeypatch.setattr("rfprm_export.gate_traces._COUNTS", counts)
    parity = export_artifact(tmp_path / "prm", tmp_path / "out", precision="int16").parity
    assert parity is not None
    assert (parity.num_trajectories, parity.num_groups) == (32, 8)
    assert parity.traces == "32 of the 256 shipped gate traces"


def test_given_traces_are_all_compared_but_must_be_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_published_prm(tmp_path / "prm", "qwen2", max_positions=1024)
    monkeypatch.setattr("rfprm_export.gate_traces._COUNTS", ((float("inf"), 4),))
    lines = gate_traces_path().read_text().splitlines(keepends=True)
    (tmp_path / "three.jsonl").write_text("".join(lines[:3]))
    (tmp_path / "nine.jsonl").write_text("".join(lines[:9]))
    prm = load_prm(tmp_path / "prm")
    with pytest.raises(ExportError, match=r"holds 3 trajectories.*is verified on at least 4"):
        reference_for(prm, tmp_path / "prm", "bf16", tmp_path / "three.jsonl")
    found = reference_for(prm, tmp_path / "prm", "bf16", tmp_path / "nine.jsonl")
    assert len(found.scores) == 9
    assert found.traces == "nine.jsonl"


def test_shipped_traces_that_do_not_fit_are_left_out_and_said() -> None:
    manifest = tiny_manifest(byte_tokenizer(), max_positions=60)
    prm = LoadedPRM(manifest, {}, byte_tokenizer())
    short, long, in_windows = (
        Trajectory(question="Why?", steps=steps)
        for steps in (("So.",), ("So." * 99,), ("So.",) * 99)
    )
    found, label = traces_that_fit([short, long, in_windows], "traces", prm, needed=2)
    assert (found, label) == ([0, 2], "2 of the 3 traces, which fit into 60 positions")
    assert traces_that_fit([short, short], "traces", prm, needed=2) == ([0, 1], "traces")
    with pytest.raises(ExportError, match=r"60 positions .* 1 of the 2 traces fit, .* at least 2"):
        traces_that_fit([short, long], "traces", prm, needed=2)


class _Recorded:
    """Gives every trace scores chosen beforehand, and counts the traces asked for."""

    manifest, backend_description = SMALL, "recorded"

    def __init__(self, scores: dict[tuple[str, ...], TrajectoryScore]) -> None:
        self.scores, self.asked = scores, 0

    def score_batch(self, trajectories: Any, **_: Any) -> list[TrajectoryScore]:
        self.asked += len(trajectories)
        return [self.scores[one.steps] for one in trajectories]


def _scored(numbers: Sequence[float]) -> list[TrajectoryScore]:
    return [
        TrajectoryScore(step_scores=[x], trajectory_score=x, reward=2 * x, num_tokens=9)  # type: ignore[arg-type]
        for x in numbers
    ]


def test_a_gate_that_is_lost_is_given_up_early_with_the_same_answer() -> None:
    random = np.random.default_rng(3)
    # Six questions with four traces each, in no order, and two that have only one.
    questions = random.permutation([*np.repeat(np.arange(6), 4), 6, 7])
    traces = [Trajectory(question=f"{q}?", steps=(str(i),)) for i, q in enumerate(questions)]
    exact = random.permutation(np.linspace(0.1, 0.9, len(traces)))
    reference = Reference("exact", "traces", traces, _scored(exact))
    gate = Gate(num_trajectories=26, spearman=0.99, mean_difference=0.004, same_best_of_4=0.8)
    kept = lost = asked_when_lost = 0
    for _ in range(300):
        noise = random.normal(size=len(traces)) * random.choice([0, 0.004, 0.01, 0.1])
        few = random.random(len(traces)) < random.choice([0.1, 0.5, 1.0])
        scores = dict(zip([t.steps for t in traces], _scored(exact + few * noise), strict=True))
        scorer: Any = _Recorded(scores)
        expected = not gate_failures(measure_parity(scorer, reference), gate)
        scorer.asked = 0
        failures = trial_failures(scorer, reference, gate)
        assert (not failures) == expected
        given_up = scorer.asked < len(traces)
        assert all((f"after {scorer.asked} of 26 traces" in one) == given_up for one in failures)
        if expected:
            assert scorer.asked == len(traces)
        kept, lost = kept + expected, lost + (not expected)
        asked_when_lost += 0 if expected else scorer.asked
    assert min(kept, lost) > 50
    assert asked_when_lost < 0.7 * lost * len(traces)


def test_no_traces_keep_no_gate() -> None:
    nothing: Any = _Recorded({})
    with pytest.raises(ExportError, match="hold no trajectory"):
        trial_failures(nothing, Reference("exact", "none", [], []), GATE)
