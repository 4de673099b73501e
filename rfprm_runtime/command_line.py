"""What the commands have in common."""

from __future__ import annotations

from pathlib import Path

DEFAULT_ARTIFACT = Path("artifacts/smollm2-135m-gsm8k")
HUB_SPELLING = r"hf://NAME\[@CONFIG][:SPLIT]"
"""As a help text spells it: what stands in brackets would be taken for markup."""
EXIT_SOME_FAILED = 3
"""Some lines or rows could not be used, and the others were."""
