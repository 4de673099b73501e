"""Solutions sampled from a server, with their outcomes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llm_server import completion, serving, status
from rfprm_runtime.traces.sources import read_traces
from rfprm_runtime.types import Trajectory
from rfprm_training import ConfigError, TrainingError
from rfprm_training.construction.sampling.solutions import (
    Problem,
    SolvingConfig,
    read_problems,
    solve_file,
)
from rfprm_training.data_commands import solve

PROBLEMS = [Problem(f"What is {number} + 1?", (str(number + 1),)) for number in range(6)]


def config(url: str, **changes: Any) -> SolvingConfig:
    settings = {"base_url": url, "model": "m", "samples_per_question": 3, "max_wait": 0.01}
    return SolvingConfig(**{**settings, **changes})


def question_of(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"])


def adds(request: dict[str, Any]) -> dict[str, Any]:
    """Right with an even seed, off by one with an odd one; later for smaller numbers."""
    number = int(question_of(request).split()[2])
    time.sleep(0.01 * (6 - number) / 6)
    answer = number + 1 + request["seed"] % 2
    return completion(f"We add one.\n\nIt is \\boxed{{{answer}}}.", answer_tokens=7)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_solutions_are_written_in_order_with_their_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    with serving(adds) as server:
        found = solve_file(PROBLEMS, path, config(server.url, temperatures=(0.5, 1.0)))
        requests = server.requests
    rows = lines(path)
    assert [(row["question"], row["sample"]) for row in rows] == [
        (problem.question, sample) for problem in PROBLEMS for sample in range(3)
    ]
    assert [row["temperature"] for row in rows[:3]] == [0.5, 1.0, 0.5]
    seeds = {
        (question_of(request), request["temperature"]): request["seed"] for request in requests
    }
    assert len({request["seed"] for request in requests}) == 18
    for row in rows:
        if row["temperature"] == 1.0:
            assert row["outcome"] is (seeds[row["question"], 1.0] % 2 == 0)
    assert found.num_judged == found.num_solutions == 18
    assert found.num_right == sum(row["outcome"] for row in rows)
    assert 0 < found.num_right < 18
    assert all(request["messages"][0]["role"] == "system" for request in requests)
    assert {row["num_tokens"] for row in rows} == {7}


def test_the_pool_is_read_by_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    with serving(adds) as server:
        solve_file(PROBLEMS[:1], path, config(server.url))
    for record, row in zip(read_traces(str(path)), lines(path), strict=True):
        trajectory = record.trajectory
        assert isinstance(trajectory, Trajectory)
        assert trajectory.question == PROBLEMS[0].question
        assert trajectory.steps[0] == "We add one."
        assert trajectory.outcome == row["outcome"]


@pytest.mark.parametrize("concurrency", [1, 5])
def test_a_stopped_run_resumes_with_the_same_bytes(tmp_path: Path, concurrency: int) -> None:
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    with serving(adds) as server:
        settings = config(server.url, concurrency=concurrency)
        solve_file(PROBLEMS, whole, settings)

        class StoppedError(Exception):
            pass

        def stop(done: int, total: int) -> None:
            if done == 7:
                raise StoppedError

        with pytest.raises(StoppedError):
            solve_file(PROBLEMS, stopped, settings, on_progress=stop)
        assert not stopped.exists()
        before = len(server.requests)
        other = settings.model_copy(update={"concurrency": 2, "timeout": 30.0})
        solve_file(PROBLEMS, stopped, other)
        assert len(server.requests) - before == 18 - 7
        assert server.most_at_once <= concurrency if concurrency > 2 else True
    assert stopped.read_bytes() == whole.read_bytes()
    with pytest.raises(TrainingError, match="exists"):
        solve_file(PROBLEMS, whole, settings)


def many(most: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A server that returns at most ``most`` of the answers that a request asks for."""

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        wanted = request.get("n", 1)
        answers = [adds({**request, "seed": request["seed"] + i}) for i in range(wanted)]
        body = completion("", answer_tokens=7 * wanted)
        body["choices"] = [answer["choices"][0] for answer in answers[:most]]
        return body

    return reply


@pytest.mark.parametrize(("most", "num_requests"), [(9, 12), (1, 30)])
def test_samples_that_share_a_request(tmp_path: Path, most: int, num_requests: int) -> None:
    path, stopped = tmp_path / "pool.jsonl", tmp_path / "stopped.jsonl"
    with serving(many(most)) as server:
        settings = config(
            server.url, samples_per_question=5, samples_per_request=3, temperatures=(0.5, 1.0)
        )
        solve_file(PROBLEMS, path, settings)
        assert len(server.requests) == num_requests

        class StoppedError(Exception):
            pass

        def stop(done: int, total: int) -> None:
            if done == 8:  # the eighth is the last but one of its request
                raise StoppedError

        with pytest.raises(StoppedError):
            solve_file(PROBLEMS, stopped, settings, on_progress=stop)
        solve_file(PROBLEMS, stopped, settings)
    rows = lines(path)
    assert [row["sample"] for row in rows] == list(range(5)) * 6
    assert [row["temperature"] for row in rows[:5]] == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert stopped.read_bytes() == path.read_bytes()
    if most > 1:
        assert sum(row["num_tokens"] for row in rows) == 7 * 30
    assert {row["outcome"] for row in rows} == {True, False}


