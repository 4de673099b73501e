from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import BaseModel

from llm_server import (
    Server,
    completion,
    dribble,
    hang_up,
    raw,
    serving,
    status,
    token,
)
from rfprm_runtime.types import Trajectory
from rfprm_training import ConfigError, TrainingError
from rfprm_training.labelling.config import LabelConfig
from rfprm_training.labelling.expert.budget import BudgetSpentError
from rfprm_training.labelling.expert.cache import Answer, AnswerCache
from rfprm_training.labelling.expert.client import (
    ExpertClient,
    ExpertError,
    ServerRefusedError,
)
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.expert.forms import parse_form, schema_of
from rfprm_training.labelling.expert.judge import StepJudge, grades_form
from rfprm_training.labelling.expert.prompts import load_prompt

MESSAGES = [{"role": "user", "content": "What is 40 + 2?"}]
T = TypeVar("T")


class Sum(BaseModel):
    total: int


def config(server: Server, folder: Path, **changes: Any) -> ExpertConfig:
    fields = {"max_wait": 0.05, "timeout": 20.0, "cache": folder / "cache.sqlite", **changes}
    return ExpertConfig(base_url=server.url, model="small", **fields)


def ask(
    settings: ExpertConfig, question: Callable[[ExpertClient], Awaitable[T]]
) -> tuple[T, ExpertClient]:
    async def run() -> tuple[T, ExpertClient]:
        async with ExpertClient(settings) as client:
            return await question(client), client

    return asyncio.run(run())


def plain(client: ExpertClient) -> Awaitable[str]:
    return client.ask(MESSAGES, "p.1")


def structured(client: ExpertClient) -> Awaitable[Sum]:
    return client.ask_for(Sum, MESSAGES, "p.1")


def test_an_answer_is_requested_once_and_then_cached(tmp_path: Path) -> None:
    with serving(["42"]) as server:
        settings = config(server, tmp_path, price_per_million_prompt_tokens=1e4)
        text, client = ask(settings, plain)
        assert text == "42"
        assert (client.usage.prompt_tokens, client.usage.answer_tokens) == (100, 10)
        assert client.usage.cost == pytest.approx(1.0)
        again, client = ask(settings, plain)
        assert again == "42"
        assert (client.usage.cached, client.usage.requests, client.usage.cost) == (1, 0, 0.0)
    assert len(server.requests) == 1


def test_prompt_tokens_that_the_server_kept_have_a_price_of_their_own(tmp_path: Path) -> None:
    kept = completion("42", 100, 10)
    kept["usage"]["prompt_tokens_details"] = {"cached_tokens": 80}
    prices = {"price_per_million_prompt_tokens": 1e4, "price_per_million_cached_tokens": 1e3}
    with serving([kept]) as server:
        _, client = ask(config(server, tmp_path, **prices), plain)
        assert client.usage.cached_tokens == 80
        assert client.usage.cost == pytest.approx(0.2 + 0.08)
        assert "100 (80 of them kept by the server) + 10 tokens" in str(client.usage)
        prices.pop("price_per_million_cached_tokens")
        _, client = ask(config(server, tmp_path, cache=tmp_path / "other", **prices), plain)
        assert client.usage.cost == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("details", "kept"), [({"cached_tokens": 500}, 100), ({"cached_tokens": None}, 0), (None, 0)]
)
def test_no_more_tokens_are_kept_than_were_sent(
    details: dict[str, Any] | None, kept: int, tmp_path: Path
) -> None:
    answer = completion("42", 100, 10)
    answer["usage"]["prompt_tokens_details"] = details
    with serving([answer]) as server:
        _, client = ask(config(server, tmp_path), plain)
    assert client.usage.cached_tokens == kept


