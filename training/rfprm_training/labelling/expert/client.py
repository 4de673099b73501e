"""Chat completions from any OpenAI-compatible server: cached, bounded, retried, validated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from rfprm_runtime.ground.endpoint import (
    Endpoint,
    EndpointError,
    EndpointRefusedError,
    TryAgainError,
)
from rfprm_training import TrainingError
from rfprm_training.labelling.expert.budget import Budget, Usage
from rfprm_training.labelling.expert.cache import Answer, AnswerCache, request_key
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.expert.forms import (
    Form,
    UnusableAnswerError,
    parse_form,
    schema_of,
)

if TYPE_CHECKING:
    import httpx

_MOST_LOGPROBS = 20
"""What OpenAI's API and vLLM give at most."""


class ExpertError(TrainingError):
    """A request failed; the trajectory is marked with the reason, and labelling continues."""


class UnreadableAnswerError(ExpertError):
    """The model answered, but with nothing that can be used; it may do better on the next step."""


class ServerRefusedError(TrainingError):
    """The server refuses every request (wrong key, no such model), so labelling stops."""


class ExpertClient:
    """Asks an LLM, in one event loop. Close it with ``async with``.

    Identical requests in flight are sent once.
    """

    def __init__(self, config: ExpertConfig) -> None:
        self.config = config
        self._cache = AnswerCache(config.cache)
        self._budget = Budget(config)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._in_flight: dict[str, asyncio.Future[Answer]] = {}
        self._endpoint = Endpoint(
            config.base_url,
            api_key_env=config.api_key_env,
            timeout=config.timeout,
            concurrency=config.concurrency,
            max_attempts=config.max_attempts,
            max_wait=config.max_wait,
            on_attempt=self._counting("requests"),
            on_retry=self._counting("retries"),
        )

    @property
    def usage(self) -> Usage:
        return self._budget.usage

    async def ask(
        self, messages: list[dict[str, str]], prompt_id: str, *, seed: int | None = None
    ) -> str:
        """The answer's text. ``seed`` distinguishes samples of the same request.

        Raises :class:`ExpertError` if the request fails, :class:`~.budget.BudgetSpentError` before
        it may exceed the budget, and :class:`ServerRefusedError` if no request can succeed.
        """
        return (await self._answer(messages, prompt_id, seed=seed, form=None)).text

    async def ask_for(
        self, form: type[Form], messages: list[dict[str, str]], prompt_id: str
    ) -> Form:
        """The answer as ``form``. An answer that does not fit is sent back with the reason, at most
        ``max_repairs`` times. Raises like :meth:`ask`."""
        conversation = list(messages)
        problem = ""
        for repair in range(self.config.max_repairs + 1):
            self.usage.repairs += bool(repair)
            answer = await self._answer(conversation, prompt_id, seed=None, form=form)
            try:
                return parse_form(answer.text, form)
            except UnusableAnswerError as error:
                problem = str(error)
            # Sends the whole conversation: the same request would be answered from the cache.
            conversation += [
                {"role": "assistant", "content": answer.text or "(nothing)"},
                {
                    "role": "user",
                    "content": f"That answer cannot be used: {problem}. Answer again, with the "
                    "JSON object alone.",
                },
            ]
        raise UnreadableAnswerError(
            f"{self.config.model} gave no usable answer in {self.config.max_repairs + 1} tries: "
            f"{problem}"
        )

    async def ask_for_token(
        self, messages: list[dict[str, str]], prompt_id: str
    ) -> dict[str, float]:
        """The likeliest first tokens of the answer, at most 20, with their log-probabilities.
        Raises like :meth:`ask`."""
        request = {
            **self._request(messages, seed=None, form=None),
            **{"max_tokens": 1, "logprobs": True, "top_logprobs": _MOST_LOGPROBS},
        }
        found: dict[str, float] = json.loads((await self._cached(request, prompt_id)).text)
        return found

    async def _answer(
        self,
        messages: list[dict[str, str]],
        prompt_id: str,
        *,
        seed: int | None,
        form: type[BaseModel] | None,
    ) -> Answer:
        return await self._cached(self._request(messages, seed, form), prompt_id)

    async def _cached(self, request: dict[str, Any], prompt_id: str) -> Answer:
        key = request_key(self.config.model, prompt_id, request)
        found = self._cache.get(key)
        if found is not None:
            self.usage.cached += 1
            return found
        if key in self._in_flight:
            self.usage.cached += 1
            # A cancelled waiter must not cancel the request for the others.
            return await asyncio.shield(self._in_flight[key])
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = future
        try:
            answer = await self._send_once(request, prompt_id, key)
        except BaseException as error:
            # Every waiter gets the same error. Without one, asyncio warns unless it is read here.
            future.set_exception(
                error if isinstance(error, Exception) else ExpertError("the request was cancelled")
            )
            future.exception()
            raise
        finally:
            del self._in_flight[key]
        future.set_result(answer)
        return answer

    async def _send_once(self, request: dict[str, Any], prompt_id: str, key: str) -> Answer:
        messages = request["messages"]
        self.check_length(sum(len(message["content"]) for message in messages))
        async with self._slots:
            reserved = self._budget.reserve(messages, request["max_tokens"])
            answer = None
            try:
                answer = await self._send(request)
            finally:
                self._budget.settle(reserved, answer)
            self._cache.put(key, self.config.model, prompt_id, answer)
        return answer

    def check_length(self, num_characters: int) -> None:
        """Raises :class:`ExpertError` for a request with more than ``max_prompt_characters``."""
        if num_characters > self.config.max_prompt_characters:
            raise ExpertError(
                f"the request has {num_characters:,} characters, more than the "
                f"{self.config.max_prompt_characters:,} of expert.max_prompt_characters"
            )

    def _request(
        self, messages: list[dict[str, str]], seed: int | None, form: type[BaseModel] | None
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.config.model,
            "messages": messages,
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_answer_tokens,
        }
        if seed is not None:
            request["seed"] = seed
        if form is not None and self.config.structured_output == "json_object":
            request["response_format"] = {"type": "json_object"}
        elif form is not None and self.config.structured_output == "json_schema":
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": form.__name__,
                    "schema": schema_of(form),
                    "strict": True,
                },
            }
        return request

    async def _send(self, request: dict[str, Any]) -> Answer:
        try:
            read = _read_first_token if "logprobs" in request else _read_answer
            return await self._endpoint.post("chat/completions", request, read)
        except EndpointRefusedError as error:
            raise ServerRefusedError(f"{error}; check expert.base_url and expert.model") from None
        except EndpointError as error:
            raise ExpertError(str(error)) from None

    def _counting(self, name: str) -> Callable[[], None]:
        def count() -> None:
            setattr(self.usage, name, getattr(self.usage, name) + 1)

        return count

    async def __aenter__(self) -> ExpertClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._endpoint.close()
        self._cache.close()


