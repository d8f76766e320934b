"""``petiole simulate``: how long work takes at another size or on other machines, and what holds it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb
from petiole.errors import ConfigError


class Simulated(CommandResult):
    """What was predicted.

    Attributes:
        work: features, runs or requests.
        seconds: in all; of requests, of one.
        bottleneck: the stage that decides.
        stages: of each the seconds that it would take alone; of requests, the share of its time that it is busy.
        cost: in the price's money; none without a price, or for requests that never end.
        costs: seconds of the parts that were reckoned with.
        notes: what grows too large for one machine.
    """

    work: str
    seconds: float | None
    bottleneck: str
    stages: dict[str, float]
    cost: float | None
    costs: dict[str, float]
    notes: list[str]

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        table.add_column("busy" if self.work == "requests" else "alone", justify="right")
        for name, value in sorted(self.stages.items(), key=lambda one: -one[1]):
            table.add_row(name, f"{value:.3g}" if self.work == "requests" else _duration(value))
        told = (
            "never: more come than can be answered"
            if self.seconds is None
            else _duration(self.seconds)
        )
        lines = [fact("takes", told), fact("held by", self.bottleneck)]
        lines += [] if self.cost is None else [fact("costs", f"{self.cost:,.2f}")]
        return Group(table, *lines, *(Text(f"note     {note}") for note in self.notes))


@verb
def simulate(
    work: Literal["features", "runs", "requests"],
    /,
    *,
    images: int = 0,
    runs: int = 1,
    requests: float = 1.0,
    machines: int = 1,
    gpu: bool = False,
    cores: float = 1.0,
    adapters: int = 1,
    loaded: int = 64,
    skew: float = 1.0,
    price: float | None = None,
    unit: Annotated[Sequence[str], Parameter(negative=(), consume_multiple=True)] = (),
    like: Path | None = None,
    backbone: str = "petiole/efficientnet-lite0",
    device: str = "auto",
) -> Simulated:
    """Predict how long extraction, a table of runs, or an answer takes on machines that you do not have yet.

    The parts' costs are those of one slow core; give your own with --unit, or let --like measure those of images here. Networks between
    machines are left out.

    Args:
        work: features of images; runs of small heads; or requests to a server.
        images: of features, or whose features runs need first; 0 for stored ones.
        runs: how many.
        requests: a second, of one image each.
        machines: GPUs, processes or replicas.
        gpu: of features: each machine is a GPU, beside which --cores decode.
        cores: that decode for each GPU.
        adapters: of requests: how many there are; the k-th is asked for in proportion to k^-skew.
        loaded: adapters in memory of one replica.
        skew: see adapters.
        price: of a machine an hour.
        unit: NAME=SECONDS of a part: decode, forward, run, ...; several, or repeated.
        like: folder of images that stand for all: decode, forward, write and header are measured on them.
        backbone: of that measurement.
        device: of that measurement.

    Raises:
        ConfigError: an unknown part, or a number that is not above 0.
        DataError: no images to measure.
    """
    from petiole.planning import scale

    costs = _measured(Path(like), backbone, device) if like else scale.UnitCosts()
    costs = replace(costs, **_units(unit))
    if work == "features":
        if not images:
            raise ConfigError("How many images? Add --images N.")
        done = scale.extraction(images, costs, workers=machines, cores=cores, gpu=gpu)
    elif work == "runs":
        done = scale.table(runs, costs, places=machines, images=images)
    else:
        done = scale.serving(
            requests, costs, replicas=machines, adapters=adapters, loaded=loaded, skew=skew
        )
    ends = done.seconds != float("inf")
    paid = price is not None and work != "requests"
    return Simulated(
        work=work,
        seconds=done.seconds if ends else None,
        bottleneck=done.bottleneck,
        stages=done.stages,
        cost=scale.cost(done.seconds, machines, price or 0) if paid else None,
        costs=asdict(costs),
        notes=list(done.notes),
    )


def _measured(folder: Path, backbone: str, device: str) -> Any:
    from petiole.backbones.registry import load_backbone
    from petiole.commands.options import device as device_of
    from petiole.data.inputs import as_images
    from petiole.planning.measure import measured
    from petiole.planning.scale import UnitCosts

    images = [one.path for one in as_images(folder)]
    return measured(images, load_backbone(backbone, device=device_of(device)), UnitCosts())


def _units(given: Sequence[str]) -> dict[str, float]:
    from petiole.errors import unknown
    from petiole.planning.scale import UnitCosts

    known = [field.name for field in fields(UnitCosts)]
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in known:
            raise unknown("part whose cost is known", name, known)
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"--unit is NAME=SECONDS, and not {text!r}.") from None
        if not 0 <= found[name] < float("inf"):
            raise ConfigError(f"{text}: seconds are 0 or more.")
    return found


def _duration(seconds: float) -> str:
    """In the unit in which it is read."""
    for size, unit in (
        (365.25 * 86400, "years"),
        (86400, "days"),
        (3600, "h"),
        (60, "min"),
        (1, "s"),
    ):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{1000 * seconds:,.1f} ms"
