from __future__ import annotations

from dataclasses import dataclass

from rfprm_runtime.engine.past_cache import PastCache


@dataclass(frozen=True, eq=False)
class _Block:
    num_bytes: int


@dataclass(frozen=True)
class _Past:
    blocks: tuple[_Block, ...]
    num_tokens: int = 1


def test_the_least_recently_used_past_goes_first() -> None:
    cache = PastCache(100)
    pasts = [_Past((_Block(40),)) for _ in range(3)]
    cache.put(0, pasts[0])
    cache.put(1, pasts[1])
    assert cache.get(0) is pasts[0]
    cache.put(2, pasts[2])
    assert [cache.get(key) for key in range(3)] == [pasts[0], None, pasts[2]]
    assert cache.count_bytes() == 80


def test_a_shared_block_counts_once_and_lives_as_long_as_one_past_has_it() -> None:
    cache = PastCache(1000)
    common, own = _Block(100), [_Block(1), _Block(10)]
    cache.put(0, _Past((common, own[0])))
    cache.put(1, _Past((common, own[1])))
    assert cache.count_bytes() == 111
    cache.drop(0)
    assert cache.count_bytes() == 110
    cache.drop(1)
    cache.drop(1)
    assert cache.count_bytes() == 0


def test_putting_again_replaces() -> None:
    cache = PastCache(1000)
    first, second = _Block(100), _Block(10)
    cache.put(0, _Past((first,)))
    cache.put(0, _Past((first, second)))
    assert cache.count_bytes() == 110


def test_a_past_larger_than_the_budget_is_not_kept() -> None:
    cache = PastCache(100)
    cache.put(0, _Past((_Block(101),)))
    assert cache.get(0) is None
    assert cache.count_bytes() == 0
