"""Reads TOML config files: what the configs of all commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

from rfprm_runtime.ground.validated import Validated
from rfprm_training import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Section(Validated):
    refusal = ConfigError


Model = TypeVar("Model", bound=Section)


def read_toml(path: Path, model: type[Model], what: str) -> Model:
    """A TOML file as ``model``. Raises :class:`ConfigError` naming every bad field."""
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path} is not a {what}: {error}") from None
