"""How a model stretches its rotary embedding beyond the positions it was first trained on.

Formats and meaning are those of ``rope_scaling`` (``rope_parameters``) in a Hugging Face
``config.json``; :mod:`rfprm_runtime.backends.rotary` computes the tables.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from rfprm_runtime.errors import ManifestError
from rfprm_runtime.ground.validated import Validated

Factor = Annotated[float, Field(ge=1, le=2**16)]
Positions = Annotated[int, Field(gt=0, le=2**24)]


class _Scaling(Validated):
    model_config = ConfigDict(allow_inf_nan=False)
    refusal = ManifestError

    factor: Factor


class LinearScaling(_Scaling):
    """Position interpolation (arXiv 2306.15595): every frequency is divided by ``factor``."""

    kind: Literal["linear"] = "linear"


class Llama3Scaling(_Scaling):
    """Llama 3.1 and 3.2: a frequency that turns fewer than ``low_freq_factor`` times within
    ``original_max_positions`` is divided by ``factor``, one that turns more than
    ``high_freq_factor`` times stays, and between them the two are mixed."""

    kind: Literal["llama3"] = "llama3"
    low_freq_factor: float = Field(gt=0, le=2**16)
    high_freq_factor: float = Field(gt=0, le=2**16)
    original_max_positions: Positions

    @model_validator(mode="after")
    def _low_is_lower(self) -> Llama3Scaling:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ManifestError(
                f"low_freq_factor is {self.low_freq_factor}, expected less than high_freq_factor, "
                f"{self.high_freq_factor}"
            )
        return self


class YarnScaling(_Scaling):
    """YaRN (arXiv 2309.00071): as Llama 3's, mixed linearly over dimensions, and with cos and sin
    multiplied by ``attention_factor``."""

    kind: Literal["yarn"] = "yarn"
    original_max_positions: Positions
    beta_fast: float = Field(default=32.0, gt=0, le=2**16)
    """Turns within ``original_max_positions`` from which a frequency stays."""
    beta_slow: float = Field(default=1.0, gt=0, le=2**16)
    """Turns up to which it is divided."""
    attention_factor: float = Field(gt=0, le=16)
    truncate: bool = True
    """Whether the bounds of the mixed dimensions are rounded outwards to whole numbers."""

    @model_validator(mode="after")
    def _slow_is_slower(self) -> YarnScaling:
        if self.beta_slow >= self.beta_fast:
            raise ManifestError(
                f"beta_slow is {self.beta_slow}, expected less than beta_fast, {self.beta_fast}"
            )
        return self


RopeScaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="kind")]
