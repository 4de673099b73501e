"""python training/evaluate.py …: the same as ``rfprm evaluate``."""

import sys
from pathlib import Path

# So that a checkout works without installation.
_ROOT = Path(__file__).resolve().parent.parent
sys.path[1:1] = [str(_ROOT), str(_ROOT / "export")]

if __name__ == "__main__":
    from rfprm_runtime.cli.main import run_command

    run_command("rfprm_training.commands", "evaluate")
