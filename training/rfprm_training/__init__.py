"""Makes a PRM from rewarded trajectories. Needs the extra ``train``.

Knows data, labels and optimisation; the network is ``rfprm_runtime.backends.torch``, the base
model is read by ``rfprm_export``.
"""

from __future__ import annotations

from importlib.util import find_spec

from rfprm_runtime.errors import MissingExtraError, RfprmError

for _package in ("torch", "peft", "safetensors", "gguf"):
    if find_spec(_package) is None:
        raise MissingExtraError(_package, "train", "training")


class TrainingError(RfprmError):
    """The configuration, the data or a saved state cannot be trained with."""


class ConfigError(TrainingError, ValueError):
    """A config has a setting that does not exist, or a value that cannot be used."""


class DataError(TrainingError, ValueError):
    """A line of labelled data holds values that cannot be used."""
