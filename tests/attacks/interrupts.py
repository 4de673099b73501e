"""Interrupts at every point of a call: injected after the n-th bytecode, and by real signals.

``python tests/attacks/interrupts.py --help`` says how to run it for minutes. It runs each scene in
a process of its own, so that a crash or a hang is counted and the others go on.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PURE = (
    "numpy",
    "pydantic",
    "tokenizers",
    "rfprm_runtime.prompt",
    "rfprm_runtime.scores",
    "rfprm_runtime.types",
    "rfprm_runtime.artifact",
    "rfprm_runtime.engine.prefix",
    "rfprm_runtime.engine.rows",
)
"""Modules that change nothing but their own variables."""
_LOOPS = ("asyncio", "selectors")
"""They do not survive an exception at any bytecode, and belong to the caller."""
_HANGS_AFTER = 60.0
"""Seconds that one attack may take, on a busy machine."""


class _Injector:
    """Raises KeyboardInterrupt in this thread, before its n-th bytecode from now, in whatever frame
    that is. Those are more points than CPython delivers signals at, and include all of them."""

    def __init__(self, after: int, spared: tuple[str, ...] = _LOOPS) -> None:
        """``spared``: modules whose bytecodes do not count."""
        self.left = after
        self._spared = spared

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = not str(frame.f_globals.get("__name__")).startswith(self._spared)
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.trace

    def run(self, act: Callable[[], object]) -> bool:
        """Whether ``act`` ended before its n-th bytecode."""
        sys.settrace(self.trace)
        try:
            act()
        finally:
            sys.settrace(None)
        return self.left >= 0


def count_points(act: Callable[[], object], spared: tuple[str, ...]) -> int:
    many = 10**9
    injector = _Injector(many, spared)
    injector.run(act)
    return many - injector.left


class _Alarm:
    """Real signals: the handler raises as long as the call runs, or sends Ctrl-C to an event loop,
    which knows what to do with it."""

    def __init__(self, *, to_loop: bool) -> None:
        self.is_armed = False
        self.delivered = 0
        self._to_loop = to_loop
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_armed:
            self.delivered += 1
            if self._to_loop:
                signal.raise_signal(signal.SIGINT)
                return
            raise KeyboardInterrupt

    def run(self, act: Callable[[], object], delay: float, again: float) -> None:
        self.is_armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, delay, again)
            act()
        finally:
            self.is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)


def attack(scene: Any, inject: Callable[[], object]) -> bool:
    """One interrupted call, and the calls after it; whether the interrupt reached the caller."""
    faulthandler.dump_traceback_later(_HANGS_AFTER, exit=True)
    interrupted = False
    try:
        inject()
    except KeyboardInterrupt:
        interrupted = True
    scene.check()
    faulthandler.cancel_dump_traceback_later()
    return interrupted


def by_points(
    make: Callable[[], Any], seconds: float, most: int, spared: tuple[str, ...] = _LOOPS
) -> int:
    """How many interrupts were injected: before as many different bytecodes as time allows."""
    scene = make()
    scene.act()
    scene.check()
    total = count_points(scene.act, spared)
    scene.check()
    end = time.monotonic() + seconds
    done = 0
    for point in itertools.islice(_spread(total), most):
        if time.monotonic() > end:
            break
        done += attack(scene, lambda: _Injector(point, spared).run(scene.act))  # noqa: B023
    _close(scene)
    return done


def by_signals(make: Callable[[], Any], seconds: float, most: int, seed: int) -> int:
    """How many signals were delivered, at random times."""
    scene, random_ = make(), random.Random(seed)
    to_loop = getattr(scene, "has_loop", False)
    alarm = _Alarm(to_loop=to_loop)
    usual = min(_seconds_of(scene) for _ in range(3))
    end = time.monotonic() + seconds
    while time.monotonic() < end and alarm.delivered < most:
        delay = max(random_.uniform(0, 1.2 * usual), 1e-6)
        again = 0.0 if to_loop else random_.choice([0, 0, 0, usual / 50])  # or as a storm
        with suppress(KeyboardInterrupt):  # between the block's last steps and its end
            attack(scene, lambda: alarm.run(scene.act, delay, again))  # noqa: B023
    _close(scene)
    return alarm.delivered


def _seconds_of(scene: Any) -> float:
    began = time.monotonic()
    scene.act()
    usual = time.monotonic() - began
    scene.check()
    return usual


def _spread(total: int) -> Iterator[int]:
    """All numbers below ``total``, first far from each other, then closer."""
    seen = set()
    for step in (997, 211, 47, 11, 3, 1):
        for point in range(random.Random(step).randrange(step), total, step):
            if point not in seen:
                seen.add(point)
                yield point


def _close(scene: Any) -> None:
    faulthandler.dump_traceback_later(_HANGS_AFTER, exit=True)
    scene.close()
    faulthandler.cancel_dump_traceback_later()


def run_scenes(
    names: list[str], folder: Path, kind: str, seconds: float, most: int, seed: int
) -> None:
    """In a child process: prints the number of interrupts of each scene."""
    from attacks.scenes import scenes

    found = {}
    for name in names:
        make = scenes(folder)[name]
        if kind == "points":
            found[name] = by_points(make, seconds, most)
        elif kind == "handovers":
            found[name] = by_points(make, seconds, most, (*_LOOPS, *_PURE))
        else:
            found[name] = by_signals(make, seconds, most, seed)
    print(json.dumps(found))


def run_all(kinds: list[str], names: list[str], seconds: float, seed: int) -> list[str]:
    """Every scene for ``seconds``; returns what fell."""
    fell, total = [], 0
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        for kind, name in itertools.product(kinds, names):
            if name == "await" and kind != "signals":  # it hits the loop and little else
                continue
            child = start(kind, [name], Path(folder), seconds=seconds, seed=seed)
            output, errors = child.communicate()
            if child.returncode:
                fell.append(f"{kind} in {name!r} ended with {child.returncode}:\n{errors[-3000:]}")
                print(f"{kind:8} {name:26} FELL ({child.returncode})", flush=True)
                continue
            total += (count := json.loads(output.splitlines()[-1])[name])
            print(f"{kind:8} {name:26} {count:6} interrupts", flush=True)
    print(f"{total} interrupts, {len(fell)} scenes fell")
    return fell


def write_model(folder: Path) -> None:
    from attacks.tiny_native import write_tiny_native

    write_tiny_native(folder)


def start(
    kind: str,
    names: list[str],
    folder: Path,
    *,
    seconds: float = 1e9,
    most: int = 10**9,
    seed: int = 0,
) -> subprocess.Popen[str]:
    """A process that attacks the scenes, one after the other."""
    path = [str(ROOT / "tests"), str(ROOT), *filter(None, sys.path)]
    code = (
        "from attacks.interrupts import run_scenes; from pathlib import Path; "
        f"run_scenes({names!r}, Path({str(folder)!r}), {kind!r}, {seconds}, {most}, {seed})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )


def main() -> None:
    from attacks.scenes import scenes

    known = list(scenes(Path()))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each scene and kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=["points", "handovers", "signals"], action="append")
    parser.add_argument("--scene", choices=known, action="append")
    given = parser.parse_args()
    fell = run_all(
        given.kind or ["handovers", "points", "signals"],
        given.scene or known,
        given.seconds,
        given.seed,
    )
    print(*fell, sep="\n\n")
    sys.exit(bool(fell))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "export")]
    main()
