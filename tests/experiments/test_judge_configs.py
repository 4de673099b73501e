"""The configs and prompts of the section on small judges can still be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfprm_training.labelling.config import read_label_config
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.expert.prompts import load_prompt
from rfprm_training.toml_config import read_toml

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"


def test_the_judge_and_the_template_reward_are_configured() -> None:
    judge = read_toml(CONFIGS / "judge.toml", ExpertConfig, "description of an expert LLM")
    assert (judge.grading, judge.concurrency) == ("expected", 1)
    labels = read_label_config(CONFIGS / "template.toml")
    assert labels.trajectory.kind == "template"


@pytest.mark.parametrize("path", sorted((CONFIGS / "prompts").iterdir()), ids=lambda p: p.stem)
def test_the_prompts_that_were_tried_can_be_shown(path: Path) -> None:
    prompt = load_prompt("judge_step", {"judge_step": path})
    messages = prompt.messages(question="1 + 1?", steps="[1] It is 3.", step=1, response="3")
    assert "1 + 1?" in messages[1]["content"]
    assert "[1] It is 3." in messages[1]["content"]
