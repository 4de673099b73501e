"""What all records of a manifest have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError

from rfprm_runtime.errors import ManifestError
from rfprm_runtime.ground.validated import Validated, one_line

# Far beyond every model; what is within them fits every type and product that it goes into.
Size = Annotated[int, Field(gt=0, le=2**24)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Record(Validated):
    """No number of a manifest is NaN or infinite."""

    model_config = ConfigDict(allow_inf_nan=False)
    refusal = ManifestError

    @classmethod
    def _refuse(cls, error: ValidationError) -> ManifestError:
        unknown = any(problem["type"] == "extra_forbidden" for problem in error.errors())
        hint = "; if a later rfprm_runtime wrote it, upgrade this one" if unknown else ""
        return ManifestError(one_line(error) + hint)
