"""The one place where pydantic's errors become ours.

Knows models and messages, not what any model is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rfprm_runtime.errors import InvalidArgumentError, RfprmError

if TYPE_CHECKING:
    from typing_extensions import Self


class Validated(BaseModel):
    """A frozen pydantic model that refuses bad input in one line, with an error of this library.

    A subclass names the class of that error, which its validators raise too. It must be a
    ``ValueError``, or pydantic would not add the field's name. Of nested models only the outermost
    one converts errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    refusal: ClassVar[type[RfprmError]] = InvalidArgumentError

    def __init__(self, /, *arguments: Any, **fields: Any) -> None:
        if arguments:
            names = ", ".join(f"{name}=…" for name in type(self).model_fields)
            raise self.refusal(f"{type(self).__name__} takes its fields by name: {names}")
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise self._refuse(error) from None

    # Tells pydantic to validate a nested model directly, so that its errors keep their full path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, *arguments: Any, **settings: Any) -> Self:
        try:
            return super().model_validate(*arguments, **settings)
        except ValidationError as error:
            raise cls._refuse(error) from None

    @classmethod
    def model_validate_json(cls, *arguments: Any, **settings: Any) -> Self:
        try:
            return super().model_validate_json(*arguments, **settings)
        except ValidationError as error:
            raise cls._refuse(error) from None

    @classmethod
    def _refuse(cls, error: ValidationError) -> RfprmError:
        return cls.refusal(one_line(error))


_PLAINER = {"missing": "is missing", "extra_forbidden": "is not a field"}


def one_line(error: ValidationError) -> str:
    """Every offending field and what is wrong with it, without pydantic's decoration."""
    parts = []
    for problem in error.errors(include_url=False):
        message = problem["msg"].removeprefix("Value error, ")
        message = message.replace("Input should be", "expected").replace("valid tuple", "list")
        message = _PLAINER.get(problem["type"], message)
        if not problem["type"].startswith(("value_error", "missing", "json_", "extra_")):
            message += f" (got {type(problem['input']).__name__})"
        place = ".".join(map(str, problem["loc"]))
        parts.append(f"{place}: {message}" if place else message)
    return "; ".join(parts)
