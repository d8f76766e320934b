"""Filling the feature cache: reading, computing and writing at once, each for another batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from petiole.allocator import release_memory
from petiole.backbones.base import State
from petiole.engine.feature_store import FeatureCache, Key
from petiole.engine.progress import progress
from petiole.engine.share import BATCH, SHARD

Input = TypeVar("Input")
Ready = TypeVar("Ready")

AHEAD = 2
"""Batches that are read while an earlier one is computed."""


def prefetched(
    inputs: Iterable[Input], prepare: Callable[[Input], Ready], ahead: int = AHEAD
) -> Iterator[Ready]:
    """``prepare`` of each input, in order, made in a thread while the caller works on those before.

    At most ``ahead`` wait; an error of ``prepare`` comes where its input would have.
    """
    waiting: deque[Future[Ready]] = deque()
    aside = ThreadPoolExecutor(1)
    try:
        for one in inputs:
            waiting.append(aside.submit(prepare, one))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        aside.shutdown(cancel_futures=True)


def fill(
    cache: FeatureCache,
    key: Key,
    ids: Sequence[str],
    prepare: Callable[[Sequence[str]], Ready],
    compute: Callable[[Ready], State],
    *,
    label: str,
    quiet: bool = False,
) -> None:
    """Compute and store what a key lacks, batch by batch in the order of ``ids``, a shard at a time.

    Args:
        cache: where it is stored.
        key: whose values ``compute`` gives.
        ids: of the images; one that occurs twice is computed once.
        prepare: ids -> what ``compute`` takes, in a thread ahead of it.
        compute: gives values by role, one row each.
        label: of the progress bar.
        quiet: no progress bar.
    """
    missing = set(cache.missing(key, ids))
    todo = [image for image in dict.fromkeys(ids) if image in missing]
    if not todo:
        return
    shards = [todo[start : start + SHARD] for start in range(0, len(todo), SHARD)]
    batches = (part for shard in shards for part in _parts(shard))
    ready = prefetched(batches, prepare)
    with progress(label, len(todo), quiet=quiet) as advance, ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for shard in shards:
            states = []
            for part in _parts(shard):
                states.append(compute(next(ready)))
                advance(len(part))
            state = {role: torch.cat([one[role] for one in states]).cpu() for role in states[0]}
            if written:
                written.result()  # one shard at most waits for the disk
            written = writer.submit(cache.write, key, shard, state)
        assert written is not None
        written.result()
    release_memory()


def _parts(shard: Sequence[str]) -> list[Sequence[str]]:
    return [shard[first : first + BATCH] for first in range(0, len(shard), BATCH)]
