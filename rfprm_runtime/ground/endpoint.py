"""Posts JSON to a server that may be busy, slow or gone: bounded, retried, with a deadline.

Knows HTTP; does not know what is asked. Needs the extra ``client``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from rfprm_runtime.errors import MissingExtraError, RfprmError
from rfprm_runtime.ground.arguments import check_not_negative, check_positive, check_whole

try:
    import httpx
    import tenacity
except ImportError as error:
    raise MissingExtraError(error.name or "httpx", "client", "asking a server") from None

Result = TypeVar("Result")
RETRIED = (408, 409, 425, 429)
REFUSED = (401, 403, 404)


class EndpointError(RfprmError):
    """A request failed."""


class EndpointRefusedError(EndpointError):
    """The server will refuse every request: wrong key, wrong address, no such model."""


class TryAgainError(RfprmError):
    """The answer is of no use, but another try may help. Readers of answers raise it."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


class Endpoint:
    """Posts to one server. Use it in one event loop and close it."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout: float = 120.0,
        concurrency: int = 16,
        max_attempts: int = 5,
        max_wait: float = 60.0,
        on_attempt: Callable[[], None] = lambda: None,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        """``timeout`` limits one attempt and ``max_wait`` the pause between two, in seconds;
        ``api_key_env`` names the environment variable with the key, if there is one."""
        check_positive("timeout", timeout, "seconds")
        check_not_negative("max_wait", max_wait)
        check_whole("concurrency", concurrency)
        check_whole("max_attempts", max_attempts)
        key = os.environ.get(api_key_env)
        self.base_url = base_url
        self._api_key_env = api_key_env
        self._timeout, self._max_attempts, self._max_wait = timeout, max_attempts, max_wait
        self._on_attempt, self._on_retry = on_attempt, on_retry
        self._slots = asyncio.Semaphore(concurrency)
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout),
            limits=httpx.Limits(max_connections=concurrency),
        )

    async def post(
        self, path: str, request: dict[str, Any], read: Callable[[httpx.Response], Result]
    ) -> Result:
        """Post ``request`` and return ``read(answer)``.

        ``read`` raises :class:`TryAgainError` for a bad answer. Raises
        :class:`EndpointRefusedError` if no request can succeed and :class:`EndpointError` if this
        one failed.
        """
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TryAgainError),
            stop=tenacity.stop_after_attempt(self._max_attempts),
            wait=self._wait,
            before_sleep=lambda state: self._on_retry(),
            reraise=True,
        )
        async with self._slots:
            try:
                result: Result = await retrying(self._attempt, path, request, read)
            except TryAgainError as error:
                raise EndpointError(
                    f"{self.base_url} gave no answer in {self._max_attempts} attempts, the last: "
                    f"{error}"
                ) from None
        return result

    async def close(self) -> None:
        await self._http.aclose()

    async def _attempt(
        self, path: str, request: dict[str, Any], read: Callable[[httpx.Response], Result]
    ) -> Result:
        self._on_attempt()
        try:
            # One deadline for the whole attempt: a server may send a byte a minute.
            response = await asyncio.wait_for(
                self._http.post(path, json=request), timeout=self._timeout
            )
        except (TimeoutError, asyncio.TimeoutError, httpx.TimeoutException):
            raise TryAgainError(f"no answer within {self._timeout:g} s") from None
        except httpx.HTTPError as error:
            raise TryAgainError(f"{type(error).__name__}: {error}") from None
        status = response.status_code
        if status in RETRIED or status >= 500:
            raise TryAgainError(f"status {status}", _retry_after(response))
        if status in REFUSED:
            raise EndpointRefusedError(
                f"{self.base_url} refuses with status {status}: {response.text[:200]!r}; check "
                f"the address, the model's name and the key in ${self._api_key_env}"
            )
        if status != 200:
            raise EndpointError(f"status {status}: {response.text[:300]!r}")
        return read(response)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, TryAgainError) and error.after is not None:
            return min(error.after, self._max_wait)
        backoff = tenacity.wait_random_exponential(multiplier=0.5, max=self._max_wait)
        return float(backoff(state))


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from either form of the ``Retry-After`` header."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        from datetime import datetime, timezone

        wait = parsedate_to_datetime(value) - datetime.now(timezone.utc)
        return max(0.0, wait.total_seconds())
    except (TypeError, ValueError):
        return None
