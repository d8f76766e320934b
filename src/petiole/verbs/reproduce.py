"""``petiole reproduce``: a published count, ours, and the verdict."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.verbs.common import Result


class Reproduced(Result):
    """A claimed share beside ours.

    Attributes:
        name: of the table.
        claimed: as published, per cent.
        source, doubt: where it stands, and what is not said there.
        accounting: how ours was counted.
        ours: per cent.
        agrees: whether ours rounds to the claimed value.
        others: what other accountings give, per cent.
        pairs: share by backbone and data set, per cent.
    """

    name: str
    claimed: float
    source: str
    doubt: str
    accounting: str
    ours: float
    agrees: bool
    others: dict[str, float]
    pairs: dict[str, float]

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        table.add_column("accounting")
        table.add_column("%", justify="right")
        for name, value in {self.accounting: self.ours, **self.others}.items():
            table.add_row(name, f"{value:.4f}")
        word = "reproduced" if self.agrees else "not reproduced"
        return Group(
            Text(
                f"{self.name}: claimed {self.claimed} ({self.source}), ours {self.ours:.4f}: {word}"
            ),
            Text(f"note     {self.doubt}"),
            table,
        )


def reproduce(name: str, /) -> Reproduced:
    """Count a published share of trained parameters again, without any weights.

    Tables of accuracy need images: petiole compare IMAGES --table NAME.

    Args:
        name: e.g. adaptertune/params.

    Raises:
        ConfigError: no such table; the nearest are listed.
    """
    from petiole import claims
    from petiole.protocols.accounting import HEADLINE, account

    table = claims.table(name, "params")
    counted = account(table)
    ours, claimed = counted.shares[HEADLINE], table["claimed"]
    places = len(str(claimed).partition(".")[2])
    return Reproduced(
        name=name,
        claimed=claimed,
        source=table["source"],
        doubt=table["doubt"],
        accounting=HEADLINE,
        ours=ours,
        agrees=round(ours, places) == claimed,
        others={k: v for k, v in counted.shares.items() if k != HEADLINE},
        pairs={f"{p.backbone} {p.data}": p.share for p in counted.pairs},
    )
