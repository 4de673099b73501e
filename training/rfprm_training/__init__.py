"""Trains a PRM on rewarded trajectories.

Knows data, labels and optimisation. The network is ``rfprm_runtime.backends.torch``;
``rfprm_export`` reads the base model. Curating and labelling need the extra ``data``, training the
extra ``train``.
"""

from __future__ import annotations

from importlib.util import find_spec

from rfprm_runtime.errors import MissingExtraError, RfprmError


class TrainingError(RfprmError):
    """The config, the data or a saved state cannot be used."""


class ConfigError(TrainingError, ValueError):
    """A config has an unknown setting or an invalid value."""


class DataError(TrainingError, ValueError):
    """A line of labelled data holds invalid values."""


def check_extras() -> None:
    """Raises :class:`MissingExtraError` if the packages for training are not installed."""
    for package in ("torch", "peft", "safetensors", "gguf"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", "training")