@pytest.mark.parametrize(
    "change", [{"model": "large"}, {"temperature": 0.5}, {"max_answer_tokens": 7}]
)
def test_another_model_or_setting_is_another_question(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with serving(["42"]) as server:
        settings = config(server, tmp_path)
        ask(settings, plain)
        ask(settings.model_copy(update=change), plain)
    assert len(server.requests) == 2


def test_another_prompt_version_or_seed_is_another_question(tmp_path: Path) -> None:
    async def questions(client: ExpertClient) -> None:
        await client.ask(MESSAGES, "p.1")
        await client.ask(MESSAGES, "p.2")
        await client.ask(MESSAGES, "p.2", seed=1)
        await client.ask(MESSAGES, "p.2", seed=1)

    with serving(["42"]) as server:
        ask(config(server, tmp_path), questions)
    assert len(server.requests) == 3
    assert [request.get("seed") for request in server.requests] == [None, None, 1]


def test_identical_requests_in_flight_are_sent_once(tmp_path: Path) -> None:
    async def questions(client: ExpertClient) -> list[str]:
        return await asyncio.gather(*(client.ask(MESSAGES, "p.1") for _ in range(20)))

    def slowly(request: dict[str, Any]) -> str:
        time.sleep(0.1)
        return "42"

    with serving(slowly) as server:
        answers, _ = ask(config(server, tmp_path), questions)
    assert answers == ["42"] * 20
    assert len(server.requests) == 1


def test_concurrency_limits_the_requests_in_flight(tmp_path: Path) -> None:
    async def questions(client: ExpertClient) -> None:
        await asyncio.gather(*(client.ask(MESSAGES, f"p.{i}") for i in range(30)))

    def slowly(handler: Any) -> None:
        time.sleep(0.02)
        handler.send_json(200, completion("42"))

    with serving([slowly]) as server:
        ask(config(server, tmp_path, concurrency=3), questions)
    assert len(server.requests) == 30
    assert 2 <= server.most_at_once <= 3


@pytest.mark.parametrize(
    "trouble",
    [
        status(500),
        status(503),
        status(429),
        status(408),
        raw(b"<html>try later</html>"),
        raw(b'{"choices": []}'),
        raw(b"[1]"),
        raw(b""),
        hang_up,
    ],
    ids=["500", "503", "429", "408", "page", "no-choice", "list", "empty", "half-closed"],
)
def test_a_failing_server_is_asked_again(tmp_path: Path, trouble: Any) -> None:
    with serving([trouble, trouble, "42"]) as server:
        text, client = ask(config(server, tmp_path), plain)
    assert text == "42"
    assert (client.usage.retries, client.usage.answers) == (2, 1)


def test_an_endless_answer_times_out_and_is_requested_again(tmp_path: Path) -> None:
    with serving([dribble, "42"]) as server:
        text, client = ask(config(server, tmp_path, timeout=0.5), plain)
    assert (text, client.usage.retries) == ("42", 1)


def test_an_unreachable_server_is_reported(tmp_path: Path) -> None:
    with serving(["42"]) as server:
        settings = config(server, tmp_path, max_attempts=2)
    with pytest.raises(ExpertError, match="gave no answer in 2 attempts, the last: Connect"):
        ask(settings, plain)


def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    with serving([status(429, Retry_After="0.4"), "42"]) as server:
        ask(config(server, tmp_path, max_wait=5.0), plain)
    assert server.times[1] - server.times[0] >= 0.4


def test_retry_after_may_be_a_date_and_is_bounded(tmp_path: Path) -> None:
    later = format_datetime(datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True)
    with serving([status(429, Retry_After=later), status(503, Retry_After="soon"), "42"]) as server:
        started = time.monotonic()
        ask(config(server, tmp_path, max_wait=0.2), plain)
    assert 0.2 <= time.monotonic() - started < 10


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refusal_stops_everything(tmp_path: Path, code: int) -> None:
    with (
        serving([status(code)]) as server,
        pytest.raises(ServerRefusedError, match=rf"{code}.*OPENAI_API_KEY"),
    ):
        ask(config(server, tmp_path), plain)
    assert len(server.requests) == 1


def test_a_bad_request_is_not_sent_again(tmp_path: Path) -> None:
    with serving([status(400)]) as server, pytest.raises(ExpertError, match="status 400"):
        ask(config(server, tmp_path), plain)
    assert len(server.requests) == 1


def test_the_key_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with serving(["42"]) as server:
        ask(config(server, tmp_path, api_key_env="MY_KEY"), plain)
    sent = {name.lower(): value for name, value in server.headers[0].items()}
    assert sent["authorization"] == "Bearer secret"


def test_structured_output_is_requested_as_the_server_supports_it(tmp_path: Path) -> None:
    with serving(['{"total": 42}']) as server:
        for kind in ("json_schema", "json_object", "prompt"):
            found, _ = ask(config(server, tmp_path, structured_output=kind), structured)
            assert found.total == 42
    formats = [request.get("response_format") for request in server.requests]
    assert formats[0]["json_schema"]["schema"] == schema_of(Sum)
    assert formats[1:] == [{"type": "json_object"}, None]


@pytest.mark.parametrize(
    "text",
    [
        '{"total": 42}',
        'Sure! Here it is:\n```json\n{"total": 42}\n```\nAnything else?',
        '<think>is it {"total": 1}? no</think>{"total": 42}',
        '{"total": "42", "more": 1}',
    ],
)
def test_json_is_found_within_other_text(text: str) -> None:
    assert parse_form(text, Sum).total == 42


def test_a_schema_is_strict_at_every_level() -> None:
    """As OpenAI refuses others: https://platform.openai.com/docs/guides/structured-outputs."""
    schema = schema_of(grades_form(3, 5, (1.0, 5.0)))
    entry = schema["$defs"]["_Entry"]
    assert list(entry["properties"]) == ["step", "reason", "grade"]  # it reasons before it grades
    for part in (schema, entry):
        assert part["required"] == list(part["properties"])
        assert part["additionalProperties"] is False
    grades = schema["properties"]["grades"]
    assert (grades["minItems"], grades["maxItems"]) == (3, 3)
    assert "default" not in json.dumps(schema)
    # What a server answers that ignores the schema is still read.
    found = parse_form('{"grades": [{"step": 1, "grade": 2}]}', grades_form(1, 1, (1.0, 5.0)))
    assert found.model_dump()["grades"] == [{"step": 1, "reason": "", "grade": 2.0}]


def test_an_answer_that_does_not_fit_is_sent_back_with_the_reason(tmp_path: Path) -> None:
    with serving(["forty-two", '{"total": "many"}', '{"total": 42}']) as server:
        found, client = ask(config(server, tmp_path), structured)
    assert (found.total, client.usage.repairs) == (42, 2)
    complaints = [request["messages"][-1]["content"] for request in server.requests[1:]]
    assert "there is no JSON object in it" in complaints[0]
    assert "total: Input should be a valid integer" in complaints[1]
    assert [len(request["messages"]) for request in server.requests] == [1, 3, 5]


def test_repairs_are_bounded(tmp_path: Path) -> None:
    with (
        serving(["{"]) as server,
        pytest.raises(ExpertError, match="no usable answer in 3 tries: there is no JSON"),
    ):
        ask(config(server, tmp_path), structured)
    assert len(server.requests) == 3


def test_a_repaired_conversation_is_cached(tmp_path: Path) -> None:
    with serving(["{", '{"total": 42}']) as server:
        for _ in range(2):
            ask(config(server, tmp_path), structured)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "limit", [{"max_tokens": 1000}, {"max_cost": 0.1, "price_per_million_answer_tokens": 1000}]
)
def test_the_budget_is_checked_before_a_request_is_sent(
    tmp_path: Path, limit: dict[str, Any]
) -> None:
    async def questions(client: ExpertClient) -> int:
        for count in range(100):
            try:
                await client.ask(MESSAGES, f"p.{count}")
            except BudgetSpentError:
                return count
        return 100

    with serving(["42"]) as server:
        settings = config(server, tmp_path, max_answer_tokens=50, **limit)
        count, client = ask(settings, questions)
        assert 0 < count < 100
        assert client.usage.prompt_tokens + client.usage.answer_tokens <= 1000 or count < 11
        assert client.usage.cost <= 0.1
        # Earlier answers stay available when the budget is spent.
        again, _ = ask(settings.model_copy(update={"max_tokens": 1, "max_cost": None}), questions)
    assert again == count == len(server.requests)


