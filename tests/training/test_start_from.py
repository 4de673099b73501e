"""Runs that start from the weights of another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rfprm_training import ConfigError, TrainingError
from rfprm_training.learning.config import read_config
from rfprm_training.learning.trainer import Trainer
from tiny_runs import parameters

WriteConfig = Callable[..., Path]


def test_a_run_starts_from_the_weights_of_another(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    config = write_config(("seed = 3", f'seed = 3\nstart_from = "{finished_run}"'))
    trainer = Trainer(config, tmp_path / "second", device="cpu")
    trainer.prm.add_trained_parts()
    expected = parameters(finished_run)
    for name, parameter in trainer.prm.trained_parameters().items():
        stored = name.replace(".default.", ".")
        stored = f"base_model.model.{stored}" if ".lora_" in name else stored
        np.testing.assert_array_equal(parameter.detach().numpy(), expected[stored], err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lora_rank = 2", "lora_rank = 3"), "use the same method and lora_rank"),
        (("first_trained_layer = 1", "first_trained_layer = 2"), "trained other weights"),
        (("num_layers = 3", "num_layers = 4"), "whose num_layers is 3, but this config has 4"),
        (("lora_alpha = 4", "lora_alpha = 8"), "with lora_alpha 4, but this config has 8"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    write_config: WriteConfig,
    finished_run: Path,
    tmp_path: Path,
    change: tuple[str, str],
    message: str,
) -> None:
    config = write_config(("seed = 3", f'seed = 3\nstart_from = "{finished_run}"'), change)
    with pytest.raises(TrainingError, match=message):
        Trainer(config, tmp_path / "second", device="cpu").prm.add_trained_parts()


def test_a_run_may_train_more_layers_than_the_one_it_starts_from(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    more = ("first_trained_layer = 1", "first_trained_layer = 0")
    config = write_config(("seed = 3", f'seed = 3\nstart_from = "{finished_run}"'), more)
    trainer = Trainer(config, tmp_path / "second", device="cpu")
    trainer.prm.add_trained_parts()
    trainer.prm.save_checkpoint(tmp_path / "before")
    expected, found = parameters(finished_run), parameters(tmp_path / "before")
    assert expected.keys() < found.keys()
    for name, array in found.items():
        if name in expected:
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
        else:  # the product of A and B is zero, so that nothing has changed yet
            assert ".layers.0." in name
            assert array.any() == (".lora_A." in name), name
    after = parameters(Trainer(config, tmp_path / "second", device="cpu").run())
    assert all(np.any(after[name] != found[name]) for name in found if ".layers.0." in name)


def test_a_mean_needs_a_start_with_the_same_weights(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    start = f'seed = 3\nstart_from = "{finished_run}"\nstart_share = 0.5'
    more = ("first_trained_layer = 1", "first_trained_layer = 0")
    config = write_config(("seed = 3", start), more)
    with pytest.raises(TrainingError, match=r"did not train .*layers\.0\..*; a mean needs both"):
        Trainer(config, tmp_path / "second", device="cpu").prm.add_trained_parts()


def test_a_missing_start_is_named_at_once(write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config(("seed = 3", f'seed = 3\nstart_from = "{tmp_path / "nowhere"}"'))
    with pytest.raises(TrainingError, match="holds no finished run; train that one first"):
        Trainer(config, tmp_path / "second", device="cpu")


def test_the_finished_weights_may_be_a_mean_with_those_of_the_start(
    write_config: WriteConfig, finished_run: Path, tmp_path: Path
) -> None:
    def run(name: str, share: str, **options: int) -> Path:
        settings = f'seed = 4\nstart_from = "{finished_run}"\nstart_share = {share}'
        config = write_config(("seed = 3", settings))
        return Trainer(config, tmp_path / name, device="cpu").run(**options)

    start, alone = parameters(finished_run), parameters(run("alone", "0.0"))
    mixed = parameters(run("mixed", "0.25"))
    for name, found in mixed.items():
        expected = 0.25 * start[name] + 0.75 * alone[name]
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
    assert any(np.abs(start[name] - alone[name]).max() > 1e-4 for name in mixed)
    # They are mixed once, at the end, also in a run that was stopped.
    run("stopped", "0.25", max_steps=2)
    for name, found in parameters(run("stopped", "0.25")).items():
        np.testing.assert_array_equal(found, mixed[name], err_msg=name)
    assert "make up 0.25 of the finished ones" in (tmp_path / "mixed/README.md").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("start_share = 0.5", "set start_from too"),
        ('start_from = "x"\nstart_share = 1.0', "start_share"),
        ('start_from = "x"\nstart_share = -0.1', "start_share"),
    ],
)
def test_a_share_of_no_start_is_refused(
    write_config: WriteConfig, settings: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(write_config(("seed = 3", f"seed = 3\n{settings}")))
