"""Measure how the CPU time of every function that takes text grows with the text.

    python scripts/time_growth.py [--quick] [--only PART] [--skip N] [--shape PART]

Each function of ``scripts/growth/targets.py`` gets each shape of ``scripts/growth/shapes.py`` at
10,000 and at 40,000 characters (``--quick``: half of that). The exponent is log(time ratio) / log
4: 1 for linear growth, 2 for quadratic. It fails above 1.3; calls of less than 50 ms are too short
to judge. It also fails for a public function that takes text and is neither measured nor left out
with a reason (``scripts/growth/coverage.py``).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / part) for part in ("", "training", "export")]

from rfprm_runtime.errors import RfprmError  # noqa: E402
from scripts.growth import runtime_targets, training_targets  # noqa: E402, F401
from scripts.growth.coverage import not_measured  # noqa: E402
from scripts.growth.shapes import Shape, shapes  # noqa: E402
from scripts.growth.targets import TARGETS, Call  # noqa: E402

Target = Callable[[str], Call]
LARGE = 40_000
MAX_EXPONENT = 1.3
FLOOR = 0.05
"""Seconds of CPU time below which a call is not judged."""
LIMIT = 5.0
"""Seconds of CPU time after which a call has not finished."""


class NotFinishedError(Exception):
    """A call took more than :data:`LIMIT`."""


def main() -> int:
    options = _options()
    signal.signal(signal.SIGVTALRM, _stop)
    gc.freeze()
    gc.disable()  # it would run now and then, in somebody's time
    size = LARGE // 2 if options.quick else LARGE
    named = [item for item in TARGETS.items() if options.only.lower() in item[0].lower()]
    found = dict(named[options.skip :])
    wanted = [
        (name, shape)
        for name, shape in shapes(quick=options.quick)
        if options.shape.lower() in name.lower()
    ]
    print(f"{len(found)} functions, {len(wanted)} shapes", flush=True)
    forgotten = not_measured()
    for place in forgotten:
        print(f"{place} takes text: measure it, or say in coverage.py why not")
    failed = [name for name, target in found.items() if not _passes(name, target, wanted, size)]
    print(f"{len(failed)} of {len(found)} functions grow faster than n^{MAX_EXPONENT}")
    return bool(failed or forgotten)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--quick", action="store_true", help="a third of the shapes, half of the length"
    )
    parser.add_argument("--only", default="", help="functions whose name has this part")
    parser.add_argument(
        "--skip", type=int, default=0, help="functions to leave out, to go on after a stop"
    )
    parser.add_argument("--shape", default="", help="shapes whose name has this part")
    return parser.parse_args()


def _passes(name: str, target: Target, wanted: list[tuple[str, Shape]], size: int) -> bool:
    """Measure one function on every shape, and print its worst growth and longest time."""
    gc.collect()
    slowest, worst, failures = 0.0, 0.0, []
    for shape_name, shape in wanted:
        try:
            seconds = _seconds(target, shape(size))
            slowest = max(slowest, seconds)
            if seconds < FLOOR:
                continue
            exponent = _exponent(target, shape, size, seconds)
            for _ in range(2):  # something else may have been running
                if exponent > MAX_EXPONENT:
                    again = _seconds(target, shape(size))
                    exponent = min(exponent, _exponent(target, shape, size, again))
        except NotFinishedError:
            exponent, seconds = math.inf, LIMIT
        worst = max(worst, exponent)
        if exponent > MAX_EXPONENT:
            failures.append(f"    {shape_name}: {seconds:.2f} s, exponent {exponent:.2f}")
            if len(failures) >= 5:
                break
    mark = "FAIL" if failures else "ok"
    print(f"{mark:4} {name}: longest {slowest * 1000:.0f} ms, exponent {worst:.2f}", flush=True)
    print("\n".join(failures) + "\n" * bool(failures), end="", flush=True)
    return not failures


def _exponent(target: Target, shape: Shape, size: int, seconds: float) -> float:
    """Of the growth from a quarter of ``size``."""
    shorter = _seconds(target, shape(size // 4))
    return math.log(seconds / max(shorter, 1e-6)) / math.log(4)


def _seconds(target: Target, text: str) -> float:
    """CPU time of one call; a text that is refused counts too."""
    try:
        call = _guarded(target(text))
    except RfprmError:  # nothing to call it with
        return 0.0
    started = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
    try:
        call()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return time.process_time() - started


def _guarded(call: Call) -> Callable[[], None]:
    def guarded() -> None:
        with contextlib.suppress(ValueError, ArithmeticError, LookupError):  # it is refused
            call()

    return guarded


def _stop(*_: object) -> None:
    raise NotFinishedError


if __name__ == "__main__":
    sys.exit(main())
