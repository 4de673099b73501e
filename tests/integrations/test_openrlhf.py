"""OpenRLHF's contract, called directly and through OpenRLHF's own executor.

OpenRLHF requires vLLM and flash-attention; ``pip install --no-deps openrlhf`` is enough for these
tests.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime.integrations import openrlhf
from rfprm_runtime.integrations.openrlhf import process_reward, reward_func

torch = pytest.importorskip("torch")

QUESTION = "What is 6 times 7?"
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
RIGHT, WRONG = "6 * 7 = 42.\n\nThe answer is 42.", "6 + 7 = 13.\n\nSo 13."


def _query(text: str) -> str:
    return f"{PROMPT}{text}<|im_end|>"


@pytest.fixture
def function(artifact: str) -> Callable[..., Any]:
    return process_reward(artifact, backend="fake")


def test_rewards_are_equation_12_and_scores_are_outcomes(function: Any, expected: Any) -> None:
    queries = [_query(RIGHT), _query(WRONG)]
    found = function(queries, [PROMPT] * 2, ["42", "42"])
    process = [expected(QUESTION, RIGHT), expected(QUESTION, WRONG)]
    wanted = [0.25 + 0.75 * process[0], 0.75 * process[1]]
    assert found["rewards"].tolist() == pytest.approx(wanted)
    assert found["rewards"].dtype == torch.float32
    assert found["scores"].tolist() == [1.0, 0.0]
    assert found["extra_logs"]["process_reward"].tolist() == pytest.approx(process)


def test_the_process_reward_alone_needs_no_labels(artifact: str, expected: Any) -> None:
    function = process_reward(artifact, backend="fake", outcome=False)
    found = function([_query(RIGHT)], [PROMPT], [""])
    assert found["rewards"].tolist() == pytest.approx([expected(QUESTION, RIGHT)])
    assert 0.0 <= float(found["scores"][0]) <= 1.0


def test_the_adapter_itself_works_as_a_reward_file(
    artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFPRM_ARTIFACT", artifact)
    found = reward_func([_query(RIGHT)], [PROMPT], ["42"])
    assert found["scores"].tolist() == [1.0]


@pytest.mark.parametrize("query", [_query(""), f"…{QUESTION}\n{RIGHT}", None, [RIGHT]])
def test_an_unscorable_response_gets_the_unscorable_reward(
    artifact: str, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    function = process_reward(artifact, backend="fake", unscorable=-0.5)
    with caplog.at_level(logging.WARNING):
        found = function([query], [PROMPT], ["42"])
    assert found["rewards"].tolist() == [-0.5]
    assert found["extra_logs"]["scored"].tolist() == [0.0]
    assert "cannot be scored and gets the reward -0.5" in caplog.text


def test_missing_labels_raise_and_log_an_error(
    function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"--data\.label_key"):
        function([_query(RIGHT)], [PROMPT], [None])
    assert "the process reward failed" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outcome": "no"}, "outcome is 'no', expected True or False"),
        ({"unscorable": "0"}, "unscorable is '0', expected a finite number"),
        ({"bta": 0.5}, r"unknown setting 'bta', expected some of \['outcome', 'unscorable', "),
    ],
)
def test_invalid_settings_are_refused_at_once(
    artifact: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        process_reward(artifact, **settings)


def test_a_nan_label_counts_as_missing(function: Any) -> None:
    with pytest.raises(ValueError, match=r"--data\.label_key"):
        function([_query(RIGHT)], [PROMPT], [float("nan")])


def test_threads_with_one_query_each_share_batches(function: Any, expected: Any) -> None:
    texts = [f"6 * 7 = {index}." for index in range(48)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda t: function([_query(t)], [PROMPT], ["42"]), texts))
    process = [float(x["extra_logs"]["process_reward"][0]) for x in found]
    assert process == pytest.approx([expected(QUESTION, text) for text in texts])


@pytest.fixture
def agent() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "openrlhf.utils.agent", reason="openrlhf is not installed", exc_type=ImportError
        )


class Engine:
    """Stands in for vLLM, which needs a GPU, and answers with given tokens."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = token_ids

    async def generate(self, prompt_token_ids: list[int], *_: Any, **__: Any) -> Any:
        output = types.SimpleNamespace(
            token_ids=self.token_ids, finish_reason="stop", logprobs=None
        )
        return types.SimpleNamespace(outputs=[output])


def _execute(agent: Any, file: Path, tokenizer: Any, text: str) -> dict[str, Any]:
    executor = agent.SingleTurnAgentExecutor(remote_rm_url=str(file))
    engine = Engine(tokenizer.encode(f"{text}<|im_end|>"))
    params = types.SimpleNamespace(max_tokens=None, logprobs=None)
    found: dict[str, Any] = asyncio.run(
        executor.execute(PROMPT, "42", params, 4096, tokenizer, engine)
    )
    return found


@pytest.mark.filterwarnings("default")
def test_openrlhfs_executor_loads_the_file_and_calls_it(
    agent: Any, artifact: str, expected: Any, policy_tokenizer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "reward.py"
    file.write_text(
        "from rfprm_runtime.integrations.openrlhf import process_reward\n"
        f"reward_func = process_reward({artifact!r}, backend='fake', beta=0.5)\n"
    )
    response = _execute(agent, file, policy_tokenizer, RIGHT)
    assert float(response["reward"]) == pytest.approx(0.5 + 0.5 * expected(QUESTION, RIGHT))
    assert float(response["scores"]) == 1.0
    assert set(response["extra_logs"]) == {"process_reward", "scored"}


@pytest.mark.filterwarnings("default")
def test_openrlhfs_executor_loads_the_adapter_itself(
    agent: Any,
    artifact: str,
    policy_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RFPRM_ARTIFACT", artifact)
    response = _execute(agent, Path(openrlhf.__file__), policy_tokenizer, WRONG)
    assert float(response["reward"]) > 0.0
    assert float(response["scores"]) == 0.0


@pytest.mark.filterwarnings("default")
def test_openrlhf_turns_the_response_into_an_experience(
    agent: Any,
    artifact: str,
    policy_tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # OpenRLHF imports vLLM only for a type, and it cannot be installed without a GPU.
    for name, member in (
        ("vllm", "SamplingParams"),
        ("openrlhf.trainer.ray.vllm_engine", "batch_vllm_engine_call"),
    ):
        module = types.ModuleType(name)
        setattr(module, member, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "openrlhf.trainer.ppo_utils.samples_generator", raising=False)
    try:
        from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    except ImportError as error:
        pytest.skip(f"OpenRLHF's generator cannot be imported: {error}")
    file = tmp_path / "reward.py"
    file.write_text(
        "from rfprm_runtime.integrations.openrlhf import process_reward\n"
        f"reward_func = process_reward({artifact!r}, backend='fake')\n"
    )
    response = _execute(agent, file, policy_tokenizer, RIGHT)
    generator = SamplesGenerator.__new__(SamplesGenerator)
    experience = generator._process_response_into_experience(response, max_len=4096)
    assert experience.rewards.flatten().tolist() == pytest.approx([float(response["reward"])])
    assert experience.scores.flatten().tolist() == [1.0]
    assert experience.info["scored"].flatten().tolist() == [1.0]
