"""Makes a PRM from rewarded trajectories.

Knows data, labels and optimisation; the network is ``rfprm_runtime.backends.torch``, the base
model is read by ``rfprm_export``. Curating and labelling need the extra ``data``, training the
extra ``train``.
"""

from __future__ import annotations

from importlib.util import find_spec

from rfprm_runtime.errors import MissingExtraError, RfprmError


class TrainingError(RfprmError):
    """The configuration, the data or a saved state cannot be trained with."""


class ConfigError(TrainingError, ValueError):
    """A config has a setting that does not exist, or a value that cannot be used."""


class DataError(TrainingError, ValueError):
    """A line of labelled data holds values that cannot be used."""


def check_extras() -> None:
    """Raises :class:`MissingExtraError` where what training needs is not installed."""
    for package in ("torch", "peft", "safetensors", "gguf"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "train", "training")