def test_requests_in_flight_count_against_the_budget(tmp_path: Path) -> None:
    async def questions(client: ExpertClient) -> list[str | BaseException]:
        many = (client.ask(MESSAGES, f"p.{i}") for i in range(20))
        return await asyncio.gather(*many, return_exceptions=True)

    def slowly(handler: Any) -> None:
        time.sleep(0.1)
        handler.send_json(200, completion("42", 20, 50))

    with serving([slowly]) as server:
        settings = config(server, tmp_path, concurrency=20, max_answer_tokens=50, max_tokens=300)
        found, client = ask(settings, questions)
    assert client.usage.prompt_tokens + client.usage.answer_tokens <= 300
    refused = [one for one in found if isinstance(one, BudgetSpentError)]
    assert 0 < len(server.requests) < 20
    assert len(refused) == 20 - len(server.requests)


def test_a_request_that_is_too_long_is_not_sent(tmp_path: Path) -> None:
    with serving(["42"]) as server, pytest.raises(ExpertError, match="has 15 characters"):
        ask(config(server, tmp_path, max_prompt_characters=10), plain)
    assert not server.requests


def test_the_cache_outlives_the_process_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.sqlite"
    cache = AnswerCache(path)
    cache.put("k", "m", "p", Answer("42", 1, 2))
    # Not closed: answers are on disk at once.
    other = AnswerCache(path)
    assert other.get("k") == Answer("42", 1, 2)
    assert other.get("absent") is None
    assert len(other) == 1
    other.close()
    cache.close()
    (tmp_path / "text").write_text("this is not a database at all" * 100)
    with pytest.raises(TrainingError, match="is not an answer cache"):
        AnswerCache(tmp_path / "text")


