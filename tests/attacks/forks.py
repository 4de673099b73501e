"""Forks at any moment: during the first score, with sessions open, with every thread busy.

``python tests/attacks/forks.py --tries 200`` forks that often. Each child must be told, and load a
scorer of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_HANGS_AFTER = 60


def one_fork(folder: Path, expected: list[Any], seed: int) -> int:
    """Load, begin to use everything, fork; what is wrong in the child, as an exit status."""
    from attacks.scenes import QUESTION, STEPS, TRACES, bits
    from rfprm_runtime import Scorer
    from rfprm_runtime.answers.killable_worker import BoundedWorker
    from rfprm_runtime.integrations import verl
    from rfprm_runtime.rewards.micro_batcher import MicroBatcher

    random_ = random.Random(seed)
    scorer = Scorer.load(folder, num_threads=2, mode=random_.choice(["auto", "latency"]))
    batcher = MicroBatcher(scorer, max_wait_ms=0.1)
    worker = BoundedWorker("bounded_helper:slowly", timeout=20)
    session = scorer.session(QUESTION)

    def reward() -> dict[str, float]:
        text = "<think>" + "\n\n".join(STEPS) + "</think>It is 12."
        about = {"question": QUESTION}
        return verl.compute_score("g", text, "12", about, artifact=str(folder), outcome=False)

    def in_the_child() -> None:
        for call in (
            lambda: scorer.score_batch(TRACES),
            lambda: scorer.session(QUESTION),
            lambda: session.extend(STEPS),
            session.score,
            session.fork,
            lambda: scorer.session_bytes,
            lambda: batcher.submit(TRACES[0]),
            lambda: batcher.score(TRACES[0]),
        ):
            _check_told(call)
        session.close()
        batcher.close()
        scorer.close()
        assert worker("mine") == "mine"
        worker.close()
        assert reward()["scored"]
        with Scorer.load(folder, num_threads=2) as own:
            assert bits(own.score_batch(TRACES)) == expected

    stop = threading.Event()
    busy: list[Callable[[], object]] = [
        lambda: scorer.score_batch(TRACES),
        lambda: batcher.score(TRACES[1]),
        lambda: scorer.session(QUESTION).extend(STEPS),
        lambda: session.fork().close(),
        lambda: worker("theirs"),
        reward,
        lambda: Scorer.load(folder, num_threads=1).close(),
    ]
    threads = [
        threading.Thread(target=_repeat, args=(call, stop), daemon=True)
        for call in random_.sample(busy, random_.randint(1, 4))
    ]
    for thread in threads:
        thread.start()
    time.sleep(random_.choice([0, 0.001, 0.01, 0.05]) * random_.random())
    status = _forked(in_the_child)
    stop.set()
    for thread in threads:
        thread.join()
    assert bits(scorer.score_batch(TRACES)) == expected
    batcher.close()
    scorer.close()
    worker.close()
    return status


def _check_told(call: Callable[[], object]) -> None:
    from rfprm_runtime import BackendError

    try:
        call()
    except BackendError as error:
        if "fork" not in str(error):
            raise
    else:
        raise AssertionError("the child was not told")


def _repeat(call: Callable[[], object], stop: threading.Event) -> None:
    while not stop.is_set():
        call()


def _forked(call: Callable[[], object]) -> int:
    """The exit status of ``call`` in a fork; that of a killed process if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, from 3.12 on
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(_HANGS_AFTER)  # its default is to kill
    status = 1
    try:
        call()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def fork_often(folder: Path, tries: int, seed: int = 0) -> dict[int, int]:
    """How often each exit status was seen. Nothing has been scored in the process that forks first,
    so that every try has a first score of its own."""
    from attacks.scenes import TRACES, bits
    from attacks.tiny_native import write_tiny_native
    from rfprm_runtime import Scorer

    def expected() -> list[Any]:
        with Scorer.load(folder, num_threads=1) as scorer:
            return bits(scorer.score_batch(TRACES))

    write_tiny_native(folder)
    found: dict[int, int] = {}

    def one(number: int) -> None:
        os._exit(one_fork(folder, wanted, seed + number) & 127)

    wanted = _from_another_process(expected)
    for number in range(tries):
        status = _forked(lambda: one(number))  # noqa: B023
        found[status] = found.get(status, 0) + 1
    return found


def _from_another_process(call: Callable[[], Any]) -> Any:
    from multiprocessing import get_context

    reader, writer = get_context("fork").Pipe(duplex=False)
    _forked(lambda: writer.send(call()))
    return reader.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fork_often(Path(folder), given.tries, given.seed)
    print(f"forks by the exit status of the child (0 is right, {-signal.SIGALRM} hung): {found}")
    sys.exit(set(found) != {0})


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "export")]
    main()
