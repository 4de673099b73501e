"""TRL's contract: reward functions that pickle, log, and return None if there is no score."""

from __future__ import annotations

import asyncio
import inspect
import logging
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_runtime import ArtifactError, Windows
from rfprm_runtime.integrations.trl import process_reward
from rfprm_runtime.rewards.settings import RewardSettings

QUESTION = "What is 6 times 7?"
RIGHT, WRONG, NONE = "6 * 7 = 42.\n\nThe answer is 42.", "6 + 7 = 13.\n\nSo 13.", " \n "
PLAIN = {"prompts": [QUESTION] * 3, "completions": [RIGHT, WRONG, NONE]}
ROOT = Path(__file__).resolve().parents[2]
third_party_warnings = pytest.mark.filterwarnings("default")


def _messages() -> dict[str, list[Any]]:
    return {
        "prompts": [[{"role": "user", "content": text}] for text in PLAIN["prompts"]],
        "completions": [[{"role": "assistant", "content": x}] for x in PLAIN["completions"]],
    }


def _call(function: Callable[..., Any], **columns: Any) -> Any:
    result = function(**columns)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def make(request: pytest.FixtureRequest, artifact: str) -> Callable[..., Any]:
    return partial(process_reward, artifact, backend="fake", asynchronous=request.param)


@pytest.mark.parametrize("inputs", [PLAIN, _messages()], ids=["plain", "messages"])
def test_rewards_match_the_scorer(make: Any, expected: Any, inputs: Any) -> None:
    rewards = _call(make(), **inputs)
    assert rewards == [expected(QUESTION, RIGHT), expected(QUESTION, WRONG), None]


def test_a_column_of_answers_gives_the_outcome(make: Any, expected: Any) -> None:
    function = make(outcome="answer", beta=0.75)
    rewards = _call(function, **PLAIN, answer=["Six sevens.\n#### 42", 42, "42"], completion_ids=[])
    assert rewards == [
        pytest.approx(0.25 + 0.75 * expected(QUESTION, RIGHT)),
        pytest.approx(0.75 * expected(QUESTION, WRONG)),
        None,
    ]


def test_another_reward_function_gives_the_outcome(make: Any, expected: Any) -> None:
    def outcome(completions: list[str], bonus: list[float], **_: Any) -> list[float | None]:
        return [bonus[0], None, 0.0]

    rewards = _call(make(outcome=outcome, beta=0.5), **PLAIN, bonus=[1.0] * 3)
    assert rewards == [pytest.approx(0.5 + 0.5 * expected(QUESTION, RIGHT)), None, None]


def test_outcomes_may_be_an_array_but_need_one_per_completion(make: Any, expected: Any) -> None:
    function = make(outcome=lambda **_: np.array([1.0, np.nan, 0.0]), beta=0.5)
    assert _call(function, **PLAIN) == [
        pytest.approx(0.5 + 0.5 * expected(QUESTION, RIGHT)),
        None,
        None,
    ]
    with pytest.raises(ValueError, match="outcomes: got 1 values for 3 completions"):
        _call(make(outcome=lambda **_: [1.0]), **PLAIN)


def test_an_answer_in_truncated_thinking_does_not_count(make: Any) -> None:
    texts = ["<think>Is it 42", "<think>It is.</think>42", "<think>Six sevens are 42.</think>"]
    rewards = _call(
        make(outcome="answer", beta=0.0),
        prompts=[QUESTION] * 3,
        completions=texts,
        answer=["42"] * 3,
    )
    assert rewards == [0.0, 1.0, 0.0]


def test_the_question_may_be_a_column_of_its_own(make: Any, expected: Any) -> None:
    prompts = [f"Solve step by step. {QUESTION}"] * 3
    columns = {"prompts": prompts, "completions": PLAIN["completions"], "q": [QUESTION] * 3}
    assert _call(make(question="q"), **columns)[0] == expected(QUESTION, RIGHT)


