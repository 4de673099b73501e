"""Feeds broken files to everything that reads files of others, for as long as you like.

    python scripts/fuzz.py --seconds 60               # every target for a minute
    python scripts/fuzz.py gguf tokenizer             # these, until Ctrl-C
    python scripts/fuzz.py gguf --replay crash.bin    # one file again

The outcome of a file must be a result or an error of this library, soon and in little memory. A
fault is printed with its traceback, and its file is kept. With atheris installed (pip install
atheris) mutations are guided by the code that they reach; without it they are random. The targets
are those of the test suite: tests/fuzz_targets.py.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / part) for part in ("tests", "export", "training", "")]

MAX_SECONDS = 20
"""For one file; a slow machine gets some room."""
MAX_EXTRA_BYTES = 2 * 2**30
"""Of address space, beyond what the process has when it begins."""


class _TooSlow(BaseException):
    """Not an Exception, which a reader may turn into an error of its own."""


def main() -> int:
    options = _parse()
    names = options.targets or _target_names()
    if options.replay is None and len(names) > 1:
        return max(_run_in_a_process(name, options) for name in names)
    return _fuzz(names[0], options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", help="by default all")
    parser.add_argument("--seconds", type=float, default=0, help="for each target; 0: for ever")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--replay", type=Path, help="read this file once, as the only target")
    parser.add_argument("--random", action="store_true", help="without atheris")
    parser.add_argument(
        "--faults", type=Path, default=Path("fuzz-faults"), help="where to keep files"
    )
    return parser.parse_args()


def _target_names() -> list[str]:
    from fuzz_targets import TARGETS

    return list(TARGETS)


def _run_in_a_process(name: str, options: argparse.Namespace) -> int:
    """A target of its own process: a crash is a fault, not the end."""
    command = [sys.executable, __file__, name, f"--seconds={options.seconds}"]
    command += [f"--seed={options.seed}", f"--faults={options.faults}"]
    done = subprocess.run([*command, *(["--random"] if options.random else [])], check=False)
    if done.returncode not in (0, 1):
        print(f"FAULT {name}: the process ended with {done.returncode}", flush=True)
    return int(done.returncode != 0)


def _fuzz(name: str, options: argparse.Namespace) -> int:
    guided = find_spec("atheris") is not None and not options.random and options.replay is None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["rfprm_runtime", "rfprm_export"]):
            import fuzz_targets
    else:
        import fuzz_targets
    with tempfile.TemporaryDirectory(prefix="rfprm-fuzz-") as folder:
        target, place, seed = fuzz_targets.prepared(name, Path(folder))
        if error := target.attack(place, seed):
            print(f"the seed of {name} is refused: {error}")
            return 1
        attack = _Attack(name, target, place, options)
        _limit_memory()
        if options.replay is not None:
            attack(options.replay.read_bytes())
        elif guided:
            _guided(attack, seed, options)
        else:
            _random(attack, seed, options)
        print(attack.summary(guided), flush=True)
        return int(bool(attack.faults))


class _Attack:
    """Counts outcomes, and keeps one file of each fault."""

    def __init__(self, name: str, target: Any, place: Path, options: argparse.Namespace) -> None:
        self._name, self._target, self.place = name, target, place
        self._kept = options.faults
        self.outcomes: Counter[str] = Counter()
        self.faults: dict[str, Path] = {}
        self._slowest = 0.0
        signal.signal(signal.SIGALRM, _stop)

    def __call__(self, content: bytes) -> None:
        began = time.perf_counter()
        signal.alarm(MAX_SECONDS)
        try:
            error = self._target.attack(self.place, content)
            self.outcomes["read" if error is None else type(error).__name__] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as fault:
            self._keep(fault, content)
        finally:
            signal.alarm(0)
            self._slowest = max(self._slowest, time.perf_counter() - began)

    def _keep(self, fault: BaseException, content: bytes) -> None:
        self.outcomes["FAULT"] += 1
        last = traceback.extract_tb(fault.__traceback__)[-1]
        key = f"{type(fault).__name__} at {last.filename}:{last.lineno}"
        if key in self.faults:
            return
        self._kept.mkdir(exist_ok=True)
        path = self._kept / f"{self._name}-{len(self.faults)}.bin"
        path.write_bytes(content)
        self.faults[key] = path
        print(f"FAULT {self._name}: {key}, kept as {path}", flush=True)
        traceback.print_exception(fault)

    def summary(self, guided: bool) -> str:
        count = sum(self.outcomes.values())
        how = "guided by coverage" if guided else "at random"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        return (
            f"{self._name}: {count} files {how}, {dict(self.outcomes)}, {len(self.faults)} faults, "
            f"slowest {self._slowest:.2f} s, peak {peak} MiB"
        )


def _stop(*_: object) -> None:
    raise _TooSlow(f"more than {MAX_SECONDS} s")


def _limit_memory() -> None:
    """So that a bomb is a MemoryError, not the end of the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _random(attack: _Attack, seed: bytes, options: argparse.Namespace) -> None:
    from fuzz_mutations import mutate

    end = time.monotonic() + options.seconds
    number = options.seed
    try:
        while not options.seconds or time.monotonic() < end:
            attack(mutate(seed, random.Random(number)))
            number += 1
    except KeyboardInterrupt:
        pass


def _guided(attack: _Attack, seed: bytes, options: argparse.Namespace) -> None:
    """Never returns: libFuzzer ends the process, and so does the end of the time."""
    import atheris

    from fuzz_mutations import mutate

    def mutated(content: bytes, max_size: int, number: int) -> bytes:
        if number % 3:
            return mutate(content or seed, random.Random(number))[:max_size]
        return bytes(atheris.Mutate(content, max_size))

    end = time.monotonic() + options.seconds

    def once(content: bytes) -> None:
        attack(content)
        if options.seconds and time.monotonic() > end:
            # libFuzzer has no other end that leaves time for a summary.
            print(attack.summary(guided=True), flush=True)
            for folder in (Path(corpus), attack.place.parent):
                shutil.rmtree(folder, ignore_errors=True)
            os._exit(int(bool(attack.faults)))

    with tempfile.TemporaryDirectory(prefix="rfprm-corpus-") as corpus:
        (Path(corpus) / "seed").write_bytes(seed)
        arguments = [sys.argv[0], corpus, f"-seed={options.seed + 1}", "-max_len=200000"]
        arguments += ["-verbosity=0", "-rss_limit_mb=0", "-timeout=0", "-detect_leaks=0"]
        atheris.Setup(arguments, once, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
