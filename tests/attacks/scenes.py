"""What the attacks interrupt: calls of every kind, and what must hold after each.

A scene is made once and attacked many times. ``act`` is what an interrupt hits; ``check`` then
raises if a score has other bits than before.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from attacks.tiny_native import write_tiny_native
from counting_backend import CountingBackend
from rfprm_runtime import Reranker, Scorer, Trajectory
from rfprm_runtime.answers.killable_worker import BoundedWorker
from rfprm_runtime.backends.native.backend import NativeBackend
from rfprm_runtime.engine.rows import Extension
from rfprm_runtime.integrations import verl
from rfprm_runtime.rewards.micro_batcher import MicroBatcher
from rfprm_runtime.search import BeamSearch, Searcher
from rfprm_runtime.sessions.session import Session
from search.policies import KnownPolicy
from tiny_models import manifest_of, scorer_on

QUESTION = "How many legs do three cats have? " * 3
STEPS = ["A cat has four legs, and so has each of the others.", "3 * 4 = 12.", "So it is twelve."]
LONG = Trajectory.build(question=QUESTION, steps=STEPS * 6, response=["It is 12."])
TRACES = [
    Trajectory.build(question=QUESTION, steps=[*STEPS[: 1 + number % 3], f"and {number}"])
    for number in range(5)
]


def bits(scores: Sequence[Any]) -> list[tuple[bytes, float]]:
    return [(score.step_scores.tobytes(), score.reward) for score in scores]


class WrongScoreError(Exception):
    """The bits of a score have changed."""


def require(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise WrongScoreError(f"{what}: {found} instead of {expected}")


class Scoring:
    """``score_batch`` of ``traces`` on one scorer."""

    traces: Sequence[Trajectory] = TRACES

    def __init__(self, load: Callable[[], Scorer]) -> None:
        self.load = load
        with load() as scorer:
            self.expected = bits(scorer.score_batch(self.traces))
        self.scorer = load()

    def act(self) -> None:
        self.scorer.score_batch(self.traces, on_scored=lambda count: None)

    def check(self) -> None:
        require(bits(self.scorer.score_batch(self.traces)), self.expected, "score_batch")

    def close(self) -> None:
        self.scorer.close()


class OneLong(Scoring):
    """A single trace, which several threads share with mode="latency"."""

    traces = (LONG,)

    def act(self) -> None:
        self.scorer.score(LONG.question, LONG.steps, LONG.response)


class Closing(Scoring):
    """An interrupted close is completed by the next one."""

    def act(self) -> None:
        self.scorer.close()

    def check(self) -> None:
        self.scorer.close()
        self.scorer = self.load()
        super().check()


class Loading(Scoring):
    """An interrupt while a model loads."""

    def act(self) -> None:
        self.load().close()


class Sessions(Scoring):
    """Sessions are as they were, or extended, all of a call alike."""

    def __init__(self, load: Callable[[], Scorer]) -> None:
        super().__init__(load)
        self.open()

    def open(self) -> None:
        self.sessions = [self.scorer.session(QUESTION) for _ in range(2)]
        self.scorer.extend_sessions(self.sessions, [STEPS[:1]] * 2)

    def act(self) -> None:
        self.scorer.extend_sessions(self.sessions, [STEPS[1:2], STEPS[1:]])
        fork = self.sessions[0].fork()
        fork.extend(STEPS[2:])
        fork.score(["It is 12."])
        self.scorer.score_sessions(self.sessions)
        fork.close()

    def check(self) -> None:
        before, after = [STEPS[:1], STEPS[:1]], [STEPS[:2], STEPS]
        found = [list(session.steps) for session in self.sessions]
        if found not in (before, after):
            raise WrongScoreError(f"sessions are half extended: {found}")
        for session in self.sessions:
            self.check_session(session)
        self.scorer.extend_sessions(self.sessions, [["And an end."]] * 2)
        for session in self.sessions:
            self.check_session(session)
            session.close()
        gc.collect()  # a fork that the interrupted call had begun
        require(self.scorer.session_bytes, 0, "bytes of closed sessions")
        super().check()
        self.open()

    def check_session(self, session: Session) -> None:
        whole = self.scorer.score(session.question, session.steps)
        require(bits([session.score()]), bits([whole]), "a session's score")
        with session.fork() as fork:
            require(bits([fork.score()]), bits([whole]), "a fork's score")


class Ranking(Scoring):
    """A vote among candidates."""

    candidates = ("Twelve.\n\nThe answer is 12.", "The answer is 13.", "So\n\nThe answer is 12.")

    def __init__(self, load: Callable[[], Scorer]) -> None:
        super().__init__(load)
        self.reranker = Reranker(self.scorer)
        self.ranked = self.rank()

    def rank(self) -> list[float | None]:
        found = self.reranker.rank(QUESTION, self.candidates, method="weighted_vote")
        return [candidate.value for candidate in found]

    def act(self) -> None:
        self.rank()

    def check(self) -> None:
        require(self.rank(), self.ranked, "a ranking")
        super().check()


class Searching(Scoring):
    """Beam search, whose sessions fork and close."""

    def __init__(self, load: Callable[[], Scorer]) -> None:
        super().__init__(load)
        self.found = self.search()

    def search(self) -> list[tuple[str, ...]]:
        result = Searcher(self.scorer, KnownPolicy(), BeamSearch(2, 2)).search(QUESTION)
        return [result.tree.path(node) for node in result.finished]

    def act(self) -> None:
        self.search()

    def check(self) -> None:
        require(self.search(), self.found, "a search")
        gc.collect()  # sessions in the tracebacks and tasks of an interrupted search
        require(self.scorer.session_bytes, 0, "bytes of closed sessions")
        super().check()


class Batching(Scoring):
    """The micro-batcher: one trace, several, and futures."""

    def __init__(self, load: Callable[[], Scorer]) -> None:
        super().__init__(load)
        self.batcher = MicroBatcher(self.scorer, max_wait_ms=0.2)

    def act(self) -> None:
        self.batcher.score(TRACES[0])
        futures = [self.batcher.submit(trace) for trace in TRACES[1:3]]
        try:
            for future in futures:
                future.result()
        except RuntimeError as error:  # the standard library's, where an interrupt hits its lock
            raise KeyboardInterrupt from error

    def check(self) -> None:
        found = [self.batcher.score(trace) for trace in self.traces]
        require(bits(found), self.expected, "the batcher")
        futures: list[Future[Any]] = [self.batcher.submit(trace) for trace in self.traces]
        require(bits([future.result() for future in futures]), self.expected, "futures")
        super().check()

    def close(self) -> None:
        self.batcher.close()
        super().close()


class Awaiting(Batching):
    """Futures on an event loop."""

    has_loop = True

    def act(self) -> None:
        async def ask() -> None:
            futures = [self.batcher.submit(trace) for trace in TRACES]
            await asyncio.gather(*map(asyncio.wrap_future, futures))

        try:
            asyncio.run(ask())
        except asyncio.CancelledError as error:  # how a loop passes some interrupts on
            raise KeyboardInterrupt from error


class Rewarding:
    """verl's reward of one sample, from the scorer that a process shares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected = self.reward()

    def reward(self) -> dict[str, float]:
        return verl.compute_score(
            "gsm8k",
            "<think>" + "\n\n".join(STEPS) + "</think>It is 12.",
            "12",
            {"question": QUESTION},
            artifact=str(self.folder),
            outcome=False,
        )

    def act(self) -> None:
        self.reward()

    def check(self) -> None:
        require(self.reward(), self.expected, "a reward")

    def close(self) -> None:
        pass  # shared by the process