def test_comparisons_that_the_budget_leaves_undecided_are_wrong_and_counted(
    artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics: dict[str, float] = {}
    function = process_reward(
        artifact, outcome="answer", backend="fake", answer_budget=1e-6, beta=0.0
    )
    found = function(
        prompts=["q?"] * 2,
        completions=[r"So it is \boxed{\sin(x)^2 + \cos(x)^2 + y}.", "The answer is 3."],
        answer=["1 + y", "3"],
        log_metric=metrics.__setitem__,
    )
    assert found == [0.0, 1.0]
    assert metrics["process_reward/undecided"] == 1
    assert "1 of 2 comparisons of answers were undecided" in caplog.text


def test_unscorable_completions_are_warned_of_and_counted(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    metrics: dict[str, float] = {}
    extra: dict[str, list[Any]] = {}
    with caplog.at_level(logging.WARNING):
        rewards = _call(
            make(outcome="answer"),
            **PLAIN,
            answer=["42"] * 3,
            log_metric=metrics.__setitem__,
            log_extra=extra.__setitem__,
        )
    assert rewards[2] is None
    assert "1 of 3 completions cannot be scored" in caplog.text
    assert metrics["process_reward/unscorable"] == pytest.approx(1 / 3)
    assert metrics["process_reward/outcome"] == pytest.approx(1 / 3)
    assert metrics["process_reward/num_steps"] == 2.0
    assert extra["outcome"] == [1.0, 0.0, 0.0]
    assert extra["process"][2] is None


def test_an_overlong_trace_does_not_stop_training(make: Any) -> None:
    inputs = {"prompts": [QUESTION] * 2, "completions": ["x" * 5000, RIGHT]}
    first, second = _call(make(), **inputs)
    assert first is None
    assert second is not None


def test_columns_may_share_names_with_our_arguments(make: Any, expected: Any) -> None:
    odd = {"settings": [1] * 3, "outcome": ["42"] * 3, "question": ["?"] * 3, "artifact": [""] * 3}
    assert _call(make(), **PLAIN, **odd)[0] == expected(QUESTION, RIGHT)


def test_wrong_settings_are_refused_at_once(artifact: str) -> None:
    async def judge(**_: Any) -> list[float]:
        return []

    with pytest.raises(ValueError, match="asynchronous=True"):
        process_reward(artifact, outcome=judge)
    with pytest.raises(ValueError, match="beta is 2"):
        process_reward(artifact, beta=2.0)
    with pytest.raises(ValueError, match="no artifact"):
        process_reward("")
    with pytest.raises(ValueError, match="unit_scale"):
        process_reward(artifact, unit_scale=True, process=lambda score: score.reward)
    function = process_reward(artifact, outcome="answers", backend="fake")
    with pytest.raises(ValueError, match=r"outcome='answers' is not a column .* \['answer'\]"):
        function(**PLAIN, answer=["42"] * 3, trainer_state=None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outcome": 3}, "outcome is 3, expected the name of a column"),
        ({"question": 3}, "question is 3, expected the name of a column"),
        ({"asynchronous": "no"}, "asynchronous is 'no', expected True or False"),
        ({"bta": 0.5}, r"unknown setting 'bta', expected some of \['outcome', .*'beta', 'process'"),
        ({"process": "avg"}, r"process is 'avg', expected one of \('reward'"),
        ({"split": "line"}, "split is 'line', expected one of"),
        ({"overflow": "cut"}, "overflow is 'cut', expected one of"),
        ({"overflow": {"ctx": 0.5}}, r"overflow has 'ctx', expected some of \['context'\]"),
        ({"overflow": {"context": 1.0}}, "context is 1.0, expected a share"),
        ({"num_threads": 0}, "num_threads is 0, expected a whole number"),
        ({"answer_timeout": float("inf")}, "answer_timeout is inf, expected a finite number"),
    ],
)
def test_an_invalid_setting_is_refused_at_once(
    artifact: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        process_reward(artifact, **settings)


def test_windows_may_be_spelled_as_yaml_does(artifact: str) -> None:
    given = {"overflow": {"context": 0.25}}
    settings = RewardSettings.build(artifact, given, adapters_own=())
    assert settings == RewardSettings(artifact, overflow=Windows(0.25))
    assert RewardSettings.build(artifact, {}, adapters_own=()).overflow == "error"


def test_a_folder_without_an_artifact_is_refused_at_once(artifact: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no artifact folder 'absent'"):
        process_reward("absent")
    with pytest.raises(ArtifactError, match=r"holds no prm\.json"):
        process_reward(str(tmp_path))
    # A pickled function may be unpickled where the folder is missing, or not there yet.
    moved = tmp_path / "moved"
    shutil.copytree(artifact, moved)
    pickled = pickle.dumps(process_reward(str(moved)))
    shutil.rmtree(moved)
    assert pickle.loads(pickled).args[0].artifact == str(moved)


@pytest.mark.parametrize("name", ["answer", "q"])
def test_a_string_in_place_of_a_column_is_refused(make: Any, name: str) -> None:
    columns = {"answer": ["42"] * 3, "q": [QUESTION] * 3, name: "42!"}
    message = f"the column '{name}': got '42!' for 3 completions, expected a list"
    with pytest.raises(ValueError, match=message):
        _call(make(outcome="answer", question="q"), **PLAIN, **columns)


def test_every_completion_needs_a_prompt(make: Any) -> None:
    with pytest.raises(ValueError, match="prompts: got 1 values for 3 completions"):
        _call(make(), prompts=[QUESTION], completions=PLAIN["completions"])


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), " "])
def test_without_a_right_answer_there_is_no_reward(make: Any, missing: Any) -> None:
    rewards = _call(make(outcome="answer", beta=0.0), **PLAIN, answer=[missing, "13", "42"])
    assert rewards[:2] == [None, 1.0]


