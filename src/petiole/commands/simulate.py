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
from petiole.ranges import NonNegativeFloat


class Simulated(CommandResult):
    """What was predicted.

    Attributes:
        work: features, runs or requests.
        seconds: in all; of requests, of one.
        bottleneck: the stage that decides.
        stages: of each the seconds that it would take alone; of requests, the share of its time that it is busy.
        cost: in the price's money; none without a price.
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
    images: int | None = None,
    runs: int | None = None,
    requests: float | None = None,
    machines: int = 1,
    gpu: bool = False,
    cores: float | None = None,
    adapters: int | None = None,
    loaded: int | None = None,
    skew: float | None = None,
    price: NonNegativeFloat | None = None,
    unit: Annotated[Sequence[str], Parameter(negative=(), consume_multiple=True)] = (),
    like: Path | None = None,
    backbone: str | None = None,
    device: str | None = None,
) -> Simulated:
    """Predict how long extraction, a table of runs, or an answer takes on machines that you do not have yet.

    The parts' costs are those of one slow core; give your own with --unit, or let --like measure those of images here. Networks between
    machines are left out.

    Args:
        work: features of images; runs of small heads; or requests to a server.
        images: for features, how many; for runs, how many need their features first.
        runs: how many.
        requests: a second, of one image each.
        machines: GPUs, processes or replicas.
        gpu: for features, each machine is a GPU, beside which --cores decode.
        cores: processor cores that decode for each GPU; by default 1.
        adapters: for requests, how many there are, by default 1; the k-th is asked for in proportion to k^-skew.
        loaded: adapters in memory of one replica, by default 64.
        skew: how unevenly adapters are asked for: exponent of the above, by default 1; 0 is evenly.
        price: of one machine for an hour, in any currency.
        unit: NAME=SECONDS of a part: decode, forward, run, ...; several, or repeated.
        like: folder of images that stand for all: decode, forward, write and header are measured on them.
        backbone: of that measurement; by default petiole/efficientnet-lite0.
        device: of that measurement; by default auto.

    Raises:
        ConfigError: an unknown part, a number that is not above 0 or is missing, or an option that this work has no use for.
        DataError: no images to measure.
    """
    from petiole.planning import scale

    known: dict[str, dict[str, Any]] = {
        "features": {"images": images, "gpu": gpu or None, "cores": cores, "price": price},
        "runs": {"runs": runs, "images": images, "price": price},
        "requests": {"requests": requests, "adapters": adapters, "loaded": loaded, "skew": skew},
    }
    _check(work, known, {"backbone": backbone, "device": device} if like is None else {})
    if cores is not None and not gpu:
        raise ConfigError("--cores decode beside a GPU: add --gpu, or leave them out.")
    given = {name: value for name, value in known[work].items() if value is not None}
    given.pop("price", None)
    costs = _measured(Path(like), backbone, device) if like else scale.UnitCosts()
    costs = replace(costs, **_units(unit))
    if work == "features":
        done = scale.extraction(costs=costs, workers=machines, **given)
    elif work == "runs":
        done = scale.table(costs=costs, places=machines, **given)
    else:
        done = scale.serving(costs=costs, replicas=machines, **given)
    ends = done.seconds != float("inf")
    return Simulated(
        work=work,
        seconds=done.seconds if ends else None,
        bottleneck=done.bottleneck,
        stages=done.stages,
        cost=None if price is None else scale.cost(done.seconds, machines, price),
        costs=asdict(costs),
        notes=list(done.notes),
    )


def _check(work: str, known: dict[str, dict[str, Any]], unused: dict[str, Any]) -> None:
    """Whether what the work needs was given, and nothing that it has no use for."""
    need = "images" if work == "features" else work
    if known[work][need] is None:
        raise ConfigError(f"How many {need}? Add --{need} N.")
    for name in (name for name, value in unused.items() if value is not None):
        raise ConfigError(f"--{name} is of the measurement of images: add --like FOLDER.")
    for other, options in known.items():
        for name, value in options.items():
            if value is not None and name not in known[work]:
                raise ConfigError(f"petiole simulate {work} has no use for --{name}; {other} has.")


def _measured(folder: Path, backbone: str | None, device: str | None) -> Any:
    from petiole.backbones.registry import load_backbone
    from petiole.commands.options import device as device_of
    from petiole.data.inputs import as_images
    from petiole.planning.measure import measured
    from petiole.planning.scale import UnitCosts

    images = [one.path for one in as_images(folder)]
    name = backbone or "petiole/efficientnet-lite0"
    model = load_backbone(name, device=device_of(device or "auto"))
    return measured(images, model, UnitCosts())


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