class Comparing:
    """A child process that answers, as for the comparison of answers."""

    def __init__(self) -> None:
        self.worker = BoundedWorker("bounded_helper:slowly", timeout=20)

    def act(self) -> None:
        self.worker("now")

    def check(self) -> None:
        require(self.worker("then"), "then", "the child process")

    def close(self) -> None:
        self.worker.close()


class Extending:
    """The native backend itself, without an engine, on several threads."""

    def __init__(self, folder: Path) -> None:
        with Scorer.load(folder) as scorer:
            manifest = scorer.manifest
        self.backend = NativeBackend(folder / "model.native.safetensors", manifest, num_threads=3)
        self.items = [
            Extension(np.arange(size) % 200, np.array([5, size - 1])) for size in (500, 420)
        ]
        self.expected = [self.run(item) for item in self.items]

    def run(self, item: Extension) -> bytes:
        return self.backend.extend([item], threads=3)[0].logits.tobytes()

    def act(self) -> None:
        self.run(self.items[0])

    def check(self) -> None:
        for item, expected in zip(self.items, self.expected, strict=True):
            require(self.run(item), expected, "extend")

    def close(self) -> None:
        self.backend.close()


def scenes(folder: Path) -> dict[str, Callable[[], Any]]:
    """By name; ``folder`` holds the artifact of a tiny native model."""

    def native(**options: Any) -> Callable[[], Scorer]:
        return lambda: Scorer.load(folder, backend="native", num_threads=3, **options)

    def sequences() -> Scorer:
        own = folder / "sequences"
        if not own.exists():
            write_tiny_native(own, manifest_of("sequence", max_positions=2048))
        return Scorer.load(own, backend="native", num_threads=3, score_prefixes=True)

    latency = native(mode="latency", share_prefixes=False)

    def counting() -> Scorer:
        return scorer_on(CountingBackend(2))

    return {
        "latency": lambda: OneLong(latency),
        "extend": lambda: Extending(folder),
        "batch": lambda: Scoring(native()),
        "throughput": lambda: Scoring(native(mode="throughput", share_prefixes=False)),
        "sessions": lambda: Sessions(native()),
        "sessions of prefixes": lambda: Sessions(sequences),
        "sessions without weights": lambda: Sessions(counting),
        "batcher": lambda: Batching(counting),
        "await": lambda: Awaiting(counting),
        "rank": lambda: Ranking(counting),
        "search": lambda: Searching(counting),
        "reward": lambda: Rewarding(folder),
        "close": lambda: Closing(native()),
        "load": lambda: Loading(native()),
        "compare": Comparing,
    }
