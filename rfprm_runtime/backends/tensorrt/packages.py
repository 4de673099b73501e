"""The two packages of TensorRT, which have nearly the same interface.

``tensorrt`` (datacentre GPUs) builds on the GPU that will run it; ``tensorrt_rtx`` builds ahead of
time, for several kinds of GPU, on any machine.
"""

from __future__ import annotations

import logging
from collections import deque
from importlib import import_module
from typing import Any

from rfprm_runtime.artifact.build_records import EngineFlavour
from rfprm_runtime.errors import BackendError, MissingExtraError

EXTRAS: dict[EngineFlavour, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
_logger = logging.getLogger("rfprm_runtime.tensorrt")
_LEVELS = {
    "INTERNAL_ERROR": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}
_USUAL = ("Make sure input", "Using default stream")
"""Warnings to ignore: our inputs are int64, as the network declares."""


def load_flavour(name: EngineFlavour, purpose: str) -> Any:
    """The package ``name``. Raises :class:`MissingExtraError` if it is not installed and
    :class:`BackendError` if it does not load."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise BackendError(f"{name} is installed but does not load: {error}") from error
        raise MissingExtraError(name, EXTRAS[name], purpose) from None
    except (ImportError, OSError) as error:
        raise BackendError(f"{name} is installed but does not load: {error}") from error


def make_logger(trt: Any) -> Any:
    """Passes TensorRT's messages to ``logging``, and keeps the last errors for our messages."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, message: str) -> None:
            level = _LEVELS.get(severity.name, logging.ERROR)
            if level >= logging.ERROR:
                self.errors.append(message.strip())
                level = logging.DEBUG  # the caller gets them in an exception
            elif any(text in message for text in _USUAL):
                level = logging.DEBUG
            _logger.log(level, "%s", message)

        @property
        def last_errors(self) -> str:
            return "; ".join(self.errors) or "it gave no reason"

    return Logger()
