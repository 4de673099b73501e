from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rfprm_training import TrainingError
from rfprm_training.learning.config import read_config

WriteConfig = Callable[..., Path]
CONFIGS = Path(__file__).resolve().parents[2] / "training/configs"


def test_every_config_is_valid_and_named_like_its_file() -> None:
    paths = sorted(CONFIGS.glob("*.toml"))
    assert "smollm2-135m-gsm8k" in [path.stem for path in paths]
    assert [read_config(path).name for path in paths] == [path.stem for path in paths]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("lora_rank = 2", "lora_rnak = 2", r"network\.lora_rnak"),
        ("lora_rank = 2", "lora_rank = 0", r"network\.lora_rank"),
        ("first_trained_layer = 1", "first_trained_layer = 3", "none of the 3 layers"),
        ('name = "tiny"', "", "name: is missing"),
        ('kind = "folder"', 'kind = "floppy"', "base"),
        ("seed = 3", "seed = ", "not TOML"),
        ("num_folds = 3", "num_folds = 3\nprocedures = {sudoku = 1}", "sudoku.*sorting"),
        ("num_folds = 3", "num_folds = 3\nprocedures = {sums = -1}", r"procedures\.sums"),
    ],
)
def test_a_wrong_setting_is_named(
    write_config: WriteConfig, old: str, new: str, complaint: str
) -> None:
    with pytest.raises(TrainingError, match=complaint):
        read_config(write_config((old, new)))


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"absent\.toml"):
        read_config(tmp_path / "absent.toml")


@pytest.mark.parametrize("content", [b"\xff", b"a = " + b"[" * 100_000, b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(TrainingError, match=r"x\.toml is not TOML"):
        read_config(tmp_path / "x.toml")
