"""python export/to_onnx.py CHECKPOINT -o ARTIFACT: the same as ``rfprm export``."""

import sys
from pathlib import Path

# So that a checkout works without installation.
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from rfprm_runtime.cli.main import run_command

    run_command("rfprm_export.commands", "export")