def test_a_failed_request_lists_each_of_its_samples(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"

    def reply(request: dict[str, Any]) -> Any:
        return status(500) if "2 + 1" in question_of(request) else many(9)(request)

    with serving(reply) as server:
        found = solve_file(
            PROBLEMS, path, config(server.url, samples_per_request=3, max_attempts=1)
        )
    assert (found.num_solutions, found.num_failed) == (15, 3)
    errors = lines(tmp_path / "pool.jsonl.errors.jsonl")
    assert [error["sample"] for error in errors] == [0, 1, 2]


def test_another_temperature_is_another_pool(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with serving(adds) as server:
        with pytest.raises(KeyboardInterrupt):
            solve_file(PROBLEMS, path, config(server.url), on_progress=stop)
        with pytest.raises(TrainingError, match="temperatures"):
            solve_file(PROBLEMS, path, config(server.url, temperatures=(0.1,)))
        with pytest.raises(TrainingError, match="problems_sha256"):
            solve_file(PROBLEMS[1:], path, config(server.url))


def test_a_failed_request_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"

    def replies(request: dict[str, Any]) -> Any:
        return status(400) if "2 + 1" in question_of(request) else adds(request)

    with serving(replies) as server:
        found = solve_file(PROBLEMS, path, config(server.url))
    assert (found.num_solutions, found.num_failed) == (15, 3)
    failed = lines(tmp_path / "pool.jsonl.errors.jsonl")
    assert {row["question"] for row in failed} == {"What is 2 + 1?"}
    assert all("status 400" in row["error"] for row in failed)


def test_a_server_that_refuses_stops_the_run(tmp_path: Path) -> None:
    with serving([status(404)]) as server, pytest.raises(TrainingError, match="base_url and model"):
        solve_file(PROBLEMS, tmp_path / "pool.jsonl", config(server.url))
    assert not (tmp_path / "pool.jsonl").exists()


def test_no_answer_stated_is_wrong_and_no_answer_known_is_no_outcome(tmp_path: Path) -> None:
    problems = [Problem("Say something.", ()), Problem("What is 1 + 1?", ("2", "two"))]
    path = tmp_path / "pool.jsonl"
    replies = {"Say something.": "Something.", "What is 1 + 1?": "I cannot tell."}
    with serving(lambda request: replies[question_of(request)]) as server:
        settings = config(server.url, samples_per_question=1, system_prompt=None)
        found = solve_file(problems, path, settings)
        assert [len(request["messages"]) for request in server.requests] == [1, 1]
    free, wrong = lines(path)
    assert "outcome" not in free
    assert (wrong["outcome"], wrong["answer"]) == (False, ["2", "two"])
    assert (found.num_judged, found.num_right) == (1, 0)


def test_log_probabilities_are_kept_as_their_mean(tmp_path: Path) -> None:
    answered = completion("\\boxed{1}")
    answered["choices"][0]["logprobs"] = {"content": [{"logprob": -1.0}, {"logprob": -0.5}]}
    answered["choices"][0]["finish_reason"] = "stop"
    path = tmp_path / "pool.jsonl"
    with serving([answered]) as server:
        solve_file(PROBLEMS[:1], path, config(server.url, logprobs=True, samples_per_question=1))
        assert server.requests[0]["logprobs"] is True
    (row,) = lines(path)
    assert (row["mean_logprob"], row["finish_reason"]) == (-0.75, "stop")


def test_questions_in_any_format(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"problem": "A?", "solution": "So \\boxed{4}."},
        {"question": "B?", "answer": "Work <<1+1=2>>.\n#### 2"},
        {"prompt": "C?"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config("http://unused")
    assert read_problems(str(path), settings) == [
        Problem("A?", ("4",)),
        Problem("B?", ("2",)),
        Problem("C?", ()),
    ]
    some = settings.model_copy(update={"skip_questions": 1, "num_questions": 1})
    assert [problem.question for problem in read_problems(str(path), some)] == ["B?"]
    with pytest.raises(TrainingError, match="skip_questions"):
        read_problems(str(path), settings.model_copy(update={"skip_questions": 3}))


def test_the_command(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    settings, out = tmp_path / "solve.toml", tmp_path / "pool.jsonl"
    app = typer.Typer()
    app.command()(solve)
    with serving(["It is \\boxed{2}."]) as server:
        settings.write_text(f'base_url = "{server.url}"\nmodel = "m"\nsamples_per_question = 2\n')
        arguments = [str(questions), "-o", str(out), "--config", str(settings)]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 solutions to 1 question, 100.0% of 2 right" in result.output
    settings.write_text('model = "m"\ntemperature = 1.0\n')
    refused = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert isinstance(refused.exception, ConfigError)
    assert "temperature" in str(refused.exception)
