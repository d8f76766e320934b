"""Source vectors moved onto the target's mean, so that training does not spend itself on the shift of the means."""

from __future__ import annotations

import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.data.dataset import Dataset
from petiole.engine.feature_table import Drawn, Table
from petiole.errors import ConfigError


class AlignedTable(Table):
    """Source rows as  h + mean(h of the target) - mean(h of the source),  target rows as they are.

    Args:
        table: with one vector for each image.
        data: the images of its rows.

    Raises:
        ConfigError: the table holds more than one vector an image, whose mean would mean nothing.
    """

    def __init__(self, table: Table, data: Dataset) -> None:
        self.table = table
        is_target = torch.tensor([domain == "target" for domain in data.domains])
        values = list(table.batches(len(data)))
        if len(values[0]) > 1 or any(v.ndim != 2 for v in values[0].values()):
            raise ConfigError(
                "align_source=true moves final vectors, and this method trains below them or reads more than one: "
                "set align_source=false."
            )
        self.shift: State = {}
        for role in values[0]:
            h = torch.cat([state[role] for state in values])
            mask = is_target.to(h.device)
            gap = (
                h[mask].mean(0) - h[~mask].mean(0) if 0 < int(mask.sum()) < len(mask) else 0 * h[0]
            )
            self.shift[role] = torch.where(mask[:, None], 0.0, gap)

    def fetch(self, rows: Tensor, views: Tensor) -> State:
        state = self.table.fetch(rows, views)
        return {
            role: value + self.shift[role][rows.to(value.device)] for role, value in state.items()
        }

    def expect(self, drawn: Drawn) -> None:
        self.table.expect(drawn)
