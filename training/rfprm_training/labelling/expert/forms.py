"""The forms of an LLM's answers: how a server is told of them, and how an answer is read."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rfprm_training import TrainingError


class UnusableAnswerError(TrainingError, ValueError):
    """An LLM's answer does not have the requested form; the message tells it what to correct."""


Form = TypeVar("Form", bound=BaseModel)


def schema_of(form: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a form as strict structured output wants it (OpenAI's rules): every
    property is required, and there are no others.

    A form may read answers that leave something out. A server that is asked for it must not: a
    small judge would leave out its reasons, and grade without thinking.
    """
    strict: dict[str, Any] = _strict(form.model_json_schema())
    return strict


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _strict(value) for name, value in schema.items() if name != "default"}
    if found.get("type") == "object" and isinstance(found.get("properties"), dict):
        found["required"] = list(found["properties"])
        found["additionalProperties"] = False
    return found


def parse_form(text: str, form: type[Form]) -> Form:
    """The JSON object in ``text`` as ``form``. Raises :class:`UnusableAnswerError`."""
    # Thinking models think first, and many servers ignore response_format.
    answer = text.rpartition("</think>")[2]
    start, end = answer.find("{"), answer.rfind("}") + 1
    if not 0 <= start < end:
        raise UnusableAnswerError("there is no JSON object in it")
    try:
        return form.model_validate(json.loads(answer[start:end]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise UnusableAnswerError(f"{place}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise UnusableAnswerError(f"it is not JSON: {error}") from None
