"""What the parts of an extraction cost on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from petiole.backbones.base import Backbone
from petiole.data.dataset import Sample
from petiole.data.image import load
from petiole.data.preprocessing import Augmentation, view
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache, load_shard
from petiole.engine.share import BATCH, SHARD
from petiole.planning.scale import UnitCosts


def measured(
    images: list[Path],
    backbone: Backbone,
    costs: UnitCosts,
    clock: Callable[[], float] = time.perf_counter,
) -> UnitCosts:
    """The given costs with those of decoding, network, writing and headers measured: the median of five, on the present threads.

    Args:
        images: some that stand for all.
        backbone: on the device that is asked about.
        costs: of which the others are kept.
        clock: of seconds; ``time.process_time`` where other work shares the cores, and no GPU computes.
    """

    def median(work: Callable[[], object], times: int = 5) -> float:
        work()  # the first call of all does not count
        taken = []
        for _ in range(times):
            start = clock()
            work()
            taken.append(clock() - start)
        return sorted(taken)[times // 2]

    samples = [Sample(path, 0, "") for path in images[:BATCH]]
    role = (backbone.patches,)

    def prepare() -> list[torch.Tensor]:
        return [
            view(load(one), backbone.preprocessing, Augmentation.none(), "", 0) for one in samples
        ]

    seen = torch.stack((prepare() * BATCH)[:BATCH]).to(backbone.device)
    with TemporaryDirectory() as place:
        features = Features(backbone, FeatureCache(Path(place)), quiet=True)

        def forward() -> None:
            next(iter(features.run(seen, role).values())).cpu()  # waits for the device

        row = {name: value[:1].cpu() for name, value in features.run(seen[:1], role).items()}
        shard = {name: value.repeat(SHARD, *[1] * (value.ndim - 1)) for name, value in row.items()}
        key, ids = features.key(role, 0, Augmentation.none()), [f"{i:064d}" for i in range(SHARD)]

        def write() -> None:
            FeatureCache(Path(place)).write(key, ids, shard)

        write()
        path = next(Path(place).rglob("*.safetensors"))
        return replace(
            costs,
            decode=median(prepare) / len(samples),
            forward=median(forward) / BATCH,
            write=median(write),
            header=median(lambda: load_shard(path)),
        )
