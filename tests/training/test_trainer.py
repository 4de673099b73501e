from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rfprm_runtime.batching import pad_batch
from rfprm_training import TrainingError
from rfprm_training.evaluation import open_scorer
from rfprm_training.trainer import LOG_NAME, Trainer, learning_rate_scale

WriteConfig = Callable[..., Path]
TENSOR_FILES = ("adapter_model.safetensors", "heads.safetensors")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Without what depends on the machine's mood."""
    records = map(json.loads, (folder / LOG_NAME).read_text().splitlines())
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def assert_same_result(first: Path, second: Path) -> None:
    for name in TENSOR_FILES:
        one, other = load_file(first / name), load_file(second / name)
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    assert read_log(first) == read_log(second)


@pytest.fixture
def finished_run(write_config: WriteConfig, tmp_path: Path) -> Path:
    return Trainer(write_config(), tmp_path / "whole", device="cpu").run()


def test_a_run_stopped_and_continued_gives_the_same_result(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    Trainer(write_config(), folder, device="cpu").run(max_steps=4)
    assert not (folder / "checkpoint.json").exists()
    Trainer(write_config(), folder, device="cpu").run()
    assert_same_result(folder, finished_run)


def test_steps_after_the_last_save_are_done_again_and_logged_once(
    write_config: WriteConfig,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "interrupted"
    train_step = Trainer._train_step

    def interrupted(self: Trainer, step: int, *rest: Any) -> None:
        if step == 3:  # saved after 2
            raise KeyboardInterrupt
        train_step(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Trainer(write_config(), folder, device="cpu").run()
    assert len(read_log(folder)) == 3
    Trainer(write_config(), folder, device="cpu").run()
    assert_same_result(folder, finished_run)


def test_a_run_interrupted_before_its_first_save_logs_nothing_twice(
    write_config: WriteConfig,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "early"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Trainer(write_config(), folder, device="cpu").run()
    assert read_log(folder)
    Trainer(write_config(), folder, device="cpu").run()
    assert_same_result(folder, finished_run)


def test_a_log_line_torn_by_a_kill_does_not_stop_the_next_run(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "torn"
    Trainer(write_config(), folder, device="cpu").run(max_steps=2)
    with (folder / LOG_NAME).open("a") as file:
        file.write('{"step": 3, "of"')
    Trainer(write_config(), folder, device="cpu").run()
    assert_same_result(folder, finished_run)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_result(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(("num_epochs = 2", "num_epochs = 300"))
    folder = tmp_path / "killed"
    code = (
        "import sys; from pathlib import Path; from rfprm_training.trainer import Trainer; "
        "Trainer(Path(sys.argv[1]), Path(sys.argv[2]), device='cpu').run()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code, config, folder], env=environment)
    try:
        wait_for(folder / "state.pt", process)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (folder / "checkpoint.json").exists()
    target = torch.load(folder / "state.pt", weights_only=True)["step"] + 20
    resumed, uninterrupted = Trainer(config, folder, device="cpu"), tmp_path / "uninterrupted"
    resumed.run(max_steps=20)
    Trainer(config, uninterrupted, device="cpu").run(max_steps=target)
    states = [
        torch.load(place / "state.pt", weights_only=True)["parameters"]
        for place in (folder, uninterrupted)
    ]
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=0, atol=0)
    assert read_log(folder) == read_log(uninterrupted)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, "the run ended before it saved anything"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_loss_falls(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(
        ("num_epochs = 2", "num_epochs = 40"), ("\nlearning_rate = 1e-3", "\nlearning_rate = 1e-2")
    )
    folder = Trainer(config, tmp_path / "run", device="cpu").run()
    totals = [record["loss_total"] for record in read_log(folder)]
    first, last = np.mean(totals[:5]), np.mean(totals[-5:])
    print(f"loss {first:.3f} -> {last:.3f} in {len(totals)} steps")
    # Before training every score is 0.5: ln 2 for steps, trajectories and half of it for pairs.
    assert totals[0] == pytest.approx(2.5 * math.log(2), rel=1e-3)
    assert last < 0.7 * first


def test_the_checkpoint_scores_as_the_network_that_was_trained(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    trainer = Trainer(write_config(), tmp_path / "run", device="cpu")
    folder = trainer.run()
    trainer.prm.network.float().eval()
    examples = trainer.examples[:6]
    with open_scorer(folder) as scorer:
        scores = scorer.score_batch([example.trajectory for example in examples])
    for row, score in zip(trainer.rows, scores, strict=False):
        batch = pad_batch([row])
        with torch.inference_mode():
            logits = trainer.prm.network(
                torch.from_numpy(batch.token_ids), torch.from_numpy(batch.marker_positions)
            )
        chances = torch.sigmoid(logits).numpy()
        np.testing.assert_allclose(score.step_scores, chances[:-1, 0], atol=1e-4)
        assert score.trajectory_score == pytest.approx(chances[-1, 1], abs=1e-4)
        assert not np.allclose(score.step_scores, 0.5, atol=1e-3)  # something was learnt


def test_layers_above_the_kept_ones_are_neither_trained_nor_scored(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(("num_layers = 3", "num_layers = 2"))
    folder = Trainer(config, tmp_path / "run", device="cpu").run()
    layers = {
        int(name.split(".layers.")[1].split(".")[0])
        for name in load_file(folder / "adapter_model.safetensors")
    }
    assert layers == {1}
    with open_scorer(folder) as scorer:
        assert scorer.manifest.backbone.num_layers == 2


def test_no_held_out_example_is_trained_on(write_config: WriteConfig, tmp_path: Path) -> None:
    trainer = Trainer(write_config(), tmp_path / "run", device="cpu")
    planned = [index for batch in trainer._plan() for index in batch]
    expected = [i for i, example in enumerate(trainer.examples) if not example.held_out]
    assert sorted(planned) == sorted(2 * expected)  # two epochs
    assert len(expected) < len(trainer.examples)


def test_a_folder_with_another_config_is_refused(write_config: WriteConfig, tmp_path: Path) -> None:
    Trainer(write_config(), tmp_path / "run", device="cpu")
    other = write_config(("seed = 3", "seed = 4"), name="other.toml")
    with pytest.raises(TrainingError, match="another config"):
        Trainer(other, tmp_path / "run", device="cpu")


def test_a_finished_run_is_not_trained_again(write_config: WriteConfig, finished_run: Path) -> None:
    with pytest.raises(TrainingError, match="finished"):
        Trainer(write_config(), finished_run, device="cpu")


def test_the_config_is_saved_beside_the_result(
    write_config: WriteConfig, finished_run: Path
) -> None:
    assert (finished_run / "config.toml").read_text() == write_config().read_text()


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    scales = [learning_rate_scale(step, 12, 2) for step in range(12)]
    assert scales[:3] == [0.5, 1.0, 1.0]
    assert scales[7] == pytest.approx(0.5)  # half of the cosine's ten steps
    assert scales[-1] == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    assert all(later <= earlier for earlier, later in pairwise(scales[1:]))
