"""What the commands have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import RfprmError

DEFAULT_ARTIFACT = Path("artifacts/smollm2-135m-gsm8k")
HUB_SPELLING = r"hf://NAME\[@CONFIG][:SPLIT]"
"""As a help text spells it: what stands in brackets would be taken for markup."""
EXIT_SOME_FAILED = 3
"""Some lines or rows could not be used, and the others were."""


def read_backend_options(texts: Sequence[str] | None, threads: int | None) -> dict[str, Any]:
    """``NAME=VALUE`` each, a value being JSON or else the text itself.

    Raises :class:`RfprmError` for one without a name or given twice.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier():
            raise RfprmError(f"--backend-option is {text!r}, expected NAME=VALUE")
        if name in found:
            raise RfprmError(f"--backend-option {text}: {name} was given before; give it once")
        if name == "num_threads" and threads is not None:
            raise RfprmError(f"--backend-option {text}: --threads says that already; give one")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found if threads is None else {"num_threads": threads, **found}
