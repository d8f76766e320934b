"""The diagnosis against the measures themselves, and its cache."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from petiole.files import write_tensors
from petiole.metrics.shift import shift_report
from petiole.report import diagnosis as module
from petiole.report.diagnosis import DIAGNOSIS, VECTORS, diagnose


@pytest.fixture
def run(build):
    return build.run(build.root / "run", np.ones(60, dtype=bool), vectors=True)


def test_measures_are_those_of_the_vectors(run) -> None:
    found = diagnose(run)
    tensors = load_file(run / VECTORS)
    target, y = tensors["is_target"].numpy(), tensors["labels"].numpy()
    for name, got in (("before", found.before), ("after", found.after)):
        x = tensors[name].double().numpy()
        assert got == pytest.approx(
            shift_report(x[~target], x[target], y[~target], y[target], seed=0)
        )
    assert found.before["domain_accuracy"] > 0.95 > found.after["domain_accuracy"]
    assert found.images == {"source": 72, "target": 72}
    assert len(found.map_before) == len(found.map_after) == len(found.labels) == 144


def test_it_is_kept_until_the_vectors_change(run, monkeypatch) -> None:
    first = diagnose(run)
    monkeypatch.setattr(module, "project", lambda *_: pytest.fail("computed again"))
    assert diagnose(run) == first
    monkeypatch.undo()
    tensors = load_file(run / VECTORS)
    write_tensors(run / VECTORS, {**tensors, "after": tensors["before"].clone()})
    assert diagnose(run).after == first.before


def test_a_damaged_cache_is_made_again(run) -> None:
    first = diagnose(run)
    (run / DIAGNOSIS).write_text('{"format": 1')
    assert diagnose(run) == first
    assert json.loads((run / DIAGNOSIS).read_text())["format"] == 1


def test_no_vectors_no_diagnosis(build) -> None:
    assert diagnose(build.run(build.root / "run", np.ones(60, dtype=bool))) is None


def test_without_a_source_there_is_a_map_but_no_distance(build) -> None:
    run = build.run(build.root / "run", np.ones(60, dtype=bool), vectors=True, source=False)
    found = diagnose(run)
    assert found.before == found.after == {}
    assert len(found.map_after) == 72
    assert "no source" in found.note


@pytest.mark.parametrize("spoil", ["few", "overflow"])
def test_unusable_vectors_are_a_note(run, spoil: str) -> None:
    tensors = load_file(run / VECTORS)
    if spoil == "few":
        tensors = {name: tensor[:3].clone() for name, tensor in tensors.items()}
    else:
        tensors["after"][5] = torch.inf
    write_tensors(run / VECTORS, tensors)
    found = diagnose(run)
    assert found.map_after == found.labels == []
    assert found.before == found.after == {}
    assert found.note


def test_the_map_shows_some_of_many(run, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_MAPPED", 30)
    found = diagnose(run)
    assert len(found.map_after) == 60
    assert sum(found.is_target) == 30
    assert set(found.labels) == {0, 1, 2}
    assert found.images == {"source": 72, "target": 72}
