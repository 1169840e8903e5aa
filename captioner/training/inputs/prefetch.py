"""Reads ahead of the consumer in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(read: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int = 64) -> Generator[R, None, None]:
    """Works like `map` in threads, at most `ahead` items ahead of the consumer, to bound the results in memory."""
    left = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = deque(pool.submit(read, item) for item in islice(left, ahead))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(read, item) for item in islice(left, 1))
    finally:
        pool.shutdown(cancel_futures=True)
