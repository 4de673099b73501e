"""The training commands of ``rfprm``: thin wrappers over the package, one module each."""

from rfprm_training import check_extras

check_extras()  # without them, the help says how to get these commands

from rfprm_training.commands.calibration import calibrate  # noqa: E402
from rfprm_training.commands.evaluation import evaluate  # noqa: E402
from rfprm_training.commands.training import cross_validate, train  # noqa: E402

__all__ = ["calibrate", "cross_validate", "evaluate", "train"]
