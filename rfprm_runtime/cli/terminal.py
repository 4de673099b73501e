"""What the commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rfprm_runtime.errors import RfprmError

DEFAULT_ARTIFACT = "artifacts/smollm2-135m-gsm8k"
HUB_SPELLING = "hf://NAME[@CONFIG][:SPLIT]"
EXIT_SOME_FAILED = 3
"""Exit status if some lines or rows could not be used, but the others were."""


SOURCE_HELP = f"File (JSONL, JSON, CSV, Parquet, Arrow; .gz), or {HUB_SPELLING}."


def read_backend_options(texts: Sequence[str] | None, threads: int | None) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts into a dict; values that are not JSON stay texts.

    Raises :class:`RfprmError` for an option without a name or given twice.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier():
            raise RfprmError(f"--backend-option is {text!r}, expected NAME=VALUE")
        if name in found:
            raise RfprmError(f"--backend-option {text}: {name} was given twice; give it once")
        if name == "num_threads" and threads is not None:
            raise RfprmError(f"--backend-option {text}: --threads sets this too; give only one")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found if threads is None else {"num_threads": threads, **found}
