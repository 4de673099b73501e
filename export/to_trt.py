"""python export/to_trt.py ARTIFACT|CHECKPOINT -o ARTIFACT: the same as ``rfprm export-trt``."""

import sys
from pathlib import Path

# So that a checkout works without installation.
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from rfprm_runtime.cli.main import run_command

    run_command("rfprm_export.tensorrt.command", "export_trt")
