from __future__ import annotations

from collections.abc import Iterator

import pytest

from counting_backend import CountingBackend
from rfprm_runtime import Scorer
from tiny_models import scorer_on


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend(2)


@pytest.fixture
def scorer(backend: CountingBackend) -> Iterator[Scorer]:
    with scorer_on(backend) as scorer:
        yield scorer
