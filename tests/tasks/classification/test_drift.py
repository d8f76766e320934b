"""The drift probe: nothing at the start, the displaced tokens later, and no trace in the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from petiole.engine.record import read_log, read_record
from petiole.engine.run import RunSpec, run
from petiole.methods.registry import methods
from petiole.tasks.classification.drift import Drift, moves_tokens
from petiole.tasks.classification.task import DRIFT
from petiole.tasks.classification.training import APART, Callbacks, train
from petiole.tasks.classification.workspace import Classification, Subset
from petiole.testing import backbones as tiny
from petiole.testing import image_case as contract
from petiole.testing.methods import carries

INSIDE = [
    name
    for name, known in methods().items()
    if carries(tiny.plain(), name)
    and moves_tokens(contract.ImageCase(name, tiny.plain(), Path()).adapted())
]


def probe(pair: contract.ImageCase, adapted: object = None) -> Drift:
    adapted = adapted or pair.adapted()
    return Drift(adapted, pair.backbone.lower(pair.images, adapted.cut))  # type: ignore[attr-defined, arg-type]


@pytest.mark.parametrize("method", INSIDE)
def test_the_start_of_an_identity_is_exactly_0(method: str) -> None:
    pair = contract.ImageCase(method, tiny.registers(), Path())
    adapted = pair.adapted()
    drift = probe(pair, adapted)()
    assert drift
    if adapted.plan.identity:
        assert set(drift.values()) == {0.0}
    else:
        assert all(value > 0 for value in list(drift.values())[1:])


@pytest.mark.parametrize("method", ["adaptertune", "lora-qkv", "full"])
def test_it_is_the_relative_displacement_behind_every_block(method: str) -> None:
    """Against tokens caught where the next block, or the norm, receives them."""
    pair = contract.ImageCase(method, tiny.plain(), Path())
    adapted = pair.trained
    parts = pair.backbone.parts  # type: ignore[attr-defined]
    receivers = [*(b.block for b in parts.blocks[1:]), parts.norm]
    caught: list[torch.Tensor] = []
    removers = [
        r.register_forward_pre_hook(lambda _, args: caught.append(args[0].double()))
        for r in receivers
    ]
    with torch.no_grad():
        pair.backbone.upper({"images": pair.images}, (pair.backbone.vector,))
        bare, caught[:] = caught[:], []
        adapted.eval()({"images": pair.images})
    for remove in removers:
        remove.remove()
    want = [
        ((a - b).pow(2).sum() / b.pow(2).sum()).sqrt().item()
        for a, b in zip(caught, bare, strict=True)
    ]
    got = list(probe(pair, adapted)().values())
    assert got == pytest.approx(want[-len(got) :], rel=1e-5)
    assert got[-1] > 0


def test_a_run_with_the_probe_is_the_run_without_it() -> None:
    pair = contract.ImageCase("adapter-plus", tiny.plain(), Path())  # has dropout
    seen: dict[int, Mapping[str, float]] = {}
    want, got = pair.train(), pair.adapted()
    table = contract.Memory(got, stored=True)
    callbacks = Callbacks(quiet=True, drift=lambda step, values: seen.update({step: values}))
    train(got, contract.dataset(), table, pair.method.recipe, seed=0, callbacks=callbacks)
    contract.require_same_tensors(got, want, 0.0)
    assert list(seen) == [0, contract.STEPS], "a run this short is measured at its ends"
    assert all(value > 0 for value in seen[contract.STEPS].values())


def test_a_run_keeps_it_in_its_folder(bench: Classification, photos: Path, tmp_path: Path) -> None:
    small = Classification("petiole/tiny-vit", photos, cache=bench.cache, quiet=True)
    settings = {"steps": 25, "views": 0, "batch_size": 4, "blocks": "last:2"}
    run(RunSpec(small, "adaptertune", tmp_path / "inside", settings, Subset(2)))
    rows = read_log(tmp_path / "inside", DRIFT)
    assert [row["step"] for row in rows] == [*range(0, 25, APART), 25]
    assert {value for key, value in rows[0].items() if key != "step"} == {0.0}
    assert list(rows[-1].values())[-1] > list(rows[1].values())[-1] > 0
    assert DRIFT in read_record(tmp_path / "inside").files
    run(RunSpec(small, "head-only", tmp_path / "outside", {"iterations": 5}, Subset(2)))
    assert not (tmp_path / "outside" / DRIFT).exists()