def test_prompts_are_versioned_files(tmp_path: Path) -> None:
    prompt = load_prompt("judge_steps")
    assert prompt.id == "judge_steps.1"
    (system, user) = prompt.messages(question="Q?", steps="[1] s", response="r", first=1, last=1)
    assert system["role"] == "system"
    assert '{"grades": [{"step": 1,' in user["content"]


def _own(folder: Path, text: str) -> Path:
    path = folder / "mine.md"
    path.write_text(f"---\nversion: 3b\n---\n# system\nBe kind.\n\n# user\n{text}\n")
    return path


def test_prompts_of_users_take_the_place_of_ours(tmp_path: Path) -> None:
    path = _own(tmp_path, "{{}} {question}: {steps}, {step}")
    prompt = load_prompt("judge_step", {"judge_step": path})
    assert prompt.id == "mine.3b"
    assert prompt.messages(question="Q?", steps="s", step=2)[1]["content"] == "{} Q?: s, 2"
    assert load_prompt("judge_steps", {"judge_step": path}).id == "judge_steps.1"
    for text, refusal in {
        "{question} {steps}": r"must show \{question\}, \{step\}, \{steps\}; it may",
        "{question} {steps} {step} {answer}": r"shows \{answer\}, ",
        "{question} {steps} {step} {": "a brace that is not doubled",
        "{question} {steps} {step} {}": r"shows \{\}",
        "nothing": "shows nothing",
    }.items():
        with pytest.raises(TrainingError, match=refusal):
            load_prompt("judge_step", {"judge_step": _own(tmp_path, text)})
    path.write_text("Be kind.")
    with pytest.raises(TrainingError, match="in place of judge_step, does not have the form"):
        load_prompt("judge_step", {"judge_step": path})
    path.write_bytes(b"---\xff")
    with pytest.raises(TrainingError, match="not UTF-8"):
        load_prompt("judge_step", {"judge_step": path})
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        load_prompt("judge_step", {"judge_step": tmp_path / "absent.md"})
    with pytest.raises(TrainingError, match="cannot be read: Is a directory"):
        load_prompt("judge_step", {"judge_step": tmp_path})