def test_the_lowest_step_may_be_the_process_reward(make: Any, tiny_artifact: Path) -> None:
    from rfprm_runtime import Scorer, Trajectory

    with Scorer.load(tiny_artifact, backend="fake") as scorer:
        score = scorer.score_batch([Trajectory.from_text(QUESTION, RIGHT)])[0]
    assert _call(make(process="min"), **PLAIN)[0] == float(score.step_scores.min())


@third_party_warnings
@pytest.mark.parametrize("asynchronous", [False, True])
def test_trl_sees_the_name_and_kind_of_the_function(artifact: str, asynchronous: bool) -> None:
    utils = pytest.importorskip("trl.trainer.utils")
    function = process_reward(artifact, asynchronous=asynchronous)
    assert utils.is_async_callable(function) is asynchronous
    assert inspect.iscoroutinefunction(function) is asynchronous
    name = "process_reward_function" + "_async" * asynchronous
    assert function.__name__ == name == utils.get_callable_name(function)
    assert pickle.loads(pickle.dumps(function)).__name__ == name


def test_a_spawned_process_scores_the_same(artifact: str) -> None:
    """As in AsyncGRPO's rollout worker: pickled into a fresh process."""
    function = process_reward(artifact, backend="fake", outcome="answer")
    columns = {**PLAIN, "answer": ["42"] * 3}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(function, kwds=columns) == function(**columns)


def test_a_training_script_exits_cleanly_after_comparing_answers(artifact: str) -> None:
    code = (
        "from rfprm_runtime.integrations.trl import process_reward\n"
        f"reward = process_reward({artifact!r}, backend='fake', outcome='answer', beta=0.0)\n"
        "texts = ['It is x/2.\\n\\nThe answer is 0.5x.']\n"
        "print(reward(prompts=['Half of x?'], completions=texts, answer=['x/2']))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "[1.0]\n", "")


_CALL = {"type": "function", "function": {"name": "times", "arguments": {"a": 6, "b": 7}}}
_IMAGE = {"type": "image", "image": object()}


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ({"role": "assistant", "content": RIGHT}, RIGHT),
        ([{"role": "assistant", "content": [_IMAGE, {"type": "text", "text": RIGHT}]}], RIGHT),
        (
            [
                {"role": "assistant", "content": "6 * 7 = 42.", "tool_calls": [_CALL]},
                {"role": "tool", "name": "times", "content": [_IMAGE]},
                {"role": "assistant", "content": "The answer is 42."},
            ],
            RIGHT,
        ),
        (
            [
                {"role": "assistant", "reasoning_content": "I multiply.", "tool_calls": [_CALL]},
                {"role": "tool", "name": "times", "content": "42"},
                {"role": "assistant", "content": "The answer is 42.", "thinking": "So 42."},
            ],
            "<think>I multiply.\n\nSo 42.</think>The answer is 42.",
        ),
        ([{"role": "assistant", "content": "", "reasoning_content": "6 * 7"}], "<think>6 * 7"),
        ([{"role": "assistant", "content": None, "tool_calls": [_CALL]}], None),
        ([{"role": "assistant", "tool_calls": [_CALL]}, {"role": "tool", "content": "42"}], None),
        ([{}], None),
        ([], None),
        (None, None),
    ],
)
def test_what_the_assistant_writes_is_read(
    make: Any, expected: Any, completion: Any, text: str | None
) -> None:
    prompt = [
        {"role": "system", "content": [{"type": "text", "text": "Think."}]},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [_IMAGE, {"type": "text", "text": QUESTION}]},
    ]
    [reward] = _call(make(), prompts=[prompt], completions=[completion])
    assert reward == (None if text is None else expected(QUESTION, text))
