from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rfprm_training import TrainingError
from rfprm_training.config import read_config

WriteConfig = Callable[..., Path]
SHIPPED = Path(__file__).resolve().parents[2] / "training/configs/smollm2-135m-gsm8k.toml"


def test_the_shipped_config_is_valid() -> None:
    assert read_config(SHIPPED).name == "smollm2-135m-gsm8k"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("lora_rank = 2", "lora_rnak = 2", r"network\.lora_rnak"),
        ("lora_rank = 2", "lora_rank = 0", r"network\.lora_rank"),
        ("first_trained_layer = 1", "first_trained_layer = 3", "none of the 3 layers"),
        ('name = "tiny"', "", "name: Field required"),
        ('kind = "folder"', 'kind = "floppy"', "base"),
        ("seed = 3", "seed = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(
    write_config: WriteConfig, old: str, new: str, complaint: str
) -> None:
    with pytest.raises(TrainingError, match=complaint):
        read_config(write_config((old, new)))


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"absent\.toml"):
        read_config(tmp_path / "absent.toml")
