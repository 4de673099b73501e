"""What the variants of the reward design know, how they are compared, and a real small run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import ablation
from experiments.ablation_figures import (
    WEIGHTS,
    auc,
    gap,
    labelled_steps,
    of_labels,
    rank,
    summarise,
)
from experiments.ablation_runs import VARIANTS, labelled_as, usable
from rfprm_runtime import Trajectory
from rfprm_training.labelling.config import read_label_config
from rfprm_training.learning.config import read_config
from rfprm_training.rewarded import RewardedTrajectory


def _row(question: str = "q", outcome: bool = True, **components: Any) -> RewardedTrajectory:
    known = components or {"alignment": (0.2, 0.4), "coherence": (0.6, None), "quality": (1.0, 0.0)}
    return RewardedTrajectory(
        trajectory=Trajectory(question=question, steps=("one", "two"), outcome=outcome),
        step_rewards=(0.5, 0.5),
        components=known,
        trajectory_reward=float(outcome),
    )


def test_a_variant_knows_nothing_else() -> None:
    def rewards(name: str) -> tuple[Any, Any]:
        found = labelled_as(VARIANTS[name], _row())
        assert found.components == {}
        return found.step_rewards, found.trajectory_reward

    assert rewards("outcome") == ((None, None), 1.0)
    assert rewards("+ alignment") == ((0.2, 0.4), 1.0)
    assert rewards("+ coherence") == ((0.6, None), 1.0)
    steps, trajectory = rewards("all three, no trajectory reward")
    assert trajectory is None
    assert 0.6 < steps[0] < 1  # the softmax leans to the largest
    assert 0 < steps[1] < 0.4  # of the two that are known
    with pytest.raises(SystemExit, match="no \\['quality'\\]"):
        labelled_as(VARIANTS["+ quality"], _row(alignment=(0.2, 0.4)))


def test_all_variants_train_on_the_same_traces() -> None:
    whole = _row("whole")
    unjudged = whole.model_copy(update={"trajectory": Trajectory(question="q", steps=("1", "2"))})
    nothing: tuple[None, None] = (None, None)
    no_quality = _row("no quality", alignment=(0.2, 0.4), coherence=nothing, quality=nothing)
    no_steps = _row("no steps", alignment=nothing, coherence=nothing, quality=nothing)
    assert usable([whole, unjudged, no_quality, no_steps]) == [whole, no_quality]


def test_labels_are_ranked_by_themselves() -> None:
    rows = [
        _row(f"q{n}", outcome=right, alignment=(0.5, 0.5), coherence=(None, None), quality=quality)
        for n in range(8)
        for right, quality in ((True, (1.0, None)), (False, (1.0, 0.0)))
    ]
    right = np.array([bool(row.trajectory.outcome) for row in rows])
    rows[0] = _row("q0", alignment=(0.9, 0.9), coherence=(0.1, None), quality=(None, None))
    found = of_labels(rows, right, np.repeat(np.arange(8), 2))
    assert found["quality"][0] == 1.0
    assert found["alignment"][0] == pytest.approx((1 + 7 * 0.5) / 8)
    assert found["coherence"][0] == 0.5
    assert found["all fused"][0] > 0.8


def test_ranking_is_counted_by_question() -> None:
    right = np.array([True, False, True, False, False, True])
    questions = np.array([0, 0, 1, 1, 1, 2])
    measured = {
        "steps": [[0.9], [0.0, 0.2], [0.5], [0.5], [0.7], [0.3]],
        "trajectory": [0.1, 0.2, 0.9, 0.0, 0.3, 0.5],
    }
    steps = rank(measured, right, questions, 0.0)
    assert steps.tolist() == [
        [1, 1, 1, 0.5, 1],
        [0.5, 2, 0, pytest.approx(1 / 3), 1],
        [0, 0, 1, 1, 1],
    ]
    alone = rank(measured, right, questions, float("inf"))
    assert alone[:, 0].tolist() == [0, 2, 0]
    both = rank(measured, right, questions, 1.0)  # 1.0 and 0.3; 1.4, 0.5 and 1.0
    assert both[:, 0].tolist() == [1, 2, 0]
    seeds = np.stack([steps, alone], axis=1)
    assert auc(seeds) == pytest.approx((1.5 / 3 + 2 / 3) / 2)
    at_random = 0.5 + 1 / 3 + 1
    assert gap(np.stack([both], axis=1)) == 1
    assert gap(np.stack([steps], axis=1)) == pytest.approx((2 - at_random) / (3 - at_random))


def test_ties_are_picked_by_share() -> None:
    measured = {"steps": [[0.5], [0.5], [0.1]], "trajectory": [0.0] * 3}
    rows = rank(measured, np.array([True, False, True]), np.zeros(3, int), 0.0)
    assert rows[0].tolist() == [0.5, 2, 0.5, pytest.approx(2 / 3), 1]


def test_variants_are_compared_with_outcome_alone() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(200) < 0.5
    questions = np.arange(200) // 4
    good = (right + rng.normal(0, 0.3, 200)).tolist()
    blind = rng.random(200).tolist()
    # Two steps, the second with a grade in odd traces alone.
    graded = [
        _row(f"q{n // 4}", quality=(float(n % 2), 0.0 if n % 2 else None)) for n in range(200)
    ]
    examples = [labelled_as(VARIANTS["+ quality"], row).as_example() for row in graded]

    def measured(trajectory: list[float]) -> dict[str, Any]:
        sets = {"f": {"step_auc": trajectory[0], "first_error_f1": None}}
        steps = [[value, 0.0] for value in blind]
        return {"steps": steps, "trajectory": trajectory, "sets": sets}

    runs = {
        "outcome": {"0": measured(blind), "1": measured(blind)},
        "+ quality": {"0": measured(good), "1": measured(good)},
        "+ alignment": {"0": measured(good)},  # a seed is missing
    }
    found = summarise(runs, right, questions, examples)
    odd = [blind[n] > blind[m] for n in range(1, 200, 2) for m in range(0, 200, 2)]
    value, low, high = found["outcome"]["step_auc_at_place"]
    assert value == pytest.approx(np.mean(odd))  # second steps are all wrong, and no pair
    assert low < value < high
    assert found["outcome"]["step_auc_in_wrong"][0] == value  # all traces have a wrong step
    by_seed = found["+ quality"]["trajectory alone"]["auc_by_seed"]
    assert found["+ quality"]["trajectory alone"]["auc"][0] == pytest.approx(np.mean(by_seed))
    assert len(by_seed) == 2
    assert len(found["+ alignment"]["trajectory alone"]["auc_by_seed"]) == 1
    assert min(by_seed) > 0.9
    difference, low, high = found["+ quality"]["trajectory alone"]["over_outcome"]
    assert 0.3 < low <= difference <= high
    assert found["+ quality"]["steps alone"]["over_outcome"][0] == pytest.approx(0, abs=1e-9)
    assert "over_outcome" not in found["outcome"]["steps alone"]
    assert "over_outcome" not in found["+ alignment"]["steps alone"]
    assert found["outcome"]["sets"] == {"f": {"step_auc": blind[0], "first_error_f1": None}}


def test_steps_are_compared_within_a_seed() -> None:
    rows = [_row(quality=(1.0, 1.0)), _row(quality=(1.0, 0.0)), _row(quality=(None, None))]
    examples = [labelled_as(VARIANTS["+ quality"], row).as_example() for row in rows]
    # The second seed's scores are all higher; in each, the wrong step is below the right one.
    seeds = [[[0.5, 0.2], [0.5, 0.1], [0.0, 0.0]], [[0.9, 0.9], [0.9, 0.8], [0.0, 0.0]]]
    steps = labelled_steps(seeds, examples)
    assert len(steps) == 8
    assert steps.auc_at_place is not None
    assert steps.auc_at_place.value == 1.0
    assert steps.auc_in_wrong is None  # no two steps of wrong traces at one place differ
    assert len(labelled_steps([[[0.1, 0.2]], [[0.1, 0.2]]], examples[2:])) == 0


def test_the_configs_are_whole() -> None:
    folder = Path(ablation.__file__).parent / "configs"
    config = read_config(folder / "ablation.toml")
    assert config.network.first_trained_layer == config.network.num_layers - 1
    labels = read_label_config(folder / "labels.toml")
    needed = {name for variant in VARIANTS.values() for name in variant.components}
    assert needed == set(labels.steps.components)


def test_a_small_ablation_runs_whole(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, sets = tmp_path / "labels.jsonl", tmp_path / "sets.jsonl"
    rows = [
        _row(f"What is {n} + {n}?", outcome=bool((n + sample) % 2))
        for n in range(16)
        for sample in range(3)
    ]
    labels.write_text("".join(row.to_line() for row in rows))
    sets.write_text("".join(row.to_line() for row in rows[:6]))
    options = [str(labels), "--config", str(tiny_config), "-o", str(tmp_path / "out")]
    options += ["--seeds", "0", "--variants", "outcome", "all three, no trajectory reward"]
    options += ["--on", f"rewarded:{sets}"]
    ablation.main(options)
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert set(found["variants"]) == {"outcome", "all three, no trajectory reward"}
    assert found["labels"]["quality"][0] == 0.5  # all traces have the same labels
    assert (found["traces"], found["questions"]) == (48, 16)
    for figures in found["variants"].values():
        assert all(0 <= figures[kind]["auc"][0] <= 1 for kind in WEIGHTS)
        assert set(figures["sets"]) == {str(sets)}
    told = capsys.readouterr().out
    assert "outcome, seed 0" in told
    ablation.main(options)
    assert "seed 0" not in capsys.readouterr().out  # kept
    # Stopped after a run, and after a run but before its scores.
    folder = next(path for path in (tmp_path / "out").glob("all*-0"))
    for path in (tmp_path / "out").glob("all*-0.json"):
        path.unlink()
    (folder / "fold-1-scores.json").unlink()
    ablation.main(options)
    assert (
        json.loads((tmp_path / "out" / "ablation.json").read_text())["variants"]
        == (found["variants"])
    )
    capsys.readouterr()
    with pytest.raises(SystemExit, match="folds was"):
        ablation.main([*options, "--folds", "2"])
