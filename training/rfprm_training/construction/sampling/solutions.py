"""Whole solutions, sampled from an LLM behind an OpenAI-compatible server, with their outcomes.

The pool that selection, Best-of-N and outcome training start from: any number of solutions to each
question, at one or several temperatures. Knows a server, and no model.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.endpoint import Endpoint, EndpointError, EndpointRefusedError
from rfprm_runtime.ground.made_from import without_later
from rfprm_runtime.ground.progress import Step
from rfprm_runtime.traces.known import references_of
from rfprm_runtime.traces.layouts import unwrapped
from rfprm_runtime.traces.right import Agree, comparing, states_right_answer
from rfprm_runtime.traces.sources import read_records
from rfprm_training import TrainingError
from rfprm_training.construction.sampling.completions import draw
from rfprm_training.gsm8k import read_rows
from rfprm_training.resumable import ResumableLines
from rfprm_training.toml_config import Section

SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
_FORMAT_VERSION = 1
"""Rises when the code begins to ask for other samples."""
_AHEAD = 4
"""Requests kept waiting for each that the server may answer at once: a long solution then holds up
only the file, not the server."""


class SolvingConfig(Section):
    """What to ask of whom."""

    base_url: str = "http://localhost:8000/v1"
    """A server that offers the chat completions of OpenAI's API."""
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; keys are never read from files."""
    system_prompt: str | None = SYSTEM_PROMPT
    samples_per_question: int = Field(default=8, gt=0)
    temperatures: tuple[float, ...] = Field(default=(0.8,), min_length=1)
    """Taken in turns by the requests for a question; 0 is greedy."""
    samples_per_request: int = Field(default=1, gt=0)
    """Samples to ask for at once (``n`` of OpenAI's API): servers compute their prompt once. One
    that returns fewer is asked again for the rest."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=512, gt=0)
    """Of one solution; a longer one is cut off, and its ``finish_reason`` is ``length``."""
    num_questions: int | None = Field(default=None, gt=0)
    """How many questions to take; None takes all."""
    skip_questions: int = Field(default=0, ge=0)
    """Questions to leave out before that."""
    logprobs: bool = False
    """Also ask for the log-probabilities of the tokens, and keep their mean."""
    seed: int = 0
    concurrency: int = Field(default=16, gt=0)
    """Requests that the server gets at once. It changes neither the samples nor their order."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds for one attempt."""
    max_attempts: int = Field(default=6, gt=0)
    max_wait: float = Field(default=60.0, gt=0)


_LATER = {"samples_per_request": 1}
"""Settings that came later, with what they were before."""
_HOW = {"base_url", "api_key_env", "concurrency", "timeout", "max_attempts", "max_wait"}
"""Settings that say how the server is asked, not for what."""


@dataclass(frozen=True)
class Problem:
    """A question and the answers that are right, of which there may be none."""

    question: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Solved:
    """What :func:`solve_file` did."""

    num_solutions: int
    num_failed: int
    num_right: int
    num_judged: int


def read_problems(source: str, config: SolvingConfig) -> list[Problem]:
    """The questions of a source in any readable format. Raises :class:`TrainingError` for a record
    without one, and if none is left."""
    found: list[Problem] = []
    last = None if config.num_questions is None else config.skip_questions + config.num_questions
    for number, record in enumerate(read_records(source)):
        if last is not None and number >= last:
            break
        if number < config.skip_questions:
            continue
        question = record.question
        if isinstance(question, InvalidTrajectoryError):
            raise TrainingError(f"{record.place}: {question}")
        found.append(Problem(question, tuple(references_of(unwrapped(record.fields)))))
    if not found:
        raise TrainingError(
            f"{source} has no question after the first {config.skip_questions:,}; lower "
            "skip_questions"
        )
    return found


def solve_file(
    problems: Sequence[Problem],
    output: Path,
    config: SolvingConfig,
    *,
    overwrite: bool = False,
    on_progress: Step = lambda done, total: None,
) -> Solved:
    """Write a line for each solution, in the order of the questions; run it again to resume.

    A line has ``question``, ``completion``, ``sample``, ``temperature``, ``num_tokens`` and
    ``finish_reason``; where the question's answer is known, ``answer`` and ``outcome`` (None where
    the answers cannot be compared); and with ``logprobs`` the ``mean_logprob`` of a token. A
    request that failed is listed in ``output.errors.jsonl``.

    Without ``overwrite``, raises :class:`TrainingError` if ``output`` exists, or was started with
    other questions or settings, and if the server refuses every request.
    """
    key = {
        "format_version": _FORMAT_VERSION,
        "problems_sha256": _digest(problems),
        **without_later(config.model_dump(mode="json", exclude=_HOW), _LATER),
    }
    with ResumableLines(output, key, overwrite=overwrite) as lines, comparing() as agree:
        asyncio.run(_solve(problems, config, lines, agree, on_progress))
        num_failed = lines.num_errors
        lines.finish()
    return _count(output, num_failed)


async def _solve(
    problems: Sequence[Problem],
    config: SolvingConfig,
    lines: ResumableLines,
    agree: Agree,
    on_progress: Step,
) -> None:
    total = len(problems) * config.samples_per_question
    endpoint = Endpoint(
        config.base_url,
        api_key_env=config.api_key_env,
        timeout=config.timeout,
        concurrency=config.concurrency,
        max_attempts=config.max_attempts,
        max_wait=config.max_wait,
    )
    waiting: deque[tuple[_Request, asyncio.Task[_Answers]]] = deque()
    requests = _requests(problems, config, lines.num_done)
    done = lines.num_done
    try:
        while True:
            for request in islice(requests, _AHEAD * config.concurrency - len(waiting)):
                asked = asyncio.create_task(_ask(endpoint, config, request))
                waiting.append((request, asked))
            if not waiting:
                break
            request, asked = waiting.popleft()
            found = await asked
            for sample in range(request.first_missing, request.stop):
                if isinstance(found, EndpointError):
                    failed = {"question": request.problem.question, "sample": sample}
                    lines.write_error({**failed, "error": str(found)})
                else:
                    row = found[sample - request.first]
                    # In a thread: computer algebra may take seconds, and requests go on meanwhile.
                    verdict = await asyncio.to_thread(
                        _judged, request.problem, row["completion"], agree
                    )
                    lines.write(json.dumps({**row, **verdict}, ensure_ascii=False) + "\n")
                done += 1
                on_progress(done, total)
    except EndpointRefusedError as error:
        raise TrainingError(f"{error}; check base_url and model") from None
    finally:
        for _, asked in waiting:
            asked.cancel()
        await asyncio.gather(*(asked for _, asked in waiting), return_exceptions=True)
        await endpoint.close()


@dataclass(frozen=True)
class _Request:
    """Samples ``first`` to ``stop`` of a question, of which those before ``first_missing`` were
    written by an earlier run."""

    problem: Problem
    first: int
    stop: int
    first_missing: int


_Answers = list[dict[str, Any]] | EndpointError


def _requests(
    problems: Sequence[Problem], config: SolvingConfig, num_done: int
) -> Iterator[_Request]:
    number, sample = divmod(num_done, config.samples_per_question)
    size = config.samples_per_request
    for problem in problems[number:]:
        for first in range(sample - sample % size, config.samples_per_question, size):
            stop = min(first + size, config.samples_per_question)
            yield _Request(problem, first, stop, max(first, sample))
        sample = 0


async def _ask(endpoint: Endpoint, config: SolvingConfig, asked: _Request) -> _Answers:
    """The fields of each solution, or why there are none."""
    turn = asked.first // config.samples_per_request
    temperature = config.temperatures[turn % len(config.temperatures)]
    system, question = config.system_prompt, asked.problem.question
    messages = [] if system is None else [{"role": "system", "content": system}]
    request: dict[str, Any] = {
        "model": config.model,
        "messages": [*messages, {"role": "user", "content": question}],
        "temperature": temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
    }
    if config.logprobs:
        request["logprobs"] = True

    def seed_of(num_found: int) -> int:
        return _seed(config.seed, question, asked.first + num_found)

    try:
        found = await draw(endpoint, request, asked.stop - asked.first, seed_of)
    except EndpointRefusedError:
        raise
    except EndpointError as error:
        return error
    return [
        {"question": question, "sample": sample, "temperature": temperature, **answer}
        for sample, answer in enumerate(found, start=asked.first)
    ]


def _judged(problem: Problem, completion: str, agree: Agree) -> dict[str, Any]:
    if not problem.references:
        return {}
    answers = problem.references
    kept = answers[0] if len(answers) == 1 else list(answers)
    return {"answer": kept, "outcome": states_right_answer(completion, answers, agree)}


def _seed(seed: int, question: str, sample: int) -> int:
    """Its own for each sample, so that neither order nor number of questions changes it."""
    digest = hashlib.sha256(f"{seed} {sample} {question}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _digest(problems: Iterable[Problem]) -> str:
    digest = hashlib.sha256()
    for problem in problems:
        line = json.dumps([problem.question, *problem.references])
        digest.update(hashlib.sha256(line.encode()).digest())
    return digest.hexdigest()


def _count(output: Path, num_failed: int) -> Solved:
    outcomes = [row.get("outcome") for row in read_rows(output)]
    judged = [outcome for outcome in outcomes if outcome is not None]
    return Solved(len(outcomes), num_failed, sum(judged), len(judged))
