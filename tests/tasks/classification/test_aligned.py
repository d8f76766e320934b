"""Source vectors moved onto the target's mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from builders.comparisons import images
from petiole.errors import ConfigError
from petiole.tasks.classification.aligned import AlignedTable

ROWS = torch.tensor([[0.0, 2.0], [2.0, 4.0], [10.0, 0.0], [14.0, 1.0], [12.0, 2.0]])


class Kept:
    """Vectors in batches of three."""

    def __init__(self, rows: torch.Tensor = ROWS, **more: torch.Tensor) -> None:
        self.rows = {"a": rows, **more}

    def batches(self, size: int) -> Any:
        assert size == 5
        for part in (slice(0, 3), slice(3, 5)):
            yield {role: value[part] for role, value in self.rows.items()}

    def fetch(self, rows: torch.Tensor, _: Any) -> Any:
        return {role: value[rows] for role, value in self.rows.items()}


def mixed() -> Any:
    data = images("s", [0, 1], domain="source"), images("t", [0, 1, 1])
    both = images("m", [0, 1, 0, 1, 1])
    object.__setattr__(both, "samples", (*data[0].samples, *data[1].samples))
    return both


def test_sources_get_the_mean_of_the_targets_and_targets_stay() -> None:
    table = AlignedTable(Kept(), mixed())  # type: ignore[arg-type]
    got = table.fetch(torch.tensor([4, 0, 1, 2]), torch.zeros(4))
    moved = [[12.0, 2.0], [11.0, 0.0], [13.0, 2.0], [10.0, 0.0]]
    assert list(got) == ["a"]
    assert torch.allclose(got["a"], torch.tensor(moved), atol=1e-6)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_one_domain_is_not_moved(domain: str) -> None:
    table = AlignedTable(Kept(), images("x", [0] * 5, domain=domain))  # type: ignore[arg-type]
    got = table.fetch(torch.arange(5), torch.zeros(5))
    assert torch.equal(got["a"], ROWS), "numbers that are 0, too"


def test_more_than_one_vector_an_image_is_refused() -> None:
    for kept in (Kept(ROWS[:, None]), Kept(b=ROWS)):
        with pytest.raises(ConfigError, match="set align_source=false"):
            AlignedTable(kept, mixed())  # type: ignore[arg-type]