def _read_answer(response: httpx.Response) -> Answer:
    return _read(response, lambda choice: str(choice["message"]["content"] or ""))


def _read_first_token(response: httpx.Response) -> Answer:
    return _read(response, lambda choice: json.dumps(_first_token(choice), ensure_ascii=False))


def _first_token(choice: dict[str, Any]) -> dict[str, float]:
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        raise ServerRefusedError(
            "the server sends no log-probabilities, which expert.grading = 'expected' needs; set "
            "expert.grading = 'written'"
        )
    found: dict[str, float] = {}
    for one in content[0]["top_logprobs"]:
        # Two tokens may have the same text once their bytes are read.
        token, logprob = str(one["token"]), float(one["logprob"])
        found[token] = max(logprob, found.get(token, logprob))
    return found


def _read(response: httpx.Response, text_of: Callable[[dict[str, Any]], str]) -> Answer:
    try:
        content = response.json()
        text = text_of(content["choices"][0])
        usage = content.get("usage") or {}
        prompt_tokens = int(usage.get("prompt_tokens") or 0)
        kept = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        answer_tokens = int(usage.get("completion_tokens") or 0)
        return Answer(text, prompt_tokens, answer_tokens, min(kept, prompt_tokens))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # A proxy's page with status 200, or an answer that broke off.
        raise TryAgainError(
            f"not a chat completion ({type(error).__name__}): {response.text[:120]!r}"
        ) from None
