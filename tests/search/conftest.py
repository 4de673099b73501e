from __future__ import annotations

from collections.abc import Iterator

import pytest

from counting_backend import CountingBackend
from rfprm_runtime import Scorer
from rfprm_runtime.encoding import TrajectoryEncoder
from tiny_models import byte_tokenizer, tiny_manifest


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend(2)


@pytest.fixture
def scorer(backend: CountingBackend) -> Iterator[Scorer]:
    tokenizer = byte_tokenizer()
    manifest = tiny_manifest(tokenizer)
    encoder = TrajectoryEncoder(tokenizer, manifest.prompt, vocab_size=manifest.backbone.vocab_size)
    with Scorer(manifest, encoder, backend) as scorer:
        yield scorer