def test_prompts_that_nothing_reads_are_refused() -> None:
    prompts = {"judge_steps": Path("mine.md")}
    with pytest.raises(ConfigError, match=r"name the file prompts\.judge_step, or change"):
        ExpertConfig(model="m", grading="expected", prompts=prompts)
    expert = ExpertConfig(model="m", prompts=prompts)
    with pytest.raises(ConfigError, match=r"set in expert\.prompts"):
        LabelConfig(expert=expert, policy=expert)
    with pytest.raises(ConfigError, match="judge_stepz"):
        ExpertConfig.model_validate({"model": "m", "prompts": {"judge_stepz": "mine.md"}})


TRAJECTORY = Trajectory(
    question="40 + 2?", steps=tuple(f"step {i}" for i in range(5)), response=("42",)
)


def grades(first: int, last: int) -> str:
    entries = [{"step": i, "reason": f"r{i}", "grade": i} for i in range(first, last + 1)]
    return json.dumps({"grades": entries})


def test_the_judge_grades_every_step_in_parts(tmp_path: Path) -> None:
    def reply(request: dict[str, Any]) -> str:
        content = request["messages"][1]["content"]
        first, last = map(int, re.search(r"numbered (\d+) to (\d+)", content).groups())
        assert f"[{last}]" in content
        assert f"[{last + 1}]" not in content  # later steps are not shown
        return grades(first, last)

    with serving(reply) as server:
        settings = config(server, tmp_path, steps_per_request=2)
        found, _ = ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))
    assert [grade.grade for grade in found] == [1, 2, 3, 4, 5]
    assert found[2].reason == "r3"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (grades(1, 4), r"it grades the steps \[1, 2, 3, 4\], expected \[1, 2, 3, 4, 5\]"),
        (grades(1, 5).replace('"grade": 5', '"grade": 9'), r"the grade of step 5 is 9\.0"),
        ('{"grades": "fine"}', "valid list"),
    ],
)
def test_grades_that_do_not_fit_are_named(tmp_path: Path, answer: str, complaint: str) -> None:
    with serving([answer]) as server, pytest.raises(ExpertError, match=complaint):
        ask(config(server, tmp_path), lambda client: StepJudge(client).grade(TRAJECTORY))


def test_nan_is_not_a_grade(tmp_path: Path) -> None:
    answer = grades(1, 5).replace('"grade": 5', '"grade": NaN')
    with serving([answer, grades(1, 5)]) as server:
        found, _ = ask(config(server, tmp_path), lambda c: StepJudge(c).grade(TRAJECTORY))
    assert not any(math.isnan(grade.grade) for grade in found)
    assert len(server.requests) == 2


def test_expected_grades_are_means_over_the_probabilities_of_one_token(tmp_path: Path) -> None:
    chances = {
        "1": {"1": 0.5, "5": 0.5},
        "2": {"4": 0.9, "\n": 0.1},  # what is no grade does not count
        "3": {"_4": 0.3, "4": 0.3, "2": 0.2, "9": 0.1, "٣": 0.1},
        "4": {"5": 1.0},
        "5": {"2": 0.6, "The": 0.4},
    }

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        content = request["messages"][1]["content"]
        step = re.search(r"Grade step (\d)", content).group(1)
        assert f"[{step}] step" in content
        assert f"[{int(step) + 1}]" not in content  # later steps are not shown
        return token(**chances[step])

    with serving(reply) as server:
        settings = config(server, tmp_path, grading="expected")
        found, client = ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))
        again, _ = ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))
    assert [grade.grade for grade in found] == pytest.approx([3, 4, 3.5, 5, 2])
    assert again == found
    assert len(server.requests) == 5
    assert {(r["max_tokens"], r["logprobs"], r["top_logprobs"]) for r in server.requests} == {
        (1, True, 20)
    }
    assert client.usage.answer_tokens == 5


