"""What the commands have in common."""

from __future__ import annotations

from pathlib import Path

DEFAULT_ARTIFACT = Path("artifacts/smollm2-135m-gsm8k")
EXIT_SOME_FAILED = 3
"""Some lines or rows could not be used, and the others were."""
