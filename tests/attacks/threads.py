"""64 threads that mix every call on one scorer, which is closed in the middle.

``python tests/attacks/threads.py --seconds 60`` runs for a minute. Every score must have the bits
that it has alone, and every call after closing an error that says so.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_HANGS_AFTER = 120.0


def mix_calls(folder: Path, *, num_threads: int, seconds: float, seed: int) -> int:
    """How many calls ended well before the scorer was closed. Raises for a wrong score."""
    from attacks.scenes import LONG, QUESTION, STEPS, TRACES, bits, require
    from rfprm_runtime import BackendError, Reranker, Scorer
    from rfprm_runtime.rewards.micro_batcher import MicroBatcher
    from rfprm_runtime.search import BeamSearch, Searcher
    from search.policies import KnownPolicy

    def paths(scorer: Scorer) -> list[tuple[str, ...]]:
        result = Searcher(scorer, KnownPolicy(), BeamSearch(2, 2)).search(QUESTION)
        return [result.tree.path(node) for node in result.finished]

    with Scorer.load(folder, num_threads=1) as alone:
        expected, long = bits(alone.score_batch(TRACES)), bits(alone.score_batch([LONG]))
        whole = bits([alone.score(QUESTION, STEPS, ["It is 12."])])
        answers = ["Twelve.\n\nThe answer is 12.", "The answer is 13."]
        ranked = [one.value for one in Reranker(alone).rank(QUESTION, answers)]
        found = paths(alone)
    mode = random.Random(seed).choice(["auto", "latency", "throughput"])
    scorer = Scorer.load(folder, num_threads=3, mode=mode, session_bytes=2_000_000)  # type: ignore[arg-type]
    batcher = MicroBatcher(scorer, max_wait_ms=1)
    shared = scorer.session(QUESTION)
    shared.extend(STEPS[:1])

    def grow() -> None:
        with scorer.session(QUESTION) as session:
            session.extend(STEPS[:2])
            with session.fork() as fork:
                fork.extend(STEPS[2:])
                require(bits([fork.score(["It is 12."])]), whole, "a fork")

    def share() -> None:
        try:
            fork = shared.fork()
        except BackendError as error:
            if "another thread" not in str(error):
                raise
            return
        fork.extend(STEPS[1:])
        require(bits([fork.score(["It is 12."])]), whole, "a fork of a shared session")

    def search() -> None:
        require(paths(scorer), found, "a search")

    calls: list[Callable[[], object]] = [
        lambda: require(bits(scorer.score_batch(TRACES)), expected, "a batch"),
        lambda: require(bits(scorer.score_batch([LONG])), long, "a long trace"),
        lambda: require(bits([batcher.score(TRACES[1])]), expected[1:2], "the batcher"),
        lambda: require(
            [one.value for one in Reranker(scorer).rank(QUESTION, answers)], ranked, "a ranking"
        ),
        lambda: scorer.session_bytes,
        grow,
        share,
        search,
    ]
    wrong: list[BaseException] = []
    done: list[int] = []

    def work(number: int) -> None:
        random_ = random.Random(seed * 1000 + number)
        while not wrong:
            try:
                random_.choice(calls)()
                done.append(number)
            except BackendError as error:
                if "closed" not in str(error):
                    wrong.append(error)
                return
            except BaseException as error:
                wrong.append(error)

    faulthandler.dump_traceback_later(_HANGS_AFTER + seconds, exit=True)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    closers = [threading.Thread(target=scorer.close) for _ in range(3)]
    for thread in closers:
        thread.start()
    for thread in [*closers, *threads]:
        thread.join()
    batcher.close()
    faulthandler.cancel_dump_traceback_later()
    if wrong:
        raise wrong[0]
    return len(done)


def main() -> None:
    from attacks.tiny_native import write_tiny_native

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=64)
    given = parser.parse_args()
    end, rounds, total = time.monotonic() + given.seconds, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_native(Path(folder))
        while time.monotonic() < end:
            total += mix_calls(Path(folder), num_threads=given.threads, seconds=2.0, seed=rounds)
            rounds += 1
    print(f"{total} calls in {rounds} rounds of {given.threads} threads, all right")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT), str(ROOT / "export")]
    main()