def test_no_more_traces_are_judged_at_once_than_requests(tmp_path: Path) -> None:
    """A server keeps the prefixes of few traces, each of which must still be there for its next
    step."""
    traces = [
        Trajectory(question=f"question {i}", steps=("a", "b", "c"), response=("42",))
        for i in range(7)
    ]

    def judge_all(client: ExpertClient) -> Awaitable[Any]:
        judge = StepJudge(client)
        return asyncio.gather(*map(judge.grade, traces))

    with serving(lambda request: token(**{"4": 1.0})) as server:
        ask(config(server, tmp_path, grading="expected", concurrency=2), judge_all)
    asked = [re.search(r"question \d", r["messages"][1]["content"])[0] for r in server.requests]  # type: ignore[index]
    assert len(asked) == 21
    begun_and_not_done = [
        len({name for name in asked[: i + 1] if name in asked[i:]}) for i in range(len(asked))
    ]
    assert max(begun_and_not_done) == 2


def test_the_judge_asks_by_the_prompt_of_the_user(tmp_path: Path) -> None:
    own = _own(tmp_path, "{question}\n{steps}\nIs {step} right?")
    with serving(lambda request: token(**{"4": 1.0})) as server:
        settings = config(server, tmp_path, grading="expected", prompts={"judge_step": own})
        found, _ = ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))
    assert [grade.grade for grade in found] == [4.0] * len(TRAJECTORY.steps)
    for number, request in enumerate(server.requests, start=1):
        assert request["messages"][0]["content"] == "Be kind."
        assert request["messages"][1]["content"].endswith(f"Is {number} right?")


@pytest.mark.parametrize("chances", [{"The": 0.96, "5": 0.04}, {"<think>": 1.0}])
def test_an_answer_that_rarely_begins_with_a_grade_is_refused(
    tmp_path: Path, chances: dict[str, float]
) -> None:
    with serving([token(**chances)]) as server:
        settings = config(server, tmp_path, grading="expected")
        with pytest.raises(ExpertError, match=r"a grade in \d+% .*'(The|<think>)'.*written"):
            ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))


@pytest.mark.parametrize("grading", ["expected", "written"])
def test_a_step_whose_answer_cannot_be_read_leaves_the_others_their_grades(
    tmp_path: Path, grading: str
) -> None:
    def reply(request: dict[str, Any]) -> Any:
        content = request["messages"][1]["content"]
        step = int(re.search(r"(?:Grade step|numbered) (\d)", content)[1])  # type: ignore[index]
        if grading == "expected":
            return token(**({"Well": 1.0} if step in (1, 4) else {"4": 1.0}))
        return "I cannot tell." if step in (1, 4) else grades(step, step)

    with serving(reply) as server:
        settings = config(server, tmp_path, grading=grading, steps_per_request=1)
        found, _ = ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))
    unread = [math.isnan(grade.grade) for grade in found]
    assert unread == [True, False, False, True, False]
    assert all(("set expert.grading" in g.reason or "no usable" in g.reason) for g in found[::3])


def test_a_server_that_fails_ends_the_trace(tmp_path: Path) -> None:
    """Each further step would wait for it as long again."""
    with serving([token(**{"4": 1.0}), status(500)]) as server:
        settings = config(server, tmp_path, grading="expected", max_attempts=1)
        with pytest.raises(ExpertError, match="500"):
            ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))
    assert len(server.requests) == 2


def test_expected_grades_need_log_probabilities_and_digits(tmp_path: Path) -> None:
    with serving(["5"]) as server:
        settings = config(server, tmp_path, grading="expected")
        with pytest.raises(ServerRefusedError, match=r"sends no log-probabilities.*written"):
            ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))
        assert len(server.requests) <= len(TRAJECTORY.steps)
        for scale in ((0.0, 10.0), (-1.0, 1.0), (0.2, 0.9)):
            with pytest.raises(ExpertError, match=f"the scale of grades is {scale[0]:g} to"):
                ask(settings, lambda c, s=scale: StepJudge(c, scale=s).grade(TRAJECTORY))  # type: ignore[misc]


def test_a_request_for_one_token_reserves_one(tmp_path: Path) -> None:
    with serving([token(**{"5": 1.0})]) as server:
        settings = config(
            server, tmp_path, grading="expected", max_answer_tokens=10**6, max_tokens=5000
        )
        found, _ = ask(settings, lambda client: StepJudge(client).grade(TRAJECTORY))
    assert [grade.grade for grade in found] == [5] * 5
