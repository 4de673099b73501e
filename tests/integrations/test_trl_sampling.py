"""Oversampling on a stand-in for TRL's trainer; ``test_trl_trainer.py`` has the real one."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from rfprm_runtime import InvalidOperationError
from rfprm_runtime.integrations.trl import Oversampling, process_reward
from rfprm_runtime.integrations.trl_rows import RowsByPrompt
from rfprm_runtime.integrations.trl_sums import name_of

QUESTIONS = ["What is 6 times 7?", "What is 9 minus 4?"]


class Data(list[dict[str, Any]]):
    """The part of a ``datasets.Dataset`` that is read."""

    @property
    def column_names(self) -> list[str]:
        return list(self[0])

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


class Trainer(SimpleNamespace):
    """Samples 0, 1, 2 … as texts; token ids are those of the characters."""

    def __init__(self, **changes: Any) -> None:
        rows = [
            {"prompt": question, "answer": answer}
            for question, answer in zip(QUESTIONS, ["42", "5"], strict=True)
        ]
        fields: dict[str, Any] = {
            "train_dataset": Data(rows),
            "model": SimpleNamespace(training=True),
            "num_generations": 2,
            "num_generations_eval": 1,
            "reward_weights": [1.0],
            "state": None,
            "tools": [],
            "_tokenizer": SimpleNamespace(),
            "processing_class": self,
            "with_logprobs": False,
        }
        super().__init__(**{**fields, **changes})
        self._next = itertools.count()
        self.num_sampled: list[int] = []

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        return [[len(prompts)]] * len(prompts), None, {}

    def _generate_single_turn(self, ids: list[Any], *_: Any) -> Any:
        self.num_sampled.append(len(ids))
        found = [[ord(x) for x in str(next(self._next))] for _ in ids]
        return found, [[-float(len(x))] for x in found] if self.with_logprobs else None

    def batch_decode(self, ids: list[list[int]], *, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return ["".join(map(chr, one)) for one in ids]


def worth(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    assert len(answer) == len(completions)
    return [float(text) for text in completions]


def _texts(rollout: dict[str, Any]) -> list[str]:
    return ["".join(map(chr, ids)) for ids in rollout["completion_ids"]]


def _prompts() -> list[str]:
    return [question for question in QUESTIONS for _ in range(2)]


def test_each_question_keeps_its_own_best_samples() -> None:
    """The questions get 0 1 | 2 3, then 4 5 | 6 7, then 8 9 | 10 11."""
    top = Oversampling(worth, times=3, keep="top").rollout(_prompts(), Trainer())
    assert _texts(top) == ["8", "9", "10", "11"]
    varied = Oversampling(worth, times=3).rollout(_prompts(), Trainer(with_logprobs=True))
    assert _texts(varied) == ["0", "9", "2", "11"]
    assert varied["logprobs"] == [[-1.0], [-1.0], [-1.0], [-2.0]]
    assert top["prompt_ids"] == [[12]] * 4
    in_parts = Oversampling(worth, times=3, keep="top", max_samples=9)
    found = in_parts.rollout(_prompts(), trainer := Trainer())
    assert _texts(found) == _texts(top)
    assert trainer.num_sampled == [8, 4]
    assert top["logprobs"] is None


def test_what_was_scored_is_not_scored_again() -> None:
    calls = []

    def counted(completions: list[str], **columns: Any) -> list[float]:
        calls.append(len(completions))
        columns["log_metric"]("m", 0.5)
        columns["log_extra"]("texts", completions)
        return worth(completions, **columns)

    sampling = Oversampling(counted, times=2, keep="top")
    ids = sampling.rollout(_prompts(), Trainer())["completion_ids"]
    metrics: dict[str, float] = {}
    extra: dict[str, Any] = {}
    logs = {"log_metric": metrics.__setitem__, "log_extra": extra.__setitem__}
    [reward] = sampling.rewards
    columns = {"prompts": _prompts(), "completions": ["4", "5", "6", "7"], "answer": [""] * 4}
    assert reward(completion_ids=ids, **columns, **logs) == [4.0, 5.0, 6.0, 7.0]
    assert calls == [8]
    assert extra == {"texts": ["4", "5", "6", "7"]}
    assert metrics == {
        "m": 0.5,
        "oversampling/reward_sampled": 3.5,
        "oversampling/reward_kept": 5.5,
        "oversampling/spread_sampled": pytest.approx(2.0616, abs=1e-4),
        "oversampling/spread_kept": 0.5,
    }
    # Other completions, such as those of an evaluation, are scored as usual.
    assert reward(completion_ids=[[1]] * 4, **columns, **logs) == [4.0, 5.0, 6.0, 7.0]
    assert calls == [8, 4]
    assert name_of(reward) == "counted"


def test_an_async_function_and_weights_decide_together() -> None:
    async def small(completions: list[str], **_: Any) -> list[float | None]:
        return [-3.0 * float(text) for text in completions]

    sampling = Oversampling([worth, small], times=3, keep="top")
    found = sampling.rollout(_prompts(), Trainer(reward_weights=[1.0, 0.5]))
    assert _texts(found) == ["0", "1", "2", "3"]


def test_a_completion_without_a_process_reward_is_not_kept(artifact: str) -> None:
    """Whatever other functions say of it."""

    def empty(completions: list[str], **_: Any) -> list[float]:
        return [9.0 if not text.strip() else 0.0 for text in completions]

    trainer = Trainer(reward_weights=[1.0, 1.0])
    trainer._next = iter(["", "a", "b", "", " ", "c", "d", "e"])
    sampling = Oversampling([empty, process_reward(artifact, backend="fake")], times=2, keep="top")
    kept = _texts(sampling.rollout(_prompts(), trainer))
    assert kept[:2] == ["a", "c"]
    assert set(kept[2:]) < {"b", "d", "e"}


def test_evaluation_samples_as_usual() -> None:
    trainer = Trainer(model=SimpleNamespace(training=False))
    found = Oversampling(worth, times=3).rollout(QUESTIONS, trainer)
    assert _texts(found) == ["0", "1"]


def test_balanced_takes_outcomes_from_what_a_function_logs() -> None:
    def judged(completions: list[str], **columns: Any) -> list[float]:
        columns["log_extra"]("ours/outcome", [float(text in "016") for text in completions])
        return [float(text) for text in completions]

    sampling = Oversampling(judged, times=2, keep="balanced")
    assert _texts(sampling.rollout(_prompts(), Trainer())) == ["1", "4", "2", "6"]
    with pytest.raises(ValueError, match="keep='balanced' needs outcomes"):
        Oversampling(worth, times=2, keep="balanced").rollout(_prompts(), Trainer())


@pytest.mark.parametrize("changes", [{"tools": [print]}, {"environment_factories": {None: print}}])
def test_a_trainer_with_tools_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidOperationError, match="has tools or environments"):
        Oversampling(worth, times=2).rollout(_prompts(), Trainer(**changes))


@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        (worth, {"times": 0}, "times is 0, expected a whole number"),
        (worth, {"times": 2, "keep": "best"}, "keep is 'best', expected one of"),
        (["accuracy"], {"times": 2}, "rewards holds 'accuracy', expected reward functions"),
    ],
)
def test_wrong_settings_are_refused_at_once(rewards: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Oversampling(rewards, **options)


def test_columns_are_found_by_what_a_prompt_says() -> None:
    """TRL turns texts into lists of parts, and puts images into them."""
    message = {"role": "user", "content": "What is shown?"}
    parts = [{"type": "image", "image": object()}, {"type": "text", "text": "What is shown?"}]
    rows = Data([{"prompt": [message], "answer": "a"}, {"prompt": "b?", "answer": "b"}])
    found = RowsByPrompt().columns([[{**message, "content": parts}], "b?"], rows)
    assert found == {"answer": ["a", "b"]}
    assert RowsByPrompt().columns(["c?"], Data([{"prompt": "b?", "images": []}])) == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Data([{"prompt": "b?", "answer": "b"}]), r"no row of the data set has the prompt 'a\?'"),
        (
            Data([{"prompt": "a?", "answer": "1"}, {"prompt": "a?", "answer": "2"}]),
            r"2 rows of the data set have the prompt 'a\?' with different columns \['answer'\]",
        ),
        (SimpleNamespace(column_names=["prompt", "answer"]), "whose rows cannot be looked up"),
    ],
)
def test_columns_that_cannot_be_told_are_not_guessed(rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowsByPrompt().columns(["a?"], rows)
